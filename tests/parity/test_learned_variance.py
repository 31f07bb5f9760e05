"""diffusers' DDPM with a learned variance, fed the noise of our streams, is our plan."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from odesolve.kernels.philox import keys, normals

import odesolve as ode

from .peers import PROBLEM, TOLERANCE, gap, scheduler, start


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_learned_range(monkeypatch, spacing):
    """On the spacings that end at timestep 0: elsewhere the peer adds noise in its last step as
    well."""
    from diffusers.schedulers import scheduling_ddpm

    config = {"variance_type": "learned_range", "clip_sample": False, "timestep_spacing": spacing}
    peer = scheduler("DDPMScheduler", 10, **config)
    x, who, step = start(), keys(9, torch.arange(6)), itertools.count()
    draw = lambda *a, **k: (
        normals(who, next(step), math.prod(PROBLEM.event)).double().reshape(x.shape)
    )
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", draw)
    exact = PROBLEM.model(peer.path, "noise")
    net = lambda x, t: torch.cat([exact.net(x, t), torch.sin(3 * x)], 1)
    model = ode.Model(net, peer.path, "noise", time="t", learned_variance=True)
    plan = ode.plan("ddpm", peer.path, grid=peer.grid, variance="learned")
    x = x * peer.path.start_std(peer.grid.values[0])
    assert gap(ode.sample(model, state=x, plan=plan, seed=9), peer.run(net, x)) < TOLERANCE
