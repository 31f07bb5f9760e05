"""What a training run has done so far, what of it lies in its folder, and how it stops."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from odesolve.doors.brief import brief
from odesolve.errors import OdesolveError
from odesolve.files import shaped, short
from odesolve.functions.modules import modules_within
from odesolve.training import checkpoint
from odesolve.training.batches import Batch, Cond
from odesolve.training.checkpoint import Checkpoint, TorchRandom
from odesolve.training.ema import tensors_of
from odesolve.training.portions import Portions
from odesolve.training.settings import bare, describe
from odesolve.training.states import has_state, states_of
from odesolve.training.steps import OptimiserStep, Pass

CHECKPOINT = "checkpoint.safetensors"
SKIPPED = 32  # steps of float16 in a row, which take its scale from 2^16 to 2^-16


class NotFinite(ArithmeticError):
    """A loss or its gradient was infinite or NaN; in float16, the gradients of many steps in a row.
    The weights are those of before.

    Attributes: ``step`` the number of steps done, ``batch`` the tensors and ``cond`` the conditions
    of the next step, ``terms`` what the objective returned, ``t`` (B,) its times, ``state`` that of
    the generator before it drew them (None without one), ``file`` where all this was written for
    ``checkpoint.read(file).facts``, None without a folder."""

    def __init__(
        self,
        message: str,
        step: int,
        batch: Batch,
        terms: Any,
        state: Tensor | None,
        file: File | None,
    ):
        super().__init__(message)
        self.step = step
        self.terms = terms
        self.state = state
        self.file = file
        self.batch, self.cond = batch
        self.t = _part(terms, "t")


def _part(terms: Any, name: str) -> Tensor | None:
    """A tensor of what an objective returned, which may be a loss alone."""
    part = None if isinstance(terms, Tensor) else getattr(terms, name, None)
    return part if isinstance(part, Tensor) else None


@brief
@dataclass(frozen=True)
class History:
    """``losses`` and norms of gradients before clipping, (steps,) float64, of every step from the
    first, resumed or not."""

    losses: Tensor = field(repr=False)
    norms: Tensor = field(repr=False)

    def _facts(self) -> dict[str, str]:
        facts = {"steps": str(len(self))}
        if len(self):
            facts |= {
                "loss": f"{float(self.losses[0]):.4g} at first, {self.mean():.4g} over the last "
                "tenth",
                "gradient norm": f"{float(self.norms[-1]):.4g} at last",
            }
        return facts

    def __len__(self) -> int:
        """Steps done."""
        return len(self.losses)

    def mean(self, share: float = 0.1) -> float:
        """The mean loss over the last share of the steps."""
        return float(self.losses[-max(1, round(share * len(self))) :].mean())


class _Facts(Struct):
    """What a run's checkpoint says beside its states."""

    losses: Tensor
    norms: Tensor
    seed: int | None = None


