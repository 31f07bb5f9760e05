"""Gradients through solve_sde: those of the discrete steps equal autograd through the same steps,
written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.methods import schemes

WIDE = {"dtype": torch.float64}
TIMES, STEPS = (0.0, 0.4, 1.0), 6


class Both(nn.Module):
    """A drift and a diffusion with parameters of their own."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(3, 3, generator=g, **WIDE))
        self.b = nn.Parameter(torch.randn(3, generator=g, **WIDE))

    def f(self, t, y, c):
        return torch.tanh(y @ self.w) + c * t

    def g(self, t, y, c):
        return 0.4 * torch.sin(self.b * y) + 0.1 * c

    def additive(self, t, y, c):
        return 0.3 * self.b * (1 + t) + 0.1 * c


def euler(f, g, y, t, h, w, a):
    return y + h * f(t, y) + g(t, y) * w


def heun(f, g, y, t, h, w, a):
    end = y + h * f(t, y) + g(t, y) * w
    return y + 0.5 * h * (f(t, y) + f(t + h, end)) + 0.5 * (g(t, y) + g(t + h, end)) * w


def midpoint(f, g, y, t, h, w, a):
    middle = y + 0.5 * (h * f(t, y) + g(t, y) * w)
    return y + h * f(t + 0.5 * h, middle) + g(t + 0.5 * h, middle) * w


def euler_heun(f, g, y, t, h, w, a):
    return y + h * f(t, y) + 0.5 * (g(t, y) + g(t + h, y + g(t, y) * w)) * w


def milstein(f, g, y, t, h, w, a, loss=1.0):
    bend = (g(t, y + abs(h) * g(t, y)) - g(t, y)) / abs(h)
    return y + h * f(t, y) + g(t, y) * w + 0.5 * bend * (w**2 - loss * abs(h))


def stratonovich(*step):
    return milstein(*step, loss=0.0)


def additive(scheme):
    def step(f, g, y, t, h, w, a):
        more = () if a is None else (a,)
        return scheme(y, lambda x, s: f(s, x), lambda s: g(s, y), t, h, w, *more)

    return step


CASES = {
    "euler": ("euler_maruyama", "diagonal", "ito", euler),
    "heun": ("stochastic_heun", "diagonal", "stratonovich", heun),
    "milstein": ("milstein", "diagonal", "ito", milstein),
    "milstein_stratonovich": ("milstein", "diagonal", "stratonovich", stratonovich),
    "midpoint": ("midpoint", "diagonal", "stratonovich", midpoint),
    "euler_heun": ("euler_heun", "diagonal", "stratonovich", euler_heun),
    "scalar": ("stochastic_heun", "scalar", "stratonovich", heun),
    "additive_euler": ("euler_maruyama", "additive", "ito", euler),
    "additive_heun": ("stochastic_heun", "additive", "ito", heun),
    "sra1": ("sra1", "additive", "ito", additive(schemes.sra1)),
    "shark": ("shark", "additive", "ito", additive(schemes.shark)),
}


def start():
    g = torch.Generator().manual_seed(1)
    y0 = torch.randn(4, 3, generator=g, **WIDE).requires_grad_()
    return y0, torch.randn(4, 1, generator=g, **WIDE).requires_grad_()


def loss(states):
    return sum((k + 1) * y.sin().sum() for k, y in enumerate(states))


def brownian(noise, area):
    return ode.BrownianPath(
        (4, 1) if noise == "scalar" else (4, 3), TIMES[::2], 3, area=area, dtype=torch.float64
    )


