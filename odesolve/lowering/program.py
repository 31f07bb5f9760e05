"""The input and the result of lowering: how to read a network, and a program of calls and blocks
over slots."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.lowering.scales import Planned, Scale, Schedule
from odesolve.paths import Path
from odesolve.plans.plan import Plan


@dataclass(frozen=True)
class Guidance:
    """Weights of the branches: ``scale`` 1 is the conditional model; outside ``interval`` (in t)
    only that one is called.

    A scale of None stands for one number per sample: the model itself multiplies it with the
    guidance term beside its conditional output, the branch "excess". ``apart``: a function mixes
    the branches, not weights."""

    scale: Scale | None
    interval: tuple[float, float] | None = None
    apart: bool = False

    def inside(self, t):
        """Whether the time t lies in the interval (one answer each for a tensor of times)."""
        return self.interval is None or (self.interval[0] <= t) & (t <= self.interval[1])

    def weights(self, t: float) -> dict[str, float]:
        """Weight of each branch at time t; the weights sum to 1, so they are the same for every
        prediction type."""
        if self.inside(t):
            return self.mixed(t)
        return {"cond": 1.0}

    def mixed(self, t: float | None = None) -> dict[str, float]:
        """Weight of each branch inside the interval; NaN where it depends on a time and ``t`` is
        None, or where a function mixes."""
        scale = self.scale
        if scale is None:
            if self.apart:
                return {"cond": math.nan, "uncond": math.nan}
            return {"cond": 1.0, "excess": 1.0}
        if isinstance(scale, Schedule | Planned):
            scale = math.nan if t is None else scale.at(t)
        if scale == 1.0:
            return {"cond": 1.0}
        return {"cond": scale, "uncond": 1.0 - scale}

    def planned(self, times: Iterable[float]) -> Guidance:
        """The same with the values at these times instead of a function of time."""
        if not isinstance(self.scale, Schedule):
            return self
        return replace(self, scale=self.scale.planned(t for t in times if self.inside(t)))


@dataclass(frozen=True)
class Reading:
    """How to read a network: its prediction, the scaling of its input, the mix of its branches and
    the transforms of its data prediction.

    ``input_scale`` is None, "edm" (divide by the standard deviation of x for data of standard
    deviation ``sigma_data``) or "unit" (the same for unit data). ``cast`` says that the network's
    dtype is not the state's. ``mix`` names a nonlinear mix of the branches (CFG-rescale),
    ``applies`` names transforms of the data prediction, ``classifier`` is the scale of a
    classifier's gradient, ``variance`` says that the network also predicts one, ``two_times`` that
    it takes a second time."""

    prediction: str = "data"
    sigma_data: float = 0.5
    input_scale: str | None = None
    cast: bool = False
    guidance: Guidance | None = None
    mix: str | None = None
    applies: tuple[str, ...] = ()
    classifier: Scale = 0.0
    variance: bool = False
    two_times: bool = False

    def planned(self, plan: Plan) -> Reading:
        """The same with the values at a plan's times instead of functions of time, so that it
        hashes by them."""
        scales = (self.classifier, None if self.guidance is None else self.guidance.scale)
        if not any(isinstance(scale, Schedule) for scale in scales):
            return self
        times = [i.t for i in plan.evaluations]
        classifier = (
            self.classifier.planned(times)
            if isinstance(self.classifier, Schedule)
            else self.classifier
        )
        guidance = None if self.guidance is None else self.guidance.planned(times)
        return replace(self, guidance=guidance, classifier=classifier)

    def c_in(self, path: Path, t: Any) -> Any:
        """Factor from the state to the network's input at time t (float or tensor)."""
        if self.input_scale is None:
            return 1.0
        data = self.sigma_data if self.input_scale == "edm" else 1.0
        return 1.0 / ((path.alpha(t) * data) ** 2 + path.sigma(t) ** 2) ** 0.5


