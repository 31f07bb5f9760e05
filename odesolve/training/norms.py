"""Batch norms of averaged weights: their statistics belong to the weights that were trained, until
they are taken anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odesolve.doors.annotations import meant
from odesolve.errors import OdesolveError


@meant()
@contextmanager
def recalibrated(module: nn.Module) -> Iterator[nn.Module]:
    """Take the statistics of batch norms anew, from all batches that the module is called on inside
    of the ``with``, each with the same weight.

    In ``with recalibrated(ema.module): ...`` call it, or an objective of its model, on batches of
    data, without gradients; everything else is as in evaluation. The next ``ema.update()`` brings
    the statistics of the trained weights back. Raises OdesolveError for a module without such
    norms, and where it was not called."""
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    norms = [m for m in layers if m.running_mean is not None]
    if not norms:
        raise OdesolveError(
            f"{type(module).__name__} has no batch norm that keeps statistics: leave this out"
        )
    modes = [(m, m.training) for m in module.modules()]
    kept = [
        (m, m.momentum, {k: v.clone() for k, v in m.named_buffers(recurse=False)}) for m in norms
    ]
    finished = False
    spoilt = False
    try:
        module.eval()
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the mean of all batches
            m.training = True
        with torch.no_grad():
            yield module
        finished = True
    finally:
        for m, mode in modes:
            m.training = mode
        uncalled = any(not m.num_batches_tracked for m in norms)
        spoilt = not all(map(_finite, norms))
        for m, momentum, buffers in kept:
            m.momentum = momentum
            if uncalled or spoilt or not finished:
                m.load_state_dict(buffers, strict=False)
    if uncalled:
        raise OdesolveError(
            f"{type(module).__name__} was not called: call it on batches of data inside of the with"
        )
    if spoilt:
        raise OdesolveError(
            f"the statistics of {type(module).__name__} became NaN or infinite: give batches of "
            "finite data"
        )


def _finite(norm: _BatchNorm) -> bool:
    statistics = (norm.running_mean, norm.running_var)
    return all(bool(v.isfinite().all()) for v in statistics if v is not None)
