"""Counting and timing network evaluations from outside: a sampler's actual calls, whatever its plan
says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.model.model import Model


class Counter:
    """Evaluations of a network on a batch of this size, and the seconds spent inside it.

    An evaluation is ``batch`` rows: a guided call that stacks both branches has twice as many and
    counts twice. With ``timed`` a CUDA device is synchronised around every call, so that its work
    is charged to the network."""

    def __init__(self, batch: int, timed: bool = True):
        self.batch = batch
        self.timed = timed
        self.rows = 0
        self.seconds = 0.0

    @property
    def calls(self) -> float:
        """Evaluations so far; whole unless the network was called on a part of the batch."""
        calls = self.rows / self.batch
        return int(calls) if calls.is_integer() else calls

    def around(self, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same function with its calls counted."""

        def watched(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.rows += x.shape[0]
            if not self.timed:
                return call(x, *args, **kwargs)
            start = clock(x.device)
            out = call(x, *args, **kwargs)
            self.seconds += clock(x.device) - start
            return out

        return watched

    def watch(self, model: Model) -> Model:
        """The model with its network (and its classifier, if it is guided by one) watched by this
        counter."""
        return model.with_network(model.network.around(self.around))


def clock(device: torch.device) -> float:
    """Wall time in seconds, after the work queued on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
