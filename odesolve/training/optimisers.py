"""Optimisers by the names of ``torch.optim``."""

from __future__ import annotations

from torch import nn, optim
from torch.optim import Optimizer

from odesolve.errors import OdesolveError
from odesolve.objectives.names import object_named

KINDS = {
    name.lower(): kind
    for name, kind in vars(optim).items()
    if isinstance(kind, type)
    and issubclass(kind, Optimizer)
    and kind not in (Optimizer, optim.LBFGS)
}


def optimiser_of(
    optimiser: Optimizer | str | None, optimizer: Optimizer | str | None, network: nn.Module
) -> Optimizer:
    """The optimiser that is given, in either spelling, or the one of a name, such as
    "adamw(lr=1e-3)", for the network's weights."""
    if optimiser is not None and optimizer is not None:
        raise OdesolveError("optimiser= and optimizer= are one argument: give one of them")
    given = optimizer if optimiser is None else optimiser
    if isinstance(given, str):
        try:
            return object_named("optimiser", given, KINDS, network.parameters())
        except OdesolveError:
            raise
        except ValueError as error:  # of torch: weights that it does not take
            raise OdesolveError(f"optimiser={given!r} is not for these weights: {error}") from error
    if not isinstance(given, Optimizer):
        raise OdesolveError(
            f"optimiser is {given!r}: give one of torch.optim, or its name such as 'adamw(lr=1e-3)'"
        )
    if isinstance(given, optim.LBFGS):
        raise OdesolveError(
            "optimiser is LBFGS, which needs the loss several times per step: give one that needs "
            "it once, such as Adam"
        )
    return given
