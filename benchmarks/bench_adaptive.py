"""Adaptive solves beside torchdiffeq and torchode: dopri5 on a small network, at equal tolerances.

``python benchmarks/bench_adaptive.py`` prints, for a network that does nothing, what an accepted
step of dopri5 costs each of them: kernels that would be launched, and passes over the state
(tensors of its size that are read or written).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
import torchdiffeq
import torchode
from odesolve.kernels import dispatch
from timing import OURS, Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import odesolve as ode

TESTS = ("tests/kernels/test_control.py", "tests/ode")
SHAPES = ((1, 2), (256, 2), (64, 64))
RTOL, ATOL, END, HIDDEN = 1e-5, 1e-6, 5.0, 64
STEPS, WARM = 20, 0.05
warnings.filterwarnings("ignore", category=UserWarning, module="torchode")


class Network(torch.nn.Module):
    """A velocity with one hidden layer; times are (B, 1), or one number."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.last = torch.nn.Linear(width + 1, HIDDEN), torch.nn.Linear(HIDDEN, width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.cat([y, t.expand(len(y), 1)], 1))))


rivals = pytest.mark.parametrize("contender", [OURS, "torchdiffeq", "torchode"])


@rivals
@pytest.mark.parametrize("shape", SHAPES)
def bench_dopri5_of_a_small_network(in_turn, shape):
    """Whole solves."""
    in_turn(_small_network, shape)


@rivals
@pytest.mark.parametrize("shape", [*SHAPES, (16, 3, 32, 32)])
def bench_step_of_dopri5_without_a_network(in_turn, shape):
    """What is left of a step under a network that does nothing."""
    in_turn(_no_network, shape)


def _small_network(shape: tuple[int, ...]) -> Case:
    solves = contenders(Network(shape[1]), torch.randn(shape))
    return Case(contenders=solves, least=WARM)


def _no_network(shape: tuple[int, ...]) -> Case:
    constant = torch.randn(shape).flatten(1)
    solves = contenders(functools.partial(answer, constant), constant.clone(), END / STEPS)
    return Case(contenders=solves, per=STEPS, least=WARM)


def answer(constant: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A network that does nothing."""
    return constant


def contenders(f: Callable, y0: Tensor, step: float | None = None) -> dict[str, Callable]:
    """The same solve by everyone; with ``step`` in equal steps of this length."""
    batch = len(y0)

    def ours() -> ode.Solution:
        return ode.solve(f, y0, (0.0, END), rtol=RTOL, atol=ATOL, first_step=step, max_step=step)

    times, options = (
        torch.tensor([0.0, END]),
        {} if step is None else {"first_step": step, "max_step": step},
    )

    def diffeq() -> Tensor:
        return torchdiffeq.odeint(
            f, y0, times, rtol=RTOL, atol=ATOL, method="dopri5", options=options
        )

    term = torchode.ODETerm(lambda t, y: f(t[:, None], y))
    controller = torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term, dt_max=step)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    ends = {"t_start": torch.zeros(batch), "t_end": torch.full((batch,), END)}
    problem = torchode.InitialValueProblem(y0=y0, t_eval=times.expand(batch, 2), **ends)
    first = None if step is None else torch.full((batch,), step)
    return {OURS: ours, "torchdiffeq": diffeq, "torchode": lambda: solver.solve(problem, dt0=first)}


class Counter(TorchDispatchMode):
    """Counts ATen ops that compute, and the tensors of at least ``size`` elements that they
    move."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.launches, self.passes = size, 0, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        schema = func._schema
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        empty = func.overloadpacket.__name__ in (
            "empty",
            "empty_like",
            "new_empty",
            "empty_strided",
            "_local_scalar_dense",
        )
        if not view and not empty:
            written = out if isinstance(out, (tuple, list)) else (out,)
            tensors = [
                x
                for a in (*args, *(kwargs or {}).values(), *written)
                for x in (a if isinstance(a, list) else [a])
            ]
            self.launches += 1
            self.passes += sum(
                x.numel() / self.size
                for x in tensors
                if isinstance(x, Tensor) and x.numel() >= self.size
            )
        return out


@contextmanager
def counted():
    """Counts our ops: [launches, passes]; an input of weight 0 for a sample is not read for it."""
    counts, combine, control = [0, 0.0], dispatch.combine, dispatch.control

    def counting(outs, ins, weights, base, *rest):
        counts[0] += 1
        read = weights[:, :, : len(ins)].ne(0).any(1).float().mean(0)
        for b in base:
            if b >= 0:
                read[b] = 1.0
        counts[1] += len(outs) + float(read.sum())
        combine(outs, ins, weights, base, *rest)

    def controlling(*args):
        counts[0] += 1
        control(*args)

    dispatch.combine, dispatch.control = counting, controlling
    try:
        yield counts
    finally:
        dispatch.combine, dispatch.control = combine, control


def per_step(shape: tuple[int, int] = (512, 64), steps: int = 16) -> dict[str, tuple[float, float]]:
    """Launches and passes per accepted step: the difference of two solves, less what each costs
    once."""
    constant = torch.randn(shape)
    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for n in (steps, 2 * steps):
            solves = contenders(lambda t, y: constant, constant.clone(), END / n)
            with counted() as ours:
                solves[OURS]()
            found.setdefault(OURS, []).append((ours[0], ours[1]))
            for name in ("torchdiffeq", "torchode"):
                with Counter(constant.numel()) as counter:
                    solves[name]()
                found.setdefault(name, []).append((counter.launches, counter.passes))
    return {
        k: tuple(round((b - a) / steps, 1) for a, b in zip(*v, strict=True))
        for k, v in found.items()
    }


if __name__ == "__main__":
    for who, (launches, passes) in per_step().items():
        print(f"{who:12} {launches:6} launches  {passes:6} passes over the state per accepted step")
