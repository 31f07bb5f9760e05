"""Spans and output times of each sample's own: a sample gives what it gives alone, whatever the
spans beside it."""

import contextlib

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.methods.pairs import PAIRS
from odesolve.model.model import Model
from odesolve.ode import controlled
from odesolve.ode.events import Event
from odesolve.ode.implicit import ESDIRKS
from odesolve.paths import VP
from odesolve.solve import solve
from tests.products import diagonal, parametrize
from tests.rows import rows

from .problems import relaxation

START = torch.tensor([[10.0, 5.0], [5.0, 2.0], [1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
RISING = torch.tensor(
    [[0.0, 0.5, 6.0], [1.0, 1.1, 1.2], [-2.0, 0.0, 2.0], [3.0, 3.5, 7.0]], dtype=torch.float64
)
FALLING = RISING.flip(1)
MIXED = torch.where(torch.tensor([[True], [False], [False], [True]]), RISING, FALLING)
SPANS = {"rising": RISING, "falling": FALLING, "mixed": MIXED}
LOOSE = {"adaptive_heun": 1e-3, "fehlberg2": 1e-3, "kvaerno3": 1e-2, "kvaerno5": 1e-4}


def forced(t, y, *rates):
    """Bounded both ways in time; what depends on t tells a wrong time."""
    return torch.stack([y[:, 1], -y[:, 0]], 1) * (1.0 + 0.5 * torch.sin(3.0 * t)) + torch.cos(
        2.0 * t
    )


def facts(sol, i):
    """All that a solution says of sample i."""
    counts = [int(v[i]) for v in (sol.nfe, sol.steps, sol.rejected)]
    return (
        sol.y[:, i].nan_to_num(7e7).tolist(),
        sol.last[i].tolist(),
        float(sol.t[i]),
        sol.status[i],
        counts,
    )


def check_alone(f, y0, t, *args, **options):
    """Every sample as in a solve of its own, with times that all (of one) samples share, and with
    times of its own."""
    whole = solve(f, y0, t, *args, **options)
    assert whole.y.shape == (t.shape[1], *y0.shape)
    for i in range(len(y0)):
        for span in (t[i], t[i : i + 1]):
            assert facts(solve(f, y0[i : i + 1], span, *args, **options), 0) == facts(whole, i)
    return whole


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "spans"), diagonal([*PAIRS, *ESDIRKS], list(SPANS)))
def test_a_sample_is_the_same_alone(solver, spans):
    tolerance = LOOSE.get(solver, 1e-6)
    sol = check_alone(forced, START, SPANS[spans], solver, rtol=tolerance, atol=tolerance)
    assert sol.status == ["ok"] * 4
    assert torch.equal(sol.t, SPANS[spans][:, -1])
    assert torch.equal(sol.y[0], START)
    assert torch.equal(sol.y[-1], sol.last)
    assert len(set(sol.steps.tolist())) > 2


@pytest.mark.few(3)
@parametrize(compact=[True, False], sync=[1, 3, 8], dtype=[torch.float32, torch.float64])
def test_whoever_leaves_first(compact, sync, dtype):
    check_alone(forced, START.to(dtype), MIXED, sync=sync, compact=compact)


def test_the_right_values():
    """dy/dt = a y + t, whose solution is known, from each sample's own beginning to its own end."""
    rate = torch.tensor([[-1.0], [0.5], [-3.0], [0.2]], dtype=torch.float64)
    sol = solve(
        lambda t, y, a: a * y + t, START, MIXED, "dopri8", args=(rate,), rtol=1e-10, atol=1e-10
    )
    first = MIXED[:, :1]
    for j in range(3):
        t = MIXED[:, j : j + 1]
        exact = (
            (START + first / rate + 1 / rate**2) * torch.exp(rate * (t - first))
            - t / rate
            - 1 / rate**2
        )
        torch.testing.assert_close(sol.y[j], exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "limits", [{"first_step": 0.3}, {"max_step": 0.05}, {"min_step": 0.2, "rtol": 1e-12}]
)
def test_lengths_of_steps_are_those_of_all(limits):
    sol = check_alone(forced, START, MIXED, **limits)
    assert ("min_step" in sol.status) == ("min_step" in limits)
    if "max_step" in limits:
        assert bool((sol.steps >= (MIXED[:, -1] - MIXED[:, 0]).abs() / 0.05 - 1e-9).all())


def test_samples_that_fail():
    """y' = y^2 has a pole at t0 + 1/y0: two samples reach theirs, one runs out of attempts, one
    arrives."""
    y0 = torch.tensor([[1.0], [0.5], [0.1], [-1.0]], dtype=torch.float64)
    t = torch.tensor(
        [[0.0, 0.5, 2.0], [3.0, 4.0, 6.0], [0.0, 1.0, 2.0], [5.0, 4.5, 2.0]], dtype=torch.float64
    )
    sol = check_alone(lambda t, y: y * y, y0, t, max_steps=60)
    assert [w == "ok" for w in sol.status] == [False, False, True, False]
    torch.testing.assert_close(
        sol.t, torch.tensor([1.0, 5.0, 2.0, 4.0], dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert sol.y[:, :, 0].isfinite().sum(0).tolist() == [2, 2, 3, 2]


def test_arguments_are_cut_along():
    rate = torch.tensor([[1.0], [200.0], [3.0], [40.0]], dtype=torch.float64)
    t = RISING + 1.0
    whole = solve(relaxation, START, t, args=(rate,))
    for i in range(4):
        alone = solve(relaxation, START[i : i + 1], t[i], args=(rate[i : i + 1],))
        assert facts(alone, 0) == facts(whole, i)


@pytest.mark.few(2)
@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "bosh3", "kvaerno5"])
def test_dense_output(solver):
    sol = solve(forced, START, MIXED, solver, dense=True)
    share = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)[:, None]
    t = torch.lerp(MIXED[:, 0], MIXED[:, -1], share)
    found, slopes = sol.at(t), sol.slope_at(t)
    assert found.shape == (11, 4, 2)
    assert torch.equal(found[0], START)
    torch.testing.assert_close(found[-1], sol.last, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sol.at(MIXED.t()), sol.y, rtol=1e-12, atol=1e-12)
    for i in range(4):
        alone = solve(forced, START[i : i + 1], MIXED[i], solver, dense=True)
        assert torch.equal(alone.at(t[:, i])[:, 0], found[:, i])
        assert torch.equal(alone.slope_at(t[:, i])[:, 0], slopes[:, i])


