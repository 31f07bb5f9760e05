"""Embedded pairs: order conditions, measured orders of solution, estimate and dense output, and
peers' figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import grids, paths, run
from odesolve.lowering.lower import lower
from odesolve.methods import pairs, tableaus
from odesolve.methods.pairs import PAIRS, Pair
from odesolve.methods.tableaus import elementary_weights, weigh
from tests.products import LONG, diagonal

ALL = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
DENSE = {"dopri5": 4, "tsit5": 4, "dopri8": 7}


def slope(t: float, y: np.ndarray) -> np.ndarray:
    """The Lotka-Volterra equations."""
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


def stages(pair: Pair, t: float, y: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
    """State after one step, and all stages."""
    k: list[np.ndarray] = []
    extra_c, extra_a = zip(*pair.extra, strict=True) if pair.extra else ((), ())
    for c, row in zip((*pair.c, 1.0, *extra_c), (*pair.a, pair.b, *extra_a), strict=True):
        k.append(
            slope(
                t + c * h, y + h * sum((w * s for w, s in zip(row, k, strict=False)), np.zeros(2))
            )
        )
    return y + h * np.tensordot(pair.b, k[: pair.stages], 1), np.array(k)


def dense(pair: Pair, y: np.ndarray, h: float, k: np.ndarray, theta: float) -> np.ndarray:
    powers = theta ** np.arange(1, len(pair.dense[0]) + 1)
    return y + h * np.array(pair.dense) @ powers @ k


def rate(coarse: float, fine: float) -> float:
    return math.log2(coarse / fine)


START = np.array([2.0, 1.5])


def integrate(pair: Pair, span: float, steps: int) -> np.ndarray:
    y, h = START, span / steps
    for i in range(steps):
        y, _ = stages(pair, i * h, y, h)
    return y


@ALL
def test_conditions_of_the_method_and_of_its_estimate(pair):
    assert max(abs(residual) for _, residual in pair.conditions()) < 2e-14
    phis = elementary_weights((*pair.a, pair.b), pair.order + 1)
    assert (
        max(abs(weigh(pair.b, phi[:-1]) - 1 / d) for n, d, phi in phis if n == pair.order + 1)
        > 1e-6
    )
    first = min(n for n, _, phi in phis if abs(weigh(pair.error, phi)) > 1e-6)
    assert first == pair.embedded_order + 1
    if pair.error_third is not None:
        assert min(n for n, _, phi in phis if abs(weigh(pair.error_third, phi)) > 1e-6) == 4


@pytest.mark.few(2)
@ALL
def test_measured_order(pair):
    exact = integrate(pairs.DOPRI8, 6.0, 500)
    counts = (32, 64) if pair.order == 8 else (256, 512)
    errors = [float(np.linalg.norm(integrate(pair, 6.0, n) - exact)) for n in counts]
    assert abs(rate(*errors) - pair.order) < 0.2


def local_estimate(pair: Pair, h: float) -> float:
    _, k = stages(pair, 0.0, START, h)
    five = float(np.linalg.norm(h * np.array(pair.error) @ k[: pair.stages + 1]))
    if pair.error_third is None:
        return five
    three = float(np.linalg.norm(h * np.array(pair.error_third) @ k[: pair.stages + 1]))
    return five**2 / math.sqrt(five**2 + 0.01 * three**2)


@ALL
def test_measured_order_of_the_estimate(pair):
    assert (
        abs(rate(local_estimate(pair, 0.02), local_estimate(pair, 0.01)) - pair.error_order) < 0.2
    )


@pytest.mark.parametrize("name", DENSE)
def test_dense_output_meets_both_ends_in_value_and_slope(name):
    pair, h, eps = PAIRS[name], 0.1, 1e-6
    y1, k = stages(pair, 0.0, START, h)
    np.testing.assert_array_equal(dense(pair, START, h, k, 0.0), START)
    np.testing.assert_allclose(dense(pair, START, h, k, 1.0), y1, rtol=1e-13)
    powers = np.arange(1, len(pair.dense[0]) + 1)
    at_end = (np.array(pair.dense) * powers).sum(1) @ k
    np.testing.assert_allclose(np.array(pair.dense)[:, 0] @ k, k[0], rtol=1e-12)
    np.testing.assert_allclose(at_end, k[pair.stages], rtol=1e-11)
    inside = (dense(pair, START, h, k, 0.5 + eps) - dense(pair, START, h, k, 0.5 - eps)) / (
        2 * eps * h
    )
    np.testing.assert_allclose(inside, slope(0.5 * h, dense(pair, START, h, k, 0.5)), rtol=1e-4)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("theta", [0.3, 0.8])
def test_measured_order_of_dense_output(name, theta):
    """The local error of an interpolant of order q is of order q + 1, at least."""
    pair = PAIRS[name]

    def error(h: float) -> float:
        _, k = stages(pair, 0.0, START, h)
        return float(
            np.linalg.norm(dense(pair, START, h, k, theta) - integrate(pairs.DOPRI8, theta * h, 20))
        )

    h = 0.4 if name == "dopri8" else 0.1
    assert rate(error(h), error(h / 4)) / 2 > DENSE[name] + 0.8


@pytest.mark.parametrize("name", DENSE)
def test_conditions_of_dense_output(name):
    """Every power of theta on its own: sum_j dense[j][p] phi_j is 1/density for the trees of p + 1
    nodes, else 0."""
    pair, order = PAIRS[name], DENSE[name]
    worst = dict.fromkeys(range(1, order + 2), 0.0)
    for n, density, phi in elementary_weights(
        (*pair.a, pair.b, *(row for _, row in pair.extra)), order + 1
    ):
        for p, column in enumerate(zip(*pair.dense, strict=True)):
            worst[n] = max(worst[n], abs(weigh(column, phi) - (p + 1 == n) / density))
    assert worst.pop(order + 1) > 0.1
    assert max(worst.values()) < 1e-12


@pytest.mark.parametrize(
    ("name", "theirs"), [("bosh3", "RK23"), ("dopri5", "RK45"), ("dopri8", "DOP853")]
)
def test_figures_of_scipy(name, theirs):
    method, pair = getattr(pytest.importorskip("scipy.integrate"), theirs), PAIRS[name]
    for i, row in enumerate(pair.a):
        np.testing.assert_allclose(row, method.A[i, :i], rtol=1e-15)
    np.testing.assert_allclose(pair.b, method.B, rtol=1e-15)
    np.testing.assert_allclose(pair.c, method.C, rtol=1e-15)
    if name != "dopri8":
        # Shampine's estimate; scipy's is Dormand and Prince's
        scale = 2 / 3 if name == "dopri5" else 1
        np.testing.assert_allclose(pair.error, -scale * method.E, rtol=1e-12, atol=1e-17)
    if name == "dopri5":
        np.testing.assert_allclose(pair.dense, method.P, rtol=1e-15)
    if name == "dopri8":
        assert pair.error_third is not None
        np.testing.assert_allclose(pair.error, method.E5, rtol=1e-15)
        np.testing.assert_allclose(pair.error_third, method.E3, rtol=1e-13, atol=1e-17)
        for (c, row), at, a in zip(pair.extra, method.C_EXTRA, method.A_EXTRA, strict=True):
            assert c == pytest.approx(at, rel=1e-15)
            np.testing.assert_allclose(row, a[: len(row)], rtol=1e-15)


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8"])
def test_dense_output_of_scipy(name):
    integrate = pytest.importorskip("scipy.integrate")
    solver = getattr(integrate, {"bosh3": "RK23", "dopri5": "RK45", "dopri8": "DOP853"}[name])
    pair, h = PAIRS[name], 0.1
    theirs = solver(slope, 0.0, START, 1.0, first_step=h, rtol=1e-2, atol=1e-2)
    theirs.step()
    assert theirs.t == h
    y1, k = stages(pair, 0.0, START, h)
    np.testing.assert_allclose(theirs.y, y1, rtol=1e-14)
    for theta in (0.1, 0.5, 0.9) if pair.dense else ():
        np.testing.assert_allclose(
            theirs.dense_output()(theta * h), dense(pair, START, h, k, theta), rtol=1e-13
        )


# (figure of theirs, over ours).
@pytest.mark.parametrize(
    ("name", "module", "attribute", "scale"),
    [
        ("dopri5", "dopri5", "_DORMAND_PRINCE_SHAMPINE_TABLEAU", 1),
        ("bosh3", "bosh3", "_BOGACKI_SHAMPINE_TABLEAU", 1),
        ("fehlberg2", "fehlberg2", "_FEHLBERG2_TABLEAU", 1),
        ("adaptive_heun", "adaptive_heun", "_ADAPTIVE_HEUN_TABLEAU", -1),
    ],
)
def test_figures_of_torchdiffeq(name, module, attribute, scale):
    pytest.importorskip("torchdiffeq")
    theirs = getattr(__import__(f"torchdiffeq._impl.{module}", fromlist=["_"]), attribute)
    # theirs writes a last stage of its own only for these two
    pair, shared = PAIRS[name], name in ("dopri5", "bosh3")
    rows = (*pair.a[1:], *([pair.b] if shared else []))
    for row, theirs_row in zip(rows, theirs.beta, strict=True):
        np.testing.assert_allclose(row, theirs_row.numpy(), rtol=1e-15)
    ours = np.array(pair.error if shared else pair.error[:-1])
    np.testing.assert_allclose(theirs.c_error.numpy(), scale * ours, rtol=1e-12, atol=1e-17)
    np.testing.assert_allclose(
        theirs.c_sol.numpy(), (*pair.b, 0.0) if shared else pair.b, rtol=1e-15
    )


def test_dopri8_is_another_method_than_torchdiffeqs():
    """Theirs is Prince and Dormand's 8(7) pair of 13 stages (1981); ours is DOP853, with 12."""
    theirs = pytest.importorskip("torchdiffeq._impl.dopri8")._DOPRI8_TABLEAU
    assert len(theirs.alpha) + 1 == 14
    assert pairs.DOPRI8.stages == 12


