"""One walk through a schedule, driven from outside: the caller brings the network's output and
takes the next state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from odesolve.doors.values import real
from odesolve.errors import OdesolveError
from odesolve.files import Door, Number, Size, shaped
from odesolve.integrations.diffusers.checks import check_tensors, check_time
from odesolve.integrations.diffusers.schedule import TimeSchedule
from odesolve.kernels.philox import keys
from odesolve.noise.keys import fresh_seed, keys_of
from odesolve.run.advance import Cursor
from odesolve.run.stepper import Stepper, fresh

Generators = torch.Generator | Sequence[torch.Generator] | None


STOOD = Door(
    "this", "is no state of this scheduler's loop", "give what scheduler.state_dict() returned"
)


class Loop(Struct, forbid_unknown_fields=True):
    """A loop that has begun: the call it waits at, how it began, and its cursor."""

    at: Size
    begun: tuple[Size, bool, Number, bool]
    cursor: dict[str, Any]


class Stood(Struct):
    """``Walk.state_dict``: plain values and tensors."""

    index: Size | None
    begin_index: Size | None
    loop: Loop | None = None


class Walk:
    """Where a loop over a schedule stands. ``index`` counts network calls; None before the first.

    The walk keeps its state in float32 (float64 for float64 samples), whatever the dtype of the
    samples that it hands out. A sample that comes back unchanged stands for the state behind it;
    where the caller changed it, the changed numbers count."""

    def __init__(self, schedule: TimeSchedule, timesteps: Tensor, sigmas: Tensor, key: tuple):
        self.schedule = schedule
        self.timesteps = timesteps
        self.sigmas = sigmas
        self.key = key
        assert timesteps.storage_offset() == 0
        self.host = schedule.times.tolist()
        self.index: int | None = None
        self.begin_index: int | None = None
        self._at: int | None = None  # the call that ``_stepper`` waits at
        self._stepper: Stepper | None = None
        self._handed: Tensor | None = None
        self._version = 0
        self._begun: tuple[int, bool, float, bool] = (0, False, 0.0, False)
        self._plain = False  # one output per call, used as it is
        self.generator: Generators = None  # where a step is given none
        # the loop whose end is this one's beginning
        self.follows: Callable[[], Walk | None] | None = None

    def locate(self, timestep: Any) -> int:
        """The call that a timestep stands for.

        Entries of ``timesteps`` are recognised by their place in its memory, without waiting for a
        device, so that times which occur twice are distinct. Other tensors on a device are read
        once, at the first call, and calls are counted from there."""
        expected = self.index if self.index is not None else self.begin_index
        if isinstance(timestep, Tensor):
            if timestep._base is self.timesteps or _same_memory(timestep, self.timesteps):
                return int(timestep.storage_offset())
            if expected is not None and not timestep.is_cpu:
                return expected
        value = real("timestep", timestep, "an entry of scheduler.timesteps")
        if expected is not None and expected < len(self.host) and self.host[expected] == value:
            return expected
        check_time(value, self.schedule.trained.kind, self.schedule.trained.steps)
        return self.nearest(value)

    @staticmethod
    def _usual(output: Any, sample: Any) -> bool:
        """Whether both are dense tensors of floats, checked once per call."""
        if (
            type(output) is not Tensor
            or type(sample) is not Tensor
            or output.is_nested
            or sample.is_nested
        ):
            return False
        floats = output.is_floating_point() and sample.is_floating_point()
        return (
            floats
            and output.layout is sample.layout is torch.strided
            and output.device == sample.device
        )

    def nearest(self, value: float) -> int:
        """The first call whose time is nearest to a value, of those that begin a step."""
        return min(self.schedule.starts, key=lambda i: (abs(self.host[i] - value), i))

    def step(
        self,
        output: Tensor,
        index: int,
        sample: Tensor,
        eta: float,
        generator: Generators,
        noise: Tensor | None = None,
        clipped: bool = False,
    ) -> Tensor:
        """The sample after call ``index``, in the dtype of ``sample``."""
        if index >= len(self.host):
            raise OdesolveError(
                f"the {len(self.host)} calls of this schedule are done: call set_timesteps again"
            )
        if not self._usual(output, sample):
            check_tensors(output, sample)
        if sample.is_complex() or output.is_complex():
            raise OdesolveError(
                f"the sample is {sample.dtype}, the output {output.dtype}: give real numbers"
            )
        recorded = torch.is_grad_enabled() and (output.requires_grad or sample.requires_grad)
        stepper = self._stepper
        same = sample is self._handed and sample._version == self._version
        if stepper is None or self._at != index or not same:
            stepper = self._entered(index, sample, (eta, clipped), generator, recorded)
        if recorded:  # what gradients need is not written over, from here to the end
            stepper.buffers = None
        plain = self._plain and output.shape == sample.shape
        outputs = [output] if plain else self._outputs(output, sample)
        stepper.answer(outputs, None if noise is None else _once(noise))
        self._at = self.index = index + 1
        return self._hand_out(stepper, sample)

    def _entered(
        self,
        index: int,
        sample: Tensor,
        options: tuple[float, bool],
        generator: Generators,
        recorded: bool,
    ) -> Stepper:
        """The solve that waits at this call with a sample which it has not handed out: the present
        one with that sample in place of its own, one taken over, or a new one."""
        waits = self._at == index and self._stepper is not None
        if waits and self._fits(sample):
            self._replace(sample)
        elif waits or not self._taken_over(index, sample):
            self._start(index, sample, options, generator, recorded)
        assert self._stepper is not None
        return self._stepper

    def data(self, index: int, output: Tensor, sample: Tensor) -> Tensor:
        """The data prediction of call ``index`` at a sample, in its dtype."""
        trained = self.schedule.trained
        t = self.schedule.at[index]
        kx, kf = (
            float(k)
            for k in trained.path.convert(
                t, trained.reading.prediction, "data", trained.reading.sigma_data
            )
        )
        if output.shape != sample.shape:
            output = output.chunk(2, dim=1)[0]
        x = kx * sample.float() + (kf * trained.sign) * output.float()
        for function in trained.functions.values():
            x = function(x, t)
        return x.to(sample.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands, as plain values and tensors (copies)."""
        out: dict[str, Any] = {"index": self.index, "begin_index": self.begin_index}
        if self._stepper is not None:
            cursor = self._stepper.cursor()
            out["loop"] = {"at": self._at, "begun": self._begun, "cursor": cursor.state_dict()}
        return out

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another walk through the same schedule stood. Raises OdesolveError for any
        other state, and changes nothing."""
        saved = shaped(state, Stood, STOOD)
        loop = saved.loop
        calls = len(self.host)
        for name, value in (("index", saved.index), ("begin_index", saved.begin_index)):
            if value is not None and value > calls:
                raise STOOD.refuse(f"{name} is {value} of a schedule of {calls} calls")
        if loop is None:
            self.index = saved.index
            self.begin_index = saved.begin_index
            return
        if loop.at != saved.index or loop.at >= calls or loop.begun[0] > loop.at:
            raise STOOD.refuse(
                f"loop.at is {loop.at}, begun at {loop.begun[0]}: expected "
                f"{saved.index}, below {calls}"
            )
        with STOOD.reading():
            cursor = Cursor.load(self.schedule.program(*loop.begun), loop.cursor)
        self.index = saved.index
        self.begin_index = saved.begin_index
        self._at = loop.at
        self._begun = loop.begun
        self._go_on(cursor)
        self._handed = cursor.input.clone()
        self._version = self._handed._version

    def _go_on(self, cursor: Cursor) -> None:
        functions = self.schedule.trained.functions
        self._stepper = Stepper(cursor, functions, fresh(cursor.program))

    def _hand_out(self, stepper: Stepper, sample: Tensor) -> Tensor:
        out = stepper.hand_out()
        if stepper.done:
            self._stepper = None
            self._handed = None
            return out.to(sample.dtype)
        self._handed = out
        self._version = out._version
        return out

    def _outputs(self, output: Tensor, sample: Tensor) -> list[Tensor]:
        assert self._stepper is not None
        branches = self._stepper.call.outputs
        outputs = [output]
        if output.shape != sample.shape:
            if output.dim() < 2 or output.shape[1] != 2 * sample.shape[1]:
                raise OdesolveError(
                    f"the network's output has shape {tuple(output.shape)} for a sample of shape "
                    f"{tuple(sample.shape)}: "
                    "give both of one shape, or an output with a learned variance of twice the "
                    "channels"
                )
            outputs = [half.contiguous() for half in output.chunk(2, dim=1)]
        if self.schedule.trained.sign < 0:
            outputs[0] = -outputs[0]
        if len(branches) > len(outputs):
            raise OdesolveError(
                "the plan uses a learned variance and the network's output has none: give twice "
                "the channels"
            )
        return outputs[: len(branches)]

    def _fits(self, sample: Tensor) -> bool:
        handed = self._handed
        return (
            handed is not None and sample.shape == handed.shape and sample.device == handed.device
        )

    def _start(
        self,
        index: int,
        sample: Tensor,
        options: tuple[float, bool],
        generator: Generators,
        recorded: bool,
    ) -> None:
        wide = sample.dtype in (torch.float32, torch.float64)
        self._begun = (index, not wide, *options)
        program = self.schedule.program(*self._begun)
        seeds = None
        if program.stochastic:
            seeds = _keys(self.generator if generator is None else generator, sample)
        self._stepper = Stepper.at_first_call(
            program,
            sample if wide else sample.float(),
            sample.dtype,
            seeds,
            self.schedule.trained.functions,
            None if recorded else fresh(program),
        )
        alone = all(len(call.outputs) == 1 for call in program.calls)
        self._plain = alone and self.schedule.trained.sign > 0
        self._handed = sample
        self._version = sample._version

    def _taken_over(self, index: int, sample: Tensor) -> bool:
        """Whether the loop that this one follows waits at this very call, so that this one resumes
        it."""
        other = self.follows() if self.follows is not None else None
        if other is None or other._stepper is None:
            return False
        if other._at != index or not other._fits(sample):
            return False
        mine = self.schedule
        theirs = other.schedule
        if (
            mine.choice != theirs.choice
            or mine.grid != theirs.grid
            or mine.trained.reading != theirs.trained.reading
        ):
            return False
        self._begun = other._begun
        self._at = index
        self._plain = other._plain
        self._go_on(other._stepper.cursor())
        self._handed = other._handed
        self._version = other._version
        if sample is not self._handed or sample._version != self._version:
            self._replace(sample)
        return True

    def _replace(self, sample: Tensor) -> None:
        """Go on from a sample that the caller may have changed: elements equal to the rounded state
        keep the state's precision."""
        assert self._stepper is not None
        state = self._stepper.state
        wide = sample.to(state.dtype)
        same = sample.dtype == state.dtype
        self._stepper.state = (
            wide if same else torch.where(sample == state.to(sample.dtype), state, wide)
        )


