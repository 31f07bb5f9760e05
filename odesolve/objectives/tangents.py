"""Derivatives along the flow inside a loss: forward differentiation, and the layers that do not
support it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.forward import pushed

CHECKPOINTS = "train without torch.utils.checkpoint"
# What torch says about layers without a forward derivative, and what to type.
FAILS = {
    r"forward AD with \w*attention": (
        "its attention runs on a backend without one: call the loss within "
        "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
    ),
    r"forward AD with \w*weight_norm": (
        "it holds torch.nn.utils.weight_norm: give torch.nn.utils.parametrizations.weight_norm, "
        "or remove_weight_norm(module)"
    ),
    r"forward AD with (\w+)": "{0} has none: write that layer in operations that have one, such "
    "as sums and products",
    r"setup_context": (
        "it calls an autograd.Function without one, as checkpoints with use_reentrant=True do: "
        f"{CHECKPOINTS}, "
        "or give the function setup_context and jvp"
    ),
    r"mutate a captured|in-place operation|inplace arithmetic": (
        "it writes to tensors of its own in place, as BatchNorm in train mode does: give "
        "GroupNorm or LayerNorm, put BatchNorm "
        "in eval mode, or call torch.func.replace_all_batch_norm_modules_(net)"
    ),
    r"checkpointed layers": "it is checkpointed, and the backward pass would miss its saved "
    f"tensors: {CHECKPOINTS}",
}


def along(
    f: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """f and its derivative along tangents; gradients go through both.

    Raises OdesolveError that names the layer, and what to give, for networks that have no forward
    derivative."""
    # which needs no lock: the derivative is written into its graph
    if torch.compiler.is_compiling():
        value, slope, *_ = torch.func.jvp(f, at, tangents)
        return value, slope
    try:
        with _watched():
            return pushed(f, at, tangents)
    except (
        RuntimeError,
        NotImplementedError,
    ) as error:  # torch's, by layers without a forward derivative; others go on
        for pattern, instead in FAILS.items():
            if (match := re.search(pattern, str(error))) is not None:
                raise OdesolveError(
                    f"the network has no forward derivative: {instead.format(*match.groups())}"
                ) from error
        raise


def _watched() -> contextlib.AbstractContextManager[None]:
    """Raise early for checkpoints without reentry, which hook the saved tensors and would fail only
    in the backward pass."""
    if not torch.is_grad_enabled():
        return contextlib.nullcontext()
    return torch.autograd.graph.disable_saved_tensors_hooks("checkpointed layers")
