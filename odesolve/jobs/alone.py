"""Every process of a job works at its own batches: no call of a network may wait for another
process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist

from odesolve.errors import OdesolveError
from odesolve.jobs.densities import device_of
from odesolve.model.model import Model
from odesolve.process.launch import own_device

INSTEAD = (
    "gather the weights into a plain network on every process, or call ode.distributed.{} over "
    "mesh(time=) all ranks"
)


@contextmanager
def alone(name: str, *called: Any) -> Iterator[None]:
    """Within, DistributedDataParallel is off in all that these models and functions hold. Raises
    OdesolveError for networks whose weights are cut over ranks."""
    with ExitStack() as stack:
        if dist.is_available() and dist.is_initialized():  # before that there are no such networks
            for value in called:
                _make_alone(stack, name, value)
        yield


def _make_alone(stack: ExitStack, name: str, value: Any) -> None:
    from odesolve.distributed.wrappers import bare, sharded, synchronised

    spread = sys.modules.get("odesolve.distributed.spread")
    network = value.network if isinstance(value, Model) else None
    if spread is not None and isinstance(network, spread.Spread):
        raise OdesolveError(
            f"jobs.{name}: the model's network is spread over ranks, which work at their own "
            "batches: give the model that distributed.spread was given"
        )
    kind = sharded(value)
    if kind is not None:
        raise OdesolveError(
            f"jobs.{name}: the network's weights are {kind} over ranks, which work at their own "
            "batches: " + INSTEAD.format(name)
        )
    if synchronised(value):
        raise OdesolveError(
            f"jobs.{name}: the network's SyncBatchNorm takes means over all ranks, which work at "
            "their own batches: call .eval() on the network"
        )
    stack.enter_context(bare(value))


def settle_device(model: Any, device: torch.device | str | None) -> None:
    """Make "cuda" the GPU of this process's rank on its machine, unless the user chose one, by
    ``device`` or for the network."""
    if device is None and isinstance(model, Model):
        device = device_of(model)
    if not str(device).startswith("cuda:"):
        own_device()
