"""Time is kept in float64; func gets it as torchdiffeq hands it, and times may be given as
there."""

import pytest
import torch

from odesolve.errors import OdesolveError

from .problems import ADAMS, ADAPTIVE, EXPLICIT, Field, gap, ours, theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_thousand_steps_of_a_thousandth(dtype):
    """dy/dt = 1 over [0, 1] gives 1; torchdiffeq's bfloat16 gives 1/2."""
    t, y0 = torch.linspace(0.0, 1.0, 1001), torch.zeros(1, dtype=dtype)
    times = []

    def f(t, y):
        times.append(t)
        return torch.ones_like(y)

    y = ours.odeint(f, y0, t, method="euler")
    assert y.dtype == dtype
    assert float(y[-1]) == pytest.approx(1.0, abs=2e-6 if dtype == torch.float32 else 1e-3)
    assert {(x.dtype, x.dim()) for x in times} == {(dtype, 0)}
    if dtype == torch.bfloat16:
        assert (
            float(theirs.odeint(lambda t, y: torch.ones_like(y), y0, t, method="euler")[-1]) == 0.5
        )


@pytest.mark.parametrize("method", [*ADAPTIVE, *EXPLICIT, *ADAMS, "scipy_solver", "radauIIA3"])
def test_one_time_is_no_solve(method):
    f = Field()
    y = ours.odeint(f, f.start(), torch.tensor([0.3]), method=method)
    assert torch.equal(y, f.start()[None])
    assert f.calls == 0


def test_func_s_time_is_of_the_type_of_y():
    for dtype in (torch.float32, torch.float64):
        for method in ("dopri5", "euler", "scipy_solver", "implicit_midpoint"):
            seen = set()

            def f(t, y, seen=seen):
                seen.add((t.dtype, t.dim()))
                return -y

            for recorded in (True, False):
                with torch.set_grad_enabled(recorded):
                    y = ours.odeint(
                        f, torch.ones(2, dtype=dtype), torch.tensor([0.0, 1.0]), method=method
                    )
                assert y.dtype == dtype
            assert seen == {(dtype, 0)}


def test_func_is_not_called_beyond_the_end():
    """torchdiffeq's last step goes past it and is interpolated."""
    seen = []
    f = lambda t, y: seen.append(float(t.detach())) or -y
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    ours.odeint(f, torch.ones(1, dtype=torch.float64), t)
    assert max(seen) == 1.0


def test_directions_mirror_each_other():
    f, t = Field(), torch.tensor([0.0, 0.5, 1.3], dtype=torch.float64)
    mirrored = lambda t, y: -f(-t, y)
    for method in ("dopri5", "dopri8", "rk4", "implicit_adams"):
        options = {"step_size": 0.01} if method in ("rk4", "implicit_adams") else None
        a = ours.odeint(f, f.start(), t, method=method, options=options)
        b = ours.odeint(mirrored, f.start(), -t, method=method, options=options)
        assert gap(a, b) < 1e-13


@pytest.mark.parametrize(
    "t",
    [
        [0.0, 1.0],
        torch.tensor([0, 1]),
        torch.tensor(1.0),
        torch.tensor([]),
        torch.tensor([0.0, 1.0, 0.5]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0.0, float("inf")]),
    ],
)
def test_refused_times(t):
    with pytest.raises(OdesolveError, match="t is") as caught:
        ours.odeint(Field(), Field().start(), t)
    assert isinstance(caught.value, (AssertionError, TypeError))  # what torchdiffeq raises
