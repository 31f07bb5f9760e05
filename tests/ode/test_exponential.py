"""Adaptive DPM-Solvers: k-diffusion's steps, exact flows of mixtures, samples on their own; pairs
on a model's velocity."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import paths, problems
from odesolve.errors import OdesolveError
from odesolve.ode.exponential import _bend
from odesolve.solve import solve
from tests.products import LONG, diagonal

LOW, HIGH = "dpm_solver_12", "dpm_solver_23"
SOLVERS = pytest.mark.parametrize("solver", [LOW, HIGH])
# At fine tolerances the lower order takes ten times the steps of the other, all by the same code.
MOSTLY_HIGH = pytest.mark.parametrize("solver", [pytest.param(LOW, marks=pytest.mark.long), HIGH])
MIXTURE = problems.mixture([0.3, 0.7], [[-1.2, 0.4], [1.0, -0.3]], std=[0.5, 0.7])
PATHS = {
    "vp": (paths.VP(), "noise", 0.999),
    "edm": (paths.EDM(), "data", 40.0),
    "linear": (paths.Linear(), "velocity", 0.99),
    "trig": (paths.Trig(), "v", 0.99),
    "flipped": (paths.Linear().flipped(), "velocity", 0.01),
    "ddpm": (paths.Discrete.ddpm(), "score", 1.0),
}


def start(path: paths.Path, t: float, batch: int = 5) -> torch.Tensor:
    noise = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return noise * math.hypot(float(path.alpha(t)), float(path.sigma(t)))


def exact(
    path: paths.Path, x: torch.Tensor, t: tuple[float, float], rtol: float = 1e-11
) -> torch.Tensor:
    """The flow by dopri8 on EDM's path: in x / alpha and sigma / alpha it is one flow for all
    paths."""
    model = MIXTURE.model(paths.EDM(sigma_max=1e4), "data")
    rho = [float(path.rho(s)) for s in t]
    sol = solve(model, x / float(path.alpha(t[0])), rho, "dopri8", rtol=rtol, atol=0.1 * rtol)
    assert sol.ok
    return sol.last * float(path.alpha(t[1]))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "solver"),
    [(name, solver) for name in PATHS for solver in (LOW, HIGH)]
    if LONG
    else [(name, HIGH) for name in ("vp", "edm", "linear", "ddpm")],
)
def test_error_falls_with_the_tolerance(name, solver):
    path, predicts, t0 = PATHS[name]
    model, t = MIXTURE.model(path, predicts), (t0, float(path.t_of_lam(3.0)))
    x = start(path, t0)
    wanted = exact(path, x, t)
    errors = []
    for rtol in (1e-2, 1e-4, 1e-6):
        sol = solve(model, x, t, solver, rtol=rtol, atol=rtol)
        assert sol.ok
        assert sol.t.tolist() == [t[1]] * len(x)
        errors.append(float((sol.last - wanted).abs().max()))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10
    assert errors[2] < 1e-4


@MOSTLY_HIGH
def test_encoding_and_back(solver):
    path = paths.VP()
    model, x = MIXTURE.model(path, "noise"), MIXTURE.sample(4, seed=3) * float(path.alpha(0.01))
    there = solve(model, x, (0.01, 0.99), solver, rtol=1e-6, atol=1e-6)
    back = solve(model, there.last, (0.99, 0.01), solver, rtol=1e-6, atol=1e-6)
    assert there.ok
    assert back.ok
    torch.testing.assert_close(back.last, x, rtol=0, atol=1e-3)


@pytest.mark.few(1)
@pytest.mark.parametrize(("solver", "compact"), diagonal([LOW, HIGH], [True, False]))
def test_samples_alone_and_together(solver, compact):
    path = paths.VP()
    model, x = MIXTURE.model(path, "noise"), start(path, 0.999)
    x[2] *= 4.0
    both = solve(model, x, (0.999, 0.01), solver, rtol=1e-4, atol=1e-4, compact=compact)
    for i in range(len(x)):
        alone = solve(model, x[i : i + 1], (0.999, 0.01), solver, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.last[0], both.last[i], rtol=0, atol=1e-12)
        assert (
            int(alone.nfe)
            == int(both.nfe[i])
            == (2 if solver == "dpm_solver_12" else 3) * int(both.steps[i] + both.rejected[i]) + 1
        )
    assert len(set(both.steps.tolist())) > 1


@MOSTLY_HIGH
def test_outputs_between(solver):
    path = paths.VP()
    model, x = MIXTURE.model(path, "noise"), start(path, 0.999)
    t = [0.999, 0.7, 0.4, 0.1, 0.02]
    sol = solve(model, x, t, solver, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        sol.y, solve(model, x, t, "dopri8", rtol=1e-8, atol=1e-9).y, rtol=0, atol=2e-4
    )


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "path", [paths.Linear(), paths.VP(), paths.Linear().flipped()], ids=["linear", "vp", "flipped"]
)
def test_stops_at_t_min(path):
    model, t0 = MIXTURE.model(path, "velocity"), path.t_clip or path.t_noise
    sol = solve(model, start(path, t0), (t0, path.t_data), "dpm_solver_23", rtol=1e-4, atol=1e-4)
    assert sol.ok
    assert sol.t.tolist() == [path.t_min] * 5
    wanted = exact(path, start(path, t0), (t0, path.t_min), 1e-6)
    torch.testing.assert_close(sol.last, wanted, rtol=0, atol=1e-2)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("solver", "control"),
    diagonal(["dopri5", "kvaerno3"], ["sample", "batch"]),
)
def test_other_solvers_take_the_velocity(solver, control):
    path = paths.Linear()
    model, x = MIXTURE.model(path, "data"), start(path, 0.99)
    sol = solve(model, x, (0.99, 0.01), solver, rtol=1e-6, atol=1e-8, control=control)
    assert sol.ok
    torch.testing.assert_close(sol.last, exact(path, x, (0.99, 0.01), 1e-8), rtol=0, atol=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("solver", ["dopri5", "dpm_solver_23"])
def test_conditions_of_the_samples_leave_with_them(solver):
    """A network that is asked about fewer samples gets their conditions, guided or not."""
    sizes = []

    def net(x, t, shift):
        assert len(x) == len(shift) == len(t)
        sizes.append(len(x))
        return MIXTURE.noise(x - shift[:, None], ode.paths.VP(), t)

    model = ode.Model(net, ode.paths.VP(), "noise", time="t")
    shift = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
    guided = model.guided(2.0, {"shift": shift}, {"shift": 0 * shift})
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] *= 0.01
    options = {"solver": solver, "rtol": 1e-4, "atol": 1e-6, "t": (0.9, 0.01)}
    whole = ode.solve(guided, x, **options)
    assert min(sizes) < max(sizes)
    kept = ode.solve(guided, x, compact=False, **options)
    assert torch.equal(whole.nfe, kept.nfe)
    torch.testing.assert_close(whole.last, kept.last, rtol=0, atol=1e-12)
    for i in range(4):
        one = model.guided(2.0, {"shift": shift[i : i + 1]}, {"shift": 0 * shift[:1]})
        alone = ode.solve(one, x[i : i + 1], **options)
        torch.testing.assert_close(alone.last[0], whole.last[i], rtol=0, atol=1e-12)


def test_events_of_a_model_see_time_and_state():
    model = MIXTURE.model(ode.paths.VP(), "noise")
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = ode.Event(lambda t, x: t[:, 0] - 0.5)
    sol = ode.solve(model, x, t=(1.0, 0.01), events=half)
    assert sol.status == ["event"] * 3
    torch.testing.assert_close(sol.t, torch.full_like(sol.t, 0.5), rtol=0, atol=1e-12)


@SOLVERS
def test_float32(solver):
    path = paths.VP()
    model, x = MIXTURE.model(path, "noise"), start(path, 0.999)
    sol = solve(model, x.float(), (0.999, 0.01), solver, rtol=1e-3, atol=1e-3)
    wide = solve(model, x, (0.999, 0.01), solver, rtol=1e-3, atol=1e-3)
    assert sol.last.dtype == torch.float32
    torch.testing.assert_close(sol.last.double(), wide.last, rtol=0, atol=1e-3)


def test_nan_stops_its_sample_alone():
    path = paths.VP()
    plain = MIXTURE.model(path, "noise")

    def net(x, t, bad):
        return torch.where((bad > 0) & (t < 0.5)[:, None], torch.nan, plain.net(x, t))

    bad = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    model = ode.Model(net, path, "noise", cond={"bad": bad})
    sol = solve(model, start(path, 0.99, 3), (0.99, 0.01), "dpm_solver_23", rtol=1e-3, atol=1e-3)
    assert sol.status == ["ok", "diverged", "ok"]
    assert bool(sol.last.isfinite().all())
    assert float(sol.t[1]) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(OdesolveError, match="takes predictions of a model"):
        sol.diagnosis(1)


def test_no_cancellation_for_short_steps():
    h = torch.tensor([1e-12, 1e-5, 0.0199, 0.0201, 0.5, -0.3], dtype=torch.float64)
    assert _bend(h)[:2].tolist() == pytest.approx([5e-13, 5.0000166667083336e-06], rel=1e-11)
    torch.testing.assert_close(_bend(h)[2:], torch.expm1(h[2:]) / h[2:] - 1, rtol=1e-12, atol=0)


def test_refusals():
    path = paths.Linear()
    model, x = MIXTURE.model(path, "velocity"), torch.ones(1, 2)
    with pytest.raises(OdesolveError, match=r"log-SNR is infinite at t=1\.0: give times between"):
        solve(model, x, (1.0, 0.0), "dpm_solver_23")
    with pytest.raises(OdesolveError, match="Model instead of a function"):
        solve(lambda t, y: -y, x, (0.9, 0.1), "dpm_solver_23")
    with pytest.raises(OdesolveError, match="takes no args"):
        solve(model, x, (0.9, 0.1), args=(1,))
    with pytest.raises(OdesolveError, match="take dopri5"):
        solve(model, x, (0.9, 0.1), "dpm_solver_12", dense=True)
