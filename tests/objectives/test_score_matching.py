"""Score matching: its identities by quadrature, its gradients and minimisers on Gaussians,
energies, and NCSN's floors."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching, Terms
from odesolve.objectives.score_matching import (
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    Levels,
    SlicedScoreMatching,
    energy,
    ncsn,
)
from odesolve.trace import HutchPP
from tests.rows import rows

EDM = ode.paths.EDM()
SIGMA = 0.4
tp1 = ode.problems.mixture([0.3, 0.7], [[-1.5], [1.0]], std=[0.3, 0.5])
# q is N(MEAN, COV); the data it is noised from are N(MEAN, COV - SIGMA^2).
MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COV = torch.tensor([[1.2, 0.5], [0.5, 0.7]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def wrong(x):
    """A score that is that of none of the problems."""
    return torch.tanh(1.3 * x) - 0.8 * x + 0.2


def quadrature(low, high, count):
    x = torch.linspace(low, high, count, dtype=torch.float64)
    return x, float(x[1] - x[0])


def test_explicit_implicit_and_denoising_differ_by_fisher_informations():
    """ESM = ISM + I / 2 = DSM - (I_c - I) / 2 on TP-1 with noise of deviation SIGMA; I_c = 1 /
    SIGMA^2."""
    x, dx = quadrature(-6.0, 6.0, 1501)
    x = x[:, None]
    q = tp1.log_prob(x, EDM, SIGMA).exp() * dx
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-12)
    exact = lambda y: tp1.score(y, EDM, SIGMA)
    information = float(q @ exact(x).square()[:, 0])
    explicit = float(q @ ExplicitScoreMatching(wrong, exact)(x).each)
    implicit = float(q @ ImplicitScoreMatching(wrong)(x).each)
    data, da = quadrature(-5.0, 5.0, 401)
    noise, dn = quadrature(-8.0, 8.0, 161)
    data, noise = data.repeat_interleave(161)[:, None], noise.repeat(401)[:, None]
    weight = (
        tp1.log_prob(data).exp()
        * da
        * torch.exp(-0.5 * noise[:, 0] ** 2)
        / math.sqrt(2 * math.pi)
        * dn
    )
    denoising = float(weight @ DenoisingScoreMatching(wrong, SIGMA)(data, noise=noise).each)
    assert explicit > 0.1
    assert abs(explicit - (implicit + 0.5 * information)) < 1e-9
    assert abs(explicit - (denoising - 0.5 * (1 / SIGMA**2 - information))) < 1e-9


@rows("reduced", [True, False])
def test_sliced_is_implicit_in_expectation(reduced):
    """Of a score on three numbers, at one state: over projections, and with the variances that are
    known."""
    matrix = torch.tensor(
        [[-1.0, 0.6, 0.1], [0.2, -0.5, -0.7], [0.4, 0.3, 0.9]], dtype=torch.float64
    )
    score = lambda x: torch.tanh(x) @ matrix.T
    state = torch.tensor([[0.3, -1.1, 0.7]], dtype=torch.float64)
    want = float(ImplicitScoreMatching(score)(state).loss)
    s = score(state)[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: score(x[None])[0], state[0])
    assert want == pytest.approx(float(0.5 * s @ s + jacobian.trace()), abs=1e-14)
    form = 0.5 * (jacobian + jacobian.T) + (0.0 if reduced else 0.5 * torch.outer(s, s))
    x = state.expand(40_000, 3)
    for law in ("gaussian", "rademacher"):
        found = SlicedScoreMatching(score, law=law, reduced=reduced)(x, generator=generator(3)).each
        variance = float(
            2
            * (
                form.square().sum()
                - (form.diagonal().square().sum() if law == "rademacher" else 0.0)
            )
        )
        assert abs(float(found.mean()) - want) < 4 * (variance / 40_000) ** 0.5
        # Forms of Gaussians have a kurtosis of at most 15, signs less.
        assert abs(float(found.var()) - variance) < 4 * variance * (14 / 40_000) ** 0.5
        many = SlicedScoreMatching(score, 4, law, reduced=reduced)(
            x[:10_000], generator=generator(4)
        ).each
        assert abs(float(many.mean()) - want) < 4 * (variance / 40_000) ** 0.5
        assert float(many.var()) == pytest.approx(variance / 4, rel=0.1)


def test_one_projection_of_one_number_is_exact():
    """v^2 = 1 for signs, so that nothing is random."""
    x = normal(50, 1)
    implicit = ImplicitScoreMatching(wrong)(x).each
    for reduced in (True, False):
        found = SlicedScoreMatching(wrong, reduced=reduced)(x, generator=generator()).each
        torch.testing.assert_close(found, implicit, rtol=1e-13, atol=1e-13)


def test_other_traces():
    """With as many products as numbers Hutch++ has no rest, whatever its vectors."""
    score = lambda x: torch.tanh(x @ torch.tensor([[-1.0, 0.4], [0.3, 0.8]], dtype=torch.float64))
    x = normal(20, 2)
    found = ImplicitScoreMatching(score, trace=HutchPP(6))(x, generator=generator())
    torch.testing.assert_close(
        found.each, ImplicitScoreMatching(score)(x).each, rtol=1e-10, atol=1e-10
    )


class Linear(torch.nn.Module):
    """a x + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a = torch.nn.Parameter(torch.as_tensor(a, dtype=torch.float64).clone())
        self.b = torch.nn.Parameter(torch.as_tensor(b, dtype=torch.float64).clone())

    def forward(self, x, t=None):
        return x @ self.a.T + self.b


