"""Latents that cannot be of their base are told of, once and in words that say what to give; no
others are."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

import odesolve as ode
from odesolve.likelihood.agreement import apart
from odesolve.likelihood.result import UNSOLVED
from tests.products import LONG, diagonal, product
from tests.rows import rows

TWO = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
TOLD = "times as far from the base's mean"
PATHS = {
    "VP": (ode.paths.VP(), "noise"),
    "EDM": (ode.paths.EDM(), "edm"),
    "VE": (ode.paths.VE(), "score"),
    "flow": (ode.paths.Linear(), "velocity"),
    "flipped": (ode.paths.Linear().flipped(), "velocity"),
    "discrete": (ode.paths.Discrete.ddpm(), "noise"),
}
WAYS = {
    "nodes": {},
    "along": {"divergence": "along"},
    "picard": {"solver": "picard"},
    "steps": {"steps": 12},
    "one clock": {"control": "batch"},
}


def told(call):
    """The result, and what was warned of at this line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    assert all(w.filename == __file__ for w in caught)
    said = [str(w.message) for w in caught]
    assert [note for note in found.notes if note != UNSOLVED] == said
    return found, said


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.long
@rows(
    ("way", "name", "batch"),
    product(list(WAYS.values()), list(PATHS), [1, 32])
    if LONG
    else diagonal(list(WAYS.values()), list(PATHS), [1, 32], times=2),
)
def test_exact_problems_are_not_told_of(name, way, batch):
    path, predicts = PATHS[name]
    model = TWO.model(path, predicts)
    for x in (TWO.sample(batch, seed=batch), TWO.sample(1, seed=0).expand(batch, -1)):
        assert told(lambda x=x: ode.log_prob(model, x, tol=0.3, **way))[1] == []


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "way"),
    diagonal(list(PATHS), list(WAYS.values()), times=2),
)
def test_data_in_another_scale(name, way):
    """Data of a network for numbers about 1 as bytes, one of 0 to 255."""
    path, predicts = PATHS[name]
    x = 255.0 * (0.5 + 0.25 * TWO.sample(16, seed=1))
    said = told(lambda: ode.log_prob(TWO.model(path, predicts), x, tol=10.0, **way))[1]
    assert len(said) == 1
    assert "x in the scale that the network was trained at" in said[0]


@pytest.mark.few(2)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_standardised_flow_on_a_path_of_wide_noise(way):
    """The network's flow ends with deviation 1; the path's prior is N(0, 80^2)."""
    # dx/dsigma = 0.3 x / (1 + sigma)^2
    still = lambda x, t: x * (1 - 0.3 * t.view(-1, 1) / (1 + t.view(-1, 1)) ** 2)
    model = ode.Model(still, ode.paths.EDM(), "data", time="sigma")
    found, said = told(lambda: ode.log_prob(model, TWO.sample(32, seed=1), tol=1.0, **way))
    assert float(found.latent.square().mean()) < 100
    assert len(said) == 1
    assert "N(0, 80^2)" in said[0]
    assert "give base=" in said[0]
    assert (
        told(
            lambda: ode.log_prob(
                model, TWO.sample(32, seed=1), tol=1.0, base=Normal(0.0, 1.0), **way
            )
        )[1]
        == []
    )


# Velocities whose flow ends in N(mean, std^2), with the base that is given.
WRONG = {
    "normal for one of deviation 5": (0.0, 5.0, "normal"),
    "nothing for one of deviation 5": (0.0, 5.0, None),
    "deviation 5 for a normal": (0.0, 1.0, Normal(0.0, 5.0)),
    "normal for one elsewhere": (4.0, 1.0, "normal"),
    "elsewhere for a normal": (0.0, 1.0, Normal(4.0, 1.0)),
    "independent": (0.0, 1.0, Independent(Normal(torch.zeros(4), 6 * torch.ones(4)), 1)),
    "with a covariance": (
        0.0,
        6.0,
        MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)),
    ),
    "of another kind": (0.0, 80.0, Laplace(torch.zeros(4), torch.ones(4))),
}
RIGHT = {
    "normal": (0.0, 1.0, "normal"),
    "wide": (0.0, 5.0, Normal(0.0, 5.0)),
    "elsewhere": (4.0, 1.0, Normal(4.0, 1.0)),
    "with a covariance": (
        0.0,
        2.0,
        MultivariateNormal(
            torch.zeros(4, dtype=torch.float64), 4 * torch.eye(4, dtype=torch.float64)
        ),
    ),
    "a function": (0.0, 80.0, lambda z: Normal(0.0, 80.0).log_prob(z).sum(1)),
    "a function that is wrong": (0.0, 80.0, lambda z: Normal(0.0, 1.0).log_prob(z).sum(1)),
    "without moments": (0.0, 1.0, torch.distributions.StudentT(torch.ones(4))),
}


