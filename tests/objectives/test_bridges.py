"""Bridges: on Gaussians, by exact quadrature, minimisers are the closed forms, and what they drive
keeps the marginals."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import times
from odesolve.objectives.bridges import (
    BridgeMatching,
    Interpolant,
    ScoreAndFlow,
    TwoSided,
    brownian,
    constant,
    sde,
    sine_squared,
)
from odesolve.objectives.couplings import OptimalTransport, Sinkhorn
from odesolve.objectives.schroedinger import GaussianBridge
from tests.products import LONG, diagonal
from tests.rows import rows

LINEAR, TRIG = ode.paths.Linear(), ode.paths.Trig()
MEANS, DEVIATIONS, SIGMA, COUPLED = (-0.5, 1.0), (1.0, 0.5), 0.8, 0.3
GAMMAS = {"constant": constant(0.3), "brownian": brownian(SIGMA), "sine_squared": sine_squared(0.7)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def scalar(value):
    return torch.tensor([[value]], dtype=torch.float64)


def exact(coupling=COUPLED, sigma=SIGMA):
    ends = [
        (torch.tensor([m], dtype=torch.float64), scalar(s**2))
        for m, s in zip(MEANS, DEVIATIONS, strict=True)
    ]
    return GaussianBridge(*ends[0], *ends[1], sigma, None if coupling is None else scalar(coupling))


def quadrature(coupling=COUPLED):
    """(x, y, z, w): 27 nodes at which means of quadratics under the coupled Gaussians are exact."""
    node = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
    weight = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    a, b, z = torch.cartesian_prod(node, node, node).unbind(1)
    w = torch.cartesian_prod(weight, weight, weight).prod(1)
    slope = coupling / DEVIATIONS[0]
    x = MEANS[0] + DEVIATIONS[0] * a
    y = MEANS[1] + slope * a + math.sqrt(DEVIATIONS[1] ** 2 - slope**2) * b
    return x[:, None], y[:, None], z[:, None], w


class Affine(torch.nn.Module):
    """a x + b."""

    def __init__(self):
        super().__init__()
        self.ab = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, t):
        return self.ab[0] * x + self.ab[1]


def minimiser(objective, net, t, part="each"):
    """(a, b) of the least loss at a time, by Newton's step on the quadrature."""
    x, y, z, w = quadrature()

    def gradient(ab):
        with torch.no_grad():
            net.ab.copy_(torch.tensor(ab))
        found = objective(x, y, noise=z, t=torch.full((27,), t, dtype=torch.float64))
        return torch.autograd.grad((w * getattr(found, part)).sum(), net.ab)[0]

    at_zero = gradient([0.0, 0.0])
    hessian = torch.stack([gradient([1.0, 0.0]) - at_zero, gradient([0.0, 1.0]) - at_zero])
    return (-torch.linalg.solve(hessian, at_zero)).tolist()


def affine(f):
    """(a, b) of an affine function of (2, 1)."""
    zero, one = f(torch.tensor([[0.0], [1.0]], dtype=torch.float64))[:, 0].tolist()
    return [one - zero, zero]


def close(found, expected, tolerance=1e-11):
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


def moments(path, gamma, t):
    """Mean, variance and their slopes by t of x_t, in closed form."""
    p, u = path.point(t), (t - path.t_data) / (path.t_noise - path.t_data)
    g, rate = gamma.value(torch.tensor(u, dtype=torch.float64)), 1 / (path.t_noise - path.t_data)
    dg = gamma.slope(torch.tensor(u, dtype=torch.float64)) * rate
    (m0, m1), (v0, v1) = MEANS, (s**2 for s in DEVIATIONS)
    var = p.alpha**2 * v0 + p.sigma**2 * v1 + 2 * p.alpha * p.sigma * COUPLED + g**2
    half = p.alpha * p.dalpha * v0 + p.sigma * p.dsigma * v1 + g * dg
    half = half + (p.dalpha * p.sigma + p.alpha * p.dsigma) * COUPLED
    return (
        p.alpha * m0 + p.sigma * m1,
        float(var),
        p.dalpha * m0 + p.dsigma * m1,
        float(2 * half),
        float(g),
    )


