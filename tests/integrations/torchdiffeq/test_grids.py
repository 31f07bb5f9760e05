"""Methods on a grid are torchdiffeq's to rounding, whatever the grid, the direction and the form of
the state."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odesolve.errors import OdesolveError
from tests.products import LONG

from .problems import ADAMS, EXPLICIT, Field, fields, flat, gap, ours, theirs, times

QUICK = settings(max_examples=25 if LONG else 10, deadline=None)


def both(method, field, y0, t, **options):
    found = [lib.odeint(field, y0, t, method=method, options=options) for lib in (ours, theirs)]
    assert flat(found[0]).shape == flat(found[1]).shape
    return gap(*found)


@pytest.mark.parametrize("method", EXPLICIT)
@given(field=fields(), t=times(), perturb=st.booleans())
@QUICK
def test_steps_from_time_to_time(method, field, t, perturb):
    assert both(method, field, field.start(), t, perturb=perturb) < 1e-12


@pytest.mark.parametrize("method", EXPLICIT)
@given(
    field=fields(),
    t=times(),
    size=st.floats(0.03, 0.4),
    interp=st.sampled_from(["linear", "cubic"]),
)
@QUICK
def test_step_size_and_interpolation(method, field, t, size, interp):
    assert both(method, field, field.start(), t, step_size=size, interp=interp) < 1e-12


@pytest.mark.parametrize("method", EXPLICIT)
@given(field=fields(), t=times(), n=st.integers(2, 12), power=st.floats(0.5, 2.0))
@QUICK
def test_grid_constructor(method, field, t, n, power):
    """It is called with func, y0 and the times as the caller knows them."""

    def constructor(func, y0, t):
        assert len(t) >= 2
        return t[0] + (t[-1] - t[0]) * torch.linspace(0, 1, n, dtype=torch.float64) ** power

    assert both(method, field, field.start(), t, grid_constructor=constructor) < 1e-12


@pytest.mark.parametrize("method", ADAMS)
@given(
    field=fields(),
    sign=st.sampled_from([1.0, -1.0]),
    steps=st.integers(4, 30),
    order=st.integers(4, 6),
)
@QUICK
def test_adams_on_even_grids(method, field, sign, steps, order):
    t = sign * torch.tensor([0.0, steps * 0.02], dtype=torch.float64)
    assert (
        both(method, field, field.start(), t, step_size=0.02, max_order=order, max_iters=10) < 1e-12
    )


@pytest.mark.parametrize("method", ADAMS)
def test_adams_keeps_its_order_on_uneven_grids(method):
    """torchdiffeq takes the weights of equal steps there, and falls to order 2: half the steps, a
    quarter of the error."""
    field, t = Field(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    reference = ours.odeint(field, field.start(), t, method="dopri8", rtol=1e-13, atol=1e-14)

    def error(lib, n):
        uneven = lambda f, y, t: torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 1.5
        options = {"grid_constructor": uneven, "max_order": 4, "max_iters": 20}
        with torch.no_grad():
            return gap(
                lib.odeint(
                    field, field.start(), t, method=method, options=options, rtol=1e-12, atol=1e-13
                ),
                reference,
            )

    assert error(ours, 40) / error(ours, 80) > 7
    assert error(theirs, 40) / error(theirs, 80) < 5


def test_points_that_are_only_rounding_are_no_step():
    field = Field()
    t = torch.tensor([0.0, 0.3], dtype=torch.float32)  # 0.30000001192...
    with torch.no_grad():
        ours.odeint(field, field.start().float(), t, method="euler", options={"step_size": 0.1})
    assert field.calls == 3


def test_calls_of_func_are_torchdiffeq_s():
    for method in EXPLICIT:
        counts = []
        for lib in (ours, theirs):
            field = Field()
            lib.odeint(
                field,
                field.start(),
                torch.tensor([0.0, 0.5, 1.0]).double(),
                method=method,
                options={"step_size": 0.1},
            )
            counts.append(field.calls)
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.1, "grid_constructor": lambda f, y, t: t}, "give one of them"),
        ({"step_size": -0.1}, "step_size=-0.1: give a positive number"),
        ({"grid_constructor": lambda f, y, t: t[:1]}, "returned no points"),
        ({"grid_constructor": lambda f, y, t: t + 1.0}, "from 1.0 to 2.0"),
        ({"interp": "quadratic"}, "choose from cubic, linear|did you mean"),
    ],
)
def test_refused_grids(options, message):
    with pytest.raises(OdesolveError, match=message):
        ours.odeint(
            Field(), Field().start(), torch.tensor([0.0, 1.0]), method="euler", options=options
        )
