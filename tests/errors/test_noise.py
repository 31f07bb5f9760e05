"""Noise given as a shape: drawn from the seed, the same on every device and for every run."""

from __future__ import annotations

import re

import pytest
import torch
from odesolve.kernels import philox

import odesolve as ode
from odesolve import paths, run
from odesolve.lowering.lower import lower
from odesolve.noise.stream_numbers import START
from tests.rows import rows

MODEL = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")


def draw(shape=(4, 3), **options):
    return ode.sample(MODEL, shape, "ddim", 3, **options)


def test_a_seed_decides_the_noise():
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert torch.equal(draw([4, 3], seed=1), draw(torch.Size([4, 3]), seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(draw(), draw())


def test_shape_and_seed_equal_a_tensor():
    noise = philox.normals(philox.keys(1, torch.arange(4)), START, 3)
    assert torch.equal(draw(seed=1), ode.sample(MODEL, noise, "ddim", 3))
    assert torch.equal(
        draw(seed=1, dtype=torch.float64), ode.sample(MODEL, noise.double(), "ddim", 3)
    )


def test_without_a_seed_torch_decides():
    torch.manual_seed(0)
    first = draw()
    torch.manual_seed(0)
    assert torch.equal(draw(), first)


@rows("solver", ["ddim", "ddim(eta=1)", "dpmpp_2m_sde"])
def test_a_sample_depends_on_its_seed_and_id_alone(solver):
    whole = ode.sample(MODEL, (8, 3, 4, 5), solver, 4, seed=7)
    for ids in ([0, 1, 2, 3], [4, 5, 6, 7], [6, 2, 5, 0, 1]):
        part = ode.sample(MODEL, (len(ids), 3, 4, 5), solver, 4, seed=7, ids=ids)
        assert torch.equal(part, whole[ids])
    assert torch.equal(
        ode.sample(MODEL, (8, 3, 4, 5), solver, 4, seed=7, ids=torch.arange(8)), whole
    )
    assert len({float(x.sum()) for x in whole}) == 8
    flat = ode.sample(MODEL, torch.zeros(8, 3, 4, 5), solver, 4, seed=7)
    last = torch.zeros(8, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(ode.sample(MODEL, last, solver, 4, seed=7), flat)


def test_the_seed_that_was_used_is_told():
    drawn = ode.sample(MODEL, (4, 3), "ddim(eta=1)", 3, full=True)
    again = ode.sample(MODEL, (4, 3), "ddim(eta=1)", 3, seed=drawn.seed)
    assert torch.equal(again, drawn.x)
    x = torch.zeros(4, 3)
    assert ode.sample(MODEL, x, "ddim", 3, full=True).seed is None  # nothing was drawn
    watched = list(ode.iterate(MODEL, x, "ddim(eta=1)", 3))
    assert not torch.equal(watched[-1].x, list(ode.iterate(MODEL, x, "ddim(eta=1)", 3))[-1].x)


@rows(
    ("ids", "message"),
    [
        ([0, 1], "ids have shape (2,) for a batch of 4: give one whole number per sample"),
        ([0.0, 1.0, 2.0, 3.0], "give one whole number per sample"),
        ([0, 1, 2, -1], "ids lie outside of 0 to 2^32 - 1"),
        ([0, 1, 2, 2**32], "ids lie outside of 0 to 2^32 - 1"),
    ],
)
def test_ids_are_checked(ids, message):
    with pytest.raises(ode.OdesolveError, match=re.escape(message)):
        draw(seed=1, ids=ids)


def test_a_shape_without_samples_is_refused():
    with pytest.raises(ode.OdesolveError, match="give a shape with the number of samples first"):
        draw(())


def test_an_unkeyed_start_of_a_stochastic_program_is_refused():
    program = lower(
        ode.plan("ddim(eta=1)", MODEL.path, 3), MODEL.path, MODEL.reading_for(torch.float32)
    )
    with pytest.raises(ode.OdesolveError, match=r"ddim\(eta=1\) draws noise: give keys="):
        run.begin(program, torch.zeros(4, 3))


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    draw(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


@rows("path", [paths.EDM(), paths.VE(), paths.VP(), paths.Linear()], ids=str)
def test_noise_is_scaled_to_the_start_of_the_path_and_a_state_is_not(path):
    starts = []

    def net(x, t):
        starts.append(x.clone())
        return 0 * x

    x = torch.randn(4, 3)
    ode.sample(ode.Model(net, path, "v"), x, "ddim", 2)
    torch.testing.assert_close(starts[0], x * path.prior_std)
    starts.clear()
    late = 0.75 * path.t_max
    ode.sample(ode.Model(net, path, "v"), x, "ddim", grid=[late, path.t_data])
    torch.testing.assert_close(starts[0], x * path.start_std(late))
    starts.clear()
    ode.sample(ode.Model(net, path, "v"), state=x, solver="ddim", steps=2)
    assert torch.equal(starts[0], x)


def test_device_of_the_network():
    layer = torch.nn.Linear(3, 3, device="meta")
    model = ode.Model(layer, paths.VP(), "v")
    from odesolve.sampling.start import draw

    assert draw(model, (2, 3), 1, None, None).device.type == "meta"
    assert draw(model, (2, 3), 1, None, "cpu").device.type == "cpu"
