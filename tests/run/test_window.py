"""Windows: bitwise the loop's result where that is asked, to the tolerance otherwise, in no more
rounds than calls."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.plans.instructions import Apply
from odesolve.plans.recurrence import recurrence
from odesolve.run.sweeps import Sweeps
from odesolve.sampling.execute import program_for
from tests.products import diagonal, parametrize
from tests.rows import rows
from tests.run.rational import PATH, model, net, noise

MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5, 0.1], [1.0, -0.2, 0.3]], std=(0.3, 0.5))


def both(window, solver, steps=12, x=None, net=None, **options):
    """The loop's result and the window's."""
    net, x = net or model(), noise() if x is None else x
    given = {"solver": solver, "steps": steps, "seed": 4, **options}
    return ode.sample(net, x, **given), ode.sample(net, x, executor=window, **given)


def calls(solver, steps):
    """Network calls of the loop."""
    return ode.sample(model(), noise(), solver, steps, seed=4, full=True).nfe


def apart(a, b):
    """Largest relative difference of a sample."""
    return float(((a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).max())


@pytest.mark.few(8)
@pytest.mark.parametrize(("solver", "size"), diagonal(list(ode.solvers()), [None, 5]))
def test_exact_is_bitwise_the_loop_for_every_solver(solver, size):
    window = ode.Window(size, exact=True)
    steps = 4 if solver == "annealed_langevin" else 8
    loop, got = both(window, solver, steps)
    assert torch.equal(loop, got)
    assert window.report.rounds <= calls(solver, steps)


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("acceleration", ["secant", None])
def test_exact_holds_with_guidance_conditions_and_transforms(dtype, acceleration):
    shift = torch.linspace(-0.3, 0.3, 5, dtype=dtype)
    guided = model(clip=1.5).guided(
        2.5, {"shift": shift}, {"shift": torch.zeros(5, dtype=dtype)}, interval=(0.1, 0.6)
    )
    window = ode.Window(exact=True, acceleration=acceleration)
    for solver in ("ddim", "dpmpp_2m_sde", "predictor_corrector(norms=sample)"):
        loop, got = both(window, solver, x=noise(dtype=dtype), net=guided)
        assert torch.equal(loop, got)


@pytest.mark.parametrize("predicts", ["noise", "v", "velocity", "score", "edm"])
def test_exact_for_every_prediction(predicts):
    other = ode.Model(lambda x, t: 0.4 * net(x, t) + 0.1 * x, PATH, predicts, time="t")
    loop, got = both(ode.Window(exact=True), "dpmpp_2m", net=other)
    assert torch.equal(loop, got)


@pytest.mark.few(7)
@pytest.mark.parametrize(
    ("solver", "options"), diagonal(list(ode.solvers()), [{}, {"size": 6}, {"stride": 1}])
)
def test_every_solver_to_the_tolerance(solver, options):
    window = ode.Window(tolerance=1e-6, **options)
    loop, got = both(window, solver, 4 if solver == "annealed_langevin" else 9)
    assert apart(loop, got) < 1e-5
    plan = ode.plan(solver, PATH, 4 if solver == "annealed_langevin" else 9)
    assert (window.report.why is not None) == isinstance(recurrence(plan), str)


@pytest.mark.few(3)
@parametrize(acceleration=["secant", "anderson", None], size=[None, 4, 1], stride=[None, 4])
def test_a_vanishing_tolerance_takes_no_more_rounds_than_calls(acceleration, size, stride):
    for solver in ("ddim", "dpmpp_2m", "heun", "sde_dpmpp_1"):
        window = ode.Window(size, tolerance=1e-300, acceleration=acceleration, stride=stride)
        loop, got = both(window, solver)
        assert apart(loop, got) < 1e-13
        assert window.report.rounds <= calls(solver, 12)
        if size == 1:
            assert window.report.rounds == calls(solver, 12)


@pytest.mark.parametrize(
    ("window", "solver"),
    diagonal(
        [
            ode.Window(),
            ode.Window(7, stride=2),
            ode.Window(acceleration="anderson"),
            ode.Window(exact=True),
        ],
        ["ddim", "unipc_2", "dpmpp_2m_sde"],
    ),
)
def test_a_batch_is_its_samples(window, solver):
    """Every sample has its own window, rounds and evaluations."""
    x, shift = noise(4), torch.tensor([0.0, 0.2, -0.1, 0.4], dtype=torch.float64)
    whole = ode.sample(
        model(cond={"shift": shift}), x, solver, 20, executor=window, seed=2, ids=[3, 1, 9, 5]
    )
    report = window.report
    for k, i in enumerate([3, 1, 9, 5]):
        alone = model(cond={"shift": shift[k : k + 1]})
        got = ode.sample(alone, x[k : k + 1], solver, 20, executor=window, seed=2, ids=[i])
        assert torch.equal(got[0], whole[k])
        assert window.report.evaluations[0] == report.evaluations[k]
        assert window.report.sample_rounds[0] == report.sample_rounds[k]
    assert report.rounds == int(report.sample_rounds.max())


@pytest.mark.parametrize(
    ("name", "solver"),
    diagonal(["vp", "edm", "linear", "ve"], ["ddim", "dpmpp_2m", "euler", "ddpm"]),
)
def test_few_rounds_on_every_path(name, solver):
    path = {
        "vp": ode.paths.VP(),
        "edm": ode.paths.EDM(),
        "linear": ode.paths.Linear(),
        "ve": ode.paths.VE(),
    }[name]
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    window = ode.Window(tolerance=1e-4)
    loop, got = both(window, solver, 60, x, MIXTURE.model(path))
    assert apart(loop, got) < 1e-3
    assert window.report.rounds <= 20
    assert window.report.evaluations.double().mean() <= 5 * 60


def test_fewer_rounds_and_evaluations_than_plain_sweeps():
    x = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    taken = {}
    for acceleration in ("secant", None):
        window = ode.Window(tolerance=1e-4, acceleration=acceleration, stride=1)
        loop, got = both(window, "ddim", 100, x, MIXTURE.model(PATH))
        assert apart(loop, got) < 1e-3
        taken[acceleration] = window.report.sample_rounds.double().mean()
    fine, coarse = ode.Window(stride=1), ode.Window(stride=4)
    for window in (fine, coarse):
        both(window, "ddim", 100, x, MIXTURE.model(PATH))
    assert taken["secant"] < taken[None] - 1
    assert coarse.report.evaluations.double().mean() < 0.8 * fine.report.evaluations.double().mean()


def test_sweeps_that_overflow_begin_again(monkeypatch):
    """Slopes, and guesses far from the solution, may leave the numbers where the loop does not."""

    def steep(x, t):
        return torch.where(x.abs() > 8.0, torch.exp(40.0 * x.abs()), -0.5 * x * x.abs())

    wild = ode.Model(steep, PATH, "data")
    recovered, recover = [], Sweeps._recover
    monkeypatch.setattr(
        Sweeps, "_recover", lambda s, bad: (recovered.append(int(bad.sum())), recover(s, bad))
    )
    x = noise()
    window = ode.Window(tolerance=1e-8, spread=100.0)  # a first guess far outside
    loop, got = both(window, "ddim", 20, x, wild)
    assert any(recovered)
    assert bool(torch.isfinite(loop).all())
    assert apart(loop, got) < 1e-6
    assert window.report.rounds <= 20


def test_a_sample_that_diverges_leaves_the_others_alone():
    shift = torch.tensor([0.0, torch.nan, 0.1], dtype=torch.float64)
    for window in (ode.Window(), ode.Window(exact=True), ode.Window(3)):
        net, x = model(cond={"shift": shift}), noise(3)
        with pytest.raises(ode.Diverged):
            ode.sample(net, x, "ddim", 12, executor=window)
        found = ode.sample(net, x, "ddim", 12, executor=window, full=True)
        assert found.status == "diverged"
        assert (found.t, found.steps) == (1.0, 0)
        program = program_for(net, ode.plan("ddim", PATH, 12), x.dtype, None)
        got = window.run(program, x, None, net)
        assert torch.equal(
            got[[0, 2]], window.run(program, x[[0, 2]], None, model(cond={"shift": shift[[0, 2]]}))
        )
        assert not bool(torch.isfinite(got[1]).any())


def test_only_what_a_window_holds_is_kept():
    """The largest tensor grows with the window, not with the plan."""
    largest = []

    def watch(x, t):
        largest.append(len(x))
        return net(x, t)

    ode.sample(ode.Model(watch, PATH, "data"), noise(), "ddim", 200, executor=ode.Window(10))
    assert max(largest) <= 10 * 5


@pytest.mark.few(3)
@pytest.mark.parametrize("solver", ["ddim", "euler", "ipndm_3", "dpmpp_2m_sde"])
@pytest.mark.parametrize("size", [None, 25])
def test_a_coarse_start(solver, size):
    """It may take fewer evaluations, and where the first guess is good already it does not: only
    the result is promised."""
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for path in (PATH, ode.paths.EDM()):
        window = ode.Window(size, tolerance=1e-4, coarse=ode.plan("dpmpp_2m", path, 6, "karras"))
        loop, got = both(window, solver, 50, x, MIXTURE.model(path), grid="karras")
        assert apart(loop, got) < 1e-3
        assert 6 < window.report.rounds <= 56
        assert int(window.report.evaluations.min()) > 6


def test_a_coarse_start_spares_evaluations_where_its_plan_is_near():
    digits = ode.problems.digits()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    taken = []
    for coarse in (None, ode.plan("dpmpp_2m", PATH, 5)):
        window = ode.Window(coarse=coarse)
        both(window, "ddim", 50, x, digits.model(PATH), grid="uniform")
        taken.append(window.report.evaluations.double().mean())
    assert taken[1] < 0.9 * taken[0]


def test_guided_models_and_linear_plans_with_clip():
    guided = model(clip=1.5).guided(
        2.5, {"shift": torch.full((5,), 0.1)}, {"shift": torch.zeros(5)}
    )
    loop, got = both(ode.Window(tolerance=1e-6), "dpmpp_2m", 20, net=guided)
    assert apart(loop, got) < 1e-5


def test_a_plan_without_a_path_and_afs():
    plan = ode.plan("dpmpp_2m", PATH, 12)
    bare = ode.Plan(plan.solver, plan.grid, plan.instructions, plan.result)
    x = noise()
    window = ode.Window(tolerance=1e-6)
    assert (
        apart(ode.sample(model(), x, plan=plan), ode.sample(model(), x, plan=bare, executor=window))
        < 1e-5
    )
    loop, got = both(window, "ipndm_3", afs=True)
    assert apart(loop, got) < 1e-5


@rows("exact", [True, False])
def test_the_bar_is_told_of_calls(exact):
    net, seen = model(), []
    program = program_for(net, ode.plan("ddim", PATH, 12), torch.float64, None)
    ode.Window(4, exact=exact).run(program, noise(), None, net, seen.append)
    assert seen[-1] == 11
    assert seen == sorted(seen)


@rows(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"tolerance": 0.0}, "exact=True"),
        ({"acceleration": "newton"}, "'secant'"),
        ({"stride": 0}, "stride=0"),
        ({"exact": True, "acceleration": "anderson"}, "anderson"),
        ({"exact": True, "coarse": ode.plan("ddim", PATH, 3)}, "coarse"),
    ],
)
def test_errors_at_the_door(arguments, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.Window(**arguments)


@pytest.mark.parametrize(
    ("solver", "message"), [("heun", "9 evaluations in 5 steps"), ("ddpm", "draws noise")]
)
def test_what_cannot_be_a_coarse_start(solver, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.sample(
            model(), noise(), "ddim", 30, executor=ode.Window(coarse=ode.plan(solver, PATH, 5))
        )


def test_langevin_steps_are_named_where_they_are_the_reason():
    window = ode.Window()
    both(window, "predictor_corrector(norms=sample)", 6)
    assert "langevin" in window.report.why
    assert any(
        isinstance(i, Apply)
        for i in ode.plan("predictor_corrector(norms=sample)", PATH, 6).instructions
    )
