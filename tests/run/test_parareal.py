"""Parareal: bitwise the loop's result where that is asked, to the tolerance otherwise, in no more
iterations than blocks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import odesolve as ode
from odesolve.run.part import carried
from odesolve.sampling.execute import program_for
from tests.products import LONG, diagonal, parametrize
from tests.rows import rows
from tests.run.rational import PATH, model, net, noise

MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5, 0.1], [1.0, -0.2, 0.3]], std=(0.3, 0.5))
SOLVERS = ["ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc_2"]


def both(executor, solver, steps=12, x=None, net=None, **options):
    """The loop's result and the executor's."""
    net, x = net or model(), noise() if x is None else x
    given = {"solver": solver, "steps": steps, "seed": 4, **options}
    given |= {"state" if options.get("reverse") else "noise": x}
    return ode.sample(net, **given), ode.sample(net, executor=executor, **given)


def apart(a, b):
    """Relative difference of every sample."""
    return (a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)


@pytest.mark.few(8)
@pytest.mark.parametrize(("solver", "blocks"), diagonal(list(ode.solvers()), [None, 3]))
def test_exact_is_bitwise_the_loop_for_every_solver(solver, blocks):
    parareal, steps = ode.Parareal(blocks, exact=True), 4 if solver == "annealed_langevin" else 8
    loop, got = both(parareal, solver, steps)
    assert torch.equal(loop, got)
    assert int(parareal.iterations.max()) <= (blocks or min(steps, round(2 * math.sqrt(steps))))


@pytest.mark.few(7)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "coarse", ["ddim", "heun", "euler", ode.plan("rk4", PATH, None, [1.0, 0.75, 0.5, 0.0])]
)
def test_exact_with_every_kind_of_coarse_solver(solver, coarse):
    parareal = ode.Parareal(exact=True, coarse=coarse)
    loop, got = both(parareal, solver, grid="uniform")
    assert torch.equal(loop, got)
    assert int(parareal.iterations.max()) <= (7 if isinstance(coarse, str) else 3)


@pytest.mark.few(4)
@parametrize(
    solver=[*SOLVERS, "predictor_corrector(norms=sample)"],
    coarse=[None, "ddim"],
    dtype=[torch.float32, torch.float64],
)
def test_exact_holds_with_guidance_conditions_and_transforms(solver, coarse, dtype):
    shift = torch.linspace(-0.3, 0.3, 5, dtype=dtype)
    guided = model(clip=1.5).guided(
        2.5, {"shift": shift}, {"shift": torch.zeros(5, dtype=dtype)}, interval=(0.1, 0.6)
    )
    loop, got = both(
        ode.Parareal(exact=True, coarse=coarse), solver, x=noise(dtype=dtype), net=guided
    )
    assert torch.equal(loop, got)


@pytest.mark.few(4)
@parametrize(
    predicts=["noise", "v", "velocity", "score", "edm"],
    coarse=[None, "ddim"],
    network=[None, torch.float32],
)
def test_exact_for_every_prediction_and_scaled_or_cast_input(predicts, coarse, network):
    other = ode.Model(
        lambda x, t: 0.4 * net(x, t) + 0.1 * x, PATH, predicts, time="t", dtype=network
    )
    for solver in ("dpmpp_2m", "heun"):
        loop, got = both(ode.Parareal(exact=True, coarse=coarse), solver, net=other)
        assert torch.equal(loop, got)


def test_exact_with_a_gradient_a_learned_variance_and_steps_without_a_call():
    classifier = model().classifier_guided(lambda x, t: -(x**2).flatten(1).sum(1), 0.3)
    assert torch.equal(*both(ode.Parareal(exact=True), "dpmpp_2m", net=classifier))
    learned = ode.Model(
        lambda x, t: torch.cat([net(x, t), 0.1 * x], 1), PATH, "data", learned_variance=True
    )
    assert torch.equal(*both(ode.Parareal(exact=True), "ddpm", net=learned, variance="learned"))
    assert torch.equal(*both(ode.Parareal(exact=True, coarse="ddim"), "ipndm_3", afs=True))
    assert torch.equal(
        *both(ode.Parareal(exact=True, coarse="ddim"), "ddim", reverse=True, x=noise())
    )
    table = model()
    table.path = ode.paths.Discrete.ddpm()
    assert torch.equal(*both(ode.Parareal(exact=True, coarse="ddim"), "dpmpp_2m", net=table))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("coarse", [None, "ddim"])
def test_a_vanishing_tolerance_takes_no_more_iterations_than_blocks(solver, coarse):
    parareal = ode.Parareal(4, tolerance=1e-300, coarse=coarse)
    loop, got = both(parareal, solver)
    assert torch.equal(loop, got)
    assert int(parareal.iterations.max()) <= 4


@pytest.mark.parametrize(
    "solver", ["dpmpp_2m", "dpmpp_2m_sde"] + ["ddim", "unipc_2", "heun"] * LONG
)
def test_digits_to_the_tolerance_in_fewer_rounds_than_calls(solver):
    """The few samples that lie between two digits may end on the other one, at any tolerance."""
    steps = 50 if solver in ("heun", "dpmpp_2m_sde") else 100
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parareal = ode.Parareal()
    loop, got = both(parareal, solver, steps, x, ode.problems.digits().model(PATH), grid="uniform")
    assert float(apart(loop, got).median()) < 3e-4
    calls = ode.plan(solver, PATH, steps).nfe
    assert parareal.report.rounds < 0.65 * calls
    assert float(parareal.report.evaluations.double().mean()) < 3.5 * calls


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "solver"),
    diagonal(["vp", "edm", "linear", "ve"], ["ddim", "dpmpp_2m", "euler", "ddpm"]),
)
def test_the_tolerance_holds_on_every_path(name, solver):
    path = {
        "vp": ode.paths.VP(),
        "edm": ode.paths.EDM(),
        "linear": ode.paths.Linear(),
        "ve": ode.paths.VE(),
    }[name]
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parareal = ode.Parareal(tolerance=1e-4)
    loop, got = both(parareal, solver, 64, x, MIXTURE.model(path))
    assert float(apart(loop, got).max()) < 1e-3
    assert parareal.report.rounds < 64


def test_a_smaller_tolerance_is_nearer_and_takes_more():
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    errors, rounds = [], []
    for tolerance in (1e-1, 1e-3, 1e-6):
        parareal = ode.Parareal(tolerance=tolerance)
        loop, got = both(parareal, "ddim", 64, x, MIXTURE.model(PATH))
        errors.append(float(apart(loop, got).max()))
        rounds.append(parareal.report.rounds)
    assert errors[0] > errors[1] > errors[2]
    assert rounds[0] < rounds[1] < rounds[2]


@pytest.mark.parametrize("coarse", [None, "ddim"])
def test_rounds_and_evaluations_are_those_of_the_pipeline(coarse):
    """5 blocks of 4 steps: iteration k solves 5 - k of them, and block k + 1 of the next begins as
    block k ends."""
    sizes = []

    def watched(x, t):
        sizes.append(len(x))
        return net(x, t)

    parareal = ode.Parareal(5, exact=True, coarse=coarse)
    ode.sample(ode.Model(watched, PATH, "data"), noise(), "dpmpp_2m", 20, executor=parareal)
    assert parareal.iterations.tolist() == [5] * 5
    assert parareal.report.evaluations.tolist() == [4 * (5 + 4 + 3 + 2 + 1)] * 5
    assert parareal.report.sample_rounds.tolist() == [20] * 5
    assert len(sizes) == parareal.report.rounds == 20
    assert sum(sizes) == int(parareal.report.evaluations.sum())
    loose = ode.Parareal(5, tolerance=1e-3, coarse=coarse)
    both(loose, "dpmpp_2m", 20, noise(1))
    k = int(loose.iterations)
    assert k < 5
    assert loose.report.rounds <= 4 * k + 5 - k


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("make", "solver"),
    diagonal(
        [{}, {"exact": True}, {"blocks": 5, "coarse": "heun"}, {"tolerance": 1e-2}],
        ["ddim", "unipc_2", "dpmpp_2m_sde"],
    ),
)
def test_a_batch_is_its_samples(make, solver):
    """Every sample has its own iterations, rounds and evaluations."""
    parareal = ode.Parareal(**make)
    x, shift = noise(4), torch.tensor([0.0, 0.2, -0.1, 0.4], dtype=torch.float64)
    whole = ode.sample(
        model(cond={"shift": shift}), x, solver, 20, executor=parareal, seed=2, ids=[3, 1, 9, 5]
    )
    report, iterations = parareal.report, parareal.iterations
    for k, i in enumerate([3, 1, 9, 5]):
        alone = model(cond={"shift": shift[k : k + 1]})
        got = ode.sample(alone, x[k : k + 1], solver, 20, executor=parareal, seed=2, ids=[i])
        assert torch.equal(got[0], whole[k])
        assert parareal.iterations[0] == iterations[k]
        assert parareal.report.evaluations[0] == report.evaluations[k]
        assert parareal.report.sample_rounds[0] == report.sample_rounds[k]


def test_samples_that_are_done_cost_nothing_more():
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parareal = ode.Parareal()
    both(parareal, "ddim", 50, x, ode.problems.digits().model(PATH), grid="uniform")
    first, last = int(parareal.iterations.min()), int(parareal.iterations.max())
    assert first < last
    cost = parareal.report.evaluations.double()
    assert cost[parareal.iterations == first].mean() < cost[parareal.iterations == last].mean()
    assert parareal.report.sample_rounds.min() < parareal.report.sample_rounds.max()


def test_noise_is_the_same_in_every_iteration():
    runs = [both(ode.Parareal(tolerance=1e-6), "dpmpp_2m_sde", 30, seed=s) for s in (4, 4, 5)]
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])
    for loop, got in runs:
        assert float(apart(loop, got).max()) < 1e-5


@pytest.mark.parametrize("coarse", [None, "heun"])
def test_a_coarse_solver_that_fits_badly_costs_no_accuracy(coarse):
    """Without the plan's noise a coarse step answers far too strongly, and takes its iterations."""
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loop, got = both(
        ode.Parareal(coarse=coarse),
        "dpmpp_2m_sde",
        50,
        x,
        ode.problems.digits().model(PATH),
        grid="uniform",
    )
    assert float(apart(loop, got).max()) < 5e-3


