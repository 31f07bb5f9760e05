"""What a training run has done so far, what of it lies in its folder, and how it stops."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from odesolve.errors import OdesolveError
from odesolve.files import shaped, short
from odesolve.functions.modules import modules_within
from odesolve.training import checkpoint
from odesolve.training.batches import Batch, Cond
from odesolve.training.checkpoint import Checkpoint, TorchRandom
from odesolve.training.ema import tensors_of
from odesolve.training.settings import bare, describe
from odesolve.training.states import has_state, states_of
from odesolve.training.steps import Step

CHECKPOINT = "checkpoint.safetensors"
SKIPPED = 32  # steps of float16 in a row, which take its scale from 2^16 to 2^-16


class NotFinite(ArithmeticError):
    """A loss, or its gradient, was infinite or NaN, in float16 gradients of many steps in a row;
    the weights are those before.

    Attributes: ``step`` how many were done, ``batch`` the tensors and ``cond`` the conditions of
    the next, ``terms`` what the objective returned, ``t`` (B,) the times, ``state`` of the
    generator before it drew them (None without one), ``file`` where all this was written for
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
    found = None if isinstance(terms, Tensor) else getattr(terms, name, None)
    return found if isinstance(found, Tensor) else None


@dataclass(frozen=True)
class History:
    """``losses`` and norms of gradients before clipping, (steps,) float64, of every step from the
    first, resumed or not."""

    losses: Tensor = field(repr=False)
    norms: Tensor = field(repr=False)

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


class Run:
    """What a run has done so far, and its folder."""

    def __init__(self, step: Step, generator, folder: File | None, seed: int):
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
        """Name what the checkpoint holds and what it has to share."""
        step = self.step
        own_parts = {
            "network": network,
            "ema": step.ema,
            "optimiser": step.optimiser,
            "schedule": step.rates,
        }
        own_parts |= {"scaler": step.scaler, "generator": self.generator, "torch": TorchRandom()}
        _check_parts(parts or {}, own_parts)
        named = {
            name: part for name, part in {**own_parts, **(parts or {})}.items() if part is not None
        }
        self.parts = {**named, **states_of(objective, named.values())}
        own = own | (
            {"batches": self.batches}
            if self.batches > 1 or "batches" in self._held_training()
            else {}
        )
        self.configuration = {
            "objective": describe(objective),
            **_trainer(step),
            "generator": self.generator is not None,
            "training": own,
            "configuration": dict(further or {}),
        }

    def alike(self, steps: int, every: int, folder: Any, **own: Any) -> None:
        """Raise OdesolveError on all ranks where one was given other settings than the first."""
        step = self.step
        if step.ranks.count > 1:
            own["schedule"] = rates_told(own["schedule"])
            weights = [[str(p.dtype), *p.shape] for p in step.trained]
            kinds = {"folder": folder is not None, "dtype": str(step.dtype), "weights": weights}
            step.ranks.same({"steps": steps, "every": every, **kinds, **own, **_trainer(step)})

    def spread(self, accumulate: int | None) -> None:
        """Settle how many batches a step takes: those of the file, or as asked, or one a rank; and
        the seed of all ranks."""
        ranks = self.step.ranks
        ranks.alike(0 if self.held is None else self.held.step, "the checkpoint's step")
        held = self._held_training().get("batches", 1) if self.held is not None else ranks.count
        self.batches = accumulate or (held if isinstance(held, int) and held > 0 else 1)
        self.seed = ranks.seed(self.seed)
        if self.batches < ranks.count and ranks.first:
            told = (
                f"a step takes accumulate={self.batches} batches, which {ranks.count} ranks share"
            )
            warnings.warn(f"{told}: {ranks.count - self.batches} of them add nothing", stacklevel=4)

    def _held_training(self) -> dict[str, Any]:
        held = {} if self.held is None else self.held.configuration.get("training", {})
        return held if isinstance(held, dict) else {}

    def found(self) -> int:
        """Look for the folder's checkpoint, and return its step."""
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
        """Go to where it is: after all that is drawn on the way there, as torch's own generator is
        set."""
        if self.held is not None:
            self.held.restore(self.parts, self.configuration)
            self.losses, self.norms = self.facts.losses.tolist(), self.facts.norms.tolist()
        if self.step.ranks.count > 1:
            averaged = [] if self.step.ema is None else [self.step.ema.module]
            modules = [
                m
                for m in (*modules_within(objective), *self.parts.values())
                if isinstance(m, nn.Module)
            ]
            held = [v for m in modules + averaged for v in tensors_of(m).values()]
            self.step.ranks.spread({id(v): v for v in (*self.step.trained, *held)}.values())

    def save(self, done: int) -> None:
        """Write the checkpoint, where there is a folder; one rank does for all."""
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
        """Of all steps."""
        return History(*(torch.tensor(v, dtype=torch.float64) for v in (self.losses, self.norms)))

    def note(self, found: tuple[float, float], done: int) -> None:
        """Remember a step. Raises NotFinite."""
        loss, norm = found
        left_out = self.step.scaler.is_enabled() and not math.isfinite(norm)
        if not math.isfinite(loss) or not (math.isfinite(norm) or left_out):
            raise self._stopped(found, done, "")
        self.losses.append(loss)
        self.norms.append(norm)
        latest = self.norms[-SKIPPED:] if left_out else ()
        if len(latest) == SKIPPED and not any(map(math.isfinite, latest)):
            raise self._stopped(
                found, done, f", as of {SKIPPED} steps in a row, which float16 leaves out"
            )

    def ended(self) -> None:
        """Say so where float16 left out every step."""
        if self.norms and not any(math.isfinite(v) for v in self.norms):
            told = (
                f"the gradients of all {len(self.norms)} steps overflowed float16 and were left out"
            )
            warnings.warn(
                f"{told}: nothing is trained yet; give more steps, or dtype=torch.bfloat16",
                stacklevel=4,
            )

    def _stopped(self, found: tuple[float, float], done: int, why: str) -> NotFinite:
        """The error of a step whose batch it saves."""
        told = (
            f"after {done} steps the loss is {found[0]:.4g} and its gradient's norm "
            f"{found[1]:.4g}{why}"
        )
        spoilt = self.step.spoilt()
        file = None
        rank = self.step.ranks.rank
        batch = spoilt.drawn.batch
        terms = spoilt.terms
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"not-finite-{done}{f'-rank-{rank}' if rank else ''}.safetensors"
            facts = {
                "batch": batch[0],
                "cond": _plain(batch[1] or {}),
                "generator": spoilt.drawn.state,
            }
            facts |= {name: _part(terms, name) for name in ("t", "each")}
            checkpoint.save(file, {}, step=done, facts=facts)
        at = ".batch, .t, .terms"
        held = at if file is None else f"{at}, and checkpoint.read({str(file)!r}).facts"
        return NotFinite(
            f"{told}; the weights are those before: see {held}",
            done,
            batch,
            terms,
            spoilt.drawn.state,
            file,
        )


