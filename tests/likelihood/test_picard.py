"""Log-densities in rounds: the state at all nodes at once, exact where that is known, and what
every sample has of its own."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.likelihood import picard
from odesolve.likelihood.flow import PathFlow
from odesolve.likelihood.nodes import clenshaw_curtis
from tests.products import LONG

PATHS = {
    "vp": ode.paths.VP(),
    "edm": ode.paths.EDM(),
    "linear": ode.paths.Linear(),
    "cosine": ode.paths.Cosine(),
}
digits = ode.problems.digits()


def data(n=16, dtype=torch.float64):
    return digits.sample(n, 0).to(dtype)


@pytest.mark.parametrize("n", [4, 16, 64])
def test_matrices_are_exact_for_polynomials(n):
    x, s = clenshaw_curtis(n)[0], (0.0, 0.1234, 0.5, 0.9, 1.0)
    at = torch.tensor(s, dtype=torch.float64)
    for k in range(0, n + 1, 3):
        torch.testing.assert_close(picard.values_at(n, s) @ x**k, at**k, atol=1e-12, rtol=0)
        torch.testing.assert_close(
            picard.integrals_to(n, s) @ x**k, at ** (k + 1) / (k + 1), atol=1e-12, rtol=0
        )


@pytest.mark.few(4)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("std", [0.2, 0.5, 1.5])
def test_gaussians_are_exact(path, std):
    problem = ode.problems.gaussian(mean=0.3, std=std, shape=(2, 3))
    x = problem.sample(5).double()
    model = problem.model(PATHS[path])
    found = ode.log_prob(model, x, solver="picard", trace="exact", tol=1e-6)
    rho = (
        PATHS[path].points([PATHS[path].t_min])[0].rho
        if float(PATHS[path].sigma(PATHS[path].t_data)) == 0
        else 0.0
    )
    rho = rho or PATHS[path].points([PATHS[path].t_data])[0].rho
    spread = math.hypot(std, rho)
    exact = -0.5 * ((x - 0.3) / spread).square().flatten(1).sum(1) - 6 * math.log(
        spread * math.sqrt(2 * math.pi)
    )
    torch.testing.assert_close(found.value + found.prior_mismatch, exact, atol=2e-5, rtol=0)
    assert found.ok
    assert found.rounds <= 16


@pytest.mark.parametrize("path", ["vp"] + ["edm", "linear"] * LONG)
def test_digits_to_the_tolerance(path):
    model, x = digits.model(PATHS[path]), data()
    options = {"trace": "hutchinson", "products": 2, "seed": 0}
    exact = ode.log_prob(model, x, tol=1e-6, **options)
    for tol in (1e-1, 1e-2, 1e-3):
        found = ode.log_prob(model, x, solver="picard", tol=tol, **options)
        error = (found.value - exact.value).square().mean().sqrt()
        assert error < tol
        assert error < 3 * found.solver_error.square().mean().sqrt()
        assert found.ok
    assert (found.latent - exact.latent).abs().max() < 1e-3 * exact.latent.std()


def test_rounds_are_a_fraction_of_a_solvers():
    """What the evaluations of one sample cost in turn: a seventh of dopri5's, for three times as
    many."""
    model, x = digits.model(PATHS["vp"]), data()
    options = {"trace": "hutchinson", "products": 2, "seed": 0, "tol": 1e-2}
    turns, rounds = (ode.log_prob(model, x, solver=s, **options) for s in ("dopri5", "picard"))
    assert rounds.rounds <= 20
    assert rounds.rounds * 5 < turns.rounds
    assert rounds.nfe.double().mean() < 4 * turns.nfe.double().mean()


@pytest.mark.parametrize("solver", ["picard", "dopri5"])
def test_rounds_are_batches_of_network_calls(solver):
    calls, inner = [], digits.model(PATHS["vp"])

    def net(x, t):
        calls.append(len(x))
        return inner.net(x, t)

    x = data(3)
    model = ode.Model(net, PATHS["vp"], inner.predicts)
    found = ode.log_prob(model, x, solver=solver, trace="hutchinson", products=1, seed=0)
    # Three see whether autograd sees all and two whether rows have one clock; two at the data's end
    # wait for none.
    assert len(calls) == found.rounds + 5 + 2
    assert sum(calls) == found.nfe.sum()


def test_samples_do_not_depend_on_one_another():
    model, x = digits.model(PATHS["vp"]), data(4)
    options = {"solver": "picard", "trace": "hutchinson", "products": 2, "seed": 0}
    whole = ode.log_prob(model, x, **options)
    for k in range(4):
        one = ode.log_prob(model, x[k : k + 1], ids=[k], **options)
        torch.testing.assert_close(one.value, whole.value[k : k + 1], atol=1e-8, rtol=0)
        assert one.nfe == whole.nfe[k]


def test_few_numbers_at_once(monkeypatch):
    """Batches that are cut for memory give the same."""
    model, x = digits.model(PATHS["vp"]), data(3)
    options = {"solver": "picard", "trace": "hutchinson", "products": 2, "seed": 0}
    whole = ode.log_prob(model, x, **options)
    monkeypatch.setattr("odesolve.likelihood.nodes.NUMBERS", 64 * 10)
    torch.testing.assert_close(
        ode.log_prob(model, x, **options).value, whole.value, atol=1e-8, rtol=0
    )


def test_float32():
    x = data(8, torch.float32)
    model = digits.model(PATHS["vp"])
    options = {"solver": "picard", "trace": "hutchinson", "products": 2, "seed": 0}
    found, wide = ode.log_prob(model, x, **options), ode.log_prob(model, x.double(), **options)
    assert found.latent.dtype == torch.float32
    torch.testing.assert_close(found.value, wide.value, atol=2e-2, rtol=0)


def test_a_sample_that_fails_leaves_the_others_alone():
    inner, x = digits.model(PATHS["vp"]), data(4)

    def net(z, t):
        out = inner.net(z, t)
        bad = (z.flatten(1).sum(1) * t > 60.0).view(-1, 1, 1, 1)
        return torch.where(bad, torch.nan, out)

    options = {"solver": "picard", "trace": "hutchinson", "products": 2, "seed": 0}
    x[2] = 3.0
    found = ode.log_prob(ode.Model(net, PATHS["vp"], inner.predicts), x, **options)
    assert found.status == ["ok", "ok", "diverged", "ok"]
    assert torch.isnan(found.value[2])
    good = [0, 1, 3]
    clean = ode.log_prob(inner, x, **options)
    torch.testing.assert_close(found.value[good], clean.value[good], atol=1e-8, rtol=0)


def test_no_convergence_is_told(monkeypatch):
    monkeypatch.setattr(picard, "LIMIT", 3)
    found = ode.log_prob(
        digits.model(PATHS["vp"]), data(2), solver="picard", trace="hutchinson", products=2, seed=0
    )
    assert found.status == ["max_rounds"] * 2
    assert torch.isnan(found.value).all()


def test_curves_are_what_their_slopes_say():
    model, x = digits.model(PATHS["vp"]), data(3)
    flow = PathFlow(model, None, None, x)
    curve = picard.Trajectory(flow, x, 1e-8)
    u = torch.linspace(flow.start, flow.stop, 7, dtype=torch.float64)
    h = 1e-4
    middle = u[1:-1]
    slope = (curve.at(middle + h) - curve.at(middle - h)) / (2 * h)
    torch.testing.assert_close(curve.slope_at(middle), slope, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(curve.at(u)[0], flow.enter(x))
    index = torch.arange(3)
    for k, angle in enumerate(u):
        there = flow.field(angle.expand(3), index)(curve.at(u)[k])
        torch.testing.assert_close(curve.slope_at(u)[k], there, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"adjoint": "backprop"}, {"divergence": "along"}])
def test_what_it_does_not_do(options):
    with pytest.raises(ode.OdesolveError, match='"picard" evaluates at nodes'):
        ode.log_prob(digits.model(PATHS["vp"]), data(2), solver="picard", **options)
    with pytest.raises(ode.OdesolveError, match='"picard" evaluates at nodes'):
        ode.log_prob(lambda t, x: -x, torch.zeros(2, 3), solver="picard")
