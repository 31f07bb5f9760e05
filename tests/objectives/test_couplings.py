"""Couplings: scipy's optimum, the closed form of entropic transport, draws of a generator, and what
they do to training."""

import itertools
import math
import sys

import pytest
import torch
from scipy.optimize import linear_sum_assignment

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.objectives.couplings import (
    Independent,
    OptimalTransport,
    Sinkhorn,
    sinkhorn_plan,
    squared_distance,
)
from tests.products import LONG
from tests.rows import rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


MODEL = ode.Model(lambda x, t: x, ode.paths.Linear(), "velocity")


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def cost(x, y):
    return float((x - y).square().sum())


def test_squared_distances():
    x, y = 1e6 + normal(5, 2, 3), 1e6 + normal(4, 2, 3, seed=1)
    exact = (x[:, None] - y[None]).square().sum((2, 3))
    torch.testing.assert_close(squared_distance(x, y), exact, rtol=1e-9, atol=1e-9)
    assert squared_distance(x.float(), y.float()).dtype == torch.float64


def test_optimal_transport_is_the_best_of_all_orders():
    x, y = normal(6, 2), normal(6, 2, seed=1)
    best = min(cost(x, y[list(order)]) for order in itertools.permutations(range(6)))
    assert cost(x, OptimalTransport()(x, y)) == pytest.approx(best, rel=1e-14)


@rows("shape", [(1,), (2,), (3, 4, 4)])
def test_optimal_transport_is_scipys(shape):
    x, y = normal(64, *shape), 0.5 * normal(64, *shape, seed=1) + 1
    _, order = linear_sum_assignment((x[:, None] - y[None]).square().flatten(2).sum(2).numpy())
    assert torch.equal(OptimalTransport()(x, y), y[torch.from_numpy(order)])


@rows("dtype", [torch.float64, torch.float32])
@rows("batch", [1, 2, 3, 40, 300])
def test_optimal_transport_costs_as_little_as_scipys(batch, dtype):
    """Of data that repeats itself, lies in clusters, far away or at other magnitudes; costs are
    summed from the differences."""
    y, far = normal(batch, 5, seed=1).to(dtype), normal(batch, 5).to(dtype)
    centres = far[torch.arange(batch) % 4 % batch]
    data = {
        "repeated": centres,
        "clusters": centres + 1e-3 * far,
        "shifted": far + 1e3,
        "equal": far[:1].expand(batch, 5),
    }
    data |= {"the noise itself": y.flip(0), "huge": 1e15 * far, "tiny": 1e-15 * far}
    for name, x in data.items():
        costs = (x.double()[:, None] - y.double()).square().sum(2)
        rows, columns = linear_sum_assignment(costs.numpy())
        best, found = (
            float(costs[rows, columns].sum()),
            cost(x.double(), OptimalTransport()(x, y).double()),
        )
        assert abs(found - best) <= 1e-9 * best + 1e-12, name


def test_optimal_transport_of_different_sizes_is_the_exact_plan():
    """As many copies of each sample as make the sizes equal give an assignment problem, which scipy
    solves."""
    x, y = normal(12, 2), normal(8, 2, seed=1)
    copies = OptimalTransport()(x.repeat_interleave(2, 0), y.repeat_interleave(3, 0)).view(12, 2, 2)
    found = torch.stack([OptimalTransport()(x, y, generator(k)) for k in range(400)])
    for k in range(12):
        a, b = copies[k]
        first, second = (found[:, k] == a).all(1), (found[:, k] == b).all(1)
        assert bool((first | second).all())
        if not torch.equal(a, b):
            assert abs(float(first.double().mean()) - 0.5) < 4 * 0.5 / 20
    assert torch.equal(found[3], OptimalTransport()(x, y, generator(3)))


