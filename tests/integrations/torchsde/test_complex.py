"""Complex states: torchsde's answers where they are right, and the closed forms where they are
not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from odesolve.errors import OdesolveError
from odesolve.integrations import torchsde as ours
from tests.products import diagonal

from .equations import CASES, SOME, WIDE, gap

torchsde = pytest.importorskip("torchsde")
COMPLEX = {"dtype": torch.complex128}
TS = torch.tensor([0.0, 0.25, 0.5], **WIDE)
B, D, M = 3, 2, 2
REAL_ONLY = ("milstein", "srk", "log_ode")


class Turning(nn.Module):
    """A linear equation of complex numbers; general noise has a second column."""

    def __init__(self, noise, calculus, bent=0.0):
        super().__init__()
        self.noise_type, self.sde_type, self.bent = noise, calculus, bent
        self.m = {"diagonal": D, "scalar": 1}.get(noise, M)
        self.k = nn.Parameter(torch.tensor(-0.2 + 1j, **COMPLEX))
        self.s = nn.Parameter(torch.tensor(0.3 + 0.4j, **COMPLEX))
        self.r = nn.Parameter(torch.tensor(0.7, **WIDE))

    def f(self, t, y):
        return self.k * y + self.bent * y.conj() * self.r

    def g(self, t, y):
        own = self.s * y * self.r + self.bent * y.conj()
        if self.noise_type == "diagonal":
            return own
        if self.noise_type == "additive":
            return (self.s * self.r * torch.tensor([[1.0, 0.5j], [0.3, 1.0]], **COMPLEX)).expand(
                len(y), D, M
            )
        return torch.stack([own, 0.2j * y], -1)[..., : self.m]


class Parts(nn.Module):
    """The same on the pairs of their parts, (B, 2 D), with general noise."""

    def __init__(self, eq):
        super().__init__()
        self.noise_type = "general" if eq.noise_type == "diagonal" else eq.noise_type
        self.eq, self.sde_type = eq, eq.sde_type

    def f(self, t, y):
        return pairs(self.eq.f(t, numbers(y)))

    def g(self, t, y):
        g = self.eq.g(t, numbers(y))
        g = torch.diag_embed(g) if self.eq.noise_type == "diagonal" else g
        return torch.view_as_real(g).movedim(-1, -2).flatten(1, 2)


def numbers(y):
    return torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2).contiguous())


def pairs(z):
    return torch.view_as_real(z).flatten(-2)


def start():
    return torch.tensor([[1.0 + 0.5j, -0.5 + 1j], [0.3j, 1.0], [0.5 - 0.5j, -1.0]], **COMPLEX)


def motion(m, kind=torch.float64, lib=torchsde):
    area = "space-time" if kind.is_complex else "foster"
    return lib.BrownianInterval(0.0, 0.5, (B, m), kind, entropy=3, levy_area_approximation=area)


def answer(solve, eq, y0=None, **call):
    """The states and the gradients of a real loss, y0's first."""
    y0 = start().requires_grad_() if y0 is None else y0
    ys = solve(eq, y0, TS, **{"dt": 0.05, **call})
    whole = numbers(ys) if not ys.is_complex() else ys
    weights = torch.linspace(-1, 1, whole.numel(), **WIDE).reshape(whole.shape) + 1j
    loss = (whole * weights).real.sum() + whole.abs().square().sum()
    wanted = [y0, *eq.parameters()]
    return ys, torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "kind"),
    [(*a, b) for a, b in diagonal(SOME, [torch.float64, torch.complex128], times=2)],
)
def test_torchsdes_answers(calculus, method, noise, kind):
    """On real motions, where it takes them (of diagonal noise), but for milstein's conj(g') g; on
    complex ones by all methods that multiply no increments. A complex bm is told to others."""
    eq = Turning(noise, calculus)
    call = {"method": method, "bm": motion(eq.m, kind)}
    if kind.is_complex and (method == "log_ode" or (method in REAL_ONLY and noise != "additive")):
        with pytest.raises(
            OdesolveError,
            match="areas that bm" if method == "log_ode" else "takes real Brownian motions",
        ):
            answer(ours.sdeint, eq, **call)
    elif kind.is_complex or (noise == "diagonal" and method != "milstein"):
        found = answer(ours.sdeint, eq, **call)
        assert gap(found, answer(torchsde.sdeint, eq, **call)) < 1e-12
        if method == "reversible_heun":
            assert gap(answer(ours.sdeint_adjoint, eq, **call), found) < 1e-12
        elif noise == "additive":
            fine = {**call, "dt": 1 / 256}
            assert (
                gap(answer(ours.sdeint_adjoint, eq, **fine), answer(ours.sdeint, eq, **fine)) < 0.1
            )