@rows("flip", [False, True])
@rows("path", [LINEAR, TRIG])
@rows("gamma", GAMMAS)
def test_interpolants(path, gamma, flip):
    """2 b V = dV/dt of the velocity's slope b; the denoiser's is gamma / V, the score's -1 / V."""
    path, gamma, t = path.flipped() if flip else path, GAMMAS[gamma], 0.3
    net, other = Affine(), Affine()
    mean, var, dmean, dvar, g = moments(path, gamma, t)
    slope = dvar / (2 * var)
    for antithetic in (False, True):
        for predicts, k in (("noise", g / var), ("score", -1 / var)):
            velocity, denoiser = ode.Model(net, path, "velocity"), ode.Model(other, path, predicts)
            objective = Interpolant(velocity, gamma, denoiser, antithetic=antithetic)
            close(minimiser(objective, net, t), [slope, dmean - slope * mean])
            close(minimiser(objective, other, t), [k, -k * mean])


def test_velocities_of_both_directions_are_each_others_opposite():
    """A path and its flip at 1 - t: the same state, the opposite target."""
    x, y, z = normal(9, 2), normal(9, 2, seed=1), normal(9, 2, seed=2)
    t = torch.rand(9, dtype=torch.float64, generator=generator())
    seen = []
    net = lambda x, t: seen.append(x) or torch.zeros_like(x)
    for make in (
        lambda m: Interpolant(m, sine_squared(1.0)),
        lambda m: BridgeMatching(m, 0.5),
        lambda m: BridgeMatching(m, 0.5, towards="source"),
    ):
        there = make(ode.Model(net, LINEAR, "velocity"))(x, y, noise=z, t=t)
        back = make(ode.Model(net, LINEAR.flipped(), "velocity"))(x, y, noise=z, t=1 - t)
        torch.testing.assert_close(seen[-1], seen[-2], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(there.each, back.each, rtol=1e-11, atol=1e-11)
    # from the source at 0 to the data at 1
    away = ode.Model(lambda s, t: x - y, LINEAR.flipped(), "velocity")
    assert float(TwoSided(away, 0.1)(x, y, noise=z, t=t).loss) < 1e-28


def test_two_sided_bandwidth():
    """x_t = (1 - t) x + t y + sigma z with the target y - x: at the ends the data and the source,
    blurred."""
    x, y, z = normal(6, 2), normal(6, 2, seed=1), normal(6, 2, seed=2)
    t = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    states = []
    model = ode.Model(lambda s, t: states.append(s) or y - x, LINEAR, "velocity")
    assert float(TwoSided(model, 0.3)(x, y, noise=z, t=t).loss) == 0
    torch.testing.assert_close(states[0], (1 - t)[:, None] * x + t[:, None] * y + 0.3 * z)
    torch.testing.assert_close(
        states[0][[0, -1]], torch.stack([x[0] + 0.3 * z[0], y[-1] + 0.3 * z[-1]])
    )


@rows("towards", ["data", "source"])
@rows("flip", [False, True])
def test_bridge_matching_targets(towards, flip):
    """The drift is (x_t - x) / t towards the data and (y - x_t) / (1 - t) towards the source, and
    its own end is its mean."""
    path = LINEAR.flipped() if flip else LINEAR
    x, y = normal(9, 2), normal(9, 2, seed=1)
    end = x if towards == "data" else y

    def drift(s, t):
        share = (1 - t if flip else t)[:, None]
        by_share = (s - x) / share if towards == "data" else (y - s) / (1 - share)
        return -by_share if flip else by_share

    own = "data" if towards == "data" else "noise"
    for net, predicts in ((drift, "velocity"), (lambda s, t: end, own)):
        objective = BridgeMatching(ode.Model(net, path, predicts), SIGMA, towards)
        assert float(objective(x, y, generator=generator()).each.max()) < 1e-20


@rows("towards", ["data", "source"])
def test_bridge_matching_fits_the_closed_form(towards):
    """The drift of the mixture of bridges is u -+ sigma^2 / 2 score of the mixture (row 52)."""
    net = Affine()
    objective = BridgeMatching(ode.Model(net, LINEAR, "velocity"), SIGMA, towards)
    for t in (0.01, 0.4, 0.99):
        close(minimiser(objective, net, t), affine(lambda x: exact().drift(x, t, towards)), 1e-9)  # noqa: B023


def test_score_and_flow():
    """Velocity and score of the mixture; the weights of the paper make the score's target -z (row
    53)."""
    net, other = Affine(), Affine()
    score, t = ode.Model(other, LINEAR, "score"), 0.2
    objective = ScoreAndFlow(ode.Model(net, LINEAR, "velocity"), score, SIGMA)
    close(minimiser(objective, net, t, "flow"), affine(lambda x: exact().velocity(x, t)))
    close(minimiser(objective, other, t, "score"), affine(lambda x: exact().score(x, t)))
    x, y, z, _ = quadrature()
    half = 0.5 * SIGMA**2
    with torch.no_grad():
        found = objective(x, y, noise=z, t=torch.full((27,), t, dtype=torch.float64))
        state = (1 - t) * x + t * y + SIGMA * math.sqrt(t * (1 - t)) * z
        theirs = 2 * math.sqrt(t * (1 - t)) / SIGMA * (half * other(state, None)) + z
        flow = (1 - 2 * t) / (2 * t * (1 - t)) * (state - (1 - t) * x - t * y) + y - x
    torch.testing.assert_close(found.score, theirs.square()[:, 0])
    torch.testing.assert_close(found.flow, (net(state, None).detach() - flow).square()[:, 0])
    torch.testing.assert_close(found.each, found.flow + found.score)
    assert found.loss == found.each.mean()


def test_antithetic_pairs_keep_gradients_bounded():
    """At a time near the end the gradient of one z varies like gamma', that of z and -z like gamma
    gamma'."""
    x, y = normal(4000, 1), normal(4000, 1, seed=1)
    t = torch.full((4000,), 1e-6, dtype=torch.float64)
    spread = []
    for antithetic in (False, True):
        a = torch.ones(
            4000, 1, dtype=torch.float64, requires_grad=True
        )  # one network a sample: its gradient is its own
        model = ode.Model(lambda s, t: a * s, LINEAR, "velocity")  # noqa: B023
        found = Interpolant(model, brownian(1.0), antithetic=antithetic)(
            x, y, t=t, generator=generator(2)
        )
        spread.append(float(torch.autograd.grad(found.each.sum(), a)[0].std()))
    assert spread[0] > 500
    assert spread[1] < 10


def rk4(f, t0, t1, n=200 if LONG else 100):
    """Slope and square of the map of dx = (a x + b) dt + g dW: the moments solve da = a, dv = 2 a v
    + g^2."""

    def rate(t, state):
        (a, b), g = f(t)
        return torch.stack([a * state[0] + b, 2 * a * state[1] + math.copysign(g**2, t1 - t0)])

    state, h = torch.tensor([f.mean, f.var], dtype=torch.float64), (t1 - t0) / n
    for k in range(n):
        t = t0 + k * h
        k1 = rate(t, state)
        k2 = rate(t + h / 2, state + h / 2 * k1)
        k3 = rate(t + h / 2, state + h / 2 * k2)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(t + h, state + h * k3))
    return state.tolist()