def test_noise_in_the_coarse_solve_spares_iterations():
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    taken = []
    for coarse in (None, "ddim"):
        parareal = ode.Parareal(coarse=coarse)
        both(parareal, "dpmpp_2m_sde", 50, x, ode.problems.digits().model(PATH), grid="uniform")
        taken.append(parareal.iterations.double().mean())
    assert taken[0] < 0.7 * taken[1]


def test_values_kept_beside_the_state_are_corrected_too():
    """UniPC goes on from a state of the step before: only with it corrected an iteration reaches
    beyond one block."""
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    taken = {}
    for solver in ("ddim", "unipc_2"):
        parareal = ode.Parareal(10)
        both(parareal, solver, 100, x, ode.problems.digits().model(PATH), grid="uniform")
        taken[solver] = parareal.iterations.double().mean()
    assert taken["unipc_2"] < taken["ddim"] + 1
    program = program_for(model(), ode.plan("unipc_2", PATH, 12), torch.float64, None)
    assert [len(kept) for kept in carried(program, [0, 1, 6])] == [0, 2, 3]


def test_a_coarse_plan_says_where_the_blocks_begin():
    times = []

    def watched(x, t):
        times.append(sorted({round(v, 6) for v in t.tolist()}))
        return net(x, t)

    plan = ode.plan("ddim", PATH, None, [1.0, 0.75, 0.25, 0.0])
    parareal = ode.Parareal(coarse=plan)
    ode.sample(ode.Model(watched, PATH, "data"), noise(), "ddim", 8, "uniform", executor=parareal)
    assert times[0] == [1.0]
    assert times[1] == [0.75, 0.875]
    assert times[2] == [0.25, 0.625, 0.75]  # block 0 is done, and block 1 begins again


