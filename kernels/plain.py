"""The op of samplers in torch's own ops, for programs that leave Python: what torch.export saves,
and AOTInductor and ONNX take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from odesolve.kernels import ops as ops  # which defines the op
from odesolve.kernels import philox, reference
from torch import Tensor


def decompositions() -> dict[Any, Callable[..., list[Tensor]]]:
    """For ``ExportedProgram.run_decompositions``: what is left of a sampler are torch's ops alone,
    which run where this library is not installed; the results are the same, noise to the bit."""
    return {torch.ops.odesolve.combined.default: combined}


def combined(
    ins: Sequence[Tensor],
    weights: Tensor,
    base: Sequence[int],
    keys: Tensor | None,
    streams: Sequence[int],
    dtypes: Sequence[torch.dtype],
) -> list[Tensor]:
    """``reference.combined`` with sizes that may be symbols, and without constants that are made on
    the way: a program keeps none."""
    x = ins[0]
    noises: list[Tensor] = []
    for number in streams:
        assert keys is not None
        stream = torch.full((1,), number, dtype=torch.int64, device=x.device)
        noises.append(philox.normals(keys, stream, math.prod(x.shape[1:])).reshape(x.shape))
    return reference.combined([*ins, *noises], weights, base, None, (), dtypes)