def written_out(net, case, y0, c, advance):
    """The states at the times by ``advance(state, move)``, where move(y, forwards) makes a step of
    the case on its path."""
    _, noise, _, step = CASES[case]
    area = case in ("sra1", "shark")
    path, state, states = brownian(noise, area), None, [y0]
    g = net.additive if noise == "additive" else net.g
    for first, last in itertools.pairwise(TIMES):
        for k in range(STEPS):
            s, t = (first + (last - first) * (i / STEPS) for i in (k, k + 1))
            w, a = path(s, t, area=True) if area else (path(s, t), None)

            def move(y, forwards, s=s, t=t, w=w, a=a):
                at, h, sign = (s, t - s, 1.0) if forwards else (t, s - t, -1.0)
                return step(
                    lambda t, y: net.f(t, y, c), lambda t, y: g(t, y, c), y, at, h, sign * w, a
                )

            state = advance(states[-1] if state is None else state, move)
        states.append(state[0] if isinstance(state, tuple) else state)
    return states


def solved(net, case, y0, c, **options):
    solver, noise, calculus, _ = CASES[case]
    g = net.additive if noise == "additive" else net.g
    path = brownian(noise, case in ("sra1", "shark"))
    more = {"noise": noise, "calculus": calculus, "tree": path, "args": (c,), "steps": STEPS}
    return ode.solve_sde(net.f, g, y0, TIMES, solver, **more, **options)


def gradients(value, net, *inputs):
    return torch.autograd.grad(value, (*inputs, net.w, net.b))


def same(mine, theirs, tolerance):
    for a, b in zip(mine, theirs, strict=True):
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_backprop_is_autograd_through_the_steps(case):
    net, (y0, c) = Both(), start()
    states = written_out(net, case, y0, c, lambda y, move: move(y, True))
    sol = solved(net, case, y0, c, adjoint="backprop")
    assert torch.allclose(sol.y, torch.stack(states), rtol=1e-12, atol=1e-13)
    same(gradients(loss(sol.y), net, y0, c), gradients(loss(states), net, y0, c), 1e-11)
    assert torch.equal(sol.y.detach(), solved(net, case, y0.detach(), c).y)
    assert torch.equal(sol.last, sol.y[-1])


@pytest.mark.parametrize("case", [k for k in CASES if k not in ("euler", "milstein")])
def test_reversible_is_autograd_through_its_own_steps(case):
    net, (y0, c) = Both(), start()

    def coupled(state, move):
        y, z = state if isinstance(state, tuple) else (state, state)
        y = 0.99 * y + 0.01 * z + move(z, True) - z
        return y, z - (move(y, False) - y)

    states = written_out(net, case, y0, c, coupled)
    sol = solved(net, case, y0, c, adjoint="reversible")
    assert torch.allclose(sol.y, torch.stack(states), rtol=1e-12, atol=1e-13)
    same(gradients(loss(sol.y), net, y0, c), gradients(loss(states), net, y0, c), 1e-10)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        *(
            (s, a)
            for s in ("euler_heun", "stochastic_heun", "midpoint")
            for a in ("backprop", "continuous", "reversible")
        ),
        *(("euler_maruyama", a) for a in ("backprop", "continuous")),
    ],
)
def test_general_noise_of_one_motion_an_element_is_diagonal(solver, adjoint):
    calculus = "ito" if solver == "euler_maruyama" else "stratonovich"
    found = []
    for noise in ("diagonal", "general"):
        net, (y0, c) = Both(), start()
        g = (
            net.g
            if noise == "diagonal"
            else lambda t, y, c, net=net: torch.diag_embed(net.g(t, y, c))
        )
        more = {
            "noise": noise,
            "calculus": calculus,
            "tree": brownian("diagonal", False),
            "args": (c,),
            "steps": STEPS,
        }
        sol = ode.solve_sde(net.f, g, y0, TIMES, solver, adjoint=adjoint, **more)
        found.append(gradients(loss(sol.y), net, y0, c))
    same(*found, 1e-12)


