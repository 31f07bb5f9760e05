"""Matching: floors and minimisers on Gaussian data are the exact ones, whatever is predicted,
weighed and drawn."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching, times
from odesolve.objectives.weights import factor, of_data, weights
from tests.products import diagonal
from tests.rows import rows

PATHS = {
    "vp": ode.paths.VP(),
    "linear": ode.paths.Linear(),
    "edm": ode.paths.EDM(),
    "cosine": ode.paths.Cosine(),
}
PREDICTIONS = ("data", "noise", "v", "velocity", "score", "edm")
MEAN, STD = 0.3, 0.6
problem = ode.problems.gaussian(mean=MEAN, std=STD, shape=(3,))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(n=20_000):
    z = torch.randn(n, 3, dtype=torch.float64, generator=generator(7))
    return MEAN + STD * z


@rows("path", PATHS)
@rows("predicts", PREDICTIONS)
def test_floors(path, predicts):
    """The exact network's loss at a time is what is left of x0 given x: kF^2 s^2 sigma^2 / (alpha^2
    s^2 + sigma^2)."""
    path = PATHS[path]
    model = problem.model(path, predicts)
    t = path.t_of_rho(torch.tensor(0.7, dtype=torch.float64)).expand(20_000)
    found = Matching(model)(data(), t=t, generator=generator())
    p = path.point(float(t[0]))
    e0 = STD**2 * p.sigma**2 / (p.alpha**2 * STD**2 + p.sigma**2)
    exact = e0 * float(factor(path, t[:1], predicts, 0.5))
    assert abs(float(found.loss) - exact) < 4 * float(found.each.std()) / 20_000**0.5
    assert found.loss == found.each.mean()
    torch.testing.assert_close(found.t, t)


def test_known_floors():
    """Of N(0, s^2) a dimension: s pi / 2 for flow matching on the straight path (method: integral
    of V over t)."""
    centred = ode.problems.gaussian(mean=0.0, std=STD, shape=(3,))
    x = STD * torch.randn(40_000, 3, dtype=torch.float64, generator=generator(1))
    found = Matching(centred.model(PATHS["linear"], "velocity"))(x, generator=generator())
    assert abs(float(found.loss) - STD * math.pi / 2) < 4 * float(found.each.std()) / 40_000**0.5


@rows("path", ["vp", "linear", "edm"])
@rows("weight", ["data", "noise", "velocity", "edm", "vlb", "max_snr", "snr_plus_1", "min_snr(5)"])
def test_a_weighted_loss_is_the_same_whatever_is_predicted(path, weight):
    path = PATHS[path]
    t = path.t_of_rho(torch.logspace(-1.5, 1.5, 200, dtype=torch.float64)).clamp(1e-3, path.t_max)
    x, noise = data(200), torch.randn(200, 3, dtype=torch.float64, generator=generator(2))
    losses = [
        Matching(problem.model(path, p), weight=weight)(x, t=t, noise=noise).each
        for p in PREDICTIONS
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-7, atol=1e-12)


@rows("path", ["vp", "linear", "cosine"])
def test_weights_by_name(path):
    path = PATHS[path]
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    p = [path.point(float(v)) for v in t]
    snr = torch.tensor([(v.alpha / v.sigma) ** 2 for v in p], dtype=torch.float64)
    torch.testing.assert_close(of_data(path, t, "noise", 0.5), snr)
    torch.testing.assert_close(of_data(path, t, "data", 0.5), torch.ones_like(t))
    torch.testing.assert_close(of_data(path, t, "max_snr", 0.5), snr.clamp_min(1))
    torch.testing.assert_close(of_data(path, t, "snr_plus_1", 0.5), snr + 1)
    torch.testing.assert_close(of_data(path, t, "min_snr(5)", 0.5), snr.clamp_max(5))
    rho2 = 1 / snr
    torch.testing.assert_close(of_data(path, t, "edm", 0.5), (rho2 + 0.25) / (rho2 * 0.25))
    h = 1e-5
    slope = (torch.exp(2 * path.lam(t + h)) - torch.exp(2 * path.lam(t - h))) / (2 * h)
    torch.testing.assert_close(of_data(path, t, "vlb", 0.5), -0.5 * slope, rtol=1e-5, atol=0)
    delta = torch.tensor(
        [(v.alpha * v.dsigma - v.dalpha * v.sigma) / v.sigma for v in p], dtype=torch.float64
    )
    torch.testing.assert_close(of_data(path, t, "velocity", 0.5), delta**2)


def test_own_weights():
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    path = PATHS["vp"]
    assert weights(path, t, None, "noise", 0.5) is None
    assert weights(path, t, "noise", "noise", 0.5) is None
    assert torch.equal(weights(path, t, lambda path, t: 2 * t, "noise", 0.5), 2 * t)
    with pytest.raises(ode.OdesolveError, match=r"return \(n,\)"):
        weights(path, t, lambda path, t: 2.0, "noise", 0.5)
    with pytest.raises(ode.OdesolveError, match="unknown weight 'snrr'"):
        weights(path, t, "snrr", "noise", 0.5)


class Linear(torch.nn.Module):
    """a x + b at one time."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2)
        )

    def forward(self, x, t, shift=None):
        return self.a * x + self.b if shift is None else self.a * x + self.b + shift


