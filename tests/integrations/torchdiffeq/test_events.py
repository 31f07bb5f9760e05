"""Events: the bouncing ball in closed form, several at once, back in time, and gradients through
them; dense output."""

import math

import pytest
import torch

from odesolve.errors import OdesolveError

from .problems import Field, exact, gap, ours, theirs

G = 9.8


def ball(t, state):
    position, speed = state
    return speed, torch.full_like(position, -G)


def ground(t, state):
    return state[0]


def number(x):
    return torch.tensor([x], dtype=torch.float64)


@pytest.mark.parametrize("options", [None, {"step_size": 0.01, "interp": "cubic"}])
def test_a_ball_falls(options):
    """From 10 m in sqrt(20 / g), to the resolution of time."""
    method = None if options is None else "rk4"
    t, (position, speed) = ours.odeint(
        ball,
        (number(10.0), number(0.0)),
        torch.tensor([1.0, 2.0]).double(),
        event_fn=ground,
        method=method,
        options=options,
    )
    assert t.dtype == torch.float64
    assert float(t) == pytest.approx(1.0 + math.sqrt(20 / G), abs=1e-13)
    assert position.shape == speed.shape == (2, 1)
    assert float(position[-1].abs()) < 1e-12
    assert float(speed[-1]) == pytest.approx(-math.sqrt(20 * G), abs=1e-12)


@pytest.mark.few(5)
@pytest.mark.parametrize(
    "method", ["dopri5", "dopri8", "bosh3", "rk4", "euler", "implicit_adams", "implicit_midpoint"]
)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_beside_torchdiffeq(method, direction):
    options = (
        {"step_size": 0.01, "interp": "cubic"}
        if method not in ("dopri5", "dopri8", "bosh3")
        else None
    )
    f, y0 = Field(), Field().start()
    t = torch.tensor([0.2, 0.2 + direction], dtype=torch.float64)
    level = exact(f, y0, torch.tensor([0.2, 0.2 + 0.37 * direction], dtype=torch.float64))[-1].sum()
    event = lambda t, y: y.sum() - level
    found = []
    for lib in (ours, theirs):
        if lib is theirs and method == "implicit_midpoint":
            continue
        found.append(
            lib.odeint(f, y0, t, event_fn=event, method=method, options=options, atol=1e-9)
        )
    for at, y in found:
        assert float(at.detach()) == pytest.approx(
            0.2 + 0.37 * direction, abs=2e-2 if method == "euler" else 1e-4
        )
        assert float((y[-1].sum() - level).detach().abs()) < 1e-5
    # the same steps: the same event
    if method not in ("dopri5", "dopri8", "bosh3", "implicit_midpoint"):
        assert gap(*(y for _, y in found)) < 1e-6


def test_the_first_of_several_ends_the_solve():
    event = lambda t, state: torch.cat([state[0] - 2.0, 5.0 - state[1] * 0, 3.0 + state[1]])
    t, (position, speed) = ours.odeint(
        ball, (number(10.0), number(0.0)), torch.tensor([0.0, 1.0]).double(), event_fn=event
    )
    assert float(t) == pytest.approx(3.0 / G, abs=1e-13)  # the speed is reached before the height
    assert float(speed[-1]) == pytest.approx(-3.0, abs=1e-12)
    assert float(position[-1]) > 2.0


@pytest.mark.parametrize("options", [None, {"step_size": 0.07, "interp": "cubic"}])
def test_an_event_at_the_start(options):
    """It does not count: a ball that is thrown up from the ground comes down again."""
    y0, t = (number(0.0), number(1.0)), torch.tensor([0.5, 1.0]).double()
    at, (position, _) = ours.odeint(
        ball, y0, t, event_fn=ground, method=options and "rk4", options=options
    )
    assert float(at) == pytest.approx(0.5 + 2 / G, abs=1e-12)
    assert float(position[-1].abs()) < 1e-12


def test_an_event_function_that_stays_zero():
    """As a time limit is often written: the event is when it gets there, and not somewhere
    after."""
    limit = lambda t, state: torch.zeros_like(t) if t > 0.7 else state[0].sum()
    t, _ = ours.odeint(
        ball, (number(10.0), number(0.0)), torch.tensor([0.0, 1.0]).double(), event_fn=limit
    )
    assert float(t) == pytest.approx(0.7, abs=1e-14)


def test_an_event_far_away_has_no_end_of_time():
    f = lambda t, y: torch.ones_like(y)
    t, _ = ours.odeint(
        f, number(0.0), torch.tensor([0.0, 1.0]).double(), event_fn=lambda t, y: y - 1e6
    )
    assert float(t) == pytest.approx(1e6, rel=1e-12)
    t, _ = ours.odeint(
        f, number(0.0), torch.tensor([0.0, -1.0]).double(), event_fn=lambda t, y: y + 1e6
    )
    assert float(t) == pytest.approx(-1e6, rel=1e-12)


