"""Which implementation of the ops runs: one schema, one choice a process, said out loud."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from odesolve.kernels import reference
from torch import Tensor

SCHEMA = {"combine": "combine(Tensor(a!)[] outs, Tensor[] ins, float[][] weights, int[] base) -> ()"}
BACKENDS: dict[str, ModuleType] = {"reference": reference}


@dataclass(frozen=True)
class Backend:
    """The active backend, the ops it serves, and why each other known backend is not in use."""

    name: str
    ops: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        return "; ".join([f"{self.name} ({', '.join(self.ops)})", *(f"{k}: {v}" for k, v in self.refused.items())])


@functools.lru_cache(1)
def backend() -> Backend:
    """The backend in use; ``ODESOLVE_BACKEND`` forces one. Raises RuntimeError if the forced one is not there."""
    asked = os.environ.get("ODESOLVE_BACKEND", "reference")
    if asked not in BACKENDS:
        raise RuntimeError(f"ODESOLVE_BACKEND={asked!r} is not available: choose from {', '.join(BACKENDS)}")
    return Backend(asked, tuple(SCHEMA), {k: f"ODESOLVE_BACKEND={asked}" for k in BACKENDS if k != asked})


@functools.lru_cache(len(SCHEMA))
def op(name: str):
    """The active implementation of an op."""
    return getattr(BACKENDS[backend().name], name)


def combine(outs: Sequence[Tensor], ins: Sequence[Tensor], weights, base: Sequence[int]) -> None:
    """outs[i] <- ins[base[i]] + sum_j weights[i][j] * ins[j]; see ``reference.combine`` for the contract."""
    op("combine")(outs, ins, weights, base)
