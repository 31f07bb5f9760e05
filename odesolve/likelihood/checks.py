"""Checks of the arguments of ``ode.log_prob``, before anything is solved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve import grids
from odesolve.doors.values import numbers, positive, refuse_loose, whole
from odesolve.errors import OdesolveError, short, unknown
from odesolve.functions.steadiness import budget
from odesolve.model.checks import INSIDE
from odesolve.model.model import Model
from odesolve.plans.path import check_path
from odesolve.sampling.model_plan import check_alone

ADJOINTS = ("backprop", "continuous", "reversible")


def check(model: Any, x: Any, of: str, divergence: str | None) -> None:
    """Raise OdesolveError for a model, data or options that do not fit together."""
    if not isinstance(model, Model) and not callable(model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model, or a velocity f(t, x)"
        )
    if isinstance(x, Tensor):
        refuse_loose("x", x)
    if (
        not isinstance(x, Tensor)
        or x.dim() < 2
        or not x.is_floating_point()
        or x.numel() == 0
        or x.is_meta
    ):
        given = (
            f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"
            if isinstance(x, Tensor)
            else type(x).__name__
        )
        raise OdesolveError(f"x is {given}: give floats of shape (B, ...)")
    if not bool(torch.isfinite(x).all()):
        raise OdesolveError("x holds NaN or infinity: give finite data")
    if of not in ("flow", "plan"):
        raise unknown("of", of, ("flow", "plan"))
    if of == "plan" and not isinstance(model, Model):
        raise OdesolveError('of="plan" needs a model that a sampler runs: give an ode.Model')
    if divergence not in (None, "nodes", "along"):
        raise unknown("divergence", divergence, ("nodes", "along"))
    if divergence == "nodes" and not isinstance(model, Model):
        raise OdesolveError(
            'divergence="nodes" needs a path, whose clock is smooth: give an ode.Model, or "along"'
        )


def check_numbers(
    tol: Any,
    products: Any,
    max_calls: Any,
    steps: Any,
    args: Any,
) -> None:
    """Raise OdesolveError for numbers that cannot be used, even where nothing uses them."""
    if tol is not None:
        positive("tol", tol, "1e-3, in nats")
    whole("products", products, 1)
    budget(max_calls)
    if steps is not None:
        grids.count(steps)
    if not isinstance(args, tuple | list):
        raise OdesolveError(
            f"args is {type(args).__name__}: give a tuple of the further arguments of f, such as "
            "(theta,)"
        )


def check_plan(
    model: Any,
    plan: Any,
    solver: Any,
    steps: Any,
    grid: Any,
) -> None:
    """Raise OdesolveError for a plan of another path, or a plan together with arguments that it
    decides itself."""
    if isinstance(model, Model) and plan is not None:
        check_alone("plan", solver=solver, steps=steps, grid=grid)
        check_path(plan, model.path)


def check_grid(model: Any, grid: Any, steps: Any, of: str) -> None:
    """Raise OdesolveError for a grid without steps, or a grid for a velocity, which has no path."""
    if grid is not None and not isinstance(model, Model):
        raise OdesolveError(
            f"grid={short(grid)}: a grid is of a model's path, a velocity takes steps= of one size"
        )
    if grid is not None and not grids.is_listed(grid) and steps is None and of != "plan":
        raise OdesolveError(
            f"grid={short(grid)} says how to place steps: give steps= as well, or leave it out"
        )


def times(model: Any, t: Any, adjoint: str | None, elsewhere: bool) -> tuple[float, float]:
    """The two times of a solve. Raises OdesolveError for times that it cannot use."""
    expected = "two times, the time of the data and that of the base"
    given = numbers("t", t, expected)
    finite = bool(given.isfinite().all())
    if given.shape != (2,) or not finite or bool(given[0] == given[1]):
        raise OdesolveError(f"t={t}: give {expected}")
    if given.requires_grad and adjoint is not None:
        raise OdesolveError(
            "t requires gradients, which the times of a density do not get: give t.detach()"
        )
    if elsewhere:
        raise OdesolveError(
            f"t={t} beside a plan or a list of times, which have their own: give one or the other"
        )
    first, last = given.tolist()
    if isinstance(model, Model):
        path = model.path
        way = path.t_noise - path.t_data
        if any((t - path.t_data) * way < 0.0 for t in (first, last)):
            raise OdesolveError(
                f"t=({first}, {last}) reaches beyond the data at t={path.t_data}: "
                "give times after it"
            )
        if any(
            abs(t - path.t_data) > abs(path.t_noise - path.t_data) * (1.0 + INSIDE)
            for t in (first, last)
        ):
            raise OdesolveError(
                f"t=({first}, {last}) reaches beyond the noise at t={path.t_noise}: give times "
                "before it"
            )
    return first, last


def check_adjoint(adjoint: str | None, params: Sequence[Tensor] | None, on_plan: bool) -> None:
    """Raise OdesolveError for an unknown ``adjoint``."""
    if adjoint not in (None, *ADJOINTS):
        raise unknown("adjoint", adjoint, ADJOINTS)
    if adjoint is None and params is not None:
        raise OdesolveError('params are for gradients: give adjoint="backprop" as well')
    if on_plan and (adjoint not in (None, "backprop") or params is not None):
        raise OdesolveError(
            'a plan is differentiated by autograd: give adjoint="backprop", without params'
        )
