"""What a solver is stands with the solver: its family, the grid that suits it, how a loop drives it."""

from __future__ import annotations

import pytest

import odesolve as ode
from odesolve.planning.defaults import default_grid
from odesolve.planning.labels import parse_grid
from odesolve.profile.report import family
from odesolve.solvers import REGISTRY, Outside
from odesolve.solvers.families import COLOURS, SPARE, colour_of

EXPECTED = {
    "Euler": "euler euler_ancestral_rf",
    "Runge-Kutta": "midpoint heun ralston heun3 rk4 rk4_38",
    "Heun (EDM)": "heun_edm",
    "Adams-Bashforth": "ab2 ab3 ab4",
    "iPNDM": "ipndm_3 ipndm_4 ipndm_v3 ipndm_v4",
    "DDIM": "ddim dpm_solver_1",
    "DDPM": "ddpm",
    "DPM-Solver": (
        "dpm_solver_2 dpm_solver_3 dpm_solver_2m dpm2_ancestral sde_dpm_solver_1 sde_dpm_solver_2m"
    ),
    "DPM-Solver++": (
        "dpmpp_2s dpmpp_3s dpmpp_2m dpmpp_3m dpmpp_3m_published dpmpp_2s_ancestral sde_dpmpp_1 "
        "dpmpp_2m_sde dpmpp_3m_sde dpmpp_sde"
    ),
    "RES": "res_2m exp_heun",
    "UniPC": "unipc_1 unipc_2 unipc_3",
    "DEIS": " ".join(f"deis_{basis}{n}" for basis in ("tab", "rhoab", "lamab") for n in (1, 2, 3)),
    "churn (EDM)": "euler_churn heun_churn dpm2_churn",
    "ER-SDE": "er_sde_1 er_sde_2 er_sde_3",
    "SEEDS": "seeds_2 seeds_3",
    "SA-Solver": "sa_solver",
    "Restart": "restart",
    "Langevin": "predictor_corrector annealed_langevin",
    "Euler-Maruyama": "euler_maruyama",
    "stochastic Runge-Kutta": "stochastic_heun sra1 shark",
    "flow map": "flow_map",
    "consistency": "consistency",
}
FAMILY = {solver: name for name, solvers in EXPECTED.items() for solver in solvers.split()}
EVERY = {**REGISTRY, **REGISTRY.special}


@pytest.fixture
def registered():
    """Registers a solver for one test."""
    names = []

    def register(name, **more):
        def write(w, *, start: float = 0.0):
            x = w.start
            for s, t in w.steps:
                a = t.sigma / s.sigma
                x = w.step(t, a * x + (t.alpha - a * s.alpha) * w.data(x, s))

        ode.solver(name, 1, 1, "a test", **more)(write)
        names.append(name)
        return REGISTRY[name]

    yield register
    for name in names:
        del REGISTRY[name]


def test_every_solver_has_the_family_of_its_authors():
    found = {name: entry.family for name, entry in EVERY.items()}
    assert found == FAMILY, "write a new solver into EXPECTED, beside its family"
    assert {name: family(name) for name in EVERY} == FAMILY


def test_every_family_has_a_colour_of_its_own():
    colours = [colour_of(name) for name in EXPECTED]
    assert len(set(colours)) == len(colours)
    assert set(colours).isdisjoint(SPARE)
    assert set(COLOURS) == set(EXPECTED)


def test_the_well_known_solvers_are_shown_in_their_order():
    known = [entry.name for entry in REGISTRY.baselines()]
    assert known == ["ddim", "dpmpp_2m", "heun_edm", "unipc_2", "euler", "heun"]


@pytest.mark.parametrize("name", EVERY)
def test_what_a_loop_from_outside_sets_is_an_option(name):
    entry = EVERY[name]
    assert set(entry.outside.options) <= set(entry.options)
    assert entry.outside.taper == ("taper" in entry.options)
    # one network call per step from any step on, of all that start otherwise
    assert ("start" in entry.options) == (entry.outside.options.get("start") == "ramp")
    assert entry.outside.eta == (name == "ddim")


@pytest.mark.parametrize("name", EVERY)
def test_the_grid_that_suits_a_solver_is_a_grid(name):
    in_rho = EVERY[name].clock == "rho"
    expected = "vp_time(2,merged)" if in_rho else "karras"
    assert default_grid(ode.paths.VP(), name) == parse_grid(expected)
    assert default_grid(ode.paths.Linear(), name) == ode.grids.Uniform()


def test_a_solver_that_declares_nothing_is_a_family_of_its_own(registered):
    entry = registered("plain")
    assert (entry.family, family("plain")) == ("plain", "plain")
    assert (entry.grid, entry.baseline, entry.outside) == ("karras", 0, Outside())
    assert colour_of("plain") in SPARE
    assert family("never_registered") == "never_registered"


def test_a_solver_declares_its_family_and_what_suits_it(registered):
    entry = registered("kin", family="UniPC", grid="quadratic", baseline=7, clock="rho")
    assert family("kin") == "UniPC"
    assert REGISTRY.baselines()[-1] is entry
    assert default_grid(ode.paths.VP(), "kin") == ode.grids.NAMED["quadratic"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family": 3}, "family=3: give the name of a family"),
        ({"family": " "}, "give the name of a family"),
        ({"grid": 4}, "grid=4: give a text"),
        ({"baseline": -1}, "baseline"),
        ({"outside": "ramp"}, "give a solvers.Outside"),
    ],
    ids=str,
)
def test_what_cannot_be_declared_is_refused(given, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.solver("wrong", 1, 1, "a test", **given)
