"""The loop of an adaptive solve: attempts, a check every few of them for samples that are done, and
the removal of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.kernels.control import MAX_CALLS, NFE, ROWS, RUNNING, STATUS, T
from odesolve.ode.batch import Batch, NormBlocks

LEAVE = 0.75  # the batch shrinks once no more than this share of it is running


class Attempts(Protocol):
    """What the loop needs of a method."""

    evaluations: int

    @property
    def last(self) -> Any:
        """The last attempt's result."""

    def attempt(self, batch: Batch) -> None:
        """Make a step of every running sample from its current state, with its error in
        ``batch.norm`` (not finite: the step failed, and the loop tries again with the smallest
        factor)."""

    def current(self, batch: Batch, index: Tensor | None = None) -> Tensor:
        """The current states, once the last attempt has been judged."""
        ...

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""


class Method(Attempts, Protocol):
    """How one attempt is made. ``runge_kutta.RungeKutta`` is the model.

    ``order`` is that of the local error, ``evaluations`` the cost of every attempt (a method whose
    cost varies says 0 and adds to the NFE row of ``batch.state`` itself), ``blocks`` its weights
    and stage times; ``takes_slopes`` says that its drift is dy/dt. An attempt's result, as
    ``interpolant`` takes it, has the states ``y`` before and ``y1`` after it; the method does not
    overwrite it before the host has read it."""

    order: float
    evaluations: int
    blocks: NormBlocks
    takes_slopes: bool

    def start(self, batch: Batch, f0: Tensor) -> None:
        """Take the first state, ``batch.drift.start``, and f there."""

    def replace(self, index: Tensor, y: Tensor) -> None:
        """Give these of the running samples another state after their last accepted attempt."""

    def interpolant(self, attempt: Any, state: Tensor, index: Tensor, batch: Batch) -> Tensor:
        """Coefficients (p + 1, n, ...) of y(t0 + theta h) for these samples of an accepted attempt;
        ``state`` is the control state after it. Its evaluations of f are added to the NFE row of
        ``batch.state``."""
        ...


class Judged(Protocol):
    """The running samples on a device (``Batch``), or one system on the host (``single.Single``),
    as one attempt sees them.

    ``whole`` says that no sample has left, ``state`` is the control state that a watcher gets."""

    @property
    def whole(self) -> bool: ...

    @property
    def state(self) -> Any: ...

    def control(self) -> None:
        """Judge the last attempt, and choose the step of the next."""


class Watcher(Protocol):
    """An observer of every attempt: outputs, dense output, events."""

    def note(self, attempt: Any, state: Tensor) -> None:
        """Remember an attempt and the control state after it."""

    def look(self, method: Any, batch: Batch) -> None:
        """Evaluate the attempts since the last look; may end samples."""

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""


class Results:
    """The results of samples: their last state and their control state. Both come from the caller,
    or start like the first state and are collected."""

    def __init__(self, y: Tensor, state: Tensor | None = None):
        self.y = torch.empty_like(y) if state is None else y
        wide = {"dtype": torch.float64, "device": y.device}
        self.state = torch.zeros(ROWS, y.shape[0], **wide) if state is None else state

    def collect(self, method: Attempts, batch: Batch, index: Tensor | None = None) -> None:
        """Take the current state of these of the running samples."""
        rows = batch.rows if index is None else batch.rows[index]
        self.y[rows] = method.current(batch, index)
        self.state[:, rows] = batch.state if index is None else batch.state[:, index]


def integrate(
    method: Attempts,
    batch: Batch,
    watcher: Watcher | None = None,
    sync: int = 1,
    compact: bool = True,
    tick: Callable[[Tensor], None] | None = None,
    max_calls: float = math.inf,
) -> Results:
    """Run until every sample has ended. ``batch.begin`` and ``method.start`` have been called.

    The host reads the number of ended samples from the device once in ``sync`` attempts; nothing
    else waits for the device. At each such check ``tick`` gets the times of all samples, and a
    sample ends if its next attempt would take it beyond ``max_calls`` evaluations. Raises
    OdesolveError if f fails once the batch is smaller than it was."""
    results = Results(batch.drift.start)
    ended_before = 0
    times = batch.state[T].clone()
    while True:
        attempts(method, batch, watcher, sync)
        if max_calls < math.inf:
            _end_beyond(batch, max_calls - max(method.evaluations, 1))
        if tick is not None:
            times[batch.rows] = batch.state[T]
            tick(times)
        ended = int(torch.count_nonzero(batch.state[STATUS]))
        if ended == len(batch):
            results.collect(method, batch)
            return results
        if compact and ended > ended_before and len(batch) - ended <= LEAVE * len(batch):
            running = batch.state[STATUS] == RUNNING
            results.collect(method, batch, (~running).nonzero().flatten())
            index = running.nonzero().flatten()
            for part in (method, batch, *([watcher] if watcher is not None else [])):
                part.keep(index)
            ended = 0
        ended_before = ended


def attempts(method: Any, batch: Judged, watcher: Any, count: int = 1) -> None:
    """Make a number of attempts, each judged before the next, then let the watcher look at them."""
    for _ in range(count):
        try:
            method.attempt(batch)
        except Exception as e:
            if batch.whole:
                raise
            raise _shrunk(batch, e) from e
        batch.control()
        if watcher is not None:
            watcher.note(method.last, batch.state)
    if watcher is not None:
        watcher.look(method, batch)


def _end_beyond(batch: Batch, most: float) -> None:
    """End the samples that have made more than this number of evaluations."""
    over = (batch.state[STATUS] == RUNNING) & (batch.state[NFE] > most)
    batch.state[STATUS] = batch.state[STATUS].masked_fill(over, MAX_CALLS)


def _shrunk(batch: Any, error: Exception) -> OdesolveError:
    total = batch.drift.start.shape[0]
    return OdesolveError(
        f"f failed ({type(error).__name__}: {error}) after the batch had shrunk from {total} "
        f"samples to the {len(batch)} still "
        "running: give tensors that f needs for every sample as args=(...), which are cut along, "
        "or compact=False"
    )
