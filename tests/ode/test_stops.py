"""Jumps of f: a pulse whose integral is known, by every solver, way to gradients and direction of
time."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations import torchdiffeq
from tests.products import diagonal

BEGIN, END = 0.3, 0.3005
SOLVERS = (
    "dopri5",
    "tsit5",
    "dopri8",
    "bosh3",
    "adaptive_heun",
    "fehlberg2",
    "kvaerno3",
    "kvaerno5",
)
HEIGHT = 100.0


def pulse(t, y):
    """dy/dt = -y, and a hundred for half a thousandth of the time."""
    return -y + HEIGHT * ((t >= BEGIN) & (t < END)).to(y)


def closed(t, y0=1.0):
    """The state at a time, from y0 at 0, in either direction of time."""
    inside = min(max(t, BEGIN), END)
    return y0 * math.exp(-t) + HEIGHT * (math.exp(inside - t) - math.exp(BEGIN - t))


def start(dtype=torch.float64):
    return torch.tensor([[1.0], [0.5], [-2.0]], dtype=dtype)


def exact(t):
    return torch.tensor([[closed(t, y0)] for y0 in (1.0, 0.5, -2.0)], dtype=torch.float64)


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "compact"), diagonal(SOLVERS, [True, False]))
def test_a_pulse_is_seen(solver, compact):
    """Missed by 0.05 without; the stops may repeat, stand in any order, and lie outside."""
    given = {"solver": solver, "rtol": 1e-6, "atol": 1e-8, "compact": compact}
    blind = ode.solve(pulse, start(), (0.0, 1.0), solver=solver, rtol=1e-2, atol=1e-2)
    sol = ode.solve(pulse, start(), (0.0, 1.0), stops=[END, BEGIN, BEGIN, 7.0, -1.0], **given)
    assert sol.status == ["ok"] * 3
    assert float((sol.last - exact(1.0)).abs().max()) < (1e-4 if solver == "fehlberg2" else 2e-5)
    assert float((blind.last - exact(1.0)).abs().max()) > 2e-3
    nodes = ode.solve(
        pulse, start(), torch.linspace(0, 1, 21), stops=torch.tensor([BEGIN, END]).double(), **given
    )
    want = torch.stack([exact(t) for t in torch.linspace(0, 1, 21).double().tolist()])
    assert float((nodes.y - want).abs().max()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stops", [(0.25, 0.5), (0.3, 0.7), (0.1, 0.2)])
def test_each_side_is_asked_on_its_own_side(dtype, stops):
    """f is called on neither stop, though steps end there: times next to them are the closest."""
    seen = []

    def f(t, y):
        seen.append(t.flatten().clone())
        return torch.zeros_like(y)

    for way in ((0.0, 1.0), (1.0, 0.0), (stops[0], stops[1]), (stops[1], stops[0])):
        seen.clear()
        ode.solve(f, torch.ones(2, 1, dtype=dtype), way, stops=stops)
        times = torch.cat(seen)
        for stop in torch.tensor(stops, dtype=dtype):
            sides = [torch.nextafter(stop, stop + d) for d in (-1, 1)]
            assert not bool((times == stop).any())
            inner = [s for s in sides if min(way) < float(s) < max(way)]
            assert all(bool((times == s).any()) for s in inner)


def test_falling_times_and_one_system():
    back = ode.solve(pulse, exact(1.0), (1.0, 0.0), stops=(BEGIN, END), rtol=1e-8, atol=1e-9)
    assert float((back.last - start()).abs().max()) < 1e-6
    whole = ode.solve(pulse, start()[:, 0], (0.0, 1.0), stops=(BEGIN, END), rtol=1e-8, atol=1e-9)
    assert whole.status == "ok"
    assert float((whole.last - exact(1.0)[:, 0]).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "way", [(BEGIN, 1.0), (0.0, END), (BEGIN, END), (END, BEGIN), (END, 1.0), (0.0, BEGIN)]
)
def test_stops_at_the_ends(way):
    """The inner side: from the beginning of the pulse on it is on, from its end on it is off."""
    first, last = way
    sol = ode.solve(pulse, exact(first), way, stops=(BEGIN, END), rtol=1e-8, atol=1e-9)
    assert float((sol.last - exact(last)).abs().max()) < 1e-6


@pytest.mark.parametrize("sync", [1, 5])
def test_events_and_dense_output_across_stops(sync):
    """Samples that end before, in and after the pulse keep their times and counts; the others go
    on."""
    level = torch.tensor([[0.85], [20.0], [0.52], [0.50]], dtype=torch.float64)
    y0 = torch.ones(4, 1, dtype=torch.float64)
    stop = ode.Event(lambda t, y, level: (y - level)[:, 0])
    rise = ode.Event(lambda t, y, level: (y - 0.77)[:, 0], terminal=False, direction=1)
    height = 500.0

    def f(t, y, level):
        return -y + height * ((t >= BEGIN) & (t < END)).to(y)

    given = {"args": (level,), "rtol": 1e-9, "atol": 1e-10, "stops": (BEGIN, END)}
    sol = ode.solve(f, y0, (0.0, 1.0), events=[stop, rise], dense=True, sync=sync, **given)
    assert sol.status == ["event", "ok", "event", "event"]
    after = math.exp(-END) + height * (1 - math.exp(BEGIN - END))
    times = [-math.log(0.85), 1.0, END + math.log(after / 0.52), END + math.log(after / 0.50)]
    assert sol.t.tolist() == pytest.approx(times, abs=1e-7)
    crossing = BEGIN + math.log((math.exp(-BEGIN) - height) / (0.77 - height))
    assert [x.tolist() for x in sol.events[1].t] == [[]] + [[pytest.approx(crossing, abs=1e-8)]] * 3
    dense = ode.solve(f, y0, (0.0, 1.0), dense=True, **given)
    for t in (0.0, 0.2, BEGIN, 0.3002, END, 0.8, 1.0):
        now = min(max(t, BEGIN), END)
        want = math.exp(-t) + height * (math.exp(now - t) - math.exp(BEGIN - t))
        assert float((dense.at(t) - want).abs().max()) < 1e-6


def test_counts_and_failures_go_on_across_stops():
    """A sample that fails before a stop stays failed, with its state; the limit of steps counts all
    stretches."""
    f = lambda t, y: torch.where(y > 2.0, torch.nan, y) + 0 * t
    y0 = torch.tensor([[0.1], [1.5]], dtype=torch.float64)
    sol = ode.solve(f, y0, (0.0, 1.0), stops=(0.5,))
    assert sol.status == ["ok", "diverged"]
    assert float(sol.last[0]) == pytest.approx(0.1 * math.e, rel=1e-5)
    assert 1.5 <= float(sol.last[1]) <= 2.0
    assert float(sol.t[1]) == pytest.approx(math.log(2 / 1.5), abs=1e-6)
    sol = ode.solve(
        pulse, start(), (0.0, 1.0), stops=(BEGIN, END), rtol=1e-9, atol=1e-9, max_steps=12
    )
    assert sol.status == ["max_steps"] * 3
    assert (sol.steps + sol.rejected).tolist() == [12] * 3
    calls = []
    counted = lambda t, y: calls.append(1) or pulse(t, y)
    sol = ode.solve(counted, start()[:1], (0.0, 1.0), stops=(BEGIN, END))
    assert int(sol.nfe) == len(calls)


MODES = [
    ("backprop", {}), ("continuous", {}), ("backprop", {"steps": 40}), ("continuous", {"steps": 40}),
    ("reversible", {"steps": 40}),
]  # fmt: skip


@pytest.mark.few(4)
@pytest.mark.parametrize(("adjoint", "more"), MODES)
@pytest.mark.parametrize("falling", [False, True])
def test_gradients_across_stops(adjoint, more, falling):
    """dy/dt = -k y + a pulse of height a: gradients of y0, k and a by their formulas, at two output
    times."""
    k, a = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.3, 100.0))
    y0 = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, requires_grad=True)

    def f(t, y):
        return -k * y + a * ((t >= BEGIN) & (t < END)).to(y)

    def formula(t, origin):
        now, then = (min(max(x, BEGIN), END) for x in (t, origin))
        return y0 * torch.exp(-k * (t - origin)) + a / k * (
            torch.exp(k * (now - t)) - torch.exp(k * (then - t))
        )

    times = (1.0, 0.6, 0.0) if falling else (0.0, 0.4, 1.0)
    control = more or {"rtol": 1e-9, "atol": 1e-9}
    solver = "rk4" if more else "dopri5"
    sol = ode.solve(
        f, y0, times, solver, stops=(BEGIN, END), adjoint=adjoint, params=[k, a], **control
    )
    want = torch.stack([formula(t, times[0]) for t in times])
    assert float((sol.y - want).detach().abs().max()) < 1e-6
    loss = lambda y: y[1].sum() + (y[2] ** 2).sum()
    found = torch.autograd.grad(loss(sol.y), (y0, k, a))
    right = torch.autograd.grad(loss(want), (y0, k, a))
    for g, w in zip(found, right, strict=True):
        assert float((g - w).abs().max()) < 1e-5 * max(1.0, float(w.abs().max()))


def test_gradients_of_times_at_a_stop_are_of_the_side_before():
    t = torch.tensor([BEGIN, END], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, 1, dtype=torch.float64)
    sol = ode.solve(pulse, y0, t, stops=(BEGIN, END), adjoint="continuous", rtol=1e-9, atol=1e-9)
    (g,) = torch.autograd.grad(sol.last.sum(), t)
    end = float(sol.last.detach())
    assert g.tolist() == pytest.approx([-99.0 * math.exp(BEGIN - END), HEIGHT - end], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 7, [3, 2]])
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_steps_of_one_size_end_at_stops(steps, solver):
    """An f that is constant on each side is integrated exactly; an interval without stops keeps its
    steps."""
    ends = []

    def f(t, y):
        ends.append(float(t.flatten()[0]))
        return torch.where(t < 0.3, 1.0, torch.where(t < 0.35, -50.0, 2.0)).to(y).expand_as(y)

    y0 = torch.zeros(2, 1, dtype=torch.float64)
    sol = ode.solve(f, y0, (0.0, 0.5, 1.0), solver, steps=steps, stops=(0.3, 0.35))
    assert sol.y[:, 0, 0].tolist() == pytest.approx(
        [0.0, 0.3 - 2.5 + 0.3, 0.3 - 2.5 + 1.3], abs=1e-12
    )
    last = steps[1] if isinstance(steps, list) else steps
    cut = {1: 3, 7: 5 + 1 + 3, 3: 2 + 1 + 1}[steps[0] if isinstance(steps, list) else steps]
    assert int(sol.steps[0]) == cut + last


def test_stops_of_a_model():
    """A velocity that jumps in time; the log-SNR solvers know no times to stop at."""
    path = ode.paths.Linear()
    net = lambda x, t: torch.where(t < 0.4, 1.0, -3.0).reshape(-1, 1).expand_as(x)
    model = ode.Model(net, path, "velocity")
    x = torch.zeros(2, 1, dtype=torch.float64)
    sol = ode.solve(model, x, t=(0.9, 0.1), stops=(0.4,))
    assert sol.last.flatten().tolist() == pytest.approx([1.5 - 0.3] * 2, abs=1e-9)
    with pytest.raises(OdesolveError, match="takes no stops"):
        ode.solve(model, x, t=(0.9, 0.1), solver="dpm_solver_23", stops=(0.4,))


@pytest.mark.parametrize(
    "stops", [(math.nan,), (math.inf, 0.2), "0.3", (0.3, None), 0.3, torch.zeros(2, 2)]
)
def test_stops_are_finite_numbers(stops):
    with pytest.raises(OdesolveError, match="the times at which f jumps"):
        ode.solve(pulse, start(), stops=stops)


def test_stops_have_no_gradients():
    with pytest.raises(OdesolveError, match=r"stops\.detach"):
        ode.solve(pulse, start(), stops=torch.tensor([0.3], requires_grad=True))


@pytest.mark.parametrize("option", ["jump_t", "step_t"])
def test_the_adapter_s_steps_of_each_sample_stop_too(option):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y = torchdiffeq.odeint(
        pulse, start(), t, options={"per_sample": True, option: [BEGIN, END]}, rtol=1e-8, atol=1e-9
    )
    assert float((y[-1] - exact(1.0)).abs().max()) < 1e-6


@pytest.mark.parametrize("way", [(BEGIN, 1.0), (0.0, END), (BEGIN, END), (END, BEGIN)])
def test_the_adapter_s_jumps_at_the_ends(way):
    first, last = way
    y = torchdiffeq.odeint(
        pulse,
        exact(first),
        torch.tensor(way, dtype=torch.float64),
        options={"jump_t": [BEGIN, END]},
        rtol=1e-8,
        atol=1e-9,
    )
    assert float((y[-1] - exact(last)).abs().max()) < 1e-6
