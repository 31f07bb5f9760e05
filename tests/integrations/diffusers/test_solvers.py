"""Every solver that writes plans, with every prediction type, on all three kinds of configs, is
``ode.sample`` of its plan."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

import odesolve as ode
from odesolve import grids, paths, problems
from odesolve.integrations.diffusers import OdesolveScheduler
from tests.products import diagonal

from .compare import TOLERANCE, gap, stock
from .networks import normal

PROBLEM = problems.mixture([0.6, 0.4], [[[0.8, -0.3]], [[-0.7, 0.5]]], std=0.3)
LEVELS = {
    "vp": [20.0, 9.0, 4.0, 1.5, 0.4, 0.1],
    "flow": [0.97, 0.9, 0.75, 0.5, 0.3, 0.1],
    "edm": [60.0, 20.0, 6.0, 2.0, 0.7, 0.1],
}
READINGS = {
    "vp": {"epsilon": "noise", "sample": "data", "v_prediction": "v"},
    "flow": {
        "epsilon": "noise",
        "sample": "data",
        "v_prediction": "v",
        "flow_prediction": "velocity",
    },
    "edm": {"epsilon": "edm", "v_prediction": "edm"},
}
CONFIGS = {
    "vp": lambda prediction: stock("DPMSolverMultistep", prediction_type=prediction).config,
    "flow": lambda prediction: (
        stock("UniPCMultistep", prediction_type=prediction, use_flow_sigmas=True).config
    ),
    "edm": lambda prediction: stock("EDMEuler", prediction_type=prediction).config,
}
TABLE = stock("DPMSolverMultistep").alphas_cumprod
PATHS = {"vp": paths.Discrete(TABLE.double()), "flow": paths.Linear(), "edm": paths.EDM()}
TRAINED = PATHS["vp"].rho(torch.arange(1, 1001, dtype=torch.float64) / 1000).log().numpy()
BATCH, SEED = 3, 11
CASES = [(kind, prediction) for kind, names in READINGS.items() for prediction in names]


def label(solver: str) -> str:
    """The solver with every choice made that depends on how long a loop is or who drives it.

    Noise that is added before the first network call is the caller's: ``s_tmax`` leaves none there.
    """
    takes = inspect.signature(ode.solvers()[solver].write).parameters
    chosen = {"start": "ramp", "taper": False, "s_tmax": 15.0}
    options = [f"{k}={v}" for k, v in chosen.items() if k in takes]
    return f"{solver}({','.join(options)})" if options else solver


def told(kind: str, t: Tensor) -> Tensor:
    """What diffusers tells a network at a time of the path, in float32: index, 1000 t or log(sigma)
    / 4."""
    path = PATHS[kind]
    if kind == "vp":
        return torch.tensor(np.interp(path.rho(t).log().numpy(), TRAINED, np.arange(1000))).float()
    return (1000 * t if kind == "flow" else 0.25 * path.rho(t).log()).float()


def network(kind: str, predicts: str) -> ode.Model:
    """The exact network, told the time as diffusers tells it."""
    path = PATHS[kind]
    exact = PROBLEM.model(path, predicts).net

    def net(x: Tensor, time: Tensor) -> Tensor:
        time = time.double()
        if kind == "vp":
            time = path.t_of_rho(
                torch.tensor(np.interp(time.numpy(), np.arange(1000), TRAINED)).exp()
            )
        return exact(x, time / 1000 if kind == "flow" else time)

    return ode.Model(net, path, predicts, time=lambda _, t: told(kind, t))


def looped(scheduler, model: ode.Model, x: Tensor, levels: list[float]) -> Tensor:
    """The scheduler in a loop of its own, called as pipelines call it."""
    config = scheduler.config
    # EDM's is -F
    sign = -1.0 if "sigma_data" in config and config.prediction_type == "v_prediction" else 1.0
    scheduler.set_timesteps(sigmas=levels)
    generator = torch.Generator().manual_seed(SEED)
    for t in scheduler.timesteps:
        out = model.net(scheduler.scale_model_input(x, t), t.expand(BATCH))
        x = scheduler.step(sign * out, t, x, generator=generator, return_dict=False)[0]
    return x


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("solver", "kind", "prediction"),
    [
        (a, *b)
        for a, b in diagonal([name for name in ode.solvers() if name != "shark"], list(CASES))
    ],
)
def test_is_its_plan(solver, kind, prediction):
    levels, path = LEVELS[kind], PATHS[kind]
    rho = torch.tensor([*levels, 0.0], dtype=torch.float64)
    plan = ode.plan(
        label(solver), path, grid=grids.sigmas(path, rho / (1 - rho) if kind == "flow" else rho)
    )
    scheduler = OdesolveScheduler.from_config(
        CONFIGS[kind](prediction), solver=label(solver), exact_timesteps=True
    )
    model = network(kind, READINGS[kind][prediction])
    start = normal(BATCH, *PROBLEM.event).double() * path.start_std(plan.grid[0])
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(SEED)))
    expected = ode.sample(model, state=start, plan=plan, seed=seed)
    got = looped(scheduler, model, start, levels)
    assert len(scheduler.timesteps) == plan.nfe
    assert gap(got, expected) < TOLERANCE


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_solver_that_needs_noise_before_the_first_call_is_refused(kind):
    scheduler = OdesolveScheduler.from_config(CONFIGS[kind]("epsilon"), solver="shark")
    with pytest.raises(
        ode.OdesolveError,
        match=r"shark.* moves the state before its first "
        r"network call",
    ):
        scheduler.set_timesteps(5)


def test_churn_begins_with_the_second_step():
    """The network has been called at the sample as it is before noise could be added, and the
    sample is not written to."""
    scheduler = OdesolveScheduler.from_config(CONFIGS["vp"]("epsilon"), solver="euler_churn")
    scheduler.set_timesteps(sigmas=LEVELS["vp"])
    assert float(scheduler.sigmas[0]) == LEVELS["vp"][0]
    assert bool((scheduler.sigmas[1:-1] > 1.3 * torch.tensor(LEVELS["vp"][1:])).all())
    x = normal(BATCH, *PROBLEM.event)
    given = x.clone()
    scheduler.step(normal(BATCH, *PROBLEM.event, seed=1), scheduler.timesteps[0], x)
    assert torch.equal(x, given)
