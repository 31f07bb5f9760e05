"""Times and noise levels that the user gives, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odesolve import grids, paths
from odesolve.errors import OdesolveError


@pytest.mark.parametrize("values", [[1.0, 0.5, 0.2, 0.0], [0.0, 0.2, 0.5, 1.0], (0.7, 0.1)])
def test_lists_in_both_directions(values):
    for given in (
        values,
        tuple(values),
        torch.tensor(values, dtype=torch.float64),
        np.array(values),
    ):
        assert grids.make(grids.named(given), paths.VP(), None) == tuple(values)


def test_a_list_says_how_many_steps():
    assert len(grids.make(grids.named([1.0, 0.6, 0.0]), paths.VP(), 50)) == 3


def test_round_off_beyond_the_end_is_taken_back():
    assert grids.make(grids.named([1 + 1e-12, 0.5, -1e-12]), paths.VP(), None) == (1.0, 0.5, 0.0)


def test_sigmas():
    """k-diffusion's list: on EDM the times themselves, elsewhere times of equal sigma/alpha; a last
    0 is the data."""
    levels = [80.0, 10.0, 1.0, 0.002, 0.0]
    assert grids.sigmas(paths.EDM(), levels).values == pytest.approx(levels, rel=1e-14)
    for path in (paths.VP(), paths.Discrete.ddpm(), paths.VP().flipped()):
        times = grids.make(grids.sigmas(path, torch.tensor([14.6, 1.0, 0.03, 0.0])), path, None)
        assert times[-1] == path.t_data
        got = path.rho(torch.tensor(times[:-1], dtype=torch.float64)).tolist()
        assert got == pytest.approx(torch.tensor([14.6, 1.0, 0.03]).tolist(), rel=1e-12)


def test_sigmas_beyond_the_path_are_refused():
    with pytest.raises(OdesolveError, match="leaves the path's range"):
        grids.make(grids.sigmas(paths.VP(), [1000.0, 1.0, 0.0]), paths.VP(), None)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1.2, 0.5], r"t=1\.2 is not in \[0, 1\]"),
        ([0.5, -0.1], r"t=-0\.1 is not in \[0, 1\]"),
        ([0.5, math.nan], "t=nan is not in"),
        ([1.0, 0.5, 0.5, 0.0], r"not strictly monotone at t=0\.5, 0\.5"),
        ([1.0, 0.5, 0.7, 0.0], r"not strictly monotone at t=0\.5, 0\.7"),
        ([0.0, 0.7, 0.5, 1.0], r"not strictly monotone at t=0\.7, 0\.5"),
        ([0.3], r"grid is \[0\.3\]: give two or more times"),
        ([], r"grid is \[\]: give two or more times"),
    ],
)
def test_bad_lists(values, what):
    with pytest.raises(OdesolveError, match=what) as error:
        grids.make(grids.named(values), paths.VP(), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, "10", 10**6])
def test_bad_numbers_of_steps(steps):
    with pytest.raises(
        OdesolveError,
        match=r"steps=.*: (give a whole number|a plan holds a row "
        r".*: give fewer)",
    ):
        grids.make(grids.named("uniform"), paths.VP(), steps)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (grids.Polynomial(exponent=0.0), "exponent=0.0: give a positive number"),
        (grids.Polynomial(exponent=math.nan), "exponent=nan: give a positive number"),
        (grids.Karras(rho=0.0), "rho=0.0: give a positive number"),
        (grids.Karras(rho=-7.0), "rho=-7.0: give a positive number"),
        (grids.VPTime(exponent=0.0), "exponent=0.0: give a positive number"),
        (grids.VPTime(epsilon=0.0), "epsilon=0.0: give a number between 0 and 1"),
        (grids.VPTime(epsilon=1.0), "epsilon=1.0: give a number between 0 and 1"),
        (grids.Asinh(scale=0.0), "scale=0.0, far=250.0: give positive numbers"),
        (grids.Asinh(far=-1.0), "far=-1.0: give positive numbers"),
        (grids.Shifted(shift=0.0), "shift=0.0: give a positive number"),
        (grids.Shifted(shift=-1.0), "shift=-1.0: give a positive number"),
        (grids.Uniform(start=1.5), "leaves the path's range: t=1.5"),
        (grids.Karras(start=1.5), "leaves the path's range: t=1.5"),
        (grids.Lambda(start=0.5, stop=0.5), "not strictly monotone"),
        (grids.Spaced(spacing="middle"), "unknown spacing 'middle'"),
        (grids.Spaced(spacing="leading", offset=500), "not strictly monotone"),
    ],
    ids=str,
)
def test_bad_parameters(rule, what):
    with pytest.raises(OdesolveError, match=what):
        grids.make(rule, paths.Discrete.ddpm(), 10)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(OdesolveError, match="unknown grid 'karas': did you mean 'karras'"):
        grids.named("karas")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("logSNR", "lambda"),
        ("time_uniform", "uniform"),
        ("time_quadratic", "quadratic"),
        ("polyexponential", "lambda"),
    ],
)
def test_rules_of_other_programs_are_named(theirs, ours):
    with pytest.raises(OdesolveError, match=f"unknown grid '{theirs}': did you mean '{ours}'"):
        grids.named(theirs)


def test_rules_are_values():
    assert grids.Karras() == grids.named("karras")
    assert grids.Karras(rho=5.0) != grids.Karras()
    assert len({grids.Karras(), grids.Karras(), grids.Lambda()}) == 2
    assert grids.named(grids.Karras(rho=5.0)) == grids.Karras(rho=5.0)
