"""Events: textbook problems against their formulas and against scipy's solve_ivp."""

import functools
import math

import pytest
import torch
from scipy.integrate import solve_ivp

from odesolve.errors import OdesolveError
from odesolve.ode.events import Event, find_zero
from odesolve.solve import solve
from tests.products import LONG, diagonal

from .problems import lotka_volterra, rotation

G = 9.81
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def falling(t, y):
    return torch.stack([y[..., 1], torch.full_like(y[..., 0], -G)], -1)


def height(t, y):
    return y[..., 0]


def test_a_cannon_of_every_speed():
    """scipy's example, batched: h = v t - g t^2 / 2 lands at 2 v / g and is highest at v / g."""
    speed = torch.tensor([1.0, 5.0, 20.0, 2.5], dtype=torch.float64)
    y0 = torch.stack([torch.zeros_like(speed), speed], 1)
    ground, apex = Event(height, direction=-1), Event(lambda t, y: y[..., 1], terminal=False)
    sol = solve(falling, y0, (0.0, 3.0), events=[ground, apex])
    assert sol.status == ["event", "event", "ok", "event"]
    landed, highest = sol.events
    for b in (0, 1, 3):
        torch.testing.assert_close(landed.t[b], 2 * speed[b : b + 1] / G, rtol=1e-12, atol=1e-14)
        assert float(sol.t[b]) == float(landed.t[b])
        assert torch.equal(sol.last[b], landed.y[b][0])
    assert landed.t[2].numel() == 0
    assert landed.y[2].shape == (0, 2)
    for b in range(4):
        torch.testing.assert_close(highest.t[b], speed[b : b + 1] / G, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(highest.y[b][0, 0], speed[b] ** 2 / (2 * G), rtol=1e-12, atol=0)


def test_a_bouncing_ball():
    """Every bounce is a solve of its own that begins where the last one ended: restitution 0.8,
    five bounces."""
    y, t, speed = torch.tensor([[10.0, 0.0]], dtype=torch.float64), 0.0, math.sqrt(2 * G * 10.0)
    times = []
    for _ in range(5):
        sol = solve(falling, y, (t, t + 10.0), events=Event(height, direction=-1))
        assert sol.status == ["event"]
        t = float(sol.t)
        y = sol.last * torch.tensor([[0.0, -0.8]], dtype=torch.float64)
        times.append(t)
    first = speed / G
    want = [first + sum(2 * first * 0.8**k for k in range(1, n + 1)) for n in range(5)]
    assert times == pytest.approx(want, rel=1e-12)


@functools.cache
def maxima(y0, method, tolerance):
    """Times at which scipy finds the prey largest."""

    def f(t, y):
        a, b = map(float, y)  # ten times as fast as by tensors
        return [1.5 * a - a * b, -3.0 * b + a * b]

    growth = lambda t, y: f(t, y)[0]
    growth.direction = -1
    sol = solve_ivp(f, (0.0, 12.0), list(y0), method, rtol=tolerance, atol=tolerance, events=growth)
    return torch.from_numpy(sol.t_events[0])


PEERS = {"dopri5": "RK45", "dopri8": "DOP853", "bosh3": "RK23"}


@pytest.mark.few(1)
@pytest.mark.parametrize(("ours", "sync"), diagonal(list(PEERS), [1, 6]))
def test_lotka_volterra_against_scipy(ours, sync):
    """All maxima of the prey: no worse than scipy's at the same tolerance; the last sample is also
    seen alone."""
    y0 = torch.tensor([[10.0, 5.0], [5.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    peak = Event(lambda t, y: lotka_volterra(t, y)[..., 0], terminal=False, direction=-1)
    # a method of order 3 takes a thousand steps for 1e-7
    tolerance = 1e-5 if ours == "bosh3" and not LONG else 1e-7
    given = {"solver": ours, "rtol": tolerance, "atol": tolerance, "events": peak, "sync": sync}
    sol = solve(lotka_volterra, y0, (0.0, 12.0), **given)
    for b in range(3):
        start = tuple(y0[b].tolist())
        exact, usual = maxima(start, "DOP853", 1e-13), maxima(start, PEERS[ours], tolerance)
        found = sol.events[0].t[b]
        assert found.shape == usual.shape == exact.shape
        assert float((found - exact).abs().max()) < 2 * float((usual - exact).abs().max()) + 1e-7
    alone = solve(lotka_volterra, y0[2:], (0.0, 12.0), **given)
    assert torch.equal(alone.events[0].t[0], sol.events[0].t[2])
    assert torch.equal(alone.last[0], sol.last[2])


def test_seldom_looks_find_the_same():
    """Samples that were stepped past their event go back to it, with the counts that they had
    there."""
    y0 = torch.tensor([[0.0, v] for v in (1.0, 3.0, 9.0, 30.0)], dtype=torch.float64)
    t = torch.linspace(0.0, 2.5, 11)
    events = [Event(height, direction=-1), Event(lambda t, y: y[..., 1] - 0.5, terminal=False)]
    given = {"events": events, "solver": "dopri8", "max_step": 0.05, "dense": True}
    every, seldom = (solve(falling, y0, t, sync=k, **given) for k in (1, 7))
    for name in ("y", "last", "t", "nfe", "steps", "rejected"):
        assert torch.equal(
            getattr(every, name).nan_to_num(7.0), getattr(seldom, name).nan_to_num(7.0)
        ), name
    assert every.status == seldom.status == ["event"] * 3 + ["ok"]
    for a, b in zip(every.events, seldom.events, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.t + a.y, b.t + b.y, strict=True))


def test_output_ends_at_a_terminal_event():
    y0 = torch.tensor([[0.0, 5.0], [0.0, 50.0]], dtype=torch.float64)
    t = torch.linspace(0.0, 2.0, 9)
    sol = solve(falling, y0, t, events=Event(height, direction=-1), dense=True)
    before = t < 10.0 / G
    assert torch.equal(sol.y[:, 0, 0].isfinite(), before)
    assert torch.equal(sol.at(t)[:, 0, 0].isfinite(), before)
    want = 5.0 * t[before].double() - G / 2 * t[before].double() ** 2
    torch.testing.assert_close(sol.y[before, 0, 0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("direction", "count"), [(0, 6), (1, 3), (-1, 3)])
def test_directions_forward_and_backward(direction, count):
    """The zeros of sin at pi, 2 pi, ...: fn falls through the first on the way forward; one at the
    start does not count."""
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    event = Event(lambda t, y: y[..., 1], terminal=False, direction=direction)
    zeros = torch.arange(1, 7, dtype=torch.float64) * math.pi
    for sign in (1.0, -1.0):
        sol = solve(rotation, y0, (0.0, sign * 20.0), "dopri8", events=event, **TIGHT)
        falls = sign > 0  # backward in time sin(-s) rises through -pi
        first = 0 if direction == 0 or (direction < 0) == falls else 1
        want = sign * zeros[first :: 1 if direction == 0 else 2]
        assert len(want) == count
        torch.testing.assert_close(sol.events[0].t[0], want, rtol=0, atol=1e-7)


def test_arguments_and_time_reach_the_event():
    level = torch.tensor([[0.2], [0.7], [0.4]], dtype=torch.float64)
    y0 = torch.zeros(3, 1, dtype=torch.float64)

    def f(t, y, level):
        return torch.ones_like(y)

    sol = solve(
        f, y0, args=(level,), events=Event(lambda t, y, level: (t + y - 2 * level).squeeze(1))
    )
    assert sol.status == ["event"] * 3
    torch.testing.assert_close(sol.t, level[:, 0], rtol=1e-12, atol=0)


def test_one_system_of_two_tensors():
    sol = solve(
        lambda t, y: {"x": y["v"], "v": -y["x"]},
        {"x": torch.ones(3, dtype=torch.float64), "v": torch.zeros(3, dtype=torch.float64)},
        (0.0, 10.0),
        control="batch",
        events=[Event(lambda t, y: y["x"].sum(), terminal=False), Event(lambda t, y: t - 6.0)],
        **TIGHT,
    )
    assert sol.status == "event"
    assert float(sol.t) == pytest.approx(6.0, abs=1e-12)
    torch.testing.assert_close(
        sol.events[0].t, torch.tensor([0.5, 1.5], dtype=torch.float64) * math.pi, atol=1e-7, rtol=0
    )
    assert sol.events[0].y["v"].shape == (2, 3)


def test_the_first_of_two_terminal_events_wins():
    y0 = torch.tensor([[0.0, 10.0]], dtype=torch.float64)
    low, high = Event(lambda t, y: y[..., 0] - 2.0), Event(lambda t, y: y[..., 0] - 4.0)
    sol = solve(falling, y0, events=[high, low], first_step=1.0)
    assert [len(e.t[0]) for e in sol.events] == [0, 1]
    assert float(sol.last[0, 0]) == pytest.approx(2.0, rel=1e-12)


def test_roots_are_found_to_the_resolution_of_float64():
    roots = torch.tensor([1e-9, 0.1, 0.5, 1 / 3, 1 - 1e-12], dtype=torch.float64)
    calls = []
    for power in (1, 3, 9):
        fn = lambda x, power=power: torch.sign(x - roots) * (x - roots).abs() ** power
        assert float((find_zero(fn, fn(0 * roots), fn(0 * roots + 1)) - roots).abs().max()) < 1e-15
    step = lambda x: torch.where(x < roots, -1.0, 2.0).double()
    assert (
        float((find_zero(step, step(0 * roots), step(0 * roots + 1)) - roots).abs().max()) < 1e-15
    )
    flat = lambda x: (roots - x).clamp_min(0.0)  # 0 from the root on
    assert (
        float((find_zero(flat, flat(0 * roots), flat(0 * roots + 1)) - roots).abs().max()) < 1e-15
    )
    calls.clear()
    smooth = lambda x: calls.append(1) or torch.expm1(x - roots)
    assert (
        float((find_zero(smooth, smooth(0 * roots), smooth(0 * roots + 1)) - roots).abs().max())
        < 1e-15
    )
    assert len(calls) < 16


def test_refused_events():
    with pytest.raises(OdesolveError, match="direction of -1, 0 or 1"):
        Event(height, direction=2)
    with pytest.raises(OdesolveError, match=r"shape \(1,\), one per sample"):
        solve(falling, torch.ones(1, 2), events=Event(lambda t, y: y))
