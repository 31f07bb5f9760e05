"""iPNDM begun with a step of Heun's, as PLMS is."""

import pytest

import odesolve as ode
from odesolve import grids, paths
from odesolve.errors import OdesolveError

PATH = paths.Discrete.stable_diffusion()
TIMES = (0.9, 0.7, 0.5, 0.3, 0.1)


def plan(solver: str, times, **options) -> ode.Plan:
    return ode.plan(solver, PATH, grid=grids.Listed(values=tuple(times)), **options)


def test_its_first_step_is_heuns():
    for order in (3, 4):
        assert (
            plan(f"ipndm_{order}", TIMES[:2], start="heun").diff(plan("heun_edm", TIMES[:2])).same()
        )


def test_it_takes_one_evaluation_more_and_goes_on_with_two_slopes():
    started = plan("ipndm_4", TIMES, start="heun")
    assert [e.t for e in started.evaluations] == [0.9, 0.7, 0.7, 0.5, 0.3]
    assert plan("ipndm_4", TIMES).nfe == 4
    # The slope at the end of the first step is asked for again at its corrected state; the one
    # before it is the first.
    inputs, _ = started.matrix()
    assert "D2" in inputs[2]
    assert set(inputs[3]) == {"x0", "D1", "D2", "D3"}
    span = lambda s, t: PATH.point(t).rho - PATH.point(s).rho
    s, t = PATH.point(0.7), PATH.point(0.5)
    # of D3 in the noise prediction at 0.7
    weight = -1.5 * t.alpha * span(0.7, 0.5) * s.alpha / s.sigma
    assert abs(inputs[3]["D3"] - weight) < 1e-14


def test_another_start_is_refused():
    with pytest.raises(OdesolveError, match=r"start='single': choose 'ramp'.* or 'heun'"):
        plan("ipndm_4", TIMES, start="single")
