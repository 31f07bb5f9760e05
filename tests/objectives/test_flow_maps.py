"""Maps between two times: on Gaussian data the average velocity is known, and with it every
identity."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching, times
from odesolve.objectives.flow_maps import FlowMap, MeanFlow, Shortcut
from tests.rows import rows

LINEAR = ode.paths.Linear()
MEAN, STD = 0.4, 0.6
problem = ode.problems.gaussian(mean=MEAN, std=STD, shape=(2,))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def uniform(n, seed=0):
    return torch.rand(n, dtype=torch.float64, generator=generator(seed))


def average(x, r, t):
    """(x - map(x)) / (t - r) of N(MEAN, STD^2) on the straight path, without the difference: it
    holds at r = t."""
    r, t = r[:, None], t[:, None]
    deviation = lambda t: torch.sqrt((1 - t) ** 2 * STD**2 + t**2)
    slope = ((t + r) - STD**2 * (2 - t - r)) / (deviation(t) * (deviation(t) + deviation(r)))
    return (x - (1 - t) * MEAN) * slope - MEAN


def exact(path):
    if path == LINEAR:
        return FlowMap(average, path)
    return FlowMap(lambda x, r, t: -average(x, 1 - r, 1 - t), path)


PATHS = pytest.mark.parametrize("path", [LINEAR, LINEAR.flipped()], ids=["linear", "flipped"])


@PATHS
def test_one_step_and_any_more_are_the_flow(path):
    f, z = exact(path), normal(5, 2)
    data = problem.solution(z, path, path.t_noise, path.t_data)
    for steps in (1, 3):
        torch.testing.assert_close(f.sample(z, steps), data, rtol=1e-13, atol=1e-13)
    grid = [path.t_noise, 0.7, 0.1, path.t_data] if path == LINEAR else [0.0, 0.2, 0.5, 1.0]
    torch.testing.assert_close(f.sample(z, grid=grid), data, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(f.sample(state=data, grid=grid[::-1]), z, rtol=1e-13, atol=1e-13)
    t, r = uniform(5), uniform(5, seed=1)
    found = f.carry(z, t, r)
    for k in range(5):
        alone = problem.solution(z[k : k + 1], path, float(t[k]), float(r[k]))
        torch.testing.assert_close(found[k : k + 1], alone, rtol=1e-12, atol=1e-12)


@PATHS
def test_at_equal_times_it_is_a_model_of_the_library(path):
    f, z, t = exact(path), normal(5, 2), uniform(5)
    model = problem.model(path, "velocity")
    torch.testing.assert_close(f.model.velocity(z, t), model.velocity(z, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(f.average(z, t, t), model.velocity(z, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(f.model.score(z, t), model.score(z, t), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ode.sample(f.model, z, "heun", 5), ode.sample(model, z, "heun", 5))


def residual(net, tangent, path):
    """Root mean square of u - v + (t - r) du along a tangent (velocity, dr, dt), at random states
    and times."""
    x, r, t = normal(50, 2), uniform(50), uniform(50, seed=1)
    v = problem.model(path, "velocity").velocity(x, t)
    rest = [torch.full_like(t, k) for k in tangent]
    u, du = torch.func.jvp(net, (x, r, t), (v, *rest))
    return float((u - v + (t - r)[:, None] * du).square().mean().sqrt())


@PATHS
def test_mean_flow_identity(path):
    """Row 59: the objective's own residual is round-off at the exact map, of states and times on
    and off the diagonal."""
    f, teacher = exact(path), problem.model(path, "velocity")
    x, z, r, t = normal(50, 2), normal(50, 2, seed=1), uniform(50), uniform(50, seed=1)
    r[:5] = t[:5]
    found = MeanFlow(f, teacher=teacher)(x, noise=z, r=r, t=t)
    assert float(found.error.max().sqrt()) < 1e-14
    # the identity itself, and what other tangents would leave of it
    assert residual(f.average, (0, 1), path) < 1e-14
    assert residual(f.average, (1, 1), path) > 0.1
    assert residual(f.average, (1, 0), path) > 0.1


class Shifted(torch.nn.Module):
    """The exact map with a x + b more, both times' own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.ab = net, torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, r, t):
        return self.net(x, r, t) + (1 + r - t)[:, None] * (self.ab[0] * x + self.ab[1])


def quadrature():
    """Data and noise (9, 2), two equal columns, with weights (9,): exact for Gaussian moments up to
    degree 5."""
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    x, z = torch.meshgrid(nodes, nodes, indexing="ij")
    pair = lambda v: v.reshape(-1, 1).expand(9, 2).clone()
    return MEAN + STD * pair(x), pair(z), torch.outer(weights, weights).reshape(-1)


