"""Functions that differentiate their state, as Hamiltonian networks, gradient flows and
energy-based scores do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations.torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event
from odesolve.integrations.torchdiffeq.methods import METHODS
from odesolve.methods.pairs import PAIRS
from tests.products import LONG, diagonal
from tests.rows import rows

T = torch.tensor([0.0, 1.0], dtype=torch.float64)
VP = ode.paths.VP()


def number(x):
    """The value of a tensor that may be connected to something."""
    return x.detach().item()


def flow(t, y):
    """dy/dt = -y, as the gradient flow of |y|^2 / 2."""
    return -torch.autograd.grad((y**2).sum() / 2, y, create_graph=True)[0]


class Oscillator(nn.Module):
    """Hamilton's equations of H = k q^2 / 2 + p^2 / 2."""

    def __init__(self, k=2.0):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, t, y):
        q, p = y.unbind(-1)
        (slope,) = torch.autograd.grad((self.k * q**2 / 2 + p**2 / 2).sum(), y, create_graph=True)
        return torch.stack([slope[..., 1], -slope[..., 0]], -1)


class Known(Oscillator):
    """The same, written out."""

    def forward(self, t, y):
        return torch.stack([y[..., 1], -self.k * y[..., 0]], -1)


def adapter(call, method):
    options = {} if method in PAIRS or method == "scipy_solver" else {"options": {"step_size": 0.1}}
    return lambda f, y: call(f, y, T, method=method, rtol=1e-6, atol=1e-8, **options)


# One method of each family of the adapter; the pairs are all in test_the_gradient_flow.
FAMILIES = ("dopri5", "euler", "rk4", "explicit_adams", "implicit_adams", "trbdf2", "scipy_solver")
SOLVES = {
    "backprop": lambda f, y: ode.solve(f, y, T, adjoint="backprop").y,
    "continuous": lambda f, y: ode.solve(f, y, T, adjoint="continuous").y,
    "continuous, implicit": lambda f, y: (
        ode.solve(f, y, T, "kvaerno3", adjoint="continuous", rtol=1e-4).y
    ),
    "steps, backprop": lambda f, y: ode.solve(f, y, T, "rk4", steps=10, adjoint="backprop").y,
    "steps, continuous": lambda f, y: ode.solve(f, y, T, "rk4", steps=10, adjoint="continuous").y,
    "reversible": lambda f, y: ode.solve(f, y, T, "rk4", steps=10, adjoint="reversible").y,
    "per sample": lambda f, y: odeint(f, y, T, options={"per_sample": True}),
    **{f"odeint {m}": adapter(odeint, m) for m in (METHODS if LONG else FAMILIES)},
    **{
        f"odeint_adjoint {m}": adapter(odeint_adjoint, m)
        for m in (("dopri5", "rk4", "implicit_adams", "gl4") if LONG else ("dopri5", "gl4"))
    },
}


