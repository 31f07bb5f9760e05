"""Predictor-corrector and annealed Langevin: exact moments on a Gaussian, and steps that know no
batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from odesolve.kernels.dispatch import normal
from odesolve.kernels.philox import keys, normals

import odesolve as ode
from odesolve import grids, paths
from tests.products import LONG, diagonal

from ..plan.literal import variance
from .moments import carried_variance

VARIANCE = 0.3
MODEL = ode.problems.gaussian(std=VARIANCE**0.5, shape=(4096,)).model(paths.VP(), "noise")


def plan_of(solver, path, grid, steps=None, **options):
    return ode.plan(solver, path, steps, grid, **options)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("predictor", "path"),
    diagonal(
        ["reverse_diffusion", "euler_maruyama", "ancestral", "ddim"],
        [paths.VP(), paths.EDM(), paths.VE()],
    ),
)
def test_predictors_converge_to_the_data_with_their_weak_order(predictor, path):
    grid = grids.Lambda(
        start=float(path.t_of_lam(-2.0)), stop=float(path.t_of_lam(1.5)), final=False
    )
    true = float(path.alpha(grid.stop) ** 2 * VARIANCE + path.sigma(grid.stop) ** 2)

    def error(n):
        plan = plan_of("predictor_corrector", path, grid, n, predictor=predictor, corrections=0)
        return abs(variance(plan, path, VARIANCE) - true)

    assert np.log2(error(256) / error(512)) == pytest.approx(1.0, abs=0.1)


def test_reverse_diffusion_at_a_thousand_steps_of_ddpm():
    """0.30164 from N(0, 1) without denoising (an independent recursion); here from the exact start
    and denoised."""
    plan = plan_of("predictor_corrector", paths.Discrete.ddpm(), "trailing", 1000, corrections=0)
    assert variance(plan, plan.path, VARIANCE) == pytest.approx(0.30154, abs=1e-5)


@pytest.mark.long  # 6000 rows; test_mode_weights.py runs the solver
def test_annealed_langevin_of_the_first_paper():
    """60 levels from 10 to 0.01, 100 steps each, epsilon = 2e-5: 0.3038413 by an independent
    recursion."""
    path = paths.VE(sigma_min=0.01, sigma_max=10.0)
    levels = [float(path.t_of_rho(s)) for s in np.geomspace(10.0, 0.01, 60)]
    plan = plan_of(
        "annealed_langevin", path, [*levels[:-1], 0.0], each=100, step=2e-5 / (2 * 0.01**2)
    )
    assert plan.nfe == 6000
    v = carried_variance(plan, path, VARIANCE)
    assert v == pytest.approx(0.3038413, abs=1e-7)


def test_the_corrector_inflates_the_variance_by_what_is_known():
    """Many steps at one level leave N(0, v) with v / (1 - r^2), whatever the level (here 1.0263 for
    r = 0.16)."""
    from odesolve.run.places import langevin

    x, v = normals(keys(3, torch.arange(8)), 7, 65536).double(), 2.0
    x, who, out = x * v**0.5, keys(0, torch.arange(8)), torch.empty(8, 65536, dtype=torch.float64)
    for k in range(400):
        normal(out, who, k)
        langevin(out, [x, -x / v], (0.16, 1.0))
        x, out = out, x
    assert float(x.var()) / v == pytest.approx(1 / (1 - 0.16**2), rel=4 * (2 / x.numel()) ** 0.5)


def test_corrected_samples_of_a_wide_gaussian():
    """The predictor's variance is known exactly; the corrector adds at most its own inflation."""
    shape, path = (8, 4096), MODEL.path
    given = {
        "solver": "predictor_corrector(norms=sample)",
        "steps": 200,
        "grid": "lambda",
        "seed": 0,
    }
    draw = lambda **o: ode.sample(MODEL, shape, dtype=torch.float64, **given, **o)
    noise = 4 * (2 / (8 * 4096)) ** 0.5
    plain = variance(
        plan_of("predictor_corrector", path, "lambda", 200, corrections=0), path, VARIANCE
    )
    assert float(draw(corrections=0).var()) == pytest.approx(plain, rel=noise)
    assert 1 - noise <= float(draw().var()) / plain <= 1 / (1 - 0.16**2) + noise