def test_dense_output_within_each_span():
    sol = solve(forced, START, RISING, dense=True)
    shared = solve(forced, START, RISING[0], dense=True)
    with pytest.raises(
        OdesolveError,
        match=r"from 1 to 1 for sample 2|from 0.5 to 0.5 for sample "
        r"1",
    ):
        sol.at(0.5)
    with pytest.raises(
        OdesolveError,
        match=r"from 6 to 6 for sample 1: give times in \[1.0, "
        r"1.2\]",
    ):
        sol.at(torch.full((1, 4), 6.0))
    for wrong in (RISING, torch.zeros(1, 1, 4), [[0.0], [0.0, 1.0]], "now", 1j):
        for one in (sol, shared):
            with pytest.raises(OdesolveError, match="give"):
                one.at(wrong)


@pytest.mark.parametrize(
    ("solver", "terminal"), diagonal(["dopri5", "dopri8", "kvaerno5"], [False, True])
)
def test_events(solver, terminal):
    def turning(t, y):
        return y[:, 0] + 0.1 * t[:, 0]

    event = Event(turning, terminal=terminal)
    sol = solve(forced, START, MIXED, solver, events=event, dense=True)
    assert sum(len(t) for t in sol.events[0].t) >= 3
    for i in range(4):
        alone = solve(forced, START[i : i + 1], MIXED[i], solver, events=event, dense=True)
        assert facts(alone, 0) == facts(sol, i)
        assert torch.equal(alone.events[0].t[0], sol.events[0].t[i])
        assert torch.equal(alone.events[0].y[0], sol.events[0].y[i])


@pytest.mark.few(4)
@parametrize(
    solver=["euler", "midpoint", "rk4", "dopri5"],
    spans=list(SPANS),
    dtype=[torch.float32, torch.float64],
)
def test_steps_of_one_size(solver, spans, dtype):
    sol = check_alone(forced, START.to(dtype), SPANS[spans], solver, steps=[3, 5])
    assert sol.steps.tolist() == [8] * 4
    assert torch.equal(sol.t, SPANS[spans][:, -1])


def test_steps_of_one_size_that_diverge():
    y0 = torch.tensor([[1.0], [1e3], [0.1]], dtype=torch.float32)
    t = torch.tensor([[0.0, 0.5], [2.0, 9.0], [5.0, 4.0]])
    sol = check_alone(lambda t, y: y**3, y0, t, "euler", steps=10)
    assert sol.status == ["ok", "diverged", "ok"]
    assert 2.0 <= float(sol.t[1]) < 9.0


def test_states_of_several_tensors():
    y0 = {"a": START, "b": START[:, :1]}
    sol = solve(lambda t, y: {"a": -y["a"] * t, "b": y["a"][:, :1]}, y0, MIXED)
    for i in range(4):
        part = {k: v[i : i + 1] for k, v in y0.items()}
        alone = solve(lambda t, y: {"a": -y["a"] * t, "b": y["a"][:, :1]}, part, MIXED[i])
        assert all(torch.equal(alone.y[k][:, 0], sol.y[k][:, i]) for k in y0)


