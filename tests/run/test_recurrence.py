"""Plans as recurrences over the states of their calls: the same sampler as the loop's."""

from __future__ import annotations

import torch
from odesolve.kernels.dispatch import normal_sums

import odesolve as ode
from odesolve.noise.keys import keys_of
from odesolve.plans.recurrence import DEEPEST, recurrence
from tests.products import diagonal
from tests.rows import rows
from tests.run.rational import PATH, model, noise

# their starters keep a step's many stages
FAR_BACK = {"ab4", "ipndm_v4", "deis_tab3", "deis_rhoab3", "deis_lamab3"}
ELSEWHERE = {"shark"}


def carried(rec, net, x, keys):
    y, answers = rec.first * x, []
    for k in range(rec.calls):
        said = getattr(net, rec.quantities[k])(y, float(rec.times[k]))
        answers.append(rec.mix[k, 0] * y + rec.mix[k, 1] * said)
        z = torch.zeros_like(y)
        normal_sums([z], keys, rec.streams[k].tolist(), rec.scales[k][None])
        y = y + (rec.growth[k] * y + z)
        for j, w in enumerate(rec.weights[k].tolist()):
            y = y + w * answers[k - j] if w else y
    return y


@rows(("solver", "grid"), diagonal(list(ode.solvers()), ["uniform", "karras"]))
def test_every_linear_plan_is_a_recurrence(solver, grid):
    net, x = model(), noise()
    plan = ode.plan(solver, PATH, 9, grid)
    rec = recurrence(plan)
    if isinstance(rec, str):
        assert solver in FAR_BACK | ELSEWHERE
        return
    assert rec.weights.shape[1] <= DEEPEST
    state = x * PATH.start_std(plan.grid[0])
    got = carried(rec, net, state, keys_of(len(x), 3, None, x.device))
    torch.testing.assert_close(
        got, ode.sample(net, state=state, plan=plan, seed=3), rtol=1e-12, atol=1e-12
    )


def test_history_does_not_grow_with_the_steps():
    for solver in (
        "unipc_3",
        "dpm_solver_2m",
        "ipndm_4",
        "deis_tab2",
        "dpmpp_3m",
        "sde_dpm_solver_2m",
    ):
        depths = [recurrence(ode.plan(solver, PATH, n)).weights.shape[1] for n in (20, 60)]
        assert depths[0] == depths[1] <= DEEPEST, solver


def test_the_reason_where_there_is_none():
    assert "langevin" in recurrence(ode.plan("predictor_corrector(norms=sample)", PATH, 4))
    assert "learned_noise" in recurrence(
        ode.plan("ddpm", ode.paths.Discrete.ddpm(), 4, variance="learned")
    )