def carried(mean, std, x):
    """A flow from N(0, 1) to N(mean, std^2) in a unit of time, from x at its start."""
    rate = torch.tensor(std, dtype=torch.float64).log()
    return lambda t, y: rate * (y - mean * t) + mean


class Drawn:
    """A base that has samples, but tells no moments."""

    def __init__(self, std):
        self.inner, self.std = Normal(0.0, std), std

    def log_prob(self, z):
        return self.inner.log_prob(z).sum(1)

    def sample(self, n):
        return self.std * torch.randn(n, 4)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "options"), diagonal(list(WRONG), [{}, {"steps": 20}, {"control": "batch"}])
)
def test_wrong_bases_of_velocities(name, options):
    (mean, std, base), x = WRONG[name], draw(64, 4)
    said = told(lambda: ode.log_prob(carried(mean, std, x), x, base=base, **options))[1]
    assert len(said) == 1
    assert TOLD in said[0]


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "batch"), diagonal(list(RIGHT), [1, 2, 64]))
def test_right_bases_of_velocities(name, batch):
    (mean, std, base), x = RIGHT[name], draw(batch, 4)
    assert told(lambda: ode.log_prob(carried(mean, std, x), x, base=base))[1] == []


def test_bases_that_have_samples_only():
    x = draw(64, 4)
    assert len(told(lambda: ode.log_prob(carried(0.0, 1.0, x), x, base=Drawn(60.0)))[1]) == 1
    assert told(lambda: ode.log_prob(carried(0.0, 6.0, x), x, base=Drawn(6.0)))[1] == []
    state = torch.random.get_rng_state()
    assert apart(x, Drawn(60.0), 1.0) is not None
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_state_of_the_middle_of_the_path():
    """A state at t = 0.5 of the exploding path for data: deviation 20 and more, where the base has
    half of it."""
    path = ode.paths.EDM()
    x = 3.0 * draw(64, 16) * float(path.sigma(40.0))
    model = ode.problems.gaussian(mean=0.0, std=0.5, shape=(16,)).model(path)
    assert told(lambda: ode.log_prob(model, x / 3.0, t=(40.0, 80.0), tol=1.0))[1] == []
    assert len(told(lambda: ode.log_prob(model, x, t=(40.0, 80.0), tol=1.0))[1]) == 1


@rows("dim", [1, 2, 16, 768, 12288])
@rows("batch", [1, 2, 8, 100])
def test_samples_of_the_base_are_of_it(dim, batch):
    """In forty batches of every size; and with a fifth of the deviation, or twice, where that
    shows."""
    for seed in range(40 if dim < 1000 else 2):
        z = draw(batch, dim, seed=seed)
        assert apart(80.0 * z, None, 80.0) is None
        assert apart(0.9 * z + 0.2, "normal", 1.0) is None
        assert apart(1.2 * z, "normal", 1.0) is None
    if dim * batch >= 512:
        assert apart(0.2 * z, None, 1.0) is not None
        assert apart(2.0 * z, None, 1.0) is not None
    assert apart(80.0 * 255.0 * z, None, 80.0) is not None or dim * batch < 4


def test_data_about_one_place_are_not_told_of():
    """Many samples about one ordinary point, as noise on one discrete datum makes them."""
    for dim in (1, 2, 16):
        z = draw(1, dim, seed=3).clamp(-1.5, 1.5) + 0.02 * draw(1000, dim)
        assert apart(z, None, 1.0) is None


def test_the_centres_of_a_mixture_are_not_told_of():
    """Data that an exact model was made of lie nearer to the middle of the base than its samples
    do."""
    model = ode.problems.digits(0.15).model(ode.paths.VP())
    x = torch.from_numpy(load_digits().images[:4, None] / 8 - 1)
    assert told(lambda: ode.log_prob(model, x, trace="hutchinson", products=2, seed=0))[1] == []


