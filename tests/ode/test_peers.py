"""Beside torchdiffeq and scipy at equal tolerances, and what a step costs outside the network."""

import functools
import math

import pytest
import torch
from odesolve.kernels import dispatch
from scipy.integrate import solve_ivp

import odesolve as ode
from tests.products import LONG

from .problems import decay, lotka_volterra, relaxation, rotation

torchdiffeq = pytest.importorskip(
    "torchdiffeq", reason="the peers are an extra: pip install odesolve[peers]"
)

SMALL, LARGE = 0.012277471, 1 - 0.012277471
PERIOD = 17.0652165601579625588917206249


def van_der_pol(t, y):
    x, v = y[..., 0], y[..., 1]
    return torch.stack([v, 5.0 * (1.0 - x * x) * v - x], -1)


def arenstorf(t, y):
    """Three bodies (Hairer, Norsett and Wanner 1993, II.0): the orbit closes after one period."""
    x, z, u, v = y.unbind(-1)
    earth, moon = ((x + SMALL) ** 2 + z**2) ** 1.5, ((x - LARGE) ** 2 + z**2) ** 1.5
    pull = x + 2 * v - LARGE * (x + SMALL) / earth - SMALL * (x - LARGE) / moon
    return torch.stack([u, v, pull, z - 2 * u - LARGE * z / earth - SMALL * z / moon], -1)


PROBLEMS = {
    "decay": (decay, [1.0, 2.0], 5.0),
    "rotation": (rotation, [1.0, 0.0], 20.0),
    "lotka_volterra": (lotka_volterra, [10.0, 5.0], 15.0),
    "van_der_pol": (van_der_pol, [2.0, 0.0], 20.0),
    "arenstorf": (arenstorf, [0.994, 0.0, 0.0, -2.00158510637908252240537862224], PERIOD),
}


def theirs(f, y0, end, tolerance):
    """Evaluations and the end of torchdiffeq's dopri5."""
    calls = []
    times = torch.tensor([0.0, end], dtype=torch.float64)
    counted = lambda t, y: calls.append(1) or f(t, y)
    last = torchdiffeq.odeint(counted, y0, times, rtol=tolerance, atol=tolerance, method="dopri5")[
        -1
    ]
    return len(calls), last


@functools.cache
def exact(name):
    f, start, end = PROBLEMS[name]
    y0 = torch.tensor(start, dtype=torch.float64)
    if name == "arenstorf":
        return y0
    numpy = lambda t, y: f(t, torch.from_numpy(y)).numpy()
    return torch.from_numpy(
        solve_ivp(numpy, (0.0, end), y0.numpy(), "DOP853", rtol=3e-14, atol=1e-14).y[:, -1]
    )


def test_evaluations_and_errors_beside_torchdiffeq():
    """The same estimate, over five problems and four tolerances: fewer evaluations, errors within a
    factor of 2.

    A single solve may take some steps more: torchdiffeq never shortens a step that it accepts, and
    does not land on the end."""
    work, errors = [], []
    for name, (f, start, end) in PROBLEMS.items():
        y0 = torch.tensor(start, dtype=torch.float64)
        truth = exact(name)
        for tolerance in (1e-3, 1e-5, 1e-7, 1e-9) if LONG else (1e-3, 1e-5):
            nfe, last = theirs(f, y0, end, tolerance)
            sol = ode.solve(f, y0, (0.0, end), rtol=tolerance, atol=tolerance)
            error, mine = (float((y - truth).abs().max()) for y in (last, sol.last))
            assert sol.ok
            work.append(int(sol.nfe) / nfe)
            errors.append(math.log(mine / error))
            if f is decay:  # errors do not grow there
                assert mine < 2 * tolerance
    assert sum(work) / len(work) < 0.98
    assert max(work) < 1.05
    assert sum(errors) / len(errors) < math.log(2)


def test_a_stiff_mate_costs_nothing_here_and_three_times_there():
    """A sample's evaluations do not depend on the batch; with one step for all they do."""
    y0 = torch.full((2, 1), 2.0, dtype=torch.float64)
    rates = torch.tensor([[1.0], [60.0]], dtype=torch.float64)
    alone = ode.solve(relaxation, y0[:1], args=(rates[:1],))
    beside = ode.solve(relaxation, y0, args=(rates,))
    there = [
        theirs(lambda t, y, r=r: relaxation(t, y, r), y0[: len(r)], 1.0, 1e-5)[0]
        for r in (rates[:1], rates)
    ]
    assert int(alone.nfe) == int(beside.nfe[0])
    assert torch.equal(alone.last[0], beside.last[0])
    assert there[1] > 3 * there[0]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("ours", "method"),
    [
        ("dopri5", "RK45"),
        pytest.param("bosh3", "RK23", marks=pytest.mark.long),
        ("dopri8", "DOP853"),
    ],
)
def test_evaluations_and_errors_beside_scipy(ours, method):
    """The same pairs and estimates (dopri5's is two thirds of scipy's): a tenth about its
    evaluations, errors like its."""
    work, errors = [], []
    for name, (f, start, end) in PROBLEMS.items():
        y0 = torch.tensor(start, dtype=torch.float64)
        numpy = lambda t, y, f=f: f(t, torch.from_numpy(y)).numpy()
        truth = exact(name)
        for tolerance in (1e-4, 1e-6):
            sp = solve_ivp(numpy, (0.0, end), y0.numpy(), method, rtol=tolerance, atol=tolerance)
            same = tolerance / 1.5 if ours == "dopri5" else tolerance
            sol = ode.solve(f, y0, (0.0, end), ours, rtol=same, atol=same)
            gap = [
                float((v - truth).abs().max()) for v in (sol.last, torch.from_numpy(sp.y[:, -1]))
            ]
            work.append(math.log(int(sol.nfe) / sp.nfev))
            errors.append(math.log(gap[0] / gap[1]))
    assert abs(sum(work) / len(work)) < 0.1
    assert sum(errors) / len(errors) < math.log(1.5)


def test_what_an_accepted_step_of_dopri5_costs(monkeypatch):
    """8 launches and 42 passes over the state; an input whose weight is 0 for a sample is not read
    for it."""
    launches, passes = [], []
    combine, control = dispatch.combine, dispatch.control

    def counting(outs, ins, weights, base, *rest):
        read = weights[:, :, : len(ins)].ne(0).any(1)
        read[:, [b for b in base if b >= 0]] = True
        launches.append(1)
        passes.append(len(outs) + float(read.double().sum(1).mean()))
        combine(outs, ins, weights, base, *rest)

    monkeypatch.setattr(dispatch, "combine", counting)
    monkeypatch.setattr(dispatch, "control", lambda *args: launches.append(1) or control(*args))
    counts = []
    for steps in (8, 16):
        launches.clear(), passes.clear()
        sol = ode.solve(
            rotation, torch.ones(5, 2), (0.0, 1.0), first_step=1 / steps, max_step=1 / steps
        )
        assert sol.steps.tolist() == [steps] * 5
        counts.append((len(launches), sum(passes)))
    assert [(b - a) / 8 for a, b in zip(*counts, strict=True)] == [8.0, 42.0]
