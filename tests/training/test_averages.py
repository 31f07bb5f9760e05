"""Around averages: modes, rates by a grid that grows, widths after the training, statistics of
batch norms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.objectives.consistency import doubling, progressive
from odesolve.training import EMA, Growing, Power, Snapshot, fit, recalibrated, reconstructed
from tests.rows import rows


class Net(nn.Module):
    """Dropout and a batch norm that is frozen, within a net that is trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
        )

    def forward(self, x, t):
        return self.layers(torch.cat([x, t.to(x.dtype)[:, None]], 1))


def modes(net):
    return [m.training for m in net.modules()]


@rows("how", ["train", "eval", "mixed"])
def test_applied_is_in_evaluation_mode_and_back(how):
    """Averages answer alike through the copy and through the source, whatever mode each of its
    modules is in."""
    torch.manual_seed(0)
    net = Net()
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.layers[0].weight.add_(1.0)
    ema.update()
    net.eval() if how == "eval" else net.train()
    if how == "mixed":
        net.layers[1].eval()
    before, x, t = modes(net), torch.randn(6, 2), torch.rand(6)
    with ema.applied() as inside:
        assert not any(modes(inside))
        assert torch.equal(inside(x, t), ema.module(x, t))
        inside.train()
    assert modes(net) == before
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        raise RuntimeError("inside")
    assert modes(net) == before


@rows("decay", [0.9, 0.95])
def test_the_rate_of_a_grid_that_grows(decay):
    """mu(k) = exp(s_0 log mu_0 / N(k)), with N of the step before the update: mu_0 where N is s_0,
    nearer to 1 later."""
    points = lambda k: progressive(k, 1000)
    profile = Growing(points, decay)
    assert profile(1) == pytest.approx(decay, abs=1e-15)
    for k in (1, 10, 500, 1000):
        assert profile(k) == pytest.approx(decay ** (2 / points(k - 1)), rel=1e-14)
    assert profile(1001) == pytest.approx(decay ** (2 / 151), rel=1e-14)
    assert profile(1001) > profile(500) > profile(1)
    by_first = Growing(lambda k: doubling(k, 100), decay, first=10)
    assert by_first(1) == pytest.approx(decay ** (10 / 11), rel=1e-14)
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    ema, average = EMA(net, profile), float(net.weight.detach())
    for k in range(1, 30):
        with torch.no_grad():
            net.weight.fill_(float(k))
        ema.update()
        keep = math.exp(2 * math.log(decay) / points(k - 1))
        average = keep * average + (1 - keep) * k
    assert float(ema.module.weight) == pytest.approx(average, rel=1e-13)


@rows(
    "make",
    [
        lambda: Growing(3),
        lambda: Growing(lambda k: 3, 0.0),
        lambda: Growing(lambda k: 3, 1.5),
        lambda: Growing(lambda: 3),
    ],
)
def test_growing_at_the_door(make):
    with pytest.raises(ode.OdesolveError):
        make()


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))


VALUES = np.random.default_rng(3).normal(size=400).cumsum() / 20


def followed(profiles, every):
    net = Counter()
    averages, held = [EMA(net, p) for p in profiles], []
    for k, v in enumerate(VALUES, 1):
        with torch.no_grad():
            net.theta.fill_(v)
            net.mean.fill_(v)
            net.seen.fill_(k)
        for ema in averages:
            ema.update()
        if k % every == 0:
            held += [Snapshot.of(ema) for ema in averages]
    return held


def exact(gamma, end):
    """The average of the piecewise constant weights under (gamma + 1) u^gamma."""
    edges = (np.arange(end + 1.0) / end) ** (gamma + 1)
    return float(np.diff(edges) @ VALUES[:end])


def test_a_width_that_was_kept_comes_back():
    held = followed([Power.of_width(0.05), Power.of_width(0.1)], 50)
    for width in (0.05, 0.1):
        found = reconstructed(held, Power.of_width(width))
        assert found.error < 1e-6
        assert float(found.tensors["theta"][0]) == pytest.approx(
            exact(Power.of_width(width).gamma, 400), abs=1e-9
        )


