"""A field and its Jacobian at one state: one evaluation, then any number of products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from odesolve.errors import OdesolveError
from odesolve.functions.differentiating import wants_gradients
from odesolve.functions.graphs import IndependentAnswer, gradients

Field = Callable[[Tensor], Tensor]
BYTES = 64 * 2**20  # of vectors that are pulled back in one pass,
BYTES_CPU = 2 * 2**20  # which on a CPU is faster by half where activations stay in its caches


class Linearised:
    """f at x (B, ...), evaluated once, with its products J^T v; samples do not see each other.

    ``out`` is f(x) in f's own dtype. Where gradients are recorded, and x or anything in f requires
    them, ``out`` and the products are connected to both; otherwise they hold no graph. Rejected:
    ``torch.func.vjp``, which needs modules that functorch can transform. Here only the backward
    pass is batched, and where that fails, products are computed one by one."""

    def __init__(self, f: Field, x: Tensor, block: int | None = None):
        self.shape, self.batch, self.dim = x.shape, len(x), x.shape[1:].numel()
        each = max(1, self.batch * self.dim * x.element_size())
        self.block = block or max(1, (BYTES_CPU if x.is_cpu else BYTES) // each)
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            # A new node, so that other graphs of x in f do not count; a copy, since the memory of x
            # is reused.
            free = x.detach().clone()
            self._leaf = x.view_as(x) if x.requires_grad and recording else free.requires_grad_()
            raw = _twice_differentiable(f, self._leaf) if recording else f(self._leaf)
            check_shape(raw, x)
            if not raw.requires_grad:
                raise IndependentAnswer
            self._out = raw.to(x.dtype)
        self.watched = recording and (x.requires_grad or wants_gradients(self._out, [self._leaf]))
        self.out = raw if self.watched else raw.detach()

    def pull(self, v: Tensor) -> Tensor:
        """J^T v for v (K, B, D), in the same shape."""
        return torch.cat([self._pull(part) for part in v.to(self._leaf.dtype).split(self.block)])

    def _pull(self, v: Tensor) -> Tensor:
        shaped = v.reshape(len(v), *self.shape)
        try:
            back = self._grad(shaped, True)
        except (
            RuntimeError,
            NotImplementedError,
        ):  # no batching rule, or no memory for a batch; any other error comes up again below
            back = torch.stack([self._grad(one, False) for one in shaped])
        return back.reshape(v.shape)

    def _grad(self, v: Tensor, batched: bool) -> Tensor:
        (back,) = gradients(
            self._out,
            self._leaf,
            v,
            retain_graph=True,
            create_graph=self.watched,
            allow_unused=True,
            is_grads_batched=batched,
        )
        if back is None:
            raise IndependentAnswer
        return back


def _twice_differentiable(f: Field, x: Tensor) -> Tensor:
    """f(x) with the one attention kernel whose backward pass can be differentiated again."""
    with sdpa_kernel(SDPBackend.MATH):
        return f(x)


def check_shape(out: Tensor, x: Tensor) -> None:
    """Raise OdesolveError unless out holds floats and has the shape of x."""
    if not isinstance(out, Tensor) or out.shape != x.shape or not out.is_floating_point():
        given = (
            f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        )
        raise OdesolveError(
            f"the field returned {given} for a state {tuple(x.shape)}: return "
            "floats of the same shape"
        )
