"""The loop over the steps of a fixed grid, and the samples that become infinite or NaN on the
way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odesolve.kernels.control import DIVERGED, NFE, OK, ROWS, STATUS, STEPS, T
from odesolve.kernels.dispatch import combine
from odesolve.kernels.reference import ErrorNorm

# (number of the step, state before it, memory of the state after it, norm of that one): a step
Advance = Callable[[int, Tensor, Tensor, ErrorNorm], None]


class Alive:
    """Which samples are finite. The others keep their last finite state and its time. A step
    evaluates f ``drifts`` times."""

    def __init__(self, like: Tensor, drifts: int):
        self.drifts = drifts
        self.step = 0
        wide = {"dtype": torch.float64, "device": like.device}
        self.state = torch.zeros(ROWS, like.shape[0], **wide)
        self.state[STATUS] = OK
        self.norm = torch.zeros(like.shape[0], **wide)
        self.all = True

    def note(self, t: float | Tensor, old: Tensor, new: Tensor) -> None:
        """After a step from t (a number, or one per sample) whose states have these norms: samples
        that are not finite go back to the old state, and stay.

        On the CPU this costs only a check while all are finite. On other devices the host does not
        wait, at the cost of one pass over the state."""
        self.step += 1
        finite = self.norm.isfinite()
        if self.all and self.norm.is_cpu and bool(finite.all()):
            return
        self.all = False
        lost = ~finite & (self.state[STATUS] == OK)
        self.state[T] = torch.where(lost, t, self.state[T])
        self.state[STEPS] = self.state[STEPS].masked_fill(lost, self.step - 1)
        self.state[NFE] = self.state[NFE].masked_fill(lost, self.step * self.drifts)
        self.state[STATUS] = self.state[STATUS].masked_fill(lost, DIVERGED)
        ok = (self.state[STATUS] == OK).double()
        choice = torch.stack([ok, 1 - ok], 1)[:, None]
        combine((new,), (new, old), choice, (-1,))

    def masked(self, y: Tensor) -> Tensor:
        """The states, with NaN for samples that have ended."""
        if self.all:
            return y
        ended = self.state[STATUS] == DIVERGED
        return y.masked_fill(ended.view(-1, *[1] * (y.dim() - 1)), torch.nan)

    def finish(self, t: float | Tensor) -> Tensor:
        """The control state of a solve that went on to t."""
        ok = self.state[STATUS] == OK
        values = {T: t, STEPS: self.step, NFE: self.step * self.drifts}
        for row, value in values.items():
            self.state[row] = torch.where(ok, value, self.state[row])
        return self.state


class Marched(NamedTuple):
    """The result of a march: states (n, B, ...) at the output times, NaN for samples that had
    ended; the last finite state (B, ...) of each sample; the control state."""

    y: Tensor
    last: Tensor
    state: Tensor


def march(
    start: Tensor,
    advance: Advance,
    times: Sequence[float | Tensor],
    passed: Sequence[int],
    drifts: int,
    before: Tensor | None = None,
    tick: Callable[[float], None] | None = None,
) -> Marched:
    """Make all steps of a grid.

    Two tensors take turns as the old and the new state: no memory of the state's size is allocated
    after the first step.

    Args:
        start: the first state.
        advance: makes a step.
        times: the ends of all steps (N + 1,).
        passed: the number of steps before every output time.
        drifts: evaluations of f in a step.
        before: gets the states (N, B, ...) before all steps.
    """
    y = start.clone()
    new = torch.empty_like(y)
    out = start.new_empty(len(passed), *start.shape)
    out[0] = y
    alive = Alive(y, drifts)
    norm = ErrorNorm(alive.norm, 0.0, 1.0)
    place = 1
    for k in range(passed[-1]):
        if before is not None:
            before[k] = y
        advance(k, y, new, norm)
        alive.note(times[k], y, new)
        y, new = new, y
        if passed[place] == k + 1:
            out[place] = alive.masked(y)
            place += 1
        if tick is not None:
            tick(k + 1)
    return Marched(out, y, alive.finish(times[-1]))
