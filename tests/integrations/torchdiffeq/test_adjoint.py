"""odeint_adjoint: the gradients of torchdiffeq's, its arguments and what it refuses."""

import functools

import pytest
import torch
from hypothesis import given, settings

from odesolve.errors import OdesolveError
from tests.products import LONG, diagonal

from .problems import Field, fields, flat, gap, ours, theirs, times
from .test_gradients import gradients

QUICK = settings(max_examples=8 if LONG else 4, deadline=None)
T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


@given(field=fields(), t=times(most=4))
@QUICK
def test_agreement(field, t):
    found = [
        gradients(lib.odeint_adjoint, field, t, rtol=1e-10, atol=1e-11) for lib in (ours, theirs)
    ]
    assert gap(*found) < 1e-7 * max(1.0, float(flat(found[1]).abs().max()))


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4"])
@given(field=fields(), t=times(most=4))
@QUICK
def test_agreement_on_a_grid(method, field, t):
    """The same steps back, so the same gradients; but of t[0], which follows from a f there and not
    from an integral."""
    y0 = field.start()
    y0 = tuple(x.requires_grad_() for x in y0) if field.pairs else y0.requires_grad_()
    found = []
    for lib in (ours, theirs):
        y = lib.odeint_adjoint(field, y0, t, method=method, options={"step_size": 0.1})
        loss = sum(
            (x * torch.linspace(-1, 2, x.numel()).view_as(x)).sum()
            for x in (y if field.pairs else [y])
        )
        found.append(
            torch.autograd.grad(loss, (*(y0 if field.pairs else [y0]), *field.parameters()))
        )
    assert gap(*found) < 1e-10


def test_gradients_agree_with_those_of_the_steps():
    for pairs, t in diagonal([False, True], [T, -T]):
        field = Field(pairs=pairs)
        adjoint = gradients(ours.odeint_adjoint, field, t, rtol=1e-11, atol=1e-12)
        steps = gradients(ours.odeint, field, t, rtol=1e-11, atol=1e-12)
        assert gap(adjoint, steps) < 1e-8


@pytest.mark.parametrize(
    "method",
    [
        "dopri8",
        pytest.param("bosh3", marks=pytest.mark.long),
        "implicit_adams",
        "scipy_solver",
        pytest.param("radauIIA5", marks=pytest.mark.long),
    ],
)
def test_other_methods(method):
    field = Field()
    options = {"step_size": 0.02} if method in ("implicit_adams", "radauIIA5") else None
    exact = gradients(ours.odeint, field, T, rtol=1e-11, atol=1e-12)
    found = gradients(
        ours.odeint_adjoint, field, T, method=method, options=options, rtol=1e-8, atol=1e-9
    )
    assert gap(found, exact) < 1e-5


def test_arguments_of_the_way_back():
    field, exact = Field(), gradients(ours.odeint, Field(), T, rtol=1e-11, atol=1e-12)
    for arguments in (
        {"adjoint_rtol": 1e-10, "adjoint_atol": 1e-10},
        {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.01}},
        {"adjoint_options": {"norm": "seminorm"}},
        {"method": "dopri8", "adjoint_method": "tsit5"},
        {"adjoint_options": {"jump_t": torch.tensor([0.2])}},
    ):
        assert gap(gradients(ours.odeint_adjoint, field, T, **arguments), exact) < 1e-5
    calls = []
    for tolerance in (1e-3, 1e-10):
        field.calls = 0
        gradients(ours.odeint_adjoint, field, T, adjoint_rtol=tolerance, adjoint_atol=tolerance)
        calls.append(field.calls)
    assert calls[1] > 2 * calls[0]


def test_the_norm_of_the_way_back_sees_what_torchdiffeq_s_sees():
    shapes = []

    def norm(state):
        shapes.append([tuple(x.shape) for x in state])
        return max(x.abs().max() for x in state)

    for pairs in (False, True):
        layouts = []
        for lib in (ours, theirs):
            shapes.clear()
            field = Field(pairs=pairs)
            y = lib.odeint_adjoint(field, field.start(), T, adjoint_options={"norm": norm})
            flat_y = y[0] if pairs else y
            flat_y[-1].sum().backward()
            layouts.append(shapes[0])
        assert layouts[0] == layouts[1]


def test_parameters_in_the_norm_cost_steps():
    """By default they do not count, which torchdiffeq calls the seminorm."""
    counts = []
    for options in ({}, {"norm": lambda s: max(x.abs().max() for x in s)}):
        field = Field()
        y = ours.odeint_adjoint(
            field, field.start(8), T, rtol=1e-6, atol=1e-6, adjoint_options=options
        )
        field.calls = 0
        (100.0 * y[-1]).sum().backward()
        counts.append(field.calls)
    assert counts[0] < counts[1]


def test_parameters_are_found_or_given():
    w = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    f = lambda t, y: w * y
    y0 = torch.ones(1, dtype=torch.float64)
    y = ours.odeint_adjoint(f, y0, T, adjoint_params=(w, torch.ones(3)))
    (g,) = torch.autograd.grad(y[-1].sum(), w)
    assert float(g) == pytest.approx(float(torch.exp(w.detach() * 1.0)), rel=1e-6)
    with pytest.raises(ValueError, match="adjoint_params"):
        ours.odeint_adjoint(f, y0, T)
    assert not ours.odeint_adjoint(f, y0, T, adjoint_params=()).requires_grad
    field = Field()
    unused = torch.nn.Linear(2, 2)
    field.unused = unused
    ours.odeint_adjoint(field, field.start(), T)[-1].sum().backward()
    assert float(unused.weight.grad.abs().sum()) == 0.0  # as torchdiffeq leaves them: zeros


def test_nothing_of_the_steps_is_kept():
    """What autograd saves does not grow with the steps."""

    def saved(odeint, size):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(x.numel()) or x, lambda x: x
        ):
            odeint(Field(), Field().start(), T, method="rk4", options={"step_size": size})
        return sum(kept)

    assert saved(ours.odeint_adjoint, 0.1) == saved(ours.odeint_adjoint, 0.01)
    assert saved(ours.odeint, 0.01) > 5 * saved(ours.odeint, 0.1)


def test_refused():
    field = Field()
    odeint = functools.partial(ours.odeint_adjoint, field, field.start(), T)
    with pytest.raises(OdesolveError, match="give adjoint_options as well"):
        odeint(method="dopri5", options={"first_step": 0.1}, adjoint_method="rk4")
    with pytest.raises(OdesolveError, match="unknown norm of the adjoint 'semi'"):
        odeint(adjoint_options={"norm": "semi"})
    with pytest.raises(OdesolveError, match="one number for the backward solve"):
        odeint(rtol=torch.full((3,), 1e-5))
    with pytest.raises(OdesolveError, match="unknown method"):
        odeint(adjoint_method="dopri")
