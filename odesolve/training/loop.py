"""A small training loop, and the pieces of it that fit into another: batches, warm-up, the stop at a loss that is not finite."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from odesolve.errors import OdesolveError
from odesolve.files import shaped, short
from odesolve.given import named as file_name
from odesolve.keywords import door
from odesolve.meant import count, meant, number, one_of, takes
from odesolve.progress import Bar
from odesolve.training import checkpoint
from odesolve.training.batches import Batch, Batches, Cond, Stream, moved, source_of
from odesolve.training.checkpoint import Checkpoint, TorchRandom, describe
from odesolve.training.ema import EMA
from odesolve.training.optimisers import optimiser_of

CHECKPOINT = "checkpoint.safetensors"
HALVES = (torch.float16, torch.bfloat16)
After = Callable[[int, Any], bool | None]


class NotFinite(ArithmeticError):
    """A loss, or its gradient, was infinite or NaN; the weights are those before it.

    Attributes: ``step`` how many were done, ``batch`` the tensors and ``cond`` the conditions of the next, ``terms`` what the
    objective returned, ``t`` (B,) the times, ``state`` of the generator before it drew them (None without one), ``file`` where
    all this was written for ``checkpoint.read(file).facts``, None without a folder.
    """

    def __init__(self, message: str, step: int, batch: Batch, terms: Any, state: Tensor | None, file: File | None):
        super().__init__(message)
        self.step, self.terms, self.state, self.file = step, terms, state, file
        self.batch, self.cond = batch
        self.t: Tensor | None = getattr(terms, "t", None)


@dataclass(frozen=True)
class History:
    """``losses`` and norms of gradients before clipping, (steps,) float64, of every step from the first, resumed or not."""

    losses: Tensor = field(repr=False)
    norms: Tensor = field(repr=False)

    def __len__(self) -> int:
        """Steps done."""
        return len(self.losses)

    def mean(self, share: float = 0.1) -> float:
        """The mean loss over the last share of the steps."""
        return float(self.losses[-max(1, round(share * len(self))) :].mean())


@meant(steps=count(0), then=takes("step"))
def warm_up(optimiser: Optimizer, steps: int, then: Callable[[int], float] | None = None) -> LambdaLR:
    """A schedule of learning rates: up in a straight line over so many steps, the last of which has the whole rate.

    ``then`` gives a further factor by the step 0, 1, ..., such as a decay. Step it once after each step of the optimiser.
    """
    if steps < 0:
        raise OdesolveError(f"warmup={steps}: give a number of steps, 0 for none")
    return LambdaLR(optimiser, lambda k: min(1.0, (k + 1) / max(1, steps)) * (1.0 if then is None else float(then(k))))


@door(
    "training.fit",
    ema=one_of("EMA"),
    steps=count(0),
    every=count(),
    warmup=count(0),
    batch=count(),
    clip=number(above=0.0),
    schedule=takes("step"),
    after=takes("step", "terms"),
)
def fit(
    objective: Callable[..., Any],
    data: Tensor | Batches | Iterable[Any] | Callable[[torch.Generator | None], Any],
    steps: int,
    *,
    optimiser: Optimizer | str | None = None,
    optimizer: Optimizer | str | None = None,
    network: nn.Module | None = None,
    cond: Cond | None = None,
    batch: int = 256,
    ema: EMA | None = None,
    warmup: int = 0,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
    folder: str | File | None = None,
    every: int = 1000,
    parts: Cond | None = None,
    configuration: Cond | None = None,
    after: After | None = None,
    progress: bool | None = None,
) -> History:
    """Train: ``objective(x, ..., generator=, cond=).loss``, its gradient, a step of the optimiser, the average of the weights.

    Run again with the same arguments, or more steps, it goes on from the checkpoint of its folder, bitwise as if it had never
    stopped; of iterables this holds where they yield the same batches again.

    Args:
        objective: any of ``odesolve.objectives``, or a function (x, ..., generator=) of a batch, and of ``cond=`` where there
            are conditions, that returns the loss or something with a ``loss``.
        data: a data set (N, ...), of which ``Batches`` are made; batches x or (x, ..., {conditions}), begun anew where they end;
            or a function of the generator that draws one. Batches are brought to the device of the weights.
        steps: in all, those of the checkpoint among them.
        optimiser: of all weights that are trained, or the name of one for those of the network, such as "adamw(lr=1e-3)";
            ``optimizer`` is the same.
        network: what to save: by default the network of ``objective.model``.
        cond, batch: conditions of the data set, one row a sample, and how many samples to take.
        ema: updated after each step.
        warmup, schedule: see ``warm_up``.
        clip: the most that the norm of the gradient may be; a longer one is scaled.
        dtype: bfloat16 or float16 of autocast; the losses of float16 are scaled, and steps that overflow left out.
        generator: of the batches and of all that the objective draws; by default torch's own.
        folder: for the checkpoint, every so many steps and at the end, and the batch where a loss is not finite.
        parts: further things with a state to save, as for ``checkpoint.save``.
        configuration: further plain values that a run has to share with the checkpoint.
        after: called with the number of steps done and the terms; a true value ends the training.
        progress: show a bar.

    Raises NotFinite, before the weights are touched, where a loss or the gradient's norm is not finite, OdesolveError for
    arguments that cannot be used and a checkpoint of another configuration, ImportError for a folder without safetensors.
    """
    if dtype not in (None, *HALVES):
        raise OdesolveError(f"dtype={dtype}: give torch.bfloat16 or torch.float16, or None for that of the weights")
    if steps < 0 or every < 1:
        raise OdesolveError(f"steps={steps}, every={every}: give numbers of steps")
    folder = None if folder is None else file_name("folder", folder, "a folder")
    named = isinstance(optimiser if optimizer is None else optimizer, str)
    chosen = optimiser_of(optimiser, optimizer, _network(objective, network, []) if named else nn.Identity())
    step = _Step(chosen, warm_up(chosen, warmup, schedule), ema, clip, dtype)
    run = _Run(step, generator, None if folder is None else File(folder), _seed(generator))
    if run.folder is not None:
        own = {"warmup": warmup, "clip": clip, "dtype": str(dtype), "schedule": describe(schedule)}
        if isinstance(data, Tensor):
            own |= {"batch": batch, "samples": len(data)}
        run.configure(_network(objective, network, step.trained), objective, own, parts, configuration)
    done = run.found()
    source = source_of(data, cond, batch, run.seed, generator)
    if done and isinstance(source, Stream):
        source(done - 1)
    run.resume()
    with Bar(steps, progress, "step") as tick:
        while done < steps:
            drawn = source(done)
            state = None if generator is None else generator.get_state()
            run.note(step(objective, drawn, generator), done, drawn, state)
            done += 1
            stop = after is not None and bool(after(done, step.terms))
            if done % every == 0 or done == steps or stop:
                run.save(done)
            if tick is not None:
                tick(done)
            if stop:
                break
    return run.history()


class _Step:
    """One step of an optimiser, with everything that goes along with it."""

    def __init__(self, optimiser, rates: LambdaLR, ema: EMA | None, clip: float | None, dtype: torch.dtype | None):
        self.optimiser, self.rates, self.ema, self.clip, self.dtype = optimiser, rates, ema, clip, dtype
        self.trained = [p for group in optimiser.param_groups for p in group["params"]]
        self.device = self.trained[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        self.terms: Any = None

    def __call__(self, objective, batch: Batch, generator) -> tuple[float, float]:
        """Loss and gradient's norm; the weights are touched only where both are finite."""
        x, cond = moved(batch, self.device)
        cast = contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)
        with cast:
            self.terms = objective(*x, generator=generator, **({} if cond is None else {"cond": cond}))
        loss = self.terms if isinstance(self.terms, Tensor) else getattr(self.terms, "loss", None)
        if not isinstance(loss, Tensor) or loss.dim():
            raise OdesolveError(
                f"the objective returned {_called(self.terms)}: return Terms, whose loss is one number, or that number"
            )
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        gradients = [p.grad for p in self.trained if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, self.clip, norm)
        found = float(loss.detach()), float(norm)
        scaled = self.scaler.is_enabled()
        if all(_finite(v) for v in (found[:1] if scaled else found)):
            self._move(scaled)
        return found

    def _move(self, scaled: bool) -> None:
        before = self.scaler.get_scale() if scaled else 0.0
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if scaled and self.scaler.get_scale() < before:
            return  # the gradients of float16 overflowed: there was no step to go along with
        self.rates.step()
        if self.ema is not None:
            self.ema.update()