def test_a_sample_that_diverges_leaves_the_others_alone():
    shift = torch.tensor([0.0, torch.nan, 0.1], dtype=torch.float64)
    for exact in (False, True):
        parareal, net, x = ode.Parareal(exact=exact), model(cond={"shift": shift}), noise(3)
        with pytest.raises(ode.Diverged):
            ode.sample(net, x, "ddim", 12, executor=parareal)
        program = program_for(net, ode.plan("ddim", PATH, 12), x.dtype, None)
        got = parareal.run(program, x, None, net)
        rest = parareal.run(program, x[[0, 2]], None, model(cond={"shift": shift[[0, 2]]}))
        assert torch.equal(got[[0, 2]], rest)
        assert not bool(torch.isfinite(got[1]).any())


def test_guesses_that_overflow_end_where_the_loop_does():
    """Guesses far outside, where the network explodes, are not taken for a result that stands
    still."""
    largest = []

    def steep(x, t):
        out = torch.where(x.abs() > 8.0, torch.exp(40.0 * x.abs()), -0.5 * x * x.abs())
        largest.append(float(out.abs().nan_to_num(torch.inf).max()))
        return out

    wild, x = ode.Model(steep, PATH, "data"), 3.0 * noise()
    for coarse in (None, "ddim", "euler"):
        loop, got = both(ode.Parareal(4, coarse=coarse), "dpmpp_2m", 20, x, wild)
        assert bool(torch.isfinite(loop).all())
        assert float(apart(loop, got).max()) < 1e-3
        assert max(largest) > 1e100
        largest.clear()


