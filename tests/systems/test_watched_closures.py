"""What forward differentiation watches from outside: a number in a closure, a condition, an event,
a time."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations import torchdiffeq as adapter

X = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
VP = ode.paths.VP()
T = torch.tensor([0.0, 1.0], dtype=torch.float64)


def model(k):
    return ode.Model(lambda x, t: k * torch.tanh(x), VP, "noise")


def conditioned(k):
    return ode.Model(lambda x, t, k: k * torch.tanh(x), VP, "noise", cond={"k": k.expand(2, 1)})


def fall(k):
    return lambda t, y: -k * y


CALLS = {
    "log_prob, steps": lambda k: ode.log_prob(model(k), X, steps=4).value,
    "log_prob, steps, backprop": lambda k: (
        ode.log_prob(model(k), X, steps=4, adjoint="backprop").value
    ),
    "log_prob, ddim": lambda k: ode.log_prob(model(k), X, steps=4, solver="ddim").value,
    "log_prob, plan": lambda k: ode.log_prob(model(k), X, steps=4, of="plan").value,
    "elbo": lambda k: ode.elbo(model(k), X, steps=4, seed=1).value,
    "sample": lambda k: ode.sample(model(k), X, solver="ddim", steps=4),
    "sample, backprop": lambda k: ode.sample(
        model(k), X, solver="ddim", steps=4, adjoint="backprop"
    ),
    "sample, condition": lambda k: ode.sample(
        conditioned(k), X, solver="ddim", steps=4, adjoint="backprop"
    ),
    "sample, window": lambda k: ode.sample(
        model(k), X, solver="ddim", steps=4, executor=ode.Window()
    ),
    "sample, inpainted": lambda k: ode.sample(
        model(1.0).inpainted(k * X, torch.ones_like(X)), X, steps=4
    ),
    "event": lambda k: (
        ode.solve(fall(1.0), X, T, events=ode.Event(lambda t, y: y[:, 0] - k * 0.1)).t
    ),
    "odeint, times": lambda k: adapter.odeint(fall(1.0), X, torch.stack([0 * k, k])),
    "odeint_event, f": lambda k: adapter.odeint_event(
        fall(k), X.abs(), T[0], event_fn=lambda t, y: y[0, 0] - 0.1
    )[0],
    "odeint_event, level": lambda k: adapter.odeint_event(
        fall(1.0), X.abs(), T[0], event_fn=lambda t, y: y[0, 0] - k / 9
    )[0],
}


@pytest.mark.few(5)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("how", CALLS)
def test_tangents_of_closures_are_refused(how):
    k = torch.tensor(0.9, dtype=torch.float64)
    assert bool(torch.as_tensor(CALLS[how](k)).isfinite().all())
    with forward_ad.dual_level(), pytest.raises(OdesolveError, match="forward differentiation"):
        CALLS[how](forward_ad.make_dual(k, torch.ones_like(k)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_of_closures_are_refused():
    with pytest.raises(OdesolveError, match=r"torch\.func"):
        torch.func.grad(lambda k: CALLS["elbo"](k).sum())(torch.tensor(0.9, dtype=torch.float64))
    with pytest.raises(OdesolveError, match=r"torch\.func"):
        torch.func.grad(lambda k: adapter.odeint(fall(k), X, T)[-1].sum())(
            torch.tensor(0.9, dtype=torch.float64)
        )


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)

    def forward(self, x, t):
        return self.last(torch.tanh(self.first(torch.cat([x, t[:, None].to(x)], 1))))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_networks_say_what_to_set():
    compiled = torch.compile(Net(), backend="aot_eager")
    with pytest.raises(OdesolveError, match="donated_buffer = False"):
        ode.log_prob(ode.Model(compiled, VP, "noise"), X.float())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_what_is_set_for_compiled_networks_is_enough():
    x, net = X.float(), Net()
    want = ode.log_prob(ode.Model(net, VP, "noise"), x).value
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        got = ode.log_prob(ode.Model(torch.compile(net, backend="aot_eager"), VP, "noise"), x).value
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
