"""The specification of every op: a few lines of torch each, on any device and in any dtype.

A backend computes what stands here: integers and random bits exactly, sums to rounding, and the
same bits for a sample whatever the batch around it. Ops write into tensors they are given;
``odesolve.kernels.dispatch`` has the public forms. The first dimension is the batch: a tensor of
one dimension holds samples of one element, a tensor of none is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from odesolve.kernels import philox, refusals
from odesolve.kernels.control import control as control  # an op of its own file
from odesolve.kernels.declared import op
from torch import Tensor

Weights = Sequence[Sequence[float]] | Tensor
Scale = float | Tensor


class ErrorNorm(NamedTuple):
    """Where ``combine`` puts the norm of an embedded error estimate, (B,), and its tolerances
    (numbers or (B,))."""

    out: Tensor
    rtol: Scale
    atol: Scale


def combine(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Weights,
    base: Sequence[int],
    keys: Tensor | None = None,
    streams: Sequence[int] = (),
    error: ErrorNorm | None = None,
) -> None:
    """outs[i] <- ins[base[i]] + sum_j weights[i][j] * ins[j] + sum_k weights[i][n_in + k] * z_k;
    base -1 means no base.

    ``weights`` is (n_out, n_in + n_streams) as Python floats or a tensor, or a tensor (B, n_out,
    n_in + n_streams) with one block per sample along the first dimension. All tensors have one
    shape; inputs may be of a narrower float type than the outputs. Weights are rounded to the
    widest type present (float32 at least), sums are taken in it in the order above with the base
    last, and are rounded once into each output. A weight of exactly 0 does not read its input. z_k
    is the standard normal of ``normal(keys, streams[k])``, (B, ...), one number for all outputs.

    With ``error`` the weights have one row more, whose value e is not stored: error.out[b] <- the
    root mean square over the sample of e / (atol + rtol * max(|ins[0]|, |outs[0]|)).

    An output may be an input, of the same layout; any other overlap is not allowed.
    """
    _check_combine(outs, ins, weights, base, len(streams), error)
    wide = torch.promote_types(torch.float32, _widest([*outs, *ins]))
    given = outs
    outs = [torch.empty_like(o) if _shares(o, ins) else o for o in outs]
    like = outs[0] if outs else ins[0]
    terms = [*ins, *(normal_like(like, keys, s, wide) for s in streams)]
    for i, out in enumerate(outs):
        total = out if out.dtype == wide else torch.empty_like(out, dtype=wide)
        _sum_into(total, terms, _row(weights, i, len(terms), out.dim()))
        if base[i] >= 0:
            total.add_(ins[base[i]])
        if total is not out:
            out.copy_(total)
    if error is not None:
        e = torch.empty_like(ins[0], dtype=wide)
        _sum_into(e, terms, _row(weights, len(outs), len(terms), e.dim()))
        rms(error.out, e, ins[0], outs[0], error.rtol, error.atol)
    for target, value in zip(given, outs, strict=True):
        if target is not value:
            target.copy_(value)


def _check_combine(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Weights,
    base: Sequence[int],
    noises: int,
    error: ErrorNorm | None,
) -> None:
    refusals.other_shapes("combine", [*outs, *ins], ins[0].shape)
    refusals.bases(base, len(outs), len(ins))
    rows = len(outs) + (error is not None)
    refusals.table("combine", weights, rows, len(ins) + noises, _batch(ins[0]))
    refusals.lossy("combine", outs, torch.promote_types(torch.float32, _widest(ins)))


def combined(
    ins: Sequence[Tensor],
    weights: Tensor,
    base: Sequence[int],
    keys: Tensor | None,
    streams: Sequence[int],
    dtypes: Sequence[torch.dtype],
) -> list[Tensor]:
    """``combine`` into new tensors, as plain torch ops that torch.func can transform."""
    results = [torch.empty(0, dtype=d) for d in dtypes]
    wide = torch.promote_types(torch.float32, _widest([*ins, *results]))
    normals = [normal_like(ins[0], keys, s, wide) for s in streams]
    terms = [*(x.to(wide) for x in ins), *normals]
    outs = []
    for i, dtype in enumerate(dtypes):
        total = torch.zeros_like(terms[0])
        for j, x in enumerate(terms):
            w = weights[..., i, j].to(wide)
            w = w.reshape(-1, *[1] * (x.dim() - 1)) if w.dim() else w
            total = total + torch.where(w == 0, 0.0, w * x)
        outs.append((total + terms[base[i]] if base[i] >= 0 else total).to(dtype))
    return outs


@op(
    writes=("outs",),
    device="ins",
    left={"native": "a host reads the row of a table itself"},
    traced=False,
)
def combine_row(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Tensor,
    codes: Tensor,
    row: Tensor,
    keys: Tensor,
) -> None:
    """``combine`` with the coefficients of one row of a table on the device, so that a captured
    graph can be fed others.

    ``weights`` is (rows, n_out, n_in + n_streams) float64; ``codes`` (rows, n_out + n_streams)
    int64: the base of each output (-1 none, -2: this output is left alone), then the streams;
    ``row`` holds one int64. An output may be an input. A row or column of zeros is not read, a
    stream whose weights are all 0 is not drawn."""
    block = weights[int(row)]
    code = codes[int(row)].tolist()
    base = code[: len(outs)]
    streams = code[len(outs) :]
    live = [i for i in range(len(outs)) if base[i] > -2]
    n = len(ins)
    drawn = [k for k in range(len(streams)) if bool(block[:, n + k].any())]
    columns = [*range(n), *(n + k for k in drawn)]
    rows = block[live][:, columns].tolist()
    combine(
        [outs[i] for i in live],
        ins,
        rows,
        [base[i] for i in live],
        keys,
        [streams[k] for k in drawn],
    )


@op(writes=("out",), device="out")
def normal(out: Tensor, keys: Tensor, stream: Tensor | int, kind: str = "normal") -> None:
    """out (B, ...) <- numbers of a stream: standard normals, or signs with ``kind`` "rademacher".

    ``keys`` (B, 2) int64 holds (seed, sample id) of each sample, the id in [0, 2^32). The element
    number is the logical index within the sample, whatever the strides. The numbers are float32 in
    every dtype, rounded where it is narrower."""
    refusals.kind_of_noise(kind)
    refusals.lossy("normal", [out], torch.float32)
    draw = philox.normals if kind == "normal" else philox.signs
    sample = out.shape[1:].numel()
    out.copy_(draw(refusals.keys(keys, _batch(out)), stream, sample).reshape(out.shape))


@op(writes=("outs",), device="outs")
def normal_sums(
    outs: Sequence[Tensor],
    keys: Tensor,
    streams: Sequence[int] | Tensor,
    weights: Weights,
    accumulate: bool = False,
) -> None:
    """outs[i] (B, ...) <- sum_k weights[i, k] z_k, added to what is there with ``accumulate``; z_k
    are standard normals.

    ``streams`` is (K,), or (B, K) for streams of each sample's own; ``weights`` (n_out, K) or (B,
    n_out, K). Both may be plain numbers where samples share them. K may be as large as one likes:
    nothing of the outputs' size is made. Weights are rounded to the widest type of the outputs
    (float32 at least), sums are taken in it in the order of k, from what is there or 0 on, and
    rounded once. A stream whose weights are all 0 is not drawn."""
    refusals.other_shapes("normal_sums", outs, outs[0].shape)
    refusals.lossy("normal_sums", outs, torch.float32)
    wide = torch.promote_types(torch.float32, _widest(outs))
    device = outs[0].device
    number = philox.streams(streams, device)
    refusals.table("normal_sums", weights, len(outs), number.shape[-1], _batch(outs[0]))
    table = torch.as_tensor(weights, dtype=torch.float64, device=device).to(wide)
    totals = [o.to(wide) if accumulate else torch.zeros_like(o, dtype=wide) for o in outs]
    for k in table.flatten(0, -2).any(0).nonzero().flatten().tolist():
        z = normal_like(totals[0], keys, number[..., k], wide)
        for i, total in enumerate(totals):
            total += _column(table[..., i, k], z) * z
    for out, total in zip(outs, totals, strict=True):
        out.copy_(total)


def normal_like(x: Tensor, keys: Tensor | None, stream: Tensor | int, dtype: torch.dtype) -> Tensor:
    """The standard normals of a stream in the shape of x."""
    return (
        philox.normals(refusals.keys(keys, _batch(x)), stream, x.shape[1:].numel())
        .reshape(x.shape)
        .to(dtype)
    )


@op(writes=("out",), device="e")
def rms(
    out: Tensor,
    e: Tensor,
    y0: Tensor,
    y1: Tensor,
    rtol: Scale,
    atol: Scale,
) -> None:
    """out (B,) <- root mean square over each sample of e / (atol + rtol * max(|y0|, |y1|)); 0 for
    an empty sample.

    The ratio is taken in the widest type of the three, float32 at least.
    """
    _check_reduction("rms", out, e, y0, y1)
    size = torch.maximum(y0.abs(), y1.abs())
    batch = _batch(e)
    e = e.to(torch.promote_types(torch.float32, _widest([e, y0, y1])))
    r = refusals.scale("rtol", rtol, batch)
    a = refusals.scale("atol", atol, batch)
    scale = _column(a, e) + _column(r, e) * size.to(e.dtype)
    out.copy_(_mean((e / scale).double().square()).sqrt())


@op(writes=("out",), device="a")
def inner(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Scale = 1.0,
    accumulate: bool = False,
) -> None:
    """out (B,) <- weight * sum over each sample of a * b, added to what is there with
    ``accumulate``."""
    _check_reduction("inner", out, a, b)
    w = refusals.scale("weight", weight, _batch(a))
    w = w.reshape(-1) if isinstance(w, Tensor) else w
    value = _flat(a.double() * b.double()).sum(1) * w
    out.copy_(out + value if accumulate else value)


@op(writes=("out",), device="v")
def quadratic_form(
    out: Tensor,
    v: Tensor,
    keys: Tensor,
    stream: Tensor | int,
    kind: str = "rademacher",
    weight: Scale = 1.0,
    accumulate: bool = False,
) -> None:
    """out (B,) <- weight * sum over each sample of eps * v, with eps the numbers that ``normal``
    draws."""
    refusals.complex_numbers("quadratic_form", [v])
    eps = torch.empty_like(v, dtype=torch.promote_types(v.dtype, torch.float32))
    normal(eps, keys, stream, kind)
    inner(out, eps, v, weight, accumulate)


@op(writes=("out",), device="x", left={"triton": "torch sorts segments at the speed of memory"})
def quantile(out: Tensor, x: Tensor, q: float) -> None:
    """out (B,) <- the q-quantile of |x| over each sample, interpolated linearly between order
    statistics."""
    _check_reduction("quantile", out, x)
    refusals.quantile(x, q)
    wide = torch.promote_types(x.dtype, torch.float32)
    flat = _flat(x.abs()).to(wide).sort(dim=1).values
    if not flat.numel():  # no samples
        return
    place = q * (flat.shape[1] - 1)
    low = min(int(place), flat.shape[1] - 1)
    high = min(low + 1, flat.shape[1] - 1)
    below = flat[:, low]
    out.copy_(below + (place - low) * (flat[:, high] - below))


@op(writes=("out", "residual"), device="out")
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
) -> None:
    """The Picard update of a window: new states of points 1 to P from the values at all points, and
    how far they moved.

    out[p] <- prev + (growth[p] * prev + sum_j weights[p, j] * ins[j][p] (+ weights[p, n_in] *
    z_p)), prev = out[p - 1], or ``origin`` for p = 0; residual[p, b] <- mean over sample b of
    (out[p] - old[p])^2. ``out``, ``old`` and ins are (P, B, ...), ``origin`` (B, ...), ``residual``
    (P, B); ``growth`` is (P,) or (P, B), ``weights`` (P, n) or (P, B, n) and ``streams`` (P,) or
    (P, B), so that every sample may have a window of its own. Sums as in ``combine``. ``out`` may
    be ``old``."""
    refusals.window(out, residual, origin, [old, *ins], {"growth": growth, "streams": streams})
    points, batch = out.shape[:2]
    refusals.table_of_points("weights", weights, points, batch, len(ins) + (streams is not None))
    refusals.lossy("window", [out], torch.promote_types(torch.float32, _widest([origin, *ins])))
    wide = torch.promote_types(torch.float32, _widest([out, origin, *ins]))
    given = out
    out = torch.empty_like(out) if _shares(out, [origin, *ins]) else out
    rows = weights if weights.dim() == 3 else weights[:, None].expand(points, batch, -1)
    rows = rows.to(wide)
    grow = _each(growth, points, batch).to(wide)
    drawn = None if streams is None else _each(streams, points, batch)
    prev = origin.to(wide)
    for p in range(points):
        terms = [x[p] for x in ins]
        if drawn is not None:
            terms.append(normal_like(prev, keys, drawn[p], wide))
        prev = _moved_on(prev, terms, rows[p], grow[p])
        residual[p] = _mean((prev - old[p]).double().square())
        out[p] = prev
    if out is not given:
        given.copy_(out)


def _moved_on(prev: Tensor, terms: Sequence[Tensor], row: Tensor, growth: Tensor) -> Tensor:
    """The state of the next point, from that of the last one and what is added to it."""
    change = torch.empty_like(prev)
    grown = _column(growth, prev) * prev
    _sum_into(change, terms, [_column(row[:, j], prev) for j in range(len(terms))])
    return prev + (grown + change)


def _each(table: Tensor, points: int, batch: int) -> Tensor:
    """A table of points, or of points and samples, as the latter."""
    return (table if table.dim() == 2 else table[:, None]).expand(points, batch)


@op(
    writes=("order",), device="cost", left={"triton": "one path after another is no work for a GPU"}
)
def assignment(order: Tensor, cost: Tensor) -> None:
    """order (n,) int64 <- the column of every row of cost (n, n), each column once, of least total
    cost.

    Of several such orders any may come out, the same one every time.
    """
    refusals.assignment(order, cost)
    from scipy.optimize import linear_sum_assignment  # 0.3 s that only those pay who use it

    _, columns = linear_sum_assignment(cost.detach().double().cpu().numpy())
    order.copy_(torch.from_numpy(columns))


def _row(weights: Weights, i: int, n: int, dim: int) -> Sequence[Scale]:
    if not isinstance(weights, Tensor):
        return [float(w) for w in weights[i]]
    if weights.dim() == 2:
        return weights[i].tolist()
    return [weights[:, i, j].reshape(_along(dim)) for j in range(n)]


def _along(dim: int) -> tuple[int, ...]:
    """The shape that lays numbers of samples along the first of so many dimensions; without any
    there is one sample."""
    if dim:
        return (-1, *[1] * (dim - 1))
    return ()


def _sum_into(total: Tensor, ins: Sequence[Tensor], row: Sequence[Scale]) -> None:
    """total <- the weighted sum of ins, with the bits of ``combined``: no product is fused with its
    sum, as ``add_(x, alpha=w)`` would."""
    weighed = zip(ins, row, strict=True)
    terms = [(x, w) for x, w in weighed if isinstance(w, Tensor) or w != 0.0]
    if not terms:
        total.zero_()
    for k, (x, w) in enumerate(terms):
        if isinstance(w, Tensor):
            w = w.to(total.dtype)
            term = torch.where(w == 0, 0.0, x.to(total.dtype) * w)
            if k:
                total.add_(term)
            else:
                total.copy_(term)
        elif k:
            total.add_(x.to(total.dtype) * w)
        elif x.dtype == total.dtype:
            torch.mul(x, w, out=total)
        else:
            total.copy_(x).mul_(w)


def _column(value: Scale, like: Tensor) -> Scale:
    if isinstance(value, Tensor):
        return value.to(like.dtype).reshape(_along(like.dim()))
    return value


def _batch(x: Tensor) -> int:
    """Samples: a tensor without dimensions is one sample of one element."""
    return x.shape[:1].numel()


def _flat(x: Tensor) -> Tensor:
    """Samples as rows; those of a tensor of one dimension have one element each."""
    return x.reshape(_batch(x), x.shape[1:].numel())


def _mean(x: Tensor) -> Tensor:
    flat = _flat(x)
    return flat.sum(1) / max(flat.shape[1], 1)


def _shares(x: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether x may overlap one of them: what is written into it could be read there."""
    places = {key for o in others for key in (o.data_ptr(), o.untyped_storage()._cdata)}
    return x.data_ptr() in places or x.untyped_storage()._cdata in places


def _check_reduction(op: str, out: Tensor, x: Tensor, *others: Tensor) -> None:
    refusals.other_shapes(op, others, x.shape)
    refusals.complex_numbers(op, [x, *others])
    refusals.other_samples(op, out, _batch(x))


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    wide = tensors[0].dtype
    for t in tensors:
        if t.dtype != wide:
            wide = torch.promote_types(wide, t.dtype)
    return wide