class TrainingRun:
    """What a run has done so far, and its folder."""

    def __init__(self, step: OptimiserStep, generator, folder: File | None, seed: int):
        self.step = step
        self.generator = generator
        self.folder = folder
        self.seed = seed
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.parts: dict[str, Any] = {}
        self.configuration: dict[str, Any] = {}
        self.held: Checkpoint | None = None
        self.facts: Any = None
        self.batches = 1

    def configure(
        self,
        network: nn.Module,
        objective,
        own: dict[str, Any],
        parts: Cond | None,
        further: Cond | None,
    ):
        """Name what the checkpoint holds and what has to be equal to go on from it."""
        step = self.step
        standard = {
            "network": network,
            "ema": step.ema,
            "optimiser": step.optimiser,
            "schedule": step.rates,
            "scaler": step.scaler,
            "generator": self.generator,
            "torch": TorchRandom(),
        }
        _check_parts(parts or {}, standard)
        given = {**standard, **(parts or {})}
        named = {name: part for name, part in given.items() if part is not None}
        self.parts = {**named, **states_of(objective, named.values())}
        # One batch per step is what a checkpoint without a number means: it is left out, so that
        # such a file still agrees.
        if self.batches > 1 or "batches" in self._held_training():
            own = {**own, "batches": self.batches}
        self.configuration = {
            "objective": describe(objective),
            **_trainer(step),
            "generator": self.generator is not None,
            "training": own,
            "configuration": dict(further or {}),
        }

    def alike(self, steps: int, every: int, **own: Any) -> None:
        """Raise OdesolveError on all ranks where one was given other settings than the first."""
        step = self.step
        if step.ranks.count == 1:
            return
        own["schedule"] = schedule_settings(own["schedule"])
        settings = {
            "steps": steps,
            "every": every,
            "folder": self.folder is not None,
            "dtype": str(step.dtype),
            "weights": [[str(p.dtype), *p.shape] for p in step.trained],
        }
        step.ranks.same({**settings, **own, **_trainer(step)})

    def spread(self, accumulate: int | None) -> None:
        """Settle how many batches a step takes: as given, or those of the file, or one per rank;
        and the seed of all ranks."""
        ranks = self.step.ranks
        ranks.alike(0 if self.held is None else self.held.step, "the checkpoint's step")
        known = ranks.count if self.held is None else self._held_training().get("batches", 1)
        whole = isinstance(known, int) and known > 0  # a file may say anything
        self.batches = accumulate or (known if whole else 1)
        self.seed = ranks.seed(self.seed)
        if self.batches < ranks.count and ranks.first:
            warnings.warn(
                f"a step takes accumulate={self.batches} batches, which {ranks.count} ranks "
                f"share: {ranks.count - self.batches} of them add nothing",
                stacklevel=4,
            )

    def portions(self, source: Callable[[int], Batch]) -> Portions:
        """What this rank takes of the batches of each step."""
        ranks = self.step.ranks
        return Portions(source, self.batches, self.seed, self.generator, ranks.rank, ranks.count)

    def _held_training(self) -> dict[str, Any]:
        held = {} if self.held is None else self.held.configuration.get("training", {})
        return held if isinstance(held, dict) else {}

    def saved(self) -> int:
        """How many steps the folder's checkpoint has done; 0 where there is none."""
        if self.folder is None or not os.path.lexists(self.folder / CHECKPOINT):
            return 0
        self.held = held = checkpoint.read(self.folder / CHECKPOINT)
        door = replace(checkpoint.DOOR, name=str(held.file))
        self.facts = facts = shaped(held.facts, _Facts, door)
        if not facts.losses.shape == facts.norms.shape == (held.step,):
            raise door.refuse(
                f"losses are {short(facts.losses)}, norms {short(facts.norms)} "
                f"after {held.step} steps"
            )
        self.seed = self.seed if facts.seed is None else facts.seed
        return held.step

    def resume(self, objective) -> None:
        """Restore the checkpoint. This comes after everything that draws on the way to its step,
        as it sets torch's own generator."""
        step = self.step
        if self.held is not None:
            self.held.restore(self.parts, self.configuration)
            self.losses = self.facts.losses.tolist()
            self.norms = self.facts.norms.tolist()
        if step.ranks.count > 1:
            holders = [*modules_within(objective), *self.parts.values()]
            modules = [m for m in holders if isinstance(m, nn.Module)]
            if step.ema is not None:
                modules.append(step.ema.module)
            tensors = [v for m in modules for v in tensors_of(m).values()]
            step.ranks.spread({id(v): v for v in (*step.trained, *tensors)}.values())

    def save(self, done: int) -> None:
        """Write the checkpoint, where there is a folder; the first rank writes for all."""
        if self.folder is None:
            return
        if self.step.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = {"seed": self.seed, **vars(self.history())}
            file = self.folder / CHECKPOINT
            checkpoint.save(
                file, self.parts, step=done, configuration=self.configuration, facts=facts
            )
        self.step.ranks.wait()

    def history(self) -> History:
        """The losses and norms of all steps."""
        losses = torch.tensor(self.losses, dtype=torch.float64)
        return History(losses, torch.tensor(self.norms, dtype=torch.float64))

    def note(self, outcome: tuple[float, float], done: int) -> None:
        """Remember the loss and the norm of a step. Raises NotFinite where they are not finite."""
        loss, norm = outcome
        left_out = self.step.scaler.is_enabled() and not math.isfinite(norm)
        if not math.isfinite(loss) or not (math.isfinite(norm) or left_out):
            raise self._stopped(outcome, done, "")
        self.losses.append(loss)
        self.norms.append(norm)
        latest = self.norms[-SKIPPED:] if left_out else ()
        if len(latest) == SKIPPED and not any(map(math.isfinite, latest)):
            raise self._stopped(
                outcome, done, f", as of {SKIPPED} steps in a row, which float16 leaves out"
            )

    def ended(self) -> None:
        """Say so where float16 left out every step."""
        if self.norms and not any(math.isfinite(v) for v in self.norms):
            warnings.warn(
                f"the gradients of all {len(self.norms)} steps overflowed float16 and were left "
                "out: nothing is trained yet; give more steps, or dtype=torch.bfloat16",
                stacklevel=4,
            )

    def _stopped(self, outcome: tuple[float, float], done: int, why: str) -> NotFinite:
        """The error of a step, whose batch it saves where there is a folder."""
        loss, norm = outcome
        spoilt = self.step.spoilt()
        file = None if self.folder is None else self._save_spoilt(self.folder, spoilt, done)
        places = ".batch, .t, .terms"
        if file is not None:
            places += f", and checkpoint.read({str(file)!r}).facts"
        return NotFinite(
            f"after {done} steps the loss is {loss:.4g} and its gradient's norm {norm:.4g}{why}; "
            f"the weights are those before: see {places}",
            done,
            spoilt.drawn.batch,
            spoilt.terms,
            spoilt.drawn.state,
            file,
        )

    def _save_spoilt(self, folder: File, spoilt: Pass, done: int) -> File:
        x, cond = spoilt.drawn.batch
        rank = self.step.ranks.rank
        of_rank = f"-rank-{rank}" if rank else ""
        file = folder / f"not-finite-{done}{of_rank}.safetensors"
        facts = {
            "batch": x,
            "cond": _plain(cond or {}),
            "generator": spoilt.drawn.state,
            "t": _part(spoilt.terms, "t"),
            "each": _part(spoilt.terms, "each"),
        }
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(file, {}, step=done, facts=facts)
        return file


