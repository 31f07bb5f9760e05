"""Samples that come with their log-density: the same samples, no more evaluations, and the right
number."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.likelihood.plan_density import PlanDensity

MIXTURE = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
PATHS = [paths.VP(), paths.EDM(), paths.Linear().flipped()]


def noise(n=16, dim=2, dtype=torch.float64):
    return torch.randn(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(0))


def net(x, t):
    return torch.tanh(1.3 * x + t[:, None]) * 0.5


LOOK = 3  # evaluations that see whether autograd sees all of the network


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_densities_converge_to_the_datas(path):
    """Second order, over the last step to sigma = 0 too."""
    errors = []
    for steps in (20, 40):
        found = ode.sample(MIXTURE.model(path), noise(), "dpmpp_2m", steps, "karras", log_prob=True)
        error = found.log_prob.value - MIXTURE.log_prob(found.x)
        errors.append(float(error.abs().mean()))
        assert 0.4 < float(found.log_prob.solver_error.norm() / error.norm()) < 8.0
        assert found.log_prob.nfe.tolist() == [steps + LOOK] * 16
        assert found.log_prob.products.tolist() == [2 * steps] * 16
    assert math.log2(errors[0] / errors[1]) > 1.8


@pytest.mark.parametrize("kind", ["flow", "plan"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc_3", "heun_edm", "ddim"])
def test_samples_are_the_same_bit_by_bit(solver, kind):
    calls = []
    model = ode.Model(
        lambda x, t: (calls.append(1), net(x, t))[1], paths.EDM(), "edm", dtype=torch.float32
    )
    plain = ode.sample(model, noise(4, 6, torch.float32), solver, 5, full=True)
    alone, calls[:] = len(calls), []
    found = ode.sample(model, noise(4, 6, torch.float32), solver, 5, log_prob=kind)
    assert torch.equal(found.x, plain.x)
    assert (len(calls), found.nfe) == (alone + LOOK, plain.nfe)
    assert found.log_prob.latent.equal(noise(4, 6, torch.float32) * 80)
    assert found.log_prob.status == ["ok"] * 4


@pytest.mark.parametrize("kind", ["flow", "plan"])
def test_samples_of_a_half_precision_network_are_the_same_too(kind):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.SiLU(), torch.nn.Linear(16, 6)).to(
        torch.bfloat16
    )
    model = ode.Model(lambda x, t: inner(x), paths.VP(), "v", dtype=torch.bfloat16)
    plain = ode.sample(model, noise(4, 6, torch.float32), "dpmpp_2m", 6)
    found = ode.sample(model, noise(4, 6, torch.float32), "dpmpp_2m", 6, log_prob=kind)
    assert torch.equal(found.x, plain)
    assert bool(found.log_prob.value.isfinite().all())
    assert all(p.grad is None for p in inner.parameters())


def test_samples_of_the_ito_density_are_the_same_bit_by_bit():
    model = ode.Model(net, paths.VP(), "noise")
    plain = ode.sample(model, (4, 6), "euler_maruyama", 20, seed=3)
    found = ode.sample(model, (4, 6), "euler_maruyama", 20, seed=3, log_prob="ito")
    assert torch.equal(found.x, plain)
    assert found.log_prob.nfe.tolist() == [20] * 4


def test_the_plans_density_is_exact_where_the_flows_is_not():
    """For Gaussian data of one deviation the map is a factor, whose density is known."""
    std, path = 0.5, paths.VP()
    problem = ode.problems.gaussian(mean=[0.0, 0.0], std=std)
    found = ode.sample(problem.model(path), noise(), "ddim", 3, log_prob="plan")
    assert isinstance(found.log_prob, PlanDensity)
    factor = (found.x / noise()).mean()
    want = -0.5 * (found.x / factor).square().sum(1) - 2 * torch.log(
        factor * math.sqrt(2 * math.pi)
    )
    torch.testing.assert_close(found.log_prob.value, want, rtol=0, atol=1e-10)
    flow = ode.sample(problem.model(path), noise(), "ddim", 3, log_prob=True)
    assert float((flow.log_prob.value - want).abs().mean()) > 0.1


def test_probes_follow_seed_and_id():
    """The estimate of a sample is its own: the same in any batch, another for another seed."""
    model, x = ode.Model(net, paths.VP(), "noise"), noise(4, 40)
    options = {"steps": 5, "solver": "ddim", "log_prob": True, "trace": "gaussian", "products": 3}
    whole = ode.sample(model, x, seed=1, **options).log_prob
    part = ode.sample(model, x[2:], seed=1, ids=[2, 3], **options).log_prob
    other = ode.sample(model, x, seed=2, **options).log_prob
    torch.testing.assert_close(part.value, whole.value[2:], rtol=0, atol=1e-10)
    assert bool(((other.value - whole.value).abs() > 1e-6).all())
    assert (whole.trace, whole.probes) == ("gaussian(3)", 3)
    assert bool((whole.stderr > 0).all())


def test_intervals_hold_the_exact_value():
    """Intervals of 8 probes at 90 %, over 300 samples: as often as they say or more, within four
    deviations."""
    model, x = ode.Model(net, paths.VP(), "noise"), noise(300, 16)
    options = {"steps": 5, "solver": "dpmpp_2m", "log_prob": True, "seed": 4}
    rotated = ode.Model(
        lambda x, t: net(x, t) + 0.3 * net(x.flip(1), t) + 0.1 * net(x.roll(1, 1), t),
        model.path,
        "noise",
    )
    want = ode.sample(rotated, x, trace="exact", **options).log_prob.value
    found = ode.sample(rotated, x, trace="gaussian", products=8, **options).log_prob
    low, high = replace(found, solver_error=None).interval(0.9)
    inside = ((low <= want) & (want <= high)).double().mean()
    assert (found.trace, found.probes) == ("gaussian(8)", 8)
    assert 0.9 - 4 * math.sqrt(0.9 * 0.1 / 300) < float(inside) < 0.98


def test_one_probe_has_no_known_error():
    found = ode.sample(
        ode.Model(net, paths.VP(), "noise"),
        noise(2, 40),
        "ddim",
        3,
        log_prob=True,
        trace="hutchinson",
        products=1,
    )
    assert bool(found.log_prob.stderr.isnan().all())
    assert bool(found.log_prob.value.isfinite().all())


def test_a_solve_that_diverges_has_no_density():
    model = ode.Model(lambda x, t: x * 1e30 / (t[:, None] - 0.5).abs(), paths.VP(), "data")
    found = ode.sample(model, noise(2, 2, torch.float32), "ddim", 6, log_prob=True)
    assert (found.status, found.log_prob) == ("diverged", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_prob": "flows"}, "flows"),
        ({"log_prob": True, "solver": "euler_maruyama"}, 'log_prob="ito"'),
        ({"log_prob": "plan", "solver": "euler_maruyama"}, 'log_prob="ito"'),
        ({"log_prob": "ito", "solver": "ddim"}, 'log_prob="flow"'),
        ({"log_prob": True, "reverse": True}, "give data as state="),
        ({"log_prob": True, "executor": ode.Window()}, "without executor"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_errors(options, message):
    with pytest.raises(OdesolveError, match=message):
        ode.sample(ode.Model(net, paths.VP(), "noise"), noise(2), steps=4, **options)