def test_figures_of_torchode():
    theirs = pytest.importorskip("torchode").Tsit5.TABLEAU
    pair = pairs.TSIT5
    for i, row in enumerate((*pair.a, pair.b)):
        np.testing.assert_allclose(row, theirs.a[i][:i], rtol=1e-15)
    np.testing.assert_allclose(pair.error, theirs.b_err, rtol=1e-15)
    np.testing.assert_allclose(np.array(pair.dense).T[1:], theirs.b_other, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"error": (-1 / 2, 1 / 2)}, "3 weights"),
        ({"error": (-1 / 2, 1 / 4, 0)}, "embedded order 1 fails"),
        ({"error_order": 3}, "embedded order 2 fails"),
        ({"error_order": 0}, "error_order=0: give a whole number of at least 1"),
        ({"error_order": 2.5}, "error_order=2.5: give a whole number"),
        ({"error": (0, 0, 0)}, "weights of its error are all 0"),
        ({"dense": ((1, 0), (0, 0))}, "dense has 2 rows for 3 stages"),
        ({"error_third": (0, 0)}, "3 weights"),
        ({"b": (1, 0)}, "order 2 fails"),
    ],
)
def test_wrong_figures_are_refused(change, what):
    heun = pairs.ADAPTIVE_HEUN
    given = {k: getattr(heun, k) for k in ("name", "order", "c", "a", "b", "error", "error_order")}
    Pair(**given)
    with pytest.raises(ValueError, match=what):
        Pair(**{**given, **change})


