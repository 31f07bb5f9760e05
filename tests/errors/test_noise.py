"""Noise given as a shape: drawn from the seed, the same on every device and for every run."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths

MODEL = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")


def draw(shape=(4, 3), **options):
    return ode.sample(MODEL, shape, "ddim", 3, **options)


def test_a_seed_decides_the_noise():
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert torch.equal(draw([4, 3], seed=1), draw(torch.Size([4, 3]), seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(draw(), draw())


def test_shape_and_seed_equal_a_tensor():
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(seed=1), ode.sample(MODEL, noise, "ddim", 3))
    twice = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(draw(seed=1, dtype=torch.float64), ode.sample(MODEL, twice, "ddim", 3))


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    draw(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("path", [paths.EDM(), paths.VE(), paths.VP(), paths.Linear()], ids=str)
def test_noise_is_scaled_to_the_start_of_the_path_and_a_state_is_not(path):
    starts = []

    def net(x, t):
        starts.append(x.clone())
        return 0 * x

    x = torch.randn(4, 3)
    ode.sample(ode.Model(net, path, "v"), x, "ddim", 2)
    torch.testing.assert_close(starts[0], x * path.prior_std)
    starts.clear()
    half = 0.5 * path.t_max
    ode.sample(ode.Model(net, path, "v"), x, "ddim", grid=[half, path.t_data])
    torch.testing.assert_close(starts[0], x * path.start_std(half))
    starts.clear()
    ode.sample(ode.Model(net, path, "v"), state=x, solver="ddim", steps=2)
    assert torch.equal(starts[0], x)


def test_device_of_the_network():
    layer = torch.nn.Linear(3, 3, device="meta")
    model = ode.Model(layer, paths.VP(), "v")
    from odesolve.sample import draw

    assert draw(model, (2, 3), 1, None, None).device.type == "meta"
    assert draw(model, (2, 3), 1, None, "cpu").device.type == "cpu"
