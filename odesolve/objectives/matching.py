"""Regression on a path: what DDPM, score SDEs, EDM and flow matching train by; any prediction, weight, law of times, source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.given import short
from odesolve.keywords import door
from odesolve.models import Model
from odesolve.objectives import couplings
from odesolve.objectives import times as laws
from odesolve.objectives.draws import check_data, checked_times, column, normal_for
from odesolve.objectives.weights import Weight, weighed, weights


class Coupling(Protocol):
    """Which noise goes with which data."""

    def __call__(self, x: Tensor, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The noise (B, ...) in the order in which it goes with the data (B, ...); conditions stay with their data."""
        ...


@dataclass(frozen=True)
class Terms:
    """A loss and what it is made of: ``loss`` the mean over the batch, ``each`` (B,) of every sample, ``t`` (B,) its time."""

    loss: Tensor
    each: Tensor = field(repr=False)
    t: Tensor = field(repr=False)


class Matching:
    """Squared error of the network's own prediction at random times: ``Matching(model)(x).loss.backward()``.

    Sohl-Dickstein et al. 2015 and Ho et al. 2020 (noise: DDPM's simple loss); Vincent 2011 and Song et al. 2021 (score); Karras
    et al. 2022 (edm); Lipman et al. 2023, Liu et al. 2023, Albergo and Vanden-Eijnden 2023 (velocity: conditional flow matching).

    Args:
        model: an ``ode.Model`` without guidance; its path, prediction, time and input scaling are those of the training.
        weight: of the squared error; by default 1. The name of a prediction weighs it as if that were regressed on; "vlb" is the
            bound's weight; see ``weights.of_data``. Or a function (path, t).
        times: a law of ``objectives.times``, or its name as in "logit_normal(mean=0.5)"; by default the path's, see
            ``times.default``.
        coupling: which noise goes with which data, see ``objectives.couplings``, or its name such as "optimal_transport"; by
            default as they come.
        importance: divide by the density of ``times`` relative to the uniform one, so that the law changes the variance alone.
    """

    @door("Matching")
    def __init__(
        self,
        model: Model,
        weight: Weight = None,
        times: laws.Law | laws.Importance | str | None = None,
        coupling: Coupling | str | None = None,
        importance: bool = False,
    ):
        if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
            raise OdesolveError("the model is guided, or does something to x0: train the plain one")
        self.model, self.weight, self.importance = model, weighed(weight), importance
        self.coupling = couplings.named(coupling)
        self.times = laws.named(times, laws.default(model.path, model.predicts))
        if importance and not hasattr(self.times, "density"):
            raise OdesolveError(
                f"importance=True divides by the density of times, and {short(times)} has none: give a law with density(t, path)"
            )

    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Terms:
        """The loss of data x (B, ...), float32 or float64.

        Args:
            noise: samples of the source (B, ...), standard normal by default.
            t: times (B,) of the path instead of random ones.
            cond: conditions of this batch, as the network takes them.
            generator: of times and noise; by default torch's own.

        Raises OdesolveError for shapes that do not go together and times outside the path.
        """
        t, noise = self._drawn(x, noise, t, generator)
        path, predicts, sigma_data = self.model.path, self.model.predicts, self.model.reading.sigma_data
        x_t = column(path.alpha(t), x) * x + column(path.sigma(t), x) * noise
        own = self.model if not cond else self.model.given(**cond)
        said = own.predict(x_t, own.at(t, predicts, x_t))
        c0, c1, scale = path.rows(t, predicts, sigma_data)
        target = column(c0 / scale, x) * x + column(c1 / scale, x) * noise
        each = (said - target).square().flatten(1).mean(1)
        factor = weights(path, t, self.weight, predicts, sigma_data)
        if factor is not None:
            each = each * factor.to(each.dtype)
        if self.importance:
            uniform = laws.Uniform().density(t, path)
            each = each * (uniform / self.times.density(t, path)).to(each.dtype)
        return Terms(each.mean(), each, t)

    def _drawn(self, x: Tensor, noise: Tensor | None, t: Tensor | None, generator) -> tuple[Tensor, Tensor]:
        check_data(x)
        noise = normal_for(x, noise, generator)
        if self.coupling is not None:
            noise = self.coupling(x, noise, generator)
        t = self.times(len(x), self.model.path, generator) if t is None else t
        return checked_times(t, x, self.model), noise
