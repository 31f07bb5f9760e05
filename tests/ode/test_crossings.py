"""Every zero within a step is found, in order, and none at which a solution starts: against roots
that are known."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.ode.crossings import zeros
from tests.products import diagonal

SOLVERS = ("dopri5", "dopri8", "tsit5", "bosh3", "adaptive_heun", "kvaerno3", "kvaerno5")
ROOTS = {
    "three, the end alone shows one": [-6.0, -4.0, 2.0],
    "two, the ends show none": [-6.0, -4.0],
    "four": [-9.0, -1.0, 3.0, 9.5],
    "close together": [-6.0, -5.99],
    "at the beginning": [-9.999, -9.9985],
    "at the end": [9.99, 9.995],
    "one and two": [-3.0, 5.0, 5.05],
}


def along(t, y):
    return torch.ones_like(y)


def product(roots):
    return lambda t, y: math.prod(y[..., 0] - r for r in roots)


@pytest.mark.few(5)
@pytest.mark.parametrize(("solver", "roots"), diagonal(SOLVERS, list(ROOTS.values()), times=2))
def test_roots_within_one_step(solver, roots):
    """dy/dt = 1 from -10: one step could go all the way, and the event's roots r lie at t = 10 +
    r."""
    y0, t = torch.tensor([[-10.0]], dtype=torch.float64), (0.0, 20.0)
    given = {"first_step": 20.0, "solver": solver}
    first = ode.solve(along, y0, t, events=ode.Event(product(roots)), **given)
    assert first.status == ["event"]
    assert float(first.t) == pytest.approx(10.0 + roots[0], abs=1e-11)
    assert float(first.last) == pytest.approx(roots[0], abs=1e-11)
    every = ode.solve(along, y0, t, events=ode.Event(product(roots), terminal=False), **given)
    assert int(every.steps) == 1
    assert every.events[0].t[0].tolist() == pytest.approx([10.0 + r for r in roots], abs=1e-11)
    assert every.events[0].y[0].flatten().tolist() == pytest.approx(roots, abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_root_without_any_options(dtype):
    y0 = torch.tensor([[-10.0]], dtype=dtype)
    sol = ode.solve(
        along, y0, (0.0, 20.0), events=ode.Event(lambda t, y: ((y + 6) * (y + 4) * (y - 2))[:, 0])
    )
    assert (float(sol.t), float(sol.last)) == pytest.approx(
        (4.0, -6.0), abs=1e-6 if dtype == torch.float32 else 1e-12
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("direction", [1, -1])
def test_directions_within_one_step(sign, direction):
    """Along the way the cubic rises, falls and rises; back in time as well, from the other end."""
    y0 = torch.tensor([[-10.0 * sign]], dtype=torch.float64)
    roots = sorted([-6.0, -4.0, 2.0], reverse=sign < 0)
    rises = [bool(k % 2) if sign < 0 else not k % 2 for k in range(3)]
    event = ode.Event(product(roots), False, direction)
    sol = ode.solve(along, y0, (0.0, 20.0 * sign), events=event, first_step=20.0)
    want = [r for r, up in zip(roots, rises, strict=True) if up == (direction > 0)]
    assert sol.events[0].y[0].flatten().tolist() == pytest.approx(want, abs=1e-11)
    ended = ode.solve(
        along, y0, (0.0, 20.0 * sign), events=ode.Event(product(roots), True, direction)
    )
    assert float(ended.last) == pytest.approx(want[0], abs=1e-11)


@pytest.mark.parametrize("sync", [pytest.param(1, marks=pytest.mark.long), 5])
def test_each_sample_has_its_own_zeros(sync):
    """Zeros of sin(w y) of four frequencies, two events; those of a sample do not depend on the
    samples beside it."""
    w = torch.tensor([[0.1], [1.0], [3.0], [20.0]], dtype=torch.float64)
    y0 = torch.full((4, 1), -10.05, dtype=torch.float64)

    def f(t, y, w):
        return torch.ones_like(y)

    waves = ode.Event(lambda t, y, w: torch.sin(w * y)[:, 0], terminal=False)
    stop = ode.Event(lambda t, y, w: (y[:, 0] - 9.0) * (y[:, 0] - 9.5))
    sol = ode.solve(f, y0, (0.0, 20.0), args=(w,), events=[waves, stop], sync=sync)
    assert sol.status == ["event"] * 4
    assert sol.last.flatten().tolist() == pytest.approx([9.0] * 4, abs=1e-11)
    for b in range(4):
        period = math.pi / float(w[b])
        want = [k * period for k in range(-200, 200) if -10.05 < k * period < 9.0]
        assert sol.events[0].y[b].flatten().tolist() == pytest.approx(want, abs=1e-11)
        alone = ode.solve(
            f, y0[b : b + 1], (0.0, 20.0), args=(w[b : b + 1],), events=[waves, stop], sync=sync
        )
        assert torch.equal(alone.events[0].t[0], sol.events[0].t[b])


def test_zeros_of_one_system():
    sol = ode.solve(
        lambda t, s: {"x": torch.ones_like(s["x"]), "v": torch.zeros_like(s["v"])},
        {"x": torch.tensor([-10.0]).double(), "v": torch.zeros(3).double()},
        (0.0, 20.0),
        control="batch",
        events=ode.Event(lambda t, s: ((s["x"] + 6) * (s["x"] - 2))[0], terminal=False),
        first_step=20.0,
    )
    assert sol.events[0].t.tolist() == pytest.approx([4.0, 12.0], abs=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_random_roots(seed):
    """Up to eight roots at random places of a step, down to a thousandth of it apart."""
    draw = torch.Generator().manual_seed(seed)
    for count in range(1, 9):
        roots = torch.rand(count, generator=draw, dtype=torch.float64).sort().values
        if count > 1 and float(roots.diff().min()) < 1e-3:
            continue
        fn = lambda rows, x, roots=roots: (
            torch.as_tensor(x).double().expand(1)[:, None] - roots
        ).prod(1)
        many = lambda rows, x, fn=fn: (
            torch.cat([fn(rows, v) for v in x]) if torch.is_tensor(x) else fn(rows, x)
        )
        one = torch.ones(1, dtype=torch.float64)
        found, _ = zeros(many, many(None, 0 * one), many(None, one), -one.expand(2, 1))
        assert found.theta.tolist() == pytest.approx(roots.tolist(), abs=1e-9)
        assert found.rising.tolist() == [(count - k) % 2 == 1 for k in range(count)]


def test_kinks_and_jumps_end_at_the_first_change():
    """Functions that no polynomial resolves: a clamp, a jump, a limit that stays 0."""
    y0 = torch.tensor([[-10.0]], dtype=torch.float64)
    for fn in (
        lambda t, y: (y[:, 0] + 3.3).clamp(-0.01, 0.02),
        lambda t, y: torch.where(y[:, 0] < -3.3, -1.0, 5.0),
        lambda t, y: (-3.3 - y[:, 0]).clamp_min(0.0),
        lambda t, y: ((y[:, 0] + 3.3).abs() - 0.0) * torch.sign(y[:, 0] + 3.3),
    ):
        sol = ode.solve(along, y0, (0.0, 20.0), events=ode.Event(fn), first_step=20.0)
        assert float(sol.last) == pytest.approx(-3.3, abs=1e-12)


def test_a_zero_that_is_only_touched_is_none():
    y0 = torch.tensor([[-10.0]], dtype=torch.float64)
    event = ode.Event(lambda t, y: (y[:, 0] - 1.234).square() + 1e-12)
    assert ode.solve(along, y0, (0.0, 20.0), events=event, first_step=20.0).status == ["ok"]


def ball(t, y):
    return torch.stack([y[..., 1], torch.full_like(y[..., 0], -9.8)], -1)


def hop(speed, above):
    """(time, speed there) at which a ball that is thrown up from a little above the ground meets
    it."""
    end = math.sqrt(speed * speed + 2 * 9.8 * above)
    return (speed + end) / 9.8, end


def bounced(height, factor, count, above):
    """The time of a bounce of a ball that falls from rest and is put back by hand."""
    t, speed = hop(0.0, height)
    for _ in range(count):
        more, speed = hop(factor * speed, above)
        t += more
    return t


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("offset", "tolerance", "direction"),
    diagonal([0.0, 1e-16, -1e-16, 1.0, -1.0], [1e-3, 1e-6, 1e-9], [0, -1], times=2),
)
def test_a_restart_by_hand_does_not_meet_where_it_starts(offset, tolerance, direction):
    """Heights and factors as samples; the ball is put on the ground, or beside it by rounding or by
    one tolerance."""
    off = offset * tolerance if abs(offset) == 1.0 else offset
    heights, factors = (10.0, 10.0, 0.3, 100.0), (0.9, 0.5, 0.99, 0.3)
    y = torch.tensor([[h, 0.0] for h in heights], dtype=torch.float64)
    bounce = torch.tensor(factors, dtype=torch.float64)
    t = torch.zeros(4, dtype=torch.float64)
    for k in range(4):
        event = ode.Event(lambda t, y: y[:, 0], direction=direction)
        sol = ode.solve(ball, y, (0.0, 50.0), rtol=tolerance, atol=tolerance, events=event)
        assert sol.status == ["event"] * 4
        t = t + sol.t
        y = torch.stack([torch.full_like(bounce, off), -bounce * sol.last[:, 1]], 1)
        want = [bounced(h, r, k, off) for h, r in zip(heights, factors, strict=True)]
        assert t.tolist() == pytest.approx(want, abs=1e-11, rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_first_step_may_enclose_the_next_zero(dtype):
    """A hop of two billionths of a second within a first step of ten: up and down between two
    samples."""
    for speed in (1e-8 if dtype == torch.float64 else 1e-3, 1e-1, 10.0):
        for off in (0.0, 1e-12 * speed, -1e-12 * speed):
            y0 = torch.tensor([[off, speed]], dtype=dtype)
            sol = ode.solve(
                ball, y0, (0.0, 20.0), events=ode.Event(lambda t, y: y[:, 0]), first_step=10.0
            )
            assert sol.status == ["event"]
            assert float(sol.t) == pytest.approx(
                hop(speed, off)[0], rel=2e-6 if dtype == torch.float32 else 1e-9
            )


def test_a_hop_that_is_lower_than_it_started_below():
    # its top is 5e-7 - 1.2e-8 above the ground
    y0 = torch.tensor([[-5e-7, 4.4e-3]], dtype=torch.float64)
    sol = ode.solve(
        ball, y0, (0.0, 20.0), events=ode.Event(lambda t, y: y[:, 0]), rtol=1e-6, atol=1e-6
    )
    assert float(sol.t) == pytest.approx(hop(4.4e-3, -5e-7)[0], rel=1e-9)


def test_back_in_time_from_a_zero():
    y0 = torch.tensor([[0.0, -14.0], [-1e-14, -14.0], [1e-14, -14.0]], dtype=torch.float64)
    sol = ode.solve(ball, y0, (5.0, -20.0), events=ode.Event(lambda t, y: y[:, 0]))
    assert sol.t.tolist() == pytest.approx([5.0 - 2 * 14.0 / 9.8] * 3, abs=1e-12)


def test_a_zero_close_to_the_start_counts_where_no_tolerance_explains_it():
    y0 = torch.tensor([[9.9], [9.999], [10.0], [10.0 + 1e-9]], dtype=torch.float64)
    event = ode.Event(lambda t, y: (y[:, 0] - 10.0) * (y[:, 0] - 12.0))
    sol = ode.solve(along, y0, (0.0, 20.0), events=event, rtol=1e-6, atol=1e-6)
    assert sol.last.flatten().tolist() == pytest.approx([10.0, 10.0, 12.0, 12.0], abs=1e-12)


def test_an_event_of_the_time_alone_knows_no_tolerance():
    """The state stands still, so no tolerance of it explains anything."""
    event = ode.Event(lambda t, y: t.reshape(-1) - 5.0)
    y0 = torch.ones(1, 1, dtype=torch.float64)
    sol = ode.solve(lambda t, y: 0 * y, y0, (5.0 - 1e-9, 9.0), events=event)
    assert float(sol.t) == pytest.approx(5.0, abs=1e-15)
    assert ode.solve(lambda t, y: 0 * y, y0, (5.0, 9.0), events=event).status == ["ok"]


def test_the_event_may_return_a_view_of_the_state():
    y0 = torch.tensor([[-10.0]], dtype=torch.float64)
    ode.solve(along, y0, (0.0, 20.0), events=ode.Event(lambda t, y: y[:, 0]))
    assert float(y0) == -10.0


def test_events_of_a_model():
    """The velocity of a model: a level half way."""
    model = ode.problems.mixture([0.5, 0.5], [[-1.0], [1.0]], std=0.3).model(
        ode.paths.VP(), "noise"
    )
    x = torch.tensor([[1.5], [-0.5]])
    level = 0.5 * (1.5 + float(ode.solve(model, x, t=(0.999, 0.001)).last[0, 0]))
    sol = ode.solve(model, x, t=(0.999, 0.001), events=ode.Event(lambda t, x: x[:, 0] - level))
    assert sol.status[0] == "event"
    assert float(sol.last[0, 0]) == pytest.approx(level, abs=1e-6)


def test_a_wrong_shape_is_refused_within_the_step_too():
    with pytest.raises(OdesolveError, match="one per sample"):
        ode.solve(along, torch.zeros(2, 1), events=ode.Event(lambda t, y: y))
