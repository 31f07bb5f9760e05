"""What solve_sde returns and takes: forms of f, g and the state, directions, batches, failures,
refusals."""

from __future__ import annotations

import math

import pytest
import torch
from odesolve.kernels import dispatch, philox

import odesolve as ode
from odesolve import OdesolveError
from odesolve.noise.stream_numbers import STEPS
from tests.products import LONG, diagonal

WIDE = {"dtype": torch.float64}
ADDITIVE = ("euler_maruyama", "euler_heun", "stochastic_heun", "midpoint", "sra1", "shark")
STRATONOVICH = ("euler_heun", "stochastic_heun", "midpoint")
CASES = [
    *((s, "additive", "ito") for s in ADDITIVE),
    *(
        (s, n, "ito")
        for s in ("euler_maruyama", "milstein", "srid2")
        for n in ("diagonal", "scalar")
    ),
    *((s, n, "stratonovich") for s in (*STRATONOVICH, "milstein") for n in ("diagonal", "scalar")),
    ("euler_maruyama", "general", "ito"),
    *((s, "general", "stratonovich") for s in STRATONOVICH),
]
# Each solver once, every kind of noise and every calculus.
IN_TURN = [
    ("euler_maruyama", "general", "ito"),
    ("euler_heun", "additive", "ito"),
    ("stochastic_heun", "scalar", "stratonovich"),
    ("midpoint", "general", "stratonovich"),
    ("milstein", "diagonal", "stratonovich"),
    ("srid2", "scalar", "ito"),
    ("sra1", "additive", "ito"),
    ("shark", "additive", "ito"),
]
assert {*IN_TURN} <= {*CASES}


def decay(t, y):
    return -y


def half(t, y):
    return 0.5 * y


def mixed(t, y):
    """A diffusion of two Brownian motions, (B, n, 2)."""
    return torch.stack([0.5 * y, 0.3 * y.sin() + 0.1 * y.roll(1, 1)], -1)


def start(batch=4, n=3, **options):
    return torch.linspace(0.5, 1.5, batch * n, **{**WIDE, **options}).reshape(batch, n)


def solve(
    y0, solver="euler_maruyama", noise="diagonal", calculus="ito", f=decay, g=None, **options
):
    if g is None:
        g = {"additive": 0.5, "general": mixed}.get(noise, half)
    options = {"seed": 3, "steps": 10, **options}
    return ode.solve_sde(f, g, y0, solver=solver, noise=noise, calculus=calculus, **options)


def test_euler_maruyama_by_hand():
    """Noise of the step's stream; and the Milstein term g' g (W^2 - h)/2 on it."""
    y0, h = start(2, 3), 0.25
    z = [philox.normals(philox.keys(3, torch.arange(2)), STEPS + k, 3).double() for k in range(4)]
    em, milstein = y0, y0
    for k in range(4):
        w = math.sqrt(h) * z[k]
        em = em - h * em + 0.5 * em * w
        milstein = milstein - h * milstein + 0.5 * milstein * w + 0.125 * milstein * (w * w - h)
    assert torch.allclose(solve(y0, steps=4).last, em, rtol=1e-14)
    assert torch.allclose(solve(y0, "milstein", steps=4).last, milstein, rtol=1e-12)


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "noise", "calculus"), CASES if LONG else IN_TURN)
def test_without_noise_it_is_an_ode(solver, noise, calculus):
    """Of at least first order, forward and backward."""
    y0, none = (
        start(),
        {"additive": 0.0, "general": lambda t, y: 0 * mixed(t, y)}.get(noise, lambda t, y: 0 * y),
    )
    for t in ((0.0, 1.0), (1.0, 0.0)):
        sol = solve(y0, solver, noise, calculus, f=lambda t, y: -t * y, g=none, t=t, steps=200)
        exact = y0 * math.exp(-0.5 if t[1] > t[0] else 0.5)
        assert torch.allclose(sol.last, exact, rtol=4e-3)


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("solver", "noise", "calculus", "tree"),
    [(*a, b) for a, b in diagonal(list(CASES), [False, True])],
)
def test_a_sample_has_the_same_bits_in_any_batch(solver, noise, calculus, tree):
    y0 = start(8, 5, dtype=torch.float32)

    def run(rows):
        return solve(y0[rows], solver, noise, calculus, ids=rows, tree=tree, t=(0.0, 0.3, 1.0)).y

    whole = run(list(range(8)))
    for rows in (list(range(4)), list(range(4, 8)), [5]):
        assert torch.equal(run(rows), whole[:, rows])


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "noise", "calculus"), CASES if LONG else IN_TURN)
def test_the_same_path_at_few_and_many_steps(solver, noise, calculus):
    """With the tree the solutions come together; without it they are others."""
    y0, fine = start(50, 2), 1000 if LONG else 200
    few, many = (solve(y0, solver, noise, calculus, tree=True, steps=n).last for n in (10, fine))
    spread = float(many.std())
    assert float((few - many).square().mean().sqrt()) < 0.25 * spread
    other = solve(y0, solver, noise, calculus, steps=fine).last
    assert float((other - many).square().mean().sqrt()) > spread


