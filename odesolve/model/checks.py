"""What a model is given and what its network returns, checked at the door; and where that is which
a model is not asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from odesolve.doors.values import numbers, positive, refuse_loose, switch
from odesolve.errors import OdesolveError, short
from odesolve.paths import Path

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INSIDE = 1e-5  # of the path's range: so far outside a time may lie by its rounding
BEYOND = 10.0  # times the end: levels of other paths are read there as well
CALLS = (
    ".data(x, t), .noise, .score, .velocity, .v or .edm for what its answer means, or .net(x, t) "
    "for the answer itself"
)


class Missing(OdesolveError, AttributeError):
    """Something that a network has, and a model has not."""


def missing(name: str, net: Any) -> Missing:
    """The error for an attribute that a model has not; it says where a network's own is."""
    if not name.startswith("_") and (
        hasattr(nn.Module, name) or hasattr(net, name) or name == "training"
    ):
        call = "(...)" if callable(getattr(nn.Module, name, None)) else ""
        return Missing(
            f"a Model has no {name}, as it is no module: take model.net.{name}{call}, of the "
            "network that it reads"
        )
    return Missing(f"'Model' object has no attribute {name!r}")


def refuse_call() -> NoReturn:
    """Raise OdesolveError for a model that is called as networks are."""
    raise OdesolveError(
        "a Model is not called, as its network's answer can be read in several ways: take "
        f"model{CALLS}"
    )


def check_arguments(net: Any, given: Mapping[str, Any]) -> None:
    """Raise OdesolveError for arguments of a Model that are none of their kind."""
    if hasattr(net, "net") and hasattr(net, "reading"):
        raise OdesolveError("net is an ode.Model already: give the network, model.net")
    positive(
        "time_scale",
        given["time_scale"],
        "1000.0; for a network whose time runs the other way give path.flipped()",
    )
    positive("sigma_data", given["sigma_data"], "0.5, the standard deviation of the data")
    dtype = given["dtype"]
    cond = given["cond"]
    if dtype is not None and dtype not in FLOATS:
        raise OdesolveError(
            f"dtype={short(dtype)}: give the type of the network's input, such as torch.float32"
        )
    if cond is not None and not (
        isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)
    ):
        raise OdesolveError(
            f"cond={short(cond)}: give keyword arguments of the network, such as "
            f"cond={{'y': labels}}"
        )
    switch("learned_variance", given["learned_variance"])
    if given["snap"] is not None:
        switch("snap", given["snap"])


def interval_of(given: Any, path: Path) -> tuple[float, float] | None:
    """The times between which a model is guided. Raises OdesolveError unless they are two that rise
    and meet the path's."""
    if given is None:
        return None
    expected = f"(t_low, t_high), two times that rise, within the path's from 0 to {path.t_max:g}"
    found = numbers("interval", given, expected)
    if found.shape != (2,) or not bool(found[0] < found[1]):
        raise OdesolveError(f"interval={short(given)}: give {expected}")
    low, high = found.tolist()
    beyond = path.t_max < high < math.inf  # as noise levels are, on a path whose times end at 1
    if high < 0.0 or low > path.t_max or beyond:
        raise OdesolveError(f"interval={short(given)} lies outside of the path: give {expected}")
    return low, high


def told_times(told: Any, t: Tensor) -> Tensor:
    """What a function of time returned for times t. Raises OdesolveError unless it is a real number
    for each."""
    if not isinstance(told, Tensor):
        raise OdesolveError(
            f"time(path, t) returned {type(told).__name__}: let it return a tensor, one number "
            "for each of t"
        )
    if told.shape != t.shape:
        given = f"time(path, t) returned shape {tuple(told.shape)} for t of shape {tuple(t.shape)}"
        raise OdesolveError(
            f"{given}: let it return one number for each, as t * 1000 does; networks get (B,)"
        )
    if told.is_complex():
        raise OdesolveError(f"time(path, t) returned {told.dtype}: let it return real numbers")
    return told


def check_times(path: Path, t: float | Tensor, name: str = "t", trial: bool = False) -> None:
    """Raise OdesolveError for a time, or times that lie on the CPU, beyond the ends of the path by
    more than rounding.

    With ``trial`` some way beyond is allowed where noise grows on without an end: solvers by
    tolerance try steps there."""
    if isinstance(t, Tensor):
        low, high = (
            (t.item(), t.item())
            if t.numel() == 1
            else (t.amin().item(), t.amax().item())
            if t.numel()
            else (0, 0)
        )
    else:
        low = high = t
    near = INSIDE * path.t_max
    last = path.t_max * (BEYOND if trial and path.family == "exploding" else 1.0)
    if not (-near <= low and high <= last + near):
        bad = low if not -near <= low else high
        raise OdesolveError(
            f"{name}={bad:g} lies outside of the path: give times from 0 to {path.t_max:g}"
        )


def checked(out: Any, x: Tensor, shape: torch.Size) -> Tensor:
    """What the network returned for a state. Raises OdesolveError where it is none of this shape,
    or cannot be read."""
    if not isinstance(out, Tensor):
        raise OdesolveError(
            f"the network returned {type(out).__name__}: wrap it so that it "
            "returns the tensor alone"
        )
    refuse_loose("what the network returned", out)
    if out.device != x.device:
        raise OdesolveError(
            f"the network returned its answer on {out.device} for a state on {x.device}: move one "
            "of them"
        )
    if out.shape != shape:
        given = (
            f"the network returned shape {tuple(out.shape)} for a state of shape {tuple(x.shape)}"
        )
        if shape != x.shape:
            raise OdesolveError(
                f"{given}: with learned_variance=True it is to return twice the channels, "
                f"{tuple(shape)}"
            )
        time = f"t is of shape ({len(x)},), beside x t.view(-1{', 1' * (x.dim() - 1)})"
        raise OdesolveError(
            f"{given}: wrap it so that both agree ({time}; of a learned variance: "
            "learned_variance=True)"
        )
    if out.dtype not in FLOATS:
        raise OdesolveError(
            f"the network returned {out.dtype}: wrap it so that it returns a floating-point "
            "tensor, of 16 bits at least"
        )
    if out.dtype == torch.float64 and x.dtype == torch.float32:
        raise OdesolveError(
            "the network returned float64 for a float32 state: give float64 "
            "noise, or cast its output"
        )
    return out