@pytest.mark.parametrize("order", [5, 6, 7, 8])
def test_open_methods_of_high_order(order):
    method = tableaus.open_at_end(order)
    assert method.order == order - 1
    assert max(method.c) < 1.0
    assert max(abs(r) for _, r in method.conditions()) < 1e-15 * method.scale


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "steps", "closed"),
    [(*a, b) for a, b in diagonal([("dopri5", 32), ("tsit5", 32), ("dopri8", 8)], [True, False])],
)
def test_fixed_steps_to_the_data_end(name, steps, closed):
    """A pair is a tableau of a plan, whose order the last step to sigma = 0 keeps."""
    path = paths.Linear()
    problem = ode.problems.mixture([0.3, 0.7], [[-1.2], [1.0]], std=[0.9, 1.1])
    model = problem.model(path, "velocity")
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def end(solver, n: int) -> torch.Tensor:
        plan = ode.plan(solver, path, n, grids.Uniform(), closed=closed)
        return run.run(lower(plan, path, model.reading_for(x.dtype)), x, None, model)

    exact = end(pairs.DOPRI8, 256 if LONG else 64)
    errors = [float((end(PAIRS[name], n) - exact).norm()) for n in (steps, 2 * steps)]
    assert rate(*errors) > PAIRS[name].order - 0.3
