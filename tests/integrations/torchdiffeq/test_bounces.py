"""Searches for events that begin at one, that meet several in a step, or none; and gradients of the
times in one call."""

import math

import pytest
import torch

from odesolve.errors import OdesolveError
from tests.products import LONG, diagonal

from .problems import ours

G = 9.8
EULER = {"step_size": 0.01, "interp": "cubic"}


def number(x, dtype=torch.float64):
    return torch.tensor([x], dtype=dtype)


def ball(t, state):
    position, speed = state
    return speed, torch.full_like(position, -G)


def hop(speed, above):
    end = (speed * speed + 2 * G * above) ** 0.5
    return (speed + end) / G, end


def expected(height, factor, count, above):
    t, speed = hop(0.0, height)
    times = [t]
    for _ in range(count - 1):
        more, speed = hop(factor * speed, above)
        times.append(times[-1] + more)
    return times


def bounces(height, factor, count, above, sign=1.0, dtype=torch.float64, **how):
    """Times of the bounces, from a ball at rest; after each the state is set by hand."""
    state, t, times = (
        (number(height, dtype), number(0.0, dtype)),
        torch.zeros((), dtype=torch.float64),
        [],
    )
    for _ in range(count):
        t, (_, speed) = ours.odeint_event(
            ball, state, t, event_fn=lambda t, s: s[0], reverse_time=sign < 0, **how
        )
        times.append(sign * float(t))
        state = (number(above, dtype), -factor * speed[-1])
    return times


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("above", "tolerance", "sign"),
    diagonal([0.0, 1e-15, -1e-15, 1.0, -1.0], [1e-4, 1e-6, 1e-8], [1.0, -1.0]),
)
def test_a_bounce_by_hand(above, tolerance, sign):
    """On the ground, or beside it by rounding or by one tolerance: 1.43, 4.00, 6.31, ... forwards,
    and back in time."""
    above = above * tolerance if abs(above) == 1.0 else above
    for height, factor in ((10.0, 0.9), (0.5, 0.6), (40.0, 1.0)):
        found = bounces(height, factor, 4, above, sign, rtol=tolerance, atol=tolerance)
        assert found == pytest.approx(expected(height, factor, 4, above), rel=1e-11)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("method", "interface"),
    diagonal(["dopri5", "dopri8", "tsit5", "rk4"], [ours.odeint, ours.odeint_adjoint]),
)
def test_a_bounce_by_every_interface(interface, method):
    how = {
        "method": method,
        "options": EULER if method == "rk4" else None,
        "odeint_interface": interface,
    }
    if interface is ours.odeint_adjoint:
        how["adjoint_params"] = ()
    assert bounces(10.0, 0.9, 3, 0.0, **how) == pytest.approx(
        [1.4285714285714286, 4.0, 6.314285714285714], rel=1e-11
    )


def test_a_bounce_in_float32():
    found = bounces(10.0, 0.9, 4, 0.0, dtype=torch.float32, rtol=1e-5, atol=1e-5)
    assert found == pytest.approx(expected(10.0, 0.9, 4, 0.0), rel=3e-6)


def test_many_small_bounces():
    """Down to hops of a millionth of a second, far below the tolerance."""
    factor, count = (0.8, 60) if LONG else (0.6, 27)
    found = bounces(10.0, factor, count, 0.0, rtol=1e-6, atol=1e-6)
    assert found == pytest.approx(expected(10.0, factor, count, 0.0), rel=1e-11)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "euler", "rk4"])
@pytest.mark.parametrize("roots", [[-6.0, -4.0, 2.0], [-6.0, -4.0], [-6.0, -5.95]])
def test_the_first_of_several_zeros_within_a_step(method, roots):
    options = {"step_size": 20.0} if method in ("euler", "rk4") else {"first_step": 20.0}
    event = lambda t, y: math.prod(y - r for r in roots)
    t, y = ours.odeint(
        lambda t, y: torch.ones_like(y), number(-10.0), torch.tensor([0.0, 1.0]), event_fn=event, method=method, options=options,
    )  # fmt: skip
    assert (float(t), float(y[-1])) == pytest.approx((4.0, -6.0), abs=1e-6)


