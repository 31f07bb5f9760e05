"""A small training loop, and the pieces of it that fit into another: batches, warm-up, the stop at
a loss that is not finite."""

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
from odesolve.training.run import History, NotFinite, Run, check_learned, network_of, rates_told
from odesolve.training.states import states_of
from odesolve.training.steps import Step

__all__ = ["History", "NotFinite", "fit", "warm_up"]

HALVES = (torch.float16, torch.bfloat16)
FACTOR = "a finite number of at least 0"
After = Callable[[int, Any], bool | None]


@meant(steps=count(0), then=takes("step"))
def warm_up(
    optimiser: Optimizer, steps: int, then: Callable[[int], float] | None = None
) -> LambdaLR:
    """A schedule of learning rates: up in a straight line over so many steps, the last of which has
    the whole rate.

    ``then`` gives a further factor by the step 0, 1, ..., such as a decay. Step it once after each
    step of the optimiser."""
    if steps < 0:
        raise OdesolveError(f"warmup={steps}: give a number of steps, 0 for none")

    def factor(k: int) -> float:
        share = (
            1.0
            if then is None
            else real(f"the schedule's factor of step {k}", then(k), FACTOR, 0.0)
        )
        return min(1.0, (k + 1) / max(1, steps)) * share

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

    Run again with the same arguments, or more steps, it goes on from the checkpoint of its folder,
    bitwise as if it had never stopped; of iterables this holds where they yield the same batches
    again, as a ``DataLoader`` does: the order of its samples is drawn from the run's own seed. What
    the objective remembers (``times.Importance``, weights that it learns, averaged targets) is
    saved with the rest.

    On several ranks of ``torch.distributed`` each takes batches of its own; gradients are averaged
    here, with a network in ``DistributedDataParallel`` or a plain one, and the first rank writes.
    Two ranks train as one process with ``accumulate=2`` does, to rounding, and another number of
    ranks may go on with the checkpoint.

    Args:
        objective: any of ``odesolve.objectives``, or a function (x, ..., generator=) of a batch,
            and of ``cond=`` where there are conditions, that returns the loss or something with a
            ``loss``; one with an argument ``step`` is told its number.
        data: a data set (N, ...), of which ``Batches`` are made; batches x, (x, ..., {conditions}),
            (x, ..., y) or dicts, begun anew where they end; or a function of the generator that
            draws one. They are brought to the device of the weights.
        steps: in all, those of the checkpoint among them.
        optimiser: of all weights that are trained, or the name of one for those of the network,
            such as "adamw(lr=1e-3)"; ``optimizer`` is the same.
        network: what to save: by default the network that the objective trains; an objective that
            is a function needs it, where there is a folder or the optimiser is a name.
        cond: conditions of the data set, see ``Batches``; or the names of those that batches hold:
            "label" for (x, y).
        batch: how many samples to take of a data set.
        accumulate: batches of a step, whose gradients are averaged, in all; by default one a rank,
            or as the checkpoint has it. Where there are several, each has seeds of its own, for
            torch's own generator as well.
        ema: updated after each step.
        warmup, schedule: see ``warm_up``; or a schedule of ``torch.optim.lr_scheduler`` of this
            optimiser.
        clip: the most that the norm of the gradient may be; a longer one is scaled.
        dtype: bfloat16 or float16 of autocast; the losses of float16 are scaled, and steps that
            overflow left out.
        generator: of the batches and of all that the objective draws; by default torch's own.
        folder: for the checkpoint, every so many steps and at the end, and the batch where a loss
            is not finite.
        parts: further things with a state to save, as for ``checkpoint.save``.
        configuration: further plain values that a run has to share with the checkpoint.
        after: called with the number of steps done and the terms; a true value ends the training.
        progress: show a bar.

    Raises NotFinite, before the weights are touched, where a loss or the gradient's norm is not
    finite, or 32 steps of float16 in a row were left out; OdesolveError for arguments that cannot
    be used and a checkpoint of another configuration, whose functions are compared by their code;
    ImportError for a folder without safetensors."""
    if dtype not in (None, *HALVES):
        raise OdesolveError(
            f"dtype={dtype}: give torch.bfloat16 or torch.float16, or None for that of the weights"
        )
    folder = None if folder is None else file_name("folder", folder, "a folder")
    named = isinstance(optimiser if optimizer is None else optimizer, str)
    chosen = optimiser_of(
        optimiser, optimizer, _trained(objective, network) if named else nn.Identity()
    )
    step = Step(objective, chosen, _rates(chosen, warmup, schedule, steps), ema, clip, dtype)
    check_learned(objective, step.trained)
    _check_average(ema, step)
    run = Run(step, generator, None if folder is None else File(folder), _seed(generator))
    run.alike(
        steps,
        every,
        folder,
        batch=batch,
        accumulate=accumulate,
        warmup=warmup,
        clip=clip,
        schedule=schedule,
    )
    done = run.found()
    run.spread(accumulate)
    if folder is not None:
        known = network_of(objective, network, step.trained)
        own = {
            "warmup": warmup,
            "clip": clip,
            "dtype": str(dtype),
            "schedule": rates_told(schedule),
        }
        run.configure(known, objective, own | _batches(data, cond, batch), parts, configuration)
    source = source_of(data, cond, batch, run.seed, generator)
    ranks = step.ranks
    may_stop = ranks.any(after is not None)
    portions = Portions(source, run.batches, run.seed, generator, ranks.rank, ranks.count)
    portions.skip(done)
    run.resume(objective)
    with Bar(steps, progress if ranks.first else False, "step") as tick:
        while done < steps:
            run.note(step(portions(done), done, run.batches, portions.counts), done)
            done += 1
            stop = may_stop and ranks.any(after is not None and bool(after(done, step.terms)))
            if done % every == 0 or done == steps or stop:
                run.save(done)
            if tick is not None:
                tick(done)
            if stop:
                break
    run.ended()
    return run.history()


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
        told = "give one of this optimiser's that needs no measure, and no warmup= beside it"
        raise OdesolveError(f"schedule is {type(schedule).__name__}, warmup={warmup}: {told}")
    total = getattr(schedule, "total_steps", None)
    if total is not None and steps > total:
        raise OdesolveError(
            f"schedule is {type(schedule).__name__} of {total} steps, steps={steps}: give it "
            f"total_steps={steps}"
        )
    return schedule


def _batches(data: Any, cond: Any, batch: int) -> dict[str, Any]:
    """What a checkpoint has to share of a data set, and the names of conditions where there are
    any."""
    rows = isinstance(data, (Tensor, np.ndarray)) and data.ndim > 0
    names = [*map(str, names_of(cond) or (cond if isinstance(cond, Mapping) else ()))]
    return ({"batch": batch, "samples": len(data)} if rows else {}) | (
        {"cond": names} if names else {}
    )


def _check_average(ema: EMA | None, step: Step) -> None:
    """Raise OdesolveError for an average of a module that is not trained."""
    if ema is not None and {id(p) for p in step.trained}.isdisjoint(
        map(id, ema.source.parameters())
    ):
        raise OdesolveError(
            "ema averages a module of which the optimiser trains nothing: give EMA(network) of "
            "the one trained"
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