@pytest.mark.parametrize(
    "case",
    [
        "heun",
        pytest.param("scalar", marks=pytest.mark.long),
        pytest.param("milstein_stratonovich", marks=pytest.mark.long),
        "additive_euler",
        pytest.param("sra1", marks=pytest.mark.long),
    ],
)
@torch.no_grad()
def test_reversible_errs_as_the_method_does(case):
    """Of the same equation on the same path, beside the method itself with many more steps."""
    net, (y0, c) = Both(), start()
    solver, noise, calculus, _ = CASES[case]
    g = net.additive if noise == "additive" else net.g
    path = brownian(noise, case == "sra1")
    more = {"noise": noise, "calculus": calculus, "tree": path, "args": (c,)}
    exact = ode.solve_sde(net.f, g, y0, TIMES, solver, 1024, **more).last
    for steps in (16, 64):
        error = [
            float(
                (
                    ode.solve_sde(net.f, g, y0, TIMES, solver, steps, adjoint=mode, **more).last
                    - exact
                ).norm()
            )
            for mode in (None, "reversible")
        ]
        assert error[1] < 1.5 * error[0]
    assert error[1] < 0.05


@pytest.mark.few(2)
@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
@pytest.mark.parametrize("tree", [False, True])
def test_noise_is_made_again_whatever_the_batch(adjoint, tree):
    """The gradient of a sample follows from its seed and id; a second pass over the same graph
    gives it again."""
    net, (y0, c) = Both(), start()

    def solve(y0, c, **ids):
        more = {
            "calculus": "stratonovich",
            "adjoint": adjoint,
            "tree": tree,
            "seed": 5,
            "args": (c,),
            **ids,
        }
        return ode.solve_sde(net.f, net.g, y0, TIMES, "stochastic_heun", 8, **more).last.sin().sum()

    value = solve(y0, c)
    whole = torch.autograd.grad(value, (y0, c), retain_graph=True)
    part = torch.autograd.grad(solve(y0[1:3], c[1:3], ids=[1, 2]), (y0, c))
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a[1:3], b[1:3], rtol=1e-12)
        assert bool((b[[0, 3]] == 0).all())
    again = torch.autograd.grad(value, (y0, c))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_any_form_of_state_and_constant_diffusions(adjoint):
    """A dict of samples, one system, and a tensor instead of a function: the same numbers as of one
    tensor."""
    a = torch.tensor(0.7, **WIDE, requires_grad=True)
    sigma = torch.tensor([0.2, 0.3, 0.4], **WIDE, requires_grad=True)
    y0 = start()[0]
    options = {
        "noise": "additive",
        "solver": "stochastic_heun",
        "steps": 10,
        "adjoint": adjoint,
        "seed": 0,
    }
    whole = ode.solve_sde(lambda t, y: -a * y.sin(), sigma, y0, **options).last
    want = torch.autograd.grad(whole.square().sum(), (y0, a, sigma))

    def f(t, y):
        return {k: -a * v.sin() for k, v in y.items()}

    parts = {"u": y0[:, :1], "v": y0[:, 1:]}
    diffusions = {"u": sigma[:1].expand(4, 1), "v": sigma[1:].expand(4, 2)}
    sol = ode.solve_sde(f, lambda t, y: diffusions, parts, **options)
    got = torch.autograd.grad(
        sol.last["u"].square().sum() + sol.last["v"].square().sum(), (y0, a, sigma)
    )
    same(got, want, 1e-12)
    single = y0.detach()[0].requires_grad_()
    one = ode.solve_sde(lambda t, y: -a * y.sin(), sigma, single, **options).last
    grad = torch.autograd.grad(one.square().sum(), single)
    assert torch.allclose(grad[0], want[0][0], rtol=1e-12)


def test_parameters_are_found_or_given():
    net, (y0, c) = Both(), start()
    found = gradients(loss(solved(net, "heun", y0, c, adjoint="backprop").y), net, y0, c)
    given = gradients(
        loss(solved(net, "heun", y0, c, adjoint="backprop", params=[net.w, net.b]).y), net, y0, c
    )
    same(given, found, 0.0)
    sol = solved(net, "heun", y0, c, adjoint="backprop", params=[net.w])
    assert torch.autograd.grad(loss(sol.y), net.b, allow_unused=True) == (None,)


