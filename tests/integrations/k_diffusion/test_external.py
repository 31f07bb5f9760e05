"""Denoisers and lists of noise levels are k-diffusion's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import odesolve as ode

from ...parity.peers import float64
from .common import K, gap, peer, peer_external

ALPHAS = torch.cumprod(
    1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
)


class Net(nn.Module):
    """A network of its time and a condition; ``apply_model`` is what CompVis calls it."""

    def __init__(self, channels=3):
        super().__init__()
        self.lift = nn.Conv2d(3, channels, 1, dtype=torch.float64)
        self.alphas_cumprod = ALPHAS

    def forward(self, x, t, cond=0.0):
        return torch.tanh(self.lift(x) + torch.sin(t.to(x.dtype))[:, None, None, None] + cond)

    apply_model = forward


class OldNet(Net):
    apply_model = lambda self, x, t, cond: self(x, t, cond)


DIFFUSION = SimpleNamespace(alphas_cumprod=ALPHAS.numpy())
WRAPPERS = {
    "VDenoiser": lambda e: e.VDenoiser(Net()),
    "eps": lambda e: e.DiscreteEpsDDPMDenoiser(Net(), ALPHAS, False),
    "eps quantized": lambda e: e.DiscreteEpsDDPMDenoiser(Net(), ALPHAS, True),
    "v": lambda e: e.DiscreteVDDPMDenoiser(Net(), ALPHAS, False),
    "OpenAI": lambda e: e.OpenAIDenoiser(Net(6), DIFFUSION),
    "OpenAI plain": lambda e: e.OpenAIDenoiser(
        Net(), DIFFUSION, quantize=True, has_learned_sigmas=False
    ),
    "CompVis": lambda e: e.CompVisDenoiser(Net()),
    "CompVis v": lambda e: e.CompVisVDenoiser(Net(), quantize=True),
}


def pair(name):
    """The peer's wrapper and ours around one network."""
    theirs, ours = WRAPPERS[name](peer_external), WRAPPERS[name](K.external)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs():
    g = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.05, 0.7, 3.0, 14.0], dtype=torch.float64)
    data, noise = (torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    return data, noise, sigma


@pytest.mark.parametrize("name", WRAPPERS)
def test_denoised_and_loss(name):
    theirs, ours = pair(name)
    data, noise, sigma = inputs()
    x = data + noise * sigma[:, None, None, None]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torch.no_grad():
        assert gap(ours(x, sigma, cond=0.3), theirs(x, sigma, cond=0.3)) < 1e-12
        assert (
            gap(ours.loss(data, noise, sigma, cond=0.3), theirs.loss(data, noise, sigma, cond=0.3))
            < 1e-12
        )
    for a, b in zip(ours.get_scalings(sigma), theirs.get_scalings(sigma), strict=True):
        assert gap(a, b) < 1e-12


@pytest.mark.parametrize("name", WRAPPERS)
def test_levels_and_times(name):
    theirs, ours = pair(name)
    levels = torch.tensor([0.01, 0.0292, 0.3, 1.0, 5.0, 14.6, 30.0], dtype=torch.float64)
    # Under a table in float32 theirs takes the difference of two levels in float32.
    assert gap(ours.sigma_to_t(levels).double(), theirs.sigma_to_t(levels).double()) < 1e-10
    assert ours.sigma_to_t(levels).dtype == theirs.sigma_to_t(levels).dtype
    t = torch.tensor([0.25, 0.5, 0.75]) if name == "VDenoiser" else torch.tensor([0.0, 3.5, 998.0])
    assert gap(ours.t_to_sigma(t), theirs.t_to_sigma(t)) < 1e-12
    if name != "VDenoiser":
        assert (ours.sigma_min, ours.sigma_max) == (theirs.sigma_min, theirs.sigma_max)
        assert gap(ours.get_sigmas(), theirs.get_sigmas()) == 0.0
        assert gap(ours.get_sigmas(17), theirs.get_sigmas(17)) < 1e-6
        both = ours.sigma_to_t(levels, quantize=True), theirs.sigma_to_t(levels, quantize=True)
        assert torch.equal(*both)
        grid = levels.reshape(7, 1)
        assert ours.sigma_to_t(grid).shape == (7, 1)


def test_schedule_between_its_steps_and_back():
    schedule = K.external.DiscreteSchedule(((1 - ALPHAS) / ALPHAS).sqrt(), False)
    t = torch.tensor([0.0, 0.3, 17.9, 998.5, 999.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.sigma_to_t(schedule.t_to_sigma(t)), t, rtol=0, atol=1e-9)
    with pytest.raises(ode.OdesolveError, match=r"sigmas have shape \(1,\)"):
        K.external.DiscreteSchedule(torch.ones(1), False)


@pytest.mark.parametrize("weighting", ["karras", "soft-min-snr", "snr"])
def test_preconditioned_denoiser(weighting):
    """Its formulas, EDM's for any deviation of the data; k-diffusion's layers need packages that
    are not here."""
    data, noise, sigma = inputs()
    net, s = Net(), 0.7
    denoiser = K.Denoiser(net, sigma_data=s, weighting=weighting)
    column, width = sigma[:, None, None, None], torch.sqrt(sigma**2 + s**2)[:, None, None, None]
    x = data + noise * column
    raw = net(x / width, sigma)
    torch.testing.assert_close(denoiser(x, sigma), s**2 / width**2 * x + column * s / width * raw)
    error = (raw - (data - s**2 / width**2 * x) * width / (column * s)).square().flatten(1).mean(1)
    weight = {
        "karras": torch.ones(4, dtype=torch.float64),
        "snr": s**2 / (sigma**2 + s**2),
        "soft-min-snr": (sigma * s) ** 2 / (sigma**2 + s**2) ** 2,
    }
    torch.testing.assert_close(denoiser.loss(data, noise, sigma), error * weight[weighting])


def test_preconditioned_denoiser_is_the_model_of_an_edm_network():
    data, noise, sigma = inputs()
    net = Net()
    model = ode.Model(net, ode.paths.EDM(), "edm", time="sigma", sigma_data=0.7)
    x = data + noise * sigma[:, None, None, None]
    torch.testing.assert_close(K.Denoiser(net, 0.7)(x, sigma), model.data(x, sigma))


def test_weightings_of_ones_own_and_others():
    data, noise, sigma = inputs()
    plain = K.Denoiser(Net()).loss(data, noise, sigma)
    net = K.Denoiser(Net())
    doubled = K.Denoiser(net.inner_model, weighting=lambda sigma: 2.0 * sigma)
    torch.testing.assert_close(
        doubled.loss(data, noise, sigma), 2.0 * sigma * net.loss(data, noise, sigma)
    )
    assert plain.shape == (4,)
    with pytest.raises(ode.OdesolveError, match="unknown weighting 'snrr': did you mean 'snr'"):
        K.Denoiser(Net(), weighting="snrr")
    with pytest.raises(ode.OdesolveError, match="scales=2"):
        K.Denoiser(Net(), scales=2)


@pytest.mark.parametrize("name", ["VDenoiser", "eps", "v"])
def test_half_precision_scales_in_float32(name):
    """What the network gets and what comes back are in the dtype of x; k-diffusion's scalings are
    rounded to it."""
    seen = []

    def net(x, t):
        seen.append(x.dtype)
        return x

    make = {"VDenoiser": K.external.VDenoiser}.get(name) or (
        lambda net: (
            K.external.DiscreteEpsDDPMDenoiser
            if name == "eps"
            else K.external.DiscreteVDDPMDenoiser
        )(net, ALPHAS.float(), False)
    )
    x, sigma = (
        torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).half(),
        torch.tensor([0.5, 9.0]),
    )
    out, exact = make(net)(x, sigma.half()), make(net)(x.double(), sigma.double())
    assert (out.dtype, seen[0]) == (torch.float16, torch.float16)
    assert gap(out.double(), exact) < 2e-3


GRIDS = {
    "karras": [(10, 0.03, 14.6), (5, 0.002, 80.0, 3.0)],
    "exponential": [(10, 0.03, 14.6)],
    "polyexponential": [(10, 0.03, 14.6), (7, 0.01, 40.0, 1.7)],
    "vp": [(10,), (12, 15.0, 0.2, 1e-4)],
}
CASES = [(name, arguments) for name, cases in GRIDS.items() for arguments in cases]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_noise_levels(name, arguments):
    ours, theirs = (getattr(module, f"get_sigmas_{name}") for module in (K.sampling, peer))
    with float64():
        assert gap(ours(*arguments), theirs(*arguments)) < 1e-12
    single = ours(*arguments)
    assert single.dtype == torch.float32
    assert gap(single, theirs(*arguments)) < 1e-5
    assert ours(1, *arguments[1:]).tolist() == pytest.approx(theirs(1, *arguments[1:]).tolist())


def test_small_helpers():
    assert K.sampling.append_zero(torch.tensor([2.0, 1.0])).tolist() == [2.0, 1.0, 0.0]
    assert K.utils.append_dims(torch.ones(3), 4).shape == (3, 1, 1, 1)
    with pytest.raises(ode.OdesolveError, match="give target_dims of at least as many"):
        K.utils.append_dims(torch.ones(3, 2), 1)
    x, sigma = torch.ones(2, 3), torch.tensor([2.0, 4.0])
    assert torch.equal(K.sampling.to_d(x, sigma, 0 * x), peer.to_d(x, sigma, 0 * x))
    for eta in (0.0, 0.5, 1.0, 3.0):
        ours, theirs = (m.get_ancestral_step(5.0, 3.0, eta) for m in (K.sampling, peer))
        assert ours == pytest.approx(theirs)
    assert math.isclose(sum(v**2 for v in K.sampling.get_ancestral_step(5.0, 3.0)), 9.0)
