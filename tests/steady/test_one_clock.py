"""Networks that read one time for the whole batch in adaptive solves of a model: refused, and right
under one step for all."""

from __future__ import annotations

import functools

import pytest
import torch

import odesolve as ode
from tests.products import diagonal
from tests.rows import rows

TWO = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
READS = {
    "t[0]": lambda t: t[0],
    "t.mean()": lambda t: t.mean(),
    "t.max()": lambda t: t.max(),
    "t.min()": lambda t: t.min(),
    "t[-1]": lambda t: t[-1],
    "float": lambda t: float(t.reshape(-1)[0]),
}
PATHS = {
    "VP": (ode.paths.VP(), "noise"),
    "EDM": (ode.paths.EDM(), "data"),
    "discrete": (ode.paths.Discrete.ddpm(), "noise"),
}


def one_clock(model, read):
    net = lambda x, t: model.net(x, torch.as_tensor(read(t), dtype=t.dtype).expand(len(x)))
    return ode.Model(net, model.path, model.predicts, time=model.time)


@functools.cache
def solved(name, solver):
    """A model, its start, its span and where it ends."""
    path, predicts = PATHS[name]
    model = TWO.model(path, predicts)
    drawn = torch.Generator().manual_seed(0)
    x = float(path.prior_std) * torch.randn(5, 2, dtype=torch.float64, generator=drawn)
    span = (path.t_noise, path.t_min)
    return model, x, span, ode.solve(model, x, span, solver)


@rows(
    ("read", "name", "solver"),
    diagonal([*READS.values()], list(PATHS), ["dopri5", "dpm_solver_23"]),
)
def test_solves_of_a_model(name, solver, read):
    model, x, span, want = solved(name, solver)
    with pytest.raises(ode.OdesolveError, match="by the times of other samples"):
        ode.solve(one_clock(model, read), x, span, solver)
    if solver == "dopri5":
        found = ode.solve(one_clock(model, read), x, span, solver, control="batch")
        torch.testing.assert_close(found.last, want.last, atol=2e-3, rtol=0)
    fixed = [ode.solve(m, x, span, "rk4", steps=5).last for m in (model, one_clock(model, read))]
    torch.testing.assert_close(*fixed)


def test_right_networks_take_no_evaluation_more():
    calls = []

    def net(x, t):
        calls.append(len(x))
        return TWO.noise(x, ode.paths.VP(), t)

    model = ode.Model(net, ode.paths.VP(), "noise")
    for batch in (1, 2, 3):
        calls.clear()
        found = ode.solve(
            model, torch.randn(batch, 2, dtype=torch.float64), (1.0, 0.01), compact=True
        )
        assert found.ok
        assert sum(calls) >= int(found.nfe.sum())
        assert len(calls) == int(found.nfe.max())


def test_a_network_that_draws_is_told_so():
    with pytest.raises(ode.OdesolveError, match="answers differently to the same question"):
        ode.solve(
            ode.Model(lambda x, t: torch.rand_like(x), ode.paths.VP(), "noise"),
            torch.randn(5, 2),
            (1.0, 0.01),
        )
