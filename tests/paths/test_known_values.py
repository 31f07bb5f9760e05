"""Numbers that were worked out apart from this library, and the chain of single noising steps
behind each table."""

from __future__ import annotations

import math

import pytest
import torch

from odesolve import paths

COSINE = math.cos(math.pi * 0.25 / 1.008) / math.cos(math.pi * 0.004 / 1.008)
VALUES = [
    ("VP alpha(1)", lambda: paths.VP().alpha(1.0), math.exp(-5.025)),
    ("VP sigma(1)/alpha(1)", lambda: paths.VP().rho(1.0), math.sqrt(math.expm1(10.05))),
    ("VP B(1)", lambda: paths.VP().B(1.0), 10.05),
    ("VP variance is 1", lambda: paths.VP().alpha(0.3) ** 2 + paths.VP().sigma(0.3) ** 2, 1.0),
    ("Cosine alpha(0)", lambda: paths.Cosine().alpha(0.0), 1.0),
    ("Cosine(0) alpha(1/2)", lambda: paths.Cosine(0.0).alpha(0.5), math.sqrt(0.5)),
    ("Cosine alpha(0.492)", lambda: paths.Cosine().alpha(0.492), COSINE),
    ("VE sigma(0)", lambda: paths.VE().sigma(0.0), 0.01),
    ("VE sigma(1/2) is the geometric mean", lambda: paths.VE().sigma(0.5), math.sqrt(0.01 * 50)),
    ("VE sigma(1)", lambda: paths.VE().sigma(1.0), 50.0),
    ("SubVP sigma(1) is 1 - exp(-B)", lambda: paths.SubVP().sigma(1.0), 1 - math.exp(-10.05)),
    ("SubVP alpha = VP alpha", lambda: paths.SubVP().alpha(0.4), float(paths.VP().alpha(0.4))),
    ("EDM sigma(80)", lambda: paths.EDM().sigma(80.0), 80.0),
    ("Linear lambda(1/2)", lambda: paths.Linear().lam(0.5), 0.0),
    ("Linear t = sigmoid(-lambda)", lambda: paths.Linear().t_of_lam(1.5), 1 / (1 + math.exp(1.5))),
    ("Linear(0.1) sigma(0)", lambda: paths.Linear(0.1).sigma(0.0), 0.1),
    ("Linear(0.1) sigma(1)", lambda: paths.Linear(0.1).sigma(1.0), 1.0),
    ("Linear g^2 = 2 t/(1 - t)", lambda: paths.Linear().g2(0.25), 2 / 3),
    ("Trig alpha(1/3)", lambda: paths.Trig().alpha(1 / 3), math.sqrt(3) / 2),
    ("Trig t(lambda)", lambda: paths.Trig().t_of_lam(math.log(math.sqrt(3))), 1 / 3),
]  # fmt: skip


@pytest.mark.parametrize(("get", "want"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES])
def test_value(get, want):
    assert float(get()) == pytest.approx(want, rel=1e-12, abs=1e-15)


def test_vp_ends_where_the_literature_says():
    assert float(paths.VP().alpha(1.0)) == pytest.approx(6.57e-3, rel=1e-3)
    assert float(paths.VP().rho(1.0)) == pytest.approx(152.167, abs=5e-4)


def test_ddpm_table():
    """Sum of log(1 - beta) is -10.118 where the VP integral says -10.050: the two paths are not the
    same."""
    ddpm = paths.Discrete.ddpm()
    assert 2 * float(ddpm.log_alpha(1.0)) == pytest.approx(-10.118, abs=5e-4)
    assert 2 * float(ddpm.log_alpha(1.0)) - -float(paths.VP().B(1.0)) == pytest.approx(
        -0.068, abs=5e-4
    )
    assert float(ddpm.lam(1e-3)) == pytest.approx(4.6051, abs=5e-5)
    assert float(ddpm.lam(1.0)) == pytest.approx(-5.0588, abs=5e-5)


@pytest.mark.parametrize(
    ("path", "beta"),
    [
        (paths.Discrete.ddpm(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
        (
            paths.Discrete.stable_diffusion(),
            torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2,
        ),
    ],
    ids=["ddpm", "stable_diffusion"],
)
def test_chained_noising_steps_reach_every_level(path, beta):
    """x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) eps, a thousand times."""
    alpha, variance, levels = 1.0, 0.0, []
    for b in beta.tolist():
        alpha, variance = alpha * math.sqrt(1 - b), (1 - b) * variance + b
        levels.append((alpha, math.sqrt(variance)))
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    want = torch.tensor(levels, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t), want[:, 0], rtol=1e-12, atol=0)
    torch.testing.assert_close(path.sigma(t), want[:, 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [1, 7, 100, 999, 1000])
def test_table_goes_through_every_level_it_was_given(length):
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, length, dtype=torch.float64), 0)
    path = paths.Discrete(table)
    t = torch.arange(1, length + 1, dtype=torch.float64) / length
    torch.testing.assert_close(path.alpha(t) ** 2, table, rtol=1e-12, atol=0)
    torch.testing.assert_close(path.alphas_cumprod, table, rtol=1e-15, atol=0)
    assert path.training_steps == length
    assert (float(path.alpha(0.0)), float(path.sigma(0.0))) == (1.0, 0.0)


def test_log_alpha_is_linear_between_levels():
    path = paths.Discrete.ddpm()
    left, right = float(path.log_alpha(0.499)), float(path.log_alpha(0.5))
    assert float(path.log_alpha(0.49925)) == pytest.approx(0.75 * left + 0.25 * right, rel=1e-14)


def test_zero_terminal_snr_is_raised_to_a_finite_one():
    path = paths.Discrete([0.9, 0.5, 0.0])
    assert float(path.alpha(1.0)) == pytest.approx(2.0**-12, rel=1e-15)
    assert math.isfinite(float(path.lam(1.0)))


def test_start_level():
    """What unit noise is scaled by: sigma at the start, or 1 where the path has unit variance for
    unit data."""
    assert (
        paths.VP().prior_std == paths.Discrete.ddpm().prior_std == paths.Cosine().prior_std == 1.0
    )
    assert paths.VE().prior_std == pytest.approx(50.0, rel=1e-14)
    assert paths.EDM().prior_std == 80.0
    assert paths.EDM().start_std(10.0) == 10.0
    assert paths.Linear().prior_std == paths.Linear().flipped().prior_std == 1.0
    assert (
        paths.Linear().start_std(0.8)
        == paths.Linear().flipped().start_std(0.2)
        == pytest.approx(0.8)
    )
