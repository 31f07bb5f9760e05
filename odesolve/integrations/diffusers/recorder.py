"""What a pipeline gives its network: one step of it, watched, and how it mixes the branches of
guidance."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError

NETWORKS = ("unet", "transformer", "prior", "denoiser")
INPUTS = ("sample", "hidden_states", "x")
TIMES = ("timestep", "timesteps", "t")
BESIDE = "beside"
STEPS = 10  # of the call that is watched; only its first step is run


class _Seen(Exception):
    """The pipeline has come to its first ``scheduler.step``."""


@dataclass
class RecordedCall:
    """One call of the network: its input, time, other arguments by name, and its output."""

    x: Tensor
    time: Any
    arguments: dict[str, Any]
    output: Tensor


@dataclass
class Recorded:
    """The first step of a pipeline: the network's calls and the scheduler's arguments."""

    network: nn.Module
    names: tuple[str, str]  # of the network's input and time
    calls: list[RecordedCall]
    sample: Tensor
    timestep: Any
    mixed: Tensor


def network_of(pipe: Any) -> nn.Module:
    """The network that a pipeline denoises with. Raises OdesolveError where it has no module of a
    known name."""
    for name in NETWORKS:
        network = getattr(pipe, name, None)
        if isinstance(network, nn.Module):
            return network
    raise OdesolveError(
        f"{type(pipe).__name__} has none of {', '.join(NETWORKS)}: give network= "
        "its denoising module"
    )


def record(pipe: Any, network: nn.Module, arguments: Mapping[str, Any]) -> Recorded:
    """Run ``pipe(**arguments)`` up to its first ``scheduler.step``.

    The pipeline is the caller's own and is left as it was. Raises OdesolveError where it never
    comes to a step."""
    calls: list[RecordedCall] = []
    signature = inspect.signature(network.forward)
    names = _names(signature)
    stepped: dict[str, Any] = {}

    def watch(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        bound = dict(signature.bind(*args, **kwargs).arguments)
        bound.update(bound.pop("kwargs", {}))
        x = bound.pop(names[0])
        time = bound.pop(names[1])
        first = output[0] if isinstance(output, tuple) else output.sample
        calls.append(
            RecordedCall(
                x,
                time,
                {k: v for k, v in bound.items() if v is not None and k != "return_dict"},
                first,
            )
        )

    with (
        _stopped(pipe.scheduler, stepped),
        _hooked(network, watch),
        torch.no_grad(),
        contextlib.suppress(_Seen),
    ):
        pipe(**{"num_inference_steps": STEPS, **arguments})
    if not calls or not stepped:
        raise OdesolveError(
            f"{type(pipe).__name__} made no step with its scheduler: give the arguments that it "
            "is called with"
        )
    return Recorded(
        network, names, calls, stepped["sample"], stepped["timestep"], stepped["model_output"]
    )


def _names(signature: inspect.Signature) -> tuple[str, str]:
    known = signature.parameters
    x, t = (next((n for n in names if n in known), None) for names in (INPUTS, TIMES))
    if x is None or t is None:
        raise OdesolveError(
            f"the network takes {', '.join(known)}: none of {INPUTS} and {TIMES} is its input and "
            "its time"
        )
    return x, t


@contextlib.contextmanager
def _hooked(network: nn.Module, watch) -> Iterator[None]:
    handle = network.register_forward_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _stopped(scheduler: Any, into: dict[str, Any]) -> Iterator[None]:
    """The scheduler's ``step`` replaced by one that notes its arguments and stops the pipeline."""
    bound = inspect.signature(scheduler.step)

    @functools.wraps(scheduler.step)
    def step(*args: Any, **kwargs: Any) -> None:
        into.update(bound.bind(*args, **kwargs).arguments)
        raise _Seen

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


@dataclass
class Branches:
    """The conditions of a network and how its branches are mixed: uncond + scale (cond - uncond).

    What the pipeline puts beside the state in the network's input is the condition ``BESIDE``.
    """

    cond: dict[str, Any]
    uncond: dict[str, Any] | None
    scale: float