def test_different_sizes_without_pot(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'odesolve\[ot\]', or give 3"):
        OptimalTransport()(normal(3, 2), normal(2, 2))


def test_optimal_transport_of_numbers_sorts():
    x, y = normal(100, 1), normal(100, 1, seed=1).exp()
    found = OptimalTransport()(x, y)
    ranks = x[:, 0].argsort()
    assert torch.equal(found[ranks], y.sort(0).values)
    tied = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert cost(tied, OptimalTransport()(tied, tied.flip(0))) == 0


def test_optimal_transport_costs_the_distance_of_gaussians():
    """Of N(m, s^2) and N(0, 1), m^2 + (1 - s)^2; means over batches of 2000 within four standard
    errors."""
    costs = []
    for seed in range(50):
        x, y = 0.7 + 0.4 * normal(2000, 1, seed=seed), normal(2000, 1, seed=1000 + seed)
        costs.append(cost(x, OptimalTransport()(x, y)) / 2000)
    found = torch.tensor(costs)
    # Empirical quantiles alone cost E|F_n^-1 - F^-1|^2, about log(log(n)) / n for each: some 2e-3
    # here, above the standard error.
    assert (
        abs(float(found.mean()) - (0.7**2 + 0.6**2)) < 4 * float(found.std()) / math.sqrt(50) + 3e-3
    )


def test_data_and_conditions_keep_their_places():
    """What comes back is the noise, reordered: rows of x are never touched, so labels stay
    right."""
    x, y = normal(32, 2), normal(32, 2, seed=1)
    kept = x.clone()
    for coupling in (Independent(), OptimalTransport()):
        found = coupling(x, y, generator())
        assert torch.equal(x, kept)
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, y.tolist()))
        assert not torch.equal(found, y)
    found = Sinkhorn(0.5)(x, y, generator())
    assert found.shape == x.shape
    assert {tuple(r) for r in found.tolist()} <= {tuple(r) for r in y.tolist()}


@rows("coupling", [Independent(), Sinkhorn(0.5)])
def test_draws_are_of_their_generator(coupling):
    x, y = normal(50, 2), normal(50, 2, seed=1)
    assert torch.equal(coupling(x, y, generator(3)), coupling(x, y, generator(3)))
    assert not torch.equal(coupling(x, y, generator(3)), coupling(x, y, generator(4)))


def test_independent_orders_are_uniform():
    """Of three, all six orders come as often: counts of 3000 within four standard deviations."""
    x = torch.arange(3.0).view(3, 1)
    g = generator(5)
    seen = [tuple(Independent()(x, x, g)[:, 0].tolist()) for _ in range(3000)]
    counts = [seen.count(order) for order in itertools.permutations((0.0, 1.0, 2.0))]
    assert max(abs(c - 500) for c in counts) < 4 * math.sqrt(3000 * 5 / 36)


def test_the_plan_has_its_weights_and_its_form():
    """diag(u) exp(-C / reg) diag(v), rows exact, columns within the tolerance: that and only that
    is the optimum."""
    c = normal(7, 5).square()
    a, b = normal(7, seed=1).exp(), normal(5, seed=2).exp()
    plan = sinkhorn_plan(c, 0.3, a, b, tolerance=1e-12)
    torch.testing.assert_close(plan.exp().sum(1), a / a.sum(), rtol=1e-13, atol=0)
    assert float((plan.exp().sum(0) - b / b.sum()).abs().sum()) < 1e-12
    rest = plan + c / 0.3
    torch.testing.assert_close(
        rest - rest[:1], (rest - rest[:1])[:, :1].expand(7, 5), rtol=0, atol=1e-11
    )


def test_the_plan_approaches_the_assignment():
    x, y = normal(10, 2), normal(10, 2, seed=1)
    least, c = cost(x, OptimalTransport()(x, y)) / 10, squared_distance(x, y)
    gaps = [
        float((sinkhorn_plan(c, r, iterations=10_000, tolerance=1e-8).exp() * c).sum()) - least
        for r in (1, 0.1)
    ]
    assert 0 < gaps[1] < gaps[0] < math.log(10)  # reg times the entropy of an assignment bounds it
    assert gaps[1] < 0.1 * math.log(10)
    near = x.flip(0) + 1e-3 * y
    assert torch.equal(Sinkhorn(1e-3)(x, near, generator()), near.flip(0))
    assert torch.equal(OptimalTransport()(x, near), near.flip(0))


def test_the_unbalanced_plan_has_its_form():
    """Rows exact; columns b' with g = -relax log(b' / b), which is where the derivative of cost,
    entropy and divergence is 0."""
    c = normal(7, 5).square()
    b = normal(5, seed=2).exp()
    plan = sinkhorn_plan(c, 0.3, None, b, tolerance=1e-13, relax=0.7)
    torch.testing.assert_close(
        plan.exp().sum(1), torch.full((7,), 1 / 7, dtype=torch.float64), rtol=1e-13, atol=0
    )
    rest = 0.3 * plan + c  # f + g
    g = rest[0] - rest[0, 0]
    drawn = plan.exp().sum(0)
    exact = -0.7 * torch.log(drawn / (b / b.sum()))
    torch.testing.assert_close(g, exact - exact[0], rtol=1e-9, atol=1e-10)
    assert float((drawn - b / b.sum()).abs().sum()) > 0.1


