"""Functions and networks that read one time for the whole batch: refused where times differ, right
under one clock."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve.integrations.k_diffusion.likelihood import log_likelihood
from odesolve.likelihood import clock, dependence
from odesolve.likelihood.flow import PathFlow
from tests.products import LONG, diagonal, product
from tests.rows import rows

TWO = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
READS = {
    "t[0]": lambda t: t[0],
    "t.reshape(-1)[0]": lambda t: t.reshape(-1)[0],
    "t[-1]": lambda t: t[-1],
    "t.mean()": lambda t: t.mean(),
    "t.max()": lambda t: t.max(),
    "t.min()": lambda t: t.min(),
    "the middle": lambda t: t.reshape(-1)[t.numel() // 2],
    "t.median()": lambda t: t.median(),
    "float(t[0])": lambda t: float(t.reshape(-1)[0]),
    "the only time": lambda t: t.unique().item(),
}
# The others' networks are refused below.
SOME = [READS[name] for name in ("t[0]", "t.mean()", "float(t[0])")]
MODELS = {
    "VP": (ode.paths.VP(), "noise"),
    "EDM": (ode.paths.EDM(), "edm"),
    "flow": (ode.paths.Linear(), "velocity"),
    "flipped": (ode.paths.Linear().flipped(), "velocity"),
    "discrete": (ode.paths.Discrete.ddpm(), "noise"),
}
WAYS = {"nodes": {}, "picard": {"solver": "picard"}, "along": {"divergence": "along"}}
REFUSED = "by the times of other samples"
A = torch.tensor([[0.3, -1.0], [1.0, -0.5]], dtype=torch.float64)


def velocity(t, x):
    t = torch.as_tensor(t, dtype=x.dtype)
    return (x @ A.T.to(x.dtype)) * torch.cos(3 * t) + torch.sin(2 * t) * x**3 / (1 + x**2)


def data(n):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def one_clock(model, read):
    """The model with a network that reads one time for all."""
    net = lambda x, t, **cond: model.net(
        x, torch.as_tensor(read(t), dtype=t.dtype).expand(len(x)), **cond
    )
    return ode.Model(
        net, model.path, model.predicts, time=model.time, sigma_data=model.reading.sigma_data
    )


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("read", "batch"),
    diagonal(list(READS.values()) if LONG else SOME, [2, 3, 8]),
)
def test_functions_of_one_clock(read, batch):
    f, x = lambda t, x: velocity(read(t), x), data(batch)
    want = ode.log_prob(velocity, x).value
    with pytest.raises(ode.OdesolveError, match=REFUSED) as e:
        ode.log_prob(f, x)
    assert 'control="batch"' in str(e.value)
    found = ode.log_prob(f, x, control="batch")
    torch.testing.assert_close(found.value, want, atol=1e-3, rtol=0)
    assert found.ok
    # One time for all on a grid, and one sample alone.
    torch.testing.assert_close(
        ode.log_prob(f, x, steps=20).value, ode.log_prob(velocity, x, steps=20).value
    )
    torch.testing.assert_close(ode.log_prob(f, x[:1]).value, want[:1], atol=1e-3, rtol=0)


def test_a_function_of_a_number():
    for f in (
        lambda t, x: velocity(float(t), x),
        lambda t, x: velocity(torch.ones(3, dtype=x.dtype) @ t.expand(3) / 3, x),
    ):
        x = data(5)
        found = ode.log_prob(f, x, control="batch")
        torch.testing.assert_close(found.value, ode.log_prob(velocity, x).value, atol=1e-3, rtol=0)


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("way", "name", "batch"),
    product(list(WAYS.values()), list(MODELS), [1, 2, 5]),
)
def test_networks_of_one_clock(name, way, batch):
    path, predicts = MODELS[name]
    model, x = TWO.model(path, predicts), TWO.sample(batch, seed=1)
    alone = batch == 1 and "divergence" in way
    for read in READS.values():
        if alone:  # no other times in its calls
            break
        with pytest.raises(ode.OdesolveError, match=REFUSED):
            ode.log_prob(one_clock(model, read), x, **way, tol=0.1)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "way"),
    diagonal(list(MODELS) if LONG else ["flow", "EDM"], ["nodes", "along"]),
)
def test_networks_of_one_clock_are_right_on_one_clock(name, way):
    path, predicts = MODELS[name]
    model, x = TWO.model(path, predicts), TWO.sample(4, seed=1)
    want = ode.log_prob(model, x, **WAYS[way], trace="exact")
    for read in (READS["t[0]"], READS["t.mean()"], lambda t: float(t)):
        found = ode.log_prob(one_clock(model, read), x, **WAYS[way], trace="exact", control="batch")
        torch.testing.assert_close(found.value, want.value, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.prior_mismatch, want.prior_mismatch, atol=1e-3, rtol=1e-3)
        assert found.ok
    one = ode.log_prob(model, x[:1], **WAYS[way], control="batch")
    torch.testing.assert_close(one.value, want.value[:1], atol=1e-3, rtol=0)


def test_a_part_of_one_clock():
    """A network with times of its own, in a wrapper that scales by one for all."""
    model, x = TWO.model(ode.paths.VP(), "noise"), TWO.sample(5, seed=1)
    for read in READS.values():
        net = lambda x, t, read=read: (
            TWO.noise(x, model.path, t) * (1.0 + 0.2 * torch.as_tensor(read(t)))
        )
        for way in WAYS.values():
            with pytest.raises(ode.OdesolveError, match=REFUSED):
                ode.log_prob(ode.Model(net, model.path, "noise"), x, **way)


def network(dtype, clocked=True, norm=False):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (
                torch.nn.Linear(3, 64),
                torch.nn.Linear(64, 64),
                torch.nn.Linear(64, 2),
            )
            self.norm = torch.nn.BatchNorm1d(64) if norm else torch.nn.Identity()

        def forward(self, x, t, label=None):
            t = t.to(x.dtype) if clocked else torch.zeros_like(t, dtype=x.dtype)
            h = torch.nn.functional.silu(self.norm(self.a(torch.cat([x, t[:, None]], 1))))
            h = h if label is None else h + 0.1 * label[:, None].to(h)
            return self.c(torch.nn.functional.silu(self.b(h)))

    return Net().to(dtype).eval()


PATHS = {"VP": ode.paths.VP(), "flow": ode.paths.Linear(), "discrete": ode.paths.Discrete.ddpm()}


@rows(
    ("dtype", "clocked", "name", "batch"),
    product([torch.float64, torch.float32, torch.bfloat16], [True, False], list(PATHS), [1, 2, 7]),
)
def test_right_networks_pass(dtype, clocked, name, batch):
    """In every precision, whose rows a batch of another size rounds another way, with conditions
    and guidance."""
    net, x = (
        network(dtype, clocked, norm=True),
        data(batch).to(torch.promote_types(dtype, torch.float32)),
    )
    label = torch.arange(batch)
    model = ode.Model(net, PATHS[name], "velocity", cond={"label": label})
    guided = ode.Model(net, PATHS[name], "velocity").guided(
        2.0, {"label": label}, {"label": 0 * label}, interval=(0.1, 0.6)
    )
    for whose in (model, guided):
        flow = PathFlow(whose, None, None, x)
        ways = ({}, {"batched": True, "mixed": True}, {"mixed": True})
        spent = [int(torch.as_tensor(dependence.of_flow(flow, x, **way)).max()) for way in ways]
        each = whose.evaluations_per_call
        assert spent[1] - spent[0] in (clock.CALLS * each, 2 * clock.CALLS * each)


class Rounding(torch.nn.Module):
    """Whose rows depend on the size of the batch, as a half-precision network's do."""

    def forward(self, x, t):
        return torch.tanh(x) * (1 + 5e-3 * math.sin(len(x)))


