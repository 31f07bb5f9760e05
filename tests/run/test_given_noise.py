"""A plan's noise from outside: what ``draw`` returns stands for the streams, in one block of the
same sums."""

from __future__ import annotations

import math

import pytest
import torch
from odesolve.kernels import philox

import odesolve as ode
from odesolve import paths, run
from odesolve.lowering.lower import Reading, lower

SHAPE = (3, 2, 4)
KEYS = philox.keys(5, torch.arange(SHAPE[0]))
PLANS = [
    ("dpmpp_2m_sde", {}),
    ("dpmpp_sde", {}),
    ("sa_solver", {}),  # reads a stream again, a step after its first use
    ("heun_churn", {"s_churn": 20.0}),
    ("predictor_corrector", {"norms": "sample"}),  # its corrector is no block
]


def streams(stream: int) -> torch.Tensor:
    """The numbers that a solve with these keys draws itself."""
    return philox.normals(KEYS, stream, math.prod(SHAPE[1:])).reshape(SHAPE)


def solve(program, x, buffers=None, **noise):
    cursor = run.begin(program, x, buffers=buffers, **noise)
    draw = noise.get("draw")
    while not cursor.done:
        outputs = [0.7 * torch.tanh(cursor.input)] * len(cursor.call.branches)
        cursor = run.advance(cursor, outputs, None, buffers, draw)
    return cursor.result


def program_of(solver, **options):
    plan = ode.plan(solver, paths.EDM(), 6, "karras", **options)
    return lower(plan, plan.path, Reading("data"))


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize(("solver", "options"), PLANS)
def test_streams_given_from_outside(solver, options, buffered):
    program = program_of(solver, **options)
    x = 50.0 * torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked = []
    buffers = [None] * program.slots if buffered else None
    given = solve(program, x, buffers, draw=lambda stream: asked.append(stream) or streams(stream))
    torch.testing.assert_close(given, solve(program, x, keys=KEYS), rtol=1e-13, atol=1e-13)
    assert set(asked) == set(program.plan.streams)


def test_noise_of_a_shape_that_expands():
    program = program_of("ddim", eta=1.0)
    x = torch.zeros(SHAPE)
    one = solve(program, x, draw=lambda stream: 0.5)
    row = solve(program, x, draw=lambda stream: torch.full(SHAPE[1:], 0.5, dtype=torch.float64))
    assert torch.equal(one, row)
    assert one.dtype == torch.float32


def test_given_noise_is_left_as_it_is():
    program = program_of("predictor_corrector", norms="sample")
    kept = {s: streams(s) for s in program.plan.streams}
    solve(program, torch.ones(SHAPE), [None] * program.slots, draw=kept.__getitem__)
    assert all(torch.equal(v, streams(s)) for s, v in kept.items())


def test_noise_of_another_shape_is_refused():
    with pytest.raises(
        ode.OdesolveError,
        match=r"the noise has shape \(5,\) for a state of shape "
        r"\(3, 2, 4\): give",
    ):
        solve(program_of("ddim", eta=1.0), torch.zeros(SHAPE), draw=lambda stream: torch.zeros(5))
