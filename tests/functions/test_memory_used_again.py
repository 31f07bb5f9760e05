"""Functions that work in place, return one buffer again or keep what they are given: values are
those of the pure function."""

from __future__ import annotations

import copy
import functools
import sys
import weakref
from pathlib import Path

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.functions.callee import Callee
from odesolve.integrations.torchdiffeq import odeint, odeint_adjoint
from odesolve.integrations.torchsde import sdeint

sys.path.insert(0, str(Path(__file__).parent))
from forms import FORMS, WITHOUT_GRADIENTS, pure, turns_careless

from tests.products import diagonal, product
from tests.rows import rows

T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
VP = ode.paths.VP()


def on_time(t, y):
    return -2 * t * y


def plain(form):
    """The pure function that a form is."""
    return on_time if form == "on_time" else pure


def state():
    return torch.ones(4, 3, dtype=torch.float64)


def solved(**options):
    return lambda f, y: ode.solve(f, y, T, **{"rtol": 1e-6, "atol": 1e-8, **options}).y


def gridded(method):
    return lambda f, y: odeint(f, y, T, method=method, options={"step_size": 0.1})


SOLVES = {
    "dopri5": solved(),
    "dopri8, dense": solved(solver="dopri8", dense=True),
    "one step for all": solved(control="batch"),
    "kvaerno3": solved(solver="kvaerno3", rtol=1e-7),
    "kvaerno3, krylov": solved(solver="kvaerno3", linear="krylov", rtol=1e-7),
    "steps": solved(steps=10, solver="rk4"),
    "event": solved(events=ode.Event(lambda t, y: y.mul_(2)[:, 0] - 1.0, terminal=False)),
    "odeint dopri5": lambda f, y: odeint(f, y, T),
    **{
        f"odeint {m}": gridded(m)
        for m in ("euler", "rk4", "explicit_adams", "implicit_adams", "trapezoid")
    },
    "odeint scipy": lambda f, y: odeint(f, y, T, method="scipy_solver"),
}


@functools.cache
def solution(how, f):
    """Of a pure function, which many forms have."""
    return SOLVES[how](f, state())


MODES = [torch.no_grad, torch.enable_grad, torch.inference_mode]


@rows(("how", "form", "mode"), diagonal(list(SOLVES), list(FORMS), MODES))
def test_solves(how, form, mode):
    want = solution(how, plain(form))
    with mode():
        y0 = state()
        got = SOLVES[how](FORMS[form](), y0)
    # Newton's method may take differences for a Jacobian where f cannot be transformed: other
    # roundings, not other values.
    torch.testing.assert_close(got, want, rtol=1e-9 if "kvaerno" not in how else 1e-6, atol=0)
    assert torch.equal(y0, state())


def test_one_buffer_is_as_right_as_torchdiffeq():
    buffer = torch.empty(4, 3, dtype=torch.float64)
    for how in (solved(), lambda f, y: odeint(f, y, T, rtol=1e-6, atol=1e-8)):
        y = how(lambda t, y: buffer.copy_(-y), state())
        assert float((y[-1] - torch.tensor(-1.0).double().exp()).abs().max()) < 4e-6


GRADIENTS = {
    **{
        adjoint: lambda f, y, a=adjoint: ode.solve(f, y, T, adjoint=a).y
        for adjoint in ("backprop", "continuous")
    },
    "steps": lambda f, y: ode.solve(f, y, T, "rk4", steps=10, adjoint="backprop").y,
    "reversible": lambda f, y: ode.solve(f, y, T, "rk4", steps=10, adjoint="reversible").y,
    "odeint": lambda f, y: odeint(f, y, T),
    "odeint rk4": lambda f, y: odeint(f, y, T, method="rk4"),
    "odeint_adjoint": lambda f, y: odeint_adjoint(f, y, T, adjoint_params=()),
}


@rows(
    ("how", "form"),
    diagonal(list(GRADIENTS), [f for f in FORMS if f not in WITHOUT_GRADIENTS], times=2),
)
def test_gradients(how, form):
    def gradient(f):
        y0 = state().requires_grad_()
        GRADIENTS[how](f, y0)[-1].square().sum().backward()
        return y0.grad

    if how not in ("odeint", "odeint rk4", "odeint_adjoint") and (
        "buffer" in form or form == "other_type"
    ):
        with pytest.raises(OdesolveError, match="let f return a new tensor"):
            gradient(FORMS[form]())
        return
    got = gradient(FORMS[form]())
    torch.testing.assert_close(
        got, gradient(expanded if form == "expanded" else plain(form)), rtol=1e-9, atol=0
    )


def expanded(t, y):
    return -y.reshape(-1)[:1].repeat(y.numel()).view(y.shape)


class Equation(torch.nn.Module):
    noise_type = "diagonal"

    def __init__(self, f, g, calculus):
        super().__init__()
        self.f, self.g, self.sde_type = f, g, calculus


