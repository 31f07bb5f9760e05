"""Every sample has a step of its own: alone, beside others, in any order and however seldom the
host looks."""

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.solve import solve

from .problems import lotka_volterra, relaxation

START = torch.tensor([[10.0, 5.0], [5.0, 2.0], [1.0, 1.0], [2.0, 0.5]], dtype=torch.float64)
RATES = torch.tensor([[1.0], [3000.0], [3.0], [40.0], [1.0]], dtype=torch.float64)
TWO = torch.full((5, 2), 2.0, dtype=torch.float64)


def facts(sol, i):
    return (
        sol.last[i].tolist(),
        *(int(v[i]) for v in (sol.nfe, sol.steps, sol.rejected)),
        float(sol.t[i]),
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "bosh3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sample_is_the_same_alone_and_beside_others(solver, dtype):
    y0 = START.to(dtype)
    whole = solve(lotka_volterra, y0, (0.0, 6.0), solver)
    assert len(set(whole.nfe.tolist())) > 1
    for i in range(len(y0)):
        assert facts(solve(lotka_volterra, y0[i : i + 1], (0.0, 6.0), solver), 0) == facts(whole, i)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("sync", [1, 3, 8])
def test_the_same_however_seldom_the_host_looks(sync, compact):
    whole = solve(lotka_volterra, START, (0.0, 6.0))
    other = solve(lotka_volterra, START, (0.0, 6.0), sync=sync, compact=compact)
    assert [facts(other, i) for i in range(4)] == [facts(whole, i) for i in range(4)]


def test_a_stiff_mate_costs_its_neighbours_nothing():
    """Without control of its own every sample would pay for the stiffest; here f is called on those
    that still run."""
    alone = solve(relaxation, TWO[:1], args=(RATES[:1],))
    calls = []

    def counted(t, y, rate):
        calls.append(len(y))
        return relaxation(t, y, rate)

    sol = solve(counted, TWO, args=(RATES,))
    assert sol.status == ["ok"] * 5
    assert facts(sol, 0) == facts(alone, 0) == facts(sol, 4)
    assert int(sol.nfe[1]) > 20 * int(sol.nfe[0])
    assert sum(calls) < 1.1 * int(sol.nfe.sum())
    exact = torch.cos(torch.tensor(1.0, dtype=torch.float64)) + torch.exp(-RATES)
    assert float((sol.last - exact).abs().max()) < 1e-4


def test_steps_of_a_whole_batch():
    """One step for all: the stiff sample decides, and every sample counts the same evaluations."""
    sol = solve(lambda t, y: relaxation(t, y, RATES), TWO, control="batch")
    assert sol.status == "ok"
    assert sol.nfe.dim() == sol.t.dim() == 0
    assert int(sol.nfe) > int(solve(relaxation, TWO, args=(RATES,)).nfe[0]) * 20
    assert sol.last.shape == (5, 2)


def test_tolerances_of_each_sample():
    rtol = torch.tensor([1e-3, 1e-9, 1e-6, 1e-3], dtype=torch.float64)
    y0 = START[:1].expand(4, 2)
    sol = solve(lotka_volterra, y0, (0.0, 3.0), rtol=rtol, atol=1e-9)
    alone = [solve(lotka_volterra, y0[:1], (0.0, 3.0), rtol=float(r), atol=1e-9) for r in rtol]
    assert [facts(sol, i) for i in range(4)] == [facts(a, 0) for a in alone]


def test_a_captured_tensor_that_cannot_shrink_is_explained():
    with pytest.raises(OdesolveError, match=r"args=\(\.\.\.\).*compact=False"):
        solve(lambda t, y: relaxation(t, y, RATES), TWO)
    assert solve(lambda t, y: relaxation(t, y, RATES), TWO, compact=False).status == ["ok"] * 5


def test_an_error_of_f_itself_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError):
        solve(lambda t, y: y * (1 / 0), TWO)
