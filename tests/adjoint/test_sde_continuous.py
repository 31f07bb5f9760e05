"""The stochastic adjoint against closed forms, against autograd where both are the same numbers,
and against torchsde's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import odesolve as ode
from tests.products import diagonal

WIDE = {"dtype": torch.float64}


def brownian(shape=(4, 3), seed=0):
    return ode.BrownianPath(shape, (0.0, 1.0), seed, dtype=torch.float64)


def start(requires_grad=True):
    return torch.linspace(0.5, 1.5, 12, **WIDE).reshape(4, 3).requires_grad_(requires_grad)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive"])
def test_of_linear_equations_the_states_gradient_is_autograds(noise):
    """There a step back multiplies the gradient by what a step of Heun multiplies the state by: the
    same numbers."""
    y0, path = start(), brownian((4, 1) if noise == "scalar" else (4, 3))
    g = (lambda t: 0.3 + t) if noise == "additive" else (lambda t, y: 0.4 * y)
    calculus = "ito" if noise == "additive" else "stratonovich"
    grads = []
    for adjoint in ("continuous", "backprop", "reversible"):
        more = {"noise": noise, "calculus": calculus, "tree": path, "adjoint": adjoint}
        sol = ode.solve_sde(
            lambda t, y: -0.7 * y, g, y0, (0.0, 0.3, 1.0), "stochastic_heun", 15, **more
        )
        value = (
            torch.arange(12.0, **WIDE).view(4, 3) * sol.y[1] + sol.y[2].square().detach() * sol.y[2]
        ).sum()
        grads.append(torch.autograd.grad(value, y0)[0])
    # Both weigh the states themselves alike: 1e-8 of the issue, with room.
    assert torch.allclose(grads[0], grads[1], rtol=1e-11)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("noise", "calculus"),
    diagonal(["general", "diagonal", "scalar"], ["ito", "stratonovich"]),
)
def test_geometric_brownian_motion(calculus, noise):
    """dy = m y dt + s y dW: y = y0 exp((m - s^2/2) t + s W) in Ito's calculus, without -s^2/2 in
    Stratonovich's. Order 1."""
    path, y0 = brownian((4, 3) if noise == "diagonal" else (4, 1)), start()
    m, s = (torch.tensor(v, **WIDE, requires_grad=True) for v in (0.6, 0.5))
    w, lost = path(0.0, 1.0), 0.5 if calculus == "ito" else 0.0
    exact = y0 * torch.exp(m - lost * s**2 + s * w)
    want = torch.autograd.grad(exact.square().sum(), (y0, m, s))
    solver = (
        "stochastic_heun"
        if calculus == "stratonovich"
        else "euler_maruyama"
        if noise == "general"
        else "milstein"
    )
    order = 0.5 if solver == "euler_maruyama" else 1.0
    errors = []
    for steps in (40, 320):
        more = {"calculus": calculus, "noise": noise, "tree": path, "adjoint": "continuous"}
        g = lambda t, y: s * y[..., None] if noise == "general" else s * y
        sol = ode.solve_sde(lambda t, y: m * y, g, y0, (0.0, 1.0), solver, steps, **more)
        got = torch.autograd.grad(sol.last.square().sum(), (y0, m, s))
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True)])
    for coarse, fine in zip(*errors, strict=True):
        assert math.log(coarse / fine) / math.log(8) > 0.75 * order
        assert fine < (0.01 if order == 1.0 else 0.05)


@pytest.mark.long
def test_ornstein_uhlenbeck_at_fine_steps():
    """Additive noise: the gradient of the rate is of the path between, and the adjoint solves it as
    accurately as the solver."""
    path, y0 = brownian(), start()
    rate = torch.tensor(0.8, **WIDE, requires_grad=True)
    both = []
    for adjoint in ("continuous", "backprop"):
        more = {"noise": "additive", "tree": path, "adjoint": adjoint}
        sol = ode.solve_sde(
            lambda t, y: -rate * y, 0.5, y0, (0.0, 1.0), "stochastic_heun", 1500, **more
        )
        both.append(torch.autograd.grad(sol.last.square().sum(), (y0, rate)))
    for a, b in zip(*both, strict=True):
        assert torch.allclose(a, b, rtol=1e-7)


