"""One step of an optimiser, and all that belongs to it."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from odesolve.errors import OdesolveError
from odesolve.functions.modules import modules_within
from odesolve.training.batches import moved
from odesolve.training.ema import EMA
from odesolve.training.portions import Drawn
from odesolve.training.ranks import Ranks
from odesolve.training.states import takes_step


@dataclass
class Pass:
    """One batch of a step: its loss, and the norm of the gradients so far where more batches
    follow."""

    drawn: Drawn
    terms: Any
    loss: Tensor
    norm: Tensor | None = None


class OptimiserStep:
    """One step of a training: the losses of its batches, their mean gradient, a step of the
    optimiser, of its rates and of the average."""

    def __init__(
        self,
        objective: Callable[..., Any],
        optimiser: Optimizer,
        rates: LRScheduler,
        ema: EMA | None,
        clip: float | None,
        dtype: torch.dtype | None,
    ):
        self.objective = objective
        self.numbered = takes_step(objective)
        self.optimiser = optimiser
        self.rates = rates
        self.ema = ema
        self.clip = clip
        self.dtype = dtype
        self.trained = [p for group in optimiser.param_groups for p in group["params"]]
        self.device = self.trained[0].device
        _check_weights(self.trained, dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        self.ranks = Ranks(self.device)
        self.passes: list[Pass] = []

    @property
    def terms(self) -> Any:
        """What the objective returned last."""
        return self.passes[-1].terms

    def __call__(
        self,
        drawn: Iterable[Drawn],
        step: int,
        count: int,
        counts: bool,
    ) -> tuple[float, float]:
        """The loss and the gradient's norm of ``count`` batches; the weights move only where both
        are finite."""
        own = {"step": step} if self.numbered else {}
        self.passes = []
        with contextlib.ExitStack() as stack:
            for module in wrapped(self.objective) if self.ranks.count > 1 else ():
                stack.enter_context(module.no_sync())
            for each in drawn:
                if self.passes:
                    self.passes[-1].norm = self._norm()
                self._gradient(each, own, count)
        loss = self._shared(count, counts)
        if all(p.grad is None for p in self.trained):
            raise OdesolveError(
                "no weight of the optimiser has a gradient of this loss: give an optimiser of the "
                "network that the objective calls"
            )
        self.scaler.unscale_(self.optimiser)
        total = self._norm()
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, self.clip, total)
        norm = float(total)
        scaled = self.scaler.is_enabled()
        if math.isfinite(loss) and (scaled or math.isfinite(norm)):
            self._move(scaled)
        return loss, norm

    def spoilt(self) -> Pass:
        """The batch that spoilt the loss or the gradient: the first that is not finite, or the
        last."""
        for each in self.passes:
            values = [float(v) for v in (each.loss, each.norm) if v is not None]
            if not all(map(math.isfinite, values)):
                return each
        return self.passes[-1]

    def _gradient(self, drawn: Drawn, own: dict[str, Any], count: int) -> None:
        """Add a batch's share of the gradient."""
        x, cond = moved(drawn.batch, self.device)
        own = own if cond is None else {**own, "cond": cond}
        if len(x) > 1:
            _check_several(self.objective, len(x), own)
        with self._precision():
            try:
                terms = self.objective(*x, generator=drawn.generator, **own)
            except TypeError as error:
                _check_called(self.objective, len(x), own, error)
                raise
        loss = _loss_of(terms)
        if not self.passes:
            self.optimiser.zero_grad()
        self.scaler.scale(loss if count == 1 else loss / count).backward()
        self.passes.append(Pass(drawn, terms, loss.detach()))

    def _precision(self) -> Any:
        """The context in which the objective computes."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _shared(self, count: int, counts: bool) -> float:
        """The mean loss of all batches, their mean gradient on every rank."""
        if self.ranks.count == 1:
            return sum(float(p.loss) for p in self.passes) / count
        if not counts:
            for p in self.trained:
                p.grad = None
        self.ranks.add_gradients(self.trained)
        losses = [float(p.loss) for p in self.passes] if counts else [0.0]
        return self.ranks.sum(sum(losses)) / count

    def _norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])

    def _move(self, scaled: bool) -> None:
        before = self.scaler.get_scale() if scaled else 0.0
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if scaled and self.scaler.get_scale() < before:
            return  # the gradients of float16 overflowed: the optimiser made no step
        self.rates.step()
        if self.ema is not None:
            self.ema.update()


def _check_several(objective: Callable[..., Any], n: int, own: Mapping[str, Any]) -> None:
    """Raise OdesolveError where a batch holds more tensors than the objective takes."""
    try:
        inspect.signature(objective).bind(*range(n), generator=None, **own)
    except TypeError:
        raise OdesolveError(
            f"a batch holds {n} tensors, which are not what the objective takes: name the "
            "conditions among them, as in cond='label' for (x, y)"
        ) from None
    except ValueError:  # of C, and others that do not say
        return


def _check_called(
    objective: Callable[..., Any],
    n: int,
    own: Mapping[str, Any],
    error: TypeError,
) -> None:
    """Raise OdesolveError where the error is that of a call which does not fit the objective."""
    if isinstance(error, OdesolveError):
        return
    called = ", ".join(["x"] * n + [f"{name}=" for name in ("generator", *own)])
    try:
        inspect.signature(objective).bind(*range(n), generator=None, **own)
    except TypeError:
        raise OdesolveError(
            f"objective does not fit its call ({called}): {error}; let it take these"
        ) from error
    except ValueError:  # of C, and others that do not say
        return


def _check_weights(weights: list[Tensor], dtype: torch.dtype | None) -> None:
    """Raise OdesolveError for weights that no step can move."""
    if any(p.is_meta for p in weights):
        raise OdesolveError(
            "weights are on the meta device, without numbers: give "
            "network.to_empty(device='cpu'), initialise it, and make the optimiser of its "
            "weights then"
        )
    if dtype is torch.float16 and any(p.dtype is torch.float16 for p in weights):
        raise OdesolveError(
            "weights are float16, and their gradients cannot be scaled: keep them in float32 "
            "beside dtype=torch.float16"
        )


def wrapped(objective: Any) -> list[DistributedDataParallel]:
    """The networks of an objective that share gradients among ranks themselves."""
    inside = [m for given in modules_within(objective) for m in given.modules()]
    return [m for m in inside if isinstance(m, DistributedDataParallel)]


def _loss_of(terms: Any) -> Tensor:
    """The loss that an objective returned. Raises OdesolveError for one that cannot be trained
    by."""
    loss = terms if isinstance(terms, Tensor) else getattr(terms, "loss", None)
    if not isinstance(loss, Tensor) or loss.dim():
        raise OdesolveError(
            f"the objective returned {_described(terms)}: return Terms, whose loss is one number, "
            "or that number"
        )
    if not loss.requires_grad or loss.is_complex():
        fault = "complex" if loss.is_complex() else "of no weight: it has no gradient"
        raise OdesolveError(
            f"the loss is {fault}: let the objective compute a real one from weights that are "
            "trained, where gradients are on"
        )
    return loss


def _described(terms: Any) -> str:
    if isinstance(terms, Tensor):
        return f"numbers of shape {tuple(terms.shape)}"
    return type(terms).__name__
