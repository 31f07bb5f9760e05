"""Functions that use memory again: f and g that work in place on y or return one buffer give the
numbers of those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.integrations import torchsde as adapter
from odesolve.stochastic.steps import SOLVERS
from tests.products import diagonal, product

WIDE = {"dtype": torch.float64}
CASES = [
    (name, n, c) for name, s in SOLVERS.items() for n, calculi in s.calculi.items() for c in calculi
]
WAYS = [
    {"steps": 4},
    {"steps": 4, "tree": True},
    *({"steps": 4, "adjoint": a} for a in ("backprop", "continuous")),
]


def plain_f(t, y):
    return 0.3 - 0.5 * y


def plain_g(noise):
    def g(t, y):
        if noise == "additive":
            return 0.4 + 0 * y
        return torch.stack([0.4 * y, 0.2 + 0.1 * y], -1) if noise == "general" else 0.2 + 0.4 * y

    return g


def in_place(call):
    """What call returns, and y overwritten."""

    def harmful(t, y):
        out = call(t, y.clone())
        with torch.no_grad():
            y.mul_(0.5).add_(7.0)
        return out

    return harmful


def by_buffer(call):
    """What call returns, in one tensor for all calls."""
    kept = []

    def reused(t, y):
        out = call(t, y)
        if not kept or kept[0].shape != out.shape:
            kept[:] = [torch.empty_like(out)]
        return kept[0].detach().copy_(out)

    return reused


def on_itself(call):
    """What call returns, written into y."""

    def over(t, y):
        out = call(t, y.clone())
        return y.copy_(out) if out.shape == y.shape else out

    return over


KINDS = {"in place": in_place, "buffer": by_buffer, "on itself": on_itself}


def start():
    return torch.linspace(0.5, 1.5, 6, **WIDE).reshape(3, 2)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("solver", "noise", "calculus", "kind"),
    [(*a, b) for a, b in diagonal(list(CASES), list(KINDS))],
)
def test_solve_sde(solver, noise, calculus, kind):
    """Both ways to draw noise; y0 stays what it was."""
    make, y0 = KINDS[kind], start()
    call = {"solver": solver, "noise": noise, "calculus": calculus, "seed": 3}
    g = plain_g(noise)
    for way in WAYS[:2] + [{"rtol": 0.1}] * (noise == "additive" and SOLVERS[solver].drifts > 1):
        want = ode.solve_sde(plain_f, g, start(), **call, **way)
        for f1, g1 in ((make(plain_f), g), (plain_f, make(g)), (make(plain_f), make(g))):
            found = ode.solve_sde(f1, g1, y0, **call, **way)
            assert torch.equal(found.y, want.y)
            assert torch.equal(y0, start())


@pytest.mark.parametrize(
    ("adjoint", "kind", "noise"),
    product(
        ["backprop", "continuous", "reversible"],
        ["in place"],
        ["diagonal", "scalar", "general", "additive"],
    ),
)
def test_gradients(noise, kind, adjoint):
    """Of a network that overwrites what it was given, after a copy of its own has been recorded."""
    make, y0 = KINDS[kind], start()

    def gradient(f, g):
        y = y0.clone().requires_grad_()
        call = {
            "noise": noise,
            "calculus": "stratonovich",
            "solver": "midpoint",
            "steps": 4,
            "seed": 3,
        }
        return torch.autograd.grad(
            ode.solve_sde(f, g, y, adjoint=adjoint, **call).last.square().sum(), y
        )[0]

    found, want = gradient(make(plain_f), make(plain_g(noise))), gradient(plain_f, plain_g(noise))
    assert torch.allclose(found, want, rtol=1e-14, atol=0.0)


class Equation(nn.Module):
    """One of torchsde's form from two functions."""

    def __init__(self, noise, calculus, f, g):
        super().__init__()
        self.noise_type, self.sde_type, self.f, self.g = noise, calculus, f, g


def columns(noise):
    g = plain_g(noise)
    if noise in ("diagonal", "general"):
        return g
    return lambda t, y: g(t, y).unsqueeze(-1)


DIAGONAL = ("milstein", "srk")  # not of general noise
METHODS = {
    "ito": ("euler", "milstein", "srk"),
    "stratonovich": ("midpoint", "heun", "euler_heun", "reversible_heun", "log_ode"),
}


@pytest.mark.few(9)
@pytest.mark.parametrize(
    ("call", "kind", "noise", "calculus", "method"),
    [
        (a, b, c, *d)
        for a, b, c, d in product(
            ["sdeint", "sdeint_adjoint"],
            list(KINDS),
            ["diagonal", "scalar", "additive", "general"],
            [(c, m) for c, methods in METHODS.items() for m in methods],
            where=lambda call, kind, noise, way: noise != "general" or way[1] not in DIAGONAL,
        )
    ],
)
@torch.no_grad()
def test_the_adapter(calculus, method, noise, kind, call):
    make, y0, ts = KINDS[kind], start(), torch.tensor([0.0, 0.3, 0.5], **WIDE)

    def solve(f, g):
        torch.manual_seed(0)
        options = {"adjoint_params": ()} if call == "sdeint_adjoint" else {}
        return getattr(adapter, call)(
            Equation(noise, calculus, f, g), y0, ts, method=method, dt=0.1, **options
        )

    want, g = solve(plain_f, columns(noise)), columns(noise)
    for f1, g1 in ((make(plain_f), g), (plain_f, make(g)), (make(plain_f), make(g))):
        if method == "milstein" and g1 is not g and noise != "additive" and kind != "in place":
            continue  # a derivative of g is asked for, which a buffer has none of
        assert torch.equal(solve(f1, g1), want)
        assert torch.equal(y0, start())