@rows(("how", "wants"), diagonal(list(SOLVES), ["state", "parameter"]))
def test_values_and_gradients_are_those_of_the_function_written_out(how, wants):
    found = []
    for kind in (Oscillator, Known):
        f = kind()
        f.k.requires_grad_(wants == "parameter")
        y0 = torch.tensor([[1.0, 0.3]], dtype=torch.float64, requires_grad=wants == "state")
        y = SOLVES[how](f, y0)
        leaf = y0 if wants == "state" else f.k
        recorded = "scipy" not in how  # which records nothing
        found.append(
            (y.detach(), torch.autograd.grad(y[-1].square().sum(), leaf)[0] if recorded else None)
        )
    # Krylov and Newton's iterations may have Jacobians by differences, which moves the last digits.
    (y, grad), (want, gradient) = found
    torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-9)
    if grad is not None:
        torch.testing.assert_close(grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.long
@rows("how", [h for h in SOLVES if "scipy" not in h and "euler" not in h])
def test_the_gradient_is_that_of_differences(how):
    def end(k, kind=Oscillator):
        f = kind(k)
        y = SOLVES[how](f, torch.tensor([[1.0, 0.3]], dtype=torch.float64))
        return y[-1].square().sum(), f.k

    value, k = end(2.0)
    (slope,) = torch.autograd.grad(value, k)
    with torch.no_grad():
        high, low = (number(end(2.0 + d, Known)[0]) for d in (1e-3, -1e-3))
    assert number(slope) == pytest.approx((high - low) / 2e-3, rel=1e-3)


@rows("method", PAIRS)
def test_the_gradient_flow(method):
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    y = odeint(flow, y0, T, method=method, rtol=1e-6, atol=1e-8)
    (grad,) = torch.autograd.grad(y[-1].sum(), y0)
    want = torch.full((2,), math.exp(-1), dtype=torch.float64)
    torch.testing.assert_close(y[-1], want, rtol=1e-4, atol=0)
    torch.testing.assert_close(grad, want, rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore:y0 asks for gradients")
def test_jumps_dense_output_and_events():
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    options = {"jump_t": torch.tensor([0.5], dtype=torch.float64)}
    assert number(odeint(flow, y0, T, options=options)[-1, 0]) == pytest.approx(
        math.exp(-1), rel=1e-6
    )
    at = odeint_dense(flow, y0, 0.0, 1.0)
    assert number(at(0.5)[0]) == pytest.approx(math.exp(-0.5), rel=1e-6)
    t, _ = odeint_event(flow, y0, T[0], event_fn=lambda t, y: y[0] - 0.5)
    assert number(t) == pytest.approx(math.log(2), rel=1e-6)
    leaf = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    for event_fn in (lambda t, y: y[:, 0] - 0.5, lambda t, y: flow(t, y)[:, 0] + 0.5):
        sol = ode.solve(flow, leaf, (0.0, 2.0), events=ode.Event(event_fn), dense=True)
        assert number(sol.t) == pytest.approx(math.log(2), rel=1e-4)
        assert number(sol.at(0.5)[0, 0]) == pytest.approx(math.exp(-0.5), rel=1e-4)


@pytest.mark.filterwarnings("ignore:y0 asks for gradients")
def test_why_it_failed_can_be_asked():
    y0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    sol = ode.solve(lambda t, y: -flow(t, y) * 40, y0, (0.0, 100.0), max_steps=5)
    assert sol.status == ["max_steps"]
    assert "spectral radius" in str(sol.diagnosis())


@rows("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@rows("how", ["plain", "steps", "implicit", "odeint dopri5", "odeint rk4"])
def test_where_nobody_asks_for_gradients_it_says_what_to_type(how, mode):
    call = {
        "plain": lambda f, y: ode.solve(f, y, T).y,
        "steps": lambda f, y: ode.solve(f, y, T, steps=3).y,
        "implicit": lambda f, y: ode.solve(f, y, T, "kvaerno3").y,
        **SOLVES,
    }[how]

    def wrapped(t, y):
        with torch.inference_mode(False), torch.enable_grad():
            return flow(t, y.detach().clone().requires_grad_()).detach()

    y0 = torch.ones(2, 1, dtype=torch.float64)
    with mode():
        with pytest.raises(OdesolveError, match=r"torch.enable_grad\(\).*requires_grad_\(\)"):
            call(flow, y0)
        assert number(call(wrapped, y0)[-1, 0, 0]) == pytest.approx(math.exp(-1), rel=1e-3)


def test_a_parameter_in_a_closure_asks_too():
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    for how in ("odeint dopri5", "backprop", "continuous"):
        y = SOLVES[how](lambda t, y: k * flow(t, y), y0)
        (grad,) = torch.autograd.grad(y[-1].sum(), k)
        assert number(grad) == pytest.approx(-2 * math.exp(-1), rel=1e-4)


def test_a_gradient_without_a_graph_is_refused():
    def blind(t, y):
        return -torch.autograd.grad((y**2).sum() / 2, y)[0]

    for adjoint in ("backprop", "continuous"):
        y0 = torch.ones(2, 1, requires_grad=True)
        with pytest.raises(OdesolveError, match="create_graph=True"):
            ode.solve(blind, y0, adjoint=adjoint).last.sum().backward()


class Score(nn.Module):
    """w x, as the gradient of an energy."""

    def __init__(self, energy):
        super().__init__()
        self.w, self.energy = nn.Parameter(torch.tensor(0.7, dtype=torch.float64)), energy

    def forward(self, x, t):
        if not self.energy:
            return self.w * x
        return torch.autograd.grad(
            (self.w * x.square() / 2).sum() + 0 * t.sum(), x, create_graph=True
        )[0]


X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MODELS = {
    "ddim": lambda m: ode.sample(m, X, solver="ddim", steps=5),
    "iterate": lambda m: torch.stack([s.x for s in ode.iterate(m, X, solver="dpmpp_2m", steps=5)]),
    "window": lambda m: ode.sample(m, X, solver="ddim", steps=6, executor=ode.Window()),
    "gradients": lambda m: ode.sample(m, X, solver="ddim", steps=5, adjoint="backprop"),
    "solve": lambda m: ode.solve(m, X, (1.0, 0.01), rtol=1e-3).last,
    "solve, gradients": lambda m: (
        ode.solve(m, X, (1.0, 0.01), rtol=1e-3, adjoint="continuous").last
    ),
    "data": lambda m: m.data(X, 0.5),
    "density": lambda m: ode.log_prob(m, X, tol=0.1).value,
    "density along": lambda m: ode.log_prob(m, X, divergence="along", tol=0.1).value,
    "density on steps": lambda m: ode.log_prob(m, X, steps=5, trace="hutchinson", seed=0).value,
    "density of a plan": lambda m: ode.log_prob(m, X, of="plan", steps=4).value,
}


@rows(
    ("how", "mode"),
    diagonal(list(MODELS), [torch.enable_grad, torch.no_grad, torch.inference_mode]),
)
def test_scores_that_are_gradients_of_an_energy(how, mode):
    nets = Score(True), Score(False)
    with mode():
        got, want = (MODELS[how](ode.Model(net, VP, "noise")) for net in nets)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert got.requires_grad == want.requires_grad
    if want.requires_grad:
        grads = [
            torch.autograd.grad(x.sum(), net.w)[0] for x, net in zip((got, want), nets, strict=True)
        ]
        torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-8)