def test_nothing_is_recorded_without_an_adjoint():
    net, (y0, c) = Both(), start()
    with pytest.warns(UserWarning, match="y0 asks for gradients"):
        assert not solved(net, "heun", y0, c).y.requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad():
        quiet = solved(net, "heun", y0, c, adjoint="backprop")
        assert not quiet.y.requires_grad
        reversible = solved(net, "heun", y0, c, adjoint="reversible")
    assert torch.equal(reversible.y, solved(net, "heun", y0, c, adjoint="reversible").y.detach())


@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_counts_and_failures(adjoint):
    """The look for parameters is counted; a sample that leaves the finite numbers is a status, and
    leaves others alone."""
    y0 = torch.tensor([[0.1], [3.0]], **WIDE, requires_grad=True)
    options = {
        "noise": "additive",
        "solver": "euler_maruyama",
        "steps": 12,
        "adjoint": adjoint,
        "seed": 0,
    }
    sol = ode.solve_sde(lambda t, y: y**9, 0.1, y0, (0.0, 1.0), **options)
    assert sol.status == ["ok", "diverged"]
    assert sol.nfe[0] == 12 * (2 if adjoint == "reversible" else 1) + 1
    assert int(sol.steps[0]) == 12
    (grad,) = torch.autograd.grad(sol.last[0, 0], y0)
    assert bool(grad[0].isfinite())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"adjoint": "reversible"}, "calculus=.stratonovich."),
        ({"adjoint": "forward"}, "unknown adjoint"),
        ({"params": []}, "backprop"),
        ({"adjoint": "backprop", "params": [torch.ones(2)]}, "requires_grad"),
    ],
)
def test_what_cannot_be_used_is_said(given, said):
    net, (y0, c) = Both(), start()
    with pytest.raises(ode.OdesolveError, match=said):
        solved(net, "euler", y0, c, **given)


def test_gradients_need_a_grid_and_known_parameters():
    a, b = (torch.tensor(v, **WIDE, requires_grad=True) for v in (1.0, 2.0))
    y0 = start()[0]
    with pytest.raises(ode.OdesolveError, match="steps of one size"):
        ode.solve_sde(
            lambda t, y: -a * y,
            0.1,
            y0,
            solver="sra1",
            noise="additive",
            rtol=1e-2,
            adjoint="backprop",
        )
    late = lambda t, y: -a * y if float(t.max()) < 0.5 else -b * y
    sol = ode.solve_sde(late, 0.1, y0, noise="additive", steps=10, adjoint="backprop")
    with pytest.raises(ode.OdesolveError, match="params="):
        sol.last.sum().backward()


class Slope(nn.Module):
    """A network as a right-hand side."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, t, y):
        return torch.tanh(self.inner(y))


@pytest.mark.parametrize("adjoint", ["backprop", "continuous", "reversible"])
def test_modules_tell_their_parameters(adjoint):
    """Of two no evaluation is needed to find them; of one and a closure all are found."""
    f, g, y0 = Slope(), Slope(), start()[0]
    options = {"calculus": "stratonovich", "steps": 5, "adjoint": adjoint, "seed": 0}
    both = ode.solve_sde(f, g, y0, (0.0, 1.0), "stochastic_heun", **options)
    one = ode.solve_sde(f, lambda t, y: g(t, y), y0, (0.0, 1.0), "stochastic_heun", **options)
    assert torch.equal(one.nfe, both.nfe + 1)
    parameters = [*f.parameters(), *g.parameters()]
    found = [torch.autograd.grad(sol.last.square().sum(), parameters) for sol in (both, one)]
    assert all(float(p.norm()) > 0 for p in found[0])
    same(found[1], found[0], 0.0)