def test_rounding_by_the_size_of_the_batch_is_no_clock():
    x = data(6)
    found = ode.log_prob(
        ode.Model(Rounding(), ode.paths.Linear(), "velocity"), x, divergence="along", tol=0.5
    )
    assert found.ok


def test_functions_that_hold_the_whole_batch_pass():
    """A tensor of the batch in a closure: calls on another number of rows fail, and none is made
    for the look."""
    x = data(4)
    shift = 0.1 * data(4)
    f = lambda t, x: shift * torch.cos(t) - 0.2 * x
    assert ode.log_prob(f, x, control="sample").ok


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_look_is_counted(way):
    calls = []

    def net(x, t):
        calls.append(len(x))
        return TWO.noise(x, ode.paths.VP(), t)

    for batch in (1, 2, 3):
        calls.clear()
        found = ode.log_prob(
            ode.Model(net, ode.paths.VP(), "noise"), TWO.sample(batch, seed=1), trace="exact", **way
        )
        assert int(found.nfe.sum()) == sum(calls)


def test_what_one_clock_refuses():
    model, x = TWO.model(ode.paths.VP(), "noise"), TWO.sample(3, seed=1)
    with pytest.raises(ode.OdesolveError, match="asks for all times at once"):
        ode.log_prob(model, x, solver="picard", control="batch")
    with pytest.raises(ode.OdesolveError, match="unknown control"):
        ode.log_prob(model, x, control="batches")


