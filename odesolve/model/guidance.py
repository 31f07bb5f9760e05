"""Guidance put on a model: what the doors ``guided`` and ``classifier_guided`` of ``ode.Model``
make of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from odesolve.doors.values import real
from odesolve.errors import OdesolveError
from odesolve.lowering.program import Guidance
from odesolve.lowering.scales import scale_of
from odesolve.model.checks import interval_of
from odesolve.model.conditions import Cond
from odesolve.model.transforms import CFGRescale

M = TypeVar("M", bound=Any)


def classifier_free(
    model: M,
    scale: Any,
    cond: Cond | None,
    uncond: Cond | None,
    rescale: float,
    interval: tuple[float, float] | None,
) -> M:
    """A copy of the model whose branches are mixed, as ``Model.guided`` says."""
    strength = scale_of(scale)
    plain = isinstance(strength, float) and strength == 1.0
    if not plain and uncond is None:
        raise OdesolveError(
            "guidance needs the unconditional arguments: give uncond={...} as net(x, t, **uncond) "
            "takes"
        )
    real("rescale", rescale, "a number from 0 (off) to 1", 0.0, 1.0)
    each = strength if isinstance(strength, Tensor) else None
    bent = bool(rescale) and not plain
    inside = interval_of(interval, model.path)
    common = None if isinstance(strength, Tensor) else strength
    guided = Guidance(common, inside, apart=bent)
    network = model.network
    functions = model.functions
    if bent:
        functions = {**functions, "cfg_rescale": CFGRescale(strength, float(rescale))}
    return model.replaced(
        network=network.replaced(
            cond={**network.cond, **(cond or {})},
            uncond={**network.cond, **(uncond or {})},
            strengths=_with(network.strengths, "guidance", None if bent else each),
        ),
        reading=replace(model.reading, guidance=guided, mix="cfg_rescale" if bent else None),
        functions=functions,
    )


def by_classifier(
    model: M,
    log_prob: Callable[..., Tensor],
    scale: Any,
    cond: Cond | None,
) -> M:
    """A copy of the model with a classifier's gradient, as ``Model.classifier_guided`` says."""
    strength = scale_of(scale)
    each = strength if isinstance(strength, Tensor) else None
    network = model.network
    return model.replaced(
        network=network.replaced(
            classifier=log_prob,
            labels=dict(cond or {}),
            strengths=_with(network.strengths, "classifier", each),
        ),
        reading=replace(model.reading, classifier=1.0 if each is not None else strength),
    )


def _with(strengths: dict[str, Tensor], name: str, each: Tensor | None) -> dict[str, Tensor]:
    others = {k: v for k, v in strengths.items() if k != name}
    return others if each is None else {**others, name: each}