def test_the_unbalanced_plan_at_its_limits():
    c = normal(7, 5).square()
    stiff = sinkhorn_plan(c, 0.3, tolerance=1e-12, relax=1e9)
    torch.testing.assert_close(stiff, sinkhorn_plan(c, 0.3, tolerance=1e-12), rtol=1e-6, atol=1e-6)
    free = sinkhorn_plan(c, 0.3, tolerance=1e-8, relax=1e-6)
    torch.testing.assert_close(free.exp(), torch.softmax(-c / 0.3, 1) / 7, rtol=1e-4, atol=1e-7)


def test_a_far_source_is_left_out():
    """A tenth of the source lies far from all data: drawn as often as the rest when balanced,
    hardly ever when not."""
    x, y = normal(100, 2), normal(100, 2, seed=1)
    y[:10] += 50.0
    share = [
        float((Sinkhorn(1.0, relax=r)(x, y, generator())[:, 0] > 25).double().mean())
        for r in (None, 1.0)
    ]
    assert share[0] == pytest.approx(0.1, abs=0.05)
    assert share[1] == 0.0


SIGMA, DEVIATIONS, COVARIANCE = 0.8, (1.0, 0.5), 0.2736328832


def test_the_plan_of_gaussians_on_a_grid():
    """Cov = (sqrt(4 s0^2 s1^2 + sigma^4) - sigma^2) / 2 at reg = 2 sigma^2, to 1e-9 by the rule of
    equal weights."""
    z = torch.linspace(-7, 7, 161, dtype=torch.float64)
    x, y = (s * z[:, None] for s in DEVIATIONS)
    w = torch.exp(-0.5 * z**2)
    plan = sinkhorn_plan(
        squared_distance(x - 0.5, y + 1), 2 * SIGMA**2, w, w, tolerance=1e-13
    ).exp()
    assert float((plan * x * y.T).sum()) == pytest.approx(COVARIANCE, abs=1e-9)


@pytest.mark.long
def test_the_covariance_of_gaussian_samples():
    """Of the plans and of drawn pairs, over many batches within four standard errors."""
    plans, pairs = [], []
    n, batches = (400, 60) if LONG else (200, 120)  # as many samples in all, in half the time
    for seed in range(batches):
        x, y = -0.5 + normal(n, 1, seed=seed), 1 + 0.5 * normal(n, 1, seed=500 + seed)
        plan = sinkhorn_plan(squared_distance(x, y), 2 * SIGMA**2).exp()
        a, b = x - x.mean(), y - y.mean()
        plans.append(float((plan * a * b.T).sum()) * n / (n - 1))
        drawn = Sinkhorn(2 * SIGMA**2, tolerance=1e-6)(x, y, generator(seed))
        pairs.append(float((a * (drawn - drawn.mean())).sum()) / (n - 1))
    for found in (torch.tensor(plans), torch.tensor(pairs)):
        assert abs(float(found.mean()) - COVARIANCE) < 4 * float(found.std()) / math.sqrt(batches)
        assert float(found.std()) / math.sqrt(batches) < 0.004


def test_batches_of_different_size():
    x, y = normal(10, 2), normal(30, 2, seed=1)
    assert Sinkhorn(0.5)(x, y, generator()).shape == (10, 2)


class Fields(torch.nn.Module):
    """Linear in x with coefficients that are cubic in t, of parameters (128, 12, 2): one network
    for each sample of a batch."""

    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.zeros(1, 12, 2, dtype=torch.float64))

    def forward(self, x, t):
        state = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        powers = torch.stack([t**k for k in range(4)], 1)
        return torch.einsum(
            "bkd,bk->bd",
            self.p.expand(len(x), 12, 2),
            (powers[:, :, None] * state[:, None]).flatten(1),
        )