@PATHS
def test_the_exact_map_is_where_training_from_data_rests(path):
    """The target is linear in the velocity, so that between data and noise serves: no gradient is
    left in the mean."""
    net = Shifted(exact(path).average)
    objective = MeanFlow(FlowMap(net, path), power=0.0)
    x, z, weights = quadrature()
    for r, t in ((0.1, 0.8), (0.5, 0.5), (0.0, 1.0)):
        r, t = (r, t) if path == LINEAR else (1 - r, 1 - t)
        found = objective(
            x, noise=z, r=torch.full((9,), r).double(), t=torch.full((9,), t).double()
        )
        loss = (weights * found.each).sum()
        assert float(loss.detach()) > 0.1
        assert float(torch.autograd.grad(loss, net.ab)[0].abs().max()) < 1e-13


def test_equal_times_are_flow_matching():
    f, x, z, t = exact(LINEAR), normal(6, 2), normal(6, 2, seed=1), uniform(6)
    plain = Matching(f.model)(x, noise=z, t=t)
    found = MeanFlow(f, power=0.0)(x, noise=z, r=t, t=t)
    torch.testing.assert_close(found.each, plain.each)
    torch.testing.assert_close(Shortcut(f)(x, noise=z, r=t, t=t).each, plain.each)


def test_adaptive_weights_get_no_gradient():
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    f = FlowMap(lambda x, r, t: a * x * torch.cos(r - t)[:, None], LINEAR)
    x, z, t, r = normal(6, 2), normal(6, 2, seed=1), uniform(6), uniform(6, seed=1)
    plain = MeanFlow(f, power=0.0)(x, noise=z, r=r, t=t)
    found = MeanFlow(f, power=0.5, offset=0.01, of="mean")(x, noise=z, r=r, t=t)
    factor = 1 / (plain.error + 0.01) ** 0.5
    torch.testing.assert_close(found.error, plain.error)
    torch.testing.assert_close(found.each, factor * plain.each)
    whole = torch.autograd.grad(found.loss, a)[0]
    torch.testing.assert_close(whole, torch.autograd.grad((factor * plain.each).mean(), a)[0])
    x_t, v = (1 - t)[:, None] * x + t[:, None] * z, z - x
    ratio, sine = torch.cos(r - t)[:, None], torch.sin(r - t)[:, None]
    # du/dt = a (cos(r - t) v + sin(r - t) x_t)
    aim = v - (t - r)[:, None] * 0.7 * (ratio * v + sine * x_t)
    torch.testing.assert_close(plain.error, (0.7 * ratio * x_t - aim).square().mean(1).detach())


@PATHS
def test_drawn_times(path):
    n, x = 20_000, torch.zeros(20_000, 1)
    found = MeanFlow(FlowMap(lambda x, r, t: x, path), equal=0.6)(x, generator=generator())
    nearer = (found.r <= found.t) if path == LINEAR else (found.r >= found.t)
    assert bool(nearer.all())
    equal = float((found.r == found.t).double().mean())
    assert abs(equal - 0.6) < 4 * math.sqrt(0.24 / n)
    noise_side = found.t if path == LINEAR else 1 - found.t
    # mean of the larger: -.4 + 1/sqrt(pi)
    a = torch.logit(times.LogitNormal(-0.4, 1.0)(n, LINEAR, generator(1))) + 0.4
    spread = float(torch.maximum(a[::2], a[1::2]).std())
    mean = float(torch.logit(noise_side).mean())
    assert abs(mean - (1 / math.sqrt(math.pi) - 0.4)) < 4 * spread / math.sqrt(n)


@PATHS
def test_shortcut_identity(path):
    """Row 60: s(2d) is the mean of two half steps at the exact map, for every step but those read
    as a velocity."""
    f, x, z = exact(path), normal(200, 2), normal(200, 2, seed=1)
    found = Shortcut(f, 64, share=1.0)(x, noise=z, generator=generator(2))
    size = (found.t - found.r).abs()
    assert set(size.tolist()) == {0.5**k for k in range(6)}
    exact_ones = size > 1.5 / 32
    assert float(found.error[exact_ones].max().sqrt()) < 1e-15
    assert float(found.error[~exact_ones].max().sqrt()) > 1e-6  # Euler's error of two steps of 1/64
    place = found.t if path == LINEAR else 1 - found.t
    torch.testing.assert_close((place / size).round(), place / size)
    assert float((place - size).min()) == 0
    assert float(place.max()) == 1