def _once(noise: Tensor) -> Callable[[int], Tensor]:
    """The noise of a step as a source of streams, of which the step may ask for one."""
    streams: set[int] = set()

    def draw(stream: int) -> Tensor:
        streams.add(stream)
        if len(streams) > 1:
            raise OdesolveError(
                "this solver draws more than once in a step: give generator= and "
                "not variance_noise="
            )
        return noise

    return draw


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.device == b.device
        and a.numel() == 1
        and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.untyped_storage().data_ptr() != 0
    )


def _keys(generator: Generators, sample: Tensor) -> Tensor:
    """Keys (B, 2) of every sample's noise: a seed from its own generator, or one from the common
    generator and the sample's place."""
    batch = sample.shape[0]
    many = generator if isinstance(generator, list | tuple) else [generator]
    if not all(isinstance(g, torch.Generator | None) for g in many):
        raise OdesolveError(
            f"generator={generator!r}: give a torch.Generator, or a list of one per sample"
        )
    if generator is None or isinstance(generator, torch.Generator) or len(generator) == 1:
        one = (
            generator
            if generator is None or isinstance(generator, torch.Generator)
            else generator[0]
        )
        return keys_of(batch, _seed(one), None, sample.device)
    if len(generator) != batch:
        raise OdesolveError(
            f"{len(generator)} generators for a batch of {batch}: give one per sample, or one "
            "for all"
        )
    first = torch.zeros(1, dtype=torch.int64, device=sample.device)
    return torch.cat([keys(_seed(g), first) for g in generator])


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return fresh_seed()
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
