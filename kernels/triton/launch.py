"""How kernels are started: compiled handles kept by key, small tables uploaded once, and never a
wait for the device."""

from __future__ import annotations

import functools
import itertools
import operator
import os
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
import triton
from odesolve.kernels import philox
from odesolve.kernels.reference import Weights
from torch import Tensor

# Sums and products stand alone, as in the specification: an output row then has the same bits alone
# and in a block, and noise the bits of ``odesolve.kernels.philox``. Contraction would save a fifth
# of the instructions, but no memory traffic.
OPTIONS = {"enable_fp_fusion": False}
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
OLDEST = (3, 4)
NEWEST = (3, 9)  # the newest version whose launcher is known to take what ``Launcher`` passes to it
VERSION = tuple(int(v) for v in triton.__version__.split(".")[:2])
TABLES = 4096
WARP = 64 if torch.version.hip else 32  # threads
# ODESOLVE_AUTOTUNE=1 has Triton try these for every new shape class and machine; the default needs
# no trial. Kernels that sum are never tuned: a block of another size would give other bits.
AUTOTUNE = os.environ.get("ODESOLVE_AUTOTUNE") == "1"
CONFIGS = ((256, 1), (512, 2), (512, 4), (1024, 4), (1024, 8), (2048, 4), (2048, 8), (4096, 8))
BENCH = None  # Triton's own timer


