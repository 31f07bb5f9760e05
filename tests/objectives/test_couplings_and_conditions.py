"""Couplings of data with conditions: noise that does not depend on them, and what a flow that is
trained so arrives at."""

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.objectives import (
    BridgeMatching,
    Independent,
    Interpolant,
    Matching,
    OptimalTransport,
    ScoreAndFlow,
    Sinkhorn,
    TwoSided,
    bridges,
)
from odesolve.objectives.conditions import coupled
from tests.rows import rows

LINEAR = ode.paths.Linear()
COUPLINGS = {
    "ot": OptimalTransport(),
    "sinkhorn": Sinkhorn(0.05),
    "own": lambda x, noise, generator=None: noise.flip(0),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def objectives(net, coupling):
    """Every objective with a coupling; the source that it saw, read off the state at the source's
    end."""
    model = ode.Model(net, LINEAR, "velocity")
    score = ode.Model(lambda x, t, **cond: x, LINEAR, "score")
    return {
        "Matching": Matching(model, coupling=coupling),
        "TwoSided": TwoSided(model, 0.0, coupling=coupling),
        "Interpolant": Interpolant(model, bridges.sine_squared(1.0), coupling=coupling),
        "BridgeMatching": BridgeMatching(model, 1.0, coupling=coupling),
        "ScoreAndFlow": ScoreAndFlow(model, score, 1.0, coupling=coupling),
    }


def sources(name, coupling, x, noise, cond, bound=False):
    """What noise (B, ...) an objective has go with each of its data."""
    seen = []

    def net(s, t, **cond):
        seen.append(s.detach())
        return torch.zeros_like(s)

    objective = objectives(net, coupling)[name]
    if bound:
        objective.model.cond.update(cond)
        cond = {}
    ends = torch.full(
        (len(x),),
        1.0 - 1e-15 if name in ("BridgeMatching", "ScoreAndFlow") else 1.0,
        dtype=torch.float64,
    )
    given = (x, noise) if name != "Matching" else (x,)
    extra = {"noise": noise} if name == "Matching" else {"noise": torch.zeros_like(x)}
    objective(*given, **extra, t=ends, cond=cond, generator=generator(1))
    return seen[0]


LABELS = {
    "integers": lambda y: {"y": y},
    "booleans": lambda y: {"y": y == 1},
    "bytes in two columns": lambda y: {"y": torch.stack([y, 1 - y], 1).to(torch.uint8)},
    "numpy": lambda y: {"y": y.numpy()},
    "a list of words": lambda y: {"y": ["ab"[k] for k in y.tolist()]},
    "an array of words": lambda y: {"y": np.array(["ab"[k] for k in y.tolist()])},
    "nested": lambda y: {"y": {"deep": y}},
    "two conditions": lambda y: {
        "y": torch.zeros_like(y),
        "z": y,
        "scale": torch.tensor([0.3]),
        "flag": 2.0,
    },
}


@rows("kind", LABELS)
@rows("name", objectives(lambda s, t: s, None))
def test_transport_stays_within_labels(name, kind):
    """Each label has the very noise that was drawn with it, in the best order."""
    x, noise, y = normal(24, 1), normal(24, 1, seed=1), torch.arange(24) % 2
    found = sources(name, OptimalTransport(), x + 3.0 * y[:, None], noise, LABELS[kind](y))
    for label in (0, 1):
        own = y == label
        ranks = x[own, 0].argsort()
        torch.testing.assert_close(found[own][ranks], noise[own].sort(0).values, rtol=0, atol=1e-6)


@rows("name", objectives(lambda s, t: s, None))
def test_conditions_that_the_model_holds_are_seen_too(name):
    x, noise, y = normal(24, 1), normal(24, 1, seed=1), torch.arange(24) % 2
    bound = sources(name, OptimalTransport(), x + 3.0 * y[:, None], noise, {"y": y}, bound=True)
    torch.testing.assert_close(
        bound, sources(name, OptimalTransport(), x + 3.0 * y[:, None], noise, {"y": y})
    )


@rows("coupling", COUPLINGS)
def test_noise_of_a_label_is_noise(coupling):
    """Over batches the mean noise of a label is that of all, 0 within four standard errors, where
    data are 6 apart."""
    means = []
    for seed in range(60):
        y = torch.arange(32) % 2
        x = normal(32, 2, seed=seed) * 0.3 + 6.0 * y[:, None] - 3.0
        noise = coupled(
            COUPLINGS[coupling], x, normal(32, 2, seed=1000 + seed), {"y": y}, generator(seed)
        )
        means.append(float(noise[y == 1].mean()))
    means = torch.tensor(means)
    assert abs(float(means.mean())) < 4 * float(means.std()) / math.sqrt(60)


@rows("coupling", [OptimalTransport(cond_weight=2.5), Sinkhorn(1e-3, cond_weight=2.5)])
def test_real_conditions_are_in_the_cost(coupling):
    """The best order of |x - n|^2 + w |c - c'|^2, c' the condition that noise was drawn with:
    scipy's."""
    from scipy.optimize import linear_sum_assignment

    x, noise, c = normal(12, 2), normal(12, 2, seed=1), normal(12, 3, seed=2)
    cost = (x[:, None] - noise).square().sum(2) + 2.5 * (c[:, None] - c).square().sum(2)
    _, order = linear_sum_assignment(cost.numpy())
    found = coupled(coupling, x, noise, {"c": c}, generator())
    same = (found == noise[torch.from_numpy(order)]).all(1)
    assert (
        bool(same.all())
        if isinstance(coupling, OptimalTransport)
        else float(same.double().mean()) > 0.7
    )


def test_real_conditions_within_labels():
    x, noise, c, y = normal(20, 2), normal(20, 2, seed=1), normal(20, seed=2), torch.arange(20) % 2
    found = coupled(OptimalTransport(cond_weight=1.0), x, noise, {"c": c, "y": y}, None)
    for label in (0, 1):
        own = y == label
        alone = coupled(OptimalTransport(cond_weight=1.0), x[own], noise[own], {"c": c[own]}, None)
        assert torch.equal(found[own], alone)


def test_a_large_weight_leaves_noise_where_it_was_drawn():
    x, noise, c = normal(20, 2), normal(20, 2, seed=1), normal(20, seed=2)
    assert torch.equal(coupled(OptimalTransport(cond_weight=1e9), x, noise, {"c": c}, None), noise)
    free = coupled(OptimalTransport(cond_weight=0.0), x, noise, {"c": c}, None)
    assert torch.equal(free, OptimalTransport()(x, noise))


@rows("coupling", ["ot", "sinkhorn", "own"])
@rows("name", objectives(lambda s, t: s, None))
def test_real_conditions_without_a_weight_are_refused(name, coupling):
    x, noise = normal(8, 2), normal(8, 2, seed=1)
    with pytest.raises(
        ode.OdesolveError,
        match=r"the condition 'text'.*give "
        r"OptimalTransport\(cond_weight=",
    ):
        sources(name, COUPLINGS[coupling], x, noise, {"text": normal(8, 3)})


def test_what_is_no_condition_of_samples():
    """One number for all, a row of another length, or none: the coupling goes over the whole
    batch."""
    x, noise = normal(8, 2), normal(8, 2, seed=1)
    best = OptimalTransport()(x, noise)
    for cond in (
        None,
        {},
        {"scale": torch.tensor(0.5)},
        {"scale": torch.rand(1, 4)},
        {"name": "a"},
        {"k": 3},
    ):
        assert torch.equal(coupled(OptimalTransport(), x, noise, cond, None), best)


def test_independent_noise_needs_no_care():
    x, noise = normal(8, 2), normal(8, 2, seed=1)
    found = coupled(Independent(), x, noise, {"text": normal(8, 3)}, generator(3))
    assert torch.equal(found, Independent()(x, noise, generator(3)))


def test_a_coupling_of_the_users_own_may_take_the_conditions():
    seen = {}

    def mine(x, noise, generator=None, cond=None):
        seen.update(cond)
        return noise.flip(0)

    x, noise, c = normal(8, 2), normal(8, 2, seed=1), normal(8, 3)
    assert torch.equal(coupled(mine, x, noise, {"c": c}, None), noise.flip(0))
    assert seen["c"] is c


def test_larger_sources_go_to_every_label():
    """Of 40 to 10 the source has no labels of its own: all of it is there for each."""
    x, y = normal(10, 2), torch.arange(10) % 2
    found = coupled(Sinkhorn(0.5), x, normal(40, 2, seed=1), {"y": y}, generator())
    assert found.shape == (10, 2)
    with pytest.raises(ode.OdesolveError, match="40 samples for 10"):
        coupled(Sinkhorn(0.5, cond_weight=1.0), x, normal(40, 2), {"c": normal(10)}, None)


@rows("cond", [{"c": normal(8).to(torch.complex128)}, {"c": [{} for _ in range(8)]}])
def test_conditions_that_are_neither_are_refused(cond):
    with pytest.raises(ode.OdesolveError, match="coupling: the condition 'c'"):
        coupled(OptimalTransport(), normal(8, 2), normal(8, 2, seed=1), cond, None)


class Lines(torch.nn.Module):
    """Velocities by label of local constants in x and t, whose least squares are exact: a table
    over cells."""

    cells, times = 60, 20

    def __init__(self):
        super().__init__()
        self.register_buffer("v", torch.zeros(2, self.times, self.cells, dtype=torch.float64))

    def place(self, x, t):
        k = ((x[:, 0] + 4.5) / 9 * self.cells).long().clamp(0, self.cells - 1)
        return (t * self.times).long().clamp(0, self.times - 1), k

    def forward(self, x, t, y):
        j, k = self.place(x, t)
        return self.v[y, j, k][:, None]


def flow(coupling):
    """The flow of two labels, N(-2, .3^2) and N(2, .3^2), fitted to the pairs of a coupling;
    distance and bend of each label."""
    net, g = Lines(), generator(5)
    sums, counts = torch.zeros_like(net.v), torch.zeros_like(net.v)
    for _ in range(1500):
        y = torch.randint(2, (128,), generator=g)
        x = (4.0 * y - 2.0)[:, None] + 0.3 * torch.randn(128, 1, dtype=torch.float64, generator=g)
        noise = torch.randn(128, 1, dtype=torch.float64, generator=g)
        noise = noise if coupling is None else coupled(coupling, x, noise, {"y": y}, g)
        t = torch.rand(128, dtype=torch.float64, generator=g)
        at = (y, *net.place((1 - t)[:, None] * x + t[:, None] * noise, t))
        sums.index_put_(at, (noise - x)[:, 0], accumulate=True)
        counts.index_put_(at, torch.ones(128, dtype=torch.float64), accumulate=True)
    net.v = sums / counts.clamp_min(1)
    found = []
    for label in (0, 1):
        model = ode.Model(net, LINEAR, "velocity").given(y=torch.full((2000,), label))
        z = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[:, None]
        end = ode.sample(model, state=z, solver="euler", steps=100, grid="uniform")
        exact = 4.0 * label - 2.0 + 0.3 * z
        bend = ode.objectives.straightness(model, z, "euler", 20).value
        found.append((float((end.sort(0).values - exact).abs().mean()), bend))
    return torch.tensor(found)


@pytest.mark.long
def test_two_labels_arrive_at_their_own_data_on_straighter_ways():
    """Wasserstein distance of each label at most 1.3 times that of independent noise, and less
    bent; across labels it is ten times as far."""
    plain, within = flow(None), flow(OptimalTransport())
    across = flow(lambda x, noise, generator=None, cond=None: OptimalTransport()(x, noise))
    assert bool((within[:, 0] < 1.3 * plain[:, 0]).all())
    assert bool((within[:, 1] < plain[:, 1]).all())
    assert bool((across[:, 0] > 5 * plain[:, 0]).all())
