"""Gradients through plans equal autograd's through the same rows read word by word."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import OdesolveError, paths
from odesolve.noise.keys import keys_of

from ..plan.literal import states
from .memory import peak

SOLVERS = (
    "ddim",
    "dpmpp_2m",
    "unipc_3",
    "heun",
    "rk4",
    "ab3",
    "dpmpp_2m_sde",
    "euler_ancestral_rf",
    "sa_solver",
)


class Net(torch.nn.Module):
    """A perceptron of (x, t) and a condition."""

    def __init__(self, dim=2, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.nn.Parameter(
            (torch.randn(shape, generator=generator) * 0.5).to(dtype)
        )
        self.a, self.b, self.c = draw(dim + 1, 8), draw(8), draw(8, dim)

    def forward(self, x, t, c=0.0):
        return torch.tanh(torch.cat([x, t[:, None].to(x)], 1) @ self.a + self.b) @ self.c + c


def start(batch=4):
    generator = torch.Generator().manual_seed(1)
    x, c, w = (torch.randn(batch, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    return x.requires_grad_(), c.requires_grad_(), w


def literal(model, plan, x, seed=5):
    keys = keys_of(len(x), seed, None, x.device)
    return states(
        plan,
        keys,
        x,
        lambda quantity, x, t: getattr(model, quantity)(x, t),
        model.functions.items(),
    )[plan.result]


def check(model, plan, x, wanted, weights, **options):
    ours = ode.sample(model, state=x, plan=plan, seed=5, adjoint="backprop", **options)
    expected = literal(model, plan, x)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        *(torch.autograd.grad((weights * y).sum(), wanted) for y in (ours, expected)), strict=True
    ):
        assert float((a - b).abs().max()) < 1e-10 * float(b.abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_start_parameters_and_conditions(solver, predicts):
    x, c, w = start()
    model = ode.Model(Net(), paths.VP(), predicts, cond={"c": c})
    check(model, ode.plan(solver, model.path, 6, "karras"), x, [x, c, *model.net.parameters()], w)


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_guidance(rescale):
    x, c, w = start()
    uncond = torch.zeros_like(c).requires_grad_()
    plain = ode.Model(Net(), paths.Linear(), "velocity")
    model = plain.guided(3.0, {"c": c}, {"c": uncond}, rescale=rescale)
    plan = ode.plan("dpmpp_2m", model.path, 5)
    wanted = [x, c, uncond, *model.net.parameters()]
    ours = ode.sample(model, state=x, plan=plan, adjoint="backprop")
    expected = literal(model, plan, x)
    for a, b in zip(
        *(torch.autograd.grad((w * y).sum(), wanted) for y in (ours, expected)), strict=True
    ):
        assert float((a - b).abs().max()) < 1e-10 * float(b.abs().max())


def test_steps_of_langevin_dynamics():
    """Their sizes depend on the norms of the score and the noise, and so do the gradients."""
    x, c, w = start()
    model = ode.Model(Net(), paths.VE(), "noise", cond={"c": c})
    check(
        model, ode.plan("annealed_langevin", model.path, 3), x, [x, c, *model.net.parameters()], w
    )


def test_learned_variances():
    """The network's second half scales the noise; central differences are the reference."""
    x, _, w = start()

    def net(x, t):
        return torch.cat([torch.tanh(x), torch.sin(x).flip(1)], 1)

    model = ode.Model(net, paths.Discrete.ddpm(), "noise", learned_variance=True)
    run = lambda x: ode.sample(
        model, state=x, solver="ddpm", steps=4, seed=3, variance="learned", adjoint="backprop"
    )
    assert torch.autograd.gradcheck(lambda x: (w * run(x)).sum(1), x, atol=1e-7, rtol=1e-6)


def test_a_function_in_a_closure():
    x, _, w = start()
    k = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    model = ode.Model(lambda x, t: torch.tanh(k * x), paths.VP(), "data")
    check(model, ode.plan("dpmpp_2m", model.path, 5), x, [x, k], w)


