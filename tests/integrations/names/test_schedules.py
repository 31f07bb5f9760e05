"""Noise levels by the names of the user interfaces: against k-diffusion, and by hand where it has
none."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.integrations import names
from odesolve.names.schedules import RULES
from tests.rows import rows

from ...parity.peers import float64, gap, k_diffusion

sampling, external = k_diffusion()
PATH = paths.Discrete.stable_diffusion()
TABLE = PATH.rho(torch.arange(1, 1001, dtype=torch.float64) / 1000)


def made(schedule: str, n: int, **options) -> torch.Tensor:
    return torch.tensor(names.sigmas(schedule, n, TABLE.tolist(), **options), dtype=torch.float64)


@rows("n", [2, 5, 20, 33])
@rows("schedule", ["karras", "exponential", "polyexponential"])
def test_levels_of_k_diffusion(schedule, n):
    with float64():
        theirs = getattr(sampling, f"get_sigmas_{schedule}")(n, float(TABLE[0]), float(TABLE[-1]))
    assert gap(made(schedule, n), theirs) < 1e-13


@rows("n", [2, 5, 20, 33])
def test_normal_is_what_k_diffusions_wrappers_list(n):
    """They round the times between the entries to float32."""
    with float64():
        theirs = external.DiscreteSchedule(TABLE, quantize=False).get_sigmas(n)
    assert gap(made("normal", n), theirs) < 1e-6


@rows("n", [2, 5, 20, 33])
def test_sgm_uniform_is_normal_with_one_step_more_and_without_the_last(n):
    assert gap(made("sgm_uniform", n)[:-1], made("normal", n + 1)[:-2]) < 1e-15


def test_simple_and_ddim_uniform_are_entries_of_the_table():
    assert made("simple", 4).tolist() == [*TABLE[[999, 749, 499, 249]].tolist(), 0.0]
    assert made("simple", 3).tolist() == [*TABLE[[999, 666, 333]].tolist(), 0.0]
    assert made("ddim_uniform", 4).tolist() == [*TABLE[[751, 501, 251, 1]].tolist(), 0.0]
    # every 33rd of 1000 entries are 31, as the programs do it
    assert len(made("ddim_uniform", 30)) == 32


def test_quantiles_of_the_beta_distribution():
    """beta(0.6, 0.6) is symmetric: its median is the middle, and its quantiles come in pairs."""
    levels = made("beta", 5)[:-1]
    low, high = float(TABLE[0]), float(TABLE[-1])
    part = (levels - low) / (high - low)
    assert torch.allclose(
        part[[0, 2, 4]], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), atol=1e-12
    )
    assert abs(float(part[1] + part[3]) - 1.0) < 1e-12
    # The quarter quantile by quadrature of the density, with the singular end taken away by x =
    # u^(1/0.6).
    q = float(part[3])
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * q**0.6
    mass = float((1 - u ** (1 / 0.6)).pow(-0.4).mean()) * q**0.6 / 0.6
    whole = math.exp(2 * math.lgamma(0.6) - math.lgamma(1.2))
    assert abs(mass / whole - 0.25) < 1e-8


def test_beta_times_are_entries_without_repetition():
    levels = made("beta_times", 5)[:-1]
    index = torch.searchsorted(TABLE, levels)
    assert torch.equal(TABLE[index], levels)
    assert index[0] == 999
    many = made("beta_times", 900)
    assert len(many) < 901
    assert all(a > b for a, b in pairwise(many.tolist()))


def test_kl_optimal_is_uniform_in_the_angle():
    angles = made("kl_optimal", 7)[:-1].atan()
    assert float(angles.diff().std()) < 1e-14
    assert gap(angles[[0, -1]], TABLE[[-1, 0]].atan()) < 1e-14


@rows("n", [2, 4, 7, 50])
def test_linear_quadratic_is_linear_then_a_parabola_that_continues_it(n):
    done = 1.0 - made("linear_quadratic", n) / float(TABLE[-1])
    half = n // 2
    assert gap(done[: half + 1], 0.025 / half * torch.arange(half + 1, dtype=torch.float64)) < 1e-13
    assert abs(float(done[-1]) - 1.0) < 1e-15
    bends = done[half:].diff().diff()
    assert len(bends) < 2 or float(bends.std() / bends.mean()) < 1e-9


def test_linear_quadratic_of_one_step():
    assert made("linear_quadratic", 1).tolist() == [float(TABLE[-1]), 0.0]


@rows("schedule", RULES)
@rows("n", [1, 2, 3, 10, 100])
def test_levels_fall_to_zero(schedule, n):
    levels = made(schedule, n).tolist()
    assert levels[-1] == 0.0
    assert all(a > b for a, b in pairwise(levels))
    if schedule not in ("ddim_uniform", "beta_times"):
        assert len(levels) == n + 1


def test_the_penultimate_level_can_be_left_out():
    assert made("karras", 6, discard=True).tolist() == [*made("karras", 7)[:-2].tolist(), 0.0]


def test_what_cannot_be_a_list_of_levels():
    good = [0.1, 1.0, 10.0]
    with pytest.raises(OdesolveError, match="did you mean 'karras'"):
        names.sigmas("karas", 5, good)
    for n in (0, 2.5, True):
        with pytest.raises(OdesolveError, match="whole number of steps"):
            names.sigmas("karras", n, good)  # type: ignore[arg-type]
    for table in ([1.0], good[::-1], [0.0, 1.0], [[0.1, 1.0]]):
        with pytest.raises(OdesolveError, match="positive and rising"):
            names.sigmas("karras", 5, table)  # type: ignore[arg-type]
