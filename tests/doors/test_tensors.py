"""Noise, data and answers that are no dense tensors of real numbers, at every function that takes
or asks for one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.integrations.k_diffusion import sampling
from odesolve.integrations.torchdiffeq import odeint
from tests.rows import rows

VP = paths.VP()
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
MODEL = ode.Model(lambda x, t: 0.5 * x, VP, "noise")
SIGMAS, TIMES = torch.tensor([3.0, 1.0, 0.1]), torch.tensor([0.0, 1.0])

with warnings.catch_warnings():  # prototypes and deprecations of torch
    warnings.simplefilter("ignore")
    NESTED, QUANTIZED = (
        torch.nested.nested_tensor(list(Z)),
        torch.quantize_per_tensor(Z, 0.1, 0, torch.qint8),
    )
    LOOSE = {
        "sparse": Z.to_sparse(),
        "csr": Z.to_sparse_csr(),
        "nested": NESTED,
        "quantized": QUANTIZED,
    }
    LOOSE |= {"mkldnn": Z.to_mkldnn(), "meta": Z.to("meta")}


def taking(x):
    return {
        "sample": lambda: ode.sample(MODEL, x, "ddim", 2),
        "state": lambda: ode.sample(MODEL, state=x, solver="ddim", steps=2),
        "iterate": lambda: list(ode.iterate(MODEL, x, "ddim", 2)),
        "Sampler": lambda: ode.Sampler(MODEL, "ddim", 2)(x),
        "invert": lambda: ode.invert(MODEL, x, steps=2),
        "sdedit": lambda: ode.sdedit(MODEL, x, 0.5, steps=2),
        "interpolate": lambda: ode.interpolate(MODEL, x, x, [0.5], steps=2),
        "slerp": lambda: ode.slerp(x, x, 0.5),
        "log_prob": lambda: ode.log_prob(MODEL, x, steps=4),
        "elbo": lambda: ode.elbo(MODEL, x, steps=4),
        "langevin": lambda: ode.langevin(lambda x: -x, x, 0.1, 2),
        "mala": lambda: ode.mala(lambda x: -(x * x).sum(1), x, 0.1, 2),
        "solve": lambda: ode.solve(lambda t, y: -y, x),
        "solve_sde": lambda: ode.solve_sde(lambda t, y: -y, 1.0, x, noise="additive", steps=2),
        "dequantise": lambda: ode.dequantise(x),
        "k-diffusion": lambda: sampling.sample_euler(lambda x, s: x, x, SIGMAS, disable=True),
        "k-diffusion by tolerance": lambda: sampling.sample_dpm_adaptive(
            lambda x, s: x, x, 0.1, 3.0, disable=True
        ),
        "odeint": lambda: odeint(lambda t, y: -y, x, TIMES),
        "odeint on a grid": lambda: odeint(lambda t, y: -y, x, TIMES, method="rk4"),
    }


SHAPES_ONLY = ("Sampler", "slerp")  # what looks at no value runs on tensors that have none


@rows("door", taking(Z))
@rows("kind", LOOSE)
def test_starts(refused, door, kind):
    if kind == "meta" and door in SHAPES_ONLY:
        assert taking(LOOSE[kind])[door]().is_meta
        return
    refused(taking(LOOSE[kind])[door])


@rows(
    "door", [d for d in taking(Z) if d not in ("solve", "solve_sde", "odeint", "odeint on a grid")]
)
@rows(
    "value",
    [Z.to(torch.complex64), np.zeros((2, 3)), "ab", None, 2],
    ids=["complex", "numpy", "text", "none", "number"],
)
def test_starts_that_are_no_real_tensors(refused, door, value):
    refused(taking(value)[door])


def asking(out):
    field = lambda t, y: out(y)
    network = ode.Model(lambda x, t: out(x), VP, "noise")
    return {
        "sample": lambda: ode.sample(network, Z, "ddim", 2),
        "iterate": lambda: list(ode.iterate(network, Z, "ddim", 2)),
        "Window": lambda: ode.sample(network, Z, "ddim", 2, executor=ode.Window()),
        "Parareal": lambda: ode.sample(network, Z, "ddim", 4, executor=ode.Parareal()),
        "Sampler": lambda: ode.Sampler(network, "ddim", 2)(Z),
        "Model.data": lambda: network.data(Z, 0.5),
        "log_prob": lambda: ode.log_prob(network, Z, steps=4),
        "log_prob by tolerance": lambda: ode.log_prob(network, Z),
        "elbo": lambda: ode.elbo(network, Z, steps=4),
        "solve of a model": lambda: ode.solve(network, Z, (1.0, 0.1)),
        "solve": lambda: ode.solve(field, Z),
        "solve in steps": lambda: ode.solve(field, Z, steps=3, solver="rk4"),
        "drift": lambda: ode.solve_sde(field, 1.0, Z, noise="additive", steps=2),
        "diffusion": lambda: ode.solve_sde(lambda t, y: -y, field, Z, steps=2),
        "langevin": lambda: ode.langevin(out, Z, 0.1, 2),
        "score of mala": lambda: ode.mala(lambda x: -(x * x).sum(1), Z, 0.1, 2, score=out),
        "density of mala": lambda: ode.mala(
            lambda x: out((x * x).sum(1)), Z, 0.1, 2, score=lambda x: -x
        ),
        "k-diffusion": lambda: sampling.sample_euler(lambda x, s: out(x), Z, SIGMAS, disable=True),
        "odeint": lambda: odeint(field, Z, TIMES),
        "odeint on a grid": lambda: odeint(field, Z, TIMES, method="rk4"),
    }


def quietly(make):
    def out(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(x)

    return out


ANSWERS = {
    "sparse": lambda x: x.detach().to_sparse(),
    "nested": quietly(lambda x: torch.nested.nested_tensor(list(x.detach()))),
    "quantized": quietly(lambda x: torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)),
    "mkldnn": lambda x: x.detach().to_mkldnn(),
    "meta": lambda x: x.to("meta"),
    "whole": lambda x: x.long(),
    "truth": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "none": lambda x: None,
    "float8": lambda x: x.to(torch.float8_e4m3fn),
}


@rows("door", asking(torch.clone))
@rows("kind", ANSWERS)
def test_answers(refused, door, kind):
    refused(asking(ANSWERS[kind])[door])


@rows("kind", ["sparse", "nested", "quantized", "mkldnn"])
def test_a_network_that_turns_to_another_kind_later(refused, kind):
    """From its third call on, when it is known to be harmless and is looked at in the fewest
    lines."""
    calls = []

    def net(x, t):
        calls.append(t)
        return ANSWERS[kind](x) if len(calls) > 4 else 0.5 * x

    refused(
        lambda: ode.sample(ode.Model(net, VP, "noise"), Z, "ddim", 8), "what the network returned"
    )


@rows("kind", [*LOOSE, "whole", "none", "text"])
@rows("place", ["model_output", "sample"])
def test_steps_of_the_scheduler(refused, kind, place):
    scheduler = OdesolveScheduler(solver="dpmpp_2m")
    scheduler.set_timesteps(4)
    given = {"model_output": Z, "sample": Z} | {
        place: {**LOOSE, "whole": Z.long(), "none": None, "text": "a"}[kind]
    }
    refused(
        lambda: scheduler.step(timestep=scheduler.timesteps[0], **given),
        "model_output" if kind == "meta" else place,
    )


GRADIENTS = {
    "sample": lambda x: ode.sample(MODEL, x, "ddim", 2),
    "state": lambda x: ode.sample(MODEL, state=x, solver="ddim", steps=2),
    "full": lambda x: ode.sample(MODEL, x, "ddim", 2, full=True),
    "iterate": lambda x: list(ode.iterate(MODEL, x, "ddim", 2)),
    "Sampler": lambda x: ode.Sampler(MODEL, "ddim", 2)(x),
    "invert": lambda x: ode.invert(MODEL, x, steps=2),
    "interpolate": lambda x: ode.interpolate(MODEL, x, x, [0.5], steps=2),
    "log_prob": lambda x: ode.log_prob(MODEL, x, steps=4),
    "elbo": lambda x: ode.elbo(MODEL, x, steps=4),
    "langevin": lambda x: ode.langevin(lambda x: -x, x, 0.1, 2),
    "mala": lambda x: ode.mala(lambda x: -(x * x).sum(1), x, 0.1, 2),
    "solve": lambda x: ode.solve(lambda t, y: -y, x),
    "solve_sde": lambda x: ode.solve_sde(lambda t, y: -y, 1.0, x, noise="additive", steps=2),
}


@rows("door", GRADIENTS)
def test_a_gradient_that_is_dropped_is_said_once(door):
    with pytest.warns(UserWarning, match="asks for gradients, and this solve makes none") as told:
        GRADIENTS[door](Z.clone().requires_grad_())
    assert len(told) == 1
    with torch.no_grad():
        GRADIENTS[door](Z.clone().requires_grad_())


@rows("door", GRADIENTS)
def test_a_graph_that_would_be_cut_is_refused(door):
    with pytest.raises(OdesolveError, match="computed from tensors that ask for gradients"):
        GRADIENTS[door](2 * Z.clone().requires_grad_())


def test_gradients_that_are_made_are_not_warned_of():
    x = Z.clone().requires_grad_()
    assert ode.sample(MODEL, x, "ddim", 2, adjoint="backprop").requires_grad
    assert ode.solve(lambda t, y: -y, x, steps=2, solver="rk4", adjoint="backprop").y.requires_grad
