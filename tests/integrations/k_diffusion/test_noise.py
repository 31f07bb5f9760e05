"""Noise samplers of ours: unit variance, one path, and noise that belongs to the sample and not to
its batch."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode

from .common import LEVELS, K, float64, gap, peer, start

STOCHASTIC = [
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
]
SIGMAS = LEVELS.float()
SHAPE = (8, 4, 3)


def denoiser(x, sigma, seed=None):
    return x / (1.0 + sigma[:, None, None] ** 2)


def noise(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * SIGMAS[0]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_sample_does_not_depend_on_its_batch(name):
    f = getattr(K.sampling, f"sample_{name}")
    x = noise()
    whole = f(denoiser, x, SIGMAS, {"seed": 5}, disable=True)
    assert torch.equal(f(denoiser, x[:1], SIGMAS, {"seed": 5}, disable=True), whole[:1])
    assert not torch.equal(f(denoiser, x, SIGMAS, {"seed": 6}, disable=True), whole)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_without_a_seed_torch_decides(name):
    f = getattr(K.sampling, f"sample_{name}")
    out = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out.append(f(denoiser, noise(), SIGMAS, disable=True))
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out[0], out[2])


def test_the_same_generator_gives_the_peers_numbers():
    """With torch's noise as the sampler, ancestral solvers repeat what k-diffusion drew."""
    with float64():
        x, out = start() * LEVELS[0], []
        for module in (peer, K.sampling):
            torch.manual_seed(4)
            sampler = module.default_noise_sampler(x)
            model = lambda x, sigma: x / (1.0 + sigma[:, None, None] ** 2)
            out.append(
                module.sample_euler_ancestral(model, x, LEVELS, disable=True, noise_sampler=sampler)
            )
    assert gap(out[1], out[0]) < 1e-12


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_more_steps_follow_the_same_path(name):
    """Noise of one Brownian path: finer solves with a seed come nearer to each other than to those
    with another."""
    f = getattr(K.sampling, f"sample_{name}")
    x = noise((64, 1, 1))

    def solved(steps, seed):
        return f(
            denoiser,
            x,
            K.sampling.get_sigmas_exponential(steps, 0.03, 14.6),
            {"seed": seed},
            disable=True,
        )

    near = (solved(60, 1) - solved(120, 1)).std()
    assert near < 0.2 * (solved(60, 1) - solved(120, 2)).std()


def test_default_sampler_by_seed():
    x = noise()
    one, two = K.sampling.default_noise_sampler(x, 9), K.sampling.default_noise_sampler(x[:2], 9)
    first, second = one(1.0, 0.5), one(0.5, 0.2)
    assert torch.equal(two(1.0, 0.5), first[:2])
    assert not torch.equal(first, second)
    assert K.sampling.default_noise_sampler(x.half(), 9)(1.0, 0.5).dtype == torch.float16