@rows(("predicts", "path"), diagonal(list(PREDICTIONS), ["vp", "linear", "edm"]))
def test_the_minimiser_is_the_exact_prediction(path, predicts):
    """Of a linear network the loss is quadratic: one Newton step from anywhere is the minimiser."""
    path, net = PATHS[path], Linear()
    objective = Matching(ode.Model(net, path, predicts))
    rho = torch.tensor(0.8, dtype=torch.float64)
    t = path.t_of_rho(rho)
    x = data(200_000)

    def loss(ab):
        with torch.no_grad():
            net.a.copy_(ab[0])
            net.b.copy_(ab[1])
        found = objective(x, t=t.expand(len(x)), generator=generator(5)).loss
        return torch.stack(torch.autograd.grad(found, (net.a, net.b)))

    zero, one = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    g = loss(zero)
    hessian = torch.stack([loss(one[k]) - g for k in range(2)])
    a, b = (-torch.linalg.solve(hessian, g)).tolist()
    scale = objective.model.reading.c_in(path, t)  # what the network sees is scaled
    ends = torch.tensor([[0.0] * 3, [1.0] * 3], dtype=torch.float64) / scale
    first, second = (
        problem.model(path, predicts).prediction(ends, float(t), predicts)[:, 0].tolist()
    )
    for found, exact in ((b, first), (a, second - first)):
        assert abs(found - exact) < 1e-2 * max(1.0, abs(exact))


def test_marginal_and_conditional_losses_have_one_gradient():
    """Lipman et al. 2023, theorem 2: in expectation; here within four standard errors."""
    path, net = PATHS["linear"], Linear()
    with torch.no_grad():
        net.a.fill_(0.4)
    model, exact = ode.Model(net, path, "velocity"), problem.model(path, "velocity")
    x, noise = data(40_000), torch.randn(40_000, 3, dtype=torch.float64, generator=generator(3))
    t = torch.rand(40_000, dtype=torch.float64, generator=generator(4))
    x_t = (1 - t)[:, None] * x + t[:, None] * noise
    marginal = (net(x_t, t) - exact.velocity(x_t, t)).square().mean(1)
    conditional = Matching(model)(x, noise=noise, t=t).each
    # The gradient in a is that of each sample's loss, 2 (v' - v) x_t.
    differences = 2 * ((noise - x) - exact.velocity(x_t, t)) * x_t
    gap = differences.mean(1)
    (first,) = torch.autograd.grad(marginal.mean(), net.a)
    (second,) = torch.autograd.grad(conditional.mean(), net.a)
    assert abs(float(first - second) - float(gap.mean())) < 1e-12
    assert abs(float(first - second)) < 4 * float(gap.std()) / 40_000**0.5


def test_importance_keeps_the_objective():
    model = problem.model(PATHS["vp"], "noise")
    plain = Matching(model, weight="data")(data(), generator=generator(1))
    other = Matching(model, weight="data", times=times.LogitNormal(1.0, 1.5), importance=True)(
        data(), generator=generator(2)
    )
    error = math.hypot(float(plain.each.std()), float(other.each.std())) / 20_000**0.5
    assert abs(float(plain.loss - other.loss)) < 4 * error


def test_sources_and_couplings():
    """Data and noise go together as the coupling says; conditions stay with their data."""
    seen = []

    def net(x, t, label):
        seen.append((x, label))
        return torch.zeros_like(x)

    x = torch.arange(8, dtype=torch.float64).view(8, 1)
    flip = lambda x, noise, generator=None, cond=None: noise.flip(0)
    objective = Matching(ode.Model(net, PATHS["linear"], "velocity"), coupling=flip)
    noise = 10 * x
    found = objective(x, noise=noise, t=torch.full((8,), 0.25), cond={"label": torch.arange(8)})
    state, label = seen[0]
    torch.testing.assert_close(state, 0.75 * x + 0.25 * noise.flip(0))
    assert torch.equal(label, torch.arange(8))
    torch.testing.assert_close(found.each, (noise.flip(0) - x).square()[:, 0])


def test_draws_are_of_their_generator():
    objective = Matching(problem.model(PATHS["vp"], "noise"))
    x = data(50)
    assert torch.equal(
        objective(x, generator=generator(3)).each, objective(x, generator=generator(3)).each
    )
    assert not torch.equal(
        objective(x, generator=generator(3)).each, objective(x, generator=generator(4)).each
    )


def test_float32_networks_in_float32():
    net = torch.nn.Linear(3, 3)
    model = ode.Model(lambda x, t: net(x), PATHS["vp"], "noise", dtype=torch.float32)
    found = Matching(model)(data(10).float(), generator=generator())
    assert found.loss.dtype == torch.float32
    found.loss.backward()
    assert net.weight.grad is not None


@rows(
    ("call", "told"),
    [
        (lambda m: Matching(m)(torch.zeros(3, dtype=torch.int64)), "give floats of shape"),
        (lambda m: Matching(m)(torch.zeros(0, 3)), "give floats of shape"),
        (lambda m: Matching(m)(data(4), noise=torch.zeros(3, 3)), "give one for each sample"),
        (lambda m: Matching(m)(data(4), t=torch.zeros(3)), "give one time per sample"),
        (
            lambda m: Matching(m)(data(4), t=torch.full((4,), 1.5)),
            "t goes from 1.5 to 1.5: the path goes from 0.0 to 1.0",
        ),
        (lambda m: Matching(m)(data(4), t=torch.full((4,), torch.nan)), "the path goes from"),
        (lambda m: Matching(m.guided(2.0, {}, {})), "train the plain one"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call(problem.model(PATHS["vp"], "noise"))
