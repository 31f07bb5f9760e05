"""Complex states, parameters and arguments: pairs of reals inside, with gradients in torch's
convention."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.functions.pairing import converted, numbers, pairs
from odesolve.integrations.k_diffusion.sampling import sample_dpm_adaptive, sample_euler
from odesolve.integrations.torchdiffeq import odeint, odeint_adjoint, odeint_event
from tests.products import diagonal
from tests.rows import rows

T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
K = torch.tensor([0.2 + 1.0j, -0.5 + 2.0j, 0.1 - 1.0j], dtype=torch.complex128)
Y0 = torch.tensor([[1.0, 2.0j, 0.5 - 0.5j], [0.3 + 0.1j, -1.0, 1.0]], dtype=torch.complex128)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}

# name: (f, y0) -> states at T
SOLVES = {
    **{
        s: lambda f, y, s=s: ode.solve(f, y, T, s, **TIGHT).y
        for s in ("dopri5", "tsit5", "dopri8", "bosh3")
    },
    "kvaerno5": lambda f, y: ode.solve(f, y, T, "kvaerno5", **TIGHT).y,
    "kvaerno5, krylov": lambda f, y: ode.solve(f, y, T, "kvaerno5", linear="krylov", **TIGHT).y,
    "one step for all": lambda f, y: ode.solve(f, y, T, control="batch", **TIGHT).y,
    "steps": lambda f, y: ode.solve(f, y, T, "rk4", steps=60).y,
    "dense": lambda f, y: ode.solve(f, y, (0.0, 1.0), dense=True, **TIGHT).at(T),
    **{
        m: lambda f, y, m=m: odeint(f, y, T, method=m, **TIGHT)
        for m in ("dopri5 of odeint", "scipy_solver")[1:]
    },
    "odeint": lambda f, y: odeint(f, y, T, **TIGHT),
    **{
        m: lambda f, y, m=m: odeint(f, y, T, method=m, options={"step_size": 0.02})
        for m in ("rk4", "gl6")
    },
}
GRADIENTS = {
    "backprop": lambda f, y, **k: ode.solve(f, y, T, adjoint="backprop", **TIGHT, **k).y,
    "continuous": lambda f, y, **k: ode.solve(f, y, T, adjoint="continuous", **TIGHT, **k).y,
    "continuous, implicit": lambda f, y, **k: (
        ode.solve(f, y, T, "kvaerno5", adjoint="continuous", **TIGHT, **k).y
    ),
    "steps, backprop": lambda f, y, **k: (
        ode.solve(f, y, T, "rk4", steps=60, adjoint="backprop", **k).y
    ),
    "steps, continuous": lambda f, y, **k: (
        ode.solve(f, y, T, "rk4", steps=60, adjoint="continuous", **k).y
    ),
    "reversible": lambda f, y, **k: (
        ode.solve(f, y, T, "rk4", steps=60, adjoint="reversible", **k).y
    ),
}
ADAPTERS = {
    "odeint": lambda f, y, p: odeint(f, y, T, **TIGHT),
    "odeint rk4": lambda f, y, p: odeint(f, y, T, method="rk4", options={"step_size": 0.02}),
    "odeint gl6": lambda f, y, p: odeint(f, y, T, method="gl6", options={"step_size": 0.1}),
    "odeint_adjoint": lambda f, y, p: odeint_adjoint(f, y, T, adjoint_params=p, **TIGHT),
    "odeint_adjoint rk4": lambda f, y, p: odeint_adjoint(
        f, y, T, method="rk4", options={"step_size": 0.02}, adjoint_params=p
    ),
}


def exact(k=K, y0=Y0):
    return torch.stack([y0 * torch.exp(k * t) for t in T])


@rows(("how", "form"), diagonal(list(SOLVES), ["batch", "system", "number"]))
def test_values(how, form):
    y0 = {"batch": Y0, "system": Y0[0], "number": Y0[0, 0]}[form]
    k = K[0] if form == "number" else K
    y = SOLVES[how](lambda t, y: k * y, y0)
    assert y.dtype == torch.complex128
    torch.testing.assert_close(y, exact(k, y0), rtol=2e-6, atol=1e-6)


@rows("solver", ["bosh3", "dopri5", "tsit5", "dopri8", "kvaerno3", "kvaerno5"])
def test_single_precision(solver):
    with torch.no_grad():
        y = ode.solve(
            lambda t, y: K.to(y.dtype) * y, Y0.to(torch.complex64), T, solver, rtol=1e-5, atol=1e-6
        ).y
    assert y.dtype == torch.complex64
    torch.testing.assert_close(y, exact().to(torch.complex64), rtol=1e-4, atol=1e-4)


@rows("container", [tuple, dict])
@rows("solver", ["dopri5", "kvaerno5"])
def test_pieces_of_both_kinds(container, solver):
    pieces = {
        "r": torch.ones(2, 3, dtype=torch.float64),
        "z": Y0,
        "s": torch.ones(2, 1, dtype=torch.float64),
    }
    y0 = pieces if container is dict else tuple(pieces.values())

    def f(t, y):
        r, z, s = y.values() if container is dict else y
        assert t.dtype == torch.float64
        assert not r.is_complex()
        assert z.is_complex()
        slopes = (-r, K * z, -(z.abs() * 0).sum(1, keepdim=True) - s)
        return dict(zip(pieces, slopes, strict=True)) if container is dict else slopes

    y = ode.solve(f, y0, T, solver, rtol=1e-8, atol=1e-10).y
    r, z, s = y.values() if container is dict else y
    torch.testing.assert_close(z, exact(), rtol=1e-6, atol=1e-7)
    assert r.dtype == s.dtype == torch.float64
    torch.testing.assert_close(r[-1], torch.full_like(r[-1], -1.0).exp(), rtol=1e-6, atol=0)


def loss(y):
    """Real, and no analytic function of y."""
    return (y.real * y.imag.roll(1, -1)).sum() + y[-1].abs().sum()


def gradients(coupling):
    """dL/dRe + i dL/dIm of k and of y0, where dy/dt = k y + coupling conj(y): from its closed form,
    in real numbers alone."""
    k, y0 = (torch.view_as_real(z).clone().requires_grad_() for z in (K, Y0))
    a, b = k.unbind(-1)
    upper = torch.stack([a + coupling, -b], -1)
    lower = torch.stack([b, a - coupling], -1)
    slope = torch.stack([upper, lower], -2)
    y = torch.stack([(torch.matrix_exp(slope * t) @ y0[..., None])[..., 0] for t in T])
    re, im = y.unbind(-1)
    value = (re * im.roll(1, -1)).sum() + (re[-1] ** 2 + im[-1] ** 2).sqrt().sum()
    return [torch.view_as_complex(grad) for grad in torch.autograd.grad(value, (k, y0))]


@rows(("how", "where"), diagonal(list(GRADIENTS), ["closure", "args"]))
def test_gradients_are_those_of_the_closed_form(how, where):
    def solved(k, y0):
        if where == "args":
            return GRADIENTS[how](lambda t, y, k: k * y + 0.1 * y.conj(), y0, args=(k,))
        return GRADIENTS[how](lambda t, y: k * y + 0.1 * y.conj(), y0)

    k, y0 = K.clone().requires_grad_(), Y0.clone().requires_grad_()
    loss(solved(k, y0)).backward()
    torch.testing.assert_close([k.grad, y0.grad], gradients(0.1), rtol=1e-5, atol=1e-5)


@rows("how", ADAPTERS)
def test_gradients_of_the_adapter(how):
    def solved(k, y0, params=()):
        return ADAPTERS[how](lambda t, y: k * y + 0.1 * y.conj(), y0, params)

    k, y0 = K.clone().requires_grad_(), Y0.clone().requires_grad_()
    loss(solved(k, y0, (k,))).backward()
    torch.testing.assert_close([k.grad, y0.grad], gradients(0.1), rtol=1e-5, atol=1e-5)


def test_the_smallest_example():
    k = torch.tensor(0.2 + 1j, dtype=torch.complex128, requires_grad=True)
    start = torch.ones(1, dtype=torch.complex128)
    y = odeint_adjoint(lambda t, y: k * y, start, torch.tensor([0.0, 1.0]), adjoint_params=(k,))
    y[-1].real.sum().backward()
    assert complex(k.grad) == pytest.approx(0.6599 - 1.0278j, abs=1e-4)


@pytest.mark.long
@rows("how", [*GRADIENTS, *ADAPTERS])
def test_complex_parameters_of_a_real_state(how):
    def solved(k, params=()):
        def f(t, y):
            return torch.view_as_real(k * torch.view_as_complex(y.contiguous()))

        start = torch.view_as_real(Y0)
        return GRADIENTS[how](f, start) if how in GRADIENTS else ADAPTERS[how](f, start, params)

    k = K.clone().requires_grad_()
    loss(torch.view_as_complex(solved(k, (k,)))).backward()
    torch.testing.assert_close(k.grad, gradients(0.0)[0], rtol=1e-5, atol=1e-5)


def test_events():
    event = ode.Event(lambda t, y: y[:, 0].real)
    sol = ode.solve(
        lambda t, y: 1j * y,
        torch.ones(2, 1, dtype=torch.complex128),
        (0.0, 3.0),
        events=event,
        **TIGHT,
    )
    torch.testing.assert_close(
        sol.t, torch.full((2,), torch.pi / 2, dtype=torch.float64), rtol=1e-8, atol=0
    )
    torch.testing.assert_close(
        sol.last, torch.full((2, 1), 1j, dtype=torch.complex128), rtol=1e-7, atol=1e-7
    )
    t, _ = odeint_event(
        lambda t, y: 1j * y,
        torch.ones(1, dtype=torch.complex128),
        T[0],
        event_fn=lambda t, y: y.real,
    )
    assert float(t) == pytest.approx(torch.pi / 2, rel=1e-6)


def test_a_real_slope_of_a_complex_state_is_one():
    y = ode.solve(lambda t, y: torch.ones(2, 3, dtype=torch.float64), Y0, T).last
    torch.testing.assert_close(y, Y0 + 1.0)


def test_slopes_that_are_conjugate_views():
    y = ode.solve(lambda t, y: (K * y).conj().conj(), Y0, T, **TIGHT).y
    torch.testing.assert_close(y, exact(), rtol=1e-6, atol=1e-6)
    y = ode.solve(lambda t, y: torch.complex(y, y).conj().imag, torch.ones(2, 2), T).last
    torch.testing.assert_close(y, torch.full((2, 2), -1.0).exp(), rtol=1e-4, atol=0)


REAL = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
MODEL = ode.Model(lambda x, t: x * 0.5, ode.paths.VP(), "noise")
COMPLEX = ode.Model(lambda x, t: x * 0.5j, ode.paths.VP(), "noise")
WAVES = torch.complex(REAL, REAL)
REFUSED = {
    "solve": lambda: ode.solve(lambda t, y: 1j * y, REAL),
    "solve, steps": lambda: ode.solve(lambda t, y: 1j * y, REAL, steps=3),
    "solve, implicit": lambda: ode.solve(lambda t, y: 1j * y, REAL, solver="kvaerno3"),
    "solve, gradients": lambda: ode.solve(lambda t, y: 1j * y, REAL, adjoint="continuous"),
    "solve, tuple": lambda: ode.solve(lambda t, y: (1j * y[0], y[1]), (REAL, REAL)),
    "odeint": lambda: odeint(lambda t, y: 1j * y, REAL, T),
    "odeint, tuple": lambda: odeint(lambda t, y: (1j * y[0],), (REAL,), T),
    "odeint, half": lambda: odeint(lambda t, y: 1j * y.float(), REAL.half(), T),
    "event": lambda: ode.solve(lambda t, y: -y, REAL, events=ode.Event(lambda t, y: y[:, 0] + 1j)),
    "velocity": lambda: ode.log_prob(lambda t, x: 1j * x, REAL),
    "base": lambda: ode.log_prob(lambda t, x: -x, REAL, base=lambda y: -(y.square().sum(1)) + 1j),
    "x": lambda: ode.log_prob(MODEL, WAVES),
    "noise": lambda: ode.sample(MODEL, WAVES),
    "state": lambda: ode.sample(MODEL, state=WAVES),
    "solve a model": lambda: ode.solve(MODEL, WAVES, (1.0, 0.1)),
    "predictions": lambda: MODEL.data(WAVES, 0.5),
    "network": lambda: ode.sample(COMPLEX, REAL),
    "network, solve": lambda: ode.solve(COMPLEX, REAL, (1.0, 0.1)),
    "network, density": lambda: ode.log_prob(COMPLEX, REAL),
    "score": lambda: ode.langevin(lambda x: 1j * x, REAL, step=0.1, n=2),
    "density": lambda: ode.mala(lambda x: -x.square().sum(1) + 1j, REAL, 0.1, n=2),
    "known": lambda: ode.sample(MODEL.inpainted(WAVES, torch.ones(4, 3)), REAL),
    "times": lambda: ode.solve(lambda t, y: -y, REAL, torch.tensor([0.0, 1.0 + 1.0j])),
    "lower bound": lambda: ode.elbo(MODEL, WAVES),
    "slerp": lambda: ode.slerp(WAVES, WAVES, 0.5),
    "denoiser": lambda: sample_euler(
        lambda x, s: 1j * x, REAL, torch.tensor([2.0, 1.0, 0.0]), disable=True
    ),
    "k-diffusion": lambda: sample_dpm_adaptive(lambda x, s: 0.5 * x, WAVES, 0.1, 2.0, disable=True),
}


@rows("how", REFUSED)
def test_imaginary_parts_are_never_dropped(how):
    with pytest.raises(OdesolveError, match=r"complex64|complex128|floats"):
        REFUSED[how]()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_half_precision_is_refused_without_advice_that_drops_a_part():
    halves = torch.complex(REAL.half(), REAL.half())
    with pytest.raises(OdesolveError, match=r"complex32.*y.to\(torch.complex64\)") as e:
        ode.solve(lambda t, y: y, halves)
    assert "float()" not in str(e.value)


def test_pairs_and_back():
    z = torch.randn(5, 3, dtype=torch.complex64)
    for view in (z, z.t(), z[:, 1:], z.conj(), z[0, 0]):
        assert torch.equal(numbers(pairs(view)), view)
    assert pairs(z).data_ptr() == z.data_ptr()
    odd = torch.randn(7)[1:].view(3, 2)
    assert torch.equal(numbers(odd), torch.complex(odd[:, 0], odd[:, 1]))
    with pytest.raises(OdesolveError, match=r"complex64 where .*say so"):
        converted(z, torch.float32, "it", "say so")
