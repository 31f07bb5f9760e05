"""Maximum likelihood: values and gradients of linear flows in closed form, and what they train
to."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import MaximumLikelihood
from odesolve.training import fit
from tests.rows import rows

STD = 0.6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def flow(a):
    return lambda t, x: a * x


@rows("adjoint", ["backprop", "continuous", "reversible"])
def test_a_linear_flow(adjoint):
    """dx/dt = a x takes x to x e^a, so that log p(x) = -(x e^a)^2 / 2 - log(2 pi) / 2 + a for each
    of the numbers."""
    a, x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True), STD * normal(40, 2)
    options = {"steps": 40, "solver": "rk4"} if adjoint == "reversible" else {"tol": 1e-6}
    terms = MaximumLikelihood(flow(a), adjoint=adjoint, params=[a], **options)(x)
    carried = x.square() * math.exp(0.6)
    want = (0.5 * carried + 0.5 * math.log(2 * math.pi) - 0.3).sum(1)
    torch.testing.assert_close(terms.each.detach(), want, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(terms.loss, a)
    assert float(gradient) == pytest.approx(float((carried - 1).sum(1).mean()), rel=1e-5)


def test_it_trains_to_the_deviation_of_the_data():
    x = STD * normal(200, 2)
    a = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    objective = MaximumLikelihood(flow(a), params=[a], solver="rk4", steps=4)
    # near the end the loss is twice (a - its end)^2: a step leaves a fifth of the way
    fit(objective, lambda g: x, 15, optimiser=torch.optim.SGD([a], 0.2), progress=False)
    assert float(a.detach()) == pytest.approx(-0.5 * math.log(float(x.square().mean())), abs=1e-3)


def test_a_model_with_conditions_and_probes():
    scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    mixed = normal(3, 3, seed=2)
    net = lambda x, t, shift: scale * torch.tanh((x - shift) @ mixed)
    model = ode.Model(net, ode.paths.Linear(), "velocity", time="t")
    x, shift = normal(6, 3), normal(6, 1, seed=1)
    objective = MaximumLikelihood(model, trace="hutchinson", products=1, solver="heun", steps=8)
    a, b, c = (objective(x, cond={"shift": shift}, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(a.each, b.each)
    assert not torch.equal(a.each, c.each)
    assert (
        a.found.nfe.tolist() == [16 + 3 + 1] * 6
    )  # its steps, the look whether autograd sees all, and whether it is steady
    a.loss.backward()
    assert 0.0 < abs(float(scale.grad)) < math.inf
    seed = int(torch.randint(2**62, (), generator=generator(1)))
    again = ode.log_prob(
        model.given(shift=shift),
        x,
        trace="hutchinson",
        products=1,
        solver="heun",
        steps=8,
        seed=seed,
    ).value
    torch.testing.assert_close(a.each.detach(), -again)


def test_bad_input():
    with pytest.raises(ode.OdesolveError, match="takes no cond="):
        MaximumLikelihood(flow(1.0))(normal(3, 2), cond={"label": 1})
    with pytest.raises(ode.OdesolveError, match="give floats of shape"):
        MaximumLikelihood(flow(1.0))(torch.zeros(3))
