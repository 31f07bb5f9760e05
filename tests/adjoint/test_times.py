"""Gradients of solves in which each sample has times of its own."""

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.solve import solve

START = torch.tensor([[1.0, 0.5], [-0.5, 2.0], [1.0, 1.0]], dtype=torch.float64)
TIMES = torch.tensor([[0.0, 0.4, 1.0], [2.0, 1.5, 0.5], [-1.0, 1.0, 1.5]], dtype=torch.float64)
RATES = torch.tensor([[1.0], [0.5], [-0.3]], dtype=torch.float64)
WEIGHTS = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
WAYS = {
    "backprop by tolerance": {"adjoint": "backprop", **TIGHT},
    "backprop by steps": {"adjoint": "backprop", "steps": 5},
    "continuous by tolerance": {"adjoint": "continuous", **TIGHT},
    "continuous by steps": {"adjoint": "continuous", "steps": [40, 50], "solver": "rk4"},
    "reversible": {"adjoint": "reversible", "steps": 5},
}
TIMED = [k for k in WAYS if "continuous" in k]


class Swing(torch.nn.Module):
    """A nonlinear equation that depends on time, on an argument of each sample and on
    parameters."""

    def __init__(self):
        super().__init__()
        self.push = torch.nn.Parameter(torch.tensor([0.7, -0.2], dtype=torch.float64))

    def forward(self, t, y, rate):
        return (
            torch.stack([y[:, 1], -y[:, 0].sin()], 1)
            - rate * y
            + torch.cos(2.0 * t) * self.push.to(y.dtype)
        )


def gradients(y0, t, rate, weights, way, timed=False):
    """The states, and the gradients of a weighted sum of them."""
    f = Swing()
    leaves = [x.clone().requires_grad_() for x in (y0, rate)]
    t = t.clone().requires_grad_(timed)
    sol = solve(f, leaves[0], t, args=(leaves[1],), **WAYS[way])
    (sol.y * weights).sum().backward()
    return sol, [*(x.grad for x in leaves), f.push.grad, t.grad]


@pytest.mark.few(2)
@pytest.mark.parametrize("way", WAYS)
def test_those_of_each_sample_alone(way):
    sol, (for_y0, for_rate, for_push, _) = gradients(START, TIMES, RATES, WEIGHTS, way)
    alone = [
        gradients(START[i : i + 1], TIMES[i], RATES[i : i + 1], WEIGHTS[:, i : i + 1], way)
        for i in range(3)
    ]
    tolerance = 1e-6 if "continuous" in way else 1e-13
    for i, (one, (y0, rate, _, _)) in enumerate(alone):
        # whose steps are sums of torch's, that round otherwise where steps are numbers
        if way == "reversible":
            torch.testing.assert_close(one.y[:, 0], sol.y[:, i], rtol=1e-14, atol=1e-14)
            own = gradients(
                START[i : i + 1], TIMES[i : i + 1], RATES[i : i + 1], WEIGHTS[:, i : i + 1], way
            )[0]
            assert torch.equal(own.y[:, 0], sol.y[:, i])
        else:
            assert torch.equal(one.y[:, 0], sol.y[:, i])
        assert torch.equal(one.t, sol.t[i : i + 1])
        assert one.status[0] == sol.status[i] == "ok"
        torch.testing.assert_close(y0[0], for_y0[i], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(rate[0], for_rate[i], rtol=tolerance, atol=tolerance)
    pushes = torch.stack([push for _, (_, _, push, _) in alone]).sum(0)
    torch.testing.assert_close(for_push, pushes, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("way", TIMED)
def test_gradients_of_times(way):
    """Against central differences of the solve, time by time."""
    _, (*_, found) = gradients(START, TIMES, RATES, WEIGHTS, way, timed=True)
    f, exact = Swing(), {"rtol": 1e-12, "atol": 1e-12}
    assert found.shape == TIMES.shape
    for i in range(3):
        for j in range(3):
            values = []
            for shift in (1e-5, -1e-5):
                t = TIMES.clone()
                t[i, j] += shift
                with torch.no_grad():
                    values.append(
                        float(
                            (solve(f, START, t, "dopri8", args=(RATES,), **exact).y * WEIGHTS).sum()
                        )
                    )
            assert float(found[i, j]) == pytest.approx(
                (values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-6
            )


@pytest.mark.parametrize("way", TIMED)
def test_gradients_of_shared_times_are_those_of_all(way):
    """The same times for all, once and for each: gradients of the first are the sums of the
    second."""
    shared = TIMES[0]
    _, (*_, once) = gradients(START, shared, RATES, WEIGHTS, way, timed=True)
    _, (*_, own) = gradients(START, shared.expand(3, 3), RATES, WEIGHTS, way, timed=True)
    torch.testing.assert_close(own.sum(0), once, rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def of_the_tensor():
    """Times of each sample, and the gradients of all of them."""
    t = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.25, 3.0], [-1.0, 1.5, 2.5]], dtype=torch.float64)
    _, (*_, want) = gradients(START, t, RATES, WEIGHTS, "continuous by tolerance", timed=True)
    return t, want


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "form",
    [
        lambda t: t,
        lambda t: t.float(),
        lambda t: list(t.unbind()),
        lambda t: [list(row.unbind()) for row in t.unbind()],
        lambda t: [[row[0], 0.25 * k + 1.0, row[2]] for k, row in enumerate(t.unbind())],
    ],
    ids=["tensor", "float32", "rows", "numbers", "some"],
)
def test_gradients_of_times_in_any_form(form, of_the_tensor):
    t, want = of_the_tensor
    leaf = t.clone().requires_grad_()
    sol = solve(Swing(), START, form(leaf), args=(RATES,), **WAYS["continuous by tolerance"])
    (sol.y * WEIGHTS).sum().backward()
    seen = leaf.grad != 0
    assert int(seen.sum()) in (6, 9)
    torch.testing.assert_close(leaf.grad[seen], want[seen], rtol=1e-6, atol=1e-8)


