"""Forms that an equation and a state can have, solves that go on, and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch

import odesolve as ode
from odesolve import Diverged, OdesolveError
from odesolve.integrations.torchsde import (
    BaseSDE,
    BrownianInterval,
    SDEIto,
    SDEStratonovich,
    sdeint,
    sdeint_adjoint,
)

from .equations import SOME, WIDE, Equation, Smooth, gap, start

TS = torch.tensor([0.0, 0.2, 0.5], **WIDE)


class Like:
    """Another class with the kinds of an equation and these methods."""

    def __init__(self, eq, **methods):
        self.noise_type, self.sde_type = eq.noise_type, eq.sde_type
        self.__dict__.update(methods)


def ways(eq):
    """The equation with less, or other, methods than f and g."""

    def prod(t, y, v):
        g = eq.g(t, y)
        return g * v if eq.noise_type == "diagonal" else (g @ v[..., None]).squeeze(-1)

    def both(t, y):
        return eq.f(t, y), eq.g(t, y)

    def both_prod(t, y, v):
        return eq.f(t, y), prod(t, y, v)

    yield Like(eq, f_and_g=both)
    yield Like(eq, f=eq.f, g_prod=prod, g=eq.g)
    yield Like(eq, f_and_g_prod=both_prod, g_prod=prod, f_and_g=both)
    yield Like(eq, f=eq.f, g_prod=prod)
    yield Like(eq, f_and_g_prod=both_prod)


@pytest.mark.few(3)
@pytest.mark.parametrize("noise", ["diagonal", "additive", "general"])
@pytest.mark.parametrize("method", ["midpoint", "heun", "euler_heun"])
def test_any_set_of_methods(noise, method):
    eq = Equation(noise, "stratonovich")
    call = {"bm": Smooth(eq.m), "method": method, "dt": 0.1}
    want = sdeint(eq, start(), TS, **call)
    for like in ways(eq):
        assert gap(sdeint(like, start(), TS, **call), want) < 1e-14
        assert gap(sdeint_adjoint(like, start(), TS, adjoint_params=(), **call), want) < 1e-14


def test_products_alone_serve_additive_srk():
    eq = Equation("additive", "ito")
    want = sdeint(eq, start(), TS, bm=Smooth(eq.m), dt=0.1)
    prod = Like(eq, f=eq.f, g_prod=lambda t, y, v: (eq.g(t, y) @ v[..., None]).squeeze(-1))
    assert gap(sdeint(prod, start(), TS, bm=Smooth(eq.m), dt=0.1), want) < 1e-14


def test_names():
    eq = Equation("diagonal", "ito")
    prior = Like(eq, f=eq.h, g=eq.g)
    call = {"bm": Smooth(2), "dt": 0.1}
    assert (
        gap(
            sdeint(eq, start(), TS, names={"drift": "h"}, **call),
            sdeint(prior, start(), TS, **call),
        )
        == 0
    )
    other = Like(eq, mu=eq.f, sigma=eq.g, base=eq.h)
    names = {"drift": "mu", "diffusion": "sigma", "prior_drift": "base"}
    call = {"bm": Smooth(3), "dt": 0.1, "logqp": True}
    assert (
        gap(sdeint(other, start(), TS, names=names, **call), sdeint(eq, start(), TS, **call)) == 0
    )


@pytest.mark.few(4)
@pytest.mark.parametrize(("calculus", "method", "noise"), SOME)
def test_states_of_any_shape(calculus, method, noise):
    """An image of 1 x 2 elements is solved as a row of 2."""
    eq = Equation(noise, calculus)

    def g(t, y):
        out = eq.g(t, y.reshape(3, 2))
        return out.reshape(3, 1, 2, *out.shape[2:])

    image = Like(
        eq,
        f=lambda t, y: eq.f(t, y.reshape(3, 2)).reshape(3, 1, 2),
        g=g,
        h=lambda t, y: eq.h(t, y[:, 0])[:, None],
    )
    for logqp in (False, True):
        call = {
            "method": method,
            "dt": 0.1,
            "logqp": logqp,
            "bm": Smooth(eq.m + (logqp and noise == "diagonal")),
        }
        want = sdeint(eq, start(), TS, **call)
        got = sdeint(image, start().reshape(3, 1, 2), TS, **call)
        ys, more = (got[0], got[1:]) if logqp else (got, ())
        assert ys.shape == (3, 3, 1, 2)
        assert gap((ys.reshape(3, 3, 2), *more), want) < 1e-14


@pytest.mark.few(3)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
@pytest.mark.parametrize("solve", [sdeint, sdeint_adjoint])
def test_a_solve_that_goes_on_is_the_unbroken_one(noise, solve):
    eq = Equation(noise, "stratonovich")
    bm = BrownianInterval(0.0, 1.0, (3, eq.m), entropy=1, **WIDE)
    call = {"bm": bm, "method": "reversible_heun", "dt": 0.125, "extra": True}
    times = torch.tensor([0.0, 0.5, 1.0], **WIDE)
    whole, end = solve(eq, start(), times, **call)
    half, state = solve(eq, start(), times[:2], **call)
    rest, last = solve(eq, half[-1], times[1:], extra_solver_state=state, **call)
    assert gap((rest[-1], last), (whole[-1], end)) < 1e-14
    anew, _ = solve(eq, half[-1], times[1:], **call)
    assert gap(anew[-1], whole[-1]) > 1e-6  # without it the second state begins where the first is
    assert sdeint(eq, start(), TS, method="midpoint", extra=True)[1] == ()


@pytest.mark.few(4)
@pytest.mark.filterwarnings("ignore:adaptive steps of the Euler")
@pytest.mark.parametrize(("calculus", "method", "noise"), SOME)
def test_its_own_noise(calculus, method, noise):
    """Seeded by torch, of one time scale with the steps, and other for every sample."""
    eq = Equation(noise, calculus)
    y0 = start().expand(3, 2)[:1].expand(64, 2).contiguous()

    @torch.no_grad()
    def run(seed, **call):
        torch.manual_seed(seed)
        return sdeint(eq, y0, TS, method=method, dt=0.1, **call)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert float(run(1)[-1].std(0).min()) > 0.05
    adaptive = run(1, adaptive=True, rtol=0.1, atol=0.1)
    assert adaptive.shape == (3, 64, 2)
    assert float((adaptive[-1].std(0) / run(1)[-1].std(0)).log().abs().max()) < 0.5


def test_defaults_and_dtypes():
    """srk of Ito's equations, Euler of general noise, midpoint of Stratonovich's; a list of times
    is of y0's type."""
    for noise, calculus, method in [
        ("diagonal", "ito", "srk"), ("general", "ito", "euler"), ("general", "stratonovich", "midpoint"),
    ]:  # fmt: skip
        eq = Equation(noise, calculus)
        call = {"bm": Smooth(eq.m), "dt": 0.1}
        assert torch.equal(
            sdeint(eq, start(), TS, **call), sdeint(eq, start(), TS, method=method, **call)
        )
        assert torch.equal(
            sdeint(eq, start(), TS, **call), sdeint(eq, start(), TS.tolist(), **call)
        )
    eq = Equation("diagonal", "ito").float()
    assert sdeint(eq, start().float(), [0, 1], dt=0.5).dtype == torch.float32
    half = Equation("diagonal", "ito").bfloat16()
    assert sdeint(half, start().bfloat16(), [0.0, 1.0], dt=0.5).dtype == torch.bfloat16
    assert torch.equal(sdeint(eq, start().float(), [0.5]), start().float()[None])