def branches(recorded: Recorded) -> Branches:
    """Sort the calls of one step into branches. Raises OdesolveError where the pipeline does not
    mix them linearly."""
    batch = recorded.sample.shape[0]
    if len(recorded.calls) == 1 and recorded.calls[0].x.shape[0] == 2 * batch:
        halves = [_half(recorded.calls[0], k, batch) for k in range(2)]
        return _mixed(halves[1], halves[0], recorded.mixed, recorded.sample)
    if len(recorded.calls) == 2:
        return _mixed(recorded.calls[0], recorded.calls[1], recorded.mixed, recorded.sample)
    samples = recorded.calls[0].x.shape[0]
    if len(recorded.calls) > 2 or samples != batch:
        raise OdesolveError(
            f"a step calls the network {len(recorded.calls)} times, on {samples} samples for a "
            f"batch of {batch}: "
            "more branches than a condition and its absence are not read from a pipeline"
        )
    return Branches(_conditions(recorded.calls[0], recorded.sample), None, 1.0)


def _half(call: RecordedCall, k: int, batch: int) -> RecordedCall:
    def cut(v: Any) -> Any:
        if isinstance(v, Tensor) and v.dim() and v.shape[0] == 2 * batch:
            return v[k * batch : (k + 1) * batch]
        return v

    arguments = {
        name: {n: cut(v) for n, v in value.items()} if isinstance(value, Mapping) else cut(value)
        for name, value in call.arguments.items()
    }
    return RecordedCall(cut(call.x), cut(call.time), arguments, cut(call.output))


def _mixed(cond: RecordedCall, uncond: RecordedCall, mixed: Tensor, sample: Tensor) -> Branches:
    outputs = (uncond.output, cond.output, mixed)
    a, b, m = (_like(output, sample).double() for output in outputs)
    gap = b - a
    size = float(gap.square().sum())
    scale = float(((m - a) * gap).sum()) / size if size > 0 else 1.0
    off = float((m - a - scale * gap).norm() / m.norm().clamp_min(1e-30))
    if off > 0.01:
        raise OdesolveError(
            "the pipeline does not mix its branches as uncond + scale (cond - uncond), by "
            f"{off:.0%}: "
            "switch rescaling and the like off in its call, and use Model.guided(rescale=...)"
        )
    return Branches(_conditions(cond, sample), _conditions(uncond, sample), scale)


def _like(output: Tensor, sample: Tensor) -> Tensor:
    """Without the variance that the network may have learned."""
    if output.shape == sample.shape:
        return output
    return output.narrow(1, 0, sample.shape[1])


def _conditions(call: RecordedCall, sample: Tensor) -> dict[str, Any]:
    out = flat(call.arguments)
    if call.x.shape != sample.shape:
        axis = axis_of(call.x.shape, sample.shape)
        out[BESIDE] = call.x.narrow(
            axis, sample.shape[axis], call.x.shape[axis] - sample.shape[axis]
        ).clone()
    return out


def axis_of(larger: torch.Size, smaller: torch.Size) -> int:
    """The one axis along which a shape is larger. Raises OdesolveError where there is none."""
    sizes = enumerate(zip(larger, smaller, strict=False))
    differ = [k for k, (a, b) in sizes if a != b]
    one_axis = len(larger) == len(smaller) and len(differ) == 1
    if not one_axis or larger[differ[0]] < smaller[differ[0]]:
        raise OdesolveError(
            f"the network's input has shape {tuple(larger)} for latents of shape "
            f"{tuple(smaller)}: a pipeline that lays "
            "latents out anew for its network cannot be read; give a net(x, t) of your own to "
            "ode.Model"
        )
    return differ[0]


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings inside replaced by entries ``name.key``."""
    out: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            out.update({f"{name}.{k}": v for k, v in value.items()})
        else:
            out[name] = value
    return out


def nested(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flat``."""
    out: dict[str, Any] = {}
    for name, value in arguments.items():
        outer, dot, key = name.partition(".")
        if dot:
            out.setdefault(outer, {})[key] = value
        else:
            out[name] = value
    return out
