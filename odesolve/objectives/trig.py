"""Continuous consistency on the trigonometric path: TrigFlow's networks, with the tangent
normalised (Lu and Song 2025, sCM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import count, number, takes
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.objectives import times as laws
from odesolve.objectives.consistency import ContinuousTerms
from odesolve.objectives.distillation import check_teacher
from odesolve.objectives.draws import (
    check_data,
    checked_times,
    column,
    mask_for,
    mean_square,
    normal_for,
)
from odesolve.objectives.tangents import along
from odesolve.objectives.uncertainty import balanced
from odesolve.paths import Trig


class TrigConsistency:
    """sCM: f(x, t) = cos(a) x - sin(a) F(x, t), a = pi t / 2, should be constant along the flow (Lu
    and Song 2025, section 4).

    F is the model's own v prediction, so f is its data prediction: training can begin from a
    diffusion model, and ``ode.sample(model, noise, "consistency", steps)`` samples it. Data need
    standard deviation 1. With F' from detached weights, v = dx/da and g = -cos(a)^2 (F' - v) -
    share cos(a) sin(a) (x + dF'/da), the loss is the mean of (F - F' - g / (|g| / sqrt(D) +
    offset))^2, whose value says nothing about progress. Networks must support forward-mode
    derivatives.

    Args:
        model: an ``ode.Model`` on ``paths.Trig()`` that predicts "v", without guidance.
        teacher: an ``ode.Model`` on the same path, whose v f follows; by default v comes from data.
        times: a law of ``objectives.times``; by default tan(a) is log-normal of -1 and 1.4, the
            paper's.
        offset: c of the normalisation, .1 in the paper.
        share: r, the factor of the second half of g, which makes training unstable; a call may pass
            its own.
        warmup: steps over which the share rises linearly from 0, 10000 in the paper; 0 for none.
            ``training.fit`` passes the step.
        uncertainty: as for ``Matching``.

    Raises OdesolveError for other paths and predictions, and guided models.
    """

    @door(
        "TrigConsistency",
        offset=number(above=0.0),
        share=number(0.0, 1.0),
        warmup=count(0),
        uncertainty=takes("t"),
    )
    def __init__(
        self,
        model: Model,
        *,
        teacher: Model | None = None,
        times: laws.Law | laws.Importance | str | None = None,
        offset: float = 0.1,
        share: float = 1.0,
        warmup: int = 0,
        uncertainty: Callable[[Tensor], Tensor] | None = None,
    ):
        if not isinstance(model.path, Trig) or model.predicts != "v":
            raise OdesolveError(
                f'the model predicts {model.predicts!r} on {model.path}: give "v" '
                "on ode.paths.Trig()"
            )
        if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
            raise OdesolveError("the model is guided, or does something to x0: give the plain one")
        if teacher is not None:
            check_teacher(teacher, model.path)
        self.model = model
        self.teacher = teacher
        self.offset = offset
        self.share = share
        self.warmup = warmup
        self.times = laws.named(times, laws.LogNormal(-1.0, 1.4))
        self.uncertainty = uncertainty

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        share: float | None = None,
        step: int | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> ContinuousTerms:
        """The objective of data x (B, ...); ``derivative`` of the terms is g.

        Args:
            share: r of this batch.
            step: the number of training steps so far, where there is a warm-up.
            noise, t, cond, generator, mask: as for ``Matching``; the norm of g is over the elements
                that count.

        Raises OdesolveError for a warm-up without a step, and as ``Matching``.
        """
        check_data(x)
        counts = mask_for(mask, x)
        share = self._share(step) if share is None else share
        z = normal_for(x, noise, generator)
        path = self.model.path
        own = self.model.given(**(cond or {}))
        t = checked_times(
            laws.draw_times(self.times, len(x), path, generator) if t is None else t,
            x,
            own,
            self.teacher,
        )
        cos = column(path.alpha(t), x)
        sin = column(path.sigma(t), x)
        x_t = cos * x + sin * z
        v = cos * z - sin * x
        if self.teacher is not None:
            with torch.no_grad():
                v = self.teacher.given(**(cond or {})).v(x_t, t)
        prediction, slope = along(own.v, (x_t, t), (v, torch.full_like(t, 2 / math.pi)))
        still = prediction.detach()
        g = -(cos**2) * (still - v) - share * cos * sin * (x_t + slope.detach())
        size = mean_square(g, counts).sqrt()
        aim = still + g / column(size + self.offset, x)
        raw = mean_square(prediction - aim, counts)
        each = raw if self.uncertainty is None else balanced(raw, self.uncertainty(t))
        return ContinuousTerms(each.mean(), each, t, g, raw=raw)

    def _share(self, step: int | None) -> float:
        """The share of a step, which rises where there is a warm-up."""
        if not self.warmup:
            return self.share
        if step is None:
            advice = "give step=, which training.fit does, or share="
            raise OdesolveError(f"warmup={self.warmup} raises the share by the step: {advice}")
        return self.share * min(1.0, step / self.warmup)
