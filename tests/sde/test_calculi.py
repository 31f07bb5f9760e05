"""Which equations a solver solves: additive noise in both calculi, other noise in its own alone."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import OdesolveError
from odesolve.stochastic.steps import SOLVERS

WIDE = {"dtype": torch.float64}
ADDITIVE = [name for name, s in SOLVERS.items() if "additive" in s.calculi]
ADJOINTS = ("backprop", "continuous", "reversible")


def start():
    return torch.linspace(0.5, 1.5, 6, **WIDE).reshape(3, 2)


def solve(solver, calculus, y0=None, g=lambda t: 0.5 * torch.cos(t), noise="additive", **options):
    y0 = start() if y0 is None else y0
    return ode.solve_sde(
        lambda t, y: -(y**3),
        g,
        y0,
        solver=solver,
        noise=noise,
        calculus=calculus,
        seed=1,
        **options,
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("solver", ADDITIVE)
def test_additive_noise_is_the_same_in_both_calculi(solver):
    """By every way to a solution; gradients too."""
    ways = [
        {"steps": 5},
        {"steps": 8, "tree": True},
        *({"steps": 5, "adjoint": a} for a in ADJOINTS),
    ]
    if SOLVERS[solver].drifts > 1:
        ways.append({"rtol": 0.1})
    for way in ways:
        found = []
        for calculus in ("ito", "stratonovich"):
            y0 = start().requires_grad_("adjoint" in way)
            y = solve(solver, calculus, y0, **way).last
            found.append([y, *(torch.autograd.grad(y.sum(), y0) if "adjoint" in way else ())])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("solver", list(SOLVERS))
def test_other_noise_is_refused_in_the_other_calculus(solver, noise):
    g = (lambda t, y: y.unsqueeze(-1)) if noise == "general" else (lambda t, y: 0.5 * y)
    for calculus in ("ito", "stratonovich"):
        options = [{}, {"tree": True}, *({"adjoint": a} for a in ADJOINTS)]
        if calculus in SOLVERS[solver].calculi.get(noise, ()):
            assert solve(solver, calculus, g=g, noise=noise, steps=2).ok
            continue
        for option in options:
            with pytest.raises(OdesolveError, match=f"{solver} solves no"):
                solve(solver, calculus, g=g, noise=noise, steps=2, **option)


@pytest.mark.parametrize("way", [{"steps": 2}, {"rtol": 0.1}, {"steps": 2, "adjoint": "backprop"}])
def test_additive_noise_that_sees_the_state(way):
    """A step takes g once where it should follow it; what only looks like it is let through."""
    sees = (
        (lambda t, y: 0.5 * y, start()),
        (lambda t, y: {"a": 0.5 + y["a"].sin()}, {"a": start()}),
    )
    for g, y0 in sees:
        with pytest.raises(OdesolveError, match="another value at another y"):
            ode.solve_sde(lambda t, y: y, g, y0, solver="sra1", noise="additive", seed=1, **way)
    blind = (
        0.5,
        torch.tensor(0.5),
        lambda t, y: 0.5,
        lambda t, y: 0 * y + t,
        lambda t: t,
        lambda t, y: y.new_ones(2),
    )
    for g in blind:
        assert solve("sra1", "ito", g=g, **way).ok