def test_a_path_of_ones_own():
    y0, w = start(), ode.BrownianPath((4, 3), t=(-1.0, 2.0), seed=9, dtype=torch.float64)
    sol = solve(
        y0, noise="additive", f=lambda t, y: 0 * y, g=2.0, tree=w, steps=7, t=(0.1, 0.4, 0.9)
    )
    assert torch.allclose(sol.y[1], y0 + 2 * w(0.1, 0.4), rtol=1e-13)
    assert torch.allclose(sol.y[2], y0 + 2 * w(0.1, 0.9), rtol=1e-13)


def test_output_times_and_counts():
    y0 = start()
    sol = solve(y0, "shark", "additive", t=torch.tensor([0.0, 0.25, 1.0]), steps=5)
    assert sol.y.shape == (3, 4, 3)
    assert torch.equal(sol.y[0], y0)
    assert torch.equal(sol.y[2], sol.last)
    assert (sol.status, sol.ok) == (["ok"] * 4, True)
    assert sol.t.tolist() == [1.0] * 4
    assert (sol.nfe.tolist(), sol.steps.tolist(), sol.rejected.tolist()) == (
        [20] * 4,
        [10] * 4,
        [0] * 4,
    )
    grid = solve(
        y0, "shark", "additive", t=torch.linspace(0.25, 1.0, 6), steps=1, f=lambda t, y: t - y
    )
    equal = solve(y0, "shark", "additive", t=(0.25, 1.0), steps=5, f=lambda t, y: t - y)
    assert torch.allclose(grid.last, equal.last, rtol=1e-6)  # times of float32


@pytest.mark.filterwarnings("ignore:y0 asks for gradients")
def test_it_leaves_y0_and_the_mode_of_autograd_alone():
    y0 = start().requires_grad_()
    kept = y0.detach().clone()
    sol = solve(y0)
    assert torch.is_grad_enabled()
    assert torch.equal(y0, kept)
    assert not sol.last.requires_grad


def test_falling_times_solve_the_reversed_process():
    """dy = y dt + dW for falling t is an Ornstein-Uhlenbeck process in -t: mean and variance
    contract."""
    y0 = torch.full((4000, 1), 2.0, **WIDE)
    sol = solve(y0, "shark", "additive", f=lambda t, y: y, g=1.0, t=(3.0, 0.0), steps=60)
    variance = (1 - math.exp(-6)) / 2
    assert abs(float(sol.last.mean()) - 2 * math.exp(-3)) < 3.3 * math.sqrt(variance / 4000)
    assert abs(float(sol.last.var()) - variance) < 3.3 * variance * math.sqrt(2 / 4000)


