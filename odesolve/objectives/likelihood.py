"""Maximum likelihood: minus the log-density of data under a flow, differentiated through its
solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import function, text
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob
from odesolve.model.model import Model
from odesolve.objectives.draws import check_data, seed_for
from odesolve.objectives.matching import Terms


@brief
@dataclass(frozen=True)
class LikelihoodTerms(Terms):
    """``each`` (B,) is minus the log-density in nats, ``found`` all that ``ode.log_prob`` says,
    ``t`` (B,) the data's time."""

    found: LogProb = field(repr=False)


class MaximumLikelihood:
    """-log p(x) by the change of variables along the flow (Chen et al. 2018, eq. 8; Grathwohl et
    al. 2019, FFJORD).

    Args:
        model: an ``ode.Model``, whose probability flow it is, or a velocity f(t, x) as
            ``ode.log_prob`` takes it, with a normal base at t = 1.
        adjoint: how gradients are found: "backprop", "continuous" or "reversible".
        options: of ``ode.log_prob``, such as ``trace``, ``solver``, ``steps``, ``tol``, ``t``,
            ``base``. The probes of estimated traces are new in every batch.

    Raises OdesolveError for options that ``ode.log_prob`` refuses, when it is called.
    """

    @door("MaximumLikelihood", passes=log_prob, model=function, adjoint=text("backprop"))
    def __init__(
        self,
        model: Model | Callable[..., Tensor],
        *,
        adjoint: str = "backprop",
        **options: Any,
    ):
        self.model = model
        self.options = {"adjoint": adjoint, "progress": False, **options}

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> LikelihoodTerms:
        """The loss of data x (B, ...), in nats.

        Args:
            cond: conditions of this batch, as the network of a model takes them.
            generator: of the probes; by default torch's own.

        Raises OdesolveError for conditions of a velocity, and as ``ode.log_prob``.
        """
        check_data(x)
        model = self.model
        if cond:
            if not isinstance(model, Model):
                raise OdesolveError(
                    "a velocity f(t, x) takes no cond=: give an ode.Model, or "
                    "args= among the options"
                )
            model = model.given(**cond)
        density = log_prob(model, x, seed=seed_for(generator), **self.options)
        each = -density.value
        start = self.options.get("t") or ((model.path.t_data if isinstance(model, Model) else 0.0),)
        return LikelihoodTerms(
            each.mean(), each, torch.full_like(each.detach(), float(start[0])), density
        )
