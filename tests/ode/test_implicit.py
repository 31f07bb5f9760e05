"""Implicit pairs: orders, classical stiff problems beside scipy, and samples that do not feel each
other."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.methods.tableaus import elementary_weights, weigh
from odesolve.ode import Controller
from odesolve.ode.events import Event
from odesolve.ode.implicit import ESDIRK, ESDIRKS, Implicit, hermite
from odesolve.ode.linear import gmres
from odesolve.solve import solve
from tests.products import LONG, diagonal

SOLVERS = pytest.mark.parametrize("solver", ESDIRKS)
BOTH = pytest.mark.parametrize(("solver", "linear"), diagonal(list(ESDIRKS), ["dense", "krylov"]))
LINEAR = pytest.mark.parametrize("linear", ["dense", "krylov"])
# Where the whole solve, and not the linear one, is looked at.
MOSTLY_DENSE = pytest.mark.parametrize(
    "linear", ["dense", pytest.param("krylov", marks=pytest.mark.long)]
)
F64 = torch.float64


def robertson_slopes(a, b, c):
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return back - slow, slow - back - fast, fast


def robertson(t, y):
    return torch.stack(robertson_slopes(*y.unbind(-1)), -1)


def van_der_pol_slopes(x, v, mu=1000.0):
    return v, mu * (1 - x**2) * v - x


def van_der_pol(t, y, mu=1000.0):
    return torch.stack(van_der_pol_slopes(y[:, 0], y[:, 1], mu), 1)


def lotka_volterra(t, y):
    return torch.stack([1.5 * y[:, 0] - y[:, 0] * y[:, 1], y[:, 0] * y[:, 1] - 3 * y[:, 1]], 1)


def prothero_robinson(t, y, rate=1e6):
    """Its solution from 1 is cos t, however stiff."""
    return -rate * (y - torch.cos(t)) - torch.sin(t)


@functools.cache
def scipy_end(slopes, y0: tuple, end: float, method: str, **options) -> torch.Tensor:
    integrate = pytest.importorskip("scipy.integrate")

    def one(t, y):
        return slopes(*y.tolist())

    return torch.tensor(integrate.solve_ivp(one, (0.0, end), y0, method=method, **options).y[:, -1])


@SOLVERS
def test_conditions_of_order_and_damping(solver):
    """Orders of method and estimate are what they say and no more; R(infinity) is 0, below 1 for
    the embedded method."""
    pair = ESDIRKS[solver]
    phis = elementary_weights(pair.a, pair.order + 1)
    assert max(abs(weigh(pair.a[-1], phi) - 1 / d) for n, d, phi in phis if n <= pair.order) < 1e-15
    assert max(abs(weigh(pair.a[-1], phi) - 1 / d) for n, d, phi in phis if n > pair.order) > 1e-3
    assert min(n for n, _, phi in phis if abs(weigh(pair.error, phi)) > 1e-6) == pair.error_order
    a = torch.zeros(len(pair.a), len(pair.a), dtype=F64)
    for i, row in enumerate(pair.a):
        a[i, : i + 1] = torch.tensor(row, dtype=F64)
    z = -1e8
    b = torch.tensor(pair.a[-1], dtype=F64)
    grown = torch.linalg.solve(torch.eye(len(a), dtype=F64) - z * a, torch.ones(len(a), dtype=F64))
    assert abs(1 + z * float(b @ grown)) < 1e-5
    assert abs(1 + z * float((b - torch.tensor(pair.error, dtype=F64)) @ grown)) < 0.96


def test_wrong_figures_are_refused():
    pair = ESDIRKS["kvaerno3"]
    with pytest.raises(ValueError, match="end in gamma"):
        ESDIRK("x", 3, (*pair.a[:2], (*pair.a[2][:2], 0.4), pair.a[3]), pair.error, 3, "")
    with pytest.raises(ValueError, match="order 1 fails"):
        ESDIRK("x", 3, (*pair.a[:3], (0.3, *pair.a[3][1:])), pair.error, 3, "")
    with pytest.raises(ValueError, match="order 2 fails"):
        ESDIRK("x", 3, pair.a, (0.1, -0.1, 0, 0), 3, "")


@pytest.mark.few(1)
@BOTH
def test_measured_order(solver, linear):
    y0 = torch.tensor([[2.0, 1.5], [1.0, 1.0]], dtype=F64)
    end = 2.0 if LONG else 1.0
    exact = solve(lotka_volterra, y0, (0.0, end), "dopri8", rtol=1e-13, atol=1e-14).last

    def error(steps: int) -> float:
        h = end / steps
        fixed: dict[str, Any] = {
            "first_step": h,
            "min_step": h,
            "max_step": h,
            "controller": Controller(accept=0.01),
        }
        sol = solve(
            lotka_volterra, y0, (0.0, end), solver, rtol=1e-12, atol=1e-12, linear=linear, **fixed
        )
        assert sol.status == ["ok", "ok"]
        assert sol.steps.tolist() == [steps, steps]
        return float((sol.last - exact).norm())

    n = int(end * (40 if solver == "kvaerno3" else 20))
    assert abs(math.log2(error(n) / error(2 * n)) - ESDIRKS[solver].order) < 0.2


@pytest.mark.parametrize("end", [1e5, 1e9] if LONG else [1e9])
def test_robertson(end):
    exact = scipy_end(robertson_slopes, (1.0, 0.0, 0.0), end, "Radau", rtol=1e-11, atol=1e-16)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    rtol, atol = 1e-6, 1e-12
    sol = solve(robertson, y0, (0.0, end), "kvaerno5", rtol=rtol, atol=atol)
    assert sol.status == ["ok"]
    assert ((sol.last[0] - exact).abs() / (atol + rtol * exact.abs())).max() < 10
    assert sol.nfe < 3000
    assert sol.rejected <= 10
    # mass
    torch.testing.assert_close(sol.last.sum(), torch.tensor(1.0, dtype=F64), rtol=0, atol=1e-9)


def test_robertson_beside_scipy():
    """At equal tolerances: an error like Radau's and BDF's, and evaluations between theirs without
    their Jacobians."""
    integrate = pytest.importorskip("scipy.integrate")
    args: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-10}

    def one(t, y):
        return robertson_slopes(*y.tolist())

    theirs = integrate.solve_ivp(one, (0.0, 1e5), [1.0, 0.0, 0.0], method="Radau", **args)
    sol = solve(
        robertson, torch.tensor([[1.0, 0.0, 0.0]], dtype=F64), (0.0, 1e5), "kvaerno5", **args
    )
    assert sol.steps <= len(theirs.t)
    assert sol.nfe <= theirs.nfev + 3 * theirs.njev


@MOSTLY_DENSE
def test_van_der_pol(linear):
    exact = scipy_end(van_der_pol_slopes, (2.0, 0.0), 1000.0, "Radau", rtol=1e-11, atol=1e-13)
    sol = solve(
        van_der_pol,
        torch.tensor([[2.0, 0.0]], dtype=F64),
        (0.0, 1000.0),
        "kvaerno5",
        rtol=1e-6,
        atol=1e-8,
        linear=linear,
    )
    assert sol.status == ["ok"]
    assert ((sol.last[0] - exact).abs() / (1e-8 + 1e-6 * exact.abs())).max() < 20
    assert sol.steps < 500


@pytest.mark.few(1)
@SOLVERS
def test_stiff_problem_in_few_steps(solver):
    y0 = torch.ones(1, 1, dtype=F64)
    sol = solve(prothero_robinson, y0, (0.0, 10.0), solver, rtol=1e-4, atol=1e-6)
    assert sol.status == ["ok"]
    assert abs(float(sol.last) - math.cos(10.0)) < 1e-4
    assert sol.nfe < 600
    explicit = solve(
        prothero_robinson, y0, (0.0, 10.0), "dopri5", rtol=1e-4, atol=1e-6, max_steps=5000
    )
    assert explicit.status == ["max_steps"]
    assert float(explicit.t) < 0.1


@pytest.mark.parametrize(("solver", "compact"), diagonal(list(ESDIRKS), [True, False]))
def test_samples_alone_and_beside_stiff_mates_are_bitwise_equal(solver, compact):
    def f(t, y, mu):
        return van_der_pol(t, y, mu[:, 0])

    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5], [2.0, -0.5]], dtype=F64)
    mu = torch.tensor([[1000.0], [1.0], [30.0]], dtype=F64)
    t = (0.0, 20.0 if LONG else 5.0)
    both = solve(f, y0, t, solver, args=(mu,), compact=compact)
    for i in range(3):
        alone = solve(f, y0[i : i + 1], t, solver, args=(mu[i : i + 1],))
        assert torch.equal(alone.last[0], both.last[i])
        assert (int(alone.nfe), int(alone.steps)) == (int(both.nfe[i]), int(both.steps[i]))
    assert len(set(both.steps.tolist())) == 3


def test_krylov_solves_every_sample_on_its_own():
    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=F64)
    t = (0.0, 1.0 if LONG else 0.1)
    both = solve(van_der_pol, y0, t, "kvaerno5", linear="krylov")
    for i in range(2):
        alone = solve(van_der_pol, y0[i : i + 1], t, "kvaerno5", linear="krylov")
        torch.testing.assert_close(alone.last[0], both.last[i], rtol=1e-9, atol=1e-12)
        assert int(alone.nfe) == int(both.nfe[i])


def heat(t, y):
    """A reaction-diffusion equation by central differences."""
    padded = torch.nn.functional.pad(y, (1, 1))
    return 1e4 / 4 * (padded[..., 2:] - 2 * y + padded[..., :-2]) + y * (1 - y * y) + torch.sin(t)


@pytest.mark.long
def test_krylov_on_a_larger_problem():
    y0 = torch.sin(torch.linspace(0, 3.1, 50, dtype=F64))[None]
    t = (0.0, 1.0 if LONG else 0.25)
    dense = solve(heat, y0, t, "kvaerno5", rtol=1e-7, atol=1e-9, linear="dense")
    krylov = solve(heat, y0, t, "kvaerno5", rtol=1e-5, atol=1e-7, linear="krylov")
    assert krylov.status == ["ok"]
    assert float((krylov.last - dense.last).abs().max()) < 1e-5
    assert krylov.steps < 60


@SOLVERS
def test_backward_time(solver):
    y0 = torch.tensor([[2.0, 1.5]], dtype=F64)
    there = solve(lotka_volterra, y0, (0.0, 1.0), solver, rtol=1e-8, atol=1e-10)
    back = solve(lotka_volterra, there.last, (1.0, 0.0), solver, rtol=1e-8, atol=1e-10)
    assert back.status == ["ok"]
    torch.testing.assert_close(back.last, y0, rtol=0, atol=1e-6)


@LINEAR
def test_nan_stops_its_sample_alone(linear):
    def f(t, y, bad):
        return torch.where((bad > 0) & (t > 0.5), torch.nan, -y)

    y0, bad = torch.ones(3, 2, dtype=F64), torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
    sol = solve(f, y0, (0.0, 2.0), "kvaerno5", args=(bad,), linear=linear)
    assert sol.status == ["ok", "diverged", "ok"]
    torch.testing.assert_close(
        sol.last[[0, 2]], torch.full((2, 2), math.exp(-2.0), dtype=F64), rtol=1e-4, atol=0
    )
    assert float(sol.t[1]) == pytest.approx(0.5, abs=1e-6)
    torch.testing.assert_close(
        sol.last[1], torch.full((2,), math.exp(-0.5), dtype=F64), rtol=1e-4, atol=0
    )


@LINEAR
def test_functions_that_cannot_be_transformed(linear):
    """Through numpy nothing is differentiated: differences serve, to the same accuracy."""

    def through_numpy(t, y):
        return torch.from_numpy(van_der_pol(t, torch.from_numpy(y.numpy())).numpy())

    y0 = torch.tensor([[2.0, 0.0], [1.5, 0.0]], dtype=F64)
    args: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8, "linear": linear}
    ours = solve(through_numpy, y0, (0.0, 20.0), "kvaerno5", **args)
    direct = solve(van_der_pol, y0, (0.0, 20.0), "kvaerno5", **args)
    assert ours.status == ["ok", "ok"]
    torch.testing.assert_close(ours.last, direct.last, rtol=1e-5, atol=1e-7)


def test_errors_of_f_itself_are_seen():
    def wrong(t, y):
        return y @ torch.ones(3, 3, dtype=F64)

    with pytest.raises(OdesolveError, match=r"f failed .*shapes cannot be multiplied"):
        solve(wrong, torch.ones(1, 2, dtype=F64), solver="kvaerno5")


@MOSTLY_DENSE
def test_one_system_and_dicts(linear):
    """A dict is packed, one system has a time without dimensions; both are the same solve."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    args: dict[str, Any] = {
        "t": (0.0, 1.0),
        "solver": "kvaerno5",
        "rtol": 1e-6,
        "atol": 1e-10,
        "linear": linear,
    }

    def system(t, y):
        assert t.shape == ()
        return robertson(t, y)

    def pieces(t, y):
        whole = robertson(t, torch.cat([y["a"], y["bc"]], 1))
        return {"bc": whole[:, 1:], "a": whole[:, :1]}

    one = solve(system, y0, **args)
    batch = solve(robertson, y0[None], **args)
    packed = solve(pieces, {"a": y0[None, :1], "bc": y0[None, 1:]}, **args)
    torch.testing.assert_close(one.last, batch.last[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(packed.last["bc"], batch.last[:, 1:], rtol=1e-12, atol=0)


def test_float32():
    y0 = torch.tensor([[2.0, 0.0]])
    sol = solve(van_der_pol, y0, (0.0, 500.0), "kvaerno5", rtol=1e-4, atol=1e-5)
    exact = solve(van_der_pol, y0.double(), (0.0, 500.0), "kvaerno5", rtol=1e-9, atol=1e-11)
    assert sol.status == ["ok"]
    torch.testing.assert_close(sol.last.double(), exact.last, rtol=1e-3, atol=1e-4)


def test_hermite():
    y = torch.tensor([[0.0, 1.0]], dtype=F64)
    h = torch.tensor([0.5], dtype=F64)

    def cubic(t):
        return torch.tensor([[t**3 - t, 1 + 2 * t**2]], dtype=F64), torch.tensor(
            [[3 * t**2 - 1, 4 * t]], dtype=F64
        )

    (y0, f0), (y1, f1) = cubic(0.0), cubic(0.5)
    torch.testing.assert_close(y0, y)
    coefficients = hermite(y0, y1, f0, f1, h)
    for theta in (0.0, 0.3, 1.0):
        value = sum(c * theta**p for p, c in enumerate(coefficients))
        torch.testing.assert_close(value, cubic(0.5 * theta)[0], rtol=0, atol=1e-15)


def test_gmres_rows_on_their_own():
    g = torch.Generator().manual_seed(0)
    matrices = torch.eye(12, dtype=F64) + 0.3 * torch.randn(4, 12, 12, generator=g, dtype=F64)
    matrices[1] = torch.eye(12, dtype=F64)
    r = torch.randn(4, 12, generator=g, dtype=F64)
    r[2] = 0.0
    r[3, 0] = torch.nan

    def system(v):
        return torch.einsum("bij,bj->bi", matrices, v)

    x, count = gmres(system, r, 1e-9)
    exact = torch.linalg.solve(matrices[:3], r[:3])
    torch.testing.assert_close(x[:3], exact, rtol=0, atol=1e-8)
    assert count.tolist()[1:] == [1.0, 0.0, 0.0]
    assert not bool(x[3].isfinite().all())


def test_refusals():
    with pytest.raises(OdesolveError, match="linear"):
        Implicit(ESDIRKS["kvaerno5"], "lu")
    with pytest.raises(OdesolveError, match="implicit solvers, kvaerno3, kvaerno5"):
        solve(robertson, torch.ones(1, 3), solver="dopri5", linear="dense")
    with pytest.raises(OdesolveError, match='linear="krylov"'):
        solve(lambda t, y: -y, torch.ones(1, 5000), solver="kvaerno5", linear="dense")


@SOLVERS
def test_outputs_and_dense(solver):
    """Between steps of an implicit solver stands the cubic of its ends and slopes."""
    y0, t = torch.tensor([[2.0, 1.5], [1.0, 0.5]], dtype=F64), torch.linspace(0, 1, 8, dtype=F64)
    exact = solve(lotka_volterra, y0, t, "dopri8", rtol=1e-12, atol=1e-13).y
    sol = solve(lotka_volterra, y0, t, solver, rtol=1e-7, atol=1e-9, dense=True, max_step=0.05)
    torch.testing.assert_close(sol.y, exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(sol.at(t), sol.y, rtol=1e-12, atol=1e-13)


def test_event():
    """Terminal events end implicit solves too: where the first species falls through 2.5."""
    falls = Event(lambda t, y: y[:, 0] - 2.5, direction=-1)
    y0 = torch.tensor([[2.0, 1.5], [2.0, 2.5]], dtype=F64)
    args: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11, "events": falls}
    ours = solve(lotka_volterra, y0, (0.0, 5.0), "kvaerno5", max_step=0.01, **args)
    theirs = solve(lotka_volterra, y0, (0.0, 5.0), "dopri8", **args)
    assert ours.status == ["event", "event"]
    torch.testing.assert_close(ours.t, theirs.t, rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.last[:, 0], torch.full((2,), 2.5, dtype=F64), rtol=0, atol=1e-9)
