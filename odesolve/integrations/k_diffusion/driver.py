"""Our plans run by k-diffusion's protocol: its levels, its callback, its noise samplers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from odesolve import grids, paths
from odesolve.doors.annotations import meant, samples
from odesolve.doors.values import numbers, real, refuse_loose
from odesolve.errors import OdesolveError
from odesolve.functions.steadiness import warn_of_training
from odesolve.integrations.k_diffusion.hosts import noise_scale
from odesolve.integrations.k_diffusion.noise import NoiseSampler
from odesolve.lowering.lower import Reading, lower
from odesolve.lowering.program import Program
from odesolve.model.model import Model
from odesolve.noise.keys import keys_of, seed_of
from odesolve.planning.planner import hashable
from odesolve.plans.instructions import Evaluate
from odesolve.plans.plan import Plan
from odesolve.process.progress import Bar
from odesolve.run.advance import begin
from odesolve.run.stepper import Stepper
from odesolve.solvers import REGISTRY, Writer
from odesolve.solvers.draws import Cells, Noise, OnePath
from odesolve.solvers.registry import BOUNDS, LEVELS

Callback = Callable[[dict[str, Any]], Any]
Write = Callable[..., None]
Extra = Mapping[str, Any] | None


@dataclass(frozen=True)
class Prepared:
    """A plan ready for this protocol.

    ``begins`` maps a network call to the step that it begins, ``intervals`` a stream of noise to
    the times that it spans."""

    program: Program
    begins: Mapping[int, int]
    intervals: Mapping[int, tuple[float, float]]


@meant(x=samples)
def solve(
    solver: str | Write,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Extra = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    flow: bool = False,
    tree: bool = False,
    **options: Any,
) -> Tensor:
    """Run a solver on these noise levels, from x at the first of them.

    Args:
        solver: a name from ``ode.solvers()``, or a function of a Writer.
        model: model(x, sigma, **extra_args) -> denoised, sigma (B,) in the dtype of x.
        x: the state (B, ...); kept in float32 at least, and returned in its own dtype.
        sigmas: noise levels (n + 1,), read once. Fewer than two make no step: the solve returns x.
        extra_args: keyword arguments of the model; "seed", where there is one, also decides the
            noise.
        callback: called at the first evaluation of a step with x, i, sigma, sigma_hat and denoised
            there.
        disable: True for no progress bar, False for one, None for one on a terminal.
        noise_sampler: noise of unit variance for a pair of levels, called after the evaluation that
            comes before the noise. By default noise is a function of the seed and the sample's
            place; with ``tree`` of one Brownian path, whatever the steps.
        flow: levels are times of x_t = (1 - t) x0 + t eps.
        options: of the solver.

    Raises OdesolveError for levels that are not strictly monotone, and whatever the solver and the
    model's output raise."""
    sigmas = (
        sigmas if isinstance(sigmas, Tensor) else numbers("sigmas", sigmas, "noise levels (n + 1,)")
    )
    if sigmas.dim() != 1 or not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
        given = f"x is {_form(x)}, sigmas are {_form(sigmas)}"
        raise OdesolveError(f"{given}: give floats (B, ...) and noise levels (n + 1,)")
    if len(sigmas) < 2:
        return x
    refuse_loose("x", x)
    if x.is_meta:
        raise OdesolveError("x is on the meta device, without numbers: give a tensor that has some")
    for name, value in options.items():
        if name in LEVELS:
            options[name] = level(name, value)
    if flow and "s_noise" in options:
        options["s_noise"] *= noise_scale(model)
    levels = tuple(map(float, sigmas.tolist()))
    wide = torch.promote_types(x.dtype, torch.float32)
    source = "given" if noise_sampler is not None else "tree" if tree else "cells"
    chosen = tuple(sorted((name, hashable(name, value)) for name, value in options.items()))
    ready = prepare(solver, chosen, levels, flow, wide != x.dtype, source)
    return _run(
        ready,
        model,
        x,
        wide,
        (levels, sigmas),
        dict(extra_args or {}),
        callback,
        disable,
        noise_sampler,
    )


@torch.no_grad()
def _run(
    ready: Prepared,
    model,
    x,
    wide,
    levels,
    extra_args,
    callback,
    disable,
    noise_sampler,
) -> Tensor:
    program = ready.program
    plan = ready.program.plan
    warn_of_training(model, "the model")
    network = Model(model, plan.path, "data", dtype=x.dtype, cond=extra_args)
    # Wrappers multiply x by what they make of sigma, so it comes in the dtype of x.
    times = (
        torch.tensor(program.times, dtype=torch.float64).to(x.dtype).to(x.device, non_blocking=True)
    )
    sigma_in = times[:, None].expand(-1, x.shape[0]).clone().unbind(0)
    draw = None if noise_sampler is None else SampledNoise(noise_sampler, ready, *levels)
    seed = seed_among(extra_args)
    keyed = draw is None and plan.streams
    keys = keys_of(x.shape[0], seed, None, x.device) if keyed else None
    with Bar(plan.steps, None if disable is None else not disable, "step") as tick:
        # Every step has memory of its own: models and callbacks keep what they are given.
        stepper = Stepper(begin(program, x.to(wide), x.dtype, keys=keys, own=True, draw=draw))
        while not stepper.done:
            call = stepper.call
            outputs = network.evaluate(
                stepper.input, stepper.state, sigma_in[call.index], call.branches
            )
            step = ready.begins.get(call.index)
            if callback is not None and step is not None:
                callback(_report(stepper.input, step, call.t, outputs[0], *levels))
            if tick is not None and step is not None:
                tick(step + 1)
            stepper.answer(outputs, draw)
    return stepper.result.to(x.dtype)


