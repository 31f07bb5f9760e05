"""Log-densities carried by the rows of a plan: exact where the flow is the Gaussian's, of the
solver's order elsewhere."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths, run, trace
from odesolve.errors import OdesolveError
from odesolve.likelihood.carried import carry
from odesolve.lowering.lower import lower
from odesolve.noise.keys import keys_of
from tests.products import LONG, diagonal, product

PATHS = {"vp": paths.VP(), "ve": paths.VE(), "edm": paths.EDM(), "linear": paths.Linear().flipped()}
MIXTURE = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
GAUSSIAN = ode.problems.gaussian(mean=[0.5, -0.3], cov=[[0.5, 0.2], [0.2, 0.3]])
ORDERS = {"ddim": 1, "dpmpp_2m": 2, "dpmpp_3m": 3, "heun": 2, "rk4": 4}
# multistep methods start at a lower order, and show theirs later
COARSE = {"dpmpp_2m": 64, "dpmpp_3m": 64}


def middle(path):
    """A grid between log-SNRs where every method is at its order."""
    first, last = path.t_of_lam(torch.tensor([-1.5, 1.5], dtype=torch.float64)).tolist()
    return grids.Asinh(start=first, stop=last)


def states(problem, path, t, n=16):
    p, g = path.point(t), torch.Generator().manual_seed(0)
    return p.alpha * problem.sample(n) + p.sigma * torch.randn(
        n, problem.dim, dtype=torch.float64, generator=g
    )


def exact(x, estimator=None):
    return (estimator or trace.Exact()).begin(x, keys_of(len(x), 7, None, x.device))


@functools.cache
def arrival(problem, path, start, stop):
    """Where the flow takes the states of a start time: exactly for one Gaussian, to 1e-9 for
    several."""
    if len(problem.means) == 1:
        return problem.solution(states(problem, path, start), path, start, stop)
    plan = ode.plan("rk4", path, 400, grids.Asinh(start=start, stop=stop), clock="rho")
    return run.run(
        lower(plan, path, problem.model(path).reading),
        states(problem, path, start),
        None,
        problem.model(path),
    )


@torch.no_grad()
def error(problem, path, solver, steps, reverse=False, width=None, grid=None):
    """Mean error of the carried log-density against the exact one at the two ends of the flow."""
    plan = ode.plan(solver, path, steps, grid or middle(path), reverse=reverse)
    first, last = plan.grid[0], plan.grid[-1]
    x = states(problem, path, first)
    found = carry(plan, problem.model(path), x, exact(x), width)
    y = arrival(problem, path, first, last)
    want = problem.log_prob(y, path, last) - problem.log_prob(x, path, first)
    return float((found.change[:, 0] - want).abs().mean())


# Where the flow arrives is solved for, by path and direction: two of them in the short suite.
WHERE = [("vp", False), ("linear", True)]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("solver", "name", "reverse"),
    product(list(ORDERS), list(PATHS), [False, True])
    if LONG
    else [(solver, *WHERE[k % 2]) for k, solver in enumerate(ORDERS)],
)
def test_order_on_a_mixture(solver, name, reverse):
    coarse, fine = (
        error(MIXTURE, PATHS[name], solver, COARSE.get(solver, 32) * k, reverse) for k in (1, 2)
    )
    assert math.log2(coarse / fine) > ORDERS[solver] - 0.2


@pytest.mark.parametrize(
    ("solver", "reverse"),
    diagonal(list(ORDERS) if LONG else ["ddim", "dpmpp_3m"], [False, True]),
)
def test_order_on_a_gaussian(solver, reverse):
    coarse, fine = (
        error(GAUSSIAN, PATHS["vp"], solver, COARSE.get(solver, 32) * k, reverse) for k in (2, 4)
    )
    assert math.log2(coarse / fine) > ORDERS[solver] - 0.2


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"] + ["ddim", "rk4"] * LONG)
def test_the_known_part_is_worth_a_factor(solver):
    with_it, without = (error(MIXTURE, PATHS["vp"], solver, 40, width=w) for w in (None, 1e-9))
    assert with_it < without / 5


@pytest.mark.parametrize("solver", ["dpmpp_2m"] + ["heun"] * LONG)
def test_the_width_matters_as_much_as_the_solver_errs(solver):
    """Between two widths lies an error of the solver's order, no more."""
    model, path = MIXTURE.model(PATHS["vp"]), PATHS["vp"]
    gaps = []
    for steps in (40, 80):
        plan = ode.plan(solver, path, steps, middle(path))
        x = states(MIXTURE, path, plan.grid[0])
        with torch.no_grad():
            a, b = (carry(plan, model, x, exact(x), w).change for w in (0.4, 1.2))
        gaps.append(float((a - b).abs().mean()))
    assert math.log2(gaps[0] / gaps[1]) > 1.8