class TestBrownianTree:
    x = torch.zeros(3, 64, 64)

    def test_unit_variance_and_independence(self):
        sampler = K.sampling.BrownianTreeNoiseSampler(self.x, 0.03, 14.6, seed=1)
        draws = [
            sampler(a, b).flatten()
            for a, b in [(14.6, 9.0), (9.0, 8.9), (8.9, 0.03), (0.0301, 0.03)]
        ]
        covariance = torch.cov(torch.stack(draws))
        assert float((covariance - torch.eye(4)).abs().max()) < 5 / math.sqrt(self.x.numel())

    def test_increments_add_up(self):
        sampler = K.sampling.BrownianTreeNoiseSampler(self.x.double(), 0.03, 14.6, seed=1)
        whole = sampler(9.0, 1.0) * math.sqrt(8.0)
        parts = sampler(9.0, 4.0) * math.sqrt(5.0) + sampler(4.0, 1.0) * math.sqrt(3.0)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
        assert torch.equal(sampler(1.0, 9.0), -sampler(9.0, 1.0))

    def test_a_list_of_seeds(self):
        sampler = K.sampling.BrownianTreeNoiseSampler(self.x, 0.03, 14.6, seed=[5, 7, 5])(9.0, 1.0)
        assert torch.equal(sampler[0], sampler[2])
        assert not torch.equal(sampler[0], sampler[1])
        alone = K.sampling.BrownianTreeNoiseSampler(self.x[:1], 0.03, 14.6, seed=[7])(9.0, 1.0)
        assert torch.equal(alone[0], sampler[1])
        with pytest.raises(ode.OdesolveError, match="2 seeds for a batch of 3"):
            K.sampling.BrownianTreeNoiseSampler(self.x, 0.03, 14.6, seed=[5, 7])

    def test_another_clock(self):
        sampler = K.sampling.BrownianTreeNoiseSampler(
            self.x.double(), 0.03, 14.6, 1, transform=torch.log
        )
        whole = sampler(9.0, 1.0) * math.sqrt(math.log(9.0))
        parts = sampler(9.0, 3.0) * math.sqrt(math.log(3.0)) + sampler(3.0, 1.0) * math.sqrt(
            math.log(3.0)
        )
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)

    def test_levels_a_rounding_outside_are_met_and_others_refused(self):
        sampler = K.sampling.BrownianTreeNoiseSampler(self.x, 0.03, 14.6, seed=1)
        assert bool(torch.isfinite(sampler(14.6 * (1 + 1e-7), 1.0)).all())
        with pytest.raises(ode.OdesolveError, match="lies outside of the path's interval"):
            sampler(15.0, 1.0)

    def test_dtype_and_peers(self):
        half = K.sampling.BrownianTreeNoiseSampler(self.x.half(), 0.03, 14.6, seed=1)(9.0, 1.0)
        assert half.dtype == torch.float16
        x = torch.zeros(2, 3)
        theirs = peer.BrownianTreeNoiseSampler(
            x, torch.tensor(0.03), torch.tensor(14.6), seed=[1, 2]
        )
        ours = K.sampling.BrownianTreeNoiseSampler(
            x, torch.tensor(0.03), torch.tensor(14.6), seed=[1, 2]
        )
        levels = torch.tensor(9.0), torch.tensor(1.0)
        assert ours(*levels).shape == theirs(*levels).shape

    def test_given_to_a_solver(self):
        x = noise()
        sampler = K.sampling.BrownianTreeNoiseSampler(x, SIGMAS[-2], SIGMAS[0], seed=list(range(8)))
        one = K.sampling.BrownianTreeNoiseSampler(x[3:4], SIGMAS[-2], SIGMAS[0], seed=[3])
        whole = K.sampling.sample_dpmpp_2m_sde(
            denoiser, x, SIGMAS, disable=True, noise_sampler=sampler
        )
        alone = K.sampling.sample_dpmpp_2m_sde(
            denoiser, x[3:4], SIGMAS, disable=True, noise_sampler=one
        )
        assert torch.equal(alone, whole[3:4])


def test_noise_of_moves_back_is_asked_for_with_both_levels():
    asked = []
    sampler = lambda sigma, sigma_next: asked.append((float(sigma), float(sigma_next))) or 0.0
    options = {"segments": {0.05: (2, 2, 0.3)}}
    K.sampling.sample_ode_restart(
        denoiser, noise(), SIGMAS, disable=True, noise_sampler=sampler, **options
    )
    assert asked == [pytest.approx((float(SIGMAS[-2]), 0.3))] * 2


def test_areas_cannot_come_from_a_noise_sampler():
    with pytest.raises(
        ode.OdesolveError,
        match="needs more of a path than its increments: leave noise_sampler= out",
    ):
        K.sampling.sample_ode_shark(
            denoiser, noise(), SIGMAS, disable=True, noise_sampler=lambda a, b: 0.0
        )


@pytest.mark.parametrize("name", ["sa_solver", "seeds_2", "seeds_3", "er_sde_3", "euler_maruyama"])
def test_every_stream_is_asked_for_once(name):
    asked = []

    def sampler(sigma, sigma_next):
        asked.append((float(sigma), float(sigma_next)))
        return 0.1 * len(asked)

    f = getattr(K.sampling, f"sample_ode_{name}")
    f(denoiser, noise(), SIGMAS, disable=True, noise_sampler=sampler)
    assert all(high > low for high, low in asked)
    assert len(set(asked)) == len(asked) >= len(SIGMAS) - 2
    assert asked == sorted(asked, reverse=True)