def test_shared_times_in_a_list():
    end = torch.tensor(1.0, requires_grad=True)
    sol = solve(lambda t, y: -y, START, [0.0, end], adjoint="continuous", **TIGHT)
    sol.last.sum().backward()
    assert float(end.grad) == pytest.approx(
        -float(START.sum()) * float(torch.tensor(-1.0).exp()), rel=1e-6
    )


@pytest.mark.parametrize("way", [k for k in WAYS if k not in TIMED])
@pytest.mark.parametrize("shared", [True, False])
def test_ways_without_gradients_of_times_say_so(way, shared):
    with pytest.raises(
        OdesolveError,
        match=r'gives no gradients of t: take "continuous", or '
        r"t.detach\(\)",
    ):
        gradients(START, TIMES[0] if shared else TIMES, RATES, WEIGHTS, way, timed=True)


@pytest.mark.parametrize("adjoint", ["backprop", "continuous"])
def test_what_failed_is_told(adjoint):
    """One of the samples reaches the pole of its solution before its own end."""
    y0 = torch.tensor([[1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[0.0, 0.5], [5.0, 7.0]], dtype=torch.float64)
    sol = solve(lambda t, y: y * y, y0, t, adjoint=adjoint)
    assert sol.status[0] == "ok"
    assert sol.status[1] != "ok"
    assert float(sol.t[1]) == pytest.approx(6.0, rel=1e-3)
    assert bool(sol.y[1, 1].isnan())
    torch.testing.assert_close(
        sol.y[1, 0].detach(), torch.tensor([2.0], dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_the_way_back_that_fails_names_its_interval():
    y0 = torch.full((2, 1), 0.3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[0.0, 0.1, 3.0], [9.0, 9.1, 13.0]], dtype=torch.float64)
    fine = {"rtol": 1e-13, "atol": 1e-13}
    sol = solve(lambda t, y: -y, y0, t, adjoint="continuous", max_steps=50, adjoint_options=fine)
    assert sol.status == ["ok", "ok"]
    with pytest.raises(
        OdesolveError,
        match=r"'max_steps' in interval 1, at its share=0\.\d+: "
        r"give other",
    ):
        sol.last.sum().backward()
