"""The implicit methods that torchdiffeq has gained since: their orders, stiff problems, and what
they do without."""

import math

import pytest
import torch

from odesolve.methods.tableaus import elementary_weights, weigh
from odesolve.ode.recorded.implicit import IMPLICIT

from .problems import Field, exact, gap, ours


@pytest.mark.parametrize("tableau", IMPLICIT.values(), ids=IMPLICIT)
def test_order_conditions(tableau):
    """Those of its order hold, and one of the next does not."""
    residuals = dict.fromkeys(range(1, tableau.order + 2), 0.0)
    for n, density, phi in elementary_weights(tableau.a, tableau.order + 1):
        residuals[n] = max(residuals[n], abs(weigh(tableau.b, phi) - 1 / density))
    *held, failed = residuals.values()
    assert max(held) < 1e-15
    assert failed > 1e-4
    assert [math.fsum(row) for row in tableau.a] == pytest.approx(tableau.c, abs=1e-15)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", IMPLICIT)
def test_errors_fall_as_the_order_says(name):
    field, t = Field(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    reference = exact(field, field.start(), t)
    size = 0.2 if name in ("gl6", "radauIIA5") else 0.1
    errors = [
        gap(ours.odeint(field, field.start(), t, method=name, options={"step_size": h}), reference)
        for h in (size, size / 2)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(IMPLICIT[name].order, abs=0.3)


@pytest.mark.parametrize("name", ["implicit_euler", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2"])
def test_stiff_problems_in_few_steps(name):
    """Prothero and Robinson's, with a rate of 1e6 and steps of a tenth: explicit methods need a
    million."""
    f = lambda t, y: -1e6 * (y - torch.cos(t)) - torch.sin(t)
    t = torch.tensor([0.0, 2.0], dtype=torch.float64)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            y = ours.odeint(f, torch.ones(1).double(), t, method=name, options={"step_size": 0.1})
        assert float((y[-1] - torch.cos(t[-1])).abs()) < 1e-5


def test_in_float32_and_with_functions_that_cannot_be_transformed():
    """Jacobians come from differences then."""

    def f(t, y):
        return torch.from_numpy(-(y.detach().numpy() ** 3))

    for dtype, enough in ((torch.float32, 2e-6), (torch.float64, 1e-10)):
        y = ours.odeint(
            f,
            torch.ones(2, dtype=dtype),
            torch.tensor([0.0, 1.0]),
            method="gl6",
            options={"step_size": 0.05},
        )
        assert float((y[-1] - 3**-0.5).abs().max()) < enough


def test_a_warning_where_the_equations_are_not_solved():
    f = lambda t, y: 50 * torch.sin(40 * y)
    with pytest.warns(UserWarning, match="did not converge in 2 iterations"):
        ours.odeint(
            f,
            torch.ones(3).double(),
            torch.tensor([0.0, 1.0]),
            method="implicit_euler",
            options={"max_iters": 2},
        )