def test_the_first_of_many_numbers():
    levels = torch.linspace(0.0, 9.0, 10, dtype=torch.float64)
    for event, at in ((lambda t, s: s[0] - levels, 9.0), (lambda t, s: (s[0] - levels)[:5], 4.0)):
        _, (position, _) = ours.odeint(
            ball, (number(9.5), number(0.0)), torch.tensor([0.0, 1.0]), event_fn=event
        )
        assert float(position[-1]) == pytest.approx(at, abs=1e-12)
    start = (number(9.0), number(-1.0))  # on one of the levels
    _, (position, _) = ours.odeint(
        ball, start, torch.tensor([0.0, 1.0]), event_fn=lambda t, s: s[0] - levels
    )
    assert float(position[-1]) == pytest.approx(8.0, abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "direction"), diagonal([torch.float32, torch.float64], [1.0, -1.0])
)
def test_a_search_that_cannot_end_has_an_end(dtype, direction):
    """A state that stands still, moves on for ever, or falls for ever: time ends, with a status and
    the last finite state."""
    t, one = torch.tensor([0.0, direction], dtype=dtype), torch.ones(1, dtype=dtype)
    for f, event in (
        (lambda t, y: 0 * y, lambda t, y: y + 1),
        (lambda t, y: torch.ones_like(y), lambda t, y: 0 * y + 1),
        (lambda t, y: t * torch.ones_like(y), lambda t, y: y * y + 1),
    ):
        with pytest.raises(ours.Failed, match="event_fn whose sign changes") as e:
            ours.odeint(f, one, t, event_fn=event)
        assert e.value.status == "max_steps"
        assert bool(e.value.state.isfinite().all())
        assert math.isfinite(e.value.t)


def test_a_search_has_a_budget(monkeypatch):
    """A fixed point, on which steps stay as short as stability wants."""
    calls = []
    f = lambda t, y: calls.append(1) or -y
    with pytest.raises(ours.Failed, match="max_num_steps") as e:
        ours.odeint(
            f,
            number(1.0),
            torch.tensor([0.0, 1.0]),
            event_fn=lambda t, y: y + 1,
            options={"max_num_steps": 300},
        )
    assert e.value.status == "max_steps"
    assert len(calls) < 300 * 7
    monkeypatch.setattr("odesolve.ode.recorded.grid.LONGEST", 200)
    t, still = torch.tensor([0.0, 1.0]), lambda t, y: 0 * y
    with pytest.raises(ours.Failed, match="longer step_size") as e:
        ours.odeint(
            still,
            number(1.0),
            t,
            event_fn=lambda t, y: y,
            method="euler",
            options={"step_size": 1.0},
        )
    assert (e.value.status, e.value.t) == ("max_steps", 200.0)


@pytest.mark.parametrize("method", ["dopri5", "euler"])
def test_an_event_that_is_no_number_is_a_failure(method):
    options = {"step_size": 0.3} if method == "euler" else None
    with pytest.raises(ours.Failed, match="not finite") as e:
        ours.odeint(
            lambda t, y: torch.ones_like(y), number(1.0), torch.tensor([0.0, 1.0]), method=method, options=options,
            event_fn=lambda t, y: torch.sqrt(2 - y) + 0.1,
        )  # fmt: skip
    assert e.value.status == "diverged"
    with pytest.raises(OdesolveError, match="event_fn returned float"):
        ours.odeint(
            lambda t, y: y, number(1.0), torch.tensor([0.0, 1.0]), event_fn=lambda t, y: 1.0
        )