@rows("exact", [True, False])
def test_the_bar_is_told_of_calls(exact):
    net, seen = model(), []
    program = program_for(net, ode.plan("ddim", PATH, 12), torch.float64, None)
    ode.Parareal(4, exact=exact).run(program, noise(), None, net, seen.append)
    assert seen[-1] == 11
    assert seen == sorted(seen)
    assert len(seen) > 1


@rows(
    ("arguments", "message"),
    [
        ({"blocks": 1}, "blocks=1: give a whole number of at least 2"),
        ({"blocks": 2.5}, "blocks=2.5"),
        ({"tolerance": 0.0}, "exact=True"),
        ({"coarse": 3}, "coarse=3"),
        ({"coarse": "heunn"}, "did you mean 'heun'"),
    ],
)
def test_errors_at_the_door(arguments, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.Parareal(**arguments)


@rows(
    ("arguments", "steps", "message"),
    [
        ({}, 1, "at least 2; give more steps"),
        ({"blocks": 9}, 8, "give from 2 to 8"),
        ({"coarse": "ddpm"}, 8, "ddpm draws noise: give a deterministic"),
        ({"coarse": "dpmpp_2m"}, 8, "keeps values from step to step"),
        ({"coarse": "ddim(afs)"}, 8, "makes calls in 5 of 6 steps"),
        (
            {"coarse": ode.plan("ddim", PATH, 3)},
            8,
            "t=0.666667, at which no step of ddim begins: .* times from 1, 0.875",
        ),
        (
            {"coarse": ode.plan("ddim", PATH, None, [0.75, 0.5, 0.0])},
            8,
            "the first and then 0 as the last",
        ),
        (
            {"coarse": ode.plan("ddim", PATH, None, [1.0, 0.5, 0.25])},
            8,
            "the first and then 0 as the last",
        ),
        (
            {"coarse": ode.plan("ddim", PATH, None, [1.0, 0.0])},
            8,
            "1 block: give a plan of at least 2 steps",
        ),
        (
            {"coarse": ode.plan("ddim", PATH, 4), "blocks": 2},
            8,
            "blocks=2 and a coarse plan of 4 steps",
        ),
    ],
)
def test_what_cannot_be_cut_or_joined(arguments, steps, message):
    with pytest.raises(ode.OdesolveError, match=message):
        ode.sample(model(), noise(), "ddim", steps, "uniform", executor=ode.Parareal(**arguments))


def test_a_plan_that_goes_back_in_time_has_no_other_coarse_solver():
    """Where churn begins, a state is raised above the one of the step before."""
    given = {"steps": 40, "grid": "karras", "s_tmax": 1.0}
    times = [i.t for i in ode.plan("euler_churn", PATH, **given).evaluations]
    assert any(a < b for a, b in itertools.pairwise(times))
    loop, got = both(ode.Parareal(40, exact=True), "euler_churn", **given)
    assert torch.equal(loop, got)
    with pytest.raises(ode.OdesolveError, match=r"goes back to earlier times.* give coarse=None"):
        both(ode.Parareal(40, coarse="ddim"), "euler_churn", **given)
