"""Averages of weights against their closed forms."""

import copy

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.training import EMA, Exponential, Power
from tests.rows import rows


class Counter(torch.nn.Module):
    """One weight and one buffer, both float64, and a whole number."""

    def __init__(self, value=0.0):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.full((3,), value, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
        self.count = torch.nn.Parameter(torch.tensor(0), requires_grad=False)

    def be(self, value):
        with torch.no_grad():
            self.theta.fill_(value)
            self.mean.fill_(10 * value)
            self.seen.fill_(int(value))
            self.count.fill_(int(value))


def followed(profile, values):
    net = Counter()
    ema = EMA(net, profile)
    for v in values:
        net.be(v)
        ema.update()
    return net, ema


@rows("decay", [0.5, 0.9, 0.999])
@rows("count", [1, 7, 200])
def test_the_lag_of_a_ramp(decay, count):
    """Row 64: of theta_k = k, from the weights 0 at the beginning, the average lags by mu / (1 -
    mu) (1 - mu^K)."""
    _, ema = followed(decay, range(1, count + 1))
    lag = count - ema.module.theta
    expected = decay / (1 - decay) * (1 - decay**count)
    torch.testing.assert_close(lag, torch.full_like(lag, expected), rtol=1e-12, atol=1e-12)
    assert ema.updates == count


@rows("decay", [0.0, 0.5, 0.9999])
def test_the_correction_leaves_the_beginning_out(decay):
    values = np.random.default_rng(0).normal(size=30)
    _, ema = followed(Exponential(decay, corrected=True), values)
    shares = decay ** np.arange(29.0, -1.0, -1.0)
    assert abs(float(ema.module.theta[0]) - shares @ values / shares.sum()) < 1e-12
    with torch.no_grad():
        again = EMA(Counter(5.0), Exponential(decay, corrected=True))
        again.source.be(2.0)
        again.update()
    assert float(again.module.theta[0]) == 2.0


@rows("gamma", [0.0, 1.0, 6.94, 16.97])
def test_the_power_function_average(gamma):
    """The average is that of the piecewise constant weights under (gamma + 1) u^gamma exactly."""
    values = np.random.default_rng(1).normal(size=50)
    _, ema = followed(Power(gamma), values)
    edges = (np.arange(51.0) / 50) ** (gamma + 1)
    assert abs(float(ema.module.theta[0]) - np.diff(edges) @ values) < 1e-12


def test_widths_of_the_power_function():
    """Karras et al. 2024 give 6.94 and 16.97 for 0.1 and 0.05; the width is the deviation of the
    density (gamma + 1) u^gamma."""
    assert abs(Power.of_width(0.1).gamma - 6.94) < 5e-3
    assert abs(Power.of_width(0.05).gamma - 16.97) < 5e-3
    for sigma in (0.01, 0.05, 0.1, 0.25, 12**-0.5):
        power = Power.of_width(sigma)
        assert abs(power.sigma_rel - sigma) < 1e-9
        u = (np.arange(200_000) + 0.5) / 200_000
        density = (power.gamma + 1) * u**power.gamma
        mean = (density * u).mean()
        assert abs(mean - (power.gamma + 1) / (power.gamma + 2)) < 1e-7
        assert abs(np.sqrt((density * (u - mean) ** 2).mean()) - sigma) < 1e-7


def test_buffers_and_whole_numbers_are_copied():
    _, ema = followed(0.9, [1.0, 4.0])
    assert torch.equal(ema.module.mean, torch.full((2,), 40.0, dtype=torch.float64))
    assert int(ema.module.seen) == 4
    assert int(ema.module.count) == 4
    assert not ema.module.training
    assert not ema.module.theta.requires_grad


def test_applied_and_back():
    net, ema = followed(0.5, [1.0, 2.0])
    net.mean[0] = 7.0  # since the last update
    own = copy.deepcopy(net.state_dict())
    with ema.applied() as inside:
        assert inside is net
        assert torch.equal(net.theta, ema.module.theta)
        assert float(net.mean[0]) == 20.0
    assert all(torch.equal(v, own[k]) for k, v in net.state_dict().items())
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        raise RuntimeError("inside")
    assert all(torch.equal(v, own[k]) for k, v in net.state_dict().items())
    assert int(net.seen) == 2


def test_the_average_is_sampled():
    """Through a model that wraps the module that is trained, and through one of the average."""
    net = torch.nn.Linear(2, 2).double()
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.weight.add_(1.0)
    ema.update()
    path, noise = ode.paths.Linear(), torch.ones(3, 2, dtype=torch.float64)
    model = ode.Model(lambda x, t: net(x), path, "velocity")
    plain = ode.sample(model, noise, "euler", 3)
    with ema.applied():
        averaged = ode.sample(model, noise, "euler", 3)
    direct = ode.sample(ode.Model(lambda x, t: ema.module(x), path, "velocity"), noise, "euler", 3)
    assert torch.equal(averaged, direct)
    assert not torch.equal(averaged, plain)
    assert torch.equal(ode.sample(model, noise, "euler", 3), plain)


def test_states_go_on_bitwise():
    values = np.random.default_rng(2).normal(size=12)
    _, whole = followed(Power(2.0), values)
    _, half = followed(Power(2.0), values[:5])
    net = Counter(3.0)
    ema = EMA(net, Power(2.0))
    ema.load_state_dict(copy.deepcopy(half.state_dict()))
    for v in values[5:]:
        net.be(v)
        ema.update()
    assert ema.updates == whole.updates == 12
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in ema.state_dict().items())


def test_tied_weights_stay_tied():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    ema = EMA(net, 0.5)
    first = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.mul_(3.0)
    ema.update()
    assert ema.module[1].weight is ema.module[0].weight
    torch.testing.assert_close(ema.module[0].weight, 2 * first)


def test_a_function_is_a_profile():
    _, ema = followed(lambda k: (k - 1) / k, [1.0, 2.0, 6.0])
    torch.testing.assert_close(ema.module.theta, torch.full((3,), 3.0, dtype=torch.float64))


@rows(
    ("make", "told"),
    [
        (lambda: EMA(Counter(), 1.0), "decay=1.0"),
        (lambda: EMA(Counter(), -0.1), "profile=-0.1"),
        (lambda: Power(-1.0), "gamma=-1.0"),
        (lambda: Power.of_width(0.3), "0.2887"),
        (lambda: Power.of_width(0.0), "above 0"),
        (lambda: EMA(lambda x: x), "nn.Module"),
        (lambda: EMA(torch.nn.Linear(2, 2).bfloat16()), "weight is of half precision"),
        (lambda: EMA(Counter(), lambda k: 1.5).update(), "returned 1.5 for update 1"),
        (lambda: EMA(torch.nn.Linear(2, 2)).copy_to(torch.nn.Linear(2, 3)), "weight differs"),
        (
            lambda: EMA(torch.nn.Linear(2, 2)).copy_to(torch.nn.Linear(2, 2, bias=False)),
            "bias differs",
        ),
        (
            lambda: EMA(torch.nn.Linear(2, 2, bias=False)).copy_to(torch.nn.Linear(2, 2)),
            "bias differs",
        ),
    ],
)
def test_at_the_door(make, told):
    with pytest.raises(ode.OdesolveError, match=told):
        make()
