"""Consistency models of Gaussian data: minimisers, derivatives and samples are known to the last
digit."""

import math

import pytest
import torch
from odesolve.kernels.dispatch import normal

import odesolve as ode
from odesolve.noise.keys import keys_of
from odesolve.noise.stream_numbers import STEPS
from odesolve.objectives.consistency import (
    Consistency,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    doubling,
    inverse_gap,
    log_normal,
    progressive,
    pseudo_huber,
    squared,
)
from odesolve.objectives.distillation import runge_kutta
from tests.rows import rows

PATH, STD = ode.paths.EDM(), 0.5
EXACT = 0.0062499279  # the slope of the flow from 80 to .002 for N(0, .25)
problem = ode.problems.gaussian(mean=0.0, std=STD, shape=(1,))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def quadrature():
    """Data and noise (9, 1) with weights (9,): exact for polynomials of degree 5 in each."""
    nodes = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    x, z = torch.meshgrid(nodes, nodes, indexing="ij")
    return STD * x.reshape(-1, 1), z.reshape(-1, 1), torch.outer(weights, weights).reshape(-1)


def coefficients(t, start=PATH.sigma_min, s=0.5):
    """c_in, c_skip, c_out."""
    away, root = t - start, torch.sqrt(t**2 + s**2)
    return 1 / root, s**2 / (away**2 + s**2), s * away / root


def of_slope(slope):
    """The consistency model with f(x, t) = slope(t) x."""

    def net(x, c_noise):
        t = torch.exp(4 * c_noise)
        scale, skip, out = coefficients(t)
        at_start = (t - PATH.sigma_min).abs() < 1e-12
        k = torch.where(at_start, 0.0, (slope(t) - skip) / torch.where(at_start, 1.0, out) / scale)
        return k[:, None] * x

    return Consistency(ode.Model(net, PATH, "edm"))


def exact_slope(t):
    return torch.sqrt((STD**2 + PATH.sigma_min**2) / (STD**2 + t**2))


class Table(torch.nn.Module):
    """F = a_i x with one number for each time of a grid."""

    def __init__(self, times):
        super().__init__()
        self.times = times
        self.a = torch.nn.Parameter(torch.zeros(len(times), dtype=torch.float64))

    def forward(self, x, c_noise):
        place = (torch.exp(4 * c_noise)[:, None] - self.times).abs().argmin(1)
        return self.a[place][:, None] * x


def minimised(objective, net, weights, x, z):
    """Slopes of f after an exact fit of each step in turn, from the data up: the loss is quadratic
    in each number."""
    times = objective.times()
    for i in range(len(times) - 1):
        index = torch.full((len(x),), i)

        def gradient(a, i=i, index=index):
            with torch.no_grad():
                net.a[i + 1] = a
            loss = (weights * objective(x, noise=z, index=index).each).sum()
            return float(torch.autograd.grad(loss, net.a)[0][i + 1])

        low, high = gradient(0.0), gradient(1.0)
        with torch.no_grad():
            net.a[i + 1] = low / (low - high)
    one = torch.ones(len(times), 1, dtype=torch.float64)
    return Consistency(objective.consistency.model)(one, times)[:, 0].detach()