@pytest.mark.few(4)
@pytest.mark.parametrize("reverse", [False, True], ids=["to_data", "to_noise"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_3m", "unipc_2", "heun_edm", "ab3", "rk4"])
def test_nothing_is_left_to_integrate_of_the_gaussian_itself(solver, reverse):
    """Three steps are enough, whatever becomes of the states: the divergence does not depend on
    them."""
    width, problem = 0.7, ode.problems.gaussian(mean=[0.2, -0.1, 0.4], std=0.7)
    for path in PATHS.values():
        plan = ode.plan(solver, path, 3, middle(path), reverse=reverse)
        x = states(problem, path, plan.grid[0])
        with torch.no_grad():
            found = carry(plan, problem.model(path), x, exact(x), width)
        p, q = path.points([plan.grid[0], plan.grid[-1]])
        want = 3 * math.log(
            math.hypot(p.alpha * width, p.sigma) / math.hypot(q.alpha * width, q.sigma)
        )
        torch.testing.assert_close(
            found.change, torch.full_like(found.change, want), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("name", ["vp"] + ["edm", "linear"] * LONG)
def test_both_singular_ends(name):
    """From alpha = 0 (or next to it) to sigma = 0: second order but for the two infinite steps, and
    finite."""
    path = PATHS[name]
    errors = [error(MIXTURE, path, "dpmpp_2m", n, grid="karras") for n in (32, 64)]
    assert errors[1] < 5e-3
    assert math.log2(errors[0] / errors[1]) > 1.8


@pytest.mark.few(2)
@pytest.mark.parametrize("reverse", [False, True], ids=["to_data", "to_noise"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_3m", "heun_edm", "heun", "ab2"])
def test_the_estimated_error_has_the_size_of_the_error(solver, reverse):
    """Root mean square 0.8 to 20 times the error, at no evaluation more; less of heun, which is the
    trapezoidal rule itself."""
    path = PATHS["vp"]
    plan = ode.plan(solver, path, 30, middle(path), reverse=reverse)
    x = states(MIXTURE, path, plan.grid[0])
    with torch.no_grad():
        found = carry(plan, MIXTURE.model(path), x, exact(x))
    y = arrival(MIXTURE, path, plan.grid[0], plan.grid[-1])
    error = (
        found.change[:, 0]
        - MIXTURE.log_prob(y, path, plan.grid[-1])
        + MIXTURE.log_prob(x, path, plan.grid[0])
    )
    at_end = (
        error
        + MIXTURE.log_prob(y, path, plan.grid[-1])
        - MIXTURE.log_prob(found.x, path, plan.grid[-1])
    )
    ratio = float(found.error.square().mean().sqrt() / at_end.square().mean().sqrt())
    assert (0.4 if solver == "heun" else 0.8) < ratio < 20.0
    assert found.nfe == plan.nfe


def test_the_estimated_error_vanishes_with_the_error():
    path, problem = PATHS["vp"], ode.problems.gaussian(mean=[0.0, 0.0], std=0.5)
    plan = ode.plan("ddim", path, 3, middle(path))
    x = states(problem, path, plan.grid[0])
    with torch.no_grad():
        found = carry(plan, problem.model(path), x, exact(x), 0.5)
    assert float(found.error.max()) < 1e-11


def network(x, t):
    return torch.tanh(x * 1.3 + t[:, None]) * 0.5


@pytest.mark.parametrize("predicts", ["noise", "edm", "v", "velocity"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun_edm", "unipc_3", "heun"])
def test_states_are_those_of_sample(solver, predicts):
    path = paths.Linear() if predicts == "velocity" else paths.EDM()
    model = ode.Model(network, path, predicts, dtype=torch.float32)
    plan = ode.plan(solver, path, 5, grids.Karras(start=0.9 * path.t_max))
    x = 20 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = carry(plan, model, x, exact(x))
    want = ode.sample(model, state=x, plan=plan, full=True)
    assert torch.equal(found.x, want.x)
    assert (found.nfe, found.products) == (want.nfe, 6 * plan.nfe)


def test_one_evaluation_a_call_with_guidance():
    calls = []

    def net(x, t, shift):
        calls.append(len(x))
        return torch.sin(x + shift)

    model = ode.Model(net, paths.VP(), "noise").guided(
        3.0, {"shift": 0.5}, {"shift": 0.0}, rescale=0.5
    )
    plan = ode.plan("dpmpp_2m", model.path, 4)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = carry(plan, model, x, exact(x))
    assert len(calls) == found.nfe == 8
    assert torch.equal(found.x, ode.sample(model, state=x, plan=plan))


# torch itself calls it at the first jvp
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_pushed_forward_traces_are_the_same_for_one_call_more():
    model, path = MIXTURE.model(PATHS["vp"], "noise"), PATHS["vp"]
    plan = ode.plan("dpmpp_2m", path, 6)
    x = states(MIXTURE, path, plan.grid[0])
    with torch.no_grad():
        a, b = (
            carry(plan, model, x, exact(x, how)) for how in (trace.Exact(), trace.Exact("forward"))
        )
    assert torch.equal(a.x, b.x)
    assert (a.nfe, b.nfe) == (6, 12)
    torch.testing.assert_close(a.change, b.change, rtol=0, atol=1e-12)


def test_a_first_evaluation_that_is_guessed():
    """The guess is that x is all noise, and here the network says nothing else."""
    path = PATHS["vp"]
    model = ode.Model(lambda x, t: 1.0 * x, path, "noise")
    plans = [ode.plan("dpmpp_2m", path, 5, afs=afs) for afs in (False, True)]
    x = states(MIXTURE, path, plans[0].grid[0])
    with torch.no_grad():
        asked, guessed = (carry(plan, model, x, exact(x)) for plan in plans)
    assert (asked.nfe, guessed.nfe) == (5, 4)
    torch.testing.assert_close(guessed.change, asked.change, rtol=0, atol=1e-11)


def test_a_plan_without_evaluations():
    """All that is left is the guess, a multiple of the state: the change is the same for all."""
    path = PATHS["vp"]
    plan = ode.plan("ddim", path, None, (1.0, 0.5), afs=True)
    x = states(MIXTURE, path, 1.0)
    with torch.no_grad():
        found = carry(plan, MIXTURE.model(path), x, exact(x))
    assert (found.nfe, found.products, found.change.shape) == (0, 0, (16, 1))
    assert bool((found.change == found.change[0]).all())


def test_every_probe_has_its_own_column():
    """Columns differ, and their mean is the exact change without bias."""
    model, path = MIXTURE.model(PATHS["vp"]), PATHS["vp"]
    plan = ode.plan("dpmpp_2m", path, 8)
    x = states(MIXTURE, path, plan.grid[0], 1).expand(2000, -1)
    with torch.no_grad():
        want = carry(plan, model, x[:1], exact(x[:1])).change
        probes = trace.Hutchinson(2).forms(x, keys_of(len(x), 7, None, x.device))
        found = carry(plan, model, x, probes).change
    assert found.shape == (2000, 2)
    mean, stderr = found.mean(), found.mean(1).std() / 2000**0.5
    assert stderr > 0
    assert abs(mean - want) < 4 * stderr


def test_gradients_reach_the_state_and_the_parameters():
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    path = paths.VP()
    plan = ode.plan("dpmpp_2m", path, 4)
    x = torch.randn(
        3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()

    def both(x, a):
        model = ode.Model(lambda y, t: torch.tanh(a * y + 0.1 * y.flip(1)), path, "noise")
        found = carry(plan, model, x, exact(x))
        return found.x, found.change

    assert torch.autograd.gradcheck(both, (x, a))
    assert torch.autograd.gradcheck(lambda a: both(x.detach(), a), (a,))
    with torch.no_grad():
        assert not any(v.requires_grad for v in both(x, a))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: (ode.plan("ddpm", m.path, 3), m), "draws noise"),
        (
            lambda m: (ode.plan("ddim", m.path, 3), ode.Model(network, m.path, "noise", clip=1.0)),
            "'clip' is not part",
        ),
        (
            lambda m: (
                ode.plan("ddim", m.path, 3),
                m.classifier_guided(lambda x, t: -x.square().sum(1)),
            ),
            "classifier",
        ),
    ],
)
def test_what_is_no_flow_is_refused(change, message):
    plan, model = change(ode.Model(network, paths.VP(), "noise"))
    x = torch.zeros(2, 3)
    with pytest.raises(OdesolveError, match=message):
        carry(plan, model, x, exact(x))


def test_a_width_must_be_positive():
    model, x = ode.Model(network, paths.VP(), "noise"), torch.zeros(2, 3)
    with pytest.raises(OdesolveError, match="give the standard deviation"):
        carry(ode.plan("ddim", model.path, 3), model, x, exact(x), 0.0)
