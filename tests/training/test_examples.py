"""The networks of the examples: what they take, and that every objective and solver can use
them."""

import importlib.util
from pathlib import Path

import pytest
import torch

import odesolve as ode
from odesolve.functions.forward import pushed
from odesolve.objectives import Matching
from odesolve.objectives.flow_maps import FlowMap, MeanFlow
from tests.rows import rows

FILE = Path(__file__).parents[2] / "examples" / "networks.py"


@pytest.fixture(scope="module")
def networks():
    spec = importlib.util.spec_from_file_location("networks", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(networks, kind, **options):
    """A network with random weights everywhere, also where training begins at 0, and data for
    it."""
    torch.manual_seed(0)
    net = networks.MLP(**options) if kind == "MLP" else networks.UNet(**options)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape) / max(1, p[0].numel()) ** 0.5)
    return net, torch.randn(5, 2) if kind == "MLP" else torch.randn(5, 1, 8, 8)


@rows("kind", ["MLP", "UNet"])
def test_samples_do_not_see_one_another(networks, kind):
    net, x = made(networks, kind, classes=10)
    t, label = torch.linspace(0.1, 0.9, 5), torch.tensor([0, 3, 9, 10, 1])
    out = net(x, t, label=label)
    assert out.shape == x.shape
    alone = torch.cat([net(x[k : k + 1], t[k : k + 1], label=label[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(out, alone, rtol=1e-4, atol=1e-4)


@rows("kind", ["MLP", "UNet"])
def test_conditions_and_times_are_seen(networks, kind):
    net, x = made(networks, kind, classes=10, times=2)
    r, t = torch.full((5,), 0.1), torch.full((5,), 0.8)
    plain = net(x, r, t)
    assert torch.equal(plain, net(x, r, t, label=torch.full((5,), 10)))
    for other in (
        net(x, r, t, label=torch.full((5,), 3)),
        net(x, r, 0.9 * t),
        net(x, 0.5 * r, t),
        net(x, t, r),
    ):
        assert float((other - plain).detach().abs().mean()) > 1e-3
    with pytest.raises(ValueError, match="zip"):
        net(x, t)


@rows("kind", ["MLP", "UNet"])
def test_flow_maps_differentiate_them(networks, kind):
    """Forward differentiation, by which MeanFlow trains, agrees with a difference of values."""
    net, x = made(networks, kind, times=2)
    net, x = net.double(), x.double()
    r, t = torch.full((5,), 0.2, dtype=torch.float64), torch.full((5,), 0.7, dtype=torch.float64)
    v, h = (
        torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        1e-5,
    )
    _, slope = pushed(net, (x, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
    difference = (net(x + h * v, r, t + h) - net(x - h * v, r, t - h)) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-6)
    loss = MeanFlow(FlowMap(net, ode.paths.Linear()))(
        x, generator=torch.Generator().manual_seed(2)
    ).loss
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@pytest.mark.parametrize(
    ("path", "predicts"),
    [
        (ode.paths.Linear(), "velocity"),
        (ode.paths.EDM(), "edm"),
        (ode.paths.Discrete.ddpm(), "noise"),
    ],
    ids=["flow", "edm", "ddpm"],
)
def test_they_train_and_are_sampled(networks, path, predicts):
    net, x = made(networks, "UNet", classes=3)
    model = ode.Model(net, path, predicts, time="c_noise" if predicts == "edm" else "t")
    cond = {"label": torch.tensor([0, 1, 2, 3, 3])}
    Matching(model)(x, cond=cond, generator=torch.Generator().manual_seed(0)).loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        assert ode.sample(model.given(**cond), x, "euler", 2).shape == x.shape


def test_sizes(networks):
    assert 3e5 < sum(p.numel() for p in networks.UNet().parameters()) < 1e6
    assert sum(p.numel() for p in networks.MLP().parameters()) < 2e5
    assert not networks.UNet()(torch.randn(1, 1, 8, 8), torch.ones(1)).any()  # it begins at 0