def _plain(value: Any) -> Any:
    """Conditions as a checkpoint can hold them."""
    if isinstance(value, (Tensor, *checkpoint.PLAIN)):
        return value
    if isinstance(value, dict):
        return {_plain_key(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return repr(value)


def _plain_key(key: Any) -> Any:
    if isinstance(key, checkpoint.PLAIN):
        return key
    return repr(key)


def _check_parts(parts: Cond, own: dict[str, Any]) -> None:
    """Raise OdesolveError for parts without a state, or under a name that is taken."""
    for name, part in parts.items():
        if name in own:
            raise OdesolveError(
                f"parts has {name!r}, which names what is saved anyway: give it another name"
            )
        if part is not None and not has_state(part):
            raise OdesolveError(
                f"parts[{name!r}] is {short(part)}: give something with "
                "state_dict and load_state_dict"
            )


def _trainer(step: OptimiserStep) -> dict[str, Any]:
    """What moves and averages the weights, as plain values."""
    optimiser = {"kind": type(step.optimiser).__qualname__, **_options(step.optimiser)}
    return {"optimiser": optimiser, "ema": None if step.ema is None else describe(step.ema.profile)}


def _options(optimiser) -> dict[str, Any]:
    """What an optimiser is set to, and its groups where they are set to something else; rates as
    before any schedule."""
    settings = describe(optimiser.defaults)
    groups = [_group_options(group, settings) for group in optimiser.param_groups]
    if all(group == settings for group in groups):
        return settings
    return {**settings, "groups": groups}


def _group_options(group: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    options = {k: describe(v) for k, v in group.items() if k in settings}
    if "lr" in options:
        options["lr"] = describe(group.get("initial_lr", group["lr"]))
    return options


def schedule_settings(schedule: Any) -> Any:
    """A schedule as plain values: its kind, and the settings of one of torch's, without how far it
    has come."""
    if not isinstance(schedule, LRScheduler):
        return describe(schedule)
    moving = ("optimizer", "last_epoch", "base_lrs")
    held = {k: v for k, v in vars(schedule).items() if k not in moving and k[:1] != "_"}
    inner = getattr(schedule, "_schedulers", None)  # of one after another, or all at once
    if inner is not None:
        held |= {
            "schedules": [schedule_settings(each) for each in inner],
            "milestones": getattr(schedule, "_milestones", None),
        }
    return {"kind": type(schedule).__qualname__, **describe(held)}


def _own_network(objective: Any) -> Any:
    """That of the model, the consistency model, the map or the student that an objective trains."""
    names = ("model", "consistency", "flow_map", "student")
    known = (getattr(objective, name, None) for name in names)
    trained = next((v for v in known if v is not None), None)
    net = getattr(getattr(trained, "model", trained), "net", None)
    if getattr(net, "two_times", False):
        return getattr(net, "net", None)
    return net


def network_of(objective: Any, network: nn.Module | None, trained: list[Tensor]) -> nn.Module:
    """The module to save, which holds everything that is trained beside weights that the objective
    itself learns."""
    own = _own_network(objective)
    network = own if network is None else network
    if not isinstance(network, nn.Module):
        raise OdesolveError(
            "what is to be saved is not known: give network=, or an nn.ModuleList of several"
        )
    inside = [m for m in states_of(objective, (network, own)).values() if isinstance(m, nn.Module)]
    held = {id(p) for m in (network, *inside) for p in m.parameters()}
    if any(id(p) not in held for p in trained):
        raise OdesolveError(
            "the optimiser trains weights that the network does not hold: give network= with all "
            "of them"
        )
    return bare(network)


def check_learned(objective: Any, trained: list[Tensor]) -> None:
    """Raise OdesolveError for a weight or an uncertainty that is to be learned and that the
    optimiser does not know."""
    known = {id(p) for p in trained}
    for name in ("uncertainty", "weight"):
        module = getattr(objective, name, None)
        if not isinstance(module, nn.Module):
            continue
        own = {id(p) for p in module.parameters() if p.requires_grad}
        if own and own.isdisjoint(known):
            raise OdesolveError(
                f"the optimiser trains no weight of {name}={type(module).__name__}: give it "
                "[*net.parameters(), *u.parameters()], or its name, as in 'adamw(lr=1e-3)'"
            )
