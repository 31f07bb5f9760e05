"""A solver of a user's own, one function in one file: planned, sampled, profiled and driven by
loops from outside as what it says it is."""

import pytest
import torch

import odesolve as ode
from odesolve.profile.candidates import _cheap
from odesolve.profile.plotting import _styles
from odesolve.solvers import Outside
from odesolve.solvers.families import SPARE

SOURCE = '''
import odesolve as ode
from odesolve.solvers import Outside


@ode.solver(
    "own_2m", 2, 1, "Lu et al. 2022b", family={family}, grid="quadratic",
    outside=Outside({{"ahead": 0.5}}, habits="UniPCMultistepScheduler"),
)
def own_2m(w, *, ahead: float = 0.0, start: float = 1.0, taper: float = 1.0):
    """DPM-Solver++(2M) with ahead=0.5, DDIM with 0; start and taper are factors of the data."""
    x = w.start
    last = None
    for s, t in w.steps:
        data = w.data(x, s)
        used = data
        if last is not None and t.sigma > 0:
            used = data + ahead * (t.lam - s.lam) / (s.lam - last[0].lam) * (data - last[1])
        last = (s, w.keep(data))
        a = t.sigma / s.sigma
        x = w.step(t, a * x + (t.alpha - a * s.alpha) * start * taper * used)
'''
FAMILY = pytest.mark.parametrize("family", ['"DPM-Solver++"', '"mine"', '""'])


@pytest.fixture
def solver(outside):
    return lambda family='"mine"': outside("own_solver", SOURCE.format(family=family))


@FAMILY
def test_it_is_drawn_and_compared_as_what_it_says(solver, family):
    solver(family)
    name = family.strip('"') or "own_2m"
    assert ode.solvers()["own_2m"].family == name
    problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,))
    noise = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rivals = ["own_2m", "dpmpp_2m"]
    found = ode.profile(
        problem.model(ode.paths.VP()), rivals, [6], ["karras"], noise=noise, timing=0
    )
    styles = _styles([found], "median")
    same = styles["own_2m"]["color"] == styles["dpmpp_2m"]["color"]
    assert same == (name == "DPM-Solver++")
    assert same or styles["own_2m"]["color"] in SPARE
    # it is the nearest rival of another family, or none
    assert (f"by comparison {name} " in found.advice()) != same


def test_its_grid_is_taken_where_none_is_named(solver):
    from odesolve.planning.defaults import default_grid

    solver()
    assert default_grid(ode.paths.VP(), "own_2m") == ode.grids.NAMED["quadratic"]
    assert default_grid(ode.paths.Linear(), "own_2m") == ode.grids.Uniform()


def test_a_scheduler_of_diffusers_drives_it_as_it_declares(solver):
    """Options that are called start and taper mean what the solver says, and are not touched."""
    diffusers = pytest.importorskip("diffusers")
    from odesolve.integrations.diffusers import OdesolveScheduler

    solver()
    config = diffusers.DPMSolverMultistepScheduler().config
    mine = OdesolveScheduler.from_config(config, solver="own_2m")
    assert mine.convention.name == "UniPCMultistepScheduler"
    mine.set_timesteps(5)
    chosen = mine._walk().schedule.choice
    assert chosen.options == {"ahead": 0.5}
    theirs = OdesolveScheduler.from_config(
        config, solver="dpmpp_2m", like=mine.convention.name, lower_order_final=False
    )
    theirs.set_timesteps(5)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    y = x
    for t in mine.timesteps:
        out = 0.1 * torch.cos(x)
        x = mine.step(out, t, x).prev_sample
        y = theirs.step(0.1 * torch.cos(y), t, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_unknown_habits_are_refused(outside):
    diffusers = pytest.importorskip("diffusers")
    from odesolve.integrations.diffusers import OdesolveScheduler

    outside("own_solver", SOURCE.format(family='""').replace("UniPCMulti", "UniPCMany"))
    config = diffusers.DPMSolverMultistepScheduler().config
    with pytest.raises(ode.OdesolveError, match="habits of own_2m 'UniPCManystepScheduler'"):
        OdesolveScheduler.from_config(config, solver="own_2m")


def test_k_diffusion_runs_it(solver):
    from odesolve.integrations.k_diffusion.driver import solve

    solver()
    problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,))
    model = problem.model(ode.paths.EDM(), "data")
    x = 5 * torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    levels = torch.tensor([5.0, 2.0, 0.7, 0.2, 0.0], dtype=torch.float64)

    def denoiser(y, sigma):
        return model.data(y, sigma)

    mine = solve("own_2m", denoiser, x, levels, ahead=0.5)
    torch.testing.assert_close(mine, solve("dpmpp_2m", denoiser, x, levels))


