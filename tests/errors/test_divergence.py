"""A solve that leaves the finite numbers says so, with the last finite state; it never hands
garbage on."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from tests.rows import rows

GRID = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]


def breaking(after, value=float("nan")):
    """A network that answers with ``value`` at times below ``after``."""
    return ode.Model(
        lambda x, t: torch.where((t < after)[:, None], value, 0.3 * x), paths.VP(), "v"
    )


def noise():
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@rows("value", [float("nan"), float("inf")])
@rows("solver", ["ddim", "dpmpp_2m", "heun", "unipc_2"])
def test_last_finite_state(solver, value):
    # the steps to 0.8, 0.6 and 0.4 are fine for a method that looks at their start
    model = breaking(0.5, value)
    good = list(ode.iterate(breaking(0.5, 0.0), noise(), solver, grid=GRID))
    with pytest.raises(
        ode.Diverged, match=rf"{solver} left the finite numbers after step \d at t=0\.\d+: see"
    ) as error:
        ode.sample(model, noise(), solver, grid=GRID)
    e = error.value
    assert e.step in (2, 3, 4)
    assert e.t == GRID[e.step]
    assert bool(torch.isfinite(e.state).all())
    if e.t >= 0.5:
        assert torch.equal(e.state, good[e.step - 1].x)
    assert "\n" not in str(e)


def test_in_the_first_step_it_is_the_start():
    with pytest.raises(ode.Diverged, match=r"after step 0 at t=1:") as error:
        ode.sample(breaking(2.0), noise(), "ddim", grid=GRID)
    assert torch.equal(error.value.state, noise())


def test_status_instead_of_an_error():
    result = ode.sample(breaking(0.5), noise(), "ddim", grid=GRID, full=True)
    assert (result.status, result.t, result.steps) == ("diverged", 0.4, 3)
    assert bool(torch.isfinite(result.x).all())
    assert result.plan is ode.plan("ddim", paths.VP(), grid=GRID)


def test_status_of_a_good_solve():
    result = ode.sample(breaking(-1.0), noise(), "dpmpp_2s", grid=GRID, full=True)
    assert (result.status, result.t, result.steps) == ("ok", 0.0, 5)
    assert result.nfe == result.plan.nfe == 9
    assert torch.equal(result.x, ode.sample(breaking(-1.0), noise(), "dpmpp_2s", grid=GRID))
    guided = breaking(-1.0).guided(2.0, {}, {})
    assert ode.sample(guided, noise(), "ddim", grid=GRID, full=True).nfe == 10


def test_overflow():
    with pytest.raises(ode.Diverged) as error:
        ode.sample(ode.Model(lambda x, t: 1e15 * x, paths.VP(), "v"), noise(), "ddim", grid=GRID)
    assert bool(torch.isfinite(error.value.state).all())
    assert float(error.value.state.abs().max()) > 1e10


def test_one_bad_sample_is_enough():
    model = ode.Model(lambda x, t: 0.3 * x / (x[:, :1] != x[0, 0]), paths.VP(), "v")
    with pytest.raises(ode.Diverged):
        ode.sample(model, noise(), "ddim", 4)
