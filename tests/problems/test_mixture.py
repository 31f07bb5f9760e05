"""The exact problems: density, score, posterior means and velocity belong together on every
path."""

from __future__ import annotations

import math
import sys

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.problems import Mixture
from tests.conftest import FLIPPED, PATHS
from tests.products import diagonal
from tests.rows import rows

DTYPE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covariances(count, dim):
    roots = torch.randn(count, dim, dim, dtype=DTYPE, generator=generator(2)) / dim**0.5
    return 0.1 * torch.eye(dim, dtype=DTYPE) + roots @ roots.mT


MANY = torch.randn(50, 2, 3, dtype=DTYPE, generator=generator(1))
PROBLEMS = {
    "one gaussian": ode.problems.gaussian([0.5, -0.3], std=0.7),
    "one correlated gaussian": ode.problems.gaussian([0.5, -0.3], cov=[[0.5, 0.2], [0.2, 0.3]]),
    "equal widths": ode.problems.mixture([0.3, 0.7], [[-1.5, 0.0], [1.0, 0.3]], std=0.4),
    "two widths": ode.problems.mixture([0.3, 0.7], [[-1.5, 0.0], [1.0, 0.3]], std=(0.3, 0.5)),
    "full covariances": Mixture([1, 2, 3], MANY[:3, 0].repeat(1, 2)[:, :4], cov=covariances(3, 4)),
    "many components, images": ode.problems.mixture([1.0] * 50, MANY, std=0.2),
}  # fmt: skip


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS.keys())
def problem(request):
    return request.param


ALL_PATHS = {**PATHS, **FLIPPED}


@pytest.fixture(params=diagonal(list(ALL_PATHS), list(PROBLEMS), times=2), ids="-".join)
def pair(request):
    """A problem on a path: every path with two of the problems."""
    path, problem = request.param
    return PROBLEMS[problem], ALL_PATHS[path]


def states(problem, path, t, n=5):
    x0 = problem.sample(n, seed=1)
    eps = torch.randn(x0.shape, dtype=DTYPE, generator=generator(3))
    a, s = (
        f(torch.as_tensor(t, dtype=DTYPE)).reshape(-1, *[1] * (x0.dim() - 1))
        for f in (path.alpha, path.sigma)
    )
    return a * x0 + s * eps


def inside(problem, path):
    """States inside the path with their times."""
    return [(states(problem, path, u * path.t_max), u * path.t_max) for u in (0.02, 0.5, 0.98)]


def test_score_is_the_gradient_of_the_density(pair):
    problem, path = pair
    for x, t in inside(problem, path):
        leaf = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(problem.log_prob(leaf, path, t).sum(), leaf)
        torch.testing.assert_close(
            problem.score(x, path, t), want, rtol=1e-11, atol=1e-11 * float(want.abs().max())
        )


def test_posterior_means(pair):
    """Tweedie: E[x0] = (x + sigma^2 score)/alpha and E[eps] = -sigma score; the two add up to the
    state."""
    problem, path = pair
    for x, t in inside(problem, path):
        a, s = float(path.alpha(t)), float(path.sigma(t))
        score = problem.score(x, path, t)
        size = float((s * s * score).abs().max()) + float(x.abs().max())
        torch.testing.assert_close(
            a * problem.data(x, path, t), x + s * s * score, rtol=0, atol=2e-13 * size
        )
        torch.testing.assert_close(problem.noise(x, path, t), -s * score, rtol=1e-14, atol=0)


def test_velocity(pair):
    """alpha' E[x0] + sigma' E[eps]."""
    problem, path = pair
    for x, t in inside(problem, path):
        data, eps = problem.data(x, path, t), problem.noise(x, path, t)
        da, ds = float(path.dalpha(t)), float(path.dsigma(t))
        size = abs(da) * float(data.abs().max()) + abs(ds) * float(eps.abs().max())
        torch.testing.assert_close(
            problem.velocity(x, path, t), da * data + ds * eps, rtol=0, atol=1e-13 * size
        )


def test_a_time_for_each_sample(problem):
    path, t = paths.VP(), torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=DTYPE)
    x = states(problem, path, t)
    for f in (problem.data, problem.noise, problem.score, problem.velocity, problem.log_prob):
        together = f(x, path, t)
        apart = torch.cat([f(x[k : k + 1], path, float(t[k])) for k in range(5)])
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