@rows("width", [0.06, 0.08, 0.15, 0.2])
@rows("end", [400, 300])
def test_widths_that_were_not(width, end):
    """The error of the profile bounds that of the average: Cauchy-Schwarz over the weights along
    the training."""
    held = followed([Power.of_width(0.05), Power.of_width(0.1)], 20)
    profile = Power.of_width(width)
    found = reconstructed(held, profile, end)
    own = (profile.gamma + 1) ** 2 / (2 * profile.gamma + 1)
    spread = np.sqrt(np.mean(VALUES[:end] ** 2)) if end == 400 else np.sqrt(np.sum(VALUES**2) / end)
    gap = abs(float(found.tensors["theta"][0]) - exact(profile.gamma, end))
    assert gap <= found.error * math.sqrt(own) * spread * (1 + 1e-9) + 1e-12
    assert found.error < 0.03
    assert gap < 3e-3 * VALUES.std()
    assert torch.equal(found.tensors["seen"], torch.tensor(end))
    assert float(found.tensors["mean"][0]) == VALUES[end - 1]


def test_two_snapshots_by_hand():
    """Of the densities 1 and 2 u, least squares makes 3 u - 1/2 for 3 u^2, and their difference has
    the square 1/20."""
    held = followed([Power(0.0), Power(1.0)], 400)
    found = reconstructed(held, Power(2.0))
    np.testing.assert_allclose(found.shares, (-0.5, 1.5), rtol=1e-9)
    np.testing.assert_allclose(found.error, math.sqrt(1 / 20) / math.sqrt(9 / 5), rtol=1e-9)
    mixed = -0.5 * exact(0.0, 400) + 1.5 * exact(1.0, 400)
    assert float(found.tensors["theta"][0]) == pytest.approx(mixed, abs=1e-12)
    net = Counter()
    found.copy_to(net)
    assert torch.equal(net.theta, found.tensors["theta"])


def test_snapshots_at_the_door():
    held = followed([Power(1.0)], 200)
    other = nn.Linear(1, 1)
    strange = EMA(other, Power(1.0))
    strange.update()
    for make, told in (
        (lambda: Snapshot.of(EMA(other, 0.9)), "training.Power"),
        (lambda: Snapshot.of(EMA(other, Power(1.0))), "0 updates"),
        (lambda: reconstructed([], 0.1), "snapshots is"),
        (lambda: reconstructed(held, 0.1, 401), "updates=401"),
        (lambda: reconstructed(held, 0.1, 0), "updates=0"),
        (lambda: reconstructed([*held, Snapshot.of(strange)], 0.1), "other modules"),
        (lambda: reconstructed(held, 0.5), "0.2887"),
        (lambda: reconstructed(held, 0.1).copy_to(other), "differs"),
    ):
        with pytest.raises(ode.OdesolveError, match=told):
            make()


def test_batch_norms_are_taken_anew():
    """The mean of all batches' means and variances under the averaged weights, for that norm alone;
    all else as it was."""
    torch.manual_seed(0)
    net = Net().double()
    ema = EMA(net, 0.9)
    data = torch.randn(60, 2, dtype=torch.float64)
    fit(Matching(ode.Model(net, ode.paths.Linear(), "velocity")), data, 20, optimiser=torch.optim.SGD(net.parameters(), 0.1),
        ema=ema, batch=20, generator=torch.Generator().manual_seed(0))  # fmt: skip
    module, times = ema.module, torch.rand(60, dtype=torch.float64)
    before = modes(module)
    with recalibrated(module) as inside:
        assert [m.training for m in inside.layers] == [False, True, False, False]
        for k in range(0, 60, 20):
            out = inside(data[k : k + 20], times[k : k + 20])
            assert not out.requires_grad
    assert modes(module) == before
    hidden = module.layers[0](torch.cat([data, times[:, None]], 1)).view(3, 20, 8)
    torch.testing.assert_close(
        module.layers[1].running_mean, hidden.mean((0, 1)), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        module.layers[1].running_var, hidden.var(1).mean(0), rtol=1e-12, atol=1e-12
    )
    assert module.layers[1].momentum == 0.1
    ema.update()
    assert torch.equal(module.layers[1].running_mean, net.layers[1].running_mean)


def test_batch_norms_stay_where_nothing_was_called():
    net = Net()
    net.layers[1].running_mean.fill_(3.0)
    with pytest.raises(ode.OdesolveError, match="Net was not called"), recalibrated(net):
        pass
    with pytest.raises(KeyError), recalibrated(net):
        raise KeyError
    assert float(net.layers[1].running_mean[0]) == 3.0
    with (
        pytest.raises(ode.OdesolveError, match="Linear has no batch norm"),
        recalibrated(nn.Linear(1, 1)),
    ):
        pass