@pytest.mark.parametrize(
    "g",
    [
        lambda t: 0.5,
        lambda t, y: 0.5,
        lambda t: 0.5 + 0 * t,
        lambda t, y: torch.full_like(y, 0.5),
        lambda t: torch.tensor(0.5),
        torch.full((4, 1), 0.5),
        torch.full((3,), 0.5),
        torch.full((4, 3), 0.5, **WIDE),
    ],
)
@pytest.mark.parametrize("solver", ["stochastic_heun", "shark"])
def test_forms_of_additive_noise(g, solver):
    want, got = solve(start(), solver, "additive"), solve(start(), solver, "additive", g=g)
    assert torch.allclose(got.last, want.last, rtol=1e-12)


def test_noise_of_each_sample_or_element():
    each = torch.tensor([[0.0], [0.1], [0.2], [0.3]], **WIDE)
    sol, one = solve(start(), noise="additive", g=each), solve(start(), noise="additive", g=0.2)
    assert torch.allclose(sol.last[2], one.last[2], rtol=1e-13)
    elements = torch.tensor([0.0, 0.2, 0.4], **WIDE)
    sol = solve(start(), noise="additive", g=lambda t: elements)
    assert torch.allclose(sol.last[:, 1], one.last[:, 1], rtol=1e-13)


def test_scalar_noise_is_one_motion_a_sample():
    y0 = torch.ones(4, 3, **WIDE)
    sol = solve(y0, noise="scalar", f=lambda t, y: 0 * y)
    assert torch.equal(sol.last, sol.last[:, :1].expand(4, 3))
    assert len(sol.last[:, 0].unique()) == 4


@pytest.mark.parametrize(("solver", "noise", "calculus"), [c for c in CASES if c[1] != "general"])
def test_tuples_and_dicts(solver, noise, calculus):
    """As one tensor of their elements."""
    y0 = start(4, 3)
    want = solve(y0, solver, noise, calculus).last
    whole = {"a": y0[:, :1].reshape(4, 1, 1), "b": y0[:, 1:]}
    g = 0.5 if noise == "additive" else lambda t, y: {k: 0.5 * v for k, v in y.items()}
    sol = solve(whole, solver, noise, calculus, f=lambda t, y: {k: -v for k, v in y.items()}, g=g)
    assert torch.equal(torch.cat([sol.last["a"].flatten(1), sol.last["b"]], 1), want)
    assert sol.y["b"].shape == (2, 4, 2)


@pytest.mark.parametrize(("solver", "calculus"), [c[::2] for c in CASES if c[1] == "general"])
def test_general_noise_of_one_motion_an_element_is_diagonal(solver, calculus):
    path = ode.BrownianPath((4, 3), seed=2, **WIDE)
    want = solve(start(), solver, "diagonal", calculus, tree=path).last
    sol = solve(
        start(), solver, "general", calculus, g=lambda t, y: torch.diag_embed(half(t, y)), tree=path
    )
    assert torch.allclose(sol.last, want, rtol=1e-14)
    alone = ode.solve_sde(
        lambda t, y: -y, lambda t, y: y[:, None] * torch.ones(3, **WIDE), start()[0], (0, 1), solver, 9, seed=1,
        noise="general", calculus=calculus,
    )  # fmt: skip
    assert (alone.last.shape, alone.status) == ((3,), "ok")


def test_one_system():
    sol = solve(
        torch.tensor([1.0, 2.0]), noise="additive", g=lambda t: 0.1 * t, f=lambda t, y: -y * t
    )
    assert (sol.y.shape, sol.status, sol.nfe.tolist()) == ((2, 2), "ok", 10)


def test_arguments():
    rate = torch.tensor([[1.0], [2.0], [3.0], [4.0]], **WIDE)
    sol = solve(start(), f=lambda t, y, r: -r * y, g=lambda t, y, r: 0.1 * r * y, args=(rate,))
    fixed = solve(start(), f=lambda t, y: -rate * y, g=lambda t, y: 0.1 * rate * y)
    assert torch.equal(sol.last, fixed.last)
    assert solve(start(dtype=torch.float32), dtype=torch.float64).last.dtype == torch.float64


