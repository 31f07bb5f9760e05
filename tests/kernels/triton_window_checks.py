"""Windows in Triton's interpreter, the op and a whole solve; test_triton_interpreter.py runs this
file."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels import reference
from odesolve.kernels.triton import backend

import odesolve as ode
from tests.products import LONG

from .triton_checks import keys, rows, tensors


@pytest.mark.parametrize(
    ("each", "noisy"), [(False, True), (True, False)] + [(False, False), (True, True)] * LONG
)
def test_window(noisy, each):
    points, batch, shape = (4, 3, (5, 8)) if LONG else (2, 2, (5, 8))
    old, moved = tensors(2, (points, batch, *shape))
    origin = tensors(1, (batch, *shape), seed=2)[0]
    where = (points, batch) if each else (points,)
    w, growth = 0.3 * rows(*where, 2 + noisy), 0.1 * rows(*where, seed=4)
    extra = (
        (keys(batch), torch.arange(points * batch).reshape(points, batch)[:, : None if each else 1])
        if noisy
        else ()
    )
    if noisy and not each:
        extra = (extra[0], extra[1][:, 0])
    results = []
    for op in (backend.window, reference.window):
        for change in (lambda x: x, lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)):
            mine, out, residual = (
                change(old.clone()),
                change(torch.empty_like(old)),
                torch.empty(points, batch),
            )
            op(out, residual, origin, mine, [mine, moved], w, growth, *extra)
            op(
                mine,
                again := torch.empty_like(residual),
                origin,
                mine,
                [mine, moved],
                w,
                growth,
                *extra,
            )
            assert torch.equal(out, mine)
            assert torch.equal(residual, again)
            results.append((out, residual))
    for out, residual in results:
        torch.testing.assert_close(out, results[-1][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(residual, results[-1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_in", [8, 9])
def test_window_of_many_inputs(n_in):
    points, batch, n = 3, 2, 70
    old, *ins = tensors(n_in + 1, (points, batch, n))
    origin, w = tensors(1, (batch, n), seed=2)[0], 0.3 * rows(points, batch, n_in)
    growth, out, residual = (
        0.1 * rows(points, batch, seed=4),
        torch.empty_like(old),
        torch.empty(points, batch),
    )
    fits = backend.window(out, residual, origin, old, ins, w, growth)
    assert (fits is False) == (n_in > 8)
    if n_in <= 8:
        expected, moved = torch.empty_like(out), torch.empty_like(residual)
        reference.window(expected, moved, origin, old, ins, w, growth)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(residual, moved, rtol=1e-5, atol=1e-6)


# A kernel of the interpreter's takes long, and the rounds are many.
SOLVES = [("ddim", 12), ("unipc_3", 12), ("dpmpp_3m_sde", 12)] if LONG else [("dpmpp_3m_sde", 4)]


@pytest.mark.parametrize(("solver", "steps"), SOLVES)
def test_a_solve_by_windows(solver, steps):
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    model = ode.Model(lambda x, t: 0.5 * torch.tanh(x), ode.paths.VP(), "data")
    window = ode.Window(tolerance=1e-5)
    loop = ode.sample(model, x, solver, steps, seed=3)
    torch.testing.assert_close(
        ode.sample(model, x, solver, steps, seed=3, executor=window), loop, rtol=1e-4, atol=1e-4
    )
    assert window.report.why is None