def exact(y):
    return -(y - MEAN) @ torch.linalg.inv(COV)


def losses(net):
    """Every loss of q, with whether it is given samples of q itself."""
    return {
        "explicit": (ExplicitScoreMatching(net, exact), True),
        "implicit": (ImplicitScoreMatching(net), True),
        "sliced": (SlicedScoreMatching(net), True),
        "sliced, gaussian": (SlicedScoreMatching(net, 2, "gaussian"), True),
        "sliced, not reduced": (SlicedScoreMatching(net, reduced=False), True),
        "denoising": (DenoisingScoreMatching(net, SIGMA), False),
    }


LOSSES = sorted(losses(Linear(torch.zeros(2, 2), torch.zeros(2))))


def samples(n, of_q, seed):
    cov = COV if of_q else COV - SIGMA**2 * torch.eye(2, dtype=torch.float64)
    return MEAN + normal(n, 2, seed=seed) @ torch.linalg.cholesky(cov).T


@rows("name", LOSSES)
def test_all_have_the_gradient_of_the_fisher_divergence(name):
    """Of E|A x + b - s*(x)|^2 / 2: (A + P) C + r m^T and r, with P = C^-1 and r = A m + b."""
    net = Linear([[-0.6, 0.9], [0.1, -1.4]], [0.3, -0.2])
    a, b = net.a.detach(), net.b.detach()
    r = a @ MEAN + b
    want = torch.cat([((a + torch.linalg.inv(COV)) @ COV + torch.outer(r, MEAN)).flatten(), r])
    loss, of_q = losses(net)[name]
    draws, found = generator(11), []
    for k in range(200):
        value = loss(samples(500, of_q, seed=k), generator=draws).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, (net.a, net.b))]))
    found = torch.stack(found)
    error = found.std(0) / 200**0.5
    assert bool(((found.mean(0) - want).abs() < 4 * error).all())
    assert float(error.max()) < 0.02


@pytest.mark.long
@rows("name", LOSSES)
def test_the_minimiser_of_a_linear_network_is_the_exact_score(name):
    """The loss is quadratic: one Newton step from anywhere is the minimiser of the samples'
    loss."""
    net = Linear(torch.zeros(2, 2), torch.zeros(2))
    loss, of_q = losses(net)[name]
    x = samples(400_000, of_q, seed=5)

    def gradient(theta):
        with torch.no_grad():
            net.a.copy_(theta[:4].view(2, 2))
            net.b.copy_(theta[4:])
        found = torch.autograd.grad(loss(x, generator=generator(6)).loss, (net.a, net.b))
        return torch.cat([g.flatten() for g in found])

    zero = torch.zeros(6, dtype=torch.float64)
    g = gradient(zero)
    hessian = torch.stack([gradient(row) - g for row in torch.eye(6, dtype=torch.float64)])
    theta = -torch.linalg.solve(hessian, g)
    precision = torch.linalg.inv(COV)
    want = torch.cat([-precision.flatten(), precision @ MEAN])
    assert float((theta - want).abs().max()) < 1e-2