class Coefficients:
    """(a, b), g at times of an affine (f, g), from the moments of one end."""

    def __init__(self, f, g, end):
        self.f, self.g = f, g
        self.mean, self.var = MEANS[end], DEVIATIONS[end] ** 2
        self.known = {}

    def __call__(self, t):
        if t not in self.known:  # the stages of a step share their times
            self.known[t] = self.at(t)
        return self.known[t]

    def at(self, t):
        time = torch.full((2, 1), t, dtype=torch.float64)
        g = self.g(time)[0].item() if callable(self.g) else self.g
        return affine(lambda x: self.f(time, x)), g


def models(path, bridge, *kinds):
    """Exact models of a Gaussian bridge on the linear path or its flip: velocity, score, noise (z),
    drifts."""
    flip = path.t_noise == 0
    share = lambda t: 1 - t if flip else t
    signed = lambda v: -v if flip else v
    gamma = lambda t: SIGMA * torch.sqrt(t * (1 - t))[:, None]
    nets = {
        "velocity": lambda x, t: signed(bridge.velocity(x, share(t))),
        "score": lambda x, t: bridge.score(x, share(t)),
        "noise": lambda x, t: -gamma(t) * bridge.score(x, share(t)),
        "data": lambda x, t: signed(bridge.drift(x, share(t), "data")),
        "source": lambda x, t: signed(bridge.drift(x, share(t), "source")),
    }
    names = {"data": "velocity", "source": "velocity"}
    return [ode.Model(nets[k], path, names.get(k, k)) for k in kinds]


