"""What a failed sample can say about itself."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.methods import pairs
from odesolve.ode.diagnosis import stability_limit

from .problems import relaxation

TWO = torch.full((3, 2), 2.0, dtype=torch.float64)


def test_stiffness_is_recognised():
    """Rate 10^5: steps sit at the limit of stability, 3.3 / rate, with room in the error."""
    rates = torch.tensor([[1.0], [1e5], [3.0]], dtype=torch.float64)
    sol = ode.solve(relaxation, TWO, (0.0, 10.0), args=(rates,), max_steps=800)
    assert sol.status == ["ok", "max_steps", "ok"]
    found = sol.diagnosis(1)
    assert found.stiff
    assert found.radius == pytest.approx(1e5, rel=0.01)
    assert 1.0 < found.h * found.radius < 5.0
    assert found.t == float(sol.t[1])
    assert "implicit solver such as kvaerno5" in str(found)
    with pytest.raises(OdesolveError, match=r"the samples that did are \[1\]"):
        sol.diagnosis(0)


def test_many_steps_are_not_stiffness():
    """A fast forcing needs short steps whatever the method."""
    sol = ode.solve(
        lambda t, y: torch.sin(300.0 * t) - 0.1 * y,
        TWO,
        (0.0, 20.0),
        rtol=1e-8,
        atol=1e-8,
        max_steps=100,
    )
    found = sol.diagnosis(2)
    assert not found.stiff
    assert found.radius == pytest.approx(0.1, rel=1e-3)
    assert "not stiff" in str(found)


def test_a_singularity():
    sol = ode.solve(lambda t, y: y * y, TWO, (0.0, 1.0))
    text = str(sol.diagnosis())
    assert text.startswith("min_step at t = 0.5000")
    assert "singular" in text


def test_where_f_is_not_finite():
    at_once = ode.solve(lambda t, y: y * float("nan"), TWO).diagnosis()
    assert not at_once.finite
    assert math.isnan(at_once.radius)
    assert "f is not finite at the last state" in str(at_once)
    later = ode.solve(lambda t, y: torch.where(t > 0.25, float("nan"), -y), TWO).diagnosis()
    assert later.finite
    assert later.t == pytest.approx(0.25)
    assert "not right after it" in str(later)


def test_a_tolerance_below_the_type():
    """A jump in f that float32 cannot resolve to 10^-9."""
    f = lambda t, y: torch.where(t < 0.5, 1.0, 1e6) * y
    sol = ode.solve(f, TWO.float(), rtol=1e-9, atol=0.0, max_steps=300)
    found = sol.diagnosis()
    assert found.floor == 1.0
    assert "use float64" in str(found)
    assert ode.solve(f, TWO, rtol=1e-9, atol=0.0, max_steps=300).diagnosis().floor == 0.0


def test_one_system_of_several_tensors():
    sol = ode.solve(
        lambda t, y: {"a": -1e4 * y["a"], "b": -y["b"]},
        {"a": torch.ones(2), "b": torch.ones(3)},
        max_steps=50,
    )
    assert sol.status == "max_steps"
    assert sol.diagnosis().radius == pytest.approx(1e4, rel=0.05)


@pytest.mark.parametrize(
    ("pair", "limit"),
    [
        (pairs.ADAPTIVE_HEUN, 2.0),
        (pairs.BOSH3, 2.5127),
        (pairs.DOPRI5, 3.3066),
        (pairs.DOPRI8, 6.39),
    ],
)
def test_limits_of_stability(pair, limit):
    assert stability_limit(pair.a, pair.b) == pytest.approx(limit, abs=0.02)


def test_a_wall_that_a_float32_state_touches_and_cannot_pass():
    """At y = 2, the last number that f takes, steps that do not move the state are accepted, and
    all longer ones meet NaN: attempts run out, and accuracy is not why."""
    wall = ode.solve(
        lambda t, y: torch.where(y > 2, torch.nan, y), torch.ones(1, 1), t=(0, 1), max_steps=500
    )
    assert wall.status == ["max_steps"]
    assert float(wall.last) == 2.0
    found = wall.diagnosis(0)
    assert not found.stiff
    assert "not finite right beside this state" in str(found)
    assert "accuracy" not in str(found)