def test_the_floor_of_denoising_is_that_of_the_conditional_score():
    """N(m, s^2): alpha^2 s^2 / (sigma^2 V^2) a number, without the half (method, rows 12 and
    15)."""
    mean, std, n = 0.3, 0.6, 50_000
    problem = ode.problems.gaussian(mean=mean, std=std, shape=(3,))
    x = mean + std * normal(n, 3)
    for path in (ode.paths.VP(), ode.paths.Linear(), EDM):
        t = float(path.t_of_rho(torch.tensor(0.7, dtype=torch.float64)))
        p = path.point(t)
        floor = p.alpha**2 * std**2 / (p.sigma**2 * (p.alpha**2 * std**2 + p.sigma**2))
        found = DenoisingScoreMatching(problem.model(path, "noise"))(x, t=t, generator=generator(1))
        error = float(found.each.std()) / n**0.5
        assert abs(float(found.loss) - 1.5 * floor) < 4 * error
        assert error < 0.02 * floor
    found = DenoisingScoreMatching(lambda y: problem.score(y, EDM, SIGMA), SIGMA)(
        x, generator=generator(2)
    )
    floor = std**2 / (SIGMA**2 * (std**2 + SIGMA**2))
    assert abs(float(found.loss) - 1.5 * floor) < 4 * float(found.each.std()) / n**0.5


@rows("path", [ode.paths.VP(), ode.paths.Linear(), EDM], ids=str)
@rows("predicts", ["noise", "data", "score", "velocity"])
def test_a_models_losses(path, predicts):
    """Whatever is predicted; denoising is D / 2 times ``Matching`` weighed as a score, at the same
    times and noise."""
    model = ode.problems.gaussian(mean=0.1, std=0.9, shape=(3,)).model(path, predicts)
    true = tp_model(path)
    t = path.t_of_rho(torch.logspace(-1, 1, 40, dtype=torch.float64))
    x, noise = normal(40, 3, seed=1), normal(40, 3, seed=2)
    for weight in (None, "noise", "vlb"):
        own = DenoisingScoreMatching(model, weight=weight)(x, noise=noise, t=t)
        other = Matching(model, weight=weight or "score")(x, noise=noise, t=t)
        torch.testing.assert_close(own.each, 1.5 * other.each, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own.t, t)
    x_t = path.alpha(t)[:, None] * x + path.sigma(t)[:, None] * noise
    gap = model.score(x_t, t) - true.score(x_t, t)
    for exact in (true, true.score):
        found = ExplicitScoreMatching(model, exact)(x, noise=noise, t=t)
        torch.testing.assert_close(found.each, 0.5 * gap.square().sum(1))
    # Of a Gaussian the divergence of the score is -3 / V.
    variance = path.alpha(t) ** 2 * 0.81 + path.sigma(t) ** 2
    found = ImplicitScoreMatching(model, weight="noise")(x, noise=noise, t=t)
    want = path.sigma(t) ** 2 * (0.5 * model.score(x_t, t).square().sum(1) - 3 / variance)
    torch.testing.assert_close(found.each, want, rtol=1e-9, atol=1e-9)
    sliced = SlicedScoreMatching(model, weight="noise")(x, noise=noise, t=t)
    # signs are exact on a multiple of the identity
    torch.testing.assert_close(sliced.each, want, rtol=1e-9, atol=1e-9)


def tp_model(path):
    return ode.problems.gaussian(mean=0.3, std=0.6, shape=(3,)).model(path, "data")


def test_a_models_times_and_conditions():
    seen = []

    def net(x, t, label):
        seen.append((t, label))
        return -x * label[:, None]

    x, label = normal(200, 2), torch.arange(200, dtype=torch.float64)
    objective = ImplicitScoreMatching(ode.Model(net, EDM, "score"), times=Levels((0.5, 2.0)))
    found = objective(x, cond={"label": label}, generator=generator())
    assert sorted(set(found.t.tolist())) == pytest.approx([0.5, 2.0])
    assert torch.equal(seen[0][1], label)
    torch.testing.assert_close(seen[0][0], found.t)
    assert torch.equal(
        objective(x, t=0.7, cond={"label": label}).t, torch.full((200,), 0.7, dtype=torch.float64)
    )
    again = objective(x, cond={"label": label}, generator=generator())
    assert torch.equal(found.each, again.each)
    assert isinstance(found, Terms)
    assert found.loss == found.each.mean()