def trained(coupling):
    """The model at its loss's minimum, which Newton's step reaches, that minimum, and gradients
    (60, 128, 12, 2) there."""
    net = Fields()
    objective = Matching(ode.Model(net, ode.paths.Linear(), "velocity"), coupling=coupling)
    root = torch.tensor([[0.5, 0.3], [0.0, 0.3]], dtype=torch.float64)
    batches = [torch.tensor([1.5, -1.0]) + normal(128, 2, seed=seed) @ root for seed in range(60)]

    def found(p):
        net.p = torch.nn.Parameter(p.expand(128, 12, 2).clone())
        terms = [objective(x, generator=generator(1000 + k)).each for k, x in enumerate(batches)]
        gradients = torch.stack([torch.autograd.grad(each.sum(), net.p)[0] for each in terms])
        return float(torch.stack(terms).detach().mean()), gradients

    at_zero = found(torch.zeros(12, 2, dtype=torch.float64))[1].mean((0, 1))
    # both outputs have the same features
    units = torch.eye(12, dtype=torch.float64)[:, :, None].expand(12, 12, 2)
    hessian = torch.stack([(found(unit)[1].mean((0, 1)) - at_zero)[:, 0] for unit in units])
    best = -torch.linalg.solve(hessian, at_zero)
    loss, gradients = found(best)
    assert float(gradients.mean((0, 1)).abs().max()) < 1e-10
    net.p = torch.nn.Parameter(best[None])
    return objective.model, loss, gradients


def curvature(model, noise, steps=100):
    """E int |Z_1 - Z_0 - dZ/dt|^2 dt of the flow, 0 where its paths are straight."""
    with torch.no_grad():
        states = [
            noise,
            *(step.x for step in ode.iterate(model, state=noise, solver="euler", steps=steps)),
        ]
    moves = torch.stack(states).diff(dim=0) * steps
    return float((moves - moves.mean(0)).square().sum(2).mean())


@pytest.mark.long
def test_optimal_transport_straightens_paths_and_calms_gradients():
    """Pooladian et al. 2023, Tong et al. 2024: curvature from .343 to .0012, loss from .657 to
    .039, squares from 5.31 to .45.

    The loss that is left is what targets vary by at a state and time, and with it the gradient of a
    sample. The gradient of a batch varies as before (.0436 and .0415): the mean of the targets of a
    batch, noise minus data, is the same in any order."""
    noise = normal(2000, 2, seed=9)
    (plain, loss, loud), (straight, least, calm) = (trained(c) for c in (None, OptimalTransport()))
    assert curvature(straight, noise) < 0.01 * curvature(plain, noise)
    assert least < 0.1 * loss
    assert float(calm.square().sum((2, 3)).mean()) < 0.2 * float(loud.square().sum((2, 3)).mean())


@rows(
    ("call", "told"),
    [
        (lambda: Independent()(normal(3, 2), normal(4, 2)), "as many samples"),
        (lambda: OptimalTransport()(normal(3, 2), normal(3, 3)), "samples of the same shape"),
        (lambda: Sinkhorn(0.5)(normal(3, 2), normal(3, 3)), "samples of the same shape"),
        (lambda: OptimalTransport()(normal(3, 2) / 0, normal(3, 2)), "give finite values"),
        (lambda: OptimalTransport()(normal(3, 1) / 0, normal(3, 1)), "give finite values"),
        (lambda: Sinkhorn(0.5)(normal(3, 2) * math.nan, normal(3, 2)), "give finite values"),
        (lambda: Sinkhorn(0.0), "give a number above 0"),
        (lambda: Sinkhorn(1.0, relax=0.0), "above 0"),
        (
            lambda: Matching(MODEL, coupling=Sinkhorn(1.0, relax=1.0)),
            "all of which sampling starts from: leave relax= out",
        ),
        (lambda: Sinkhorn(1.0, iterations=0), "at least 1"),
        (lambda: sinkhorn_plan(normal(3), 1.0), "floats of shape"),
        (lambda: sinkhorn_plan(normal(3, 2), 1.0, a=normal(2)), "a side of 3"),
        (lambda: sinkhorn_plan(normal(3, 2), 1.0, b=-torch.ones(2)), "above 0 each"),
        (
            lambda: sinkhorn_plan(normal(30, 30).square(), 1e-3, iterations=5),
            "miss their weights by .* after 5",
        ),
    ],
)
def test_bad_input(call, told):
    with pytest.raises(ode.OdesolveError, match=told):
        call()


def test_a_plan_without_a_look():
    """Without a tolerance all the iterations are made and what they reached is returned."""
    c = normal(30, 30).square()
    plan = sinkhorn_plan(c, 1e-3, iterations=5, tolerance=None).exp()
    torch.testing.assert_close(
        plan.sum(1), torch.full((30,), 1 / 30, dtype=torch.float64), rtol=1e-12, atol=0
    )