@pytest.mark.parametrize("dim", [2, 64] + [1] * LONG)
def test_expected_norms_are_right_in_any_dimension(dim):
    """With the exact score of a Gaussian the corrected variance is the recursion of the plan."""
    path, n = paths.VP(), 80_000 // dim
    model = ode.problems.gaussian(std=VARIANCE**0.5, shape=(dim,)).model(path, "noise")
    x = ode.sample(
        model, (n, dim), "predictor_corrector", 60, "lambda", seed=0, dtype=torch.float64
    )
    known = variance(plan_of("predictor_corrector", path, "lambda", 60), path, VARIANCE)
    assert float(x.var()) == pytest.approx(known, rel=4 * (2 / (n * dim)) ** 0.5)


def test_correctors_repair_their_predictor():
    """Its first-order error falls with every correction, and with the steps towards what the
    corrector itself leaves."""
    left = [[variance(plan_of("predictor_corrector", paths.VP(), "lambda", n, corrections=c), paths.VP(), VARIANCE)
             for c in (0, 1, 2)] for n in (60, 400)]  # fmt: skip
    few, many = left
    assert few[0] > few[1] > few[2] > VARIANCE
    assert many[0] > many[1] > many[2] > VARIANCE
    assert many[2] / VARIANCE < 1 / (1 - 0.16**2)


def test_norms_of_samples_widen_the_law_by_what_is_known():
    """As the ratio goes to 0, by ((D + 2) / D)^2 on a normal law: 1.5625 for eight numbers."""
    z = torch.randn(20_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = ode.langevin(lambda x: -x, 1.25 * z, snr=0.1, n=400, seed=0)
    assert float(x.var()) == pytest.approx(1.5625, rel=0.03)


@pytest.mark.parametrize(
    "solver",
    [
        "predictor_corrector",
        "predictor_corrector(norms=sample)",
        "predictor_corrector(corrections=3)",
        "annealed_langevin(each=2)",
    ],
)
def test_a_sample_does_not_know_its_batch(solver):
    model = ode.problems.mixture([0.3, 0.7], [[-1.0, 2.0], [1.0, 0.5]], std=0.4).model(
        paths.VP(), "noise"
    )
    whole = ode.sample(model, (6, 2), solver, 8, "karras", seed=5)
    some = ode.sample(model, (2, 2), solver, 8, "karras", seed=5, ids=[4, 1])
    assert torch.equal(some, whole[[4, 1]])


def test_a_score_of_zero_moves_by_nothing():
    from odesolve.run.places import langevin

    x, out = torch.ones(2, 3), torch.empty(2, 3)
    normal(out, keys(0, torch.arange(2)), 0)
    langevin(out, [x, torch.zeros(2, 3)], (0.16, 1.0))
    assert torch.equal(out, x)


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("predictor_corrector", {"predictor": "euler"}, "predictor"),
        ("predictor_corrector", {"norms": "sampel"}, "did you mean 'sample'"),
        ("predictor_corrector", {"snr": 0.0}, "snr > 0"),
        (
            "predictor_corrector",
            {"corrections": -1},
            "corrections=-1: give a whole number of at least 0",
        ),
        ("annealed_langevin", {"each": 0}, "each >= 1"),
        ("annealed_langevin", {"step": 1.5}, "0 < step < 1"),
        ("predictor_corrector", {"reverse": True}, "goes from noise to data"),
        ("annealed_langevin", {"reverse": True}, "goes from noise to data"),
    ],
)
def test_what_is_refused(solver, options, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.plan(solver, paths.VP(), 5, "karras", **options)