@pytest.mark.parametrize("solver", ["dopri5", "dpm_solver_12", "dpm_solver_23"])
def test_models(solver):
    """Times of the path of each sample; a log-SNR that is infinite at the end ends at t_min, for
    those that go there."""
    path = VP()
    model = Model(lambda x, t: x * torch.sin(t)[:, None], path, "noise")
    end = 0.01 if solver == "dopri5" else 0.0
    t = torch.tensor(
        [[1.0, 0.5, end], [0.9, 0.5, 0.1], [0.2, 0.6, 1.0], [0.5, 0.3, 0.2]], dtype=torch.float64
    )
    sol = check_alone(model, START, t, solver, rtol=1e-3, atol=1e-3)
    ends = t[:, -1].clone()
    ends[0] = end if end else path.t_min
    assert sol.status == ["ok"] * 4
    torch.testing.assert_close(sol.t, ends, rtol=0, atol=1e-12)
    if solver != "dopri5":
        with pytest.raises(OdesolveError, match=r"infinite at t=0\.0"):
            solve(model, START, t.flip(1), solver)


def test_a_bar(monkeypatch):
    """The mean share of the spans that is done."""
    told = []

    class Listener(contextlib.nullcontext):
        def __init__(self, total, show, unit):
            super().__init__(told.append)
            assert (total, show, unit) == (100.0, True, "%")

    monkeypatch.setattr(controlled, "Bar", Listener)
    solve(forced, START, MIXED, progress=True)
    assert len(told) > 10
    assert told == sorted(told)
    assert told[-1] == 100.0
    assert told[0] < 20.0


def test_what_torchode_gives():
    torchode = pytest.importorskip("torchode")
    term = torchode.ODETerm(
        lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1) * (1.0 + t[:, None].sin())
    )
    control = torchode.IntegralController(atol=1e-9, rtol=1e-9, term=term)
    theirs = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    problem = torchode.InitialValueProblem(y0=START, t_eval=MIXED)
    want = theirs.solve(problem)

    def f(t, y):
        return torch.stack([y[:, 1], -y[:, 0]], 1) * (1.0 + t.sin())

    got = solve(f, START, MIXED, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.y.transpose(0, 1), want.ys, rtol=1e-6, atol=1e-6)


ONE_SYSTEM = [(START, {"control": "batch"}), (START[0], {}), ((START, START[:2]), {})]


@pytest.mark.parametrize(("y0", "options"), ONE_SYSTEM)
def test_one_system_has_one_time(y0, options):
    with pytest.raises(
        OdesolveError,
        match=r"t has shape \(4, 3\), but this is one system: give "
        r"\(n,\)",
    ):
        solve(lambda t, y: y, y0, RISING, **options)


GOOD = [
    [0, 1],
    (0.0, torch.tensor(1.0)),
    torch.tensor([0, 1]),
    torch.tensor([0.0, 1.0], dtype=torch.float16),
    torch.tensor([0.0, 1.0]).numpy(),
    torch.tensor([0.0, 1.0], requires_grad=True),
    [torch.tensor(0.0), torch.tensor(1, dtype=torch.int64)],
    [[0, 1]] * 4,
    torch.tensor([[0, 1]] * 4),
    torch.tensor([[0.0, 1.0]] * 4).numpy(),
    [torch.tensor([0.0, 1.0])] * 4,
    [[0.0, torch.tensor(1.0)]] * 4,
]


@rows("t", GOOD, ids=range(len(GOOD)))
@rows("options", [{}, {"steps": 4}], ids=["tolerance", "steps"])
def test_forms_of_times(t, options):
    """Whatever says 0 and 1 means them."""
    assert torch.equal(
        solve(forced, START, t, **options).y, solve(forced, START, (0.0, 1.0), **options).y
    )


BAD = {
    "no dimension": torch.tensor(1.0),
    "number": 1.0,
    "empty": [],
    "one": [0.0],
    "one each": torch.zeros(4, 1),
    "none each": torch.zeros(4, 0),
    "three dimensions": torch.zeros(4, 3, 1),
    "a row": RISING[:1],
    "a column each": RISING.t(),
    "too many": RISING.repeat(2, 1),
    "nan": [0.0, float("nan")],
    "infinite": [0.0, float("inf")],
    "nan in one": RISING.index_fill(1, torch.tensor([1]), float("nan")),
    "one stands still": RISING.where(RISING < 3.0, 3.0),
    "equal": [0.0, 1.0, 1.0],
    "turns": [0.0, 1.0, 0.5],
    "complex": torch.tensor([0.0, 1.0 + 1j]),
    "complex list": [0.0, 1j],
    "ragged": [[0.0, 1.0], [0.0]] * 2,
    "words": ["0", "1"],
    "none": None,
    "word": "0,1",
    "dict": {0.0: 1.0},
    "numpy ragged": [RISING[0].numpy(), RISING[0, :1].numpy()] * 2,
}


@rows("t", BAD.values(), ids=BAD)
@rows(
    "options", [{}, {"steps": 4}, {"adjoint": "continuous"}], ids=["tolerance", "steps", "adjoint"]
)
def test_times_that_cannot_be_meant(t, options):
    with pytest.raises(OdesolveError, match="give"):
        solve(forced, START, t, **options)
