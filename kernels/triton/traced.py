"""``combined`` for torch.compile on CUDA and ROCm: an op that Inductor opens, so that it sees the
kernel and its buffers.

``odesolve::combined`` is a black box in a graph. This one is decomposed into the kernel itself when
AOTAutograd traces it: no dispatch is left at run time, buffers are planned with the rest of the
graph, and CUDA graphs hold it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from odesolve.kernels.triton import launch
from odesolve.kernels.triton.combine import MAX_IN, MAX_NOISE, MAX_OUT, combine_kernel
from torch import Tensor
from torch.library import triton_op, wrap_triton

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def combined(
    ins: Sequence[Tensor],
    weights: Tensor,
    base: Sequence[int],
    keys: Tensor | None,
    streams: Sequence[int],
    dtypes: Sequence[torch.dtype],
) -> list[Tensor]:
    """``dispatch.combined`` of tensors on a CUDA or ROCm device, as nodes that Inductor can open.

    ``weights`` (n_out, n) or (B, n_out, n) is a tensor on the same device. Outputs are contiguous,
    or channels last where all inputs are and no noise is drawn. Inductor compiles the kernel as it
    pleases: where it fuses products and sums, the last bits differ from those of an eager call.
    """
    where = [launch.signed(s) for s in streams]
    return combined_triton(
        list(ins), weights, list(base), keys, where, [TYPES.index(d) for d in dtypes]
    )


def fits(ins: Sequence[Tensor], n_out: int, n_noise: int) -> bool:
    """Whether one launch can do it: the counts and types for which there is a kernel, every tensor
    on one GPU."""
    counts = 0 < n_out <= MAX_OUT and 0 < len(ins) <= MAX_IN and n_noise <= MAX_NOISE
    if not counts:
        return False
    x = ins[0]
    return all(
        t.dtype in TYPES and t.shape == x.shape and t.device == x.device and t.is_cuda for t in ins
    )


# Types of outputs are given as places in TYPES: a schema that is read from annotations knows no
# list of dtypes.
@triton_op("odesolve::combined_triton", mutates_args=())
def combined_triton(
    ins: list[Tensor],
    weights: Tensor,
    base: list[int],
    keys: Tensor | None,
    streams: list[int],
    types: list[int],
) -> list[Tensor]:
    """``combined``; ``types`` are places in ``TYPES``."""
    x = ins[0]
    flat = weights.dim() == 2 and not streams  # no element's place in a sample matters
    layout = torch.contiguous_format
    if flat and not x.is_contiguous() and all(_channels_last(t) for t in ins):
        layout = torch.channels_last
    device = x.device
    outs = [
        torch.empty(x.shape, dtype=TYPES[k], device=device, memory_format=layout) for k in types
    ]
    if x.numel() == 0:
        return outs
    samples = 1 if flat or not x.dim() else x.shape[0]
    n = x.numel() // samples
    # Sizes may be symbols here, so the block is that of a large sample: a small one leaves threads
    # of it idle.
    block = 1024 if len(outs) + len(ins) <= 8 else 512
    # Filled on the device, one number each, and so part of what Inductor fuses: a tensor made from
    # a list would be copied from the host at every call.
    numbers = [*base, *streams]
    codes = [torch.full((1,), c, dtype=torch.int64, device=device) for c in numbers]
    arguments = {
        **_named(outs, [t.contiguous(memory_format=layout) for t in ins]),
        "weights": weights.contiguous(),
        "codes": torch.cat(codes),
        "keys": keys.contiguous() if streams and keys is not None else None,
        "n": n,
        "w_sample": weights.shape[1] * weights.shape[2] if weights.dim() == 3 else 0,
        "N_NOISE": len(streams),
        "DOUBLE": any(t.dtype == torch.float64 for t in (*outs, *ins)),
        "BLOCK": block,
        **UNUSED,
    }
    wrap_triton(combine_kernel)[(samples * triton.cdiv(n, block),)](**arguments)
    return outs


# Arguments of the kernel that a call without an error norm, a table of rows or strides leaves out.
UNUSED = {
    "row": None,
    "layout": None,
    "rtol": None,
    "atol": None,
    "partials": None,
    "size": 0,
    "rtol_sample": 0,
    "atol_sample": 0,
    "RANK": 0,
    "ERROR": 0,
}


def _named(outs: Sequence[Tensor], ins: Sequence[Tensor]) -> dict[str, Tensor | int | None]:
    """The tensors by the names that the kernel has for them, and how many there are."""
    named: dict[str, Tensor | int | None] = {"N_OUT": len(outs), "N_IN": len(ins)}
    for letter, tensors, most in (("y", outs, MAX_OUT), ("x", ins, MAX_IN)):
        for k in range(most):
            named[f"{letter}{k}"] = tensors[k] if k < len(tensors) else None
    return named


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
