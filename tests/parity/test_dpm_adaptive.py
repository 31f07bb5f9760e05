"""k-diffusion's adaptive DPM-Solvers take our steps: one step for the batch, its PID control, no
noise."""

from __future__ import annotations

import math

import pytest
import torch

from odesolve import paths
from odesolve.ode import Controller
from odesolve.solve import solve
from tests.products import product

from .peers import PROBLEM, TOLERANCE, float64, gap, k_diffusion, start

sampling, _ = k_diffusion()


class Rounded(sampling.PIDStepSizeController):
    """Its controller with factors rounded to float32, as ours are, so that all backends take the
    same steps."""

    def limiter(self, x):
        return float(torch.tensor(1 + math.atan(x - 1), dtype=torch.float64).float())


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("coefficients", "rtol", "order", "solver"),
    [
        (a, b, *c)
        for a, b, c in product(
            [(0.0, 1.0, 0.0), (0.3, 0.4, 0.0), (0.2, 0.7, -0.1)],
            [0.05, 1e-3],
            [(2, "dpm_solver_12"), (3, "dpm_solver_23")],
        )
    ],
)
def test_same_steps(monkeypatch, order, solver, rtol, coefficients):
    monkeypatch.setattr(sampling, "PIDStepSizeController", Rounded)
    p, i, d = coefficients
    # Where less than a hundredth of a step would be left our last one goes to the end: not on the
    # way to this one.
    top, bottom, atol = 40.0, 0.015, 0.156 * rtol
    path = paths.EDM()
    model = PROBLEM.model(path, "data")
    with float64():
        theirs, info = sampling.sample_dpm_adaptive(
            model.net, start() * top, bottom, top, disable=True, order=order, rtol=rtol, atol=atol, pcoeff=p, icoeff=i,
            dcoeff=d, return_info=True,
        )  # fmt: skip
    control = Controller(p, i, d, safety=1.0, accept=0.81, floor=1e-8)
    sol = solve(
        model,
        start() * top,
        (top, bottom),
        solver,
        rtol=rtol,
        atol=atol,
        control="batch",
        controller=control,
    )
    assert sol.status == "ok"
    # One more evaluation sees whether the network is steady.
    assert (int(sol.steps), int(sol.rejected), int(sol.nfe)) == (
        info["n_accept"],
        info["n_reject"],
        info["nfe"] + 1,
    )
    assert gap(sol.last, theirs) < TOLERANCE
