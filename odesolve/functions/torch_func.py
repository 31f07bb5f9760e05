"""Tensors that forward differentiation or a transform of torch.func watches: solvers would lose
track of them, and refuse them at the door."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.autograd import forward_ad

from odesolve.doors.modes import transformed
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import is_compiling

P = ParamSpec("P")
R = TypeVar("R")

_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Watched(OdesolveError):
    """A solver got a tensor whose derivatives it would lose."""

    def __init__(self, what: str):
        super().__init__(
            f"{what} is watched by forward differentiation, or by a transform of torch.func, "
            'which would lose it here: take adjoint="backprop" and torch.autograd.grad, or for '
            "derivatives of all kinds a solver whose steps are recorded, "
            'odeint(method="rk4", options={"step_size": ...}) and sdeint of '
            "odesolve.integrations.torchdiffeq and torchsde"
        )


def watching() -> bool:
    """Whether forward differentiation or a transform is active, which may watch tensors."""
    return not is_compiling() and (forward_ad._current_level >= 0 or transformed())


def watched(x: Any) -> bool:
    """Whether a tensor has a tangent, or is a wrapper of torch.func's."""
    if not isinstance(x, Tensor):
        return False
    return _functorch.is_functorch_wrapped_tensor(x) or _moves(x)


def _moves(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None


def refuse(what: str, values: Any, origins: Any = None) -> None:
    """Raise Watched for watched tensors among ``values``, unless one of their ``origins`` has a
    tangent: then it is this library that differentiates."""
    if not watching() or not any(map(watched, _tensors(values))):
        return
    if not any(map(_moves, _tensors(origins))):
        raise Watched(what)


def refuse_inside(what: str, values: Any, origins: Any) -> None:
    """``refuse`` within a call that is ``unwatched``; recorded operations elsewhere may be
    watched."""
    if watching() and _inside.get():
        refuse(what, values, origins)


def unwatched(call: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function that users call: none of its arguments may be watched."""

    @functools.wraps(call)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        if watching():
            given = inspect.signature(call).bind_partial(*args, **kwargs).arguments
            for name, value in given.items():
                # A model's conditions, too.
                refuse(name, (value, *getattr(value, "own_tensors", ())))
        token = _inside.set(True)
        try:
            return call(*args, **kwargs)
        except RuntimeError as error:
            # the vmap of functional.jacobian is no transform of torch.func
            if not transformed() and "vmap" not in str(error):
                raise
            raise Watched(f"something that {call.__name__} met ({error})") from error
        finally:
            _inside.reset(token)

    return door


def explained(call: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function whose operations are recorded: its arguments may be watched, and one
    sentence says what is not possible."""

    @functools.wraps(call)
    def door(*args: P.args, **kwargs: P.kwargs) -> R:
        if not watching():
            return call(*args, **kwargs)
        try:
            return call(*args, **kwargs)
        except RuntimeError as error:
            if not transformed() and not any(map(watched, _tensors((args, kwargs)))):
                raise
            raise OdesolveError(
                f"torch.func cannot transform this solve ({error}): take torch.autograd.grad or "
                "torch.autograd.forward_ad, which go through every method, or for transforms of "
                "torch.func of odeint a method with steps of one size, rk4"
            ) from error

    return door


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