NOISES = {
    **{
        s: lambda f, g, y, s=s: ode.solve_sde(f, g, y, solver=s, steps=8, seed=0).y
        for s in ("euler_maruyama", "srid2")
    },
    "by tolerance": lambda f, g, y: (
        ode.solve_sde(f, 0.3, y, solver="stochastic_heun", noise="additive", rtol=1e-2, seed=0).y
    ),
    **{
        m: lambda f, g, y, m=m, c=c: seeded(Equation(f, g, c), y, m)
        for m, c in (
            ("euler", "ito"),
            ("srk", "ito"),
            ("midpoint", "stratonovich"),
            ("reversible_heun", "stratonovich"),
        )
    },
}


def seeded(equation, y, method):
    torch.manual_seed(0)
    return sdeint(equation, y, T, method=method, dt=0.1)


@functools.cache
def noisy_solution(how, f):
    return NOISES[how](f, f, state())


WHOLE = [f for f in FORMS if f != "expanded"]
WITHOUT_GRAD = [torch.no_grad, torch.inference_mode]


@rows(("how", "form", "mode"), product(list(NOISES), WHOLE, WITHOUT_GRAD))
def test_noise(how, form, mode):
    want = noisy_solution(how, plain(form))
    with mode():
        y0 = state()
        got = NOISES[how](FORMS[form](), FORMS[form](), y0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert torch.equal(y0, state())


def network(f):
    return lambda x, t, **cond: f(t.view(-1, 1), x)


X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sampled(**options):
    return lambda model: ode.sample(
        model, X, **{"solver": "ddim", "steps": 6, "seed": 1, **options}
    )


SAMPLES = {
    "ddim": sampled(),
    "dpmpp_2m": sampled(solver="dpmpp_2m"),
    "noise": sampled(solver="sde_dpmpp_1"),
    "guided": lambda m: sampled()(m.guided(3.0, cond={"a": 1}, uncond={})),
    "window": sampled(executor=ode.Window()),
    "parareal": sampled(executor=ode.Parareal()),
    "gradients": sampled(adjoint="backprop"),
    "iterate": lambda m: torch.stack(
        [s.x + s.data for s in ode.iterate(m, X, solver="dpmpp_2m", steps=6)]
    ),
    "sampler": lambda m: ode.Sampler(m, "unipc_2", 6, dtype=torch.float64)(X),
    "solve": lambda m: ode.solve(m, X, (1.0, 0.01), rtol=1e-3).last,
    "invert": lambda m: ode.invert(m, X, steps=6),
    "predictions": lambda m: m.data(X, 0.5) + m.score(X, torch.full((4,), 0.5)),
}


@functools.cache
def samples(how, f):
    return SAMPLES[how](ode.Model(network(f), VP, "noise"))


@rows(("how", "form", "mode"), product(list(SAMPLES), WHOLE, WITHOUT_GRAD))
def test_samples(how, form, mode):
    want, before = samples(how, plain(form)), X.clone()
    with mode():
        got = SAMPLES[how](ode.Model(network(FORMS[form]()), VP, "noise"))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert torch.equal(before, X)


DENSITIES = {
    "nodes": lambda m: ode.log_prob(m, X, tol=0.1).value,
    "along": lambda m: ode.log_prob(m, X, divergence="along", tol=0.1).value,
    "steps": lambda m: ode.log_prob(m, X, steps=6, trace="hutchinson", seed=0).value,
    "plan": lambda m: ode.log_prob(m, X, of="plan", steps=4).value,
    "velocity": lambda m: ode.log_prob(lambda t, x: m.net(x, t.view(-1)), X, tol=0.1).value,
}


@functools.cache
def density(how, f):
    return DENSITIES[how](ode.Model(network(f), VP, "noise"))


@pytest.mark.filterwarnings("ignore:the latents are:UserWarning")  # of fields that flow to no base
@rows(
    ("how", "form"),
    diagonal(
        list(DENSITIES),
        [f for f in FORMS if f not in (*WITHOUT_GRADIENTS, "expanded")],
        times=2,
    ),
)
def test_densities(how, form):
    got = DENSITIES[how](ode.Model(network(FORMS[form]()), VP, "noise"))
    want = density(how, plain(form))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_smallest_network_that_works_in_place():
    want = ode.sample(
        ode.Model(lambda x, t: x * 0.5, VP, "noise"), (64, 8), solver="ddim", steps=10, seed=0
    )
    got = ode.sample(
        ode.Model(lambda x, t: x.mul_(0.5), VP, "noise"), (64, 8), solver="ddim", steps=10, seed=0
    )
    assert torch.equal(got, want)
    assert float(got.std()) > 10.0
    layers = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(8, 8))
    same = torch.nn.Sequential(torch.nn.ReLU(), layers[1])
    first, second = (
        ode.sample(ode.Model(lambda x, t, n=n: n(x), VP, "noise"), (64, 8), seed=0)
        for n in (layers, same)
    )
    assert torch.equal(first, second)