def _plain(value: Any) -> Any:
    """Conditions as a checkpoint can hold them."""
    if isinstance(value, (Tensor, *checkpoint.PLAIN)):
        return value
    if isinstance(value, dict):
        return {
            k if isinstance(k, checkpoint.PLAIN) else repr(k): _plain(v) for k, v in value.items()
        }
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else repr(value)


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


def _trainer(step: Step) -> dict[str, Any]:
    """What moves and averages the weights, as plain values."""
    optimiser = {"kind": type(step.optimiser).__qualname__, **_options(step.optimiser)}
    return {"optimiser": optimiser, "ema": None if step.ema is None else describe(step.ema.profile)}


def _options(optimiser) -> dict[str, Any]:
    """What an optimiser is set to, and its groups where they are set to something else; rates as
    before any schedule."""
    told = describe(optimiser.defaults)
    groups = [
        {
            k: describe(group.get("initial_lr", v) if k == "lr" else v)
            for k, v in group.items()
            if k in told
        }
        for group in optimiser.param_groups
    ]
    return told if all(group == told for group in groups) else {**told, "groups": groups}


def rates_told(schedule: Any) -> Any:
    """A schedule as plain values: what it is, and the settings of one of torch's, not how far it
    has come."""
    if not isinstance(schedule, LRScheduler):
        return describe(schedule)
    moving = ("optimizer", "last_epoch", "base_lrs")
    held = {k: v for k, v in vars(schedule).items() if k not in moving and k[:1] != "_"}
    inner = getattr(schedule, "_schedulers", None)  # of one after another, or all at once
    if inner is not None:
        held |= {
            "schedules": [rates_told(each) for each in inner],
            "milestones": getattr(schedule, "_milestones", None),
        }
    return {"kind": type(schedule).__qualname__, **describe(held)}


def _own_network(objective: Any) -> Any:
    """That of the model, the consistency model, the map or the student that an objective trains."""
    known = (
        getattr(objective, name, None) for name in ("model", "consistency", "flow_map", "student")
    )
    trained = next((v for v in known if v is not None), None)
    net = getattr(getattr(trained, "model", trained), "net", None)
    return getattr(net, "net", None) if getattr(net, "two_times", False) else net


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
        own = (
            {id(p) for p in module.parameters() if p.requires_grad}
            if isinstance(module, nn.Module)
            else set()
        )
        if own and own.isdisjoint(known):
            told = (
                "give it [*net.parameters(), *u.parameters()], or its name, as in 'adamw(lr=1e-3)'"
            )
            raise OdesolveError(
                f"the optimiser trains no weight of {name}={type(module).__name__}: {told}"
            )