def test_one_sample_among_many_is_an_outlier():
    z = draw(4, 16)
    z[2] *= 50.0
    assert apart(z, None, 1.0) is None
    assert apart(50.0 * z, None, 1.0) is not None
    assert apart(torch.full_like(z, torch.nan), None, 1.0) is None


def trained(path, predicts, seed):
    """A small network, trained for a second or two on the eight Gaussians."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 64),
        torch.nn.SiLU(),
        torch.nn.Linear(64, 64),
        torch.nn.SiLU(),
        torch.nn.Linear(64, 2),
    )
    f = lambda x, t: net(torch.cat([x, t[:, None], torch.sin(3 * t)[:, None]], 1))
    model = ode.Model(f, path, predicts, dtype=torch.float32)
    step = torch.optim.Adam(net.parameters(), 3e-3)
    angle = torch.arange(8) * 2 * torch.pi / 8
    means = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    for _ in range(400):
        x0 = means[torch.randint(0, 8, (256,))] + 0.2 * torch.randn(256, 2)
        t = (
            path.t_min + (path.t_max - path.t_min) * torch.rand(256)
            if path.t_noise > path.t_data
            else torch.rand(256)
        )
        eps = torch.randn(256, 2)
        a, s, da, ds = (
            getattr(path, n)(t.double()).float()[:, None]
            for n in ("alpha", "sigma", "dalpha", "dsigma")
        )
        want = eps if predicts == "noise" else da * x0 + ds * eps
        error = (f(a * x0 + s * eps, t) - want).square().mean()
        step.zero_grad()
        error.backward()
        step.step()
    held = means[torch.randint(0, 8, (64,))] + 0.2 * torch.randn(64, 2)
    return model, held


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["VP", "flow"] + ["flipped", "trig"] * LONG)
def test_trained_networks(name):
    """Their latents deviate by the network's error, which is no other law; data in another scale
    are told of."""
    path, predicts = {**PATHS, "trig": (ode.paths.Trig(), "velocity")}[name]
    model, x = trained(path, predicts, 1)
    for part in (x, x[:1], x[:5], x[:1].expand(32, -1)):
        assert told(lambda part=part: ode.log_prob(model, part, tol=0.1))[1] == []
    assert len(told(lambda: ode.log_prob(model, 127.5 * (x + 1), tol=10.0))[1]) == 1
    assert len(told(lambda: ode.log_prob(model, x, tol=0.1, base=Normal(0.0, 20.0)))[1]) == 1


def test_training_is_not_told_of():
    """A flow that is in training begins with latents of another law: in the notes, without a
    warning."""
    x = 6.0 * draw(64, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ode.log_prob(lambda t, y: 0.0 * y, x, adjoint="backprop")
    assert [TOLD in note for note in found.notes] == [False, True]
    assert found.notes[0] == UNSOLVED  # as gradients were asked for


def test_notes_of_a_single_probe():
    model, x = TWO.model(ode.paths.VP(), "noise"), TWO.sample(3, seed=1)
    for way in WAYS.values():
        found = ode.log_prob(model, x, trace="hutchinson", products=1, tol=1.0, **way)
        assert len(found.notes) == 1
        assert "one probe has no error bar" in str(found)
        assert "products=8 or more" in str(found)
        for trace, products in (("hutchinson", 8), ("exact", 1)):
            assert (
                ode.log_prob(model, x, trace=trace, products=products, tol=1.0, **way).notes == ()
            )
    drawn = ode.sample(
        model, (3, 2), "ddim", 4, seed=0, log_prob=True, trace="hutchinson", products=1
    )
    assert "one probe has no error bar" in str(drawn.log_prob)


def test_what_is_printed():
    model, x = TWO.model(ode.paths.VP(), "noise"), TWO.sample(9, seed=1)
    found = ode.log_prob(model, x, max_calls=50, tol=1e-6)
    text = str(found)
    assert len(repr(found).splitlines()) <= 2
    assert "LogProb of 9 samples of 2 numbers, trace exact" in text
    assert "9 of 9 failed: 9 max_calls" in text
    few = ode.log_prob(model, x[:2])
    for name in ("value", "solver_error", "prior_mismatch", "truncation", "nfe", "products"):
        assert f"\n  {name}" in str(few)
    assert f"{float(few.value[1]):.6g}" in str(few)
    assert "failed" not in str(few)
    assert "PlanDensity of 2 samples" in str(ode.log_prob(model, x[:2], of="plan", steps=3))
