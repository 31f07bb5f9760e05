"""Regression on a path: what DDPM, score SDEs, EDM and flow matching train by; any prediction,
weight, law of times, source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from odesolve.doors.annotations import takes
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.objectives import couplings
from odesolve.objectives import times as laws
from odesolve.objectives.conditions import coupled
from odesolve.objectives.draws import (
    check_data,
    check_finite,
    checked_times,
    column,
    mask_for,
    mean_square,
    normal_for,
)
from odesolve.objectives.means import law_for
from odesolve.objectives.uncertainty import balanced
from odesolve.objectives.weights import Weight, compared, weighed


class Coupling(Protocol):
    """Which noise goes with which data."""

    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The noise (B, ...) in the order in which it goes with the data (B, ...); conditions stay
        with their data.

        Objectives ask within labels, see ``conditioned.coupled``; what takes ``cond`` is given the
        conditions instead."""
        ...


@brief
@dataclass(frozen=True)
class Terms:
    """A loss and what it is made of: ``loss`` the mean over the batch, ``each`` (B,) of every
    sample, ``t`` (B,) its time.

    ``raw`` (B,) is the loss of every sample before the factors of importance and uncertainty, which
    is what ``times.Importance.update`` follows.
    """

    loss: Tensor
    each: Tensor = field(repr=False)
    t: Tensor = field(repr=False)
    raw: Tensor = field(repr=False, default=cast(Tensor, None), kw_only=True)

    def __post_init__(self) -> None:
        if self.raw is None:
            object.__setattr__(self, "raw", self.each)


class Matching:
    """Squared error of the network's own prediction at random times:
    ``Matching(model)(x).loss.backward()``.

    Sohl-Dickstein et al. 2015 and Ho et al. 2020 (noise: DDPM's simple loss); Vincent 2011 and Song
    et al. 2021 (score); Karras et al. 2022 (edm); Lipman et al. 2023, Liu et al. 2023, Albergo and
    Vanden-Eijnden 2023 (velocity: conditional flow matching).

    Args:
        model: an ``ode.Model`` without guidance; its path, prediction, time and input scaling are
            those of the training.
        weight: of the squared error; by default 1. The name of a prediction weighs it as if that
            were regressed on; "vlb" is the bound's weight; see ``weights.of_data``. Or a function
            (path, t).
        times: a law of ``objectives.times``, or its name as in "logit_normal(mean=0.5)"; by default
            the path's, see ``times.default``, and where the mean of the weight is infinite under
            that, away from the end where it is. On a table its times are rounded up to those of the
            table.
        coupling: which noise goes with which data, see ``objectives.couplings``, or its name such
            as "optimal_transport"; by default as they come. Within labels, where there are
            conditions: see ``conditioned.coupled``.
        importance: divide by the density of ``times`` relative to the uniform one (of a table: by
            its probabilities relative to equal ones), so that the law changes the variance alone;
            of a law on part of the path the loss is that of the part.
        uncertainty: u, a function or module of times (B,), such as ``Uncertainty(path)``, whose
            parameters are trained along: the loss becomes raw exp(-u) + u, whose minimum has e^u
            the mean raw loss of a time, so that all times weigh the same (Karras et al. 2024, EDM2,
            appendix B).

    Raises OdesolveError for guided models, and for a weight whose mean under the times is infinite.
    """

    @door("Matching", uncertainty=takes("t"))
    def __init__(
        self,
        model: Model,
        weight: Weight = None,
        times: laws.Law | laws.Importance | str | None = None,
        coupling: Coupling | str | None = None,
        importance: bool = False,
        uncertainty: Callable[[Tensor], Tensor] | None = None,
    ):
        if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
            raise OdesolveError("the model is guided, or does something to x0: train the plain one")
        self.model = model
        self.weight = weighed(weight)
        self.importance = importance
        coupling = couplings.named(coupling)
        if getattr(coupling, "relax", None) is not None:
            raise OdesolveError(
                "coupling relaxes the weights of the noise, all of which sampling starts from: "
                "leave relax= out"
            )
        self.coupling = coupling
        self.uncertainty = uncertainty
        self.times = law_for(
            times, model.path, model.predicts, self.weight, model.reading.sigma_data, importance
        )

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Terms:
        """The loss of data x (B, ...), float32 or float64.

        Args:
            noise: samples of the source (B, ...), standard normal by default.
            t: times (B,) of the path instead of random ones.
            cond: conditions of this batch, as the network takes them.
            generator: of times and noise; by default torch's own.
            mask: which numbers of the data count: booleans, or weights of at least 0, a tensor that
                broadcasts to x. The loss of a sample is their weighted mean.

        Raises OdesolveError for shapes that do not go together and times outside the path.
        """
        given = t is not None
        t, noise, x_t = self.place(x, noise, t, cond, generator)
        model = self.model if not cond else self.model.given(**cond)
        prediction = model.predict(x_t, model.at(t, model.predicts, x_t))
        return self.terms(x, noise, t, prediction, given, mask)

    def terms(
        self,
        x: Tensor,
        noise: Tensor,
        t: Tensor,
        prediction: Tensor,
        given: bool,
        mask: Tensor | None = None,
    ) -> Terms:
        """The loss of the network's own prediction at the states of these data, noise and times.
        Times that the caller has ``given`` are refused where the loss is infinite."""
        path = self.model.path
        predicts = self.model.predicts
        rows = compared(path, t, self.weight, predicts, self.model.reading.sigma_data)
        if given:
            check_finite(t, rows.finite, f"the weighted error of {predicts!r}")
        target = column(rows.c0, x) * x + column(rows.c1, x) * noise
        if rows.scale is not None:
            prediction = column(rows.scale, x) * prediction
        raw = mean_square(prediction - target, mask_for(mask, x))
        raw = raw if rows.factor is None else raw * rows.factor.to(raw.dtype)
        each = raw if self.uncertainty is None else balanced(raw, self.uncertainty(t))
        if self.importance:
            density = laws.relative(self.times, t, path)
            if given:
                check_finite(
                    t, density > 0, "the factor of importance, one over the density of times=,"
                )
            each = each / density.to(raw.dtype)
        return Terms(each.mean(), each, t, raw=raw)

    def place(
        self,
        x: Tensor,
        noise: Tensor | None,
        t: Tensor | None,
        cond,
        generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Times (B,) and noise (B, ...) for data, drawn where they are not given, and the states
        there."""
        check_data(x)
        noise = normal_for(x, noise, generator)
        if self.coupling is not None:
            noise = coupled(self.coupling, x, noise, {**self.model.cond, **(cond or {})}, generator)
        t = laws.draw_times(self.times, len(x), self.model.path, generator) if t is None else t
        t = checked_times(t, x, self.model)
        path = self.model.path
        return t, noise, column(path.alpha(t), x) * x + column(path.sigma(t), x) * noise
