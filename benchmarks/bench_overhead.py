"""What planning and the loop cost outside the network.

A plan beside a sum of ten thousand numbers in Python, by which the speed of the interpreter
cancels, and a call of the network in the loop, with a network that returns its input, beside the
loop's ops alone on the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from odesolve.kernels.dispatch import combine
from timing import OURS, Case

import odesolve as ode
from odesolve import run
from odesolve.lowering.lower import Block, lower
from odesolve.planning import planner

PATH = ode.paths.VP()
SOLVERS = ("euler", "ddim", "dpmpp_2m", "unipc_2", "ipndm_4", "deis_tab2", "heun_edm", "rk4")
ROWS, SHAPE = 50, (1, 4, 8, 8)
TESTS = ("tests/plan", "tests/run")
PYTHON = "a sum in Python"
solvers = pytest.mark.parametrize("solver", SOLVERS)


@pytest.mark.parametrize("contender", [OURS, PYTHON])
@solvers
def bench_plan(in_turn, solver):
    """A plan that was not made before."""
    in_turn(_fresh_plan, solver)


@pytest.mark.parametrize("contender", [OURS, PYTHON])
@solvers
def bench_cached_plan(in_turn, solver):
    """A plan that was made before."""
    in_turn(_cached_plan, solver)


@pytest.mark.parametrize("contender", [OURS, "ops alone"])
@solvers
def bench_loop(in_turn, solver):
    """A call of a network that returns its input."""
    in_turn(_loop, solver)


def _sum() -> int:
    return sum(range(10_000))


def _plan(solver: str) -> Callable[[], object]:
    return lambda: ode.plan(solver, PATH, ROWS, "karras")


def _fresh_plan(solver: str) -> Case:
    plan = _plan(solver)

    def fresh() -> None:
        planner._plan.cache_clear()
        plan()

    return Case(contenders={OURS: fresh, PYTHON: _sum})


def _cached_plan(solver: str) -> Case:
    return Case(contenders={OURS: _plan(solver), PYTHON: _sum})


def _loop(solver: str) -> Case:
    model = ode.Model(lambda x, t: x, PATH, "noise")
    x = torch.randn(SHAPE)
    program = lower(_plan(solver)(), PATH, model.reading_for(x.dtype))
    blocks = [op for op in program.ops if isinstance(op, Block)]
    slots = [torch.empty_like(x).normal_() for _ in range(program.slots)]

    def ops() -> None:
        for b in blocks:
            combine([slots[i] for i in b.outs], [slots[i] for i in b.ins], b.weights, b.base)

    contenders = {OURS: lambda: run.run(program, x, None, model), "ops alone": ops}
    return Case(contenders=contenders, per=len(program.times))
