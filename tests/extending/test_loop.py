"""A loop of another program's, driven from outside: every solver by one driver."""

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve.lowering.lower import Reading, lower
from odesolve.lowering.program import Call
from odesolve.run.advance import Cursor, begin
from odesolve.run.stepper import Stepper, fresh

PATH = ode.paths.EDM()
PROBLEM = ode.problems.mixture([0.4, 0.6], [[-0.7, 0.2], [0.5, -0.1]], std=0.3)
MODEL = PROBLEM.model(PATH, "data")
Z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
SOLVERS = sorted(set(ode.solvers()) - {"annealed_langevin"})  # 10 calls per step
NOISE = 80.0 * Z  # of unit variance as ode.sample takes it, and as the state that starts
KEYS = keys(5, torch.arange(3))


def planned(solver):
    entry = ode.solvers()[solver]
    plan = ode.plan(solver, PATH, 5, "karras", **entry.outside.options)
    return plan, lower(plan, PATH, Reading("data"))


def driven(solve, network):
    """The loop of a peer, which keeps every state that it is given."""
    kept = []
    while not solve.done:
        x = solve.hand_out()
        kept.append((x, x.clone()))
        solve.answer([network(x, solve.call.t)])
    assert all(torch.equal(x, copy) for x, copy in kept)
    return solve.result


@pytest.mark.few(43)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("again", [False, True], ids=["memory of its own", "used again"])
def test_a_loop_from_outside_is_the_sampler(solver, again):
    plan, program = planned(solver)
    seeds = KEYS if program.stochastic else None
    start = begin(program, NOISE, keys=seeds)
    out = driven(Stepper(start, buffers=fresh(program) if again else None), MODEL.data)
    seed = {"seed": 5} if program.stochastic else {}
    torch.testing.assert_close(out, ode.sample(MODEL, Z, plan=plan, **seed), rtol=1e-12, atol=1e-12)


def test_a_loop_begins_where_the_network_has_been_called():
    plan, program = planned("dpmpp_2m")
    x = NOISE.clone()
    solve = Stepper.at_first_call(program, x, x.dtype, buffers=fresh(program))
    assert isinstance(program.ops[solve.position], Call)
    assert solve.state is x
    solve.answer([MODEL.data(x, solve.call.t)])
    out = driven(solve, MODEL.data)
    torch.testing.assert_close(out, ode.sample(MODEL, Z, plan=plan))
    assert torch.equal(x, NOISE)  # the caller's own


def test_a_loop_is_saved_and_taken_up():
    _, program = planned("ipndm_3")
    solve = Stepper(begin(program, NOISE))
    solve.answer([MODEL.data(solve.input, solve.call.t)])
    solve.answer([MODEL.data(solve.input, solve.call.t)])
    saved = solve.cursor().state_dict()
    again = Stepper(Cursor.load(program, saved), buffers=fresh(program))
    assert torch.equal(driven(again, MODEL.data), driven(solve, MODEL.data))


def test_a_state_may_be_replaced():
    _, program = planned("ddim")
    solve = Stepper(begin(program, NOISE))
    solve.state = torch.zeros_like(NOISE)
    assert torch.equal(solve.state, torch.zeros_like(NOISE))
    assert torch.equal(solve.input, solve.state)


def test_a_loop_out_of_step_is_told():
    _, program = planned("ddim")
    solve = Stepper(begin(program, NOISE[:1]))
    answer = MODEL.data(solve.input, solve.call.t)
    for outputs, told in (
        (answer, r"a tensor of shape \(1, 2\)"),
        ([answer, answer], "2 outputs"),
        ([], "0 outputs"),
    ):
        with pytest.raises(ode.OdesolveError, match=f"{told} for a call of the branches "):
            solve.answer(outputs)
    with pytest.raises(ode.OdesolveError, match="waits for a network call: answer it"):
        _ = solve.result
    out = driven(solve, MODEL.data)
    assert torch.equal(out, solve.result)
    for late in (lambda: solve.call, lambda: solve.answer([answer]), lambda: solve.state):
        with pytest.raises(ode.OdesolveError, match="is done and waits for no call"):
            late()