def test_conditions_and_arguments_are_not_written_over():
    def net(x, t, c):
        c.mul_(2.0)
        return x * c

    cond = torch.full((4, 1), 0.25, dtype=torch.float64)
    got = sampled()(ode.Model(net, VP, "noise", cond={"c": cond}))
    assert torch.equal(got, sampled()(ode.Model(lambda x, t: x * 0.5, VP, "noise")))
    rate = torch.full((4, 1), 0.5, dtype=torch.float64)
    got = ode.solve(lambda t, y, k: -k.mul_(2.0) * y, state(), args=(rate,)).y
    assert torch.equal(got, ode.solve(pure, state()).y)
    assert bool((cond == 0.25).all() and (rate == 0.5).all())


def test_the_branches_of_guidance_do_not_share_a_buffer():
    buffer = torch.empty_like(X)

    def net(x, t, c):
        return torch.mul(x, c, out=buffer)

    def guided(f):
        model = ode.Model(f, VP, "noise").guided(3.0, cond={"c": 0.5}, uncond={"c": 0.25})
        return sampled()(model)

    assert torch.equal(guided(net), guided(lambda x, t, c: x * c))


def test_a_classifier_that_works_in_place():
    def guided(f):
        return sampled()(ode.Model(network(pure), VP, "noise").classifier_guided(f))

    got = guided(lambda x, t: -x.relu_().square().sum(1) * 0.01)
    assert torch.equal(got, guided(lambda x, t: -x.relu().square().sum(1) * 0.01))


def test_chains():
    want = ode.langevin(lambda x: -x, X, step=0.1, n=5, seed=0)
    buffer = torch.empty_like(X)
    for score in (lambda x: x.neg_(), lambda x: torch.neg(x, out=buffer)):
        assert torch.equal(ode.langevin(score, X, step=0.1, n=5, seed=0), want)
    log_prob = lambda x: -0.5 * x.square().sum(1)
    want = ode.mala(log_prob, X, 0.1, n=5, seed=0).x
    for score in (lambda x: x.neg_(), lambda x: torch.neg(x, out=buffer)):
        assert torch.equal(
            ode.mala(lambda x: log_prob(x.mul_(1.0)), X, 0.1, n=5, score=score, seed=0).x, want
        )


def test_a_base_that_works_in_place():
    def base(y):
        return y.square_().sum(1) * -0.5

    got = ode.log_prob(lambda t, x: -x, X, base=base, tol=0.1)
    want = ode.log_prob(lambda t, x: -x, X, base=lambda y: y.square().sum(1) * -0.5, tol=0.1)
    assert torch.equal(got.value, want.value)
    assert torch.equal(got.latent, want.latent)


@rows("how", ["dopri5", "kvaerno3", "steps", "odeint dopri5", "odeint rk4"])
def test_a_function_that_turns_careless_is_refused(how):
    y0 = state()
    with (
        torch.no_grad(),
        pytest.raises(
            OdesolveError,
            match=r"wrote to its input.*y = "
            r"y.clone\(\)",
        ),
    ):
        SOLVES[how](turns_careless(), y0)
    assert torch.equal(y0, state())


FRESH = {
    "fresh": lambda y: -y,
    "view": lambda y: (-y)[:, 1:],
    "transposed": lambda y: (-y).t(),
    "expanded": lambda y: (-y[:1]).expand(4, 3),
    "linear": lambda y: torch.nn.functional.linear(y[None], torch.eye(3, dtype=y.dtype))[0],
}


@rows("form", FRESH)
@rows("mode", MODES)
def test_what_is_fresh_is_not_copied(form, mode):
    places = []

    def f(t, y):
        out = FRESH[form](y)
        places.append(out.data_ptr())
        return out

    with mode():
        callee, t, y = Callee(f), torch.zeros(()), state()
        for _ in range(3):
            out = callee(t, y)
            assert out.data_ptr() == places[-1]
        assert callee.careful is False


def test_a_harmless_function_gets_no_copies():
    seen = []
    callee, t, y = Callee(lambda t, y: seen.append(y.data_ptr())), torch.zeros(()), state()
    for _ in range(4):
        callee(t, y)
    assert seen[0] != y.data_ptr()
    assert seen[1:] == [y.data_ptr()] * 3


def test_a_model_that_was_called_once_can_be_copied():
    model = ode.Model(network(pure), VP, "noise")
    want = model.data(X, 0.5)
    twin = copy.deepcopy(model)
    assert model.network.door.lent
    assert not twin.network.door.lent
    for one in (twin, model, twin):
        assert torch.equal(one.data(X, 0.5), want)


def test_no_state_is_held_between_calls():
    model = ode.Model(torch.nn.Linear(3, 3).double(), VP, "noise", time=lambda path, t: t)
    seen = []
    model.net.forward = lambda x, t: seen.append(weakref.ref(x)) or x * 0.5
    model.data(X, 0.5)
    assert seen[0]() is None


def test_counters_are_the_user_s_own():
    calls = torch.zeros((), dtype=torch.int64)
    sol = ode.solve(lambda t, y, n: n.add_(1) * 0 - y, state(), args=(calls,), control="batch")
    assert int(calls) == int(sol.nfe)
