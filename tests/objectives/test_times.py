"""Laws of training times: their densities are theirs, on every path, and what each is known for
holds."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import times
from tests.rows import rows

PATHS = {
    "vp": ode.paths.VP(),
    "linear": ode.paths.Linear(),
    "flipped": ode.paths.Linear().flipped(),
    "edm": ode.paths.EDM(),
    "ve": ode.paths.VE(),
}
LAWS = {
    "uniform": times.Uniform(),
    "part": times.Uniform(0.1, 0.7),
    "logit_normal": times.LogitNormal(0.3, 0.8),
    "mode": times.Mode(1.29),
    "mode_negative": times.Mode(-0.8),
    "cosmap": times.CosMap(),
    "log_normal": times.LogNormal(),
    "log_uniform": times.LogUniform(0.05, 20.0),
}
INNER = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


@rows("law", LAWS)
@rows("path", PATHS)
def test_densities_are_slopes_of_the_quantiles(law, path):
    law, path = LAWS[law], PATHS[path]
    h = 1e-6
    t = law.quantile(INNER, path)
    slope = (law.quantile(INNER + h, path) - law.quantile(INNER - h, path)).abs() / (2 * h)
    held = slope < 1e-9  # at the path's ends, where LogNormal is held
    density = law.density(t, path)
    torch.testing.assert_close(
        (density * slope)[~held], torch.ones_like(slope)[~held], rtol=1e-5, atol=0
    )
    assert (~held).sum() > 20
    assert density.dtype == torch.float64


@rows("law", LAWS)
@rows("path", PATHS)
def test_numbers_run_from_data_to_noise(law, path):
    t = LAWS[law].quantile(INNER, PATHS[path])
    rho = PATHS[path].rho(t)
    assert (rho.diff() >= 0).all()
    assert rho[-1] > rho[0]
    low, high = sorted((PATHS[path].t_data, PATHS[path].t_noise))
    assert ((t >= low) & (t <= high)).all()


def test_logit_normal_numbers():
    u = times.LogitNormal(0.5, 2.0)(50_000, PATHS["linear"], torch.Generator().manual_seed(0))
    z = torch.logit(u)
    assert abs(float(z.mean()) - 0.5) < 4 * 2.0 / 50_000**0.5
    assert abs(float(z.std()) - 2.0) < 4 * 2.0 / 100_000**0.5


def test_edm_numbers():
    rho = PATHS["vp"].rho(
        times.LogNormal(-1.2, 1.2)(50_000, PATHS["vp"], torch.Generator().manual_seed(0))
    )
    inside = (rho > 1e-6) & (rho < 140.0)
    z = rho[inside].log()
    assert abs(float(z.mean()) + 1.2) < 4 * 1.2 / 50_000**0.5
    assert inside.double().mean() > 0.999


def test_draws_are_of_their_generator():
    law, path = LAWS["mode"], PATHS["vp"]
    first = law(100, path, torch.Generator().manual_seed(3))
    assert torch.equal(first, law(100, path, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, law(100, path, torch.Generator().manual_seed(4)))
    torch.manual_seed(5)
    own = law(4, path)
    torch.manual_seed(5)
    assert torch.equal(own, law(4, path))


def test_stratified_batches_have_one_number_in_every_part():
    law = times.Uniform(stratified=True)
    u = law(64, PATHS["linear"], torch.Generator().manual_seed(0))
    assert torch.equal((u * 64).floor().long(), torch.arange(64))


def test_tables():
    path = ode.paths.Discrete.ddpm()
    law = times.Table()
    t = law(20_000, path, torch.Generator().manual_seed(0))
    index = t * 1000
    assert (index - index.round()).abs().max() < 1e-9
    assert (int(index.min().round()), int(index.max().round())) == (1, 1000)
    counts = torch.bincount(index.round().long(), minlength=1001)[1:].double()
    assert abs(float(((counts - 20) ** 2 / 20).sum()) - 999) < 5 * math.sqrt(2 * 999)  # chi squared
    assert law.density(t[:3], path).tolist() == [1e-3] * 3
    with pytest.raises(ode.OdesolveError, match="has no table"):
        law(3, PATHS["vp"])


def test_importance_follows_the_losses():
    law, path = times.Importance(bins=4, history=5), PATHS["flipped"]
    assert law.probabilities.tolist() == [0.25] * 4
    u = (torch.arange(20) % 4 + 0.5) / 4
    law.update(1 - u.double(), torch.tensor([1.0, 1.0, 2.0, 4.0]).repeat(5), path)
    expected = 0.999 * torch.tensor([1.0, 1.0, 2.0, 4.0], dtype=torch.float64) / 8 + 0.001 / 4
    torch.testing.assert_close(law.probabilities, expected)
    t = law(40_000, path, torch.Generator().manual_seed(0))
    share = torch.bincount(((1 - t) * 4).long(), minlength=4).double() / 40_000
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 40_000).sqrt()).all()
    torch.testing.assert_close(law.density(1 - u[:4].double(), path), expected * 4)


@rows(
    ("make", "told"),
    [
        (lambda: times.Uniform(0.5, 0.5), "low=0.5, high=0.5"),
        (lambda: times.Uniform(-0.1), "of at least 0 and at most 1"),
        (lambda: times.Mode(2.0), "from -1 to 1.7519"),
        (lambda: times.LogUniform(2.0, 1.0), "0 < low < high"),
    ],
)
def test_bad_arguments(make, told):
    with pytest.raises(ode.OdesolveError, match=told):
        make()


def test_defaults():
    assert times.default(ode.paths.Discrete.ddpm(), "noise") == times.Table()
    assert times.default(PATHS["edm"], "edm") == times.LogNormal()
    assert times.default(PATHS["linear"], "velocity") == times.Uniform()
    assert times.default(PATHS["vp"], "velocity").low == pytest.approx(1e-3)
    assert times.default(PATHS["flipped"], "score").low == pytest.approx(PATHS["linear"].t_min)
