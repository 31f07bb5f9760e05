"""Checks of arguments by their annotations: switches, functions, models, paths, types, devices,
mappings.

``Meant`` holds the checks of a function's arguments; ``door`` runs them before the function.
Annotations name no bounds of numbers: ``count``, ``number`` and ``text`` make the checks for
these."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.convention import check_call
from odesolve.doors.modes import transformed
from odesolve.doors.values import device_of, real, refuse_loose, short, switch, whole
from odesolve.doors.words import refuse_misfit
from odesolve.errors import OdesolveError
from odesolve.process.progress import Portion

Check = Callable[[str, Any], Any]
C = TypeVar("C", bound=Callable[..., Any])
FUNCTIONS = ("Callable", "Field", "Callback", "Net", "Distance", "After", "Carry")
MADE = {
    "Model": "an ode.Model(net, path, predicts=...), which says how to read a network",
    "Path": "a path such as ode.paths.VP()",
    "Consistency": "an objectives.Consistency(model)",
    "FlowMap": "an objectives.FlowMap(net, path)",
    "Estimator": "one of odesolve.trace, such as trace.Hutchinson()",
    "DeviceMesh": "what ode.distributed.mesh() returns",
    "Gamma": "a gamma such as objectives.bridges.brownian(1.0)",
    "Generator": "a torch.Generator",
    "Optimizer": "one of torch.optim",
    "Module": "a torch.nn.Module",
    "EMA": "a training.EMA(network)",
}


class Meant:
    """The checks of a function's arguments. Calling it raises OdesolveError for the first argument
    that cannot be used."""

    def __init__(self, call: Callable[..., Any], own: Mapping[str, Check | None]):
        given = inspect.signature(call).parameters
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.names = tuple(p.name for p in given.values() if p.kind in by_place)
        endless = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in given.values())
        self.most = math.inf if endless else len(self.names)
        self.checks = {
            p.name: (p.default, check)
            for p in given.values()
            if (check := _check_of(p, own)) is not None
        }

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if len(args) > self.most:
            # first: else an argument in the wrong place would be blamed
            raise TypeError("too many positional arguments")
        for name, value in (*zip(self.names, args, strict=False), *kwargs.items()):
            default, check = self.checks.get(name, (value, None))
            if check is not None and value is not default:
                check(name, value)


def meant(**own: Check) -> Callable[[C], C]:
    """Decorator of a function or a class: its arguments are checked, by their annotations and by
    ``own`` checks.

    The error of a call that does not fit says what to type.
    """

    def decorate(call: Any, name: str | None = None) -> Any:
        if isinstance(call, type):
            call.__init__ = decorate(call.__init__, call.__name__)  # type: ignore[misc]
            return call
        checks = Meant(call, own)
        called = name or _called(call)

        @functools.wraps(call)
        def outer(*args: Any, **kwargs: Any) -> Any:
            try:
                checks(args, kwargs)
                return call(*args, **kwargs)
            except TypeError as error:
                refuse_misfit(error, called, call, args, kwargs)
                raise

        return outer

    return decorate


def _called(call: Callable[..., Any]) -> str:
    """The name by which users call a function: that of the class, for a constructor."""
    return call.__qualname__.removesuffix(".__init__").rpartition(".")[2]


def count(least: int = 1, most: int | None = None) -> Check:
    """The check of a whole number from ``least`` to ``most``."""
    return lambda name, given: whole(name, given, least, most)


def number(
    least: float = -torch.inf, most: float = torch.inf, *, above: float = -torch.inf
) -> Check:
    """The check of a finite number from ``least`` to ``most``, and more than ``above``."""
    bounds = []
    if above > -torch.inf:
        bounds.append(f"above {above:g}")
    elif least > -torch.inf:
        bounds.append(f"of at least {least:g}")
    if most < torch.inf:
        bounds.append(f"at most {most:g}")
    expected = " ".join(filter(None, ("a finite number", " and ".join(bounds))))
    return lambda name, given: real(name, given, expected, least, most, above=above)


def text(example: str) -> Check:
    """The check of a text."""

    def check(name: str, given: Any) -> None:
        if not isinstance(given, str):
            raise OdesolveError(f"{name}={short(given)}: give a text such as {example!r}")

    return check


def samples(name: str, given: Any) -> None:
    """The check of a tensor (B, ...) of floating-point numbers; on the CPU they have to be finite.

    Rejected: that check on a GPU, where it would wait for the device."""
    if not isinstance(given, Tensor):
        raise OdesolveError(f"{name} is {short(given)}: give a tensor (B, ...)")
    refuse_loose(name, given)
    if not given.is_floating_point() or given.dim() == 0:
        raise OdesolveError(
            f"{name} is {given.dtype} of shape {tuple(given.shape)}: give floats of shape (B, ...)"
        )
    if given.is_cpu and not transformed() and not bool(torch.isfinite(given).all()):
        raise OdesolveError(f"{name} holds NaN or infinity: give finite values")


def takes(*arguments: str, instead: type | tuple[type, ...] = ()) -> Check:
    """The check of a function that is called with these arguments; ``instead`` are the types of
    other values that may be given."""

    def check(name: str, given: Any) -> None:
        if not isinstance(given, instead):
            function(name, given)
            check_call(given, name, *arguments)

    return check


def function(name: str, given: Any) -> None:
    """The check of a value that is called."""
    if not callable(given):
        raise OdesolveError(f"{name} is {short(given)}: give a function")


def keyed(name: str, given: Any) -> None:
    """The check of keyword arguments."""
    if not (isinstance(given, Mapping) and all(isinstance(k, str) for k in given)):
        raise OdesolveError(
            f"{name}={short(given)}: give keyword arguments of the network, such as {name}={{'y': "
            f"labels}}"
        )


def one_of(*classes: str) -> Check:
    """The check of an instance of one of these classes, which are known by their names."""

    def check(name: str, given: Any) -> None:
        # an estimator of the user's has the methods of ours
        like_one = "Estimator" in classes and hasattr(given, "begin")
        named = {c.__name__ for c in type(given).__mro__}
        if isinstance(given, type) or (named.isdisjoint(classes) and not like_one):
            raise OdesolveError(f"{name} is {_shown(given)}: give {MADE[classes[0]]}")

    return check


def _dtype(name: str, given: Any) -> None:
    if not isinstance(given, torch.dtype):
        raise OdesolveError(f"{name}={short(given)}: give a type of torch such as torch.float32")


def _device(name: str, given: Any) -> None:
    device_of(given)


def _tensors(name: str, given: Any) -> None:
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping, Tensor))
    listed = isinstance(given, (list, tuple))
    if not several or (listed and not all(isinstance(v, Tensor) for v in given)):
        raise OdesolveError(
            f"{name}={short(given)}: give a list of tensors, such as list(net.parameters())"
        )


def _name(name: str, given: Any) -> None:
    """Refuse an array, which cannot be compared with names; other values are compared where the
    names are listed."""
    if isinstance(given, Tensor | np.ndarray):
        raise OdesolveError(f"{name}={short(given)}: give a name, not an array")


def _integer(name: str, given: Any) -> None:
    """Refuse an array of several numbers, which cannot be compared with a number."""
    if not isinstance(given, Tensor | np.ndarray) or not given.ndim:
        return
    if given.ndim > 1 or len(given) != 1:
        raise OdesolveError(f"{name}={short(given)}: give one whole number")


PLAIN: dict[str, Check] = {
    "bool": switch,
    "str": _name,
    "bool | str": _name,
    "str | traces.Estimator": _name,
    "str | Estimator": _name,
    "str | Pair": _name,
    "str | Callable[[Path, Tensor], Tensor]": _name,
    "int": _integer,
    "torch.dtype": _dtype,
    "torch.device | str": _device,
    "str | torch.device": _device,
    "Sequence[Tensor]": _tensors,
    "Cond": keyed,
    "Mapping[str, Any]": keyed,
    "torch.Generator": one_of("Generator"),
    "nn.Module": one_of("Module"),
    **{kind: one_of(kind) for kind in MADE},
}


def _shows(name: str, given: Any) -> None:
    if not isinstance(given, Portion):  # a part of another bar
        switch(name, given)


def _check_of(parameter: inspect.Parameter, own: Mapping[str, Check | None]) -> Check | None:
    if parameter.name in own:
        check = own[parameter.name]
    elif parameter.name == "progress":
        check = _shows
    else:
        kind = str(parameter.annotation).removesuffix(" | None")
        check = function if _only_callable(kind) else PLAIN.get(kind)
    if check is None or not str(parameter.annotation).endswith("| None"):
        return check
    return lambda name, given: None if given is None else check(name, given)


def _only_callable(annotation: str) -> bool:
    """Whether an annotation names functions, and nothing that may be given instead."""
    if not annotation.startswith(FUNCTIONS) or "] | " in annotation:
        return False
    return " | " not in annotation or "[" in annotation


def _shown(given: Any) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return type(given).__name__
