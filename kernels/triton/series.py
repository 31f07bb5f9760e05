"""The ops that go through a series in registers: a window's points, and any number of streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from odesolve.kernels.reference import Weights
from odesolve.kernels.triton import geometry, launch, reductions
from odesolve.kernels.triton import sums as _sums
from odesolve.kernels.triton import window as _windows
from torch import Tensor

_window = launch.Launcher(_windows.window_kernel)
_normal_sums = launch.Launcher(_sums.sums_kernel)


def window(
    out: Tensor,
    residual: Tensor,
    origin: Tensor,
    old: Tensor,
    ins: Sequence[Tensor],
    weights: Tensor,
    growth: Tensor,
    keys: Tensor | None = None,
    streams: Tensor | None = None,
) -> bool | None:
    """``reference.window`` in two launches; layouts other than contiguous and aligned are
    copied."""
    if not _fits_window(out, residual, origin, [old, *ins], weights, growth, streams):
        return False
    whole, where = geometry.plain([old, *ins], True)
    (first,), single = geometry.plain([origin], True)
    if where is None or single is None or not _on_one_device(out, residual, origin, old):
        return False
    if streams is not None and not geometry.drawable(single, keys, origin):
        return False
    if out.numel() == 0:
        residual.zero_()
        return None
    direct = out.is_contiguous() and not out.data_ptr() & 15
    written = out if direct else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    noise = keys.contiguous() if streams is not None and keys is not None else None
    _start_window(written, residual, first, whole, weights, growth, noise, streams, (single, where))
    if not direct:
        out.copy_(written)
    return None


def _start_window(out, residual, first, whole, weights, growth, keys, streams, shapes) -> None:
    """Launch the kernel on memory that it can read, and add up what its programs left."""
    single, where = shapes
    points, batch = out.shape[:2]
    device = out.device
    work = single.work
    count = len(whole) - 1
    w, w_steps = _per_point(weights, 3, device)
    g, g_steps = _per_point(growth, 2, device)
    s, s_steps = _per_point(streams, 2, device) if streams is not None else (None, (0, 0))
    partials = torch.empty(points * work.programs, dtype=torch.float64, device=device)
    double = single.double or where.double or out.dtype == torch.float64
    tensors = (out, first, *whole, *(None,) * (_windows.MAX_IN - count))
    steps = (*w_steps, *g_steps, *s_steps)
    sizes = (work.n, points, batch)
    constants = (count, keys is not None, double)
    marks = launch.marks([out, first, *whole])
    key = (single.key, where.key, out.dtype, w.dtype, g.dtype, keys is None, marks)
    args = (*tensors, w, g, keys, s, partials, *sizes, *steps, *constants)
    _window.start(key, device, work, args)
    reductions.finish(residual, partials, work, points * batch, reductions.MEAN)


def _fits_window(out, residual, origin, others, weights, growth, streams) -> bool:
    """Whether the shapes are those of a window: a kernel asks no more."""
    shape = out.shape
    count = len(others) - 1
    columns = count + (streams is not None)
    if out.dim() < 2 or origin.shape != shape[1:] or any(x.shape != shape for x in others):
        return False
    if count > _windows.MAX_IN or out.dtype not in geometry.FLOATS:
        return False
    one = tuple(shape[:1])
    each = tuple(shape[:2])
    tables = [weights.shape in ((*one, columns), (*each, columns)), growth.shape in (one, each)]
    if streams is not None:
        tables.append(streams.dtype == torch.int64 and streams.shape in (one, each))
    return residual.shape == each and residual.dtype in geometry.FLOATS and all(tables)


def _on_one_device(out: Tensor, residual: Tensor, origin: Tensor, old: Tensor) -> bool:
    return residual.is_contiguous() and launch.on(origin.device, out, old, residual)


def _per_point(table: Tensor, dim: int, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """A table by point, or by point and sample where it has ``dim`` axes, and its two steps."""
    table = table.to(device, non_blocking=True)
    if dim == 3 and table.stride(-1) != 1:
        table = table.contiguous()
    return table, (table.stride(0), table.stride(1) if table.dim() == dim else 0)


def normal_sums(
    outs: Sequence[Tensor],
    keys: Tensor,
    streams: Sequence[int] | Tensor,
    weights: Weights,
    accumulate: bool = False,
) -> bool | None:
    """``reference.normal_sums`` in one launch."""
    n_out = len(outs)
    device = outs[0].device
    where = geometry.of(outs, True, False, written=n_out) if n_out <= _sums.MAX_OUT else None
    if where is None or not geometry.drawable(where, keys, outs[0]) or not _numbered(streams):
        return False
    streams = _on_device(streams, device)
    terms = streams.shape[-1]
    table = launch.coefficients(weights, n_out, terms, device)
    if table is None or not _for_samples(streams, weights, where.work.samples):
        return False
    work = where.work
    if work.programs:
        coefficients, w_step = table
        s_step = streams.stride(0) if streams.dim() == 2 else 0
        tensors = (*outs, *(None,) * (_sums.MAX_OUT - n_out))
        tables = (keys.contiguous(), streams, coefficients, where.layout(device))
        sizes = (work.n, terms, s_step, w_step)
        constants = (n_out, where.rank, accumulate, where.double)
        key = (where.key, n_out, accumulate, coefficients.dtype, launch.marks(outs))
        _normal_sums.start(key, device, work, (*tensors, *tables, *sizes, *constants))
    return None


def _numbered(streams: Sequence[int] | Tensor) -> bool:
    """Whether these are whole numbers: one row, or one per sample."""
    if isinstance(streams, Tensor):
        return streams.dtype == torch.int64 and streams.dim() in (1, 2)
    return all(hasattr(s, "__index__") for s in streams)


def _on_device(streams: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    if not isinstance(streams, Tensor):
        streams = launch.table(tuple(map(launch.signed, streams)), torch.int64, device)
    if streams.stride(-1) != 1 or streams.device != device:
        streams = streams.to(device, non_blocking=True).contiguous()
    return streams


def _for_samples(streams: Tensor, weights: Weights, batch: int) -> bool:
    """Whether what is given per sample is given for all of them."""
    each = isinstance(weights, Tensor) and weights.dim() == 3
    fits = not each or len(weights) == batch
    return fits and (streams.dim() != 2 or len(streams) == batch)
