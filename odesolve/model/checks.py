"""What a model is given and what its network returns, checked at the door; and where that is which
a model is not asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from odesolve.doors.annotations import samples
from odesolve.doors.values import numbers, positive, refuse_loose, switch
from odesolve.errors import OdesolveError, short
from odesolve.model.transforms import covers
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


def check_known(known: Any, mask: Any) -> None:
    """Raise OdesolveError for data and a mask that say nothing of which numbers are known."""
    samples("known", known)
    if not isinstance(mask, Tensor):
        raise OdesolveError(
            f"mask is {short(mask)}: give a tensor of numbers from 0 (free) to 1 (known)"
        )
    fits = known.dim() == mask.dim() and known.dim() >= 2 and covers(mask, known)
    if known.is_complex() or not fits:
        given = f"known {known.dtype} {tuple(known.shape)} and mask {tuple(mask.shape)}"
        raise OdesolveError(
            f"{given}: give both as (B, ...), or with 1 for all samples, real numbers"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise OdesolveError(
            "the mask leaves [0, 1]: give 1 where the data are known, 0 where they are free"
        )


def interval_of(given: Any, path: Path) -> tuple[float, float] | None:
    """The times between which a model is guided. Raises OdesolveError unless they are two that rise
    and meet the path's."""
    if given is None:
        return None
    expected = f"(t_low, t_high), two times that rise, within the path's from 0 to {path.t_max:g}"
    times = numbers("interval", given, expected)
    if times.shape != (2,) or not bool(times[0] < times[1]):
        raise OdesolveError(f"interval={short(given)}: give {expected}")
    low, high = times.tolist()
    beyond = path.t_max < high < math.inf  # as noise levels are, on a path whose times end at 1
    if high < 0.0 or low > path.t_max or beyond:
        raise OdesolveError(f"interval={short(given)} lies outside of the path: give {expected}")
    return low, high


def checked_times(given: Any, t: Tensor) -> Tensor:
    """What a function of time returned for times t. Raises OdesolveError unless it is a real number
    for each."""
    if not isinstance(given, Tensor):
        raise OdesolveError(
            f"time(path, t) returned {type(given).__name__}: let it return a tensor, one number "
            "for each of t"
        )
    if given.shape != t.shape:
        shapes = f"shape {tuple(given.shape)} for t of shape {tuple(t.shape)}"
        raise OdesolveError(
            f"time(path, t) returned {shapes}: let it return one number for each, as t * 1000 "
            "does; networks get (B,)"
        )
    if given.is_complex():
        raise OdesolveError(f"time(path, t) returned {given.dtype}: let it return real numbers")
    return given


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