def written(looks=1):
    """DDIM by a function of the same name each time, of the mean of so many looks."""

    def ddim(w, *, extrapolate: bool = True):
        x = w.start
        for s, t in w.steps:
            a = t.sigma / s.sigma
            gain = (t.alpha - a * s.alpha) / looks
            value = a * x
            for _ in range(looks):
                value = value + gain * w.data(x, s)
            x = w.step(t, value)

    return ddim


def register(name, write, **more):
    return ode.solver(name, 1, 1, "a test", **more)(write)


@pytest.mark.few(23)
@pytest.mark.parametrize("name", [*ode.solvers(), *ode.solvers().special])
def test_no_solver_of_the_library_is_replaced(name, outside):
    before = ode.solvers().find(name)
    with pytest.raises(ode.OdesolveError, match=rf"give .*ddim another name, such as 'my_{name}'"):
        register(name, written())
    assert ode.solvers().find(name) is before


def test_a_function_that_is_made_again_replaces_itself(outside):
    """As when a cell of a notebook runs again; plans are then those of the new function."""
    register("mine", written())
    first = ode.plan("mine", ode.paths.VP(), 3)
    register("mine", written(2), special=True)
    assert "mine" not in ode.solvers()
    assert ode.plan("mine", ode.paths.VP(), 3).nfe == 2 * first.nfe == 6
    with pytest.raises(ode.OdesolveError, match=r"the name 'mine' is that of the solver .*written"):
        register("mine", lambda w: None)


def test_two_functions_of_one_name_have_their_own_plans():
    plans = [ode.plan(written(looks), ode.paths.VP(), 3) for looks in (1, 2)]
    assert [plan.nfe for plan in plans] == [3, 6]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("MySolver", "mysolver"),
        ("my-solver", "my_solver"),
        ("my solver", "my_solver"),
        ("my++", "mypp"),
        ("my(1)", "my"),
        ("", "my_solver"),
        ("2m", "m"),
        ("Euler a", "euler_a"),
        ("DPMPP_2M", "my_dpmpp_2m"),
        (3, "my_solver"),
    ],
)
def test_a_name_that_would_not_be_found_is_refused(name, instead, outside):
    with pytest.raises(ode.OdesolveError, match=rf"lower-case letters.*: give '{instead}'$"):
        register(name, written())
    register(instead, written())
    assert ode.plan(instead.upper(), ode.paths.VP(), 3).solver == instead


@pytest.mark.parametrize("name", ["plms", "sample_euler", "euler_ancestral", "unipcmultistep"])
def test_a_name_of_another_program_keeps_its_meaning(name, outside):
    meant = ode.plan(name, ode.paths.VP(), 3).solver.partition("(")[0]
    with pytest.raises(ode.OdesolveError, match=rf"another program's for the solver '{meant}'"):
        register(name, written())


def test_a_name_that_has_no_equal_here_is_free(outside):
    """Who writes what the library lacks may call it by its name."""
    with pytest.raises(ode.OdesolveError):
        ode.plan("euler_cfg_pp", ode.paths.VP(), 3)
    register("euler_cfg_pp", written())
    assert ode.plan("euler_cfg_pp", ode.paths.VP(), 3).solver == "euler_cfg_pp"


@pytest.mark.parametrize("options", [{"nope": 1}, {"extrapolate": 3}])
def test_options_for_loops_are_checked_when_it_registers(options, outside):
    with pytest.raises(ode.OdesolveError, match=rf"Outside\(options={{'{next(iter(options))}'"):
        register("mine", written(), outside=Outside(options))
    assert "mine" not in ode.solvers()


def test_an_option_called_start_is_the_solvers_own(outside):
    """Profiles start cheaply what says so, and touch no option by its name."""
    register("plain", lambda w, *, start: None, starters=1)
    ramp = Outside({"begin": "early"})
    register("ramped", lambda w, *, begin="late": None, starters=1, outside=ramp)
    assert [_cheap(n) for n in ("plain", "ramped")] == ["plain", "ramped(begin=early)"]
    assert _cheap("dpmpp_3m") == "dpmpp_3m(start=ramp)"
