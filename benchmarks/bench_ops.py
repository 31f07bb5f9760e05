"""Each op beside eager torch, in-place torch and torch.compile on the same tensors."""

from __future__ import annotations

import functools

import pytest
import torch
from odesolve.kernels import dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm
from timing import COPY, OURS, Case

SIZES = (512, 65_536, 1_048_576, 4_194_304, 16_777_216)
WEIGHTS = (0.7, -0.2, 0.4, 0.1, -0.3)
WINDOWS = ((16, 1, 512), (16, 4, 16_384), (32, 16, 16_384), (64, 16, 3, 32, 32))
TESTS = ("tests/kernels",)


LARGE_BATCHES = ((4, 16_384), (16, 1_048_576))
contenders = functools.partial(pytest.mark.parametrize, "contender")


@contenders((OURS, "eager", "eager in place", "torch.compile into out", "copy_", COPY))
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("n", SIZES)
def bench_combine(in_turn, k, n):
    """A weighted sum."""
    in_turn(_combine, k, n)


@contenders((OURS, "eager", "torch.compile into out", "torch.randn alone"))
@pytest.mark.parametrize("n", SIZES)
def bench_combine_with_noise(in_turn, n):
    """A weighted sum of two inputs and noise."""
    in_turn(_noisy, n)


@contenders((OURS, "torch.randn"))
@pytest.mark.parametrize("n", SIZES)
def bench_normal(in_turn, n):
    """Noise."""
    in_turn(_normal, n)


@contenders((OURS, "eager", "torch.compile"))
@pytest.mark.parametrize("shape", [(1, 512), *LARGE_BATCHES])
def bench_step_and_error_norm(in_turn, shape):
    """A step of an adaptive solver with the norm of its error."""
    in_turn(_error_norm, *shape)


@contenders((OURS, "reference", "torch loop", "torch cumsum", "torch.compile"))
@pytest.mark.parametrize("shape", WINDOWS)
def bench_window(in_turn, shape):
    """A round over a window of so many points."""
    in_turn(_window, *shape)


@contenders((OURS, "eager"))
@pytest.mark.parametrize("shape", LARGE_BATCHES)
def bench_inner(in_turn, shape):
    """Inner products."""
    in_turn(_inner, *shape)


@contenders((OURS, "torch.quantile"))
@pytest.mark.parametrize("shape", LARGE_BATCHES)
def bench_quantile(in_turn, shape):
    """The 0.995 quantile of |x|."""
    in_turn(_quantile, *shape)


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
    rivals = {
        OURS: lambda: dispatch.combine([out], ins, weights, (-1,)),
        "eager": eager,
        "eager in place": in_place,
        "torch.compile into out": compiled,
        "copy_": lambda: other.copy_(ins[0]),
        COPY: lambda: copied.copy_(
            source
        ),  # whether it fits the cache is decided by the same number of bytes
    }
    return Case(contenders=rivals, bytes=4 * n * (k + 1))


def _noisy(n: int) -> Case:
    ins, out, other = _tensors(2, 1, n), torch.empty(1, n), torch.empty(1, n)
    weights, keys = (
        torch.tensor([[0.7, -0.2, 0.4]], dtype=torch.float64),
        philox.keys(0, torch.arange(1)),
    )

    def eager():
        return 0.7 * ins[0] + -0.2 * ins[1] + 0.4 * torch.randn_like(ins[0])

    rivals = {
        OURS: lambda: dispatch.combine([out], ins, weights, (-1,), keys, (3,)),
        "eager": eager,
        "torch.compile into out": torch.compile(lambda: other.copy_(eager()), dynamic=False),
        "torch.randn alone": lambda: torch.randn(1, n, out=other),
    }
    return Case(contenders=rivals, bytes=12 * n)


def _normal(n: int) -> Case:
    out, other, keys = torch.empty(1, n), torch.empty(1, n), philox.keys(0, torch.arange(1))
    rivals = {
        OURS: lambda: dispatch.normal(out, keys, 3),
        "torch.randn": lambda: torch.randn(1, n, out=other),
    }
    return Case(contenders=rivals, bytes=4 * n)


def _error_norm(batch: int, n: int) -> Case:
    ins, out, norm = _tensors(4, batch, n), torch.empty(batch, n), torch.empty(batch)
    rows = [[0.0, 0.1, 0.2, 0.3], [0.0, 0.01, -0.02, 0.01]]
    weights, error = torch.tensor(rows, dtype=torch.float64), ErrorNorm(norm, 1e-3, 1e-4)

    def eager():
        y, a, b, c = ins
        new = y + 0.1 * a + 0.2 * b + 0.3 * c
        e = 0.01 * a - 0.02 * b + 0.01 * c
        return new, (e / (1e-4 + 1e-3 * torch.maximum(y.abs(), new.abs()))).square().mean(1).sqrt()

    rivals = {
        OURS: lambda: dispatch.combine([out], ins, weights, (0,), None, (), error),
        "eager": eager,
        "torch.compile": torch.compile(eager, dynamic=False),
    }
    return Case(contenders=rivals, bytes=20 * batch * n)


def _window(points: int, *shape: int) -> Case:
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

    rivals = {
        OURS: lambda: dispatch.window(out, residual, origin, old, (old, moved), weights, growth),
        "reference": lambda: reference.window(
            other, gap, origin, old, (old, moved), weights, growth
        ),
        "torch loop": loop,
        "torch cumsum": cumulative,
        "torch.compile": torch.compile(loop, dynamic=False),
    }
    return Case(contenders=rivals, bytes=12 * out.numel())


def _inner(batch: int, n: int) -> Case:
    a, b = _tensors(2, batch, n)
    out = torch.empty(batch)
    rivals = {OURS: lambda: dispatch.inner(out, a, b), "eager": lambda: (a * b).sum(1)}
    return Case(contenders=rivals, bytes=8 * batch * n)


def _quantile(batch: int, n: int) -> Case:
    x, out = torch.randn(batch, n), torch.empty(batch)
    rivals = {
        OURS: lambda: dispatch.quantile(out, x, 0.995),
        "torch.quantile": lambda: torch.quantile(x.abs(), 0.995, dim=1),
    }
    return Case(contenders=rivals, bytes=4 * batch * n, rounds=5)
