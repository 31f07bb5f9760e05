"""DDPM's bound as a loss: its values on Gaussians by quadrature, what is random in it, and what
learned variances train to."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.objectives.ddpm import Hybrid, VariationalBound
from tests.products import LONG
from tests.rows import rows

DDPM = ode.paths.Discrete.ddpm()
SMALL = ode.paths.Discrete.from_betas(torch.linspace(0.01, 0.3, 20, dtype=torch.float64))
MEAN, STD = 0.3, 0.6
problem = ode.problems.gaussian(mean=MEAN, std=STD, shape=(1,))
# The exact losses are quadratic in data and noise: their mean over these four pairs is that over
# Gaussians.
SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def every(count, mean=0.0, std=1.0):
    """(data, noise, index) of every term at the four pairs."""
    index = torch.arange(count).repeat_interleave(4)
    pairs = SIGNS.repeat(count, 1)
    return mean + std * pairs[:, :1], pairs[:, 1:], index


@rows(("variance", "nats"), [("large", 1.41893853), ("small", 1.88383)])
@rows("predicts", ["noise", "data", "v"])
def test_ddpm_on_unit_gaussian_data(variance, nats, predicts):
    """Method, row 5: with beta the bound is the entropy."""
    objective = VariationalBound(ode.problems.gaussian(shape=(1,)).model(DDPM, predicts), variance)
    assert objective.count == 1000
    x, noise, index = every(1000)
    found = objective(x, noise=noise, index=index)
    assert float(found.loss) == pytest.approx(nats, abs=1e-8 if variance == "large" else 5e-6)
    if variance == "large":
        assert float(found.loss) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=1e-9)
    torch.testing.assert_close(found.each, found.prior + 1000 * found.term)
    torch.testing.assert_close(found.t, (1000 - index).double() / 1000)
    assert torch.equal(found.index, index)


@rows("path", [SMALL, ode.paths.VP(), ode.paths.Linear(), ode.paths.EDM()], ids=str)
@rows("variance", ["small", "large"])
def test_it_is_elbo_in_expectation(path, variance):
    """Random terms of random noise: within four standard errors of the terms added up."""
    n = 40_000
    model = problem.model(path, "data")
    options = {} if path is SMALL else {"steps": 12}
    x = (MEAN + STD * normal(n, 1)).double()
    objective = VariationalBound(model, variance, **options)
    want = ode.elbo(model, x, variance=variance, seed=1, **options).value
    for stratified in (False, True):
        objective.stratified = stratified
        found = objective(x, generator=generator(2))
        gap = found.each + want
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / n**0.5
    counts = found.index.bincount(minlength=objective.count)
    assert int(counts.max() - counts.min()) <= 2  # stratified
    whole = elbo_terms(objective, x[:50])
    assert whole.shape == (objective.count, 50)


def elbo_terms(objective, x):
    terms = [
        objective(x, noise=torch.zeros_like(x), index=torch.full((len(x),), k))
        for k in range(objective.count)
    ]
    return torch.stack([t.term for t in terms])


def test_a_discrete_decoder():
    """The decoder's term is that of ``ode.elbo``'s pieces, and has finite gradients at the ends of
    the range."""
    x = torch.tensor([[-1.0], [1.0], [0.0], [-3 / 4]], dtype=torch.float64)
    net = torch.nn.Linear(1, 1).double()
    model = ode.Model(lambda x, t: net(x), SMALL, "noise")
    objective = VariationalBound(model, decoder="discrete", levels=9)
    last = torch.full((4,), objective.count - 1)
    found = objective(x, index=last, noise=torch.full_like(x, 0.5))
    chain = objective.chain("cpu")
    alpha, sigma = float(chain.alpha[-1]), float(chain.sigma[-1])
    mean = (alpha * x + 0.5 * sigma - sigma * net(alpha * x + 0.5 * sigma)) / alpha
    cdf = lambda v: torch.special.ndtr((v - mean) / sigma)
    mass = torch.where(x == 1, 1.0, cdf(x + 1 / 8)) - torch.where(x == -1, 0.0, cdf(x - 1 / 8))
    torch.testing.assert_close(found.term, -mass.log()[:, 0])
    found.loss.backward()
    assert bool(net.weight.grad.isfinite().all())
    with pytest.raises(ode.OdesolveError, match=r"x leaves \[-1.0, 1.0\]"):
        objective(2 * x)


def test_one_evaluation_with_conditions():
    """Of the whole batch at once, whichever terms it has; a network of float32 gives gradients in
    float32."""
    net, seen = torch.nn.Linear(2, 2), []

    def call(x, t, label):
        seen.append((t, label))
        return net(x) + label[:, None]

    model = ode.Model(call, SMALL, "noise", dtype=torch.float32)
    objective, label = VariationalBound(model), torch.arange(6.0)
    index = torch.tensor([0, 19, 5, 19, 1, 18])
    found = objective(
        normal(6, 2).float(), index=index, cond={"label": label}, generator=generator()
    )
    assert len(seen) == 1
    assert torch.equal(seen[0][1], label)
    torch.testing.assert_close(seen[0][0], 19.0 - index)
    found.loss.backward()
    assert net.weight.grad.dtype == torch.float32
    one = VariationalBound(
        ode.Model(call, SMALL, "noise", dtype=torch.float32, cond={"label": label[3:4]})
    )
    x, noise = normal(6, 2, seed=1).float(), normal(6, 2, seed=2).float()
    whole = objective(x, noise=noise, index=index, cond={"label": label}).each
    torch.testing.assert_close(one(x[3:4], noise=noise[3:4], index=index[3:4]).each, whole[3:4])


def test_trained_on_the_bound_a_linear_network_is_exact():
    """The minimiser of every term's a x + b is E[eps | x]: one Newton step of a quadratic loss, at
    every fourth term."""
    n = SMALL.training_steps
    a, b = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for _ in range(2))
    net = lambda x, t: a[t.long()][:, None] * x + b[t.long()][:, None]
    objective = VariationalBound(ode.Model(net, SMALL, "noise"))
    x, noise, index = every(n, MEAN, STD)
    theta = torch.zeros(2 * n, dtype=torch.float64)

    def loss(theta):
        at, bt = theta[:n], theta[n:]
        net = lambda x, t: at[t.long()][:, None] * x + bt[t.long()][:, None]
        return objective.at(ode.Model(net, SMALL, "noise"), x, index, noise).loss

    theta.requires_grad_()
    (g,) = torch.autograd.grad(loss(theta), theta)
    hessian = torch.autograd.functional.hessian(loss, theta)
    found = -torch.linalg.solve(hessian, g)
    exact = problem.model(SMALL, "noise")
    for k in range(0, n, 4):
        t = torch.full((2,), (k + 1) / n, dtype=torch.float64)
        zero, one = exact.noise(torch.tensor([[0.0], [1.0]], dtype=torch.float64), t)[:, 0].tolist()
        assert float(found[n + k]) == pytest.approx(zero, abs=1e-8)
        assert float(found[k]) == pytest.approx(one - zero, abs=1e-8)


class Learned(torch.nn.Module):
    """The exact noise scaled by c, and for every training time its own place between the
    variances."""

    def __init__(self, path, c=1.0):
        super().__init__()
        self.exact = problem.model(path, "noise")
        self.steps = path.training_steps
        self.v = torch.nn.Parameter(torch.zeros(self.steps, dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x, t):
        v = self.v[t.round().long()][:, None].expand_as(x)
        return torch.cat([self.c * self.exact.noise(x, (t + 1) / self.steps), v], 1)


def test_the_learned_variance_is_the_posterior_in_between():
    """Method, row 6: beta-tilde + c0^2 Var[x0 | x_t], inside of [beta-tilde, beta]; of the decoder
    Var[x0 | x_1]."""
    net = Learned(SMALL)
    objective = Hybrid(ode.Model(net, SMALL, "noise", learned_variance=True))
    x, noise, index = every(20, MEAN, STD)
    for _ in range(60):  # Newton's steps: every number of v is in one term alone
        loss = objective(x, noise=noise, index=index).loss
        (g,) = torch.autograd.grad(loss, net.v, create_graph=True)
        (curvature,) = torch.autograd.grad(g.sum(), net.v)
        with torch.no_grad():
            net.v -= g / curvature
    chain = objective.bound.chain("cpu")
    share = 0.5 * (net.v.detach().flip(0) + 1)  # index 0 of the chain is the noise end
    small, large = chain.small, chain.large
    found = torch.exp(small + share[:-1] * (large - small))
    rest = STD**2 * chain.sigma**2 / (chain.alpha**2 * STD**2 + chain.sigma**2)
    torch.testing.assert_close(found, small.exp() + chain.lead**2 * rest[:-1], rtol=1e-6, atol=0)
    assert bool(((found > small.exp()) & (found < large.exp())).all())
    top = 2 * math.log(float(chain.sigma[-1]))
    last = math.exp(top - (top - float(small[-1])) * (1 - float(share[-1])))
    assert last == pytest.approx(float(rest[-1]), rel=1e-6)


def test_the_bound_of_the_hybrid_trains_the_variance_alone():
    net = Learned(SMALL, 0.8)
    model = ode.Model(net, SMALL, "noise", learned_variance=True)
    x, noise, index = MEAN + STD * normal(60, 1), normal(60, 1, seed=1), torch.arange(60) % 20
    found = Hybrid(model, share=0.25, weight="vlb")(x, noise=noise, index=index)
    bound = VariationalBound(model, "learned")(x, noise=noise, index=index)
    simple = Matching(model, weight="vlb")(x, noise=noise, t=found.t)
    torch.testing.assert_close(found.bound, bound.each)
    torch.testing.assert_close(found.simple, simple.each)
    torch.testing.assert_close(found.each, simple.each + 0.25 * bound.each)
    torch.testing.assert_close(found.t, bound.t)
    (c,) = torch.autograd.grad(found.loss, net.c, retain_graph=True)
    torch.testing.assert_close(c, torch.autograd.grad(simple.loss, net.c)[0])
    (v,) = torch.autograd.grad(found.loss, net.v)
    whole = torch.autograd.grad(bound.loss, (net.c, net.v))
    torch.testing.assert_close(v, 0.25 * whole[1])
    assert float(whole[0].abs()) > 1e-3  # the bound alone would move the mean


def test_the_hybrid_evaluates_once_and_counts_a_number():
    """Two numbers a sample: both of its parts are a number of it."""
    calls = []

    def net(x, t, label):
        calls.append(label)
        return torch.cat([0.5 * x + label[:, None], torch.zeros_like(x)], 1)

    model = ode.Model(net, SMALL, "v", learned_variance=True)
    cond = {"label": torch.arange(5, dtype=torch.float64)}
    found = Hybrid(model)(normal(5, 2), cond=cond, generator=generator(4))
    assert len(calls) == 1
    assert torch.equal(calls[0], cond["label"])
    index, noise = VariationalBound(model, "learned").draw(normal(5, 2), None, None, generator(4))
    own = model.given(**cond)
    bound = VariationalBound(own, "learned")(normal(5, 2), index=index, noise=noise)
    torch.testing.assert_close(found.bound, bound.each / 2)
    torch.testing.assert_close(found.loss, (found.simple + 1e-3 * found.bound).mean())


def test_draws_are_of_their_generator():
    objective, x = VariationalBound(problem.model(SMALL, "noise")), normal(40, 1)
    first, same, other = (objective(x, generator=generator(s)).each for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_terms_drawn_by_importance_have_the_same_mean_and_less_variance():
    n, model = 40_000 if LONG else 10_000, problem.model(SMALL, "noise")
    x = MEAN + STD * normal(n, 1)
    want = ode.elbo(model, x, seed=1).value
    even, weighed = VariationalBound(model), VariationalBound(model, importance=True)
    for k in range(20):  # fills the histories of the 20 terms
        weighed(x[:200], index=torch.arange(200) % 20, generator=generator(k))
    state = weighed.importance.state_dict()
    found, plain = weighed(x, generator=generator(50)), even(x, generator=generator(50))
    gap = found.each + want
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / n**0.5
    assert float(found.each.std()) < 0.7 * float(plain.each.std())
    resumed = VariationalBound(model, importance=True)
    resumed.importance.load_state_dict(state)
    assert torch.equal(resumed(x, generator=generator(50)).each, found.each)
    assert torch.equal(resumed.importance.losses, weighed.importance.losses)
    with pytest.raises(ode.OdesolveError, match="make it as it was"):
        VariationalBound(problem.model(DDPM, "noise"), importance=True).importance.load_state_dict(
            state
        )


@rows(
    ("call", "told"),
    [
        (lambda m: VariationalBound(3.0), "give an ode.Model"),
        (lambda m: VariationalBound(m.guided(2.0, {}, {})), "train the plain one"),
        (lambda m: VariationalBound(m, "larg"), "did you mean 'large'"),
        (lambda m: VariationalBound(m, "learned"), "learned_variance=True"),
        (lambda m: Hybrid(m), "learned_variance=True"),
        (lambda m: Hybrid(m, importance=True), "for the bound alone"),
        (lambda m: VariationalBound(m, decoder="gausian"), "did you mean 'gaussian'"),
        (lambda m: VariationalBound(m, decoder="discrete", levels=1), "at least 2"),
        (lambda m: VariationalBound(m)(torch.zeros(3)), "give floats of shape"),
        (lambda m: VariationalBound(m)(normal(3, 1), noise=normal(2, 1)), "one for each sample"),
        (
            lambda m: VariationalBound(m)(normal(3, 1), index=torch.zeros(3)),
            "one whole number per sample",
        ),
        (
            lambda m: VariationalBound(m)(normal(3, 1), index=torch.tensor([0, 1])),
            "one whole number per sample",
        ),
        (
            lambda m: VariationalBound(m)(normal(3, 1), index=torch.tensor([0, 1, 20])),
            "the terms are 0 to 19",
        ),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call(problem.model(SMALL, "noise"))