@pytest.mark.parametrize("solver", ADDITIVE)
def test_a_sample_that_diverges_stops_alone(solver):
    """It keeps its last finite state, when that was and what it cost; the others keep their
    bits."""
    y0 = torch.tensor([[0.1], [9.0], [0.2]])
    options = {"f": lambda t, y: y**3, "g": 0.01, "t": (0.0, 1.0, 2.0), "steps": 40}
    sol = solve(y0, solver, "additive", **options)
    assert (sol.status, sol.ok) == (["ok", "diverged", "ok"], False)
    assert bool(sol.last.isfinite().all())
    assert sol.t[1] == pytest.approx(int(sol.steps[1]) / 40)
    assert 0 < int(sol.steps[1]) < 20
    assert int(sol.nfe[1]) == (int(sol.steps[1]) + 1) * int(sol.nfe[0]) / 80
    assert sol.y[:, 1, 0].isnan().tolist() == [False, True, True]
    alone = solve(y0[[0, 2]], solver, "additive", ids=[0, 2], **options)
    assert torch.equal(alone.y, sol.y[:, [0, 2]])


def test_nan_of_one_sample():
    def f(t, y):
        return torch.where((y > 1.4) & (t > 0.5), torch.nan, -0.0 * y)

    sol = solve(start(), f=f, g=lambda t, y: 0 * y)
    assert sol.status == ["ok", "ok", "ok", "diverged"]
    assert torch.equal(sol.last, start())


def test_a_step_of_additive_noise_is_one_pass(monkeypatch):
    """Euler-Maruyama: one combine that draws its noise, and nothing else; of ShARK three."""
    calls = []
    for name in ("combine", "normal", "normal_sums"):
        for module in ("fused", "equal_steps", "increments"):
            target = __import__(f"odesolve.stochastic.{module}", fromlist=["_"])
            if hasattr(target, name):
                op = getattr(dispatch, name)
                monkeypatch.setattr(
                    target, name, lambda *a, op=op, name=name: (calls.append(name), op(*a))
                )
    for solver, count in (("euler_maruyama", 1), ("stochastic_heun", 2), ("sra1", 2), ("shark", 3)):
        calls.clear()
        solve(start(), solver, "additive", steps=7)
        assert calls == ["combine"] * (7 * count)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(start(), "sra2"), "did you mean 'sra1'"),
        (lambda: solve(start(), noise="matrix"), "unknown noise|solves no"),
        (lambda: solve(start(), noise="general", g=half), "g returned"),
        (lambda: solve(start(), "milstein", noise="general"), "take euler_maruyama, or"),
        (lambda: solve(start(), "shark"), "take euler_maruyama or milstein or srid2"),
        (
            lambda: solve(start(), calculus="stratonovich"),
            "take euler_heun or stochastic_heun or midpoint or milstein",
        ),
        (lambda: solve(start(), calculus="strat"), "unknown calculus"),
        (lambda: solve(start(), steps=0), "steps=0"),
        (lambda: solve(start(), t=(0.0,)), "two or more times"),
        (lambda: solve(start(), g=0.5), "give a function g"),
        (lambda: solve(start(), noise="additive", g="x"), "give a function g"),
        (lambda: solve(start(), g=lambda t, y: y[:2]), "g returned"),
        (lambda: solve(start(), g=lambda t, y: None), "g returned NoneType"),
        (lambda: solve(start(), f=lambda t, y: y[:2]), "f returned"),
        (lambda: solve(start().fill_(torch.nan)), "give finite values"),
        (lambda: solve(start(), tree=ode.BrownianPath((4, 3))), "give BrownianPath"),
        (
            lambda: solve(
                start(), "shark", "additive", tree=ode.BrownianPath((4, 3), dtype=torch.float64)
            ),
            "area=True",
        ),
        (lambda: solve(start(), noise="additive", rtol=1e-3, steps=None), "has no error estimate"),
        (lambda: solve(start(), "milstein", rtol=1e-3, steps=None), "has no error estimate"),
        (lambda: solve(start(), "shark", "additive", rtol=1e-3), "give one or the other"),
        (
            lambda: solve(start(), "shark", "additive", rtol=-1e-3, steps=None),
            "rtol=-0.001: give a positive number",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(OdesolveError, match=message):
        call()
