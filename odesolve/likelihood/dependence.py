"""A black-box check of a field: whether autograd's products with its Jacobian agree with its finite
differences.

A network that is completely detached from its input is detected where it is called
(``graphs.answer``). A network that is detached in part, as ``x + net(x.detach())``, has a graph,
but the trace of another Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.forward import FAILURES, own_error, pushed
from odesolve.functions.graphs import gradients
from odesolve.likelihood import clock as clocks
from odesolve.likelihood.clock import FieldClock
from odesolve.likelihood.flow import PathFlow, VelocityFlow
from odesolve.model.model import Model
from odesolve.model.network import Share
from odesolve.trace.linearised import check_shape

LOOKED = 8  # samples, where possible: a wrong network is wrong for all
TRIES = 3  # directions, each at a sixth of the step before it: all must agree
# of a difference: how much its halves on both sides of x may differ if it is to approximate a
# derivative
STRAIGHT = 0.01
# of a product: how much autograd and differences may differ; a detached part below that goes
# unnoticed
OFF = 0.03

Field = Callable[[Tensor, Tensor], Tensor]  # (states, numbers of the samples)
Sharing = Callable[..., AbstractContextManager[Share]]  # see ``Model.sharing``


def of_model(
    model: Model,
    x: Tensor,
    t: float | None = None,
    forward: bool = False,
    flow: PathFlow | None = None,
    batched: bool = False,
) -> Tensor | int:
    """Check the network at samples x (B, ...) of data, noised to a time, by default one where
    signal and noise are equal; for a ``flow`` also at each sample's own time (``clock``). Where the
    network is ``batched``, that is, takes numbers of rows other than B, the first ``LOOKED``
    samples suffice. Returns the network evaluations per sample, then (B,). Raises OdesolveError
    where the products are those of another Jacobian, and where one time serves all rows."""
    path = model.path
    raw = model.untouched()
    if t is None:
        t = float(path.t_of_lam(0.0))
        steps = path.training_steps
        t = t if steps is None else max(1, round(t * steps)) / steps
    at = path.points([t])[0]
    some = x.detach()[:LOOKED] if batched else x.detach()
    noisy = at.alpha * some + at.sigma * _normal(some, 0)

    def says(y: Tensor, index: Tensor, t: float | Tensor = t) -> Tensor:
        return raw.rows(index, len(x)).prediction(y, t, model.predicts)

    clock = None if flow is None else clocks.of_path(flow, says, t, batched)
    calls = (
        look(says, noisy, model.dtype, model.sharing, forward, clock) * model.evaluations_per_call
    )
    if batched:
        return (torch.arange(len(x), device=x.device) < len(some)) * calls
    return calls


def of_flow(
    flow: PathFlow | VelocityFlow,
    x: Tensor,
    forward: bool = False,
    batched: bool = False,
    mixed: bool = False,
) -> Tensor | int:
    """``of_model``, or the same check of a velocity halfway; ``mixed`` also with each sample's own
    time, as times meet in a call at nodes (``batched``) or along."""
    if isinstance(flow, PathFlow):
        return of_model(flow.model, x, None, forward, flow if mixed else None, batched)
    half = 0.5 * (flow.start + flow.stop)

    def moves(y: Tensor, index: Tensor) -> Tensor:
        return flow.field(y.new_full((len(y),), half), index)(y)

    clock = clocks.of_velocity(flow, half) if mixed else None
    return look(moves, x.detach(), None, None, forward, clock)


def look(
    f: Field,
    x: Tensor,
    dtype: torch.dtype | None,
    sharing: Sharing | None = None,
    forward: bool = False,
    clock: FieldClock | None = None,
) -> int:
    """Compare products with differences at x (B, ...); ``dtype`` is that of the network. Takes
    three evaluations, and three more as long as every try so far finds the same sample off; those
    of ``clock`` come in addition."""
    off = torch.ones(len(x), dtype=torch.bool, device=x.device)
    spent = 0
    late = False
    for attempt in range(TRIES):
        size = torch.finfo(dtype or x.dtype).eps ** 0.4 / 6**attempt
        mine, *times = _off(
            f, x, _direction(x, attempt, size), sharing, forward, clock if attempt == 0 else None
        )
        if times:
            late = bool(times[0].any())
            spent = int(times[1].max())
        off = off & mine
        if not bool(off.any()):
            if clock is not None and late:
                raise clock.refuse()
            return 3 * (attempt + 1) + spent
    raise OdesolveError(
        "the network depends on its input in a way that autograd does not see, so its divergence "
        "would be wrong: its differences "
        "are not what its derivative says. Take torch.no_grad, detach (.data, numpy) and "
        "functions without a gradient out of it, "
        "and call net.eval() where its samples see each other, as BatchNorm lets them in train mode"
    )


def _direction(x: Tensor, seed: int, size: float) -> Tensor:
    """A random step from x (B, ...), of this size relative to each sample's numbers."""
    scale = x.flatten(1).square().mean(1).sqrt()
    scale = torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (x.dim() - 1))
    return _normal(x, seed + 1) * size * scale


def _off(
    f: Field,
    x: Tensor,
    v: Tensor,
    sharing: Sharing | None,
    forward: bool,
    clock: FieldClock | None = None,
) -> tuple[Tensor, ...]:
    """Which samples (B,) certainly have a derivative along v by differences that is not autograd's;
    the result of ``clock``."""

    def call(x: Tensor, v: Tensor, index: Tensor) -> list[Tensor]:
        with torch.no_grad():
            after = f(x + v, index)
            before = f(x - v, index)
        check_shape(after, x)
        rise = 0.5 * (after - before)
        here, image = (_pushed if forward else _pulled)(lambda x: f(x, index), x, v, rise)
        times = () if clock is None else clock.look(x, index, here)
        return [after + before - 2 * here, rise, image, *times]

    rows = x, v, torch.arange(len(x), device=x.device)
    with nullcontext(Share(rows, list)) if sharing is None else sharing(*rows) as share:
        bend, rise, products, *times = share.join(call(*share.rows))
    length = _sum(rise)
    image = products.flatten(1).sum(1)
    straight = _sum(bend).sqrt() <= STRAIGHT * length.sqrt()
    gap = (image - length).abs()
    return straight & gap.isfinite() & (gap > OFF * length), *times


def _pulled(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    v: Tensor,
    rise: Tensor,
) -> tuple[Tensor, Tensor]:
    """f at x, and (J^T rise) v element by element."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        here = f(leaf)
        (back,) = gradients(here, leaf, rise.to(here.dtype), allow_unused=True)
    return here.detach(), torch.zeros_like(
        v
    ).double() if back is None else back.double() * v.double()


def _pushed(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    v: Tensor,
    rise: Tensor,
) -> tuple[Tensor, Tensor]:
    """f at x, and (J v) rise element by element."""
    try:
        here, slope = pushed(f, (x,), (v,))
    except FAILURES as e:
        if isinstance(e, OdesolveError) or own_error(e):
            raise
        raise OdesolveError(
            f"torch.func cannot transform this field: use trace.Exact('reverse') ({e})"
        ) from e
    return here.detach(), slope.detach().double() * rise.double()


def _sum(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).sum(1)


def _normal(like: Tensor, seed: int) -> Tensor:
    """The same numbers at every call; no global generator moves."""
    generator = torch.Generator().manual_seed(seed + math.prod(like.shape))
    return torch.randn(like.shape, dtype=torch.float64, generator=generator).to(like)