def test_a_path_of_the_library():
    """With its areas it serves srk; the default dt, of 0-d tensors too."""
    eq = Equation("diagonal", "ito")
    path = ode.BrownianPath((3, 2), (0.0, 0.5), seed=4, area=True, **WIDE)
    fine = sdeint(eq, start(), TS, bm=path)
    rough = sdeint(eq, start(), TS, bm=path, dt=torch.tensor(0.05))
    assert 0 < gap(rough, fine) < 0.01
    with pytest.raises(OdesolveError, match="foster"):
        sdeint(Equation("general", "stratonovich"), start(), TS, bm=path, method="log_ode")


def test_classes():
    assert (SDEIto("general").noise_type, SDEIto("general").sde_type) == ("general", "ito")
    assert (SDEStratonovich("scalar").sde_type, isinstance(SDEIto("scalar"), BaseSDE)) == (
        "stratonovich",
        True,
    )
    with pytest.raises(OdesolveError, match="did you mean 'diagonal'"):
        SDEIto("diag")
    with pytest.raises(OdesolveError, match="sde_type"):
        BaseSDE("diagonal", "stochastic")


def solve(eq=None, y0=None, ts=TS, **call):
    return sdeint(
        Equation("diagonal", "ito") if eq is None else eq, start() if y0 is None else y0, ts, **call
    )