def test_what_shortcuts_are_asked_and_compared_with():
    """The smallest steps ask for velocities, larger ones for half steps; the target alone is asked
    twice."""
    calls = []
    target = FlowMap(lambda x, r, t: calls.append((r, t)) or average(x, r, t), LINEAR)
    f = FlowMap(lambda x, r, t: torch.zeros_like(x), LINEAR)
    x, z = normal(3, 2), normal(3, 2, seed=1)
    r, t = torch.tensor([0.5, 0.25, 0.3]).double(), torch.tensor([1.0, 0.5, 0.3]).double()
    found = Shortcut(f, 8, target=target)(x, noise=z, r=r, t=t)
    x_t = (1 - t)[:, None] * x + t[:, None] * z
    aim = z - x
    s1 = average(x_t[:1], t[:1] - 0.25, t[:1])
    aim[:1] = 0.5 * (s1 + average(x_t[:1] - 0.25 * s1, r[:1], t[:1] - 0.25))
    s1 = average(x_t[1:2], t[1:2], t[1:2])
    aim[1:2] = 0.5 * (s1 + average(x_t[1:2] - 0.125 * s1, t[1:2] - 0.125, t[1:2] - 0.125))
    torch.testing.assert_close(found.each, aim.square().mean(1))
    assert [(r.tolist(), t.tolist()) for r, t in calls] == [
        ([0.75, 0.5], [1.0, 0.5]),
        ([0.5, 0.375], [0.75, 0.375]),
    ]


def test_shortcut_shares_and_laws():
    n, x = 20_000, torch.zeros(20_000, 1)
    f = FlowMap(lambda x, r, t: x, LINEAR)
    found = Shortcut(f, 16, times=times.Uniform(0.2, 0.6))(x, generator=generator())
    learns = found.r != found.t
    assert abs(float(learns.double().mean()) - 0.25) < 4 * math.sqrt(0.1875 / n)
    assert 0.2 <= float(found.t[~learns].min()) <= float(found.t[~learns].max()) <= 0.6
    m = int(learns.sum())
    for k in range(4):
        share = float(((found.t - found.r)[learns] == 0.5**k).double().mean())
        assert abs(share - 0.25) < 4 * math.sqrt(0.1875 / m)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 2)

    def forward(self, x, r, t, shift):
        return self.layer(torch.cat([x, r[:, None], t[:, None], shift[:, None]], 1))


@rows("make", [MeanFlow, Shortcut])
def test_training_a_network(make):
    """Conditions keep to their samples, dtypes to theirs, generators decide, and gradients come."""
    net = Net()
    objective = make(FlowMap(net, LINEAR))
    x, z, shift = normal(8, 2).float(), normal(8, 2, seed=1).float(), normal(8, seed=2).float()
    t = uniform(8).clamp_min(0.3)
    r = torch.where(torch.arange(8) % 2 == 0, t, t - 0.25)
    found = objective(x, noise=z, r=r, t=t, cond={"shift": shift})
    assert found.loss.dtype is torch.float32
    gradients = torch.autograd.grad(found.loss, list(net.parameters()))
    assert all(bool(g.abs().sum() > 0) for g in gradients)
    for k in range(8):
        one = slice(k, k + 1)
        alone = objective(x[one], noise=z[one], r=r[one], t=t[one], cond={"shift": shift[one]})
        torch.testing.assert_close(alone.each, found.each[one], rtol=1e-5, atol=1e-6)
    a, b = (objective(x, cond={"shift": shift}, generator=generator(3)) for _ in range(2))
    assert torch.equal(a.each, b.each)


def test_both_times_reach_the_network_as_it_was_trained():
    seen = []
    net = lambda x, r, t, label: seen.append((r, t, label)) or x
    f = FlowMap(net, LINEAR, time_scale=1000.0)
    f.average(torch.zeros(2, 1), 0.25, torch.tensor([0.5, 0.75]), label=3)
    r, t, label = seen[0]
    assert r.dtype is t.dtype is torch.float32
    assert (r.tolist(), t.tolist(), label) == ([250.0, 250.0], [500.0, 750.0], 3)
    whole = f.sample((4, 3), 2, seed=1, cond={"label": 3})
    torch.testing.assert_close(
        f.sample((2, 3), 2, seed=1, ids=[2, 3], cond={"label": 3}), whole[2:]
    )


def test_errors():
    f, x = exact(LINEAR), torch.zeros(2, 2)
    one = torch.tensor([0.5, 0.5])
    vp = problem.model(ode.paths.VP())
    cases = [
        (lambda: FlowMap(3, LINEAR), "net is 3: give a function"),
        (lambda: FlowMap(average, ode.paths.VP()), "infinite at the data end"),
        (lambda: MeanFlow(f, equal=1.5), "of at least 0 and at most 1"),
        (lambda: MeanFlow(f, teacher=vp), "one path"),
        (lambda: MeanFlow(f)(x, t=one), "both times, or neither"),
        (lambda: MeanFlow(f)(x, r=one, t=one + 1), "the path goes from"),
        (lambda: Shortcut(f, 12), "power of 2"),
        (lambda: Shortcut(f, share=-0.1), "of at least 0 and at most 1"),
        (lambda: Shortcut(f, target=exact(LINEAR.flipped())), "one path"),
        (lambda: Shortcut(f)(x, r=one), "both times, or neither"),
        (lambda: f.sample(x, grid=[2.0, 0.0]), "leaves the path"),
    ]
    for call, message in cases:
        with pytest.raises(ode.OdesolveError, match=message):
            call()