class Work(NamedTuple):
    """How much there is to do, and how it is cut: samples, elements of each, elements and warps of
    a program."""

    samples: int
    n: int
    block: int
    warps: int

    @property
    def programs(self) -> int:
        """Programs that do it."""
        return self.samples * -(-self.n // self.block)


def refusal() -> str:
    """Why these kernels cannot run here, "" if they can."""
    if VERSION < OLDEST:
        return f"triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}"
    if not INTERPRETING and not torch.cuda.is_available():
        return "no CUDA or ROCm device"
    return ""


class Launcher:
    """A kernel and its compiled forms.

    ``key`` of a call says all that a compiled form depends on: types, alignment, divisibility,
    constants. The first call of a key goes through Triton's JIT, later ones hand pointers straight
    to the compiled form's launcher (its convention has not changed from 3.4 to 3.9; a version
    beyond that goes through the JIT every time). Launch hooks of Triton's own profiler see the
    first call only; CUPTI and rocprof see all."""

    def __init__(self, kernel, tuned_by: Sequence[str] = ()) -> None:
        self.kernel = kernel
        self.tuned_by = list(tuned_by)
        self.direct = not INTERPRETING and VERSION <= NEWEST
        self.ready: dict[Hashable, tuple] = {}
        self.tuners: dict[tuple[str, ...], triton.runtime.Autotuner] = {}

    def start(
        self,
        key: Hashable,
        device: torch.device,
        work: Work,
        args: Sequence,
        written: tuple[str, ...] = (),
    ) -> None:
        """Start the kernel with its arguments in order, None and constants included, all but the
        last, its block.

        ``written`` names the tensors that the kernel writes, where a tuner may choose another
        block."""
        index = device.index
        if index is not None and index != torch.cuda.current_device():
            with torch.cuda.device(index):
                self.start(key, device, work, args, written)
            return
        form = self.ready.get((key, index))
        if form is None:
            block, compiled = self._first(work, args, written)
            if self.direct:
                self.ready[key, index] = (
                    block,
                    compiled.run,
                    compiled.function,
                    compiled.packed_metadata,
                )
            return
        block, run, function, metadata = form
        stream = torch._C._cuda_getCurrentRawStream(index)
        pointers = [a.data_ptr() if isinstance(a, Tensor) else a for a in args]
        programs = work.samples * -(-work.n // block)
        run(programs, 1, 1, stream, function, metadata, None, None, None, *pointers, block)

    def _first(self, work: Work, args: Sequence, written: tuple[str, ...]):
        """A launch through the JIT, which compiles and, if asked for, tunes: the block and the
        compiled form."""
        if not (AUTOTUNE and written):
            return work.block, self.kernel[(work.programs,)](
                *args, work.block, num_warps=work.warps, **OPTIONS
            )
        if written not in self.tuners:
            configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in CONFIGS]
            # Every trial starts from what the tensors held: an output may be an input.
            tune = triton.autotune(
                configs, self.tuned_by, restore_value=list(written), do_bench=BENCH
            )
            self.tuners[written] = tune(self.kernel)
        tuner = self.tuners[written]
        compiled = tuner[lambda chosen: (work.samples * -(-work.n // chosen["BLOCK"]),)](
            *args, **OPTIONS
        )
        return tuner.best_config.kwargs["BLOCK"], compiled


def on(device: torch.device, *tensors: Tensor) -> bool:
    """Whether all of them are there: a kernel is handed addresses, and asks no more."""
    return all(t.device == device for t in tensors)


def marks(tensors: Sequence[Tensor]) -> Hashable:
    """What Triton asks of tensors beyond their types, part of a key: 0 if every one begins at a
    multiple of 16 bytes.

    Else which do. On ROCm also which are below 2 GiB, as those are addressed with 32 bits.
    """
    pointers = [t.data_ptr() & 15 for t in tensors]
    aligned = tuple(p == 0 for p in pointers) if any(pointers) else 0
    return (
        (aligned, *(t.untyped_storage().nbytes() < 2**31 for t in tensors))
        if torch.version.hip
        else aligned
    )


def number(n: int) -> int:
    """The class of a specialised integer argument: part of a key."""
    return (n % 16 == 0) + 2 * (n == 1) + 4 * (n >= 2**31)


def blocks(n: int, largest: int, smallest: int = 128) -> tuple[int, int]:
    """Elements and warps of a program: eight elements a thread. A function of the sample alone, as
    sums must be."""
    block = min(max(1 << (n - 1).bit_length(), smallest), largest)
    return block, max(1, block // (8 * WARP))


def signed(stream: int) -> int:
    """A stream as the signed number with the same 64 bits; TypeError unless it is whole."""
    return philox.signed(operator.index(stream))


def codes(
    base: Sequence[int],
    streams: Sequence[int],
    ins: int,
    device: torch.device,
) -> Tensor | None:
    """Bases of outputs, then streams, as a table on the device; None unless all are whole and every
    base is an input or -1."""
    try:
        places = tuple(map(operator.index, base))
        numbers = tuple(map(signed, streams))
    except TypeError:
        return None
    if places and not -1 <= min(places) <= max(places) < ins:
        return None
    return table((*places, *numbers), torch.int64, device)


def upload(
    values: Sequence[float] | Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A new tensor on a device; the copy is queued behind what runs there."""
    host = torch.tensor(values, dtype=dtype)
    if device.type == "cpu":
        return host
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "coefficients that were never used before appeared while a CUDA graph was captured: "
            "run the same calls once "
            "before the capture, or pass the coefficients as tensors on the device"
        )
    return host.pin_memory().to(device, non_blocking=True)


def table(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``upload``, once for the same values and stream of the device: another stream might read
    before they arrive."""
    copies = _copies(values, dtype, device)
    if device.type == "cpu":
        stream = 0
        capturing = False
    else:
        stream = torch._C._cuda_getCurrentRawStream(device.index)
        capturing = torch.cuda.is_current_stream_capturing()
    copy = copies.get(stream)
    if copy is None:
        # A capture begins with a synchronisation, so it may use what any stream has brought.
        copy = (
            next(iter(copies.values())) if capturing and copies else upload(values, dtype, device)
        )
        copies[stream] = copy
    if capturing:
        _captured.add(copy)
    return copy


@functools.lru_cache(TABLES)
def _copies(values: tuple, dtype: torch.dtype, device: torch.device) -> dict[int, Tensor]:
    return {}


_captured: set[Tensor] = set()  # a graph knows only addresses: what it reads must never be freed


def coefficients(
    weights: Weights,
    rows: int,
    columns: int,
    device: torch.device,
) -> tuple[Tensor, int] | None:
    """Weights as a table on the device, rows without gaps, and the distance of the blocks of two
    samples in it.

    None if they are not of this shape.
    """
    if not isinstance(weights, Tensor):
        if len(weights) != rows or any(len(row) != columns for row in weights):
            return None
        return table(
            tuple(map(float, itertools.chain.from_iterable(weights))), torch.float64, device
        ), 0
    if weights.shape[-2:] != (rows, columns) or weights.dim() > 3:
        return None
    if weights.device != device:
        flat = table(tuple(weights.double().flatten().tolist()), torch.float64, device)
        return flat, rows * columns if weights.dim() == 3 else 0
    if weights.stride()[-2:] != (columns, 1):
        weights = weights.contiguous()
    return weights, weights.stride(0) if weights.dim() == 3 else 0


def each(value: object, batch: int) -> bool:
    """Whether it is a number, or a tensor of one or of one per sample: a kernel reads as many as
    there are samples."""
    if isinstance(value, Tensor):
        return value.numel() == 1 or value.shape == (batch,)
    return hasattr(value, "__float__") and not hasattr(value, "__len__")


def scalars(value: float | Tensor, device: torch.device) -> tuple[Tensor, int]:
    """A number, or one per sample, as a tensor on the device and the distance between samples."""
    if not isinstance(value, Tensor):
        return table((float(value),), torch.float64, device), 0
    if value.device != device:
        value = table(tuple(value.double().flatten().tolist()), torch.float64, device)
    return value, value.stride(0) if value.numel() > 1 else 0


def numbered(value: object, batch: int) -> bool:
    """Whether it is a whole number, or a tensor of one or of one per sample."""
    if isinstance(value, Tensor):
        return each(value, batch) and not (value.is_floating_point() or value.is_complex())
    return hasattr(value, "__index__")


def streams_of(value: int | Tensor, device: torch.device) -> tuple[Tensor, int]:
    """A stream, or one per sample, as int64 on the device and the distance between samples."""
    if not isinstance(value, Tensor):
        return table((signed(value),), torch.int64, device), 0
    if value.device != device or value.dtype != torch.int64:
        value = value.to(device, torch.int64, non_blocking=True)
    return value, value.stride(0) if value.numel() > 1 else 0
