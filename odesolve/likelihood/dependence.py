"""A look at a field from outside: whether the products that autograd takes with its Jacobian are those of its differences.

A network that is cut off from its input altogether is found where it is called (``graphs.answer``). One that is cut off in part,
as ``x + net(x.detach())`` is, has a graph, and a trace of another Jacobian.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.likelihood.flow import PathFlow, VelocityFlow
from odesolve.models import Model

TRIES = 3  # directions, each at a sixth of the step before it: all have to say so
STRAIGHT = 0.01  # of a difference: what the halves on both sides of x may differ by, where it tells a derivative
OFF = 0.03  # of a product: what autograd and differences may differ by; a cut that changes less is not seen

Field = Callable[[Tensor], Tensor]


def of_model(model: Model, x: Tensor, t: float | None = None) -> int:
    """Look at what the network says, each sample x (B, ...) of data noised to a time, by default one where signal and noise are
    alike. Returns the network evaluations that each sample took. Raises OdesolveError for products of another Jacobian."""
    path, raw = model.path, copy.copy(model)
    raw.reading = replace(model.reading, applies=())
    if t is None:
        t, steps = float(path.t_of_lam(0.0)), path.training_steps
        t = t if steps is None else max(1, round(t * steps)) / steps
    at = path.points([t])[0]
    noisy = at.alpha * x.detach() + at.sigma * _normal(x, 0)
    says = getattr(raw, model.predicts)
    return look(lambda y: says(y, t), noisy, model.dtype) * model.evaluations_per_call


def of_flow(flow: PathFlow | VelocityFlow, x: Tensor) -> int:
    """``of_model``, or the same look at a velocity half way."""
    if isinstance(flow, PathFlow):
        return of_model(flow.model, x)
    u = torch.full((len(x),), 0.5 * (flow.start + flow.stop), dtype=x.dtype, device=x.device)
    return look(flow.field(u, torch.arange(len(x), device=x.device)), x.detach(), None)


def look(f: Field, x: Tensor, dtype: torch.dtype | None) -> int:
    """Compare products with differences at x (B, ...); ``dtype`` is that of the network. Three evaluations, and three more as
    long as all that were made found the same sample off."""
    off = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for attempt in range(TRIES):
        off = off & _off(f, x, attempt, torch.finfo(dtype or x.dtype).eps ** 0.4 / 6**attempt)
        if not bool(off.any()):
            return 3 * (attempt + 1)
    raise OdesolveError(
        "the network depends on its input in a way that autograd does not see, so its divergence would be wrong: its differences "
        "are not what its gradient says. Take torch.no_grad, detach (.data, numpy) and functions without a gradient out of it"
    )


def _off(f: Field, x: Tensor, seed: int, size: float) -> Tensor:
    """Which samples (B,) have another derivative by differences along a random direction than by autograd, beyond doubt."""
    scale = x.flatten(1).square().mean(1).sqrt()
    v = _normal(x, seed + 1) * size * torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (x.dim() - 1))
    with torch.no_grad():
        after, before = f(x + v), f(x - v)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        here = f(leaf)
        rise = (0.5 * (after - before)).to(here.dtype)
        (back,) = torch.autograd.grad(here, leaf, rise, allow_unused=True)
    bend = _sum(after + before - 2 * here.detach()).sqrt()
    seen = 0.0 if back is None else (back.double() * v.double()).flatten(1).sum(1)
    length = _sum(rise)
    straight = bend <= STRAIGHT * length.sqrt()
    return straight & ((seen - length).abs() > OFF * length)


def _sum(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).sum(1)


def _normal(like: Tensor, seed: int) -> Tensor:
    """The same numbers whenever they are asked for; nobody's generator moves."""
    generator = torch.Generator().manual_seed(seed + math.prod(like.shape))
    return torch.randn(like.shape, dtype=torch.float64, generator=generator).to(like)