def test_projections_are_of_their_generator():
    objective, x = SlicedScoreMatching(lambda x: torch.tanh(x.flip(1) * x)), normal(50, 3)
    first, same, other = (objective(x, generator=generator(s)).each for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    first = objective(x).each
    torch.manual_seed(3)
    assert torch.equal(first, objective(x).each)


def test_scores_of_energies():
    """-grad E is the analytic score, inside no_grad, too, and its losses have gradients of the
    second and third order."""
    x = normal(30, 1)
    score = energy(lambda y: -tp1.log_prob(y, EDM, SIGMA) + 5.0)
    torch.testing.assert_close(score(x), tp1.score(x, EDM, SIGMA), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        said = score(x)
    assert not said.requires_grad
    torch.testing.assert_close(said, tp1.score(x, EDM, SIGMA), rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(score(x.clone()), said, rtol=1e-12, atol=1e-12)


class Quadratic(torch.nn.Module):
    """x^T K x / 2."""

    def __init__(self, k):
        super().__init__()
        self.k = torch.nn.Parameter(torch.as_tensor(k, dtype=torch.float64))

    def forward(self, x, t=None):
        return 0.5 * ((x @ self.k) * x).sum(1)


def test_energies_train():
    """s = -K x for symmetric K: gradients of the explicit and the implicit loss in K are those of s
    written out."""
    net = Quadratic([[1.3, 0.2], [0.2, 0.6]])
    score, x = energy(net), normal(30, 2)
    assert list(score.parameters()) == [net.k]
    target = normal(30, 2, seed=1)
    # The two halves of K count alike, so the gradient is symmetrised.
    gap = -x @ net.k.detach() - target
    want = -(gap[:, :, None] * x[:, None]).mean(0)
    (found,) = torch.autograd.grad(ExplicitScoreMatching(score, lambda y: target)(x).loss, net.k)
    torch.testing.assert_close(found, 0.5 * (want + want.T), rtol=1e-12, atol=1e-12)
    square = (net.k.detach() @ (x.T @ x)) / 30
    want = 0.5 * (square + square.T) - torch.eye(2, dtype=torch.float64)
    for loss in (ImplicitScoreMatching(score), SlicedScoreMatching(score, 400)):
        (found,) = torch.autograd.grad(loss(x, generator=generator()).loss, net.k)
        exact = isinstance(loss, ImplicitScoreMatching)
        torch.testing.assert_close(
            found, want, rtol=0, atol=1e-12 if exact else 4 / (400 * 30) ** 0.5
        )
    # Through states, too, as a corrector or a chain that is trained would have it.
    y = x.clone().requires_grad_()
    (through,) = torch.autograd.grad((score(y) * target).sum(), y)
    torch.testing.assert_close(through, -target @ net.k.detach(), rtol=1e-12, atol=1e-12)


def test_energies_are_networks_of_models():
    net = Quadratic([[1.3, 0.2], [0.2, 0.6]])
    model = ode.Model(energy(net), EDM, "score")
    assert model.dtype == torch.float64
    x = normal(5, 2)
    torch.testing.assert_close(model.score(x, 0.5), -x @ net.k.detach(), rtol=1e-12, atol=1e-12)
    Matching(model)(x, generator=generator()).loss.backward()
    assert float(net.k.grad.abs().min()) > 0
    found = ode.sample(model, x, steps=4)
    assert not found.requires_grad
    assert bool(found.isfinite().all())


def test_ncsn():
    """Each level's floor is s^2 / (s^2 + sigma^2); the loss is 2 / D times the mean of sigma^2
    times denoising."""
    levels = Levels.geometric(0.05, 2.0, 4)
    ratio = levels.ratios
    assert ratio[0] == 2.0
    assert ratio[-1] == pytest.approx(0.05)
    assert ratio[1] / ratio[0] == pytest.approx(ratio[3] / ratio[2])
    mean, std, n = 0.3, 0.6, 40_000
    problem = ode.problems.gaussian(mean=mean, std=std, shape=(3,))
    x = mean + std * normal(n, 3)
    found = ncsn(problem.model(EDM, "score"), levels)(x, generator=generator(1))
    for sigma in ratio:
        own = found.each[(found.t - sigma).abs() < 1e-9]
        assert abs(len(own) - n / 4) < 4 * (n * 3 / 16) ** 0.5
        floor = std**2 / (std**2 + sigma**2)
        assert abs(float(own.mean()) - floor) < 4 * float(own.std()) / len(own) ** 0.5
    model, noise = tp_model(EDM), normal(40, 3, seed=3)
    t = torch.tensor(ratio, dtype=torch.float64).repeat(10)
    own = DenoisingScoreMatching(model)(x[:40], noise=noise, t=t)
    for predicts in ("score", "noise", "data"):
        same = ode.problems.gaussian(mean=0.3, std=0.6, shape=(3,)).model(EDM, predicts)
        each = ncsn(same, levels)(x[:40], noise=noise, t=t).each
        torch.testing.assert_close(each, 2 / 3 * t**2 * own.each, rtol=1e-9, atol=1e-12)
    assert torch.equal(levels.density(t, EDM), torch.full((40,), 0.25, dtype=torch.float64))


def test_images_in_float32():
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    x = normal(4, 1, 5, 5).float()
    for loss in (
        ImplicitScoreMatching(net),
        SlicedScoreMatching(net, 2),
        DenoisingScoreMatching(net, 0.3),
    ):
        found = loss(x, generator=generator())
        assert found.loss.dtype == torch.float32
        (grad,) = torch.autograd.grad(found.loss, net.weight)
        assert float(grad.abs().min()) > 0


net = Linear(torch.zeros(2, 2), torch.zeros(2))
model = ode.problems.gaussian(std=0.6, shape=(2,)).model(EDM, "score")


@rows(
    ("call", "told"),
    [
        (lambda: ImplicitScoreMatching(3.0), "give a function s"),
        (lambda: ImplicitScoreMatching(net, weight="noise"), "are of an ode.Model"),
        (lambda: ImplicitScoreMatching(model.guided(2.0, {}, {})), "train the plain one"),
        (lambda: ImplicitScoreMatching(net)(torch.zeros(3)), "give floats of shape"),
        (lambda: ImplicitScoreMatching(net)(normal(3, 2), t=0.5), "t and cond are of an ode.Model"),
        (
            lambda: ImplicitScoreMatching(net)(normal(3, 2), noise=normal(3, 2)),
            "t and cond are of an ode.Model",
        ),
        (
            lambda: ImplicitScoreMatching(model)(normal(3, 2), noise=normal(2, 2)),
            "one for each sample",
        ),
        (lambda: ImplicitScoreMatching(model)(normal(3, 2), t=-1.0), "the path goes from"),
        (
            lambda: ImplicitScoreMatching(lambda x: x.detach())(normal(3, 2)),
            "does not depend on its input",
        ),
        (
            lambda: ImplicitScoreMatching(lambda x: x[:, :1])(normal(3, 2)),
            "return floats of the same shape",
        ),
        (lambda: SlicedScoreMatching(net, law="sphere"), "projections"),
        (lambda: SlicedScoreMatching(net, 0), "at least 1"),
        (lambda: ExplicitScoreMatching(net, 1.0), "exact is float"),
        (lambda: ExplicitScoreMatching(net, model), "exact is Model"),
        (lambda: DenoisingScoreMatching(net), "sigma=None"),
        (lambda: DenoisingScoreMatching(model, 0.5), "and not with an ode.Model"),
        (lambda: DenoisingScoreMatching(net, 0.0), "above 0"),
        (
            lambda: DenoisingScoreMatching(net, 0.5)(normal(3, 2), t=0.5),
            "t and cond are of an ode.Model",
        ),
        (lambda: energy(1.0), "give a function or module"),
        (lambda: energy(lambda x: x)(normal(3, 2)), r"of shape \(B,\)"),
        (lambda: energy(lambda x: x.detach().sum(1))(normal(3, 2)), "does not depend on x"),
        (
            lambda: energy(lambda x: net.b.sum() * x.detach().sum(1))(normal(3, 2)),
            "does not depend on x",
        ),
        (lambda: Levels(()), "each above 0"),
        (lambda: Levels((0.1, -1.0)), "each above 0"),
        (lambda: Levels.geometric(1.0, 0.1, 4), "give 0 < low < high"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call()