def _called(terms: Any) -> str:
    return f"numbers of shape {tuple(terms.shape)}" if isinstance(terms, Tensor) else type(terms).__name__


class _Facts(Struct):
    """What a run's checkpoint says beside its states."""

    losses: Tensor
    norms: Tensor
    seed: int | None = None


class _Run:
    """What a run has done so far, and its folder."""

    def __init__(self, step: _Step, generator, folder: File | None, seed: int):
        self.step, self.generator, self.folder, self.seed = step, generator, folder, seed
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.parts: dict[str, Any] = {}
        self.configuration: dict[str, Any] = {}
        self.held: Checkpoint | None = None
        self.facts: Any = None

    def configure(self, network: nn.Module, objective, own: dict[str, Any], parts: Cond | None, further: Cond | None):
        """Name what the checkpoint holds and what it has to share."""
        step = self.step
        own_parts = {"network": network, "ema": step.ema, "optimiser": step.optimiser, "schedule": step.rates}
        own_parts |= {"scaler": step.scaler, "generator": self.generator, "torch": TorchRandom()}
        self.parts = {name: part for name, part in {**own_parts, **(parts or {})}.items() if part is not None}
        self.configuration = {
            "objective": describe(objective),
            "optimiser": {"kind": type(step.optimiser).__qualname__, **describe(step.optimiser.defaults)},
            "ema": None if step.ema is None else describe(step.ema.profile),
            "generator": self.generator is not None,
            "training": own,
            "configuration": dict(further or {}),
        }

    def found(self) -> int:
        """Look for the folder's checkpoint, and return its step."""
        if self.folder is None or not os.path.lexists(self.folder / CHECKPOINT):
            return 0
        self.held = held = checkpoint.read(self.folder / CHECKPOINT)
        door = replace(checkpoint.DOOR, name=str(held.file))
        self.facts = facts = shaped(held.facts, _Facts, door)
        if not facts.losses.shape == facts.norms.shape == (held.step,):
            raise door.refuse(f"losses are {short(facts.losses)}, norms {short(facts.norms)} after {held.step} steps")
        self.seed = self.seed if facts.seed is None else facts.seed
        return held.step

    def resume(self) -> None:
        """Go to where it is: after all that is drawn on the way there, as torch's own generator is set."""
        if self.held is not None:
            self.held.restore(self.parts, self.configuration)
            self.losses, self.norms = self.facts.losses.tolist(), self.facts.norms.tolist()

    def save(self, done: int) -> None:
        """Write the checkpoint, where there is a folder."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"seed": self.seed, **vars(self.history())}
        file = self.folder / CHECKPOINT
        checkpoint.save(file, self.parts, step=done, configuration=self.configuration, facts=facts)

    def history(self) -> History:
        """Of all steps."""
        return History(*(torch.tensor(v, dtype=torch.float64) for v in (self.losses, self.norms)))

    def note(self, found: tuple[float, float], done: int, batch: Batch, state: Tensor | None) -> None:
        """Remember a step. Raises NotFinite."""
        loss, norm = found
        if not _finite(loss) or not (_finite(norm) or self.step.scaler.is_enabled()):
            file, terms = None, self.step.terms
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = self.folder / f"not-finite-{done}.safetensors"
                cond = {
                    k: v if isinstance(v, (Tensor, *checkpoint.PLAIN)) else repr(v) for k, v in (batch[1] or {}).items()
                }
                facts = {"batch": batch[0], "cond": cond, "t": getattr(terms, "t", None), "generator": state}
                checkpoint.save(file, {}, step=done, facts={**facts, "each": getattr(terms, "each", None)})
            told = f"after {done} steps the loss is {loss:.4g} and its gradient's norm {norm:.4g}"
            held = (
                ".batch, .t, .terms"
                if file is None
                else f".batch, .t, .terms, and checkpoint.read({str(file)!r}).facts"
            )
            raise NotFinite(f"{told}; the weights are those before: see {held}", done, batch, terms, state, file)
        self.losses.append(loss)
        self.norms.append(norm)


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def _network(objective: Any, network: nn.Module | None, trained: list[Tensor]) -> nn.Module:
    """The module to save, which holds everything that is trained."""
    if network is None:
        network = getattr(getattr(objective, "model", None), "net", None)
    if not isinstance(network, nn.Module):
        raise OdesolveError("what is to be saved is not known: give network=, or an nn.ModuleList of several")
    held = {id(p) for p in network.parameters()}
    if any(id(p) not in held for p in trained):
        raise OdesolveError(
            "the optimiser trains weights that the network does not hold: give network= with all of them"
        )
    return network
