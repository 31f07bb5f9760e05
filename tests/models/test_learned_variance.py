"""Networks that predict a variance along with the mean: used by DDPM's sampler, dropped by every
other."""

from __future__ import annotations

import math

import pytest
import torch
from odesolve.kernels.philox import keys, normals

import odesolve as ode
from odesolve import paths
from tests.rows import rows

PATH = paths.VP()
X = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MIXTURE = ode.problems.mixture(
    [0.4, 0.6], torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1)), std=0.4
)
PLAIN = MIXTURE.model(PATH, "noise")


def says(v, bias=0.0):
    """A network whose second half of channels is v(x)."""
    return ode.Model(
        lambda x, t, b=0.0: torch.cat([PLAIN.net(x, t) + b, v(x)], 1),
        PATH,
        "noise",
        learned_variance=True,
    )


@rows(("constant", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_the_ends_of_the_range_are_the_two_variances(constant, variance):
    model = says(lambda x: torch.full_like(x, constant))
    learned = ode.sample(model, X, "ddpm(variance=learned)", 10, "karras", seed=3)
    fixed = ode.sample(PLAIN, X, f"ddpm(variance={variance})", 10, "karras", seed=3)
    torch.testing.assert_close(learned, fixed, rtol=1e-12, atol=1e-12)


def test_every_number_has_its_own_variance():
    """One step written out: log-variances interpolated number by number."""
    plan = ode.plan("ddpm", PATH, grid=[0.9, 0.5], variance="learned")
    model = says(torch.tanh)
    got = ode.sample(model, state=X, plan=plan, seed=3)
    s, t = PATH.points([0.9, 0.5])
    fresh = -math.expm1(2 * (s.lam - t.lam))
    share = (torch.tanh(X) + 1) / 2
    log = share * math.log(s.sigma**2 * fresh) + (1 - share) * math.log(t.sigma**2 * fresh)
    z = normals(keys(3, torch.arange(4)), 0, 6).double().reshape(X.shape)
    mean = math.exp(s.lam - t.lam) * t.sigma / s.sigma * X + t.alpha * fresh * PLAIN.data(X, 0.9)
    torch.testing.assert_close(got, mean + torch.exp(log / 2) * z, rtol=1e-12, atol=1e-12)


@rows("solver", ["ddim", "dpmpp_2m", "heun", "ddpm", "predictor_corrector"])
def test_other_solvers_drop_it(solver):
    model = says(lambda x: x * 1e3)
    a, b = (ode.sample(m, X, solver, 6, "karras", seed=3) for m in (model, PLAIN))
    assert torch.equal(a, b)
    assert torch.equal(model.noise(X, 0.3), PLAIN.noise(X, 0.3))


def test_guidance_mixes_means_and_keeps_the_conditional_variance():
    model = says(torch.tanh).guided(3.0, {"b": 0.1}, {"b": 0.0})
    apart = says(torch.tanh).guided(3.0, {"b": 0.1, "label": None}, {"b": 0.0})
    # arguments that cannot be stacked: two calls
    apart.net = lambda x, t, b=0.0, label=None: model.net(x, t, b=b)
    solver = "ddpm(variance=learned)"
    a, b = (ode.sample(m, X, solver, 6, "karras", seed=3) for m in (model, apart))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    by_hand = ode.Model(
        lambda x, t: torch.cat([PLAIN.net(x, t) + 0.3, torch.tanh(x)], 1),
        PATH,
        "noise",
        learned_variance=True,
    )
    torch.testing.assert_close(
        a, ode.sample(by_hand, X, solver, 6, "karras", seed=3), rtol=1e-12, atol=1e-12
    )


def test_stepwise_saved_and_resumed():
    model, solver = says(torch.tanh), "ddpm(variance=learned)"
    want = ode.sample(model, X, solver, 6, "karras", seed=3, ids=[5, 1, 2, 9])
    steps = list(ode.iterate(model, X, solver, 6, "karras", seed=3, ids=[5, 1, 2, 9]))
    assert torch.equal(steps[-1].x, want)
    for step in steps:
        assert torch.equal(ode.resume(model, step.cursor.state_dict()), want)


def test_what_is_refused():
    with pytest.raises(
        ode.PlanError,
        match=r"uses a learned variance: give ode.Model\(..., "
        r"learned_variance=True\)",
    ):
        ode.sample(PLAIN, X, "ddpm(variance=learned)", 6)
    with pytest.raises(ode.OdesolveError, match=r"twice the channels, \(4, 4, 3\)"):
        ode.sample(ode.Model(PLAIN.net, PATH, "noise", learned_variance=True), X, "ddpm", 6)
    with pytest.raises(ode.PlanError, match="tree=False"):
        ode.sample(says(torch.tanh), X, "ddpm(variance=learned,tree)", 6)
