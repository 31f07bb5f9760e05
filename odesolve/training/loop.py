"""A small training loop, and its pieces that fit into other loops: batches, warm-up, the stop at a
loss that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from odesolve.doors.annotations import count, meant, number, one_of, takes
from odesolve.doors.keywords import door
from odesolve.doors.values import named as file_name
from odesolve.doors.values import real
from odesolve.errors import OdesolveError
from odesolve.process.progress import Bar
from odesolve.training.batches import Batches, Cond, names_of, source_of
from odesolve.training.ema import EMA
from odesolve.training.optimisers import optimiser_of
from odesolve.training.portions import Portions
from odesolve.training.run import (
    History,
    NotFinite,
    TrainingRun,
    check_learned,
    network_of,
    schedule_settings,
)
from odesolve.training.states import states_of
from odesolve.training.steps import OptimiserStep

__all__ = ["History", "NotFinite", "fit", "warm_up"]

HALVES = (torch.float16, torch.bfloat16)
FACTOR = "a finite number of at least 0"
After = Callable[[int, Any], bool | None]


@meant(steps=count(0), then=takes("step"))
def warm_up(
    optimiser: Optimizer, steps: int, then: Callable[[int], float] | None = None
) -> LambdaLR:
    """A schedule of learning rates that rises linearly over these steps, the last of which has the
    whole rate.

    ``then`` is a function from the step 0, 1, ... to a further factor, such as a decay. Step the
    schedule once after each step of the optimiser."""
    if steps < 0:
        raise OdesolveError(f"warmup={steps}: give a number of steps, 0 for none")

    def factor(k: int) -> float:
        warm = min(1.0, (k + 1) / max(1, steps))
        if then is None:
            return warm
        return warm * real(f"the schedule's factor of step {k}", then(k), FACTOR, 0.0)

    return LambdaLR(optimiser, factor)


@door(
    "training.fit",
    ema=one_of("EMA"),
    steps=count(0),
    every=count(),
    warmup=count(0),
    batch=count(),
    clip=number(above=0.0),
    accumulate=count(),
    schedule=takes("step", instead=LRScheduler),
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
    cond: Cond | str | Sequence[str] | None = None,
    batch: int = 256,
    accumulate: int | None = None,
    ema: EMA | None = None,
    warmup: int = 0,
    schedule: Callable[[int], float] | LRScheduler | None = None,
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
    """Train: ``objective(x, ..., generator=, cond=).loss``, its gradient, a step of the optimiser,
    the average of the weights.

    A second call with the same arguments, or with more steps, goes on from the checkpoint of the
    folder, bitwise as if the first had never stopped. Iterables have to yield the same batches
    again for this, as a ``DataLoader`` does, whose order is drawn from the run's own seed. What the
    objective remembers (``times.Importance``, weights that it learns, averaged targets) is saved
    with the rest.

    On several ranks of ``torch.distributed`` each takes batches of its own; gradients are averaged
    here, with a network in ``DistributedDataParallel`` or a plain one, and the first rank writes.
    Two ranks train as one process with ``accumulate=2`` does, to rounding, and another number of
    ranks may go on with the checkpoint.

    Args:
        objective: any of ``odesolve.objectives``, or a function (x, ..., generator=) of a batch,
            and of ``cond=`` where there are conditions, that returns the loss or something with a
            ``loss``; one with an argument ``step`` gets the step's number.
        data: a data set (N, ...), which ``Batches`` are drawn from; an iterable of batches x,
            (x, ..., {conditions}), (x, ..., y) or dicts, which is begun anew where it ends; or a
            function of the generator that draws a batch. Batches are moved to the device of the
            weights.
        steps: the number of all steps, with those of the checkpoint.
        optimiser: of all weights that are trained, or the name of one for the network's weights,
            such as "adamw(lr=1e-3)"; ``optimizer`` is the same.
        network: the module to save, by default the network that the objective trains; where the
            objective is a function, it is needed with a folder or an optimiser by name.
        cond: conditions of the data set, see ``Batches``; or the names of those that batches hold:
            "label" for (x, y).
        batch: how many samples to take from a data set.
        accumulate: the number of batches per step over all ranks, whose gradients are averaged; by
            default one per rank, or that of the checkpoint. Several batches have a seed each, for
            torch's own generator, too.
        ema: updated after each step.
        warmup, schedule: see ``warm_up``; or a schedule of ``torch.optim.lr_scheduler`` of this
            optimiser.
        clip: the largest norm of the gradient; a longer gradient is scaled down to it.
        dtype: bfloat16 or float16 for autocast; in float16 losses are scaled, and steps that
            overflow are left out.
        generator: of the batches and of all that the objective draws; by default torch's own.
        folder: for the checkpoint, which is written after each ``every`` steps and at the end, and
            for the batch where a loss is not finite.
        parts: further things with a state to save, as for ``checkpoint.save``.
        configuration: further plain values that a run has to share with the checkpoint.
        after: a function of the number of steps done and the terms; where it returns a true value
            the training ends.
        progress: show a bar.

    Raises NotFinite, before the weights are touched, where a loss or the gradient's norm is not
    finite, or where 32 steps of float16 in a row were left out; OdesolveError for arguments that
    cannot be used, and for a checkpoint of another configuration, whose functions are compared by
    their code; ImportError for a folder without safetensors."""
    if dtype not in (None, *HALVES):
        raise OdesolveError(
            f"dtype={dtype}: give torch.bfloat16 or torch.float16, or None for that of the weights"
        )
    place = None if folder is None else File(file_name("folder", folder, "a folder"))
    chosen = _optimiser(objective, network, optimiser, optimizer)
    rates = _rates(chosen, warmup, schedule, steps)
    step = OptimiserStep(objective, chosen, rates, ema, clip, dtype)
    check_learned(objective, step.trained)
    _check_average(ema, step)
    run = TrainingRun(step, generator, place, _seed(generator))
    own = {"warmup": warmup, "clip": clip, "schedule": schedule}
    run.alike(steps, every, batch=batch, accumulate=accumulate, **own)
    done = run.saved()
    run.spread(accumulate)
    if place is not None:
        saved = network_of(objective, network, step.trained)
        own |= {"dtype": str(dtype), "schedule": schedule_settings(schedule)}
        own |= _data_settings(data, cond, batch)
        run.configure(saved, objective, own, parts, configuration)
    source = source_of(data, cond, batch, run.seed, generator)
    portions = run.portions(source)
    portions.skip(done)
    run.resume(objective)
    show = progress if step.ranks.first else False
    _train(run, portions, range(done, steps), every, after, show)
    run.ended()
    return run.history()


def _train(
    run: TrainingRun,
    portions: Portions,
    numbers: range,
    every: int,
    after: After | None,
    progress: bool | None,
) -> None:
    """Make the steps of these numbers, the first of which may lie behind a checkpoint."""
    step = run.step
    ranks = step.ranks
    may_stop = ranks.any(after is not None)
    with Bar(numbers.stop, progress, "step") as tick:
        for number in numbers:
            outcome = step(portions(number), number, run.batches, portions.counts)
            run.note(outcome, number)
            done = number + 1
            stop = may_stop and ranks.any(after is not None and bool(after(done, step.terms)))
            if done % every == 0 or done == numbers.stop or stop:
                run.save(done)
            if tick is not None:
                tick(done)
            if stop:
                break


def _optimiser(
    objective: Any,
    network: nn.Module | None,
    optimiser: Optimizer | str | None,
    optimizer: Optimizer | str | None,
) -> Optimizer:
    """The optimiser that is given, or the one of a name for all that is trained."""
    named = isinstance(optimiser if optimizer is None else optimizer, str)
    module = _trained(objective, network) if named else nn.Identity()
    return optimiser_of(optimiser, optimizer, module)


def _rates(
    optimiser: Optimizer,
    warmup: int,
    schedule: Callable[[int], float] | LRScheduler | None,
    steps: int,
) -> LRScheduler:
    """The schedule of learning rates, made of a warm-up and a function, or one of torch's as it
    is."""
    if not isinstance(schedule, LRScheduler):
        return warm_up(optimiser, warmup, schedule)
    if isinstance(schedule, ReduceLROnPlateau) or schedule.optimizer is not optimiser or warmup:
        raise OdesolveError(
            f"schedule is {type(schedule).__name__}, warmup={warmup}: give a schedule of this "
            "optimiser that needs no measure, and no warmup= beside it"
        )
    total = getattr(schedule, "total_steps", None)
    if total is not None and steps > total:
        raise OdesolveError(
            f"schedule is {type(schedule).__name__} of {total} steps, steps={steps}: give it "
            f"total_steps={steps}"
        )
    return schedule


def _data_settings(data: Any, cond: Any, batch: int) -> dict[str, Any]:
    """The settings of the data that a checkpoint has to share: sizes of a data set, and the names
    of conditions."""
    settings: dict[str, Any] = {}
    if isinstance(data, (Tensor, np.ndarray)) and data.ndim > 0:
        settings |= {"batch": batch, "samples": len(data)}
    names = names_of(cond) or (cond if isinstance(cond, Mapping) else ())
    if names:
        settings["cond"] = [str(name) for name in names]
    return settings


def _check_average(ema: EMA | None, step: OptimiserStep) -> None:
    """Raise OdesolveError for an average of a module that is not trained."""
    if ema is None:
        return
    averaged = {id(p) for p in ema.source.parameters()}
    if averaged.isdisjoint(map(id, step.trained)):
        raise OdesolveError(
            "ema averages a module of which the optimiser trains nothing: give EMA(network) of "
            "the network that is trained"
        )


def _trained(objective: Any, network: nn.Module | None) -> nn.ModuleList:
    """What an optimiser by name trains: the network, and weights that the objective itself
    learns."""
    known = network_of(objective, network, [])
    inside = [m for m in states_of(objective, (known,)).values() if isinstance(m, nn.Module)]
    return nn.ModuleList([known, *(m for m in inside if m.training)])


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
