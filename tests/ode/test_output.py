"""Output times, dense output and states of several tensors."""

import math

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.solve import solve
from tests.products import diagonal

from .problems import decay, logistic, lotka_volterra, relaxation, rotation

HALF = torch.tensor([[0.5], [0.1], [0.9]], dtype=torch.float64)
PREY = torch.tensor([[10.0, 5.0], [5.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def exact_logistic(y0, t):
    return 1 / (1 + (1 / y0 - 1) * torch.exp(-t).view(-1, 1, 1))


@pytest.mark.few(4)
@pytest.mark.parametrize("solver", ["adaptive_heun", "bosh3", "dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_output_times_between_the_steps(solver, sign):
    """As exact as the steps; the times asked for change neither the steps nor, but for dopri8, the
    evaluations."""
    t = sign * torch.linspace(0.0, 3.0, 14, dtype=torch.float64).square() / 3
    rtol = 1e-6 if solver == "adaptive_heun" else 1e-8
    sol = solve(logistic, HALF, t, solver, rtol=rtol, atol=rtol, max_steps=100_000)
    plain = solve(logistic, HALF, (t[0], t[-1]), solver, rtol=rtol, atol=rtol, max_steps=100_000)
    assert sol.y.shape == (14, 3, 1)
    assert torch.equal(sol.last, plain.last)
    assert torch.equal(sol.y[-1], sol.last)
    assert torch.equal(sol.y[0], HALF)
    assert torch.equal(sol.nfe, plain.nfe) == (solver != "dopri8")
    assert float((sol.y - exact_logistic(HALF, t)).abs().max()) < 30 * rtol


def test_many_times_within_one_step():
    t = torch.linspace(0.0, 1e-3, 200, dtype=torch.float64)
    sol = solve(decay, HALF, t, first_step=1e-3)
    assert sol.steps.tolist() == [1, 1, 1]
    torch.testing.assert_close(sol.y, HALF * torch.exp(-t).view(-1, 1, 1), rtol=1e-12, atol=0)


@pytest.mark.few(1)
@pytest.mark.parametrize(("sync", "solver"), diagonal([2, 5, 8], ["dopri5", "dopri8"]))
def test_the_same_output_however_seldom_the_host_looks(solver, sync):
    t = torch.linspace(0.0, 5.0, 23)
    rates = torch.tensor([[1.0], [300.0], [3.0]], dtype=torch.float64)
    given = {"t": t, "solver": solver, "args": (rates,), "dense": True}
    every, seldom = solve(relaxation, PREY, **given), solve(relaxation, PREY, **given, sync=sync)
    assert torch.equal(every.y, seldom.y)
    assert torch.equal(every.nfe, seldom.nfe)
    assert torch.equal(every.at(t), seldom.at(t))


def test_what_a_sample_did_not_reach_is_nan():
    t = torch.linspace(0.0, 2.0, 8)  # the pole is at t = 1
    sol = solve(
        lambda t, y: y * y, torch.tensor([[1.0], [0.1]], dtype=torch.float64), t, dense=True
    )
    reached = t < sol.t[0]
    assert torch.equal(sol.y[:, 0, 0].isfinite(), reached)
    assert bool(sol.y[:, 1].isfinite().all())
    assert torch.equal(sol.at(t)[:, 0, 0].isfinite(), reached)
    torch.testing.assert_close(
        sol.y[reached, 0, 0], 1 / (1 - t[reached].double()), rtol=1e-3, atol=0
    )


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("solver", "end"), diagonal(["bosh3", "dopri5", "tsit5", "dopri8"], [-2.0, 6.0])
)
def test_dense_output(solver, end):
    sol = solve(lotka_volterra, PREY, (0.0, end), solver, dense=True, **TIGHT)
    t = torch.linspace(0.0, end, 50, dtype=torch.float64)
    want = solve(lotka_volterra, PREY, t, "dopri8", rtol=1e-12, atol=1e-12).y
    assert float((sol.at(t) - want).abs().max()) < 3e-6
    assert torch.equal(sol.at(0.0), PREY)
    torch.testing.assert_close(sol.at(end), sol.last, rtol=1e-12, atol=1e-12)
    each = torch.stack([t, t.flip(0), t], 1)
    assert torch.equal(sol.at(each)[:, 0], sol.at(t)[:, 0])
    assert torch.equal(sol.at(each)[:, 1], sol.at(t).flip(0)[:, 1])


def test_dense_output_is_refused_where_there_is_none():
    with pytest.raises(OdesolveError, match="dense=True"):
        solve(decay, HALF).at(0.5)
    sol = solve(decay, HALF, dense=True)
    with pytest.raises(OdesolveError, match=r"times in \[0.0, 1.0\]"):
        sol.at([0.5, 1.5])
    with pytest.raises(OdesolveError, match=r"\(n, 3\)"):
        sol.at(torch.zeros(4, 2))


def pendulum(t, y):
    return {"angle": y["speed"], "speed": -torch.sin(y["angle"])}


def together(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def test_a_dict_of_samples_is_the_tensor_of_its_parts():
    y0 = torch.tensor([[1.0, 0.0], [0.1, 0.3], [3.0, 0.0]], dtype=torch.float64)
    t = torch.linspace(0.0, 4.0, 6)
    parts = solve(pendulum, {"angle": y0[:, 0], "speed": y0[:, 1]}, t, dense=True)
    whole = solve(together, y0, t, dense=True)
    assert parts.y["angle"].shape == (6, 3)
    assert torch.equal(torch.stack([parts.y["angle"], parts.y["speed"]], -1), whole.y)
    assert torch.equal(parts.nfe, whole.nfe)
    assert torch.equal(parts.at(1.7)["speed"], whole.at(1.7)[:, 1])


def test_a_tuple_of_samples_of_several_shapes():
    image, scalar = torch.rand(4, 2, 3, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    seen = set()

    def f(t, y):
        seen.add((tuple(t.shape), tuple(y[0].shape), tuple(y[1].shape)))
        return [-y[0], y[1]]

    sol = solve(f, (image, scalar), compact=False, **TIGHT)
    assert seen == {((4, 1), (4, 2, 3, 3), (4,))}
    assert isinstance(sol.last, tuple)
    torch.testing.assert_close(sol.last[0], image * math.exp(-1), rtol=1e-8, atol=0)
    torch.testing.assert_close(sol.last[1], scalar * math.e, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "y0", [torch.tensor(2.0), torch.tensor([2.0, 3.0]), (torch.ones(2), torch.ones(3, 1))]
)
def test_one_system(y0):
    """No batch: t is a number for f, and the counts are numbers."""

    def f(t, y):
        assert t.dim() == 0
        return tuple(-x for x in y) if isinstance(y, tuple) else -y

    sol = solve(f, y0, torch.linspace(0.0, 1.0, 4), dense=True)
    assert sol.status == "ok"
    assert sol.nfe.dim() == 0
    parts = [(v,) if torch.is_tensor(v) else v for v in (y0, sol.y, sol.last, sol.at(0.5))]
    for start, y, last, mid in zip(*parts, strict=True):
        assert y.shape == (4, *start.shape)
        torch.testing.assert_close(last, start * math.exp(-1), rtol=1e-4, atol=0)
        torch.testing.assert_close(mid, start * math.exp(-0.5), rtol=1e-4, atol=0)


def test_a_result_that_is_the_state_itself():
    """f may return its argument, a view of it, or the same tensor every time."""
    same = torch.ones(3, 1, dtype=torch.float64)
    torch.testing.assert_close(
        solve(lambda t, y: y, HALF, **TIGHT).last, HALF * math.e, rtol=1e-8, atol=0
    )
    torch.testing.assert_close(
        solve(lambda t, y: y.view(-1, 1), HALF, **TIGHT).last, HALF * math.e, rtol=1e-8, atol=0
    )
    torch.testing.assert_close(
        solve(lambda t, y: same, HALF, compact=False).last, HALF + 1, rtol=1e-12, atol=0
    )
    assert torch.equal(same, torch.ones_like(same))


def test_the_start_is_left_alone_and_no_gradient_is_recorded():
    y0 = torch.ones(2, 2, requires_grad=True)
    with pytest.warns(UserWarning, match="y0 asks for gradients, and this solve makes none"):
        sol = solve(rotation, y0, (0.0, 7.0))
    assert torch.equal(y0, torch.ones(2, 2))
    assert not sol.last.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_network_of_another_type_keeps_the_state(dtype):
    sol = solve(lambda t, y: -y.to(dtype), HALF.float(), rtol=1e-3)
    assert sol.last.dtype == torch.float32
    torch.testing.assert_close(sol.last, HALF.float() * math.exp(-1), rtol=2e-3, atol=0)


def test_images_channels_last():
    y0 = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    plain = solve(decay, y0.contiguous())
    assert torch.equal(solve(decay, y0).last, plain.last)
    assert torch.equal(
        solve(lambda t, y: (-y).contiguous(memory_format=torch.channels_last), y0).last, plain.last
    )


@pytest.mark.parametrize(
    ("y0", "hint"),
    [
        ({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float64)}, "all of one type"),
        ({}, "tuple, list or dict of tensors"),
        ((torch.ones(2, 2), torch.ones(3, 2)), 'control="batch"'),
    ],
)
def test_states_that_do_not_fit(y0, hint):
    with pytest.raises(OdesolveError, match=hint):
        solve(lambda t, y: y, y0, control="sample")


def test_a_result_in_another_form():
    with pytest.raises(OdesolveError, match="return dy/dt in the form of y"):
        solve(lambda t, y: (y["a"],), {"a": torch.ones(3)})
    with pytest.raises(
        OdesolveError,
        match=r"f returned \{'a': \(2,\)\} for a state \{'a': "
        r"\(3,\)\}",
    ):
        solve(lambda t, y: {"a": y["a"][:2]}, {"a": torch.ones(3)})


def test_the_slope_of_the_dense_output():
    """Of the polynomials: by central differences of the states, and close to f."""
    y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0], [3.0, 0.1]], dtype=torch.float64)
    f = lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0])], 1)
    sol = solve(f, y0, t=(0.0, 3.0), rtol=1e-6, atol=1e-6, dense=True)
    t = torch.linspace(0.05, 2.95, 23, dtype=torch.float64)
    slopes, e = sol.slope_at(t), 1e-6
    assert torch.allclose(slopes, (sol.at(t + e) - sol.at(t - e)) / (2 * e), atol=1e-8)
    assert torch.allclose(slopes[7], f(None, sol.at(t)[7]), atol=1e-4)
    assert sol.slope_at(1.0).shape == (3, 2)
