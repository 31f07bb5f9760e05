"""Gradients of sdeint_adjoint: of the equation, of the steps, of what the parameters are said to
be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odesolve import OdesolveError
from odesolve.integrations.torchsde import BrownianInterval, sdeint, sdeint_adjoint
from tests.products import LONG, diagonal, product

from .equations import CASES, WIDE, Equation, Smooth, gap, start

KINDS = [
    (c, n) for c in ("ito", "stratonovich") for n in ("diagonal", "scalar", "additive", "general")
]
# Each calculus, with and without a prior; the reversible gradient is looked at for every noise.
FEW = [("ito", "additive", False), ("stratonovich", "general", True)]
TS = torch.tensor([0.0, 0.13, 0.5], **WIDE)


def gradients(solve, eq, y0=None, ts=TS, wanted=(), **call):
    y0 = start().requires_grad_() if y0 is None else y0
    out = solve(eq, y0, ts, **call)
    ys, more = (out[0], out[1].sum()) if call.get("logqp") else (out, 0.0)
    wanted = [y0, *eq.parameters(), *wanted]
    return torch.autograd.grad(
        ys.square().sum() + more, wanted, allow_unused=True, materialize_grads=True
    )


def relative(ours, theirs):
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-3))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("calculus", "noise", "logqp"),
    [(*a, b) for a, b in diagonal(KINDS, [False, True])] if LONG else FEW,
)
def test_the_gradient_of_the_equation(calculus, noise, logqp):
    """It comes to that of short steps as its own get shorter: of order 1, of general noise 1/2."""
    eq = Equation(noise, calculus, 1)
    size = (3, eq.m + (logqp and noise == "diagonal"))
    bm = BrownianInterval(0.0, 0.5, size, entropy=5, levy_area_approximation="space-time", **WIDE)
    call = {"bm": bm, "logqp": logqp, "ts": torch.tensor([0.0, 0.125, 0.5], **WIDE)}
    fine = gradients(sdeint, eq, dt=0.5 / 512, **call)
    errors = [relative(gradients(sdeint_adjoint, eq, dt=0.5 / n, **call), fine) for n in (8, 128)]
    assert errors[1] < (0.5 if noise == "general" else 0.12) * errors[0]
    assert errors[1] < 0.05


@pytest.mark.parametrize(
    ("logqp", "noise", "adaptive"),
    product([False, True], ["diagonal", "scalar", "additive", "general"], [False, True]),
)
def test_the_reversible_gradient_is_that_of_the_steps(noise, logqp, adaptive):
    """Also where outputs lie between steps, and where an error chose them."""
    eq = Equation(noise, "stratonovich", 3)
    bm = Smooth(eq.m + (logqp and noise == "diagonal"))
    call = {
        "bm": bm,
        "logqp": logqp,
        "method": "reversible_heun",
        "adaptive": adaptive,
        "dt": 0.07,
        "rtol": 1e-2,
        "atol": 1e-2,
    }
    assert relative(gradients(sdeint_adjoint, eq, **call), gradients(sdeint, eq, **call)) < 1e-11


@pytest.mark.few(3)
@pytest.mark.parametrize(("calculus", "noise"), [k for k in KINDS if k != ("ito", "general")])
def test_adaptive_solves(calculus, noise):
    eq = Equation(noise, calculus, 1)
    call = {"bm": Smooth(eq.m), "adaptive": True, "dt": 0.02, "rtol": 1e-4, "atol": 1e-5}
    # on a smooth path an Ito solver follows another equation than its adjoint
    if calculus == "ito":
        call["bm"] = BrownianInterval(
            0.0, 0.5, (3, eq.m), entropy=5, levy_area_approximation="space-time", **WIDE
        )
        call |= {"rtol": 1e-2, "atol": 1e-3, "dt_min": 1e-3}
    with torch.no_grad():
        plain = sdeint(eq, start(), TS, **call)
    assert gap(sdeint_adjoint(eq, start(), TS, **call), plain) < 1e-13
    assert relative(gradients(sdeint_adjoint, eq, **call), gradients(sdeint, eq, **call)) < 0.05


@pytest.mark.parametrize("method", ["midpoint", "reversible_heun"])
def test_its_own_noise_is_made_again(method):
    """A linear equation, whose gradient of y0 is y / y0."""
    eq = Equation("diagonal", "stratonovich")
    eq.f, eq.g = lambda t, y: -0.5 * y, lambda t, y: 0.4 * y
    y0 = torch.ones(64, 2, **WIDE, requires_grad=True)
    ys = sdeint_adjoint(eq, y0, [0.0, 1.0], dt=0.01, method=method)
    (g,) = torch.autograd.grad(ys[-1].sum(), y0)
    assert torch.allclose(g, ys[-1], rtol=1e-9 if method == "reversible_heun" else 1e-3)
    assert float(g.detach().std()) > 0.1


class Context(Equation):
    """An equation whose drift reads a tensor that another module made."""

    def f(self, t, y):
        return super().f(t, y) + self.context


@pytest.mark.parametrize("method", ["midpoint", "reversible_heun"])
def test_tensors_computed_before(method):
    encoder = nn.Linear(2, 2).double()
    eq = Context("diagonal", "stratonovich")
    data = start(5)
    params = list(encoder.parameters())

    def run(solve, **call):
        eq.context = encoder(data)
        if solve is sdeint_adjoint:
            call["adjoint_params"] = (eq.context, *eq.parameters())
        return gradients(solve, eq, wanted=params, bm=Smooth(2), dt=0.01, method=method, **call)

    assert relative(run(sdeint_adjoint), run(sdeint)) < (
        1e-11 if method == "reversible_heun" else 1e-2
    )
    eq.context = encoder(data)
    with pytest.raises(OdesolveError, match="adjoint_params="):
        sdeint_adjoint(eq, start(), TS, bm=Smooth(2), dt=0.1, method=method)
    with torch.no_grad():
        assert sdeint_adjoint(eq, start(), TS, bm=Smooth(2), dt=0.1, method=method).shape == (
            3,
            3,
            2,
        )


def test_parameters_of_what_is_no_module_are_found():
    eq = Equation("diagonal", "stratonovich")

    class Plain:
        noise_type, sde_type, f, g = "diagonal", "stratonovich", eq.f, eq.g

    call = {"bm": Smooth(2), "method": "reversible_heun", "dt": 0.1}
    plain = Plain()
    plain.parameters = eq.parameters
    assert gap(gradients(sdeint_adjoint, plain, **call), gradients(sdeint, eq, **call)) < 1e-11


def test_frozen_parameters_and_given_ones():
    eq = Equation("diagonal", "stratonovich")
    eq.a.requires_grad_(False)
    call = {"bm": Smooth(2), "method": "midpoint", "dt": 0.05}
    ys = sdeint_adjoint(eq, start(), TS, adjoint_params=(eq.c,), **call)
    only_c, none = torch.autograd.grad(ys.sum(), [eq.c, eq.b], allow_unused=True)
    assert none is None
    ys = sdeint_adjoint(eq, start(), TS, **call)
    assert gap(torch.autograd.grad(ys.sum(), eq.c)[0], only_c) < 1e-14


@pytest.mark.parametrize(
    ("method", "noise"), [("milstein", "diagonal"), ("milstein", "scalar"), ("log_ode", "general")]
)
def test_derivatives_of_g_alone_record_nothing(method, noise):
    """Of parameters and states that want no gradients; those that do get theirs."""
    eq = Equation(noise, "stratonovich").requires_grad_(False)
    call = {"bm": Smooth(eq.m), "method": method, "dt": 0.1}
    assert not sdeint(eq, start(), TS, **call).requires_grad
    eq.b.requires_grad_()
    eq.c.requires_grad_()
    wanted = eq.c if noise != "general" else eq.b
    assert (
        float(torch.autograd.grad(sdeint(eq, start(), TS, **call).sum(), wanted)[0].abs().sum()) > 0
    )


def test_a_second_derivative_is_refused():
    y0 = start().requires_grad_()
    eq = Equation("diagonal", "stratonovich")
    (g,) = torch.autograd.grad(
        sdeint_adjoint(eq, y0, TS, dt=0.1).square().sum(), y0, create_graph=True
    )
    with pytest.raises(OdesolveError, match="no gradients of their own"):
        g.sum().backward()


@pytest.mark.parametrize("method", ["midpoint", "reversible_heun"])
def test_nothing_is_kept_of_the_steps(method):
    """As many tensors are held for the way back after 10 steps as after 200."""
    eq, held = Equation("diagonal", "stratonovich"), []

    def keep(x):
        held.append(x.numel())
        return x

    def count(dt):
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            sdeint_adjoint(
                eq, start().requires_grad_(), [0.0, 1.0], bm=Smooth(2), dt=dt, method=method
            )
        return sum(held)

    assert count(0.1) == count(0.005)


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "adaptive"),
    [(*a, b) for a, b in diagonal(list(CASES), [False, True])],
)
@pytest.mark.filterwarnings("ignore:adaptive steps of the Euler")
def test_the_way_there_is_made_once(calculus, method, noise, adaptive):
    """Calls of f and g are those of sdeint, one more that finds the parameters, and where sdeint
    does not ask whether they are steady, that question. A recorded sdeint looks at a g that is
    constant in y a few times more, too."""
    eq, count = Equation(noise, calculus), []
    f, g = eq.f, eq.g
    eq.f = lambda t, y: count.append("f") or f(t, y)
    eq.g = lambda t, y: count.append("g") or g(t, y)
    calls = []
    for solve in (sdeint, sdeint_adjoint):
        count.clear()
        ys = solve(
            eq,
            start(),
            TS,
            bm=Smooth(eq.m),
            method=method,
            dt=0.1,
            adaptive=adaptive,
            rtol=0.1,
            atol=0.1,
        )
        calls.append((count.count("f"), count.count("g"), ys.detach()))
    more = 1 + (method == "reversible_heun") + (not adaptive)
    assert calls[1][0] - calls[0][0] == more
    if noise != "additive":
        assert calls[1][1] - calls[0][1] == more
    assert torch.equal(calls[0][2], calls[1][2])
