"""Times, directions, limits of steps, and ends other than the intended one."""

import math

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.ode import Controller
from odesolve.process.progress import Bar
from odesolve.solve import solve

from .problems import decay, logistic, rotation

HALF = torch.tensor([[0.5], [0.1], [0.9]], dtype=torch.float64)


def exact_logistic(y0, t):
    return 1 / (1 + (1 / y0 - 1) * math.exp(-t))


@pytest.mark.few(5)
@pytest.mark.parametrize("solver", ["adaptive_heun", "bosh3", "dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0), (-1.5, 0.5)])
def test_error_follows_the_tolerance_in_both_directions(solver, span):
    for rtol in (1e-4, 1e-7):
        sol = solve(logistic, HALF, span, solver, rtol=rtol, atol=rtol, max_steps=100_000)
        assert sol.status == ["ok"] * 3
        assert float((sol.last - exact_logistic(HALF, span[1] - span[0])).abs().max()) < 10 * rtol
        assert sol.t.tolist() == [span[1]] * 3  # exactly


def test_time_is_float64_under_a_float32_state():
    """10^-9 after 1: float32 times could not tell them apart."""
    sol = solve(decay, HALF.float(), (1.0, 1.0 + 1e-9))
    assert sol.t.dtype == torch.float64
    assert sol.t.tolist() == [1.0 + 1e-9] * 3
    assert sol.last.dtype == torch.float32


def test_every_evaluation_lies_inside_the_interval():
    """The square root ends at t = 1: one evaluation beyond it would be NaN."""
    seen = []

    def f(t, y):
        seen.append(t.flatten())
        return torch.sqrt(1.0 - t) + 0 * y

    sol = solve(f, HALF, (0.0, 1.0), "dopri5", rtol=1e-8, atol=1e-8)
    assert sol.status == ["ok"] * 3
    assert float(torch.cat(seen).max()) == 1.0
    torch.testing.assert_close(sol.last, HALF + 2 / 3, rtol=0, atol=1e-6)


def test_nfe_counts_every_call():
    calls = []
    sol = solve(
        lambda t, y: calls.append(1) or rotation(t, y), torch.ones(1, 2), (0.0, 20.0), "dopri8"
    )
    assert int(sol.nfe) == len(calls) == 2 + 12 * int(sol.steps + sol.rejected)


def test_limits_of_steps():
    longest = solve(decay, HALF, (0.0, 1.0), max_step=0.01)
    assert longest.steps.tolist() == [100] * 3
    given = solve(decay, HALF, (0.0, 1.0), first_step=1.0, rtol=1.0, atol=1.0)
    assert given.steps.tolist() == [1] * 3
    assert given.nfe.tolist() == [7] * 3


def test_max_steps_is_a_status_with_the_state_so_far():
    sol = solve(rotation, torch.ones(2, 2, dtype=torch.float64), (0.0, 1e4), max_steps=20)
    assert sol.status == ["max_steps"] * 2
    assert (sol.steps + sol.rejected).tolist() == [20, 20]
    angle = math.pi / 4 + float(sol.t[0])
    want = math.sqrt(2) * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    torch.testing.assert_close(sol.last[0], want, rtol=0, atol=1e-2)


def test_min_step_ends_a_sample_that_needs_shorter_ones():
    """y' = 1 / sqrt|y - 1| is steep at y = 1; the neighbour that starts beyond it arrives."""
    y0 = torch.tensor([[0.0], [1.5]], dtype=torch.float64)
    sol = solve(
        lambda t, y: (y - 1.0).abs().rsqrt(), y0, (0.0, 1.0), rtol=1e-9, atol=1e-9, min_step=1e-3
    )
    assert sol.status == ["min_step", "ok"]
    assert 0.5 < float(sol.t[0]) < 2 / 3
    torch.testing.assert_close(sol.last[0], 1 - (1 - 1.5 * sol.t[:1]) ** (2 / 3), rtol=0, atol=1e-6)


def test_a_pole_is_step_underflow():
    sol = solve(lambda t, y: y * y, torch.tensor([[1.0], [0.25]], dtype=torch.float64), (0.0, 2.0))
    assert sol.status[0] in ("min_step", "diverged")
    assert sol.status[1] == "ok"
    assert abs(float(sol.t[0]) - 1.0) < 1e-3
    assert bool(sol.last.isfinite().all())


@pytest.mark.parametrize("sync", [1, 8])
@pytest.mark.parametrize("at", [0.0, 0.5])
def test_nan_stops_one_sample_alone(at, sync):
    """At the start, or beyond t = 0.5, where the last finite state is near."""

    def f(t, y, bad):
        return torch.where(bad & (t >= at), float("nan"), -y)

    bad = torch.tensor([[False], [True], [False]])
    sol = solve(f, HALF, (0.0, 1.0), args=(bad,), sync=sync)
    clean = solve(f, HALF, (0.0, 1.0), args=(torch.zeros_like(bad),))
    assert sol.status == ["ok", "diverged", "ok"]
    assert torch.equal(sol.last[[0, 2]], clean.last[[0, 2]])
    assert sol.nfe[[0, 2]].tolist() == clean.nfe[[0, 2]].tolist()
    assert at - 1e-6 <= float(sol.t[1]) <= at
    torch.testing.assert_close(sol.last[1], HALF[1] * torch.exp(-sol.t[1]), rtol=1e-5, atol=0)


def test_progress_is_the_share_of_the_way(capsys, monkeypatch):
    """Of all samples, those that have left included; drawn where it is asked for."""
    solve(rotation, torch.ones(2, 2), (5.0, 1.0), progress=True)
    assert "0/100" in capsys.readouterr().err
    solve(rotation, torch.ones(2, 2), (5.0, 1.0), progress=False)
    assert capsys.readouterr().err == ""
    shares: list[float] = []
    monkeypatch.setattr(Bar, "__enter__", lambda self: shares.append)
    monkeypatch.setattr(Bar, "__exit__", lambda self, *error: None)
    sol = solve(logistic, HALF, (5.0, 1.0), rtol=1e-8)
    assert len(shares) == int((sol.steps + sol.rejected).max())
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] < shares[-1] == 100.0


def test_a_controller_of_ones_own():
    y0 = torch.ones(1, 2, dtype=torch.float64)
    plain = solve(rotation, y0, (0.0, 10.0), controller=Controller(0.0, 1.0, 0.0))
    careful = solve(rotation, y0, (0.0, 10.0), controller=Controller(0.0, 1.0, 0.0, safety=0.5))
    smooth = solve(
        rotation,
        y0,
        (0.0, 10.0),
        controller=Controller(0.2, 0.7, 0.1, safety=0.9, accept=0.81, floor=1e-8),
    )
    assert plain.ok
    assert smooth.ok
    assert int(careful.steps) > 1.5 * int(plain.steps)
    assert int(careful.rejected) == 0
    with pytest.raises(OdesolveError, match="min_factor"):
        Controller(min_factor=2.0)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"t": (0.0,)}, "two or more times"),
        ({"t": (0.0, 0.0)}, "rise or fall"),
        ({"t": (0.0, math.inf)}, "rise or fall"),
        ({"solver": "dopri_5"}, "did you mean 'dopri5'"),
        ({"control": "samples"}, "did you mean 'sample'"),
        ({"rtol": -1.0}, "positive number"),
        ({"atol": torch.ones(2)}, r"\(3,\), one per sample"),
        ({"first_step": -0.1}, "without the sign"),
        ({"y0": torch.ones(3, 1, dtype=torch.int64)}, "float32 or float64"),
        ({"y0": [1.0]}, "tuple, list or dict of tensors"),
        ({"y0": torch.ones(0, 2)}, "nothing to solve"),
        ({"f": lambda t, y: y[:, 0]}, "return dy/dt in the form of y"),
        ({"f": lambda t, y: None}, "NoneType"),
    ],
)
def test_refused_at_the_door(change, hint):
    arguments = {"f": decay, "y0": HALF, **change}
    with pytest.raises(OdesolveError, match=hint):
        solve(**arguments)