EQ = Equation("diagonal", "ito")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: solve(Like(EQ, f=EQ.f)), "has no diffusion|to tell the noise"),
        (lambda: solve(Like(EQ, g=EQ.g)), "sde has no drift"),
        (lambda: solve(object()), "no noise_type"),
        (lambda: solve(Like(EQ, f=EQ.f, g_prod=EQ.g)), "give bm="),
        (lambda: solve(method="srk2"), "unknown method 'srk2'"),
        (lambda: solve(method="midpoint"), "solves no ito equation with diagonal noise: give "
                                           "euler, milstein, srk"),
        (lambda: solve(method="adjoint_reversible_heun"), "is a way back"),
        (lambda: solve(method="milstein", options={"gradfree": True}), "did you mean 'grad_free'"),
        (lambda: solve(Equation("general", "ito"), method="milstein"), "solves no ito equation "
                                                                       "with general noise"),
        (lambda: solve(y0=torch.zeros(())), "y0 is no batch"),
        (lambda: solve(ts=[1.0, 0.0]), "rising times"),
        (lambda: solve(ts="now"), "a list of numbers"),
        (lambda: solve(ts=TS.clone().requires_grad_()), "ts.detach"),
        (lambda: solve(dt=0.0), "dt=0"),
        (lambda: solve(dt=1e-18), "lost in the rounding"),
        (lambda: solve(dt=torch.tensor(0.1, requires_grad=True)), "dt requires gradients"),
        (lambda: solve(names={"drifts": "f"}), "did you mean 'drift'"),
        (lambda: solve(names={"drift": "mu"}), "which sde does not have"),
        (lambda: solve(Like(EQ, f=EQ.f, g=EQ.g), logqp=True), "the prior's drift"),
        (lambda: solve(bm=Smooth(3)), "bm has 3 Brownian motions per sample, and g of sde has 2"),
        (lambda: solve(bm=Smooth(2, batch=4)), "give one of shape"),
        (lambda: solve(bm=BrownianInterval(0, 1, (3, 2), **WIDE)), "levy_area_approximation='space-time'"),
        (lambda: solve(Like(EQ, f=lambda t, y: y[:1], g=EQ.g)), "f of sde returned"),
        (lambda: solve(Like(EQ, f=EQ.f, g=lambda t, y: y[..., None])), "g of sde returned"),
        (lambda: solve(extra_solver_state=(start(),)), "leave it out"),
        (
            lambda: solve(Equation("general", "stratonovich"), method="reversible_heun", extra_solver_state=(start(),)),
            "what extra=True returned",
        ),
        (lambda: sdeint_adjoint(EQ, start(), TS, adjoint_method="adjoint_reversible_heun"), "walks back what"),
        (lambda: sdeint_adjoint(EQ, start(), TS, adjoint_method="runge"), "unknown adjoint_method"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(call, said):
    with pytest.raises(OdesolveError, match=said):
        call()


def test_scalar_noise_has_one_column():
    eq = Equation("scalar", "ito")
    wide = Like(eq, f=eq.f, g=lambda t, y: eq.g(t, y).expand(3, 2, 2))
    with pytest.raises(OdesolveError, match="scalar noise is one Brownian motion"):
        solve(wide)


def test_adaptive_ends():
    """NaN is told with the last state; the shortest step is a warning, and no end."""
    eq = Equation("diagonal", "ito")
    bad = Like(eq, f=lambda t, y: y / (t < 0.3), g=lambda t, y: 0 * y)
    with pytest.raises(Diverged) as told:
        solve(bad, adaptive=True, dt=0.01)
    assert 0.2 < told.value.t < 0.5
    assert bool(told.value.state.isfinite().all())
    with pytest.warns(UserWarning, match="dt_min"):
        solve(eq, adaptive=True, rtol=0, atol=1e-7, dt=0.1, dt_min=0.05)


def test_what_has_no_effect_is_said():
    with pytest.warns(UserWarning, match="without effect: foo"):
        solve(foo=1, dt=0.1)
    with pytest.warns(UserWarning, match="adjoint_adaptive"):
        sdeint_adjoint(EQ, start(), TS, dt=0.1, adjoint_adaptive=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdeint_adjoint(EQ, start(), TS, dt=0.1, adjoint_rtol=1e-3, adjoint_options={})