def test_the_boundary_is_exact_and_the_parametrisation_is_the_papers():
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator())
    seen = []
    net = lambda x, t: seen.append((x, t)) or torch.sin(x)
    f = Consistency(ode.Model(net, PATH, "edm", sigma_data=0.7), start=0.01)
    assert torch.equal(f(x, 0.01), x)
    t = torch.tensor([0.02, 0.5, 3.0, 80.0], dtype=torch.float64)
    scale, skip, out = (c[:, None] for c in coefficients(t, 0.01, 0.7))
    torch.testing.assert_close(
        f(x, t), skip * x + out * torch.sin(scale * x), rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(seen[-1][1], 0.25 * t.log())


def test_any_prediction_gives_one_consistency_model():
    x, t = (
        torch.randn(5, 1, dtype=torch.float64, generator=generator()),
        torch.logspace(-2, 1.9, 5).double(),
    )
    first, *others = (
        Consistency(problem.model(PATH, p))(x, t) for p in ("edm", "data", "noise", "score", "v")
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-12)


def test_training_has_the_minimiser_of_eulers_method():
    """Row 36: 17 Euler steps of the exact flow, however the target is known only through
    samples."""
    times = ConsistencyTraining(Consistency(problem.model(PATH))).times()
    net = Table(times)
    objective = ConsistencyTraining(Consistency(ode.Model(net, PATH, "edm")))
    x, z, weights = quadrature()
    slope = float(minimised(objective, net, weights, x, z)[-1])
    steps = 1 + (times[:-1] - times[1:]) * times[1:] / (STD**2 + times[1:] ** 2)
    assert abs(slope / float(steps.prod()) - 1) < 1e-11
    assert abs(slope - 0.0052879776) < 5e-11
    assert abs(float(exact_slope(times[-1])) - EXACT) < 5e-11


@rows("solver", ["euler", "heun", "rk4"])
def test_distillation_has_the_minimiser_of_its_solver(solver):
    """Row 35: the map of N - 1 steps of the solver from every time of the grid; there the loss is
    0."""
    teacher = problem.model(PATH, "noise")
    times = ConsistencyTraining(Consistency(teacher)).times()
    net = Table(times)
    objective = ConsistencyDistillation(
        Consistency(ode.Model(net, PATH, "edm")), teacher, solver=solver
    )
    x, z, weights = quadrature()
    slopes = minimised(objective, net, weights, x, z)
    state = torch.ones(1, 1, dtype=torch.float64)
    for k in (2, 9, 18):
        grid = times[:k].flip(0)
        theirs = ode.sample(teacher, state=state, solver=solver, grid=grid)
        assert abs(float(slopes[k - 1] / theirs) - 1) < 1e-11
    for i in range(17):
        each = objective(x, noise=z, index=torch.full((9,), i)).each
        assert float(each.detach().max()) < 1e-20
    if solver == "euler":
        assert abs(float(slopes[-1]) - 0.0052879776) < 5e-11


def test_steps_of_samples_with_their_own_times():
    model = ode.problems.gaussian(mean=0.3, std=0.6, shape=(2,)).model(PATH)
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    t, r = torch.tensor([80.0, 1.0, 0.1]).double(), torch.tensor([60.0, 0.2, 0.09]).double()
    found = runge_kutta(model, x, t, r, "rk4")
    for k in range(3):
        alone = ode.sample(model, state=x[k : k + 1], solver="rk4", grid=[float(t[k]), float(r[k])])
        torch.testing.assert_close(found[k : k + 1], alone, rtol=1e-13, atol=1e-13)


@rows("teacher", [None, problem.model(PATH)])
@rows("t", [0.0021, 0.1, 2.0, 80.0])
def test_the_derivative_of_the_exact_map_vanishes_in_the_mean(teacher, t):
    """Row 37: E[df/dt | x_t] = 0, so nothing that x_t decides is correlated with it; along the flow
    it is 0 itself."""
    x, z, weights = quadrature()
    objective = ContinuousConsistency(of_slope(exact_slope), teacher=teacher)
    found = objective(x, noise=z, t=torch.full((9,), t, dtype=torch.float64))
    x_t = x + t * z
    for test in (torch.ones_like(x_t), x_t):
        assert abs(float((weights[:, None] * found.derivative * test).sum())) < 1e-12
    if teacher is None:
        assert float(found.derivative.abs().max()) > 1e-6
    else:
        assert float(found.derivative.abs().max()) < 1e-12


def test_the_continuous_gradient_is_the_limit_of_the_discrete_one():
    """Half of d/da of the squared distance over the step, in the limit: Richardson on two small
    steps."""
    x = torch.randn(6, 1, dtype=torch.float64, generator=generator(1))
    z = torch.randn(6, 1, dtype=torch.float64, generator=generator(2))
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    f = Consistency(ode.Model(lambda x, c: torch.sin(a * x + c[:, None]), PATH, "edm"))
    t = torch.full((6,), 1.5, dtype=torch.float64)
    exact = torch.autograd.grad(ContinuousConsistency(f)(x, noise=z, t=t).loss, a)[0]

    def discrete(h):
        objective = ConsistencyTraining(f, 2)
        objective.times = lambda points=None: torch.tensor([1.5 - h, 1.5], dtype=torch.float64)
        objective.weight = inverse_gap
        loss = objective(x, noise=z, index=torch.zeros(6, dtype=torch.int64)).loss
        return torch.autograd.grad(loss, a)[0] / 2

    found = 2 * discrete(1e-4) - discrete(2e-4)
    assert abs(float(found / exact) - 1) < 1e-6
    doubled = ContinuousConsistency(f, weight=lambda t: 2 * t)(x, noise=z, t=t).loss
    torch.testing.assert_close(torch.autograd.grad(doubled, a)[0], 3 * exact)


def test_samples_of_any_number_of_steps_have_the_exact_variance():
    """Row 38: the sample is linear in the start and the noise of the steps; their coefficients,
    squared, add up."""
    f, seed = of_slope(exact_slope), 5
    for times in ([80.0], [80.0, 5.0], [80.0, 20.0, 2.0, 0.3]):
        n = 2 * len(times)
        unit = torch.randn(n, 1, dtype=torch.float64, generator=generator(3))
        found = f.sample(state=math.sqrt(STD**2 + times[0] ** 2) * unit, times=times, seed=seed)
        columns = [unit]
        for i in range(len(times) - 1):
            z = torch.empty_like(unit)
            normal(z, keys_of(n, seed, None, z.device), STEPS + i)
            columns.append(z)
        solved = torch.linalg.lstsq(torch.cat(columns, 1), found)
        assert float((torch.cat(columns, 1) @ solved.solution - found).abs().max()) < 1e-13
        assert abs(float(solved.solution.square().sum()) / (STD**2 + PATH.sigma_min**2) - 1) < 1e-12


def test_sampling_takes_noise_shapes_seeds_and_conditions():
    f = Consistency(ode.Model(lambda x, t, shift=0.0: x + shift, PATH, "edm"))
    noise = torch.randn(4, 2, generator=generator())
    torch.testing.assert_close(f.sample(noise), f(80 * noise, 80.0))
    torch.testing.assert_close(f.sample(noise, cond={"shift": 1.0}), f(80 * noise, 80.0, shift=1.0))
    whole = f.sample((4, 2), [80.0, 1.0], seed=3)
    torch.testing.assert_close(f.sample((2, 2), [80.0, 1.0], seed=3, ids=[2, 3]), whole[2:])
    a, b = (f.sample((4, 2), [80.0, 1.0], seed=1) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, f.sample((4, 2), [80.0, 1.0], seed=2))
    for times in ([], [1.0, 2.0], [90.0], [1.0, 0.002]):
        with pytest.raises(ode.OdesolveError, match=r"give falling times|t=90 is not in \[0, 80\]"):
            f.sample(noise, times)


def test_the_target_is_what_is_given_and_gets_no_gradient():
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    make = lambda p: Consistency(ode.Model(lambda x, t: p * x, PATH, "edm"))
    x = torch.randn(5, 2, dtype=torch.float64, generator=generator())
    z, index = torch.randn(5, 2, dtype=torch.float64, generator=generator(1)), torch.arange(5) + 2
    objective = ConsistencyTraining(make(a), target=make(b))
    found = objective(x, noise=z, index=index)
    times = objective.times()
    r, t = times[index], times[index + 1]
    exact = squared(make(a)(x + t[:, None] * z, t), make(b)(x + r[:, None] * z, r))
    torch.testing.assert_close(found.each, exact)
    assert torch.equal(found.t, t)
    assert torch.autograd.grad(found.loss, b, allow_unused=True)[0] is None
    held = ConsistencyTraining(make(a), target=make(a.detach()))(x, noise=z, index=index).loss
    own = ConsistencyTraining(make(a))(x, noise=z, index=index).loss
    torch.testing.assert_close(torch.autograd.grad(own, a), torch.autograd.grad(held, a))


def test_distances_weights_and_chances():
    a, b = (torch.randn(3, 2, 4, dtype=torch.float64, generator=generator(k)) for k in (1, 2))
    square = (a - b).square().flatten(1).sum(1)
    torch.testing.assert_close(squared(a, b), square / 8)
    torch.testing.assert_close(pseudo_huber(0.3)(a, b), torch.sqrt(square + 0.09) - 0.3)
    c = 0.00054 * math.sqrt(8)
    torch.testing.assert_close(pseudo_huber()(a, b), torch.sqrt(square + c**2) - c)
    model = of_slope(lambda t: 1 / (1 + t))
    x, z, index = a[:, 0], b[:, 0], torch.tensor([0, 3, 16])
    plain = ConsistencyTraining(model)(x, noise=z, index=index)
    weighed = ConsistencyTraining(model, weight=inverse_gap, distance=pseudo_huber(0.1))(
        x, noise=z, index=index
    )
    times = ConsistencyTraining(model).times()
    gap = times[index + 1] - times[index]
    torch.testing.assert_close(weighed.each, (torch.sqrt(4 * plain.each + 0.01) - 0.1) / gap)
    n = 20_000
    law = log_normal(-1.1, 2.0)
    drawn = ConsistencyTraining(model, chances=law)(torch.zeros(n, 1), generator=generator()).t
    share = law(times) / law(times).sum()
    for k in range(17):
        seen = float((drawn == times[k + 1]).double().mean())
        assert (
            abs(seen - float(share[k])) < 4 * math.sqrt(float(share[k] * (1 - share[k])) / n) + 1e-9
        )
    edges = 0.5 * (1 + torch.erf((times.log() + 1.1) / (2 * math.sqrt(2))))
    torch.testing.assert_close(law(times), edges.diff())


@rows("c", [0.0, 1e-60, 0.1, None])
@rows("dtype", [torch.float32, torch.float64])
def test_no_difference_has_no_gradient(c, dtype):
    """Where student and target are one, the distance and its gradient are 0, whatever the offset;
    of none it is the norm."""
    a = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    found = pseudo_huber(c)(a, a.detach())
    found.sum().backward()
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(a.grad, torch.zeros_like(a))
    apart = torch.tensor([[3.0, 0.0, 4.0]], dtype=dtype)
    torch.testing.assert_close(
        pseudo_huber(0.0)(apart, torch.zeros_like(apart)), torch.full((1,), 5.0, dtype=dtype)
    )


def test_schedules():
    assert [progressive(k, 1000) for k in (0, 1000)] == [2, 151]
    assert progressive(250, 1000) == math.ceil(math.sqrt(0.25 * (151**2 - 4) + 4) - 1) + 1 == 76
    assert [doubling(k, 800) for k in (0, 99, 100, 399, 400, 799, 10_000)] == [
        11,
        11,
        21,
        81,
        161,
        1281,
        1281,
    ]


def test_times_are_edms():
    found = ConsistencyTraining(of_slope(exact_slope)).times()
    i = torch.arange(18, dtype=torch.float64) / 17
    exact = (PATH.sigma_min ** (1 / 7) + i * (80 ** (1 / 7) - PATH.sigma_min ** (1 / 7))) ** 7
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)
    assert found[0] == PATH.sigma_min
    assert found[-1] == 80
    assert len(ConsistencyTraining(of_slope(exact_slope)).times(5)) == 5


