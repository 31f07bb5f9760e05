"""Derivatives beyond the recorded ones, through every solver: right, or refused in a sentence;
never 0 and never lost."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd import functional as twice

import odesolve as ode
from odesolve.integrations import k_diffusion, torchdiffeq, torchsde
from tests.products import diagonal
from tests.rows import rows

X = torch.tensor([[0.5, -0.2], [0.3, 0.1]], dtype=torch.float64)
V = torch.tensor([[1.0, -0.5], [0.2, 0.7]], dtype=torch.float64)
T = torch.tensor([0.0, 1.0], dtype=torch.float64)
H = 1e-5


def f(t, y):
    return torch.sin(y)


def g(t, y):
    return 0.1 * torch.cos(y)


MODEL = ode.Model(lambda x, t: torch.sin(x), ode.paths.VP(), "noise")


class Equation(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t, y):
        return f(t, y)

    def g(self, t, y):
        return g(t, y)


def sde(solve, **how):
    def run(y):
        bm = torchsde.BrownianInterval(0.0, 1.0, size=X.shape, dtype=X.dtype, entropy=0)
        return solve(Equation(), y, T, bm, dt=0.25, **how)[-1]

    return run


def odeint(**how):
    return lambda y: torchdiffeq.odeint(f, y, T, **how)[-1]


CLOSED = {
    "solve": lambda y: ode.solve(f, y).last,
    "solve, steps": lambda y: ode.solve(f, y, solver="rk4", steps=4).last,
    "solve, implicit": lambda y: ode.solve(f, y, solver="kvaerno3").last,
    "solve, args": lambda k: ode.solve(lambda t, y, k: k * y, X, args=(k,)).last,
    "solve, closure": lambda k: ode.solve(lambda t, y: k * y, X).last,
    "solve, closure of steps": lambda k: (
        ode.solve(lambda t, y: k * y, X, solver="rk4", steps=3).last
    ),
    "solve, model": lambda y: ode.solve(MODEL, y, (1.0, 0.1)).last,
    "solve_sde": lambda y: ode.solve_sde(f, g, y, steps=4, seed=0).last,
    "solve_sde, closure": lambda k: ode.solve_sde(f, lambda t, y: k * y, X, steps=4, seed=0).last,
    "sample": lambda y: ode.sample(MODEL, y, "ddim", 3),
    "sample, state": lambda y: ode.sample(MODEL, state=y, solver="dpmpp_2m", steps=3),
    "sample, closure": lambda k: ode.sample(
        ode.Model(lambda x, t: k * x, ode.paths.VP(), "noise"), X, "ddim", 3
    ),
    "sample, cond": lambda k: ode.sample(
        ode.Model(lambda x, t, k: k * x, ode.paths.VP(), "noise", cond={"k": k}), X, "ddim", 3
    ),
    "sample, window": lambda y: ode.sample(MODEL, y, "ddim", 3, executor=ode.Window()),
    "sample, flow": lambda y: ode.sample(MODEL, y, "ddim", 3, log_prob="flow").x,
    "sampler": lambda y: ode.Sampler(MODEL, "ddim", 3)(y.float()),
    "iterate": lambda y: [s.x for s in ode.iterate(MODEL, y, "ddim", 3)][-1],
    "invert": lambda y: ode.invert(MODEL, y, steps=3),
    "sdedit": lambda y: ode.sdedit(MODEL, y, 0.5, steps=3, seed=0),
    "interpolate": lambda y: ode.interpolate(MODEL, y[:1], y[1:], 0.5, steps=3),
    "log_prob": lambda y: ode.log_prob(MODEL, y, tol=1.0).value,
    "log_prob, steps": lambda y: ode.log_prob(MODEL, y, steps=3).value,
    "log_prob, plan": lambda y: ode.log_prob(MODEL, y, of="plan", solver="ddim", steps=3).value,
    "log_prob, picard": lambda y: ode.log_prob(MODEL, y, solver="picard", tol=1.0).value,
    "log_prob, velocity": lambda y: ode.log_prob(lambda t, x: f(t, x), y).value,
    "log_prob, closure": lambda k: ode.log_prob(lambda t, x: k * x, X, seed=0).value,
    "elbo": lambda y: ode.elbo(MODEL, y, steps=3, seed=0).value,
    "langevin": lambda y: ode.langevin(lambda x: -x, y, 0.1, 3, seed=0),
    "langevin, closure": lambda k: ode.langevin(lambda x: -k * x, X, 0.1, 3, seed=0),
    "mala": lambda y: ode.mala(lambda x: -(x**2).sum(1) / 2, y, 0.1, 3, seed=0).x,
    "mala, closure": lambda k: ode.mala(lambda x: -(k * x**2).sum(1) / 2, X, 0.1, 3, seed=0).x,
    "k-diffusion": lambda y: k_diffusion.sampling.sample_euler(
        lambda x, s: torch.sin(x), y, torch.tensor([2.0, 1.0, 0.0], dtype=X.dtype), disable=True
    ),
}
CONNECTED = {
    "solve, backprop": lambda y: ode.solve(f, y, adjoint="backprop").last,
    "solve, continuous": lambda y: ode.solve(f, y, adjoint="continuous").last,
    "solve, reversible": lambda y: (
        ode.solve(f, y, solver="rk4", steps=4, adjoint="reversible").last
    ),
    "solve, linear f": lambda y: ode.solve(lambda t, y: -y, y, adjoint="backprop").last.square(),
    "solve, args": lambda k: (
        ode.solve(lambda t, y, k: k * y, X, args=(k,), adjoint="backprop").last
    ),
    "solve, closure": lambda k: (
        ode.solve(lambda t, y: k * y, X, adjoint="backprop", params=(k,)).last
    ),
    "solve_sde, backprop": lambda y: (
        ode.solve_sde(f, g, y, steps=4, seed=0, adjoint="backprop").last
    ),
    "solve_sde, continuous": lambda y: (
        ode.solve_sde(f, g, y, steps=4, seed=0, adjoint="continuous").last
    ),
    "sample": lambda y: ode.sample(MODEL, y, "ddim", 3, adjoint="backprop"),
    "log_prob, backprop": lambda y: ode.log_prob(MODEL, y, tol=1.0, adjoint="backprop").value,
    "log_prob, continuous": lambda y: ode.log_prob(MODEL, y, tol=1.0, adjoint="continuous").value,
    "log_prob, plan": lambda y: (
        ode.log_prob(MODEL, y, of="plan", solver="ddim", steps=3, adjoint="backprop").value
    ),
    "odeint_adjoint": lambda y: torchdiffeq.odeint_adjoint(f, y, T, adjoint_params=())[-1],
    "sdeint_adjoint": sde(torchsde.sdeint_adjoint, method="euler", adjoint_params=()),
}
RECORDED = {
    "odeint": odeint(rtol=1e-9),
    "odeint, tsit5": odeint(method="tsit5", rtol=1e-9),
    "odeint, rk4": odeint(method="rk4", options={"step_size": 0.25}),
    "odeint, adams": odeint(method="implicit_adams", options={"step_size": 0.25}),
    "odeint, closure": lambda k: torchdiffeq.odeint(lambda t, y: k * y, X, T, method="rk4")[-1],
    "odeint_dense": lambda y: torchdiffeq.odeint_dense(f, y, 0.0, 1.0, rtol=1e-9)(0.5),
    "sdeint": sde(torchsde.sdeint, method="euler"),
    "log_prob, steps": lambda y: ode.log_prob(MODEL, y, steps=3, adjoint="backprop").value,
}


def push(call):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(X, V))).tangent


def total(call):
    return lambda y: call(y).sum()


UNBATCHED = [
    CONNECTED[k]
    for k in CONNECTED
    if k in ("solve, continuous", "log_prob, continuous", "odeint_adjoint")
]
FORWARDS = {
    "forward_ad": push,
    "jvp": lambda call: torch.func.jvp(call, (X,), (V,))[1],
    "grad": lambda call: torch.func.grad(total(call))(X),
    "vmap": lambda call: torch.func.vmap(call)(X[None]),
    "jacrev": lambda call: torch.func.jacrev(call)(X),
    "jacfwd": lambda call: torch.func.jacfwd(call)(X),
    "hessian": lambda call: torch.func.hessian(total(call))(X),
    "jacobian, forward": lambda call: twice.jacobian(
        call, X, vectorize=True, strategy="forward-mode"
    ),
}
SECONDS = {
    "jvp": lambda call: twice.jvp(call, X, V),
    "vhp": lambda call: twice.vhp(total(call), X, V),
    "hvp": lambda call: twice.hvp(total(call), X, V),
    "hessian": lambda call: twice.hessian(total(call), X),
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        # torch.jit's as forward differentiation loads, torchsde's of methods
        warnings.simplefilter("ignore")
        yield


def named(cases):
    return {"argvalues": cases.values(), "ids": list(cases)}


ENTRIES = {f"{name}, closed": call for name, call in CLOSED.items()} | CONNECTED


@rows(("call", "how"), diagonal(list(ENTRIES), list(FORWARDS), times=2))
def test_forward_differentiation_is_refused(call, how):
    with pytest.raises(ode.OdesolveError, match=r'adjoint="backprop" and torch\.autograd\.grad'):
        FORWARDS[how](ENTRIES[call])


@pytest.mark.few(5)
@pytest.mark.parametrize(("call", "how"), diagonal(list(CONNECTED), list(SECONDS)))
def test_second_derivatives_are_refused(call, how):
    with pytest.raises(ode.OdesolveError, match="no gradients of their own"):
        SECONDS[how](CONNECTED[call])


@pytest.mark.few(5)
@pytest.mark.parametrize("call", **named(CONNECTED))
def test_first_derivatives_stay(call):
    """A gradient with create_graph=True that nobody differentiates again is the gradient."""
    y = X.clone().requires_grad_()
    once = torch.autograd.grad(call(y).sum(), y)[0]
    with_graph = torch.autograd.grad(call(y).sum(), y, create_graph=True)[0]
    assert torch.equal(once, with_graph)


@pytest.mark.few(5)
@pytest.mark.parametrize("call", **named(CONNECTED))
def test_many_gradients_at_once(call):
    """As one by one, or refused."""
    want = twice.jacobian(call, X)
    if call not in UNBATCHED:
        assert torch.allclose(twice.jacobian(call, X, vectorize=True), want)
    else:
        with pytest.raises(ode.OdesolveError, match="vectorize=True"):
            twice.jacobian(call, X, vectorize=True)


@pytest.mark.parametrize("call", **named(RECORDED))
def test_recorded_solves_have_second_derivatives(call):
    def slope(y):
        y = y.clone().requires_grad_()
        return torch.autograd.grad(total(call)(y), y)[0]

    differences = (slope(X + H * V) - slope(X - H * V)) / (2 * H)
    assert torch.allclose(twice.hvp(total(call), X, V)[1], differences, rtol=1e-4, atol=1e-6)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("method", "how"),
    diagonal(
        [
            "implicit_euler",
            "implicit_midpoint",
            "trapezoid",
            "radauIIA3",
            "gl4",
            "sdirk2",
            "trbdf2",
        ],
        list(SECONDS),
    ),
)
def test_implicit_methods_have_first_derivatives(method, how):
    """Newton's method gives those of its solution, and not theirs."""
    call = odeint(method=method, options={"step_size": 0.25})
    with pytest.raises(ode.OdesolveError, match="take an explicit method"):
        SECONDS[how](call)
    differences = (call(X + H * V) - call(X - H * V)) / (2 * H)
    assert torch.allclose(push(call), differences, rtol=1e-6, atol=1e-8)


