"""Each op beside eager torch, in-place torch and torch.compile on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from odesolve.kernels import dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm
from timing import COPY, OURS, Case

SIZES = (512, 65_536, 1_048_576, 4_194_304, 16_777_216)
WEIGHTS = (0.7, -0.2, 0.4, 0.1, -0.3)
TESTS = ("tests/kernels",)


def cases() -> Iterator[Case]:
    """Every op at every size."""
    for n in SIZES:
        for k in (3, 5):
            yield _combine(k, n)
        yield _noisy(n)
        yield _normal(n)
    for batch, n in ((1, 512), (4, 16_384), (16, 1_048_576)):
        yield _error_norm(batch, n)
    for points, *shape in ((16, 1, 512), (16, 4, 16_384), (32, 16, 16_384), (64, 16, 3, 32, 32)):
        yield _window(points, shape)
    for batch, n in ((4, 16_384), (16, 1_048_576)):
        yield _inner(batch, n)
        yield _quantile(batch, n)


def _tensors(count: int, *shape: int) -> list[torch.Tensor]:
    return [torch.randn(shape) for _ in range(count)]


def _combine(k: int, n: int) -> Case:
    ins, out, other = _tensors(k, 1, n), torch.empty(1, n), torch.empty(1, n)
    weights, (source, copied) = (
        torch.tensor([WEIGHTS[:k]], dtype=torch.float64),
        _tensors(2, n * (k + 1) // 2),
    )

    def eager():
        total = WEIGHTS[0] * ins[0]
        for w, x in zip(WEIGHTS[1:], ins[1:], strict=False):
            total = total + w * x
        return total

    def in_place():
        torch.mul(ins[0], WEIGHTS[0], out=other)
        for w, x in zip(WEIGHTS[1:], ins[1:], strict=False):
            other.add_(x, alpha=w)

    compiled = torch.compile(lambda: other.copy_(eager()), dynamic=False)
    contenders = {
        OURS: lambda: dispatch.combine([out], ins, weights, (-1,)),
        "eager": eager,
        "eager in place": in_place,
        "torch.compile into out": compiled,
        "copy_": lambda: other.copy_(ins[0]),
        # whether it fits the cache is decided by the same number of bytes
        COPY: lambda: copied.copy_(source),
    }
    return Case("combine", f"{k} inputs", str(n), contenders, 4 * n * (k + 1))


def _noisy(n: int) -> Case:
    ins, out, other = _tensors(2, 1, n), torch.empty(1, n), torch.empty(1, n)
    weights, keys = (
        torch.tensor([[0.7, -0.2, 0.4]], dtype=torch.float64),
        philox.keys(0, torch.arange(1)),
    )

    def eager():
        return 0.7 * ins[0] + -0.2 * ins[1] + 0.4 * torch.randn_like(ins[0])

    contenders = {
        OURS: lambda: dispatch.combine([out], ins, weights, (-1,), keys, (3,)),
        "eager": eager,
        "torch.compile into out": torch.compile(lambda: other.copy_(eager()), dynamic=False),
        "torch.randn alone": lambda: torch.randn(1, n, out=other),
    }
    return Case("combine", "2 inputs and noise", str(n), contenders, 12 * n)


def _normal(n: int) -> Case:
    out, other, keys = torch.empty(1, n), torch.empty(1, n), philox.keys(0, torch.arange(1))
    contenders = {
        OURS: lambda: dispatch.normal(out, keys, 3),
        "torch.randn": lambda: torch.randn(1, n, out=other),
    }
    return Case("normal", "fill", str(n), contenders, 4 * n)


def _error_norm(batch: int, n: int) -> Case:
    ins, out, norm = _tensors(4, batch, n), torch.empty(batch, n), torch.empty(batch)
    rows = [[0.0, 0.1, 0.2, 0.3], [0.0, 0.01, -0.02, 0.01]]
    weights, error = torch.tensor(rows, dtype=torch.float64), ErrorNorm(norm, 1e-3, 1e-4)

    def eager():
        y, a, b, c = ins
        new = y + 0.1 * a + 0.2 * b + 0.3 * c
        e = 0.01 * a - 0.02 * b + 0.01 * c
        return new, (e / (1e-4 + 1e-3 * torch.maximum(y.abs(), new.abs()))).square().mean(1).sqrt()

    contenders = {
        OURS: lambda: dispatch.combine([out], ins, weights, (0,), None, (), error),
        "eager": eager,
        "torch.compile": torch.compile(eager, dynamic=False),
    }
    return Case("combine", "step and error norm", f"{batch}x{n}", contenders, 20 * batch * n)


def _window(points: int, shape: list[int]) -> Case:
    old, moved, out, other = _tensors(4, points, *shape)
    origin, (residual, gap) = torch.randn(shape), torch.empty(2, points, shape[0])
    weights, growth = (
        torch.full((points, 2), 0.1, dtype=torch.float64),
        torch.full((points,), -0.05, dtype=torch.float64),
    )

    def loop():
        prev = origin
        for p in range(points):
            prev = 0.95 * prev + 0.1 * old[p] + 0.1 * moved[p]
            other[p] = prev
        return (other - old).square().flatten(2).mean(2)

    def cumulative():
        change = 0.1 * old + 0.1 * moved
        factors = torch.full((points, *[1] * len(shape)), 0.95).cumprod(0)
        new = factors * (origin + (change / factors).cumsum(0))
        return new, (new - old).square().flatten(2).mean(2)

    contenders = {
        OURS: lambda: dispatch.window(out, residual, origin, old, (old, moved), weights, growth),
        "reference": lambda: reference.window(
            other, gap, origin, old, (old, moved), weights, growth
        ),
        "torch loop": loop,
        "torch cumsum": cumulative,
        "torch.compile": torch.compile(loop, dynamic=False),
    }
    return Case(
        "window", f"{points} points", "x".join(map(str, shape)), contenders, 12 * out.numel()
    )


def _inner(batch: int, n: int) -> Case:
    a, b = _tensors(2, batch, n)
    out = torch.empty(batch)
    contenders = {OURS: lambda: dispatch.inner(out, a, b), "eager": lambda: (a * b).sum(1)}
    return Case("inner", "product", f"{batch}x{n}", contenders, 8 * batch * n)


def _quantile(batch: int, n: int) -> Case:
    x, out = torch.randn(batch, n), torch.empty(batch)
    contenders = {
        OURS: lambda: dispatch.quantile(out, x, 0.995),
        "torch.quantile": lambda: torch.quantile(x.abs(), 0.995, dim=1),
    }
    return Case("quantile", "|x| at 0.995", f"{batch}x{n}", contenders, 4 * batch * n, rounds=5)
