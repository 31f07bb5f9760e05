"""The public functions, each with a call that works and, argument by argument, what cannot be meant
there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

import odesolve as ode
from odesolve import distributed, jobs, objectives, paths, problems, trace, training
from odesolve.integrations import k_diffusion, torchdiffeq, torchsde
from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.integrations.k_diffusion import sampling
from odesolve.objectives import bridges, consistency, couplings, rectified, schroedinger, times

from . import kinds as of
from .kinds import Wrong


class Door(NamedTuple):
    """A function, arguments with which it works, and the wrong values of its arguments."""

    call: Callable[..., Any]
    given: Mapping[str, Any]
    wrong: Mapping[str, Wrong]
    works: bool = True


class Net(nn.Module):
    """A network of noise, with a parameter and room for a condition."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, y=None):
        return self.scale * x


class Decay(nn.Module):
    """A right-hand side with a parameter."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, t, y):
        return -self.rate * y


class Map(nn.Module):
    """A network of two times."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, r):
        return self.scale * x


VP, LINEAR, EDM = paths.VP(), paths.Linear(), paths.EDM()
NET = Net()
MODEL, STRAIGHT, TEACHER = (
    ode.Model(NET, VP, "noise"),
    ode.Model(NET, LINEAR, "velocity"),
    ode.Model(NET, EDM, "edm"),
)
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
PIXELS = torch.tensor([[1, 2, 3], [4, 5, 6]])
TIMES, SIGMAS = torch.tensor([0.0, 0.5]), torch.tensor([3.0, 1.0, 0.1])
PLAN = ode.plan("ddim", VP, 2)
ADJOINT, TRACE = of.name(none=True), of.name(also=(NET,))
SAMPLER = of.name(none=True, also=(VP,))
STEPS = of.whole(1, none=True, also=(10**6,))
SCALE = of.number(pairs=True, also=(torch.zeros(3, dtype=torch.bool), torch.zeros(2, 2), []))


def decay(t, y):
    return -y


def pull(x):
    return -x


def bell(x):
    return -0.5 * x.square().flatten(1).sum(1)


def denoised(x, sigma):
    return x / (1 + sigma[:, None] ** 2)


def fitted(**given):
    """A fit of a network of its own, a step long."""
    net = Net()
    return training.fit(
        objectives.Matching(ode.Model(net, VP, "noise")), **{"network": net, **given}
    )


def empty_folder() -> str:
    return tempfile.mkdtemp(prefix="doors-")


