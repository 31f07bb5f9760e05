"""A solve that does not arrive says why, with what it had; code that catches torchdiffeq's
assertions catches it."""

import pytest
import torch

from odesolve.errors import Diverged

from .problems import Field, ours, theirs

T = torch.tensor([0.0, 2.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.few(2)
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("f", "t", "status"),
    [
        (lambda t, y: y * y, 1.0, {"min_step", "diverged"}),  # y = 1 / (1 - t)
        (
            lambda t, y: -torch.ones_like(y) / torch.where(t < 0.5, 1.0, torch.nan),
            0.5,
            {"diverged"},
        ),
    ],
)
def test_where_and_how(f, t, status, recorded):
    with torch.set_grad_enabled(recorded), pytest.raises(ours.Failed) as caught:
        ours.odeint(f, ONE, T)
    e = caught.value
    assert e.status in status
    assert e.t == pytest.approx(t, abs=1e-6)
    assert bool(e.state.isfinite().all())
    assert e.step > 3
    assert f"status {e.status!r} at t={e.t:.6g}" in str(e)
    assert "last step" in str(e)  # the diagnosis
    assert isinstance(e, (AssertionError, Diverged))
    with pytest.raises(AssertionError, match=r"underflow in dt|non-finite"):
        theirs.odeint(f, ONE, T)


@pytest.mark.parametrize("recorded", [True, False])
def test_too_many_steps(recorded):
    with (
        torch.set_grad_enabled(recorded),
        pytest.raises(AssertionError, match="max_steps") as caught,
    ):
        ours.odeint(lambda t, y: torch.cos(50 * t) * y, ONE, T, options={"max_num_steps": 10})
    assert caught.value.step <= 10
    assert 0.0 < caught.value.t < 2.0


def test_steps_are_counted_for_every_interval():
    """As torchdiffeq counts them: what passes there passes here."""
    t = torch.linspace(0.0, 2.0, 21, dtype=torch.float64)
    f = lambda t, y: torch.cos(9 * t) * y
    for lib in (ours, theirs):
        lib.odeint(f, ONE, t, options={"max_num_steps": 12})
        with pytest.raises(AssertionError, match="max_"):
            lib.odeint(f, ONE, T, options={"max_num_steps": 12})


def test_the_state_has_the_caller_s_form():
    f = lambda t, y: (y[0] * y[0], y[1])
    with pytest.raises(ours.Failed) as caught:
        ours.odeint(f, (ONE, torch.zeros(2, 2).double()), T)
    assert [x.shape for x in caught.value.state] == [(1,), (2, 2)]
    with pytest.raises(ours.Failed) as caught:
        ours.odeint_adjoint(f, (ONE, torch.zeros(2, 2).double()), T, adjoint_params=())
    assert isinstance(caught.value.state, tuple)


def test_the_way_back_fails_in_the_same_way():
    """y' = -y^3 walked back from close to 0 by an adjoint whose steps are too few."""
    f = lambda t, y: -(y**3)
    y0 = ONE.clone().requires_grad_()
    y = ours.odeint_adjoint(f, y0, T, adjoint_params=(), adjoint_options={"max_num_steps": 2})
    with pytest.raises(AssertionError, match="solving the adjoint equation") as caught:
        y[-1].sum().backward()
    assert caught.value.status == "max_steps"
    assert caught.value.state.shape == (1,)


def test_a_state_that_blows_up_on_a_grid_is_returned():
    """As there: steps of one size look at nothing."""
    y = ours.odeint(lambda t, y: y**3, 10 * ONE, T, method="euler", options={"step_size": 0.1})
    assert not bool(y[-1].isfinite().all())


def test_gradients_are_enabled_as_before():
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            for y0 in (ONE, torch.zeros(1, dtype=torch.int64)):
                with pytest.raises((ours.Failed, ours.Refused)):
                    ours.odeint(lambda t, y: y * y, y0, T)
                assert torch.is_grad_enabled() == enabled
    y = ours.odeint_adjoint(Field(), Field().start(), T)
    y.sum().backward()
    assert torch.is_grad_enabled()
