"""Measured orders of convergence on a mixture whose flow is smooth, on three paths."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

import odesolve as ode
from odesolve import paths, run
from odesolve.lowering.lower import lower
from tests.products import LONG, diagonal

from .cases import DETERMINISTIC, window

MIXTURE = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.9, 1.0, 1.1]
)
START = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PATHS = {
    "vp": (paths.VP(), "noise"),
    "edm": (paths.EDM(), "data"),
    "linear": (paths.Linear(), "velocity"),
}


def end_point(name: str, solver: str, steps: int, **options) -> torch.Tensor:
    path, predicts = PATHS[name]
    grid = window(path)
    first = path.point(grid.start)
    plan = ode.plan(solver, path, steps, grid, closed=True, **options)
    model = MIXTURE.model(path, predicts)
    x = START * math.hypot(first.alpha, first.sigma)
    return run.run(lower(plan, path, model.reading_for(x.dtype)), x, None, model)


@functools.cache
def reference(name: str) -> torch.Tensor:
    """RK4 in t, agreed on by an exponential method that shares nothing with it."""
    out = end_point(name, "rk4", 600 if name != "edm" else 2000)
    torch.testing.assert_close(out, end_point(name, "deis_lamab3", 1000), rtol=0, atol=5e-11)
    return out


def slopes(name: str, solver: str, counts, **options) -> list[float]:
    errors = [
        float((end_point(name, solver, n, **options) - reference(name)).norm()) for n in counts
    ]
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


SOLVERS = [*DETERMINISTIC, "dpmpp_2m_sde(eta=0)"]
# Solvers in log-SNR are one solver on all paths (tests/parity/test_identities.py), those in time are
# another one on each. A reference takes seconds: two in the short suite.
MEASURED = list(PATHS) if LONG else ["vp", "linear"]
IN_TIME = [s for s in DETERMINISTIC if ode.solvers()[s].clock == "t"]


@pytest.mark.few(16)
@pytest.mark.parametrize(
    ("solver", "name"),
    diagonal(SOLVERS, MEASURED, hard=list(itertools.product(IN_TIME, PATHS)) if LONG else ()),
)
def test_order_is_what_the_list_says(name, solver):
    order = ode.solvers()[solver.partition("(")[0]].order
    measured = slopes(name, solver, (64, 128) if order >= 4 else (128, 256))[0]
    assert abs(measured - order) <= (0.3 if order >= 4 else 0.2), measured


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("solver", "options", "cap"),
    [
        ("dpmpp_3m", {"start": "ramp"}, 2.3),
        ("dpmpp_3m_published", {}, 2.1),
        ("unipc_3", {"start": "ramp"}, 3.5),
        pytest.param("deis_lamab2", {"start": "ramp"}, 2.3, marks=pytest.mark.long),
        pytest.param("deis_tab3", {"start": "ramp"}, 2.3, marks=pytest.mark.long),
    ],
)
def test_what_peers_do_at_the_start_costs_order(solver, options, cap):
    """The ramp 1, 2, ..., p and the published third-order weights converge more slowly than their
    names say."""
    measured = slopes("vp", solver, (256, 512), **options)[0]
    assert cap - 0.5 <= measured <= cap


@pytest.mark.few(2)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc_2", "heun_edm", "ab2"])
def test_inversion_converges_with_the_same_order(solver):
    path, predicts = PATHS["vp"]
    model, grid = MIXTURE.model(path, predicts), window(path)
    order = ode.solvers()[solver.partition("(")[0]].order

    def error(n: int) -> float:
        plan = ode.plan(solver, path, n, grid, reverse=True)
        back = run.run(
            lower(plan, path, model.reading_for(torch.float64)), reference("vp"), None, model
        )
        first = path.point(grid.start)
        return float((back - START * math.hypot(first.alpha, first.sigma)).norm())

    assert abs(math.log2(error(128) / error(256)) - order) <= 0.2
