"""Queries of a Brownian path beside torchsde's tree and interval, and whole SDE solves beside its.

Paths on [0, 1] are resolved to 1e-6, torchsde's default: 2^-20. Every path answers its queries one
after the other and keeps what it likes; a round goes on where the last one stopped. "in order" are
the intervals of a solve with 10,000 steps, "anywhere" the same 10,000 intervals shuffled, "wide"
10,000 intervals between two random times.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
import torchsde
from timing import OURS, Case

import odesolve as ode

TESTS = ("tests/noise", "tests/sde", "tests/kernels/test_sums.py")
SHAPES = ((256, 2), (1, 4, 64, 64))
QUERIES, DEPTH, SOME = 10_000, 20, 100
# A power of 2: where the floats dt do not add up to 1, torchsde takes a last step of 1e-15, which
# costs it a second.
STEPS = 128


warnings.filterwarnings("ignore", category=UserWarning, module="torchsde")


@pytest.mark.parametrize("contender", [OURS, "torchsde tree", "torchsde interval"])
@pytest.mark.parametrize("order", ["in order", "anywhere", "wide"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_query(in_turn, order, shape):
    """Queries in every order at both sizes."""
    in_turn(_paths, order, shape)


@pytest.mark.parametrize("contender", [OURS, "torchsde"])
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def bench_step_of_additive_euler(in_turn, tree, shape):
    """A step of a solve, with independent increments or on a tree."""
    in_turn(_solves, tree, shape)


def _intervals(order: str) -> list[tuple[float, ...]]:
    grid = [(i / QUERIES, (i + 1) / QUERIES) for i in range(QUERIES)]
    rng = random.Random(0)
    if order == "in order":
        return grid
    if order == "anywhere":
        return rng.sample(grid, len(grid))
    return [tuple(sorted((rng.random(), rng.random()))) for _ in range(QUERIES)]


def _paths(order: str, shape: tuple[int, ...]) -> Case:
    zero, intervals = torch.zeros(shape), _intervals(order)
    contenders = {
        OURS: _queries(ode.BrownianPath(shape, depth=DEPTH), intervals),
        "torchsde tree": _queries(
            torchsde.BrownianTree(t0=0.0, w0=zero, t1=1.0, entropy=0), intervals
        ),
        "torchsde interval": _queries(
            torchsde.BrownianInterval(0.0, 1.0, size=shape, entropy=0), intervals
        ),
    }
    return Case(contenders=contenders, per=SOME)


def _solves(tree: bool, shape: tuple[int, ...]) -> Case:
    return Case(
        contenders={OURS: _ours(shape, tree), "torchsde": _torchsde(shape, tree)}, per=STEPS
    )


def _queries(path: Callable, intervals: Sequence[tuple[float, ...]]) -> Callable:
    """A function that asks for the next SOME of the intervals."""
    coming = itertools.cycle(intervals)

    def run():
        for s, t in itertools.islice(coming, SOME):
            path(s, t)

    return run


class _Equation:
    """A drift that costs nothing, and additive noise."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, n: int, batch: int):
        self.drift, self.spread = torch.randn(batch, n), torch.full((batch, n), 0.5)

    def f(self, t, y):
        return self.drift

    def g(self, t, y):
        return self.spread


def _ours(shape, tree: bool) -> Callable:
    y = torch.zeros(shape).flatten(1)
    equation = _Equation(y.shape[1], y.shape[0])
    return lambda: ode.solve_sde(
        equation.f, 0.5, y, noise="additive", steps=STEPS, seed=0, tree=tree, progress=False
    )


def _torchsde(shape, tree: bool) -> Callable:
    y, ts = torch.zeros(shape).flatten(1), torch.tensor([0.0, 1.0])
    equation = _Equation(y.shape[1], y.shape[0])

    def run():
        bm = (
            torchsde.BrownianTree(t0=0.0, w0=torch.zeros_like(y), t1=1.0, entropy=0)
            if tree
            else None
        )
        torchsde.sdeint(equation, y, ts, bm=bm, dt=1.0 / STEPS, method="euler")

    return run