@pytest.mark.parametrize("interface", [ours.odeint, ours.odeint_adjoint])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_the_time_of_a_fall(interface, reverse):
    """t1 = t0 + sqrt(2 (x - level) / g) from rest; back in time as well, as a parabola is
    symmetric."""

    class Ball(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gravity = torch.nn.Parameter(number(G))

        def forward(self, t, state):
            return state[1], -self.gravity * torch.ones_like(state[0])

    f = Ball()
    height, level = number(10.0).requires_grad_(), number(2.0).requires_grad_()
    t0 = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    t, (position, speed) = ours.odeint_event(
        f,
        (height, number(0.0)),
        t0,
        event_fn=lambda t, state: state[0] - level,
        reverse_time=reverse,
        odeint_interface=interface,
        rtol=1e-10,
        atol=1e-11,
    )
    sign, fall = -1.0 if reverse else 1.0, math.sqrt(16 / G)
    assert float(t.detach()) == pytest.approx(0.3 + sign * fall, abs=1e-9)
    grads = torch.autograd.grad(t, (t0, height, level, f.gravity), retain_graph=True)
    expected = (1.0, sign / (G * fall), -sign / (G * fall), -sign * fall / (2 * G))
    assert [float(g) for g in grads] == pytest.approx(expected, abs=1e-7)
    # -sign sqrt(2 g h)
    grads = torch.autograd.grad(speed[-1].sum(), (height, f.gravity), retain_graph=True)
    assert [float(g) for g in grads] == pytest.approx((-sign / fall, -sign * fall / 2), abs=1e-7)
    (g,) = torch.autograd.grad(position[-1].sum(), level)
    assert float(g) == pytest.approx(1.0, abs=1e-7)


def test_gradients_of_a_ball_that_bounces_are_torchdiffeq_s():
    """Three bounces, every state and time of which depends on all that came before."""

    def bounces(lib, interface):
        height, absorbed, radius = (number(x).requires_grad_() for x in (4.0, 0.2, 0.1))
        state, t, times = (height, number(0.0), radius), number(0.0), []
        f = lambda t, s: (*ball(t, s[:2]), torch.zeros_like(s[2]))
        for _ in range(3):
            t, solution = lib.odeint_event(
                f,
                state,
                t,
                event_fn=lambda t, s: s[0] - s[2],
                rtol=1e-10,
                atol=1e-10,
                odeint_interface=interface,
            )
            position, speed, radius_ = (s[-1] for s in solution)
            state = (position + 1e-7, -speed * (1 - absorbed), radius_)
            times.append(t)
        return times, torch.autograd.grad(sum(times), (height, absorbed, radius))

    theirs_times, theirs_grads = bounces(theirs, theirs.odeint)
    times, grads = bounces(ours, ours.odeint)
    assert gap(times, theirs_times) < 1e-7
    assert gap(grads, theirs_grads) < 1e-6
    fall = math.sqrt(2 * 3.9 / G)
    assert float(times[2].detach()) == pytest.approx(fall * (1 + 2 * 0.8 + 2 * 0.64), abs=1e-6)


def test_an_event_needs_steps_or_a_tolerance():
    y0, t = (number(1.0), number(0.0)), torch.tensor([0.0, 1.0])
    with pytest.raises(OdesolveError, match="needs options=dict"):
        ours.odeint(ball, y0, t, event_fn=ground, method="rk4")
    with pytest.raises(OdesolveError, match="finds no events"):
        ours.odeint(ball, y0, t, event_fn=ground, method="scipy_solver")
    with pytest.raises(ValueError, match="with event_fn give two"):
        ours.odeint(ball, y0, torch.tensor([0.0, 1.0, 2.0]), event_fn=ground)


def test_an_event_that_is_never_met_has_an_end():
    with pytest.raises(RuntimeError, match="max_steps"):
        ours.odeint(
            ball, (number(1.0), number(0.0)), torch.tensor([0.0, 1.0]), event_fn=lambda t, s: s[0] ** 2 + 1,
            options={"max_num_steps": 20},
        )  # fmt: skip


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3"])
def test_dense_output(method):
    f, t = Field(), torch.tensor([0.1, 0.4, 0.77, 1.0], dtype=torch.float64)
    for first, last in ((0.1, 1.0), (1.0, 0.1)):
        at = ours.odeint_dense(
            f,
            f.start(),
            torch.tensor(first, dtype=torch.float64),
            last,
            method=method,
            rtol=1e-9,
            atol=1e-10,
        )
        times = t if first < last else t.flip(0)
        assert gap(at(times), exact(f, f.start(), times)) < 1e-6
        assert at(torch.tensor(0.5)).shape == (2, 3)
        with pytest.raises(OdesolveError, match="give times between"):
            at(1.5)
    (a, _) = torch.autograd.grad(at(0.4).sum(), tuple(f.parameters()))
    (b, _) = torch.autograd.grad(
        ours.odeint(f, f.start(), torch.tensor([1.0, 0.4]).double())[-1].sum(),
        tuple(f.parameters()),
    )
    assert gap(a, b) < 1e-5


def test_dense_output_of_a_tuple_and_beside_torchdiffeq():
    f = Field(pairs=True)
    at = ours.odeint_dense(f, f.start(), 0.0, 1.0)
    z, q = at(torch.tensor([0.2, 0.9]))
    assert (z.shape, q.shape) == ((2, 2, 3), (2, 2))
    g = Field()
    at = ours.odeint_dense(g, g.start(), torch.tensor(0.0).double(), 1.0)
    peer = theirs.odeint_dense(g, g.start(), torch.tensor(0.0).double(), 1.0)
    assert gap(at(0.3), peer(torch.tensor(0.3).double())) < 1e-6
    with pytest.raises(OdesolveError, match="knows no rk4"):
        ours.odeint_dense(g, g.start(), 0.0, 1.0, method="rk4")