@rows(("path", "towards"), diagonal([LINEAR, LINEAR.flipped()], ["data", "source"]))
def test_equations_keep_the_marginals(path, towards):
    """From one end to the other, by drift, velocity and score with any diffusion, and by the
    denoiser: exact moments."""
    velocity, score, noise, drift = models(path, exact(), "velocity", "score", "noise", towards)
    start, stop = (path.t_noise, path.t_data) if towards == "data" else (path.t_data, path.t_noise)
    first, last = (1, 0) if towards == "data" else (0, 1)
    target = [MEANS[last], DEVIATIONS[last] ** 2]
    cases = [
        sde(drift, SIGMA, towards=towards),
        sde(velocity, 0.0, score, towards=towards),
        sde(velocity, 1.5, score, towards=towards),
        sde(velocity, lambda t: 0.5 + t, score, towards=towards),
    ]
    for f, g in cases:
        close(rk4(Coefficients(f, g, first), start, stop), target, 1e-8)
    f, g = sde(velocity, 0.7, noise, brownian(SIGMA), towards)
    h, _ = sde(velocity, 0.7, score, towards=towards)
    time, x = torch.full((5, 1), 0.3, dtype=torch.float64), normal(5, 1)
    torch.testing.assert_close(f(time, x), h(time, x))
    assert g == 0.7


def test_solve_sde_takes_samples_to_the_data():
    """Moments after Euler-Maruyama's steps are those of its own recursion, within four standard
    errors."""
    (drift,) = models(LINEAR, exact(), "data")
    f, g = sde(drift, SIGMA)
    n, steps = 20_000, 50
    y = MEANS[1] + DEVIATIONS[1] * normal(n, 1)
    found = ode.solve_sde(f, g, y, t=(1.0, 0.0), noise="additive", steps=steps, seed=1).last
    mean, var, at = float(y.mean()), float(y.var()), Coefficients(f, g, 1)
    for k in range(steps):
        (a, b), _ = at(1 - k / steps)
        mean, var = mean - (a * mean + b) / steps, (1 - a / steps) ** 2 * var + SIGMA**2 / steps
    assert abs(float(found.mean()) - mean) < 4 * math.sqrt(var / n)
    assert abs(float(found.var()) - var) < 4 * var * math.sqrt(2 / n)
    assert abs(var - DEVIATIONS[0] ** 2) < 0.03  # first order: .0289 at 50 steps, .0003 at 5000


@rows(("solver", "limit", "fall"), [("rk4", 2e-8, 15), ("heun", 1e-4, 3.9), ("dpmpp_2m", 1e-3, 3)])
def test_sample_goes_from_any_source_to_the_data(solver, limit, fall):
    """Row 55: the velocity's map carries the moments of the source to those of the data, to the
    order of every ODE solver."""
    for path in (LINEAR, LINEAR.flipped()):
        (velocity,) = models(path, exact(), "velocity")
        errors = []
        for steps in (50, 100):
            slope, _ = affine(
                lambda x, velocity=velocity, steps=steps: ode.sample(
                    velocity, state=x, solver=solver, steps=steps, grid="uniform"
                )
            )
            mean = ode.sample(
                velocity, state=scalar(MEANS[1]), solver=solver, steps=steps, grid="uniform"
            )
            errors.append(abs(slope * DEVIATIONS[1] - DEVIATIONS[0]) + abs(float(mean) - MEANS[0]))
        assert errors[0] < limit
        assert errors[1] < errors[0] / fall


