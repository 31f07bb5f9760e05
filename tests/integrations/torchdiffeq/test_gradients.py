"""Gradients through odeint are torchdiffeq's: of y0, parameters and t, once and again."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.products import LONG

from .problems import ADAMS, EXPLICIT, Field, fields, flat, gap, ours, theirs, times

QUICK = settings(max_examples=12 if LONG else 6, deadline=None)
IMPLICIT = (
    *("implicit_euler", "implicit_midpoint", "trapezoid", "gl4", "gl6"),
    *("radauIIA3", "radauIIA5", "sdirk2", "trbdf2"),
)


def gradients(odeint, field, t, **arguments):
    """Of a weighted sum of all states, by y0, t and the parameters."""
    y0 = field.start()
    y0 = tuple(x.requires_grad_() for x in y0) if field.pairs else y0.requires_grad_()
    t = t.detach().requires_grad_()
    y = odeint(field, y0, t, **arguments)
    y = torch.cat([x.flatten(1) for x in (y if field.pairs else [y])], 1)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    leaves = (*(y0 if field.pairs else [y0]), t, *field.parameters())
    return torch.autograd.grad((weights * y).sum(), leaves)


@pytest.mark.few(2)
@pytest.mark.parametrize("method", EXPLICIT)
@given(
    field=fields(),
    t=times(),
    size=st.one_of(st.none(), st.floats(0.05, 0.3)),
    interp=st.sampled_from(["linear", "cubic"]),
)
@QUICK
def test_on_a_grid(method, field, t, size, interp):
    """Times that rounding puts on one side of a step or the other belong to different steps there:
    they are left out."""
    share = (t - t[0]) / (size or 1.0)
    assume(size is None or bool(((share[1:] - share[1:].round()).abs() > 1e-9).all()))
    options = {"step_size": size, "interp": interp}
    found = [
        gradients(lib.odeint, field, t, method=method, options=options) for lib in (ours, theirs)
    ]
    assert gap(*found) < 1e-10


@pytest.mark.parametrize("method", ADAMS)
@given(field=fields(), sign=st.sampled_from([1.0, -1.0]))
@QUICK
def test_adams(method, field, sign):
    t = sign * torch.linspace(0.0, 0.4, 21, dtype=torch.float64)
    options = {"max_order": 5, "max_iters": 10}
    found = [
        gradients(lib.odeint, field, t, method=method, options=options) for lib in (ours, theirs)
    ]
    assert gap(*found) < 1e-10


@given(field=fields(), t=times(most=4))
@QUICK
def test_by_tolerance(field, t):
    found = [gradients(lib.odeint, field, t, rtol=1e-10, atol=1e-11) for lib in (ours, theirs)]
    assert gap(*found) < 1e-7 * max(1.0, float(flat(found[1]).abs().max()))


# One of each kind: a pair, a tableau, Adams, one implicit stage after another, and all at once.
KINDS = ["tsit5", "rk4", "implicit_adams", "sdirk2", "radauIIA3"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "method",
    ["dopri5", "dopri8", "tsit5", "rk4", "implicit_adams", *IMPLICIT] if LONG else KINDS,
)
def test_gradcheck(method):
    """By differences; of adaptive methods at tolerances below what differences see. The weights of
    Adams methods are constants to gradients of the grid, so t is left out there."""
    field = Field()
    options = None if method in ("dopri5", "dopri8", "tsit5") else {"step_size": 0.13}

    def end(y0, t, a):
        f = lambda t, y: torch.tanh(y @ a) @ field.b + torch.sin(2 * t) * y
        return ours.odeint(f, y0, t, method=method, options=options, rtol=1e-9, atol=1e-10)

    leaves = [
        x.detach().requires_grad_()
        for x in (field.start(1), torch.tensor([0.0, 0.25, 0.5]).double(), field.a)
    ]
    if method == "implicit_adams":
        options["max_iters"] = 30
        leaves[1].requires_grad_(False)
    assert torch.autograd.gradcheck(end, leaves, eps=1e-5, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_gradients_are_differentiated_again(method):
    field, found = Field(), []
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for lib in (ours, theirs):
        y0 = field.start().requires_grad_()
        y = lib.odeint(field, y0, t, method=method, rtol=1e-10, atol=1e-12)
        (first,) = torch.autograd.grad(y[-1].square().sum(), y0, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (y0, *field.parameters())))
    assert gap(*found) < 1e-8 * float(flat(found[1]).abs().max())


def test_through_grids_that_are_made_of_parameters():
    """A grid_constructor whose points are learned."""
    t, field = torch.tensor([0.0, 1.0], dtype=torch.float64), Field()
    found = []
    for lib in (ours, theirs):
        middle = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        grid = lambda f, y, t, middle=middle: torch.stack([t[0], middle, t[1]])
        y = lib.odeint(
            field, field.start(), t, method="midpoint", options={"grid_constructor": grid}
        )
        found.append(torch.autograd.grad(y[-1].sum(), middle))
    assert gap(*found) < 1e-12
    assert float(found[0][0].abs()) > 1e-6


@pytest.mark.filterwarnings("ignore:func has dropout in train mode")
def test_random_layers_see_the_same_noise_there_and_back():
    """Nothing is evaluated again: dropout's gradient is that of the masks that were drawn."""
    drop, w = torch.nn.Dropout(0.5), torch.ones(40, dtype=torch.float64, requires_grad=True)
    found = []
    for lib in (ours, theirs):
        torch.manual_seed(0)
        y = lib.odeint(
            lambda t, y: drop(w) - y,
            torch.zeros(40).double(),
            torch.tensor([0.0, 1.0]),
            method="heun2",
        )
        found.append(torch.autograd.grad(y[-1].sum(), w))
    assert gap(*found) < 1e-12


def test_nothing_is_recorded_under_no_grad():
    field = Field()
    for y0 in (field.start().requires_grad_(), field.start()):
        with torch.no_grad():
            assert not ours.odeint(field, y0, torch.tensor([0.0, 1.0]).double()).requires_grad
        assert ours.odeint(field, y0, torch.tensor([0.0, 1.0]).double()).requires_grad
    frozen = lambda t, y: -y
    assert not ours.odeint(frozen, field.start(), torch.tensor([0.0, 1.0])).requires_grad