def test_noise_is_scaled_with_gradients():
    """Given noise instead of a state, the gradient passes the scale of the first level."""
    x, _, _ = start()
    model = ode.Model(Net(), paths.EDM(), "data")
    y = ode.sample(model, x, "ddim", 4, "karras", adjoint="backprop")
    (g,) = torch.autograd.grad(y.sum(), x)
    state = (x.detach() * model.path.start_std(model.path.t_noise)).requires_grad_()
    y = ode.sample(model, state=state, solver="ddim", steps=4, grid="karras", adjoint="backprop")
    (of_state,) = torch.autograd.grad(y.sum(), state)
    torch.testing.assert_close(
        g, of_state * model.path.start_std(model.path.t_noise), rtol=1e-13, atol=0
    )


def test_the_last_calls_alone():
    """DRaFT-K: the gradient of the last K calls, with what came before held fixed."""
    x, c, w = start()
    model = ode.Model(Net(), paths.VP(), "noise", cond={"c": c})
    parameters = list(model.net.parameters())
    plan = ode.plan("ddim", model.path, 6)
    y = ode.sample(model, state=x, plan=plan, adjoint="backprop", last=2)
    assert torch.equal(y.detach(), ode.sample(model, state=x.detach(), plan=plan))
    ours = torch.autograd.grad((w * y).sum(), [*parameters, x], allow_unused=True)
    assert ours[-1] is None
    with torch.no_grad():
        middle = list(ode.iterate(model, state=x, plan=plan))[3].x
    rest = ode.plan("ddim", model.path, grid=plan.grid[4:])
    expected = torch.autograd.grad((w * literal(model, rest, middle)).sum(), parameters)
    for a, b in zip(ours, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    whole = ode.sample(model, state=x, plan=plan, adjoint="backprop", last=99)
    full = ode.sample(model, state=x, plan=plan, adjoint="backprop")
    pair = [torch.autograd.grad(y.sum(), parameters) for y in (whole, full)]
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_parameters_that_are_given():
    x, _, _ = start()
    model = ode.Model(Net(), paths.VP(), "noise")
    y = ode.sample(model, x, "ddim", 3, adjoint="backprop", params=[model.net.c])
    y.sum().backward()
    assert model.net.c.grad is not None
    assert model.net.a.grad is None


def test_half_precision_networks():
    """The state is float32, the network bfloat16, and its gradients come in its own type."""
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = ode.Model(Net(dtype=torch.bfloat16), paths.VP(), "noise")
    y = ode.sample(model, x, "dpmpp_2m", 4, "karras", adjoint="backprop")
    assert torch.equal(y.detach(), ode.sample(model, x.detach(), "dpmpp_2m", 4, "karras"))
    y.square().sum().backward()
    assert x.grad.dtype == torch.float32
    assert model.net.a.grad.dtype == torch.bfloat16
    assert bool(x.grad.isfinite().all())


def test_memory_is_that_of_one_call_and_the_states():
    """A network whose activations are 40 times the state: two states a call are added, and no
    activations."""
    wide = torch.nn.Sequential(
        torch.nn.Linear(50, 2000), torch.nn.Tanh(), torch.nn.Linear(2000, 50)
    ).double()

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = wide

        def forward(self, x, t):
            return self.net(x)

    model, x = ode.Model(Wide(), paths.VP(), "noise"), torch.randn(100, 50, dtype=torch.float64)

    def run(steps):
        return lambda: ode.sample(model, x, "dpmpp_2m", steps, adjoint="backprop").sum().backward()

    run(10)()
    wide.zero_grad()
    short, long = peak(run(10)), peak(run(30))
    assert long - short < 20 * 3.1 * x.nbytes


def test_what_cannot_be_used():
    x, _, _ = start()
    model = ode.Model(Net(), paths.VP(), "noise")
    for options, message in (
        ({"adjoint": "continuous"}, "unknown adjoint"),
        ({"last": 2}, "are for gradients"),
        ({"adjoint": "backprop", "last": 0}, "at least 1"),
        ({"adjoint": "backprop", "log_prob": True}, "log_prob="),
    ):
        with pytest.raises(OdesolveError, match=message):
            ode.sample(model, x, "ddim", 3, **options)
    classified = model.classifier_guided(lambda x, t: -x.square().sum(1))
    with pytest.raises(OdesolveError, match="classifier"):
        ode.sample(classified, x, "ddim", 3, adjoint="backprop")
