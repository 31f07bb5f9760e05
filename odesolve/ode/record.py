"""A record of the accepted steps of an adaptive solve, so that a later pass can repeat them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.kernels.control import H0, STEPS, T0, TOOK
from odesolve.ode.adaptive_loop import Method
from odesolve.ode.batch import Batch


class Recorder:
    """A watcher that stores, for every accepted step of every sample, its beginning, its length and
    the state before it."""

    def __init__(self, rows: Tensor):
        self.rows = rows
        self.noted = []

    def note(self, attempt: Any, state: Tensor) -> None:
        """Keep an attempt of the running samples whose control state is now ``state``."""
        took = (state[TOOK] > 0).nonzero().flatten()
        number = state[STEPS, took].long() - 1
        self.noted.append(
            (self.rows[took], number, state[T0, took], state[H0, took], attempt.y[took])
        )

    def look(self, method: Method, batch: Batch) -> None:
        """Nothing to do."""

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        self.rows = self.rows[index]

    def table(self, last: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times and lengths (K, B) and states (K, B, ...) of the k-th step of every sample.

        A sample that made less than K steps stays at its last state (B, ...) and time (B,), with
        steps of length 0."""
        rows, number, t0, h, y = (torch.cat(part) for part in zip(*self.noted, strict=True))
        count = int(number.max()) + 1 if len(number) else 0
        times = t.expand(count, -1).clone()
        lengths = t.new_zeros(count, len(t))
        states = last.expand(count, *last.shape).clone()
        times[number, rows], lengths[number, rows], states[number, rows] = t0, h, y
        return times, lengths, states
