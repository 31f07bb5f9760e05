"""States, log-ratios, solver states and gradients are torchsde's on the same Brownian motion."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from odesolve.integrations import torchsde as ours
from tests.products import LONG, diagonal

from .equations import CASES, WIDE, Equation, Smooth, gap, start

torchsde = pytest.importorskip("torchsde")
AREAS = {"srk": "space-time", "log_ode": "foster"}


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "logqp"),
    [(*a, b) for a, b in diagonal(list(CASES), [False, True])],
)
def test_on_their_path(calculus, method, noise, logqp):
    """Output times between steps and on them, one that is cut short, and what extra=True
    returns."""
    eq, ts = Equation(noise, calculus, 1), torch.tensor([0.0, 0.13, 0.14, 0.2, 0.5], **WIDE)
    size = (3, eq.m + (logqp and noise == "diagonal"))
    bm = torchsde.BrownianInterval(
        0.0, 0.5, size, entropy=3, levy_area_approximation=AREAS.get(method, "none"), **WIDE
    )
    for options in (None, {"grad_free": True})[: 1 + (method == "milstein")]:
        call = {
            "bm": bm,
            "method": method,
            "dt": 0.03,
            "options": options,
            "logqp": logqp,
            "extra": True,
        }
        assert (
            gap(ours.sdeint(eq, start(), ts, **call), torchsde.sdeint(eq, start(), ts, **call))
            < 1e-12
        )


@given(
    case=st.sampled_from(CASES),
    seed=st.integers(0, 10**6),
    gaps=st.lists(st.floats(0.01, 0.4), min_size=1, max_size=4),
    first=st.floats(-1.0, 1.0),
    dt=st.floats(0.02, 0.3),
    logqp=st.booleans(),
    adaptive=st.booleans(),
    single=st.booleans(),
)
@settings(max_examples=120 if LONG else 30, deadline=None, derandomize=True)
def test_on_anything(case, seed, gaps, first, dt, logqp, adaptive, single):
    """Adaptive too: with a smooth path the steps chosen do not hang on the last digit. Times of
    float32 are rounded as theirs where steps end, and not always between. Where the noise passes
    zero the log-ratio has a pole, and steps shrink to dt_min: the last digit of a step decides
    there, so such examples are left out."""
    calculus, method, noise = case
    eq, y0 = Equation(noise, calculus, seed), start(seed)
    ts = first + torch.cumsum(torch.tensor([0.0, *gaps], **WIDE), 0)
    ts = ts.float() if single and not adaptive else ts
    bm = Smooth(eq.m + (logqp and noise == "diagonal"), seed)
    call = {
        "bm": bm,
        "method": method,
        "dt": dt,
        "logqp": logqp,
        "adaptive": adaptive,
        "rtol": 1e-2,
        "atol": 1e-3,
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answers = [lib.sdeint(eq, y0, ts, dt_min=1e-3, **call) for lib in (ours, torchsde)]
    assume(not (logqp and any("Hitting minimum" in str(w.message) for w in said)))
    assert gap(*answers) < (1e-10 if ts.dtype == torch.float64 else 1e-6)


def gradients(sdeint, eq, logqp, **call):
    y0, ts = start().requires_grad_(), torch.tensor([0.0, 0.13, 0.2, 0.5], **WIDE)
    out = sdeint(eq, y0, ts, logqp=logqp, **call)
    ys, more = (out[0], out[1].sum()) if logqp else (out, 0.0)
    loss = (
        ys * torch.linspace(0.5, 1.5, ys.numel(), **WIDE).reshape(ys.shape)
    ).square().sum() + more
    return torch.autograd.grad(
        loss, [y0, *eq.parameters()], allow_unused=True, materialize_grads=True
    )


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "logqp"),
    [(*a, b) for a, b in diagonal(list(CASES), [False, True])],
)
def test_gradients_of_the_steps(calculus, method, noise, logqp):
    eq = Equation(noise, calculus, 2)
    call = {
        "bm": Smooth(eq.m + (logqp and noise == "diagonal")),
        "method": method,
        "dt": 0.03,
        "logqp": logqp,
    }
    assert gap(gradients(ours.sdeint, eq, **call), gradients(torchsde.sdeint, eq, **call)) < 1e-12


@pytest.mark.parametrize("noise", ["diagonal", "general"])
def test_gradients_of_adaptive_solves_and_of_gradients(noise):
    eq = Equation(noise, "stratonovich", 2)
    call = {
        "bm": Smooth(eq.m),
        "logqp": False,
        "adaptive": True,
        "dt": 0.1,
        "rtol": 1e-2,
        "atol": 1e-3,
    }
    assert gap(gradients(ours.sdeint, eq, **call), gradients(torchsde.sdeint, eq, **call)) < 1e-12

    def second(sdeint):
        y0 = start().requires_grad_()
        ys = sdeint(
            eq, y0, torch.tensor([0.0, 0.5], **WIDE), bm=Smooth(eq.m), method="heun", dt=0.1
        )
        (first,) = torch.autograd.grad(ys.square().sum(), y0, create_graph=True)
        return torch.autograd.grad(
            first.square().sum(), [y0, *eq.parameters()], allow_unused=True, materialize_grads=True
        )

    assert gap(second(ours.sdeint), second(torchsde.sdeint)) < 1e-11


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
def test_the_reversible_way_back(noise):
    """Where outputs lie on steps to the last digit theirs is that of the steps as well. What
    extra=True returns has one too."""
    eq, ts = Equation(noise, "stratonovich", 2), torch.tensor([0.0, 0.25, 0.5], **WIDE)

    def run(sdeint, **call):
        y0 = start().requires_grad_()
        ys, extra = sdeint(
            eq, y0, ts, bm=Smooth(eq.m), method="reversible_heun", dt=0.125, extra=True, **call
        )
        loss = ys.square().sum() + sum((k + 1) * x.square().sum() for k, x in enumerate(extra))
        return torch.autograd.grad(
            loss, [y0, *eq.parameters()], allow_unused=True, materialize_grads=True
        )

    back = run(ours.sdeint_adjoint, adjoint_method="adjoint_reversible_heun")
    assert gap(back, run(torchsde.sdeint_adjoint, adjoint_method="adjoint_reversible_heun")) < 1e-11
    assert gap(back, run(ours.sdeint)) < 1e-11