@pytest.mark.few(4)
@pytest.mark.parametrize(("calculus", "method", "noise"), SOME)
def test_pairs_of_reals(calculus, method, noise):
    """States and gradients are those of the real equation of both parts; g and f need not be
    holomorphic."""
    if noise == "diagonal" and method in ("milstein", "srk"):
        return  # which take no general noise
    eq = Turning(noise, calculus, bent=0.1)
    call = {"method": method, "bm": motion(eq.m)}
    ys, grads = answer(ours.sdeint, eq, **call)
    real, parts = answer(ours.sdeint, Parts(eq), pairs(start()).requires_grad_(), **call)
    assert gap(ys, numbers(real)) < 1e-13
    assert gap(grads, [numbers(parts[0]), *parts[1:]]) < 1e-12
    back, walked = answer(ours.sdeint_adjoint, eq, **call)
    assert gap(back, ys) < 1e-13
    assert [g.dtype for g in walked] == [g.dtype for g in grads]
    if method == "reversible_heun":
        assert gap(walked, grads) < 1e-12
    elif noise != "diagonal":
        _, other = answer(ours.sdeint_adjoint, Parts(eq), pairs(start()).requires_grad_(), **call)
        assert gap(walked, [numbers(other[0]), *other[1:]]) < 1e-12


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "kind"),
    [(*a, b) for a, b in diagonal(SOME, [torch.float64, torch.complex128])],
)
def test_closed_forms(calculus, method, noise, kind):
    """y0 exp((k - c) t + s r W + ...): states, and gradients by the steps and by the adjoint of the
    equation."""
    if noise == "additive" or (kind.is_complex and method in REAL_ONLY):
        return
    eq = Turning(noise, calculus)
    bm = motion(eq.m, kind, ours)
    y0, w = start().requires_grad_(), bm(0.0, 0.5)
    squares = (eq.s * eq.r) ** 2 + ((0.2j) ** 2 if noise == "general" else 0.0)
    c = 0.5 * squares if calculus == "ito" and not kind.is_complex else 0.0
    first, rest = (
        (w, 0.0) if noise == "diagonal" else (w[:, :1], 0.2j * w[:, 1:].sum(1, keepdim=True))
    )
    end = y0 * torch.exp((eq.k - c) * 0.5 + eq.s * eq.r * first + rest)
    weights = torch.tensor([1.0, 1j], **COMPLEX)
    wanted = [y0, *eq.parameters()]
    truth = torch.autograd.grad((end * weights).real.sum(), wanted)
    size = max(float(g.abs().max()) for g in truth)
    tolerance = 0.15 if method == "euler" else 0.03
    for solve in (ours.sdeint, ours.sdeint_adjoint):
        ys = solve(eq, y0, TS, bm=bm, method=method, dt=1 / 256)
        assert gap(ys[-1], end) < tolerance
        found = torch.autograd.grad((ys[-1] * weights).real.sum(), wanted)
        assert gap(found, truth) < tolerance * size
    assert gap([g.conj().resolve_conj() for g in truth], truth) > tolerance * size


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("calculus", "method", "noise", "call"),
    [(*a, b) for a, b in diagonal(list(CASES), ["sdeint", "sdeint_adjoint"])],
)
def test_noise_of_its_own(calculus, method, noise, call):
    """Without bm increments are complex and circularly symmetric, as torchsde's, or the method says
    what to give."""
    eq, options = Turning(noise, calculus), {"method": method, "dt": 0.25}
    solve = getattr(ours, call)
    if method == "log_ode" or (method in REAL_ONLY and noise != "additive"):
        with pytest.raises(OdesolveError, match=r"dtype=torch.float64\), or method="):
            solve(eq, start(), TS, **options)
        return
    torch.manual_seed(0)
    y = solve(eq, start(), TS, **options)
    torch.manual_seed(0)
    assert torch.equal(solve(eq, start(), TS, **options), y)
    adaptive = (
        solve(eq, start(), TS, adaptive=True, rtol=0.1, atol=0.1, **options)
        if method != "euler"
        else y
    )
    assert adaptive.dtype == torch.complex128
    assert bool(adaptive.isfinite().all())


