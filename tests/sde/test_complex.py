"""Complex states in solve_sde: each number has one real Brownian motion, and gradients are torch's,
dL/dRe + i dL/dIm."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import OdesolveError
from odesolve.stochastic.steps import SOLVERS
from tests.products import LONG

WIDE, COMPLEX = {"dtype": torch.float64}, {"dtype": torch.complex128}
K, S = -0.2 + 1j, 0.3 + 0.4j
CASES = [
    (name, n, c) for name, s in SOLVERS.items() for n, calculi in s.calculi.items() for c in calculi
]
LINEAR = [case for case in CASES if case[1] != "additive"]
IN_TURN = [  # each solver once, every kind of noise and every calculus in pairs
    ("euler_maruyama", "general", "ito"),
    ("euler_heun", "diagonal", "stratonovich"),
    ("stochastic_heun", "scalar", "stratonovich"),
    ("midpoint", "general", "stratonovich"),
    ("milstein", "diagonal", "stratonovich"),
    ("srid2", "scalar", "ito"),
]
ADDITIVE = [case for case in CASES if case[1] == "additive"]
# at 64 steps, of those not 5e-3
ERROR = {"euler_maruyama": 0.2, "milstein": 2e-2, "euler_heun": 2e-2, "srid2": 1e-3}


def ways(solver):
    """To a solution with additive noise."""
    fixed = [{"steps": 7}, {"steps": 8, "tree": True}, {"steps": 7, "adjoint": "backprop"}]
    return fixed + [{"rtol": 1e-2}] * (SOLVERS[solver].drifts > 1)


def start(batch=3):
    return torch.linspace(0.5, 1.5, 2 * batch, **WIDE).reshape(batch, 2) * (1 + 0.5j)


def parameters():
    return [torch.tensor(z, requires_grad=True, **COMPLEX) for z in (K, S)]


def noisy(noise, s):
    """The diffusion s y, of general noise with a second motion."""
    return (
        (lambda t, y: torch.stack([s * y, 0.2j * y], -1))
        if noise == "general"
        else (lambda t, y: s * y)
    )


def path_of(solver, noise, y0):
    shape = {"scalar": (len(y0), 1), "general": (len(y0), 2)}.get(noise, tuple(y0.shape))
    return ode.BrownianPath(shape, seed=5, area=SOLVERS[solver].area, **WIDE)


def exact(noise, calculus, path, y0, k=K, s=S):
    """y0 exp(k - (s^2 + ...) / 2 + s W + ...), without the second term in Stratonovich's
    calculus."""
    w = path(0.0, 1.0)
    more, moved = (-0.04, 0.2j * w[:, 1:]) if noise == "general" else (0.0, 0.0)
    squares = (s * s + more) / 2 if calculus == "ito" else 0.0
    return y0 * torch.exp(k - squares + s * (w[:, :1] if noise == "general" else w) + moved)


@pytest.mark.few(6)
@pytest.mark.parametrize(("solver", "noise", "calculus"), LINEAR)
def test_linear_equations(solver, noise, calculus):
    y0 = start()
    path = path_of(solver, noise, y0)
    call = {
        "solver": solver,
        "noise": noise,
        "calculus": calculus,
        "tree": path,
        "steps": 64,
        "seed": 5,
    }
    solution = ode.solve_sde(lambda t, y: K * y, noisy(noise, S), y0, **call)
    assert solution.ok
    assert solution.y.dtype == torch.complex128
    assert solution.y.shape == (2, 3, 2)
    truth = exact(noise, calculus, path, y0)
    assert float((solution.last - truth).abs().max()) < ERROR.get(solver, 5e-3)
    assert float((solution.last - truth.conj()).abs().max()) > 0.5
    as_tuple = (
        ode.solve_sde(lambda t, y: (K * y[0],), lambda t, y: (S * y[0],), (y0,), **call)
        if noise == "diagonal"
        else None
    )
    assert as_tuple is None or torch.equal(as_tuple.last[0], solution.last)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("solver", "noise", "calculus", "way"),
    [
        (*c, way)
        for k, c in enumerate(ADDITIVE)
        for i, way in enumerate(ways(c[0]))
        if LONG or i == k % len(ways(c[0]))
    ],
)
def test_both_parts_see_one_motion(solver, noise, calculus, way):
    """Where f mixes no parts they are two real solves on the same noise, with the two parts of g.
    Every form of g."""
    y0 = start()
    call = {"solver": solver, "noise": noise, "calculus": calculus, "seed": 3, **way}

    def real(part, s):
        return ode.solve_sde(
            lambda t, y: -0.5 * y, lambda t: s * torch.cos(t), part.contiguous(), **call
        ).last

    whole = ode.solve_sde(
        lambda t, y: -0.5 * y, lambda t, y: (S * torch.cos(t)).expand_as(y), y0, **call
    ).last
    if "rtol" not in way:  # steps of each sample's own are chosen by both parts
        assert torch.allclose(
            whole,
            torch.complex(real(y0.real, S.real), real(y0.imag, S.imag)),
            rtol=1e-13,
            atol=1e-14,
        )
    number = torch.tensor(S, **COMPLEX)
    forms = [
        S,
        number,
        lambda t: S,
        lambda t, y: torch.full_like(y, S),
        lambda t, y: number,
        lambda t: number.expand(2),
    ]
    found = [ode.solve_sde(lambda t, y: -0.5 * y, g, y0, **call).last for g in forms]
    assert all(torch.equal(x, found[0]) for x in found)
    straight = ode.solve_sde(lambda t, y: -0.5 * y, 0.3, y0, **call).last
    alike = ode.solve_sde(lambda t, y: -0.5 * y, 0.3 + 0j, y0, **call).last
    assert torch.equal(straight, alike)
    if "rtol" not in way:
        assert torch.allclose(straight.imag, real(y0.imag, 0.0), rtol=1e-13)


def gradients(solver, noise, calculus, adjoint, tensors, steps):
    """A real loss of the solution of the linear equation, and its gradients by y0, k and s."""
    y0, k, s = tensors
    path = path_of(solver, noise, y0)
    call = {
        "solver": solver,
        "noise": noise,
        "calculus": calculus,
        "tree": path,
        "steps": steps,
        "adjoint": adjoint,
    }
    y = ode.solve_sde(
        lambda t, y: k * y,
        noisy(noise, s),
        y0,
        seed=5,
        params=None if adjoint is None else [k, s],
        **call,
    )
    return loss(y.last)


def loss(y):
    weights = torch.linspace(-1, 1, y.numel(), **WIDE).reshape(y.shape) + 1j
    return (y * weights).real.sum() + y.abs().square().sum()


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("solver", "noise", "calculus", "adjoint"),
    [(*c, a) for c in LINEAR for a in ("backprop", "reversible")[: 1 + (c[2] == "stratonovich")]],
)
def test_gradients_of_the_steps(solver, noise, calculus, adjoint):
    """Against central differences in both directions of the plane; the reversible solve is one of
    its own."""
    tensors = [start().requires_grad_(), *parameters()]
    found = torch.autograd.grad(gradients(solver, noise, calculus, adjoint, tensors, 4), tensors)
    for i, g in enumerate(found):
        assert g.dtype == torch.complex128
        difference = 0.0
        for direction in (1.0, 1j):
            ends = []
            for h in (1e-6, -1e-6):
                moved = [x.detach().clone() for x in tensors]
                moved[i].view(-1)[0] += h * direction
                moved = [x.requires_grad_() for x in moved]
                ends.append(gradients(solver, noise, calculus, adjoint, moved, 4).item())
            difference += direction * (ends[0] - ends[1]) / 2e-6
        assert abs(g.reshape(-1)[0].item() - difference) < 1e-6 * max(1.0, abs(difference))


@pytest.mark.few(2)
@pytest.mark.parametrize(("solver", "noise", "calculus"), LINEAR if LONG else IN_TURN)
def test_the_gradient_of_the_equation(solver, noise, calculus):
    """By its continuous adjoint, against that of the closed form, on one path."""
    tensors = [start().requires_grad_(), *parameters()]
    found = torch.autograd.grad(
        gradients(solver, noise, calculus, "continuous", tensors, 256), tensors
    )
    path = path_of(solver, noise, tensors[0])
    truth = torch.autograd.grad(loss(exact(noise, calculus, path, *tensors)), tensors)
    tolerance = 0.1 if solver == "euler_maruyama" else 2e-2
    for g, want in zip(found, truth, strict=True):
        assert float((g - want).abs().max() / want.abs().max()) < tolerance
    assert float((found[2] - truth[2].conj()).abs() / truth[2].abs()) > 0.3


def test_real_parameters_and_arguments():
    """A real parameter of a complex equation gets the real gradient, and a complex argument its
    own."""
    a, b = (
        torch.tensor(0.3, requires_grad=True, **WIDE),
        torch.tensor(0.2 + 0.1j, requires_grad=True, **COMPLEX),
    )
    y0 = start()

    def value(adjoint, a, b):
        f = lambda t, y, z: -a * y + z * y.conj()
        call = {
            "noise": "scalar",
            "calculus": "stratonovich",
            "solver": "midpoint",
            "seed": 1,
            "steps": 256,
        }
        return loss(
            ode.solve_sde(
                f, lambda t, y, z: 0.2j * a * y, y0, args=(b,), adjoint=adjoint, **call
            ).last
        )

    exact = torch.autograd.grad(value("backprop", a, b), [a, b])
    close = torch.autograd.grad(value("continuous", a, b), [a, b])
    assert exact[0].dtype == torch.float64
    with torch.no_grad():
        slope = (value(None, a + 1e-6, b) - value(None, a - 1e-6, b)) / 2e-6
        slopes = [
            (value(None, a, b + 1e-6 * d) - value(None, a, b - 1e-6 * d)) / 2e-6 for d in (1.0, 1j)
        ]
    assert float((exact[0] - slope).abs()) < 1e-6
    assert abs(exact[1].item() - complex(*slopes)) < 1e-6
    assert all(float((x - y).abs() / y.abs()) < 5e-3 for x, y in zip(close, exact, strict=True))


def test_circular_noise():
    """As general noise with the columns g / sqrt 2 and i g / sqrt 2: E y^2 is 0, and E |y|^2 the
    integral of |g|^2."""
    columns = torch.tensor([1.0, 1j], dtype=torch.complex128) / 2**0.5
    y0 = torch.zeros(40_000, 1, **COMPLEX)
    call = {"noise": "general", "seed": 1, "steps": 4}
    y = ode.solve_sde(
        lambda t, y: 0 * y, lambda t, y: (0.5 * columns).expand(len(y), 1, 2), y0, **call
    ).last
    assert float(y.abs().square().mean()) == pytest.approx(0.25, rel=0.03)
    assert float(y.square().mean().abs()) < 0.01


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_forms_of_the_state(dtype):
    """Mixed dicts, one number, one system, single precision; what a batch is, is what its samples
    are."""
    kind = torch.empty(0, dtype=dtype).real.dtype
    y0 = {"z": torch.ones(3, 2, dtype=dtype), "x": torch.ones(3, dtype=kind)}
    g = lambda t, y: {"z": 0.3j * y["z"], "x": 0.5 * y["x"]}
    f = lambda t, y: {k: -v for k, v in y.items()}
    for noise in ("diagonal", "scalar"):
        call = {"noise": noise, "steps": 3, "solver": "milstein"}
        solution = ode.solve_sde(f, g, y0, seed=2, **call)
        assert [solution.last[k].dtype for k in ("z", "x")] == [dtype, kind]
        one = ode.solve_sde(f, g, {k: v[1:2] for k, v in y0.items()}, seed=2, ids=[1], **call)
        assert all(torch.equal(one.last[k], solution.last[k][1:2]) for k in y0)
    for shape in ((), (2,)):
        state = torch.full(shape, 1 + 1j, dtype=dtype)
        for noise in ("diagonal", "scalar", "general"):
            h = (
                (lambda t, y: torch.stack([1j * y, y], -1))
                if noise == "general"
                else (lambda t, y: 1j * y)
            )
            last = ode.solve_sde(lambda t, y: -y, h, state, noise=noise, seed=1, steps=3).last
            assert (last.shape, last.dtype) == (torch.Size(shape), dtype)
            assert float((last - state).abs().min()) > 0
    wide = ode.solve_sde(
        lambda t, y: -y,
        0.1,
        torch.ones(2, 1, dtype=dtype),
        noise="additive",
        dtype=torch.float64,
        seed=1,
    )
    assert wide.last.dtype == torch.complex128


@pytest.mark.parametrize("noise", ["diagonal", "additive", "scalar", "general"])
def test_complex_values_on_a_real_state_are_refused(noise):
    y0 = torch.ones(3, 2, **WIDE)
    wide = (
        (lambda t, y: torch.stack([y, y], -1) * 1j)
        if noise == "general"
        else (lambda t, y: (0 * y + 1) * 1j)
    )
    plain = (
        (lambda t, y: torch.stack([y, y], -1)) if noise == "general" else (lambda t, y: 0 * y + 1)
    )
    for f, g, name in ((lambda t, y: -y, wide, "g"), (lambda t, y: 1j * y, plain, "f")):
        for adjoint in (None, "backprop", "continuous"):
            with pytest.raises(OdesolveError, match=f"{name}'s result has type torch.complex128"):
                ode.solve_sde(f, g, y0, noise=noise, steps=2, seed=1, adjoint=adjoint)
    with pytest.raises(OdesolveError, match="g's result has type"):
        ode.solve_sde(lambda t, y: -y, 1j, y0, noise="additive", steps=2, seed=1)


def test_a_reversed_solve_is_on_the_same_path():
    """Falling times, as rising ones: |dt| is the variance of the noise."""
    y0 = start()
    path = ode.BrownianPath((3, 2), seed=5, **WIDE)
    last = ode.solve_sde(
        lambda t, y: 0 * y, S, y0, (1.0, 0.0), noise="additive", tree=path, steps=4, seed=5
    ).last
    assert torch.allclose(last, y0 - S * path(0.0, 1.0), rtol=1e-13)
