"""What torchsde warns of or refuses is told here as well, and what is right in both calculi is
right."""

from __future__ import annotations

import warnings

import pytest
import torch

from odesolve.errors import OdesolveError
from odesolve.integrations import torchsde as ours
from tests.products import diagonal, product

from .equations import CASES, KINDS, WIDE, Equation, Smooth, gap, start

torchsde = pytest.importorskip("torchsde")
TS = torch.tensor([0.0, 0.25, 0.5], **WIDE)
EVERY = sorted({m for methods in KINDS.values() for m in methods})
NOISES = ("diagonal", "scalar", "additive", "general")


def said(solve, eq, words, **call):
    """How many warnings with these words a solve gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solve(eq, start(), TS, bm=Smooth(eq.m), dt=0.25, rtol=1.0, atol=1.0, **call)
    return sum(words in str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("calculus", "method", "noise", "call"),
    [
        (*a, b)
        for a, b in diagonal([*CASES, ("ito", None, "general")], ["sdeint", "sdeint_adjoint"])
    ],
)
def test_adaptive_euler(call, calculus, method, noise):
    """Whenever torchsde warns of it, and only then; by steps of one size never."""
    eq = Equation(noise, calculus)
    solves = [getattr(lib, call) for lib in (ours, torchsde)]
    words = ["adaptive steps of the Euler-Maruyama method", "not guaranteed to converge"]
    counts = [
        said(f, eq, w, method=method, adaptive=True) for f, w in zip(solves, words, strict=True)
    ]
    assert counts == [int(method in ("euler", None) and noise != "additive")] * 2
    assert said(solves[0], eq, words[0], method=method) == 0


def test_the_reversible_method_with_another_adjoint():
    eq = Equation("general", "stratonovich")
    call = {"method": "reversible_heun", "adjoint_method": "heun"}
    assert said(ours.sdeint_adjoint, eq, "the gradient of the equation", **call) == 1
    assert said(torchsde.sdeint_adjoint, eq, "adjoint_method!=", **call) == 1
    assert said(ours.sdeint_adjoint, eq, "", method="reversible_heun") == 0


def test_options_of_the_way_back():
    eq = Equation("diagonal", "stratonovich")
    assert (
        said(ours.sdeint_adjoint, eq, "adjoint_options=", adjoint_options={"grad_free": True}) == 1
    )
    assert said(ours.sdeint_adjoint, eq, "adjoint_options=", adjoint_options={}) == 0


@pytest.mark.parametrize(
    ("noise", "calculus", "back"),
    product(list(NOISES), list(KINDS), list(EVERY)),
)
def test_methods_of_the_adjoint(calculus, noise, back):
    """What torchsde cannot solve the adjoint by is refused; of additive noise methods of both
    calculi are the same."""
    method = "euler" if calculus == "ito" else "heun"
    eq, bm = Equation(noise, calculus), None

    def gradient(lib):
        ys = lib.sdeint_adjoint(eq, start(), TS, bm=bm, method=method, adjoint_method=back, dt=0.25)
        return torch.autograd.grad(ys.sum(), eq.parameters(), allow_unused=True)

    try:
        gradient(torchsde)
        refused = False
    except (ValueError, RuntimeError, NotImplementedError):
        refused = True
    if refused and not (
        noise == "additive" and back in ("euler", "heun", "midpoint", "euler_heun")
    ):
        with pytest.raises(OdesolveError, match=f"adjoint_method='{back}'"):
            gradient(ours)
    else:
        gradient(ours)


def answers(lib, call, eq, logqp, method):
    """States, log-ratios and the gradients of their sum."""
    bm = torchsde.BrownianInterval(
        0.0, 0.5, (3, eq.m), entropy=2, levy_area_approximation="foster", **WIDE
    )
    out = getattr(lib, call)(eq, start(), TS, bm=bm, method=method, dt=0.1, logqp=logqp)
    out = out if logqp else (out,)
    found = torch.autograd.grad(
        sum(x.sum() for x in out), eq.parameters(), allow_unused=True, materialize_grads=True
    )
    return [*out, *found]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("method", "logqp"),
    diagonal(list(EVERY), [False, True]),
)
def test_additive_noise_is_the_same_in_both_calculi(method, logqp):
    """torchsde solves it in the calculus of the method alone; in the other one the answer and its
    gradient are the same."""
    own = "ito" if method in KINDS["ito"] else "stratonovich"
    theirs = answers(torchsde, "sdeint", Equation("additive", own), logqp, method)
    back = answers(ours, "sdeint_adjoint", Equation("additive", own), logqp, method)
    for calculus in KINDS:
        eq = Equation("additive", calculus)
        assert gap(answers(ours, "sdeint", eq, logqp, method), theirs) < 1e-12
        assert gap(answers(ours, "sdeint_adjoint", eq, logqp, method), back) == 0.0
    assert gap(back[0], theirs[0]) < 1e-12


@pytest.mark.parametrize(
    ("logqp", "call", "noise"),
    product([False, True], ["sdeint", "sdeint_adjoint"], ["diagonal", "scalar", "general"]),
)
def test_other_noise_is_refused_in_the_other_calculus(noise, call, logqp):
    count = 0
    for calculus, methods in KINDS.items():
        for method in EVERY:
            if noise not in methods.get(method, ()):
                count += 1
                with pytest.raises(
                    OdesolveError,
                    match=f"'{method}' solves no {calculus} equation with {noise} noise",
                ):
                    getattr(ours, call)(
                        Equation(noise, calculus), start(), TS, method=method, dt=0.25, logqp=logqp
                    )
    assert count == (10 if noise == "general" else 7)


class Bent(Equation):
    """Noise that is called additive, whose g sees y."""

    def g(self, t, y):
        return super().g(t, y) * (1 + y.unsqueeze(-1))


@pytest.mark.parametrize(
    ("method", "call"),
    diagonal(list(EVERY), ["sdeint", "sdeint_adjoint"]),
)
def test_additive_noise_that_sees_the_state(method, call):
    calculus = "ito" if method in KINDS["ito"] else "stratonovich"
    with pytest.raises(OdesolveError, match="another value at another y"):
        getattr(ours, call)(Bent("additive", calculus), start(), TS, method=method, dt=0.25)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize(
    "name", ["dt", "rtol", "atol", "dt_min", "adjoint_rtol", "adjoint_atol", "ts"]
)
def test_numbers_that_want_gradients(name):
    given = {"ts": TS.clone(), **({} if name == "ts" else {name: torch.tensor(0.1)})}
    given[name].requires_grad_()
    for lib in (ours, torchsde):
        with pytest.raises(ValueError, match=f"Argument {name}|{name} requires"):
            lib.sdeint_adjoint(Equation("diagonal", "ito"), start(), method="euler", **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lib: lib.BrownianInterval(0.0, 1.0, W=1.0), "W"),
        (lambda lib: lib.BrownianInterval(0.0, 1.0, W=torch.ones(3, 2, dtype=torch.int64)), "W"),
        (
            lambda lib: lib.BrownianInterval(
                0.0, 1.0, W=torch.ones(3, 2), H=torch.ones(3, 2).long()
            ),
            "H",
        ),
        (lambda lib: lib.BrownianInterval(0.0, 1.0, (3, 2), tol=0.0, halfway_tree=True), "tol"),
        (
            lambda lib: lib.BrownianInterval(0.0, 1.0, (3, 2), tol=0.1, dt=0.1, halfway_tree=True),
            "dt",
        ),
        (lambda lib: lib.BrownianInterval(0.0, 1.0, (3, 2), dt=torch.ones(2)), "dt"),
        (lambda lib: lib.BrownianInterval(torch.zeros(2), 1.0, (3, 2)), "t0"),
        (lambda lib: lib.BrownianInterval(0.0, torch.ones(2), (3, 2)), "t1"),
    ],
)
def test_what_makes_no_brownian_motion(call, message):
    with pytest.raises((ValueError, RuntimeError)):
        call(torchsde)
    with pytest.raises(OdesolveError, match=message):
        call(ours)


def test_increments_are_floating_point():
    with pytest.raises(OdesolveError, match="floating-point"):
        ours.BrownianInterval(0.0, 1.0, (3, 2), dtype=torch.int64)