def _report(
    x: Tensor,
    step: int,
    t: float,
    denoised: Tensor,
    levels: tuple[float, ...],
    sigmas: Tensor,
) -> dict:
    sigma = sigmas[step]
    sigma_hat = sigma if t == levels[step] else sigmas.new_tensor(t)
    return {"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma_hat, "denoised": denoised}


class SampledNoise:
    """A noise sampler as the source of a plan's streams, called once per stream with the user's own
    levels."""

    def __init__(
        self,
        sampler: NoiseSampler,
        ready: Prepared,
        levels: tuple[float, ...],
        sigmas: Tensor,
    ):
        self.sampler = sampler
        self.ready = ready
        self.sigmas = sigmas
        self.index = {t: i for i, t in enumerate(levels)}
        self.left = Counter(s for op in ready.program.ops for s in op.draws)
        self.noises: dict[int, Any] = {}

    def __call__(self, stream: int) -> Any:
        if stream not in self.noises:
            if stream not in self.ready.intervals:
                solver = self.ready.program.plan.solver
                raise OdesolveError(
                    f"{solver} needs more of a path than its increments: leave noise_sampler= out"
                )
            self.noises[stream] = self.sampler(*map(self._level, self.ready.intervals[stream]))
        self.left[stream] -= 1
        if self.left[stream]:
            return self.noises[stream]
        return self.noises.pop(stream)

    def _level(self, t: float) -> Tensor:
        if t in self.index:
            return self.sigmas[self.index[t]]
        return self.sigmas.new_tensor(t)


def level(name: str, given: Any) -> float:
    """A number of at least 0, as every number among the options must be. Raises OdesolveError for
    anything else."""
    return real(name, given, "a number of at least 0", 0.0, infinite=name in BOUNDS)


def seed_among(extra_args: Mapping[str, Any]) -> int | None:
    """The seed among a model's arguments, None where there is none, or one per sample, which
    belongs to a noise sampler."""
    seed = extra_args.get("seed")
    several = isinstance(seed, list | tuple) or (isinstance(seed, Tensor) and seed.dim() > 0)
    return None if seed is None or several else seed_of(seed)


@lru_cache(256)
def prepare(
    solver: str | Write,
    options: tuple[tuple[str, Any], ...],
    levels: tuple[float, ...],
    flow: bool,
    cast: bool,
    source: str,
) -> Prepared:
    """Plan and lower a solver on these levels; ``source`` of the noise is "cells", "tree" or
    "given"."""
    path = path_of(levels, flow)
    times = grids.make(grids.Listed(values=levels), path, None)
    arguments = dict(options)
    if isinstance(solver, str):
        entry = REGISTRY.find(solver)
        entry.check_options(arguments)
        name = entry.name
        write = entry.write
        nested = entry.outside.nested
    else:
        name = solver.__name__
        write = solver
        nested = False
    # k-diffusion asks for the noise of a part of a step and of all of it: its Brownian tree makes
    # the part agree with the whole.
    noise: Noise = OnePath() if source == "tree" else Cells(whole=nested and source == "given")
    writer = Writer(path, times, name, source=noise)
    write(writer, **arguments)
    plan = writer.plan()
    program = lower(plan, path, Reading("data", cast=cast))
    return Prepared(program, _begins(plan), getattr(noise, "intervals", {}))


def path_of(levels: tuple[float, ...], flow: bool) -> paths.Path:
    """The path whose times these levels are: x0 + sigma eps with room above for noise that is
    added, or a flow's."""
    if flow:
        return paths.Linear()
    positive = [s for s in levels if s > 0]
    if not positive or max(positive) == float("inf"):
        raise OdesolveError(
            f"sigmas are {levels}: give finite noise levels with a positive one among them"
        )
    return paths.EDM(sigma_max=2.0 * max(positive), sigma_min=min(positive))


def _begins(plan: Plan) -> dict[int, int]:
    """The step that each network call begins, for the calls that begin one."""
    begins: dict[int, int] = {}
    calls = 0
    step = 0
    begun = -1
    for i in plan.instructions:
        if isinstance(i, Evaluate):
            if step > begun:
                begins[calls] = step
                begun = step
            calls += 1
        else:
            step = plan.finished_by(i) or step
    return begins


def _form(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{x.dtype} of shape {tuple(x.shape)}"
    return type(x).__name__