@dataclass(frozen=True)
class Call:
    """Call the network: ``input`` is its scaled and cast input, ``state`` the state itself; it
    writes one slot per branch.

    ``to`` is its second time, where it has one.
    """

    input: int
    state: int
    branches: tuple[str, ...]
    outputs: tuple[int, ...]
    t: float
    index: int
    to: float | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that it reads."""
        return (self.input, self.state)

    @property
    def writes(self) -> tuple[int, ...]:
        """The slots that it writes."""
        return self.outputs

    @property
    def draws(self) -> tuple[int, ...]:
        """The streams that it draws: none."""
        return ()


@dataclass(frozen=True)
class Block:
    """One fused combine: slots out, slots in, weights, base (see ``kernels.reference``), which
    outputs are cast.

    ``weights`` has a column for each input, then one for each of the noise ``streams``.
    """

    outs: tuple[int, ...]
    ins: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    base: tuple[int, ...]
    cast: tuple[bool, ...]
    streams: tuple[int, ...] = ()
    norm: Norm | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that it reads."""
        return self.ins

    @property
    def writes(self) -> tuple[int, ...]:
        """The slots that it writes."""
        if self.norm is None:
            return self.outs
        return (*self.outs, self.norm.slot)

    @property
    def draws(self) -> tuple[int, ...]:
        """The streams that it draws."""
        return self.streams


@dataclass(frozen=True)
class Norm:
    """The size of the noise in a block's last row of weights, which belongs to an output: slot
    ``slot`` <- its root mean square over each sample, in units of its standard deviation
    ``std``."""

    slot: int
    std: float


@dataclass(frozen=True)
class Transform:
    """A nonlinear place: slot ``output`` <- fn(slots ``inputs``, t); for those of ``run.places``
    see ``Apply``."""

    fn: str
    inputs: tuple[int, ...]
    output: int
    t: float
    stream: int | None = None
    given: tuple[float, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that it reads."""
        return self.inputs

    @property
    def writes(self) -> tuple[int, ...]:
        """The slot that it writes."""
        return (self.output,)

    @property
    def draws(self) -> tuple[int, ...]:
        """The stream that it draws, if it draws one."""
        if self.stream is None:
            return ()
        return (self.stream,)


Op = Call | Block | Transform


@dataclass(frozen=True)
class Mark:
    """After op ``position`` the state of a finished step is in slot ``state``; ``data`` is its data
    prediction's slot.

    ``mean`` is the slot of the state without the noise that the step added, ``norm`` is the size of
    that noise."""

    position: int
    step: int
    t: float
    state: int
    data: int | None
    mean: int | None = None
    norm: Norm | None = None


@dataclass(frozen=True)
class Program:
    """A lowered plan. ``frees[i]`` are the slots whose value is dead after op i; ``times`` the
    times of all calls.

    ``call_times`` are the times that the network gets in each call: one, or both in plans with
    second times.
    """

    plan: Plan = field(repr=False)
    observe: bool
    stats: bool
    ops: tuple[Op, ...]
    frees: tuple[tuple[int, ...], ...]
    marks: tuple[Mark, ...]
    slots: int
    start: int
    result: int
    times: tuple[float, ...]
    call_times: tuple[float | tuple[float, float], ...]
    # ``table`` on the devices that have needed it; equality ignores it
    uploads: dict[torch.device, tuple[Tensor | None, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @functools.cached_property
    def table(self) -> tuple[Tensor | None, ...]:
        """The weights of every block as a float64 tensor, at the place of its op."""
        return tuple(
            torch.tensor(op.weights, dtype=torch.float64) if isinstance(op, Block) else None
            for op in self.ops
        )

    @functools.cached_property
    def stochastic(self) -> bool:
        """Whether any block draws noise."""
        return any(op.draws for op in self.ops)

    @functools.cached_property
    def call_positions(self) -> tuple[int, ...]:
        """The positions of the network calls among the ops."""
        return tuple(k for k, op in enumerate(self.ops) if isinstance(op, Call))

    @functools.cached_property
    def calls(self) -> tuple[Call, ...]:
        """The network calls in order."""
        return tuple(op for op in self.ops if isinstance(op, Call))

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks in order."""
        return tuple(op for op in self.ops if isinstance(op, Block))

    @functools.cached_property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms in order."""
        return tuple(op for op in self.ops if isinstance(op, Transform))

    def pending(self, position: int) -> Call | None:
        """The network call that a solve waits at, None at the end of the program."""
        if position == len(self.ops):
            return None
        op = self.ops[position]
        assert isinstance(op, Call)
        return op

    @property
    def passes(self) -> int:
        """Passes over the state between the network calls: every block's reads and writes."""
        return sum(len(op.ins) + len(op.outs) for op in self.blocks)

    @property
    def launches(self) -> int:
        """Number of blocks and transforms, one kernel launch each at least."""
        return len(self.ops) - len(self.calls)

    @property
    def network_calls(self) -> int:
        """Network evaluations, each branch of guidance counted."""
        return sum(len(call.branches) for call in self.calls)