def test_errors():
    plain = problem.model(PATH)
    f = Consistency(plain)
    x = torch.zeros(2, 1)
    cases = [
        (lambda: Consistency(problem.model(ode.paths.VP())), "EDM"),
        (lambda: Consistency(plain.guided(2.0, uncond={})), "plain"),
        (lambda: Consistency(plain, start=90.0), "below 80"),
        (lambda: ConsistencyTraining(f, 1), "at least 2"),
        (lambda: ConsistencyDistillation(f, problem.model(ode.paths.VP())), "one path"),
        (lambda: ContinuousConsistency(f, teacher=problem.model(ode.paths.VP())), "one path"),
        (lambda: ConsistencyDistillation(f, plain, solver="heunn"), "unknown solver"),
        (lambda: ConsistencyTraining(f)(x, index=torch.tensor([0, 17])), "0 to 16"),
        (lambda: ConsistencyTraining(f)(x, index=torch.tensor([0])), "0 to 16"),
        (lambda: ContinuousConsistency(f)(x, t=torch.tensor([0.001, 1.0])), "from 0.002 up"),
        (lambda: ContinuousConsistency(f)(x, noise=torch.zeros(3, 1)), "noise has shape"),
    ]
    for call, message in cases:
        with pytest.raises(ode.OdesolveError, match=message):
            call()


def test_float32_data_keep_their_dtype():
    x = torch.randn(8, 1, generator=generator())
    net = torch.nn.Linear(1, 1)
    f = Consistency(ode.Model(lambda x, t: net(x), PATH, "edm"))
    for objective in (
        ConsistencyTraining(f),
        ConsistencyDistillation(f, problem.model(PATH)),
        ContinuousConsistency(f),
    ):
        found = objective(x, generator=generator(1))
        assert found.loss.dtype is torch.float32
        gradients = torch.autograd.grad(found.loss, list(net.parameters()))
        assert all(bool(g.isfinite().all()) and bool(g.abs().sum() > 0) for g in gradients)
        again = objective(x, generator=generator(1))
        assert torch.equal(found.each, again.each)