@pytest.mark.few(14)
def test_finite_at_both_ends(pair):
    """Also where sigma = 0 or sigma' is infinite, and continuous there."""
    problem, path = pair
    inward = 1e-10 * (path.t_noise - path.t_data)
    for t, near in ((path.t_data, path.t_data + inward), (path.t_noise, path.t_noise - inward)):
        x = states(problem, path, t)
        for name in ("data", "noise", "score", "velocity"):
            got = getattr(problem, name)(x, path, t)
            want = getattr(problem, name)(x, path, near)
            assert bool(torch.isfinite(got).all()), name
            torch.testing.assert_close(
                got, want, rtol=1e-4, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_data_at_the_ends():
    """At sigma = 0 the state itself, at alpha = 0 the mean."""
    problem, path = PROBLEMS["two widths"], paths.Linear()
    x = problem.sample(5)
    torch.testing.assert_close(problem.data(x, path, 0.0), x, rtol=0, atol=1e-14)
    mean = torch.tensor([0.3 * -1.5 + 0.7 * 1.0, 0.7 * 0.3], dtype=DTYPE)
    torch.testing.assert_close(problem.data(x, path, 1.0), mean.expand(5, 2), rtol=0, atol=1e-14)
    torch.testing.assert_close(problem.velocity(x, path, 1.0), x - mean, rtol=0, atol=1e-14)


@pytest.mark.parametrize("t", [None, 0.0, 0.1, 0.5, 1.0])
def test_density_integrates_to_one(t):
    problem = ode.problems.mixture([0.3, 0.7], [[-1.5], [1.0]], std=(0.3, 0.5))
    x = torch.linspace(-12, 12, 20001, dtype=DTYPE)[:, None]
    density = (problem.log_prob(x) if t is None else problem.log_prob(x, paths.VP(), t)).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-12)
    if t is None:
        mean = torch.trapezoid(density * x[:, 0], x[:, 0])
        variance = torch.trapezoid(density * (x[:, 0] - mean) ** 2, x[:, 0])
        entropy = -torch.trapezoid(density * problem.log_prob(x), x[:, 0])
        assert (float(mean), float(variance)) == pytest.approx((0.25, 1.5145), abs=1e-12)
        assert float(entropy) == pytest.approx(1.180775, abs=1e-6)


def test_density_of_a_gaussian():
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=DTYPE)
    mean = torch.tensor([0.5, -0.3], dtype=DTYPE)
    x = torch.randn(7, 2, dtype=DTYPE, generator=generator())
    problem = ode.problems.gaussian(mean, cov=cov)
    want = torch.distributions.MultivariateNormal(mean, cov).log_prob(x)
    torch.testing.assert_close(problem.log_prob(x), want, rtol=1e-13, atol=1e-13)
    path, t = paths.VP(), 0.3
    a, s = path.alpha(t), path.sigma(t)
    later = torch.distributions.MultivariateNormal(
        a * mean, a**2 * cov + s**2 * torch.eye(2, dtype=DTYPE)
    )
    torch.testing.assert_close(
        problem.log_prob(x, path, t), later.log_prob(x), rtol=1e-13, atol=1e-13
    )


def test_moments_of_samples(problem):
    n = 20000
    x = problem.sample(n, seed=5).reshape(n, -1)
    w = problem.log_weights.exp()
    mean = w @ problem.means
    standard = x.std(0) / n**0.5
    assert bool(((x.mean(0) - mean).abs() < 5 * standard).all())
    assert float(x.var(0).mean().sqrt()) == pytest.approx(problem.data_std, rel=0.02)
    # Under the exact density the mean of the score is 0 and E[score x^T] = -1.
    score = problem.score(problem.sample(n, seed=5), paths.Linear(), 0.0).reshape(n, -1)
    stein = (score[:, :, None] * (x - mean)[:, None]).mean(0)
    assert float((stein + torch.eye(x.shape[1], dtype=DTYPE)).abs().max()) < 0.15


def test_samples_are_reproducible(problem):
    assert torch.equal(problem.sample(4, seed=1), problem.sample(4, seed=1))
    assert not torch.equal(problem.sample(4, seed=1), problem.sample(4, seed=2))
    assert problem.sample(4).shape == (4, *problem.event)
    assert problem.sample(4).dtype == DTYPE