def test_where_theirs_is_off():
    """Its milstein multiplies by conj(g'), its srk takes complex motions for real ones; its adjoint
    wants real sums."""
    eq, real = Turning("diagonal", "stratonovich"), motion(D)
    ends = [
        lib.sdeint(eq, start(), TS, bm=real, method="milstein", dt=1 / 128)[-1]
        for lib in (ours, torchsde)
    ]
    fine = ours.sdeint(eq, start(), TS, bm=real, method="heun", dt=1 / 128)[-1]
    assert gap(ends[0], fine) < 0.01 < 0.05 < gap(ends[1], fine)
    eq = Turning("diagonal", "ito")
    whole = motion(D, torch.complex128)
    srk = torchsde.sdeint(eq, start(), TS, bm=whole, method="srk", dt=1 / 128)[-1]
    heun = ours.sdeint(
        Turning("diagonal", "stratonovich"), start(), TS, bm=whole, method="heun", dt=1 / 128
    )[-1]
    exact = start() * torch.exp(0.5 * eq.k + eq.s * eq.r * whole(0.0, 0.5))  # in both calculi
    assert gap(heun, exact) < 0.01 < 0.02 < gap(srk, exact)
    y0 = start().requires_grad_()
    with pytest.raises(RuntimeError, match="real scalar outputs"):
        torchsde.sdeint_adjoint(eq, y0, TS, bm=real, method="euler", dt=0.1).abs().sum().backward()


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_law_of_its_own_noise(adaptive):
    """Of additive noise: E y^2 = 0 and E |y|^2 = |g|^2 t, in both libraries."""

    class Plain:
        noise_type, sde_type = "additive", "ito"

        def f(self, t, y):
            return 0 * y

        def g(self, t, y):
            return torch.full((*y.shape, 1), 0.6 + 0.8j, **COMPLEX)

    torch.manual_seed(0)
    for lib in (ours, torchsde)[: 2 - adaptive]:  # theirs has no error norm for them
        y = lib.sdeint(
            Plain(),
            torch.zeros(40_000, 1, **COMPLEX),
            TS,
            method="euler",
            dt=0.25,
            adaptive=adaptive,
        )[-1]
        assert float(y.abs().square().mean()) == pytest.approx(0.5, rel=0.03)
        assert float(y.square().mean().abs()) < 0.015


def test_a_complex_interval():
    """Both parts of half the variance, additive, and bent to a known increment and area."""
    bm = ours.BrownianInterval(
        0.0, 2.0, (20_000, 1), torch.complex64, entropy=1, levy_area_approximation="space-time"
    )
    w = bm(0.0, 2.0)
    assert w.dtype == torch.complex64
    assert [float(x.var()) for x in (w.real, w.imag)] == pytest.approx([1.0, 1.0], rel=0.04)
    assert float((w.real * w.imag).mean().abs()) < 0.03
    assert gap(bm(0.0, 0.7) + bm(0.7, 2.0), w) < 1e-5
    known, area = torch.full((3, 1), 1 + 2j, **COMPLEX), torch.full((3, 1), 0.5j, **COMPLEX)
    bent = ours.BrownianInterval(0.0, 2.0, W=known, H=area, levy_area_approximation="space-time")
    w, u = bent(0.0, 2.0, return_U=True)
    assert gap([w, u / 2 - 0.5 * w], [known, area]) < 1e-12
    like = ours.brownian_interval_like(known)
    assert like(0.0, 0.5).dtype == torch.complex128
    with pytest.raises(OdesolveError, match="no Levy areas"):
        ours.brownian_interval_like(known, levy_area_approximation="foster")


class Told(Turning):
    """One with a prior's drift."""

    def h(self, t, y):
        return -y


@pytest.mark.parametrize("call", ["sdeint", "sdeint_adjoint"])
def test_what_has_no_meaning_is_refused(call):
    solve, eq, y0 = getattr(ours, call), Turning("diagonal", "ito"), start()
    with pytest.raises(OdesolveError, match="view_as_real"):
        solve(Told("diagonal", "ito"), y0, TS, method="euler", logqp=True)
    for noise in ("diagonal", "scalar", "additive", "general"):
        with pytest.raises(OdesolveError, match=r"result of [fg] of sde has type torch.complex128"):
            solve(Turning(noise, "ito"), y0.real, TS, method="euler")
    real = Turning("diagonal", "ito")
    real.f, real.g = (lambda t, y: -y), (lambda t, y: 0.1 * y)
    with pytest.raises(OdesolveError, match="y0 is real"):
        solve(real, y0.real, TS, method="euler", bm=motion(2, torch.complex128))
    assert solve(real, y0, [0.0, 0.5], method="srk", bm=motion(2)).dtype == torch.complex128
    with pytest.raises(OdesolveError, match="floating-point or complex"):
        solve(eq, y0.real.long(), TS)