def test_couplings_and_conditions():
    """The coupling orders the source; conditions stay with the data; batches of the source may be
    larger for Sinkhorn."""
    seen = []

    def net(s, t, label):
        seen.append((s, label))
        return torch.zeros_like(s)

    x, label = normal(16, 2), torch.arange(16) // 8
    y = x.view(2, 8, 2).flip(1).view(16, 2) + 1e-3
    objective = TwoSided(ode.Model(net, LINEAR, "velocity"), 0.0, coupling=OptimalTransport())
    objective(x, y, cond={"label": label}, t=torch.full((16,), 0.5))
    torch.testing.assert_close(seen[0][0], x + 5e-4)
    assert torch.equal(seen[0][1], label)
    larger = BridgeMatching(
        ode.Model(lambda s, t: s, LINEAR, "velocity"), SIGMA, coupling=Sinkhorn(2 * SIGMA**2)
    )
    assert larger(x, normal(40, 2), generator=generator()).each.shape == (16,)


def test_draws_times_and_weights():
    model = ode.Model(lambda s, t: s, LINEAR, "velocity")
    x, y = normal(500, 2), normal(500, 2, seed=1)
    objective = BridgeMatching(model, SIGMA)
    one, same, other = (objective(x, y, generator=generator(k)) for k in (1, 1, 2))
    assert torch.equal(one.each, same.each)
    assert not torch.equal(one.each, other.each)
    assert one.score is None
    assert objective.times == times.Uniform(1e-3, 1 - 1e-3)
    assert TwoSided(model, 0.1).times == times.Uniform()
    weighed = BridgeMatching(model, SIGMA, weight=lambda path, t: t * (1 - t))(
        x, y, generator=generator(1)
    )
    torch.testing.assert_close(weighed.each, one.each * one.t * (1 - one.t))
    small = BridgeMatching(model, SIGMA)(x.float(), y.float(), generator=generator(1))
    assert small.loss.dtype == torch.float32


def model(predicts="velocity", path=LINEAR):
    return ode.Model(lambda x, t: x, path, predicts)


@rows(
    ("call", "told"),
    [
        (lambda: Interpolant(model("noise"), constant(1.0)), "predicts velocity or data"),
        (lambda: Interpolant(model(path=ode.paths.VP()), constant(1.0)), "from samples to samples"),
        (
            lambda: Interpolant(model(path=ode.paths.Linear(0.1)), constant(1.0)),
            "from samples to samples",
        ),
        (lambda: Interpolant(model(), constant(1.0), model("data")), "predicts noise or score"),
        (lambda: Interpolant(model(), constant(1.0), model("score", TRIG)), "give one path"),
        (lambda: Interpolant(model().guided(2.0, {}, {}), constant(1.0)), "train the plain one"),
        (lambda: BridgeMatching(model(path=TRIG), 1.0), "Brownian bridges lie on"),
        (lambda: BridgeMatching(model(), 0.0), "give a diffusion above 0"),
        (lambda: BridgeMatching(model(), 1.0, "dta"), "did you mean 'data'"),
        (lambda: BridgeMatching(model("noise"), 1.0), "predicts velocity or data"),
        (lambda: BridgeMatching(model(), 1.0, denoiser=model("score")), "needs no denoiser"),
        (lambda: BridgeMatching(model(), 1.0)(normal(3, 2), normal(4, 2)), "give one of each"),
        (
            lambda: BridgeMatching(model(), 1.0)(normal(3, 2), normal(3, 2), noise=normal(3, 1)),
            "give one of each",
        ),
        (
            lambda: BridgeMatching(model(), 1.0)(normal(3, 2), normal(3, 2), t=torch.zeros(3)),
            "times between them",
        ),
        (
            lambda: BridgeMatching(model(), 1.0)(
                normal(3, 2), normal(3, 2), t=torch.full((3,), 2.0)
            ),
            "the path goes",
        ),
        (lambda: sde(model(), 1.0, model("noise")), "noise and gamma="),
        (lambda: sde(model(), 1.0, model("data")), "noise and gamma="),
        (lambda: sde(model(), 1.0, towards="noise"), "unknown towards"),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call()