@pytest.mark.parametrize("adjoint", ["continuous"] + ["backprop"] * LONG)
def test_gradients_on_one_clock(adjoint):
    x, want = data(3).requires_grad_(), data(3).requires_grad_()
    f = lambda t, x: velocity(t.reshape(-1)[0], x)
    (found,) = torch.autograd.grad(
        ode.log_prob(f, x, adjoint=adjoint, control="batch", tol=1e-6).value.sum(), x
    )
    (exact,) = torch.autograd.grad(
        ode.log_prob(velocity, want, adjoint=adjoint, tol=1e-6).value.sum(), want
    )
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


@pytest.mark.few(2)
@pytest.mark.parametrize("door", ["bits_per_dim", "jobs", "distributed", "k_diffusion"])
def test_every_door(door, tmp_path):
    """All ways to log-densities refuse them in one sentence, and take the cure that it names."""
    model, x = TWO.model(ode.paths.EDM(), "data"), TWO.sample(4, seed=1)
    net = lambda x, t, **cond: model.net(x, t[0].expand(len(x)), **cond)
    wrong = ode.Model(net, model.path, "data", time=model.time)
    if door == "jobs":
        call = lambda whose, k, **how: ode.jobs.log_prob(
            whose, x, out=tmp_path / k, progress=False, **how
        ).load()["nats"]
    elif door == "bits_per_dim":
        whole = (4 + x).round().clamp(0, 7).int()
        call = lambda whose, k, **how: (
            ode.bits_per_dim(whose, whole, levels=8, low=-4.5, high=3.5, seed=0, **how).value
        )
    elif door == "distributed":
        call = lambda whose, k, **how: ode.distributed.log_prob(whose, x, **how).value
    else:
        call = lambda whose, k, **how: log_likelihood(
            whose.net, x, 0.002, 80.0, trace="exact", **how
        )[0]
    with pytest.raises(ode.OdesolveError, match=REFUSED):
        call(wrong, "a")
    found, want = call(wrong, "b", control="batch"), call(model, "c")
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(want), atol=2e-3, rtol=0)


@pytest.mark.parametrize("adjoint", ["backprop", "continuous"])
def test_flows_in_training(adjoint):
    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, t, x):
            return self.rate * velocity(t.reshape(-1)[0], x)

    with pytest.raises(ode.OdesolveError, match=REFUSED):
        ode.objectives.MaximumLikelihood(Field(), adjoint=adjoint)(data(4))
    f = Field()
    ode.objectives.MaximumLikelihood(f, adjoint=adjoint, control="batch")(data(4)).loss.backward()
    assert f.rate.grad is not None
