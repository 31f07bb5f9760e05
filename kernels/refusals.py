"""What no op takes, said in one sentence each: the fused kernels leave such arguments to the
reference, which asks here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown

KINDS = ("normal", "rademacher")


def known(kind: object) -> bool:
    """Whether it names a kind of noise."""
    return isinstance(kind, str) and kind in KINDS


def kind_of_noise(kind: object) -> None:
    """Refuse a kind of numbers that nobody draws."""
    if not known(kind):
        raise unknown("kind of noise", kind, KINDS)


def other_shapes(op: str, tensors: Sequence[Tensor], shape: Sequence[int]) -> None:
    """Refuse tensors that are not of one shape: torch would spread the smaller ones, and resize an
    output."""
    for x in tensors:
        if x.shape != torch.Size(shape):
            raise OdesolveError(
                f"{op}: a tensor of shape {tuple(x.shape)} stands where {tuple(shape)} is "
                "expected: give all of one shape"
            )


def other_samples(op: str, out: Tensor, batch: int) -> None:
    """Refuse an output that does not hold one number per sample."""
    if out.shape != (batch,):
        raise OdesolveError(
            f"{op}: out has shape {tuple(out.shape)} for {batch} samples: give ({batch},)"
        )


def lossy(op: str, outs: Sequence[Tensor], value: torch.dtype) -> None:
    """Refuse outputs that would drop a part of every value: its imaginary part, or what stands
    behind the point."""
    for out in outs:
        if not torch.can_cast(value, out.dtype):
            raise OdesolveError(
                f"{op}: {out.dtype} cannot hold values of {value}: give an output of {value}"
            )


def complex_numbers(op: str, tensors: Sequence[Tensor]) -> None:
    """Refuse complex tensors where an op is one of real numbers."""
    if any(x.is_complex() for x in tensors):
        raise OdesolveError(
            f"{op} takes real numbers, and a tensor is complex: give torch.view_as_real(x)"
        )


def keys(given: Tensor | None, batch: int) -> Tensor:
    """The keys, refused unless there is a row of two for each sample."""
    if given is None:
        raise OdesolveError(
            "noise streams need keys, and keys is None: give (B, 2) int64, a row "
            "(seed, id) a sample"
        )
    if given.dtype != torch.int64 or given.shape != (batch, 2):
        raise OdesolveError(
            f"keys of shape {tuple(given.shape)} in {given.dtype} for {batch} samples: give "
            f"({batch}, 2) in torch.int64"
        )
    return given


def streams(given: object, numbers: Tensor | None, batch: int | None = None) -> Tensor:
    """Numbers of streams. Raises OdesolveError unless they are whole, and there is one of them or
    one per sample."""
    whole = numbers is not None and not (numbers.is_floating_point() or numbers.is_complex())
    if numbers is None or not (whole or numbers.numel() == 0):
        raise OdesolveError(
            f"stream {given!r} is no whole number: give an int, or a tensor of them"
        )
    if batch is not None and numbers.numel() not in (1, batch):
        raise OdesolveError(
            f"{numbers.numel()} streams for {batch} samples: give one, or one for each sample"
        )
    return numbers


def scale(name: str, value: object, batch: int) -> float | Tensor:
    """A number, or a tensor with one for each sample; anything else is refused."""
    if isinstance(value, Tensor):
        if value.numel() not in (1, batch) or value.is_complex():
            raise OdesolveError(
                f"{name} of shape {tuple(value.shape)} in {value.dtype} for {batch} samples: give "
                "a real number, or one per sample"
            )
        return value
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise OdesolveError(
            f"{name}={value!r}: give a number, or a tensor with one for each of the {batch} samples"
        ) from None


def table(
    op: str,
    weights: Tensor | Sequence[Sequence[float]],
    rows: int,
    columns: int,
    batch: int,
) -> None:
    """Refuse weights that are not (rows, columns), or one such block per sample: what is over would
    not be read."""
    shape = tuple(weights.shape) if isinstance(weights, Tensor) else _shape_of(weights, columns)
    if shape[-2:] != (rows, columns) or shape[:-2] not in ((), (1,), (batch,)):
        raise OdesolveError(
            f"{op}: weights of shape {shape}: give ({rows}, {columns}), or ({batch}, {rows}, "
            f"{columns}) for each sample's own"
        )


def _shape_of(rows, columns: int) -> tuple[int, int]:
    """Of rows in lists; where there is none it has as many columns as one likes, where they differ
    -1."""
    lengths = {len(row) for row in rows} or {columns}
    return len(rows), lengths.pop() if len(lengths) == 1 else -1


def bases(base: Sequence[int], outs: int, ins: int) -> None:
    """Refuse bases that are no inputs: -1 says that there is none."""
    if len(base) != outs or any(not -1 <= b < ins or b != int(b) for b in base):
        raise OdesolveError(
            f"base={list(base)!r} for {outs} outputs and {ins} inputs: give -1 or an input's "
            "place for each"
        )


def quantile(x: Tensor, q: float) -> None:
    """Refuse what is no quantile, and samples that have none."""
    if not 0.0 <= q <= 1.0:
        raise OdesolveError(f"q={q!r} is no quantile: give a number from 0 to 1")
    if x.shape[1:].numel() == 0 and x.shape[:1].numel():
        raise OdesolveError(
            f"x has shape {tuple(x.shape)}: a quantile needs samples of at least one element"
        )


def assignment(order: Tensor, cost: Tensor) -> None:
    """Refuse costs that have no least order, and what cannot hold it."""
    n = len(cost) if cost.dim() else 0
    floats = cost.shape == (n, n) and cost.is_floating_point()
    if not floats or not bool(torch.isfinite(cost).all()):
        raise OdesolveError(
            f"cost is {cost.dtype} of shape {tuple(cost.shape)}: give finite floats of shape (n, n)"
        )
    if order.shape != (n,) or order.dtype != torch.int64:
        raise OdesolveError(
            f"order is {order.dtype} of shape {tuple(order.shape)}: give int64 of shape ({n},)"
        )


def window(
    out: Tensor,
    residual: Tensor,
    origin: Tensor,
    others: Sequence[Tensor],
    tables: dict[str, Tensor | None],
) -> None:
    """Refuse what does not fit the points and samples of a window."""
    if out.dim() < 2:
        raise OdesolveError(
            f"window: out has shape {tuple(out.shape)}: give (points, samples, ...)"
        )
    other_shapes("window", others, out.shape)
    other_shapes("window", [origin], out.shape[1:])
    other_shapes("window", [residual], out.shape[:2])
    for name, table in tables.items():
        if table is not None:
            table_of_points(name, table, *out.shape[:2])


def table_of_points(
    name: str,
    table: Tensor,
    points: int,
    batch: int,
    *columns: int,
) -> None:
    """Refuse a table that is not one of points, or of points and samples."""
    one = (points, *columns)
    each = (points, batch, *columns)
    if table.shape not in (one, each):
        raise OdesolveError(f"window: {name} of shape {tuple(table.shape)}: give {one} or {each}")