class Thrown(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(number(G))

    def forward(self, t, state):
        return state[1], -self.gravity * torch.ones_like(state[0])


@pytest.mark.few(2)
@pytest.mark.parametrize("interface", [ours.odeint, ours.odeint_adjoint])
@pytest.mark.parametrize("options", [None, EULER])
def test_gradients_of_the_time_in_one_call(interface, options):
    """t = t0 + sqrt(2 (x - level) / g): of the start, the parameter of f, that of the event, and
    t0; and of the state there."""
    f = Thrown()
    height, level = number(10.0).requires_grad_(), number(2.0).requires_grad_()
    t0 = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    how = {"method": "rk4", "options": options} if options else {"rtol": 1e-10, "atol": 1e-11}
    t, (position, speed) = interface(
        f, (height, number(0.0)), t0, event_fn=lambda t, s: s[0] - level, **how
    )
    fall = math.sqrt(16 / G)
    assert float(t.detach()) == pytest.approx(0.3 + fall, abs=1e-9)
    grads = torch.autograd.grad(t, (t0, height, level, f.gravity), retain_graph=True)
    wanted = (1.0, 1 / (G * fall), -1 / (G * fall), -fall / (2 * G))
    assert [float(g.flatten()[0]) for g in grads] == pytest.approx(wanted, abs=1e-7)
    assert float(grads[0][1]) == 0.0  # of the time that only says which way
    grads = torch.autograd.grad(speed[-1].sum(), (height, f.gravity), retain_graph=True)
    assert [float(g) for g in grads] == pytest.approx((-1 / fall, -fall / 2), abs=1e-7)
    (g,) = torch.autograd.grad(position[-1].sum(), level)
    assert float(g) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("interface", [ours.odeint, ours.odeint_adjoint])
def test_gradients_of_bounces_in_one_call_each(interface):
    """T = sqrt(2 h / g) (1 + 2 r + 2 r^2): the state is set by hand, and every solve is one
    call."""
    f = Thrown()
    height, factor = number(10.0).requires_grad_(), number(0.9).requires_grad_()
    state, t = (height, number(0.0)), number(0.0)
    for _ in range(3):
        t, (_, speed) = interface(
            f,
            state,
            torch.cat([t, t.detach() + 1]),
            event_fn=lambda t, s: s[0],
            rtol=1e-10,
            atol=1e-10,
        )
        t, state = t.reshape(1), (number(0.0), -factor * speed[-1])
    total = math.sqrt(20 / G) * (1 + 2 * 0.9 + 2 * 0.81)
    assert float(t.detach()) == pytest.approx(total, rel=1e-11)
    grads = torch.autograd.grad(t.sum(), (height, factor, f.gravity))
    wanted = (total / 20, math.sqrt(20 / G) * (2 + 4 * 0.9), -total / (2 * G))
    assert [float(g) for g in grads] == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize(
    "interface", [ours.odeint, pytest.param(ours.odeint_adjoint, marks=pytest.mark.long)]
)
def test_gradients_beside_differences(interface):
    """A pendulum that swings to an angle, one of several numbers of the event."""
    rate = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    event = lambda t, y: torch.stack([y[0] - 5.0, y[0] - 0.2 * torch.cos(t), 0 * y[0]])

    def solve(rate):
        f = lambda t, y: torch.stack([y[1], -rate[0] * torch.sin(y[0])])
        more = {"adjoint_params": (rate,)} if interface is ours.odeint_adjoint else {}
        y0 = torch.stack([1 + rate[0], 0 * rate[0]])
        return interface(
            f,
            y0,
            torch.tensor([0.1, 1.0]).double(),
            event_fn=event,
            method="dopri5" if LONG else "dopri8",
            rtol=1e-11,
            atol=1e-11,
            **more,
        )

    t, y = solve(rate)
    loss = t + y[-1, 1] ** 2
    (g,) = torch.autograd.grad(loss, rate)
    with torch.no_grad():
        ends = [(t + y[-1, 1] ** 2) for t, y in (solve(rate + h) for h in (1e-4, -1e-4))]
    assert float(g) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-6)


def test_what_has_no_gradient_says_so():
    height = number(10.0).requires_grad_()
    t, _ = ours.odeint(
        ball,
        (height, number(0.0)),
        torch.tensor([0.0, 1.0]).double(),
        event_fn=lambda t, s: s[0] - 2.0,
    )
    (g,) = torch.autograd.grad(t, height, create_graph=True)
    with pytest.raises(OdesolveError, match="no gradient of its own"):
        torch.autograd.grad(g, height)
    flat = lambda t, s: torch.where(s[0] > 2.0, 1.0, -1.0) + 0 * s[0]
    t, _ = ours.odeint(
        ball, (height, number(0.0)), torch.tensor([0.0, 1.0]).double(), event_fn=flat
    )
    assert float(t.detach()) == pytest.approx(math.sqrt(16 / G), abs=1e-12)
    with pytest.raises(OdesolveError, match="does not change along the solution"):
        torch.autograd.grad(t, height)