def job(call, **given):
    """A job in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return call(**{"out": str(Path(folder) / "job"), **given})


def scheduled(method: str, **given):
    """A method of a scheduler that has its timesteps."""
    scheduler = OdesolveScheduler(solver="ddim")
    scheduler.set_timesteps(4)
    return getattr(scheduler, method)(**given)


DRAWN = {"seed": of.seed(), "ids": of.ids(2)}
START = {
    "model": of.model(),
    "noise": of.tensor(shapes=True),
    "solver": SAMPLER,
    "steps": STEPS,
    "grid": of.grid(),
    **DRAWN,
    "dtype": of.dtype(),
    "device": of.device(),
}
RUN = {"model": MODEL, "noise": Z, "solver": "ddim", "steps": 2}
RULE = {"start": of.moment(none=True), "stop": of.moment(none=True)}
STEPPING = {
    "first_step": of.number(0, above=True, none=True),
    "max_steps": of.whole(),
    "max_calls": of.whole(none=True),
    "controller": of.nothing(False, 3, "a", {}, of.fn, ode.solve),
    "args": of.nothing(False, 3, "a", of.NAN, {}, of.fn),
    "adjoint": ADJOINT,
    "params": of.nothing(True, 3, "a", [3], [torch.ones(1)], {}, of.fn),
    "compact": of.switch(),
    "progress": of.switch(none=True),
}
WIDTH = {
    "levels": of.whole(2),
    "low": of.number(most=1.0),
    "high": of.number(-1.0, above=True),
}
DENSITY = {
    "t": of.span(none=True, inside=1.0),
    "trace": TRACE,
    "products": of.whole(),
    **DRAWN,
    "tol": of.number(0, above=True, none=True),
    "divergence": of.name(none=True),
    "max_calls": of.whole(none=True),
    "control": of.name(none=True),
    "adjoint": ADJOINT,
    "params": of.nothing(True, 3, "a", [3], {}, of.fn),
    "args": of.nothing(False, 3, "a", of.NAN, {}, of.fn),
    "batch": of.whole(none=True),
    "of": of.name(),
    "plan": of.nothing(True, 3, "ddim", {}, VP, of.fn),
    "check": of.switch(none=True),
    "steps": STEPS,
    "progress": of.switch(none=True),
}

SAMPLERS = {
    "sample": Door(
        ode.sample,
        RUN,
        {
            **START,
            "state": of.tensor(none=True).filter(lambda v: v is not None),
            "plan": of.nothing(True, 3, "ddim", {}, VP, of.fn, ode.plan("ddim", LINEAR, 2)),
            "executor": of.nothing(True, 3, "graph", {}, ode.Window, of.fn),
            "progress": of.switch(none=True),
            "batch": of.whole(none=True),
            "callback": of.function(none=True),
            "full": of.switch(),
            "log_prob": of.name(also=(2,)).filter(lambda v: v is not True and v is not None),
            "adjoint": ADJOINT,
            "eta": of.number(0),
            "afs": of.switch(),
            "tree": of.switch(),
        },
    ),
    "sample with a density": Door(
        ode.sample, {**RUN, "log_prob": True, "seed": 0}, {"trace": TRACE, "products": of.whole()}
    ),
    "sample with gradients": Door(
        ode.sample,
        {**RUN, "adjoint": "backprop"},
        {"params": of.nothing(True, 3, "a", [3], {}, of.fn), "last": of.whole(none=True)},
    ),
    "iterate": Door(lambda **k: list(ode.iterate(**k)), RUN, {**START, "stats": of.switch()}),
    "Sampler": Door(
        ode.Sampler,
        {"model": MODEL, "solver": "ddim", "steps": 2},
        {
            **{k: START[k] for k in ("model", "solver", "steps", "grid")},
            "dtype": of.dtype(none=False),
            "batch": of.whole(none=True),
            "executor": of.nothing(True, 3, "graph", {}, of.fn),
        },
    ),
    "a Sampler": Door(
        lambda **k: ode.Sampler(MODEL, "ddim", 2)(**k),
        {"noise": Z},
        {"noise": of.tensor(shapes=True, unread=True), **DRAWN},
    ),
    "invert": Door(
        ode.invert,
        {"model": MODEL, "x": Z, "steps": 2},
        {
            "model": of.model(),
            "x": of.tensor(),
            "solver": of.name(none=True),
            "steps": STEPS,
            "batch": of.whole(none=True),
        },
    ),
    "sdedit": Door(
        ode.sdedit,
        {"model": MODEL, "guide": Z, "steps": 2, "t": 0.5},
        {
            "model": of.model(),
            "guide": of.tensor(),
            "t": of.moment(none=True),
            "solver": of.name(none=True),
            "steps": STEPS,
            **DRAWN,
        },
    ),
    "interpolate": Door(
        ode.interpolate,
        {"model": MODEL, "a": Z, "b": Z, "shares": [0.5], "steps": 2},
        {
            "model": of.model(),
            "a": of.tensor(),
            "b": of.tensor(),
            "shares": of.nothing(False, "a", 1j, [of.NAN], [2.0], [[0.5]], ["a"], {}, of.fn, True),
            "solver": of.name(none=True),
            "steps": STEPS,
        },
    ),
    "slerp": Door(
        ode.slerp, {"a": Z, "b": Z, "share": 0.5}, {"share": of.number(0, 1, pairs=True)}
    ),
    "resume": Door(
        ode.resume,
        {"model": MODEL, "saved": {}},
        {
            "model": of.model(),
            "saved": of.nothing(False, 3, "a", [], {}, of.fn, {"plan": 3}, {1: 2}),
        },
        works=False,
    ),
    "plan": Door(
        ode.plan,
        {"solver": "ddim", "path": VP, "steps": 2},
        {
            "solver": of.name(also=(VP,)),
            "path": of.path(),
            "steps": STEPS,
            "grid": of.grid(rises=True),
            **{flag: of.switch() for flag in ("afs", "closed", "reverse", "snap", "tree")},
            "eta": of.number(0),
        },
    ),
    "default_plan": Door(
        ode.default_plan,
        {"path": VP, "nfe": 4},
        {"path": of.path(), "nfe": of.whole(none=True), "grid": of.grid(rises=True)},
    ),
    "load_plan": Door(
        ode.load_plan,
        {"text": PLAN.to_json()},
        {
            "text": of.nothing(False, 3, "", "a", "{}", "[]", b"\xff", {}, of.fn, of.NAN),
            "path": of.path(none=True),
        },
    ),
    "solver": Door(
        lambda **k: ode.solver(**k)(lambda *a: None),
        {"name": "doors", "order": 1, "evaluations": 1, "source": "here"},
        {
            "order": of.whole(0),
            "evaluations": of.whole(),
            "starters": of.whole(0),
            "stochastic": of.switch(),
        },
    ),
    "profile": Door(
        ode.profile,
        {
            "model": MODEL,
            "solvers": ["ddim"],
            "nfe": 2,
            "noise": (2, 3),
            "reference": Z,
            "timing": 0,
        },
        {
            "model": of.model(),
            "solvers": of.nothing(True, 3, ["nope"], [3], [], {}, of.NAN, of.fn),
            "nfe": of.whole(1).filter(lambda v: v != [1]),
            "grids": of.nothing(True, 3, ["nope"], [3], of.NAN, of.fn),
            "noise": of.tensor(shapes=True),
            "batch": of.whole(none=True),
            "seed": of.seed(none=False),
            "dtype": of.dtype(),
            "device": of.device(),
            "reference": of.tensor().filter(lambda v: v is not None),
            "data": of.tensor().filter(lambda v: v is not None),
            "tolerance": of.number(0, above=True),
            "limit": of.whole(),
            "timing": of.whole(0),
            "name": of.nothing(True, 3, 1.5, [], {}, of.fn, of.NAN),
            "resume": of.nothing(True, 3, 1.5, [], {}, of.fn, "", "a\0b"),
        },
    ),
    "check": Door(
        ode.check,
        {"model": MODEL, "noise": (4, 3), "seconds": 1.0},
        {
            "model": of.model(),
            "noise": of.shape(none=True),
            "seed": of.seed(none=False),
            "seconds": of.number(0, above=True),
        },
    ),
    "check of data": Door(
        ode.check,
        {"model": MODEL, "data": torch.randn(8, 3), "seconds": 1.0},
        {
            "data": of.nothing(
                False, 3, "a", 1j, {}, of.NAN, of.fn, Z.to(torch.complex64), torch.zeros(())
            )
        },
    ),
    "Window": Door(
        ode.Window,
        {},
        {
            "size": of.whole(none=True),
            "tolerance": of.number(0, above=True),
            "exact": of.switch(),
            "acceleration": of.name(none=True),
            "coarse": of.nothing(True, 3, "ddim", {}, of.fn),
            "stride": of.whole(none=True),
            "spread": of.number(0),
        },
    ),
    "Parareal": Door(
        ode.Parareal,
        {},
        {
            "blocks": of.whole(2, none=True),
            "tolerance": of.number(0, above=True),
            "coarse": of.name(none=True),
            "exact": of.switch(),
        },
    ),
    "Graph": Door(
        ode.Graph,
        {"model": MODEL, "like": Z},
        {
            "model": of.model(),
            "like": of.tensor(unread=True),
            "steps": of.whole(),
            "states": of.whole(),
            "streams": of.whole(0),
        },
    ),
}

MODELS = {
    "Model": Door(
        ode.Model,
        {"net": NET, "path": VP, "predicts": "noise"},
        {
            "net": of.function(),
            "path": of.path(),
            "predicts": of.name(none=True),
            "time": of.name(none=True),
            "time_scale": of.number(0, above=True),
            "input_scale": of.name(none=True),
            "sigma_data": of.number(0, above=True),
            "dtype": of.dtype(),
            "snap": of.switch(none=True),
            "clip": of.number(0, above=True, none=True),
            "threshold": of.number(0, 1, above=True, none=True),
            "learned_variance": of.switch(),
            "cond": of.mapping(),
        },
    ),
    "Model.guided": Door(
        MODEL.guided,
        {"scale": 2.0, "uncond": {}},
        {
            "scale": SCALE.filter(lambda v: v is not of.fn),
            "cond": of.mapping(),
            "uncond": of.mapping(none=False),
            "rescale": of.number(0, 1),
            "interval": of.nothing(
                True, 3, "a", (0.8, 0.2), (2.0, 3.0), (of.NAN, 1), (0.5,), (0.5, 0.5), {}, of.fn
            ),
        },
    ),
    "Model.classifier_guided": Door(
        MODEL.classifier_guided,
        {"log_prob": lambda x, t: bell(x)},
        {"log_prob": of.function(), "cond": of.mapping()},
    ),
    "Model.inpainted": Door(
        MODEL.inpainted,
        {"known": Z, "mask": torch.ones(2, 3)},
        {"known": of.tensor(), "mask": of.nothing(False, 3, "a", {}, of.fn, True)},
    ),
    **{
        f"Model.{answer}": Door(
            getattr(MODEL, answer),
            {"x": Z, "t": 0.5},
            {
                "x": of.tensor().filter(
                    lambda v: (
                        not (isinstance(v, torch.Tensor) and v.dim() and v.is_floating_point())
                    )
                ),
                "t": of.moment().filter(lambda v: v is not of.PAIR),
            },
        )
        for answer in ("data", "noise", "score", "velocity", "v", "edm")
    },
    "Bound.bits_per_dim": Door(ode.elbo(MODEL, Z, steps=4, seed=0).bits_per_dim, {}, WIDTH),
}

SOLVES = {
    "solve": Door(
        ode.solve,
        {"f": decay, "y0": Z},
        {
            "f": of.function(),
            "y0": of.tensor(system=True, unread=True),
            "t": of.span(),
            "solver": of.name(),
            "steps": of.whole(1, none=True).filter(lambda v: v != [1]),
            **{k: of.number(0, pairs=True) for k in ("rtol", "atol")},
            "control": of.name(none=True),
            **STEPPING,
            "min_step": of.number(0),
            "max_step": of.number(0, above=True, none=True, infinite=True),
            "events": of.nothing(True, 3, "a", [3], {}, of.fn, of.NAN),
            "stops": of.nothing(False, 3, "a", [of.NAN], ["a"], of.fn),
            "dense": of.switch(),
            "sync": of.whole(none=True),
            "linear": of.name(none=True),
            "adjoint_options": of.mapping(),
        },
    ),
    "solve_sde": Door(
        ode.solve_sde,
        {"f": decay, "g": 1.0, "y0": Z, "noise": "additive", "steps": 2},
        {
            "f": of.function(),
            "y0": of.tensor(system=True),
            "t": of.span(),
            "solver": of.name(),
            "steps": of.whole(1, none=True),
            **DRAWN,
            "noise": of.name(),
            "calculus": of.name(),
            "tree": of.switch(),
            "dtype": of.dtype().filter(lambda v: v is not torch.complex64),
            **{k: STEPPING[k] for k in ("args", "adjoint", "params", "compact", "progress")},
        },
    ),
    "solve_sde by tolerance": Door(
        ode.solve_sde,
        {
            "f": decay,
            "g": 1.0,
            "y0": Z,
            "noise": "additive",
            "solver": "sra1",
            "rtol": 0.1,
            "atol": 0.1,
        },
        {
            **{k: of.number(0, none=True, pairs=True) for k in ("rtol", "atol")},
            **{k: STEPPING[k] for k in ("first_step", "max_steps", "max_calls", "controller")},
        },
    ),
    "log_prob": Door(
        ode.log_prob,
        {"model": MODEL, "x": Z, "seed": 0},
        {"model": of.function(), "x": of.tensor(), **DENSITY},
    ),
    "elbo": Door(
        ode.elbo,
        {"model": MODEL, "x": Z, "steps": 4},
        {
            "model": of.model(),
            "x": of.tensor(),
            "of": of.name(),
            "steps": STEPS,
            "grid": of.grid(),
            "variance": of.name(),
            "decoder": of.name(),
            **WIDTH,
            "terms": of.whole(none=True),
            "evaluations": of.whole(2),
            "draws": of.whole(none=True),
            **DRAWN,
            "progress": of.switch(none=True),
        },
    ),
    "bits_per_dim": Door(
        ode.bits_per_dim,
        {"model": MODEL, "x": PIXELS, "steps": 4},
        {
            "model": of.function(),
            **WIDTH,
            "noise": of.name(),
            "draws": of.whole(),
            **DRAWN,
            "steps": STEPS,
        },
    ),
    "dequantise": Door(
        ode.dequantise, {"x": PIXELS}, {**WIDTH, "noise": of.name(), **DRAWN, "draw": of.whole(0)}
    ),
    "langevin": Door(
        ode.langevin,
        {"score": pull, "x": Z, "step": 0.1, "n": 2},
        {
            "score": of.function(),
            "x": of.tensor(),
            "step": of.number(0, above=True).filter(lambda v: v is not of.PAIR),
            "n": of.whole(0),
            **DRAWN,
            "keep": of.whole(none=True),
        },
    ),
    "langevin by noise": Door(
        ode.langevin, {"score": pull, "x": Z, "n": 2, "snr": 0.1}, {"snr": of.number(0, above=True)}
    ),
    "mala": Door(
        ode.mala,
        {"log_prob": bell, "x": Z, "step": 0.1, "n": 2},
        {
            "log_prob": of.function(),
            "score": of.function(none=True),
            "x": of.tensor(),
            "step": of.number(0, above=True).filter(lambda v: v is not of.PAIR),
            "n": of.whole(0),
            **DRAWN,
            "keep": of.whole(none=True),
        },
    ),
    "BrownianPath": Door(
        ode.BrownianPath,
        {"shape": (2, 3)},
        {
            "shape": of.shape(),
            "t": of.span(),
            **DRAWN,
            "area": of.switch(),
            "dtype": of.dtype(none=False),
            "device": of.device(none=False),
            "depth": of.whole(1, 48),
        },
    ),
    "Event": Door(
        ode.Event,
        {"fn": decay},
        {
            "fn": of.function(),
            "terminal": of.switch(),
            "direction": of.nothing(False, 2, -2, "a", 0.5, {}, of.fn),
        },
    ),
}

PARTS = {
    **{
        f"trace.{kind}": Door(getattr(trace, kind), {}, {"products": of.whole(6)})
        for kind in ("HutchPP", "XTrace")
    },
    "trace.Fourier": Door(trace.Fourier, {"products": 4}, {"products": of.whole(2)}),
    "trace.Auto": Door(trace.Auto, {}, {"products": of.whole(4)}),
    "trace.Hutchinson": Door(trace.Hutchinson, {}, {"probes": of.whole(), "law": of.name()}),
    "trace.Exact": Door(trace.Exact, {}, {"mode": of.name(), "block": of.whole(none=True)}),
    "trace.named": Door(
        trace.named,
        {"name": "auto", "dim": 3, "products": 8},
        {"name": of.name()},
    ),
    **{
        f"grids.{kind}": Door(
            lambda kind=kind, **k: ode.plan("ddim", VP, 4, getattr(ode.grids, kind)(**k)),
            {},
            {**RULE, **more},
        )
        for kind, more in {
            "Uniform": {"exponent": of.number(0, above=True)},
            "Polynomial": {"exponent": of.number(0, above=True)},
            "Lambda": {"final": of.switch(), "merged": of.switch()},
            "Karras": {
                "final": of.switch(),
                "merged": of.switch(),
                "rho": of.number(0, above=True),
            },
            "VPTime": {
                "exponent": of.number(0, above=True),
                "epsilon": of.number(0, 1, above=True),
            },
            "Shifted": {"shift": of.number(0, above=True), "mu": of.number(none=True)},
        }.items()
    },
    "grids.Asinh": Door(
        lambda **k: ode.plan("ddim", EDM, 4, ode.grids.Asinh(**k)),
        {},
        {"scale": of.number(0, above=True), "far": of.number(0, above=True)},
    ),
    "grids.Spaced": Door(
        lambda **k: ode.plan("ddim", paths.Discrete.ddpm(), 4, ode.grids.Spaced(**k)),
        {"spacing": "leading"},
        {"spacing": of.name(), "offset": of.whole(0, 999)},
    ),
    "grids.sigmas": Door(
        ode.grids.sigmas,
        {"path": VP, "values": [1.0, 0.5]},
        {
            "path": of.path(),
            "values": of.nothing(
                False, 3, "a", 1j, ["a"], [of.NAN], [-1.0, 0.5], {}, of.fn, [[1.0]]
            ),
        },
    ),
    "grids.named": Door(
        ode.grids.named, {"grid": "karras"}, {"grid": of.name().filter(lambda v: v is not of.PAIR)}
    ),
    **{
        f"paths.{kind}": Door(
            getattr(paths, kind),
            {},
            {arg: of.number(least, above=above) for arg, (least, above) in given.items()},
        )
        for kind, given in {
            "VP": {"beta_min": (0, False), "beta_max": (0, True)},
            "SubVP": {"beta_min": (0, False), "beta_max": (0, True)},
            "VE": {"sigma_min": (0, True), "sigma_max": (0, True)},
            "EDM": {"sigma_min": (0, True), "sigma_max": (0, True)},
            "Cosine": {"offset": (0, False)},
            "Linear": {"sigma_min": (0, False)},
        }.items()
    },
    "paths.Discrete": Door(
        paths.Discrete,
        {"alphas_cumprod": [0.9, 0.5]},
        {
            "alphas_cumprod": of.nothing(
                False, 3, "a", [], [0.9, -0.1], [0.5, 0.9], [of.NAN], ["a"], [1j], {}, of.fn
            ),
            "label": of.text(),
            "floor": of.number(0, 1, above=True),
        },
    ),
    "paths.Flipped": Door(paths.Flipped, {"base": VP}, {"base": of.path()}),
    "paths.from_spec": Door(
        paths.from_spec,
        {"spec": VP.spec()},
        {"spec": of.nothing(False, 3, "a", [], {}, {"name": "nope"}, {"name": 3}, of.fn)},
    ),
    "problems.gaussian": Door(
        problems.gaussian,
        {"mean": 0.0, "std": 1.0},
        {
            "mean": of.nothing(False, "a", 1j, of.NAN, {}, of.fn, ["a"], of.INF),
            "std": of.number(0, none=True, also=(-1,)).filter(
                lambda v: not isinstance(v, (list, torch.Tensor, of.np.ndarray))
            ),
            "shape": of.shape().filter(lambda v: v != ()),
        },
    ),
    "problems.mixture": Door(
        problems.mixture,
        {"weights": [0.5, 0.5], "means": [[0.0], [1.0]], "std": 1.0},
        {
            "weights": of.nothing(
                False, 3, "a", [-0.5, 1.5], [of.NAN, 1.0], [1.0], ["a", "b"], {}, of.fn, [0, 0]
            ),
            "means": of.nothing(
                False, 3, "a", [[of.NAN], [1.0]], [[1.0]], [["a"], ["b"]], {}, of.fn
            ),
            "std": of.number(0, none=True).filter(
                lambda v: not isinstance(v, (list, torch.Tensor, of.np.ndarray))
            ),
        },
    ),
    "problems.digits": Door(problems.digits, {}, {"std": of.number(0)}),
    "Mixture.sample": Door(
        problems.gaussian(0.0, 1.0, shape=(3,)).sample,
        {"n": 2, "seed": 0},
        {"n": of.whole(0), "seed": of.seed(none=False)},
    ),
    "Mixture.model": Door(
        problems.gaussian(0.0, 1.0, shape=(3,)).model,
        {"path": VP, "predicts": "noise"},
        {"path": of.path(), "predicts": of.name(none=True)},
    ),
}
LAW = of.name(none=True)
WEIGHT = of.name(none=True)
TEACHERS = {"student": TEACHER, "teacher": TEACHER}
OBJECTIVES = {
    "Matching": Door(
        objectives.Matching,
        {"model": MODEL},
        {
            "model": of.model(),
            "weight": WEIGHT,
            "times": LAW,
            "coupling": of.name(none=True),
            "importance": of.switch(),
            "uncertainty": of.function(none=True),
        },
    ),
    "Hybrid": Door(
        objectives.Hybrid,
        {"model": ode.Model(NET, paths.Discrete.ddpm(), "noise", learned_variance=True)},
        {"model": of.model(), "share": of.number(0), "weight": WEIGHT},
    ),
    "VariationalBound": Door(
        objectives.VariationalBound,
        {"model": MODEL, "steps": 4},
        {
            "model": of.model(),
            "variance": of.name(),
            "steps": STEPS,
            "grid": of.grid(),
            "decoder": of.name(),
            **WIDTH,
            "stratified": of.switch(),
            "importance": of.switch(),
        },
    ),
    "Interpolant": Door(
        objectives.Interpolant,
        {"model": STRAIGHT, "gamma": bridges.brownian(1.0)},
        {
            "model": of.model(),
            "gamma": of.nothing(False, 3, "a", {}, of.fn),
            "denoiser": of.model(none=True),
            "times": LAW,
            "coupling": of.name(none=True),
            "antithetic": of.switch(),
        },
    ),
    "TwoSided": Door(
        objectives.TwoSided,
        {"model": STRAIGHT, "bandwidth": 0.1},
        {"model": of.model(), "bandwidth": of.number(0)},
    ),
    "ScoreAndFlow": Door(
        objectives.ScoreAndFlow,
        {"model": STRAIGHT, "score": ode.Model(NET, LINEAR, "score"), "sigma": 0.1},
        {"model": of.model(), "score": of.model(), "sigma": of.number(0, above=True)},
    ),
    "BridgeMatching": Door(
        objectives.BridgeMatching,
        {"model": STRAIGHT, "sigma": 0.1},
        {"model": of.model(), "sigma": of.number(0, above=True), "towards": of.name()},
    ),
    "Consistency": Door(
        objectives.Consistency,
        {"model": TEACHER},
        {"model": of.model(), "start": of.number(0, 80, above=True, none=True)},
    ),
    "ConsistencyTraining": Door(
        objectives.ConsistencyTraining,
        {"consistency": objectives.Consistency(TEACHER)},
        {
            "consistency": of.model(),
            "points": of.whole(2),
            "target": of.function(none=True),
            "distance": of.function(),
            "weight": of.function(none=True),
            "chances": of.function(none=True),
            "rho": of.number(0, above=True),
        },
    ),
    "ConsistencyDistillation": Door(
        objectives.ConsistencyDistillation,
        {"consistency": objectives.Consistency(TEACHER), "teacher": TEACHER},
        {
            "consistency": of.model(),
            "teacher": of.model(),
            "points": of.whole(2),
            "solver": of.name(),
        },
    ),
    "ContinuousConsistency": Door(
        objectives.ContinuousConsistency,
        {"consistency": objectives.Consistency(TEACHER)},
        {
            "consistency": of.model(),
            "teacher": of.model(none=True),
            "times": LAW,
            "weight": of.function(none=True),
        },
    ),
    "FlowMap": Door(
        objectives.FlowMap,
        {"net": Map(), "path": LINEAR},
        {"net": of.function(), "path": of.path()},
    ),
    "MeanFlow": Door(
        objectives.MeanFlow,
        {"flow_map": objectives.FlowMap(Map(), LINEAR)},
        {
            "flow_map": of.model(),
            "times": LAW,
            "equal": of.number(0, 1),
            "power": of.number(0),
            "offset": of.number(0),
            "of": of.name(),
            "teacher": of.model(none=True),
            "null": of.mapping(none=True),
            "drop": of.number(0, 1),
        },
    ),
    "Shortcut": Door(
        objectives.Shortcut,
        {"flow_map": objectives.FlowMap(Map(), LINEAR)},
        {
            "flow_map": of.model(),
            "steps": of.whole(2),
            "share": of.number(0, 1),
            "target": of.model(none=True),
            "times": LAW,
        },
    ),
    "ProgressiveDistillation": Door(
        objectives.ProgressiveDistillation,
        {**TEACHERS, "times": "karras", "steps": 4},
        {
            "student": of.model(),
            "teacher": of.model(),
            "times": of.grid(none=False, rises=True).filter(of.is_no_list),
            "steps": STEPS,
            "weight": WEIGHT,
        },
    ),
    "GuidedDistillation": Door(
        objectives.GuidedDistillation,
        {**TEACHERS, "null": {"y": None}},
        {
            "student": of.model(),
            "teacher": of.model(),
            "null": of.mapping(none=False),
            "low": of.number(-of.INF, 5.0),
            "high": of.number(1.0),
            "name": of.text(),
            "weight": WEIGHT,
            "times": LAW,
        },
    ),
    "DenoisingScoreMatching": Door(
        objectives.DenoisingScoreMatching,
        {"score": MODEL},
        {"score": of.function(), "sigma": of.number(0, above=True, none=True)},
    ),
    "SlicedScoreMatching": Door(
        objectives.SlicedScoreMatching,
        {"score": MODEL},
        {
            "score": of.function(),
            "projections": of.whole(),
            "law": of.name(),
            "reduced": of.switch(),
        },
    ),
    "ImplicitScoreMatching": Door(
        objectives.ImplicitScoreMatching,
        {"score": MODEL},
        {"score": of.function(), "trace": of.name(none=True)},
    ),
    "MaximumLikelihood": Door(
        objectives.MaximumLikelihood,
        {"model": MODEL},
        {"model": of.function(), "adjoint": of.text()},
    ),
    "Levels": Door(
        objectives.Levels,
        {"ratios": (1.0, 0.5)},
        {
            "ratios": of.nothing(False, 3, "a", (of.NAN,), (-1.0,), ("a",), {}, of.fn),
            "stratified": of.switch(),
        },
    ),
    "Sinkhorn": Door(
        objectives.Sinkhorn,
        {"reg": 0.1},
        {
            "reg": of.number(0, above=True),
            "iterations": of.whole(),
            "tolerance": of.number(0, above=True, none=True),
            "cond_weight": of.number(0, none=True),
            "relax": of.number(0, above=True, none=True),
        },
    ),
    "OptimalTransport": Door(
        objectives.OptimalTransport, {}, {"cond_weight": of.number(0, none=True)}
    ),
    "TrigConsistency": Door(
        objectives.TrigConsistency,
        {"model": ode.Model(NET, paths.Trig(), "v")},
        {
            "model": of.model(),
            "teacher": of.model(none=True),
            "times": LAW,
            "offset": of.number(0, above=True),
            "share": of.number(0, 1),
            "warmup": of.whole(0),
            "uncertainty": of.function(none=True),
        },
    ),
    "Uncertainty": Door(
        objectives.Uncertainty,
        {"path": VP},
        {"path": of.path(), "features": of.whole(), "seed": of.whole(0)},
    ),
    "couplings.named": Door(
        couplings.named, {"coupling": "independent"}, {"coupling": of.name(none=True)}
    ),
    "dropped": Door(
        objectives.dropped,
        {"cond": {"y": torch.tensor([0, 1])}, "null": {"y": 2}, "share": 0.1},
        {
            "cond": of.mapping(none=False),
            "null": of.mapping(none=False),
            "share": of.number(0, 1),
            "generator": of.nothing(True, 3, "a", {}, of.fn),
        },
    ),
    "pairs": Door(
        rectified.pairs,
        {"model": MODEL, "noise": Z, "steps": 2},
        {"model": of.model(), "noise": of.tensor(), "solver": SAMPLER, "steps": of.whole()},
    ),
    "straightness": Door(
        objectives.straightness,
        {"model": STRAIGHT, "noise": Z, "steps": 2},
        {
            "model": of.model(),
            "noise": of.tensor(),
            "solver": of.name(none=True),
            "steps": of.whole(),
        },
    ),
    "reflow": Door(
        objectives.reflow,
        {"model": STRAIGHT, "fit": lambda model, *data: model, "noise": Z, "steps": 2},
        {
            "model": of.model(),
            "fit": of.function(),
            "noise": of.tensor().filter(lambda v: v is not of.fn),
            "rounds": of.whole(),
            "steps": of.whole(),
        },
    ),
    "schroedinger.carried": Door(
        schroedinger.carried,
        {"model": STRAIGHT, "sigma": 0.1},
        {
            "model": of.model(),
            "sigma": of.number(0),
            "towards": of.name(),
            "steps": of.whole(),
            "solver": of.name(),
            "seed": of.seed(),
        },
    ),
    "consistency.pseudo_huber": Door(consistency.pseudo_huber, {}, {"c": of.number(0, none=True)}),
    "consistency.log_normal": Door(
        consistency.log_normal, {}, {"mean": of.number(), "std": of.number(0, above=True)}
    ),
    "times.Uniform": Door(
        times.Uniform,
        {},
        {"low": of.number(0, 1.0), "high": of.number(0, 1.0), "stratified": of.switch()},
    ),
    "times.LogitNormal": Door(
        times.LogitNormal, {}, {"mean": of.number(), "std": of.number(0, above=True)}
    ),
    "times.LogNormal": Door(
        times.LogNormal, {}, {"mean": of.number(), "std": of.number(0, above=True)}
    ),
    "times.LogUniform": Door(
        times.LogUniform,
        {},
        {"low": of.number(0, 100.0, above=True), "high": of.number(0, above=True)},
    ),
    "times.Mode": Door(times.Mode, {}, {"scale": of.number()}),
    "times.Importance": Door(
        times.Importance, {}, {"bins": of.whole(2), "history": of.whole(), "floor": of.number(0, 1)}
    ),
    **{
        f"bridges.{kind}": Door(getattr(bridges, kind), {"scale": 1.0}, {"scale": of.number(0)})
        for kind in ("constant", "brownian", "sine_squared")
    },
}

AVERAGE = training.EMA(NET, training.Power(1.0))
AVERAGE.update()
SNAPSHOT = training.Snapshot.of(AVERAGE)
TRAINING = {
    "fit": Door(
        fitted,
        {"data": Z, "steps": 1, "batch": 2, "optimiser": "sgd(lr=0.1)"},
        {
            "data": of.nothing(False, 3, "a", 1j, {}, of.NAN, torch.zeros(()), []),
            "steps": of.whole(0),
            "optimiser": of.name(),
            "network": of.nothing(True, 3, "a", {}, of.fn),
            "cond": of.mapping(),
            "batch": of.whole(),
            "accumulate": of.whole(none=True),
            "ema": of.nothing(True, 3, "a", {}, of.fn),
            "warmup": of.whole(0),
            "schedule": of.function(none=True),
            "clip": of.number(0, above=True, none=True),
            "dtype": of.dtype(),
            "generator": of.nothing(True, 3, "a", {}, of.fn),
            "folder": of.nothing(True, 3, 1.5, [], {}, of.fn, "a\0b", ""),
            "every": of.whole(),
            "after": of.function(none=True),
            "progress": of.switch(none=True),
        },
    ),
    "Batches": Door(
        training.Batches,
        {"data": Z},
        {
            "data": of.nothing(False, 3, "a", 1j, {}, of.NAN, torch.zeros(()), of.fn),
            "cond": of.mapping(),
            "batch": of.whole(),
            "seed": of.seed(none=False),
        },
    ),
    "EMA": Door(
        training.EMA,
        {"source": NET},
        {
            "source": of.nothing(False, 3, "a", {}, of.fn),
            "profile": of.number(0, 1).filter(lambda v: v is not of.fn),
            "dtype": of.dtype(),
        },
    ),
    "Growing": Door(
        training.Growing,
        {"points": lambda k: 3},
        {"points": of.function(), "decay": of.number(0, 1, above=True), "first": of.whole()},
    ),
    "recalibrated": Door(
        lambda **k: training.recalibrated(**k).__enter__(),
        {"module": nn.BatchNorm1d(2)},
        {"module": of.nothing(False, 3, "a", {}, of.fn)},
    ),
    "reconstructed": Door(
        training.reconstructed,
        {"snapshots": [SNAPSHOT], "profile": 0.1},
        {
            "snapshots": of.nothing(False, 3, "a", {}, [], of.fn),
            "profile": of.number(0, 12**-0.5, above=True),
            "updates": of.whole(none=True, most=1),
        },
    ),
    "Exponential": Door(
        training.Exponential, {}, {"decay": of.number(0, 1), "corrected": of.switch()}
    ),
    "Power": Door(training.Power, {}, {"gamma": of.number(0)}),
    "warm_up": Door(
        training.warm_up,
        {"optimiser": torch.optim.SGD(NET.parameters(), 0.1), "steps": 2},
        {
            "optimiser": of.nothing(False, 3, "sgd", {}, of.fn),
            "steps": of.whole(0),
            "then": of.function(none=True),
        },
    ),
}
FILES = {
    "shard": of.whole(none=True),
    "format": of.name(),
    "progress": of.switch(none=True),
    "device": of.device(),
    "seed": of.seed(),
}
OUT = of.nothing(False, 3, 1.5, "", "a\0b", [], {}, of.fn, of.NAN)
WORK = {
    "jobs.sample": Door(
        lambda **k: job(jobs.sample, **k),
        {"model": MODEL, "noise": (2, 3), "solver": "ddim", "steps": 2, "n": 2},
        {
            **FILES,
            "out": OUT,
            "model": of.model().filter(lambda v: v is not of.fn and not isinstance(v, nn.Module)),
            "noise": of.shape(),
            "n": of.whole(1, 2**32),
            "first": of.whole(0, 2**32),
            "solver": SAMPLER,
            "steps": STEPS,
            "grid": of.grid(),
            "dtype": of.dtype(none=False),
            "plan": of.nothing(True, 3, "ddim", {}, of.fn),
            "executor": of.nothing(True, 3, "graph", {}, of.fn),
            "eta": of.number(0),
        },
    ),
    "jobs.log_prob": Door(
        lambda **k: job(jobs.log_prob, **k),
        {"model": MODEL, "x": Z, "batch": 2, "steps": 2},
        {
            **FILES,
            "out": OUT,
            "model": of.model(),
            "x": of.tensor(),
            "batch": of.whole(),
            "levels": of.whole(2, none=True),
            "draws": of.whole(),
            "trace": TRACE,
            "products": of.whole(),
        },
    ),
    "jobs.Job": Door(jobs.Job, {"root": ""}, {"root": OUT}, works=False),
    "distributed.sample": Door(
        distributed.sample,
        RUN,
        {
            **START,
            "mesh": of.nothing(True, 3, "a", {}, of.fn),
            "gather": of.switch(),
            "full": of.switch(),
        },
    ),
    "distributed.log_prob": Door(
        distributed.log_prob,
        {"model": MODEL, "x": Z},
        {
            **DRAWN,
            "model": of.function(),
            "x": of.tensor(),
            "gather": of.switch(),
            "products": of.whole(),
            "mesh": of.nothing(True, 3, "a", {}, of.fn),
        },
    ),
    "distributed.mesh": Door(
        distributed.mesh,
        {},
        {
            "data": of.whole(none=True),
            "time": of.whole(),
            "timeout": of.number(0, above=True, none=True),
        },
    ),
    "distributed.spread": Door(distributed.spread, {"model": MODEL}, {"model": of.model()}),
}
SAMPLING = {"model": denoised, "x": Z, "sigmas": SIGMAS, "disable": True}
LEVELS = of.nothing(
    False,
    3,
    "a",
    torch.tensor([of.NAN, 1.0]),
    torch.tensor([[1.0]]),
    {},
    of.fn,
    [1.0, 1.0],
    [-1.0, 2.0],
)
SCHEDULED = {"model_output": Z, "timestep": 999, "sample": Z}
ADAPTERS = {
    **{
        f"k-diffusion {name}": Door(
            getattr(sampling, f"sample_{name}"),
            SAMPLING,
            {
                "model": of.function(),
                "x": of.tensor(),
                "sigmas": LEVELS,
                "callback": of.function(none=True),
                **more,
            },
        )
        for name, more in {
            "euler": {
                "s_churn": of.number(0, infinite=True),
                "s_tmin": of.number(0),
                "s_noise": of.number(0),
            },
            "euler_ancestral": {k: of.number(0) for k in ("eta", "s_noise")},
            "heun": {"s_churn": of.number(0, infinite=True)},
            "lms": {"order": of.whole()},
            "dpmpp_2m": {},
            "dpmpp_2m_sde": {"eta": of.number(0), "solver_type": of.name()},
        }.items()
    },
    "k-diffusion dpm_fast": Door(
        sampling.sample_dpm_fast,
        {"model": denoised, "x": Z, "sigma_min": 0.1, "sigma_max": 3.0, "n": 3, "disable": True},
        {
            "x": of.tensor(),
            "sigma_min": of.number(0, above=True),
            "sigma_max": of.number(0, above=True),
            "n": of.whole(),
            "eta": of.number(0),
        },
    ),
    "k-diffusion dpm_adaptive": Door(
        sampling.sample_dpm_adaptive,
        {"model": denoised, "x": Z, "sigma_min": 0.1, "sigma_max": 3.0, "disable": True},
        {
            "x": of.tensor(),
            "sigma_min": of.number(0, above=True),
            "order": of.whole(2, 3),
            "rtol": of.number(0),
            "atol": of.number(0),
            "h_init": of.number(0, above=True),
            "max_calls": of.whole(none=True),
        },
    ),
    "k-diffusion get_sigmas_karras": Door(
        sampling.get_sigmas_karras,
        {"n": 4, "sigma_min": 0.1, "sigma_max": 10.0},
        {
            "n": of.whole(),
            "sigma_min": of.number(0, above=True),
            "sigma_max": of.number(0, above=True),
            "rho": of.number(0, above=True),
            "device": of.device(none=False),
        },
    ),
    "k-diffusion register": Door(
        k_diffusion.register,
        {"host": SimpleNamespace(), "names": ["euler"]},
        {"names": of.nothing(True, 3, ["nope"], [3], of.NAN)},
    ),
    "diffusers scheduler": Door(
        OdesolveScheduler,
        {"solver": "ddim"},
        {
            "solver": of.name(none=True),
            "grid": of.name(none=True),
            "like": of.name(none=True),
            "exact_timesteps": of.switch(none=True),
            "prediction_type": of.name(),
            "num_train_timesteps": of.whole(),
            "beta_start": of.number(0, none=True),
            "beta_end": of.number(0, none=True),
            "beta_schedule": of.name(none=True),
            "solver_order": of.whole(none=True),
        },
    ),
    "diffusers set_timesteps": Door(
        lambda **k: OdesolveScheduler(solver="ddim").set_timesteps(**k),
        {"num_inference_steps": 4},
        {"num_inference_steps": of.whole(), "device": of.device()},
    ),
    "diffusers timesteps": Door(
        lambda **k: OdesolveScheduler(solver="ddim").set_timesteps(**k),
        {"timesteps": [900, 500]},
        {
            "timesteps": of.nothing(
                False,
                "a",
                [1200, 500],
                [-1],
                [of.NAN],
                ["a"],
                {},
                of.fn,
                [500, 900],
                [500, 500],
                [],
            )
        },
    ),
    "diffusers step": Door(
        lambda **k: scheduled("step", **k),
        SCHEDULED,
        {
            "model_output": of.tensor(unread=True),
            "sample": of.tensor(unread=True),
            "timestep": of.number(-0.51, 1001),
        },
    ),
    "diffusers add_noise": Door(
        lambda **k: scheduled("add_noise", **k),
        {"original_samples": Z, "noise": Z, "timesteps": torch.tensor([10, 20])},
        {
            "original_samples": of.tensor(),
            "noise": of.tensor(),
            "timesteps": of.nothing(
                False, "a", torch.tensor([1200, 3]), torch.tensor([-1, 3]), {}, of.fn
            ),
        },
    ),
    "torchdiffeq odeint": Door(
        torchdiffeq.odeint,
        {"func": decay, "y0": Z, "t": TIMES},
        {
            "func": of.function(),
            "y0": of.tensor(system=True, unread=True),
            "t": of.span(),
            "rtol": of.number(0),
            "atol": of.number(0),
            "method": of.name(none=True),
            "options": of.mapping().filter(lambda v: v != {1: 2}),
            "event_fn": of.function(none=True),
        },
    ),
    "torchdiffeq odeint_adjoint": Door(
        torchdiffeq.odeint_adjoint,
        {"func": Decay(), "y0": Z, "t": TIMES},
        {
            "func": of.function(),
            "y0": of.tensor(system=True, unread=True),
            "t": of.span(),
            "rtol": of.number(0),
            "method": of.name(none=True),
            "adjoint_method": of.name(none=True),
            "adjoint_rtol": of.number(0, none=True),
            "adjoint_options": of.mapping().filter(lambda v: v != {1: 2}),
        },
    ),
    "torchsde BrownianInterval": Door(
        torchsde.BrownianInterval,
        {"size": (2, 3), "entropy": 0},
        {
            "t0": of.number(),
            "t1": of.number(),
            "size": of.shape(none=True).filter(lambda v: v != ()),
            "entropy": of.seed(),
            "levy_area_approximation": of.name(),
            "device": of.device(),
        },
    ),
}


class Brownian(torchsde.SDEIto):
    """An SDE of torchsde's kind."""

    def __init__(self):
        super().__init__(noise_type="diagonal")

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return torch.ones_like(y)


ADAPTERS["torchsde sdeint"] = Door(
    torchsde.sdeint,
    {"sde": Brownian(), "y0": Z, "ts": TIMES, "dt": 0.25, "method": "euler"},
    {
        "sde": of.function(),
        "y0": of.tensor(system=True, unread=True),
        "ts": of.span().filter(lambda v: v != [0.5]),
        "method": of.name(none=True),
        "dt": of.number(0, above=True),
        "adaptive": of.switch(),
        "options": of.mapping(),
        "names": of.mapping(),
        "logqp": of.switch(),
    },
)
TABLE: dict[str, dict[str, Door]] = {
    "samplers": SAMPLERS,
    "models": MODELS,
    "solves": SOLVES,
    "parts": PARTS,
    "objectives": OBJECTIVES,
    "training": TRAINING,
    "work": WORK,
    "adapters": ADAPTERS,
}
