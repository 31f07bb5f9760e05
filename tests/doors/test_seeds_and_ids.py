"""Seeds are whole numbers from 0 to 2^64 - 1 and ids whole numbers below 2^32, wherever either is
taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths, problems
from odesolve.integrations.k_diffusion import sampling
from odesolve.integrations.torchsde import BrownianInterval
from tests.rows import rows

MODEL = ode.Model(lambda x, t: 0.5 * x, paths.VP(), "noise")
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
PIXELS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def minus(t, y):
    return -y


def denoised(x, sigma, seed=None):
    return x / (1 + sigma[:, None] ** 2)


def with_seed(s):
    extra = {"extra_args": {"seed": s}, "disable": True}
    return {
        "sample": lambda: ode.sample(MODEL, (2, 3), "ddim", 2, seed=s),
        "sample without noise": lambda: ode.sample(MODEL, Z, "ddim", 2, seed=s),
        "iterate": lambda: list(ode.iterate(MODEL, Z, "ddim(eta=1)", 2, seed=s)),
        "Sampler": lambda: ode.Sampler(MODEL, "ddim", 2)((2, 3), seed=s),
        "Sampler without noise": lambda: ode.Sampler(MODEL, "ddim", 2)(Z, seed=s),
        "sdedit": lambda: ode.sdedit(MODEL, Z, 0.5, steps=2, seed=s),
        "langevin": lambda: ode.langevin(lambda x: -x, Z, 0.1, 2, seed=s),
        "mala": lambda: ode.mala(lambda x: -0.5 * (x * x).sum(1), Z, 0.1, 2, seed=s),
        "log_prob": lambda: ode.log_prob(MODEL, Z, seed=s, steps=4),
        "elbo": lambda: ode.elbo(MODEL, Z, seed=s, steps=4),
        "solve_sde": lambda: ode.solve_sde(minus, 1.0, Z, noise="additive", steps=2, seed=s),
        "BrownianPath": lambda: ode.BrownianPath((2, 3), seed=s),
        "dequantise": lambda: ode.dequantise(PIXELS, seed=s),
        "bits_per_dim": lambda: ode.bits_per_dim(MODEL, PIXELS, steps=4, seed=s),
        "profile": lambda: ode.profile(MODEL, ["ddim"], 2, noise=(2, 3), seed=s),
        "Mixture.sample": lambda: problems.gaussian(0.0, 1.0).sample(2, s),
        "k-diffusion": lambda: sampling.sample_euler_ancestral(
            denoised, Z, torch.tensor([3.0, 1.0, 0.0]), **extra
        ),
    }


def with_ids(i):
    return {
        "sample": lambda: ode.sample(MODEL, (2, 3), "ddim", 2, ids=i),
        "sample without noise": lambda: ode.sample(MODEL, Z, "ddim", 2, ids=i),
        "iterate": lambda: list(ode.iterate(MODEL, Z, "ddim(eta=1)", 2, ids=i)),
        "Sampler": lambda: ode.Sampler(MODEL, "ddim", 2)((2, 3), ids=i),
        "sdedit": lambda: ode.sdedit(MODEL, Z, 0.5, steps=2, ids=i),
        "langevin": lambda: ode.langevin(lambda x: -x, Z, 0.1, 2, ids=i),
        "mala": lambda: ode.mala(lambda x: -0.5 * (x * x).sum(1), Z, 0.1, 2, ids=i),
        "log_prob": lambda: ode.log_prob(MODEL, Z, ids=i, steps=4),
        "elbo": lambda: ode.elbo(MODEL, Z, ids=i, steps=4),
        "solve_sde": lambda: ode.solve_sde(minus, 1.0, Z, noise="additive", steps=2, ids=i),
        "BrownianPath": lambda: ode.BrownianPath((2, 3), ids=i),
        "dequantise": lambda: ode.dequantise(PIXELS, ids=i),
    }


SEEDS = [
    1.5,
    2.0,
    True,
    -1,
    2**64,
    2**64 + 3,
    "3",
    b"3",
    1j,
    math.nan,
    math.inf,
    [1],
    {},
    torch.tensor(1.5),
]
SEEDS += [
    torch.tensor([1, 2]),
    torch.tensor(True),
    np.float64(2.0),
    np.bool_(True),
    np.array([3, 4]),
]
IDS = [
    [0.5, 1.5],
    torch.tensor([0.0, 1.0]),
    [True, False],
    [-1, 2],
    [0, 2**32],
    [0, 2**70],
    "ab",
    ["a", "b"],
    5,
]
IDS += [
    [1, 2, 3],
    [[0], [1]],
    {0: 1, 1: 2},
    [None, 1],
    {0, 1},
    torch.tensor([1j, 2.0]),
    np.array([0.0, 1.0]),
]


def several(seed):
    """One seed for each sample, as k-diffusion's noise samplers take them."""
    return isinstance(seed, list) or getattr(seed, "shape", ()) == (2,)


@rows(
    ("seed", "door"),
    [
        pytest.param(s, d, id=f"{s!r}-{d}")
        for s in SEEDS
        for d in with_seed(0)
        if d != "k-diffusion" or not several(s)
    ],
)
def test_seeds(refused, door, seed):
    refused(with_seed(seed)[door], "seed", "whole number")


@rows("door", with_ids(0))
@rows("ids", IDS, ids=repr)
def test_ids(refused, door, ids):
    refused(with_ids(ids)[door], "ids")


@rows(
    "seed",
    [3, np.int64(3), np.uint64(3), torch.tensor(3), torch.tensor([3]), np.array(3)],
    ids=repr,
)
def test_whole_numbers_of_all_kinds_are_one_seed(seed):
    assert torch.equal(
        ode.sample(MODEL, (2, 3), "ddim", 2, seed=seed),
        ode.sample(MODEL, (2, 3), "ddim", 2, seed=3),
    )


def test_all_of_64_bits_are_seeds_of_their_own():
    drawn = [
        ode.sample(MODEL, (2, 3), "ddim", 2, seed=s)
        for s in (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@rows(
    "ids", [range(2), (0, 1), np.array([0, 1]), torch.tensor([0, 1], dtype=torch.uint8)], ids=repr
)
def test_ids_in_every_form_are_the_same(ids):
    assert torch.equal(
        ode.sample(MODEL, (2, 3), "ddim", 2, seed=3, ids=ids),
        ode.sample(MODEL, (2, 3), "ddim", 2, seed=3),
    )


@rows("entropy", [1.5, -1, 2**64, "3", True, math.nan], ids=repr)
def test_entropy_of_torchsde(refused, entropy):
    refused(
        lambda: BrownianInterval(0.0, 1.0, size=(2, 3), entropy=entropy), "entropy", "whole number"
    )
