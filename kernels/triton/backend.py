"""The ops of ``odesolve.kernels.reference`` on CUDA and ROCm devices. An op returns False for what
it leaves to the reference, having written nothing.

Nothing here waits for the device: coefficients on the host are uploaded once for the same values,
from pinned memory. ``quantile`` is the reference's: selecting order statistics is a sort, torch's
own segmented sort runs at the speed of memory, and dynamic thresholding calls it once a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from odesolve.kernels import refusals
from odesolve.kernels.control import ROWS, SETTINGS
from odesolve.kernels.reference import ErrorNorm, Scale, Weights
from odesolve.kernels.triton import combine as _kernels
from odesolve.kernels.triton import control as _controls
from odesolve.kernels.triton import geometry, launch, reductions
from odesolve.kernels.triton.series import normal_sums as normal_sums
from odesolve.kernels.triton.series import window as window
from torch import Tensor

refusal = launch.refusal
_combine = launch.Launcher(_kernels.combine_kernel, ("size", "N_OUT", "N_IN", "N_NOISE", "RANK"))
_normal = launch.Launcher(_kernels.normal_kernel, ("size", "RANK", "SIGNS"))
_control = launch.Launcher(_controls.control_kernel)
UNROLLED = 8  # streams that a kernel of combine is compiled for
_NO_OUTS = [(None,) * (_kernels.MAX_OUT - k) for k in range(_kernels.MAX_OUT + 1)]
_WRITTEN = [tuple(f"y{i}" for i in range(k)) for k in range(_kernels.MAX_OUT + 1)]
_NO_INS = [(None,) * (_kernels.MAX_IN - k) for k in range(_kernels.MAX_IN + 1)]


def combine(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Weights,
    base: Sequence[int],
    keys: Tensor | None = None,
    streams: Sequence[int] = (),
    error: ErrorNorm | None = None,
) -> bool | None:
    """``reference.combine`` in one launch (two with ``error``); an output may be an input of the
    same layout."""
    n_out = len(outs)
    n_in = len(ins)
    n_noise = len(streams)
    if (
        n_noise > UNROLLED
        # their number changes from step to step on a Brownian path: code for each would be compiled
        # anew
    ):
        return False
    tensors = [*outs, *ins]
    each = isinstance(weights, Tensor) and weights.dim() == 3
    where = _fits(tensors, n_out, n_in, n_noise, keys, each or error is not None)
    if where is None or (error is not None and not (outs and ins and _measured(error, tensors[0]))):
        return False
    if (
        error is not None
        and where.work.n % 16 == 0
        and (where.rank > 0 or any(t.data_ptr() & 15 for t in tensors))
    ):
        plain, _ = geometry.plain(ins, True)  # for the reason given there
        fresh = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in outs]
        if combine(fresh, plain, weights, base, keys, streams, error) is False:
            return False
        for t, value in zip(outs, fresh, strict=True):
            t.copy_(value)
        return None
    device = tensors[0].device
    table = launch.coefficients(weights, n_out + (error is not None), n_in + n_noise, device)
    if (
        table is None
        or len(base) != n_out
        or (each and len(weights) != tensors[0].shape[:1].numel())
    ):
        return False
    codes = launch.codes(base, streams, n_in, device)
    if codes is None:
        return False
    _start(where, outs, ins, table[0], table[1], codes, None, keys if n_noise else None, error)
    return None


def combine_row(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Tensor,
    codes: Tensor,
    row: Tensor,
    keys: Tensor,
) -> bool | None:
    """``reference.combine_row`` in one launch that reads the row on the device; a captured graph
    may hold it."""
    n_noise = codes.shape[1] - len(outs)
    where = (
        _fits([*outs, *ins], len(outs), len(ins), n_noise, keys, False) if n_noise >= 0 else None
    )
    if (
        where is None
        or weights.shape != (len(codes), len(outs), len(ins) + n_noise)
        or row.numel() != 1
    ):
        return False
    if row.dtype != torch.int64 or codes.dtype != torch.int64:
        return False
    if not (
        weights.is_contiguous()
        and codes.is_contiguous()
        and launch.on(outs[0].device, weights, codes, row)
    ):
        return False
    _start(where, outs, ins, weights, 0, codes, row, keys if n_noise else None, None)
    return None


def _fits(
    tensors,
    n_out: int,
    n_in: int,
    n_noise: int,
    keys,
    per_sample: bool,
) -> geometry.Geometry | None:
    if n_out > _kernels.MAX_OUT or n_in > _kernels.MAX_IN or n_noise > _kernels.MAX_NOISE:
        return None
    # Many tensors fill the registers: half the elements a program then.
    largest = 1024 if n_out + n_in <= 8 else 512
    where = geometry.of(tensors, n_noise > 0, not (n_noise or per_sample), largest, n_out)
    return (
        where
        if where is None or n_noise == 0 or geometry.drawable(where, keys, tensors[0])
        else None
    )


def _per_sample(out: Tensor, like: Tensor) -> bool:
    """Whether an output holds one number for each sample of a tensor, each in its own place."""
    batch = like.shape[:1].numel()
    fits = out.shape == (batch,) and out.dtype in geometry.FLOATS and out.device == like.device
    return fits and (batch < 2 or out.stride(0) != 0)


def _measured(error: ErrorNorm, like: Tensor) -> bool:
    batch = like.shape[:1].numel()
    return (
        _per_sample(error.out, like)
        and launch.each(error.rtol, batch)
        and launch.each(error.atol, batch)
    )


def _start(where, outs, ins, weights, w_step, codes, row, keys, error) -> None:
    n_out = len(outs)
    n_in = len(ins)
    n_noise = codes.shape[-1] - len(outs)
    device = codes.device
    work = where.work
    rtol = None
    r_step = 0
    atol = None
    a_step = 0
    partials = None
    if error is not None:
        rtol, r_step = launch.scalars(error.rtol, device)
        atol, a_step = launch.scalars(error.atol, device)
        partials = torch.empty(work.programs, dtype=torch.float64, device=device)
    if work.programs:
        keys = keys if keys is None else keys.contiguous()
        kinds = weights.dtype, row is None, *(t if t is None else t.dtype for t in (rtol, atol))
        key = (where.key, n_out, n_in, n_noise, where.double, kinds, launch.marks([*outs, *ins]))
        args = (
            *(*outs, *_NO_OUTS[n_out], *ins, *_NO_INS[n_in]),
            *(
                weights,
                codes,
                row,
                keys,
                where.layout(device),
                rtol,
                atol,
                partials,
                work.n,
                work.n.bit_length(),
            ),
            *(
                w_step,
                r_step,
                a_step,
                n_out,
                n_in,
                n_noise,
                where.rank,
                int(error is not None),
                where.double,
            ),
        )
        # A row may be one that leaves everything alone, and sums must not move: neither is tuned.
        _combine.start(
            key, device, work, args, _WRITTEN[n_out] if row is None and error is None else ()
        )
    if error is not None and partials is not None:
        reductions.finish(error.out, partials, work, work.samples, reductions.ROOT_MEAN)


def normal(out: Tensor, keys: Tensor, stream: Tensor | int, kind: str = "normal") -> bool | None:
    """``reference.normal`` in one launch."""
    where = geometry.of([out], True, False, written=1)
    if where is None or not geometry.drawable(where, keys, out):
        return False
    if not (refusals.known(kind) and launch.numbered(stream, where.work.samples)):
        return False
    work = where.work
    if work.programs:
        streams, step = launch.streams_of(stream, out.device)
        key = (where.key, kind, launch.marks([out]))
        args = (
            out,
            keys.contiguous(),
            streams,
            where.layout(out.device),
            work.n,
            work.n.bit_length(),
            step,
        )
        _normal.start(key, out.device, work, (*args, where.rank, kind != "normal"), ("y",))
    return None


def rms(out: Tensor, e: Tensor, y0: Tensor, y1: Tensor, rtol: Scale, atol: Scale) -> bool | None:
    """``reference.rms`` in two launches."""
    (e, y0, y1), where = geometry.plain([e, y0, y1], False)
    if where is None or not _measured(ErrorNorm(out, rtol, atol), e):
        return False
    work = where.work
    r, r_step = launch.scalars(rtol, e.device)
    a, a_step = launch.scalars(atol, e.device)
    partials = torch.empty(work.programs, dtype=torch.float64, device=e.device)
    if work.programs:
        args = (e, y0, y1, r, a, partials, work.n, r_step, a_step, where.double)
        reductions.rms_launcher.start(
            (where.key, r.dtype, a.dtype, launch.marks([e, y0, y1])), e.device, work, args
        )
    reductions.finish(out, partials, work, work.samples, reductions.ROOT_MEAN)
    return None


def inner(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Scale = 1.0,
    accumulate: bool = False,
) -> bool | None:
    """``reference.inner`` in two launches."""
    return _inner(out, [a, b], None, None, 0, False, weight, accumulate)


def quadratic_form(
    out: Tensor,
    v: Tensor,
    keys: Tensor,
    stream: Tensor | int,
    kind: str = "rademacher",
    weight: Scale = 1.0,
    accumulate: bool = False,
) -> bool | None:
    """``reference.quadratic_form`` in two launches; the numbers never reach memory."""
    if keys is None or not (refusals.known(kind) and launch.numbered(stream, v.shape[:1].numel())):
        return False
    streams, step = launch.streams_of(stream, v.device)
    return _inner(out, [v], keys.contiguous(), streams, step, kind != "normal", weight, accumulate)


def _inner(out, factors, keys, streams, step, signs, weight, accumulate) -> bool | None:
    draw = keys is not None
    factors, where = geometry.plain(factors, draw)
    device = factors[0].device
    if where is None or not (
        _per_sample(out, factors[0]) and launch.each(weight, where.work.samples)
    ):
        return False
    if draw and not geometry.drawable(where, keys, factors[0]):
        return False
    work = where.work
    partials = torch.empty(work.programs, dtype=torch.float64, device=device)
    if work.programs:
        a, b = (factors[0], None) if draw else factors
        args = (a, b, keys, streams, partials, work.n, step, draw, signs)
        reductions.inner_launcher.start(
            (where.key, draw, signs, launch.marks(factors)), device, work, args
        )
    reductions.finish(
        out, partials, work, work.samples, reductions.ADD if accumulate else reductions.SUM, weight
    )
    return None


def control(
    state: Tensor,
    norm: Tensor,
    weights: Tensor,
    times: Tensor,
    table: Tensor,
    nodes: Tensor,
    settings: Tensor,
    begin: bool = False,
) -> bool | None:
    """``kernels.control.control`` in one launch."""
    wide = (state, norm, weights, table, nodes, settings)
    batch = state.shape[-1]
    shapes = [
        (ROWS, batch),
        (batch,),
        (batch, table.shape[-1]),
        (2, table.shape[-1]),
        (len(nodes),),
        (SETTINGS,),
    ]
    fit = all(x.shape == s and x.dtype == torch.float64 for x, s in zip(wide, shapes, strict=True))
    if not (fit and times.shape == (len(nodes), batch) and times.dtype in geometry.FLOATS):
        return False
    if not all(x.is_contiguous() and x.device == state.device for x in (*wide, times)):
        return False
    args = (
        state,
        norm,
        weights,
        times,
        table,
        nodes,
        settings,
        batch,
        table.shape[1],
        len(nodes),
        begin,
    )
    work = launch.Work(1, batch, _controls.SAMPLES, 1)
    if work.programs:
        _control.start((times.dtype, begin), state.device, work, args)
    return None
