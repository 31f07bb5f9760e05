"""The order and the shapes in which functions of users get time and state, and the errors of
functions that expect others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from odesolve.errors import OdesolveError

TIME = {"t", "time", "times", "timestep", "timesteps", "t_", "tau"}
STATE = {
    "x",
    "y",
    "z",
    "u",
    "state",
    "sample",
    "x_t",
    "xt",
    "y_t",
    "yt",
    "x_in",
    "img",
    "image",
    "images",
    "latents",
    "inputs",
}
# Words in errors of torch about shapes, and in errors of Python about calls.
SHAPES = (
    "size of tensor",
    "must match",
    "dimension",
    "shape",
    "expanded size",
    "sizes of tensors",
    "broadcast",
)
NOTHING: Mapping[str, Any] = {}
CALLS = (
    "positional argument",
    "keyword argument",
    "required positional",
    "must be tensor",
    "multiple values for argument",
)


def parameters(fn: Any) -> tuple[str, ...]:
    """The names of the positional parameters of a function, method or module; () where they are not
    known."""
    if isinstance(fn, partial):
        return ()
    if isinstance(fn, nn.Module):
        fn = fn.forward
    elif not hasattr(fn, "__code__") and not hasattr(fn, "__func__"):
        fn = getattr(fn, "__call__", fn)  # noqa: B004
    bound = getattr(fn, "__self__", None) is not None
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    if code is None:
        return ()
    return code.co_varnames[bound : code.co_argcount]


def check_order(
    fn: Any,
    what: str,
    call: str,
    first: set[str],
    second: set[str],
) -> None:
    """Raise OdesolveError for a function whose parameters are named in the other order: a name of
    ``second``, then one of ``first``."""
    names = parameters(fn)[:2]
    if len(names) == 2 and names[0] in second and names[1] in first:
        a, b = names
        swapped = f"lambda {b}, {a}: {_word(what)}({a}, {b})"
        raise OdesolveError(
            f"{what} takes ({a}, {b}), and is called as {call}: swap its arguments, as in {swapped}"
        )


def time_first(fn: Any, what: str = "f") -> None:
    """Refuse a function of a state and a time where f(t, y) is called."""
    check_order(fn, what, f"{_word(what)}(t, y)", TIME, STATE)


def path_first(fn: Any, what: str) -> None:
    """Refuse a function of a time and a path where fn(path, t) is called."""
    check_order(fn, what, f"{what}(path, t)", {"path", "p"}, TIME)


def check_call(fn: Any, what: str, *names: str, **options: Any) -> None:
    """Raise OdesolveError for a class, and for a function that cannot be called with these
    arguments.

    It also gets those ``options`` that it takes.
    """
    shown = f"{_word(what)}({', '.join(names)})"
    if isinstance(fn, type):
        raise OdesolveError(
            f"{what} is the class {fn.__name__}: give a function, called as {shown}"
        )
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # functions of C, and others without a signature
        return
    try:
        signature.bind(*names, **{k: v for k, v in options.items() if k in signature.parameters})
    except TypeError:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise OdesolveError(
            f"{what} is {name}{signature}: give a function that is called as {shown}"
        ) from None


def check_network(net: Any, time: Any) -> None:
    """Raise OdesolveError for a network or a function of time that cannot be called as a model
    calls them."""
    if not callable(net):
        raise OdesolveError(
            f"net is {type(net).__name__}, not callable: give a function or "
            "module net(x, t, **cond)"
        )
    check_order(net, "net", "net(x, t)", STATE, TIME)
    path_first(time, "time")
    if callable(time):
        check_call(time, "time", "path", "t")


def raise_misread(
    error: Exception,
    what: str,
    at: int,
    ours: Sequence[Any],
    named: Mapping[str, Any] = NOTHING,
) -> None:
    """Raise OdesolveError where a function failed because of shapes, or of how it was called: the
    message says how it is called, with the state at place ``at``. Return for all other errors."""
    words = CALLS if isinstance(error, TypeError) else SHAPES
    line = str(error).split("\n")[0]
    if len(ours) < 2 or "vmap" in line or not any(word in line.lower() for word in words):
        return
    t = ours[1 - at]
    y = ours[at]
    if not isinstance(t, Tensor):
        return
    names = ("t", "y") if at == 1 else ("x", "t")
    together = " and ".join(
        f"{name} of shape {shapes(v)}" for name, v in zip(names, ours, strict=False)
    )
    arguments = ", ".join((*names, *(f"{name}=" for name in named)))
    called = f"{_word(what)}({arguments})"
    why = _uneven(named, y) or reason(t, y, names[at])
    if isinstance(error, TypeError):
        more = (
            "conditions come from model.given(...)"
            if what == "the network"
            else "what args= holds comes behind these"
        )
        loose = _loose(named) if "must be tensor" in line.lower() else ""
        why = loose or f"{more}, and nothing else is given"
    raise OdesolveError(
        f"{what} failed ({line}): it is called as {called}, with {together}; {why}"
    ) from error


def _uneven(named: Mapping[str, Any], y: Any) -> str:
    """The conditions whose number of rows does not fit the state, in words; "" where all fit."""
    if not isinstance(y, Tensor):
        return ""
    rows = {k: len(v) for k, v in named.items() if isinstance(v, Tensor) and v.dim()}
    others = {name: n for name, n in rows.items() if n not in (1, len(y))}
    odd = [f"{name} has {n} rows for {len(y)} samples" for name, n in others.items()]
    return f"{' and '.join(odd)}: give one for each sample" if odd else ""


def _loose(named: Mapping[str, Any]) -> str:
    """The conditions that are plain numbers or lists, in words, as a network may need tensors."""
    plain = [name for name, v in named.items() if isinstance(v, (int, float, list, tuple))]
    return f"{' and '.join(plain)}: give a tensor with one number for each sample" if plain else ""


def reason(t: Tensor, y: Any, name: str) -> str:
    """Why t has its shape beside this state, and what to write for another shape."""
    dims = y.dim() if isinstance(y, Tensor) else 2
    if t.dim() == 0:
        return (
            f"t has no dimensions, as it is one time for all of {name}: write t.expand(n) for "
            "a vector of n"
        )
    if t.dim() == 1 and dims > 1:
        ones = ", ".join(["1"] * (dims - 1))
        return (
            f"t has one number per sample, as networks embed it: write t.view(-1, {ones}) beside "
            f"{name}"
        )
    return (
        f"t has one number per sample, with ones behind it, to stand beside {name}: write "
        "t.flatten() for an embedding"
    )


def _word(what: str) -> str:
    """The name of a function as it is written in a call."""
    return {"the network": "net", "the classifier": "log_prob", "an event's function": "fn"}.get(
        what, what
    )


def shapes(value: Any) -> Any:
    """The shapes of tensors, in the containers that hold them; of anything else its type."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {k: shapes(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [shapes(v) for v in value]
    return type(value).__name__