@pytest.mark.few(6)
@pytest.mark.parametrize("call", **named(RECORDED))
@pytest.mark.parametrize("how", ["forward_ad", "jvp"])
def test_recorded_solves_push_tangents_or_refuse(call, how):
    differences = (call(X + H * V) - call(X - H * V)) / (2 * H)
    try:
        found = FORWARDS[how](call)
    except ode.OdesolveError:
        assert how != "forward_ad" or call is RECORDED["log_prob, steps"]
    else:
        assert torch.allclose(found, differences, rtol=1e-5, atol=1e-7)


def test_forward_differentiation_without_gradients():
    """The fused solves, which lose tangents, are not taken."""
    with torch.no_grad():
        found = push(RECORDED["odeint"])
    assert torch.allclose(found, push(RECORDED["odeint"]))


@pytest.mark.parametrize("method", ["milstein"])
def test_a_method_that_differentiates_the_diffusion(method):
    with pytest.raises(ode.OdesolveError, match="differentiates g"):
        push(sde(torchsde.sdeint, method=method))


def test_solves_inside_of_a_right_hand_side():
    """Our own forward differentiation of f does not meet the door of a solver that f calls."""

    def inner(y):
        return ode.solve(lambda t, z: -z, y, (0.0, 0.1), "rk4", steps=2).last

    sol = ode.solve(lambda t, y: -inner(y), X, (0.0, 1.0), "kvaerno5", rtol=1e-6)
    assert sol.ok
    share = float(inner(torch.ones(1, 1, dtype=torch.float64)))
    assert torch.allclose(
        sol.last, X * torch.exp(torch.tensor(-share, dtype=torch.float64)), rtol=1e-5
    )


def test_guidance_by_a_classifier_has_derivatives():
    model = MODEL.classifier_guided(lambda x, t: -(x**4).sum(1), 2.0)
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad((model.noise(x, 0.5) * V).sum(), x)
    differences = [
        ((model.noise(X + H * e, 0.5) - model.noise(X - H * e, 0.5)) * V).sum() / (2 * H)
        for e in torch.eye(4, dtype=X.dtype).view(4, 2, 2)
    ]
    assert torch.allclose(found.flatten(), torch.stack(differences), rtol=1e-6)
