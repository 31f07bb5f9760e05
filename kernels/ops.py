"""The ops as tracing sees them: torch.compile, export, make_fx, fake tensors and autograd. Eager
calls never come here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from odesolve.kernels import dispatch, philox, reference, refusals
from odesolve.kernels.declared import LISTENERS, OPS, Op, schema_of
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.library import Library, register_autograd, register_fake

# Written as a Library, not with torch.library.custom_op: that costs 30 to 50 microseconds a call.
LIBRARY = Library("odesolve", "DEF")


def run(name: str, args: Sequence) -> None:
    """The op of this name as one node of a trace."""
    given = list(args)
    op = OPS[name]
    if op.kind is not None:
        refusals.kind_of_noise(given[op.kind])
    for k in op.numbers:
        if not isinstance(given[k], Tensor):
            given[k] = _tensor(given[k])
    getattr(torch.ops.odesolve, name)(*given)


def _tensor(value) -> Tensor:
    """A number, or numbers of one sort, as a tensor: whole ones as the signed ones with the same 64
    bits."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, int):
        return torch.tensor(philox.signed(value), dtype=torch.int64)
    if not isinstance(value, (list, tuple)):
        return torch.as_tensor(value)
    whole = all(isinstance(v, int) for v in value)
    return torch.tensor(
        philox.signed_all(value) if whole else value, dtype=torch.int64 if whole else torch.float64
    )


def combined(
    ins: Sequence[Tensor],
    weights: Tensor,
    base: Sequence[int],
    keys: Tensor | None,
    streams: Sequence[int],
    dtypes: Sequence[torch.dtype],
    watched: bool,
) -> list[Tensor]:
    """``dispatch.combined`` as one node of a trace; with its gradient where autograd has
    ``watched``."""
    if not watched and weights.is_cuda and dispatch.backend().devices["cuda"] == "triton":
        from odesolve.kernels.triton import traced

        if traced.fits(ins, len(base), len(streams)):
            return traced.combined(ins, weights, base, keys, streams, dtypes)
    where = [philox.signed(s) for s in streams]
    return torch.ops.odesolve.combined(list(ins), weights, list(base), keys, where, list(dtypes))


def _combined(
    ins,
    weights,
    base,
    keys,
    streams,
    dtypes,
):
    ins = [_bare(x) for x in ins]
    outs = [torch.empty_like(ins[0], dtype=d) for d in dtypes]
    dispatch.combine(outs, ins, weights.detach(), base, keys, streams)
    return outs


def _bare(x):
    """A tensor without its subclass, which has had its say by now, and would have the op show
    itself again without an end."""
    if isinstance(x, Tensor) and type(x) is not Tensor:
        return x.as_subclass(Tensor)
    return x


def _eager(op: Op):
    def kernel(*args) -> None:
        given: list[Any] = [
            list(map(_bare, v)) if isinstance(v, list | tuple) else _bare(v) for v in args
        ]
        for k in op.numbers:
            if given[k].dim() == 0 and given[k].is_cpu:
                given[k] = given[k].item()
        first = given[0]
        dispatch.run(op.name, first if isinstance(first, Tensor) else first[0], *given)

    return kernel


def _remember(ctx, inputs, output) -> None:
    ins, weights, base, keys, streams, _ = inputs
    ctx.base = base
    ctx.streams = streams
    ctx.dtypes = [x.dtype for x in ins]
    # Inputs are kept only for the gradient of the weights.
    kept = ins if weights.requires_grad else []
    ctx.save_for_backward(weights, *([] if keys is None else [keys]), *kept)
    ctx.keyed = keys is not None


def _gradients(ctx, grads):
    weights, *rest = ctx.saved_tensors
    keys = rest.pop(0) if ctx.keyed else None
    n = len(ctx.dtypes)
    back, base = _transposed(weights, ctx.base, n)
    into = [torch.promote_types(d, grads[0].dtype) for d in ctx.dtypes]
    # many gradients at once, of is_grads_batched=True
    if _functorch.is_legacy_batchedtensor(grads[0]):
        for_ins = reference.combined(grads, back, base, None, (), into)
    else:
        for_ins = dispatch.combined(grads, back, base, dtypes=into)
    for_ins = [g.to(d) for g, d in zip(for_ins, ctx.dtypes, strict=True)]
    for_weights = (
        _weight_gradient(weights, grads, rest, keys, ctx.streams)
        if ctx.needs_input_grad[1]
        else None
    )
    # An empty list of numbers counts as a list of tensors, which wants a list back.
    return for_ins, for_weights, None, None, None if ctx.streams else [], None


def _transposed(weights: Tensor, base: Sequence[int], n: int) -> tuple[Tensor, list[int]]:
    """Coefficients of the backward pass, the same op: the transpose, with every base in its place.

    The first output that adds input j as its base is the base of gradient j; of others the 1 goes
    into the weight."""
    back = weights[..., :n].transpose(-1, -2)
    first = [base.index(j) if j in base else -1 for j in range(n)]
    rest = [(j, i) for i, j in enumerate(base) if j >= 0 and first[j] != i]
    if rest:
        back = back.clone()
        for j, i in rest:
            back[..., j, i] += 1.0
    return back, first


def _weight_gradient(
    weights,
    grads,
    ins,
    keys,
    streams,
) -> Tensor:
    normals = [reference.normal_like(grads[0], keys, s, grads[0].dtype) for s in streams]
    columns = [x.double().flatten(1) for x in (*ins, *normals)]
    products = [
        torch.stack([(g.double().flatten(1) * c).sum(1) for c in columns], dim=-1) for g in grads
    ]
    each = torch.stack(products, dim=-2)  # (B, n_out, n)
    return (each if weights.dim() == 3 else each.sum(0)).to(weights)


LIBRARY.define(f"combined{schema_of(reference.combined)}")
LIBRARY.impl("combined", _combined, "CompositeExplicitAutograd")
register_autograd("odesolve::combined", _gradients, setup_context=_remember, lib=LIBRARY)


@register_fake("odesolve::combined", lib=LIBRARY)
def _combined_like(
    ins,
    weights,
    base,
    keys,
    streams,
    dtypes,
):
    return [torch.empty_like(ins[0], dtype=d) for d in dtypes]


def _nothing(*args) -> None:
    """A fake of an op that writes into what it is given."""


def _define(op: Op) -> None:
    """Let traces hold an op."""
    if op.traced:
        LIBRARY.define(f"{op.name}{op.schema}")
        LIBRARY.impl(op.name, _eager(op), "CompositeExplicitAutograd")
        register_fake(f"odesolve::{op.name}", _nothing, lib=LIBRARY)


for _op in OPS.values():
    _define(_op)
LISTENERS.append(_define)
