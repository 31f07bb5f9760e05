"""Networks and right-hand sides that lose the graph: refused wherever a value or a gradient would
be wrong."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch

import odesolve as ode
from odesolve.integrations import torchdiffeq, torchsde
from tests.products import diagonal
from tests.rows import rows

# a graph of parameters alone is none
WEIGHT = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
X = torch.tensor([[0.3, -0.8], [1.1, 0.2], [-0.6, -0.4]], dtype=torch.float64)


def formula(x):
    return torch.tanh(x) * WEIGHT.to(x.dtype) + 0.1 * x


def under_no_grad(x):
    with torch.no_grad():
        return formula(x)


def under_inference_mode(x):
    with torch.inference_mode():
        return formula(x)


def by_detach(x):
    return formula(x.detach())


def by_data(x):
    return formula(x.data)


def by_numpy(x):
    return formula(torch.from_numpy(x.detach().numpy()))


def by_a_list(x):
    return formula(torch.tensor(x.tolist(), dtype=x.dtype))


LOST = [under_no_grad, under_inference_mode, by_detach, by_data, by_numpy, by_a_list]
lost = pytest.mark.parametrize("net", LOST, ids=lambda f: f.__name__)

DENSITIES = {
    "nodes": {},
    "along": {"divergence": "along"},
    "picard": {"solver": "picard"},
    "steps": {"steps": 4},
    "plan": {"of": "plan", "solver": "ddim", "steps": 3},
    "gradients": {"adjoint": "backprop"},
    "continuous": {"adjoint": "continuous"},
    "gradients-steps": {"steps": 4, "adjoint": "backprop"},
    **{
        name: {"trace": name, "seed": 0}
        for name in ("hutchinson", "gaussian", "orthogonal", "hutchpp", "xtrace")
    },
}


def model_of(net):
    return ode.Model(lambda x, t: net(x), ode.paths.VP(), "noise")


def guided(net, uncond):
    return ode.Model(lambda x, t, on: (net if on else uncond)(x), ode.paths.VP(), "noise").guided(
        2.0, {"on": True}, {"on": False}
    )


@rows(("way", "net"), diagonal(list(DENSITIES), LOST, times=3))
def test_densities_of_models(way, net):
    options = DENSITIES[way]
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.log_prob(model_of(net), X, **options)


# The others are taken for granted by the tests of likelihoods.
@pytest.mark.parametrize(
    "way",
    [pytest.param(w, marks=[pytest.mark.long] * (k % 4 > 0)) for k, w in enumerate(DENSITIES)],
)
def test_densities_of_a_network_with_a_graph(way):
    options = DENSITIES[way]
    assert ode.log_prob(model_of(formula), X, **options).value.isfinite().all()


@lost
@pytest.mark.parametrize("kind", ["flow", "plan"])
def test_densities_of_samples(net, kind):
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.sample(model_of(net), X, "ddim", 3, log_prob=kind, seed=0)


@lost
@pytest.mark.parametrize("trace", ["exact", ode.trace.Exact("forward")], ids=str)
@pytest.mark.parametrize("adjoint", [None, "backprop"])
def test_densities_of_velocities(net, trace, adjoint):
    if net is under_no_grad and trace != "exact":
        return  # forward differentiation does not mind no_grad
    with pytest.raises(ode.OdesolveError, match=r"does not depend on its input|torch\.func cannot"):
        ode.log_prob(lambda t, x: net(x), X, trace=trace, adjoint=adjoint)


@pytest.mark.parametrize("net", [formula, under_no_grad])
def test_forward_differentiation_does_not_mind_no_grad(net):
    found = ode.log_prob(model_of(net), X, trace=ode.trace.Exact("forward")).value
    assert torch.allclose(found, ode.log_prob(model_of(formula), X, trace="exact").value, atol=1e-9)


@pytest.mark.parametrize("net", [by_detach, under_inference_mode, by_data])
def test_forward_differentiation_minds_the_rest(net):
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.log_prob(model_of(net), X, trace=ode.trace.Exact("forward"))


@lost
def test_gradients_of_samples(net):
    start = X.clone().requires_grad_()
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.sample(model_of(net), start, "ddim", 3, adjoint="backprop").sum().backward()


@lost
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_each_branch_of_guidance(net, branch):
    model = guided(net, formula) if branch == "cond" else guided(formula, net)
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.log_prob(model, X, steps=3)
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        ode.sample(
            model, X.clone().requires_grad_(), "ddim", 3, adjoint="backprop"
        ).sum().backward()


@lost
@rows("kind", ["data", "noise", "score", "velocity", "v", "edm"])
def test_predictions(net, kind):
    with pytest.raises(ode.OdesolveError, match="does not depend on its input"):
        getattr(model_of(net), kind)(X.clone().requires_grad_(), 0.5)
    getattr(model_of(net), kind)(X, 0.5)  # without gradients there is nothing to lose
    with torch.no_grad():
        getattr(model_of(net), kind)(X.clone().requires_grad_(), 0.5)


def test_constant_networks_say_so():
    model = ode.Model(lambda x, t: WEIGHT.expand_as(x), ode.paths.VP(), "noise")
    with pytest.raises(ode.OdesolveError, match=r"\+ 0 \* x"):
        ode.log_prob(model, X)
    told = ode.Model(lambda x, t: WEIGHT + 0 * x, ode.paths.VP(), "noise")
    assert ode.log_prob(told, X).value.isfinite().all()


def test_a_classifier_of_parameters_alone():
    model = model_of(formula).classifier_guided(lambda x, t: WEIGHT.expand(len(x)))
    with pytest.raises(ode.OdesolveError, match="the classifier must depend on x"):
        ode.sample(model, X, "ddim", 2)


def solved(adjoint, f, y):
    solver, steps = ("rk4", 4) if adjoint == "reversible" else ("dopri5", None)
    return ode.solve(f, y, solver=solver, steps=steps, adjoint=adjoint, params=(WEIGHT,)).last


def solved_sde(adjoint, f, y, g=lambda t, y: 0.1 * y):
    calculus = {"solver": "stochastic_heun", "calculus": "stratonovich"}
    return ode.solve_sde(
        f, g, y, steps=4, seed=0, adjoint=adjoint, params=(WEIGHT,), **calculus
    ).last


def adapted(adjoint, f, y):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    if adjoint == "odeint":
        return torchdiffeq.odeint(f, y, t)[-1]
    return torchdiffeq.odeint_adjoint(f, y, t, adjoint_params=(WEIGHT,))[-1]


class Equation(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, f, g):
        super().__init__()
        self._f, self._g = f, g

    def f(self, t, y):
        return self._f(t, y)

    def g(self, t, y):
        return self._g(t, y)


def adapted_sde(adjoint, f, y, g=lambda t, y: 0.1 * y):
    solve = (
        torchsde.sdeint
        if adjoint == "sdeint"
        else partial(torchsde.sdeint_adjoint, adjoint_params=(WEIGHT,))
    )
    ts = torch.tensor([0.0, 0.5], dtype=torch.float64)
    bm = torchsde.BrownianInterval(0.0, 0.5, size=y.shape, dtype=y.dtype, entropy=0)
    return solve(Equation(f, g), y, ts, bm, method="euler", dt=0.25)[-1]


SOLVES = [
    *((solved, a) for a in ("backprop", "continuous", "reversible")),
    *((solved_sde, a) for a in ("backprop", "continuous", "reversible")),
    *((adapted, a) for a in ("odeint", "odeint_adjoint")),
    *((adapted_sde, a) for a in ("sdeint", "sdeint_adjoint")),
]
solves = pytest.mark.parametrize(
    ("solve", "adjoint"), SOLVES, ids=[f"{s.__name__}-{a}" for s, a in SOLVES]
)


def gradient(solve, adjoint, f, **more):
    y = X.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchsde's, of noise and methods
        return torch.autograd.grad(solve(adjoint, f, y, **more).sum(), y)[0]


@rows(("solve", "adjoint", "net"), [(*way, net) for way, net in diagonal(SOLVES, LOST, times=3)])
def test_gradients_of_solves(solve, adjoint, net):
    with pytest.raises(ode.OdesolveError, match="depends on y in a way that autograd does not see"):
        gradient(solve, adjoint, lambda t, y: net(y))


@solves
def test_right_hand_sides_may_be_constant(solve, adjoint):
    with_time = gradient(solve, adjoint, lambda t, y: (WEIGHT * t).expand_as(y))
    assert torch.equal(with_time, gradient(solve, adjoint, lambda t, y: 0.0 * y))


@lost
@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_diffusions(net, adjoint):
    with pytest.raises(ode.OdesolveError, match="g depends on y in a way"):
        gradient(solved_sde, adjoint, lambda t, y: -y, g=lambda t, y: net(y))
    constant = gradient(solved_sde, adjoint, lambda t, y: -y, g=lambda t, y: WEIGHT.expand_as(y))
    assert torch.allclose(
        constant, gradient(solved_sde, adjoint, lambda t, y: -y, g=lambda t, y: WEIGHT + 0 * y)
    )


@lost
@pytest.mark.parametrize("adjoint", ["sdeint", "sdeint_adjoint"])
def test_diffusions_of_the_adapter(net, adjoint):
    with pytest.raises(ode.OdesolveError, match="g of sde depends on y in a way"):
        gradient(adapted_sde, adjoint, lambda t, y: -y, g=lambda t, y: net(y))


@lost
def test_milsteins_step_differentiates_the_diffusion(net):
    with pytest.raises(ode.OdesolveError, match="g of sde depends on y in a way"):
        torchsde.sdeint(
            Equation(lambda t, y: -y, lambda t, y: net(y)),
            X,
            [0.0, 0.5],
            method="milstein",
            dt=0.25,
        )


def test_what_is_lost_late_is_seen():
    def f(t, y):
        return -(y.detach() if t.max() > 0.5 else y)

    with pytest.raises(ode.OdesolveError, match="depends on y in a way that autograd does not see"):
        gradient(solved, "backprop", f)


def test_a_part_of_a_state_that_is_lost():
    def f(t, state):
        return -state[0], -state[1].detach()

    y = X.clone().requires_grad_()
    with pytest.raises(ode.OdesolveError, match="depends on y in a way that autograd does not see"):
        ode.solve(f, (y, 2 * y), adjoint="backprop").last[1].sum().backward()