def test_state_decides_the_dtype(problem):
    path = paths.VP()
    x = states(problem, path, 0.5)
    for name in ("data", "noise", "score", "velocity", "log_prob"):
        single, double = (getattr(problem, name)(v, path, 0.5) for v in (x.float(), x))
        assert (single.dtype, double.dtype) == (torch.float32, DTYPE)
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-4)


def test_digits():
    digits = ode.problems.digits()
    assert digits.means.shape == (1797, 64)
    assert digits.event == (1, 8, 8)
    assert (float(digits.means.min()), float(digits.means.max())) == (-1.0, 1.0)
    assert digits.variances.unique().tolist() == pytest.approx([0.01])
    x = digits.sample(3)
    assert x.shape == (3, 1, 8, 8)
    data = digits.data(
        x + 0.01 * torch.randn(x.shape, dtype=DTYPE, generator=generator()), paths.EDM(), 0.01
    )
    assert data.shape == x.shape
    assert float((data - x).abs().max()) < 0.1
    far = digits.data(torch.zeros(1, 1, 8, 8, dtype=DTYPE), paths.Linear(), 1.0)
    torch.testing.assert_close(far.reshape(-1), digits.means.mean(0), rtol=0, atol=1e-13)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError,
        match=r"problems\.digits needs scikit-learn: pip install "
        r"'odesolve\[digits\]'",
    ):
        ode.problems.digits()


@rows(
    ("make", "what"),
    [
        (
            lambda: ode.problems.mixture([1.0], [[0.0], [1.0]], std=1.0),
            r"weights of shape \(1,\) for 2 means: give",
        ),
        (
            lambda: ode.problems.mixture([1.0, 0.0], [[0.0], [1.0]], std=1.0),
            "give one positive weight each",
        ),
        (
            lambda: ode.problems.mixture([1.0, -1.0], [[0.0], [1.0]], std=1.0),
            "give one positive weight each",
        ),
        (lambda: ode.problems.mixture([1.0], [[0.0]]), "give either std= or cov="),
        (
            lambda: ode.problems.mixture([1.0], [[0.0]], std=1.0, cov=[[[1.0]]]),
            "give either std= or cov=",
        ),
        (
            lambda: ode.problems.mixture([1.0], [[0.0]], cov=[[1.0]]),
            r"cov has shape \(1, 1\): "
            r"give \(1, 1, 1\)",
        ),
        (
            lambda: ode.problems.gaussian([0.0, 0.0], cov=[[1.0, 2.0], [2.0, 1.0]]),
            "not positive definite: add",
        ),
        (lambda: ode.problems.gaussian([0.0], std=-1.0), "std=-1.0: give"),
        (
            lambda: ode.problems.mixture([1.0, 1.0], [[0.0], [1.0]], std=(0.3, float("nan"))),
            r"std=\(0.3, nan\): give",
        ),
    ],
)
def test_bad_problems(make, what):
    with pytest.raises(OdesolveError, match=what) as error:
        make()
    assert "\n" not in str(error.value)


def test_point_mass():
    """std = 0: the data prediction is the point, and every state flows there."""
    point, path = ode.problems.gaussian([0.7, -0.1], std=0.0), paths.VP()
    x = torch.randn(3, 2, dtype=DTYPE, generator=generator())
    torch.testing.assert_close(
        point.data(x, path, 0.5), torch.tensor([[0.7, -0.1]], dtype=DTYPE).expand(3, 2)
    )
    torch.testing.assert_close(
        point.solution(x, path, 1.0, 0.0), point.means.expand(3, 2), rtol=0, atol=1e-15
    )


def test_gaussian_takes_a_shape():
    assert ode.problems.gaussian(shape=(3, 4, 4)).event == (3, 4, 4)
    assert ode.problems.gaussian(0.5, 0.2).event == (1,)
    assert ode.problems.gaussian([0.5, 1.0], 0.2).event == (2,)
    assert ode.problems.gaussian(0.5, 0.2, shape=(2, 2)).means.tolist() == [[0.5] * 4]
    assert math.isclose(ode.problems.gaussian(std=0.3, shape=(5,)).data_std, 0.3)