def test_torchsde_computes_the_same_adjoint():
    """Its adjoint by Heun's method on our path, of a nonlinear Stratonovich equation, with
    parameters in drift and diffusion."""
    torchsde = pytest.importorskip("torchsde")

    class Path(torchsde.BaseBrownian):
        dtype, device, shape, levy_area_approximation = (
            torch.float64,
            torch.device("cpu"),
            torch.Size((4, 3)),
            "none",
        )

        def __init__(self, path):
            self.path = path

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            return self.path(float(ta), float(tb))

        def __repr__(self):
            return "Path"

    class Net(torch.nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.5], **WIDE))
            self.b = torch.nn.Parameter(torch.tensor([0.4, 0.3, 0.2], **WIDE))

        def f(self, t, y):
            return torch.tanh(self.a * y) - 0.2 * y

        def g(self, t, y):
            return self.b * torch.sin(y) + 0.1

    net, y0, path = Net(), start(), brownian()
    times, steps = torch.tensor([0.0, 1.0], **WIDE), 64
    theirs = torchsde.sdeint_adjoint(
        net, y0, times, bm=Path(path), dt=1 / steps, method="heun", adjoint_method="heun"
    )
    want = torch.autograd.grad(theirs[-1].sin().sum(), (y0, net.a, net.b))
    more = {"calculus": "stratonovich", "tree": path, "adjoint": "continuous"}
    sol = ode.solve_sde(net.f, net.g, y0, (0.0, 1.0), "stochastic_heun", steps, **more)
    got = torch.autograd.grad(sol.last.sin().sum(), (y0, net.a, net.b))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("adjoint", ["backprop", "reversible"])
def test_diffflow(adjoint):
    """The discrete stochastic adjoint of a chain with a running cost (Zhang and Chen 2021,
    algorithm 1): autograd's gradient.

    Forward steps x' = x + f h + g sqrt(h) z, cost sum |delta|^2 / 2 of the backward steps with a
    learned score, and -log p of the end.
    """
    n, h, g = 12, 1 / 12, 0.8
    a = torch.tensor([0.3, -0.5, 0.2], **WIDE, requires_grad=True)
    b = torch.tensor([0.7, 0.4, -0.3], **WIDE, requires_grad=True)
    drift = lambda t, x: torch.sin(a * x) - 0.4 * x
    score = lambda x: -b * x / (1 + x**2)

    def cost(xs):
        value = 0.5 * xs[-1].square().sum()
        for k in range(n):
            back = xs[k] - xs[k + 1] + (drift(0.0, xs[k + 1]) - g**2 * score(xs[k + 1])) * h
            value = value + 0.5 * (back / (g * math.sqrt(h))).square().sum()
        return value

    x0, path = start(), brownian()
    times = [k / n for k in range(n)] + [1.0]
    sol = ode.solve_sde(drift, g, x0, times, steps=1, noise="additive", tree=path, adjoint=adjoint)
    got = torch.autograd.grad(cost(sol.y), (x0, a, b))
    xs, z = [x0], x0
    for s, t in itertools.pairwise(times):
        w, step = path(s, t), t - s
        if adjoint == "backprop":
            xs.append(xs[-1] + drift(s, xs[-1]) * step + g * w)
            continue
        y = 0.99 * xs[-1] + 0.01 * z + drift(s, z) * step + g * w
        z = z + drift(t, y) * step + g * w
        xs.append(y)
    want = torch.autograd.grad(cost(xs), (x0, a, b))
    for mine, theirs in zip(got, want, strict=True):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) < 1e-13
