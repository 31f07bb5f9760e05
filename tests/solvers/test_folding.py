"""A lowered program computes what its canonical plan says: folded equals unfolded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from odesolve.kernels.philox import keys

import odesolve as ode
from odesolve import run
from odesolve.lowering.lower import lower
from odesolve.paths import PREDICTIONS
from tests.products import LONG, diagonal, grouped, product

from ..plan.literal import states
from .cases import PATHS, SOLVERS

GENERATOR = torch.Generator().manual_seed(7)
MIX = torch.randn(3, 3, dtype=torch.float64, generator=GENERATOR) * 0.5
PULL = {
    "cond": torch.full((4, 3), 0.3, dtype=torch.float64),
    "uncond": torch.full((4, 3), -0.2, dtype=torch.float64),
}
KEYS = keys(11, torch.arange(4))
NOISE = torch.randn(4, 3, dtype=torch.float64, generator=GENERATOR)


def net(x, t, pull=0.0):
    """Nothing like a denoiser: folding must not depend on what the network says."""
    size = (x**2).mean(1, keepdim=True).sqrt() + 1.0
    return torch.tanh(x / size @ MIX + 0.1 * torch.cos(t)[:, None]) + pull


def unfolded(plan, model, x):
    """Interpret the canonical plan literally, with the model's own conversions at every
    evaluation."""
    ask = lambda quantity, x, t: (model.data if quantity == "data" else model.velocity)(x, t)
    return states(plan, KEYS, x, ask)[plan.result]


# In the short suite four cases of each solver, in which the settings take turns.
WHERE = list(PATHS), list(PREDICTIONS), (False, True)
CASES = grouped(product(SOLVERS, *WHERE) if LONG else diagonal(SOLVERS, *WHERE, times=4))


@pytest.mark.few(22)
@pytest.mark.parametrize("solver", SOLVERS)
def test_folded_equals_unfolded(solver):
    for name, predicts, guided in CASES[solver]:
        path = PATHS[name]
        # A start inside the path, where every prediction determines everything.
        grid = ode.grids.Karras(start=float(path.t_of_lam(-2.5)))
        if solver == "predictor_corrector":  # score -> data -> score loses the digits of sigma^2
            grid = replace(grid, stop=float(path.t_of_lam(0.5)), final=False)
        plan = ode.plan(solver, path, 4, grid)
        model = ode.Model(net, path, predicts, snap=False)
        if guided:
            model = model.guided(2.5, {"pull": PULL["cond"]}, {"pull": PULL["uncond"]})
        x = NOISE * path.start_std(plan.grid[0])
        folded = run.run(lower(plan, path, model.reading_for(x.dtype)), x, KEYS, model)
        wanted = unfolded(plan, model, x)
        scale = float(wanted.abs().max()) + float(x.abs().max()) / path.prior_std
        off = float((folded - wanted).abs().max())
        assert off <= 1e-12 * scale, (path, predicts, guided)


def test_transforms_fold_as_they_read():
    path = PATHS["vp"]
    for solver, predicts in diagonal(SOLVERS, ("noise", "v", "velocity"), times=1 + LONG):
        plan = ode.plan(solver, path, 5, "karras")
        model = ode.Model(net, path, predicts, clip=0.4)
        folded = run.run(lower(plan, path, model.reading_for(NOISE.dtype)), NOISE, KEYS, model)
        torch.testing.assert_close(folded, unfolded(plan, model, NOISE), rtol=1e-11, atol=1e-11)


def test_classifier_gradient_folds():
    def log_prob(x, t):
        return -((x - 1.0) ** 2).sum(1) * (1 + t)

    path = PATHS["vp"]
    for solver in ("ddim", "dpmpp_2m", "heun", "unipc_2"):
        plan = ode.plan(solver, path, 5, ode.grids.Karras(start=0.8))
        for predicts in PREDICTIONS:
            model = ode.Model(net, path, predicts).classifier_guided(log_prob, 0.7)
            folded = run.run(lower(plan, path, model.reading_for(NOISE.dtype)), NOISE, KEYS, model)
            torch.testing.assert_close(folded, unfolded(plan, model, NOISE), rtol=1e-11, atol=1e-11)
