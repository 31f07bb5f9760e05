"""The terms of L_VLB are the KL divergences between the Gaussians that diffusers' DDPM steps by."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from odesolve.likelihood.vlb import Chain, Decoder

from .peers import PROBLEM, scheduler, start


@pytest.mark.parametrize(
    ("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large")]
)
def test_steps_of_the_peer(monkeypatch, variance, theirs):
    """Its step is the posterior's mean at a given x0: at the data that of q, at the prediction that
    of p."""
    from diffusers.schedulers import scheduling_ddpm

    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda shape, **k: torch.zeros(shape, dtype=torch.float64)
    )
    config = {"variance_type": theirs, "clip_sample": False, "prediction_type": "sample"}
    peer = scheduler("DDPMScheduler", 1000, **config)
    model = PROBLEM.model(peer.path, "noise")
    x, eps = PROBLEM.sample(6, seed=1), start(6)
    chain = Chain(
        model, peer.path.points([i / 1000 for i in range(1000, 0, -1)]), variance, Decoder()
    )
    for i in (999, 600, 200, 1):
        k = 999 - i  # timestep i is our time (i + 1) / 1000
        s = chain.points[k]
        noisy = s.alpha * x + s.sigma * eps
        means = [peer.peer.step(d, i, noisy).prev_sample for d in (x, model.data(noisy, s.t))]
        small, var = (
            float(peer.peer._get_variance(i, variance_type=v)) for v in ("fixed_small", theirs)
        )
        want = (
            kl_divergence(Normal(means[0], small**0.5), Normal(means[1], var**0.5))
            .flatten(1)
            .sum(1)
        )
        got = chain.term(x, torch.full((6,), k), eps)
        assert torch.allclose(got, want, rtol=1e-10), i
