"""torchdiffeq's fixed-step methods on the velocity are our Runge-Kutta plans, whatever the network
predicts."""

import pytest
import torch

from odesolve import grids, paths
from tests.products import product

from .peers import PROBLEM, TOLERANCE, gap, ours, start

torchdiffeq = pytest.importorskip(
    "torchdiffeq", reason="the peers are an extra: pip install odesolve[peers]"
)

METHODS = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun2": "heun",
    "heun3": "heun3",
    "rk4": "rk4_38",
}
PATHS = {"linear": paths.Linear(), "vp": paths.VP(), "trig_flipped": paths.Trig().flipped()}
GRIDS = {
    "uniform": grids.Uniform(),
    "quadratic": grids.Polynomial(),
    "shift": grids.Shifted(shift=3.0),
}


@pytest.mark.parametrize(
    ("grid", "path", "predicts", "method"),
    product(list(GRIDS), list(PATHS.values()), ["velocity", "data", "noise"], list(METHODS)),
)
def test_fixed_steps(method, predicts, path, grid):
    model = PROBLEM.model(path, predicts)
    # inside: all predictions exist there
    times = torch.tensor(GRIDS[grid].times(path, 7)[1:-1], dtype=torch.float64)
    theirs = torchdiffeq.odeint(lambda t, x: model.velocity(x, t), start(), times, method=method)[
        -1
    ]
    assert gap(ours(model, start(), METHODS[method], times), theirs) < TOLERANCE
