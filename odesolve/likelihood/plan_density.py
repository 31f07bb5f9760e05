"""The density of the sampler itself: a plan of a few steps is a map of its own, with an exact
Jacobian.

A few-step map is not the flow that it approximates, nor is its density the flow's. Rows are linear,
so the Jacobian of every value with respect to the start follows from those of the evaluations, and
one determinant at the end is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odesolve import run
from odesolve.errors import OdesolveError
from odesolve.functions.graphs import differentiable_once
from odesolve.likelihood.carried import Tick, walk
from odesolve.likelihood.flow import normal_log_density
from odesolve.likelihood.result import LogProb
from odesolve.lowering.lower import lower
from odesolve.model.model import Model
from odesolve.planning.planner import plan as make_plan
from odesolve.plans.instructions import START, Apply, Combine, Evaluate, Instruction, each
from odesolve.plans.plan import Plan
from odesolve.trace.linearised import Linearised

TRIES = 60  # Newton steps, including those that are undone
ENOUGH = 0.75  # a residual of eps to this power, relative to the data, counts as inverted


@dataclass(frozen=True, kw_only=True, repr=False)
class PlanDensity(LogProb):
    """The exact log-density of a plan's result.

    ``smallest`` (B,) is the smallest singular value of the map's Jacobian at the latent, in units
    of the data per unit of normal noise: the map folds where it is 0. A point may then have several
    latents; ``value`` counts only one. ``residual`` (B,) is the root mean square distance of the
    latent's image from x.

    The status of a sample is "ok"; "not_inverted" where the inversion did not converge, and
    ``value`` is NaN; "singular" where the Jacobian has no inverse, as with a clipped x0, so that
    there is no density and ``value`` is infinite; or "diverged"."""

    smallest: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Pushed:
    """The end state of a plan (B, ...), its Jacobian (B, D, D) with respect to the start, float64,
    and their cost."""

    x: Tensor
    jacobian: Tensor
    nfe: int
    products: int


def push(plan: Plan, model: Model, x: Tensor, tick: Tick = None) -> Pushed:
    """Run a plan from the state x (B, ...) with its exact Jacobian, for D Jacobian products per
    evaluation.

    The end state is that of ``ode.sample``. Clipping and thresholds are part of the map. Raises
    OdesolveError for plans that draw noise or apply functions of their own, and for models with a
    classifier."""
    _check(plan, model)
    out, jacobians, nfe = walk(plan, model, x, _Jacobian(x), lambda t: 0.0, tick)
    products = len(jacobians) * x.shape[1:].numel()
    return Pushed(out, _chained(plan, jacobians, x), nfe, products)


def plan_log_prob(model: Model, x: Tensor, plan: Plan) -> PlanDensity:
    """Log-density of x (B, ...) under the map that a plan defines, with normal noise at its noise
    end.

    A plan that encodes (from data to noise) gives it directly: log prior(G(x)) + log |det G'(x)|. A
    plan that decodes is inverted by damped Newton steps from a DDIM encoding: log prior(z) - log
    |det F'(z)| with F(z) = x. Densities are of the state at the plan's data end. With gradients
    enabled the value is connected to x and to the network's parameters.
    """
    _check(plan, model)
    first, last = model.path.points([plan.grid[0], plan.grid[-1]])
    if first.rho < last.rho:
        pushed = push(plan, model, x)
        std = model.path.start_std(last.t)
        value = normal_log_density(pushed.x, std) + torch.linalg.slogdet(pushed.jacobian).logabsdet
        return _density(value, std / _singular(pushed.jacobian)[:, 0], pushed.x, pushed)
    z, nfe, products = _inverted(plan, model, x)
    if torch.is_grad_enabled():
        # one more step, of value 0, which depends on x and the parameters as the latent does
        at = push(plan, model, z)
        z = differentiable_once(
            z + _newton(at.jacobian.detach(), x - at.x), "give a plan from data to noise"
        )
        nfe = nfe + at.nfe
        products = products + at.products
    at = push(plan, model, z)
    residual = _rms(x - at.x.detach())
    density = decoded(model, plan, z, at)
    lost = ~(residual <= _close(model, x))
    status = [
        "not_inverted" if bad else word
        for bad, word in zip(lost.tolist(), density.status, strict=True)
    ]
    value = torch.where(lost, torch.nan, density.value)
    counts = {"nfe": density.nfe + nfe, "products": density.products + products}
    return replace(density, value=value, residual=residual, status=status, **counts)


def decoded(model: Model, plan: Plan, z: Tensor, at: Pushed) -> PlanDensity:
    """The density of ``at``, the image of the latents z under a plan from noise to data: log
    prior(z) - log |det F'(z)|."""
    std = model.path.start_std(plan.grid[0])
    singular = _singular(at.jacobian)
    value = normal_log_density(z, std) - torch.linalg.slogdet(at.jacobian).logabsdet
    # Rows that vanish up to round-off have a determinant that is pure round-off.
    eps = torch.finfo(torch.float64).eps
    flat = singular[:, -1] <= singular.shape[1] * eps * singular[:, 0]
    value = torch.where(flat, torch.inf, value)
    return _density(value, std * singular[:, -1], z, at)


def _density(value: Tensor, smallest: Tensor, z: Tensor, at: Pushed) -> PlanDensity:
    zero = torch.zeros_like(value.detach())
    nfe, products = (
        torch.full(value.shape, n, dtype=torch.int64, device=value.device)
        for n in (at.nfe, at.products)
    )
    return PlanDensity(
        value=value,
        stderr=zero,
        solver_error=zero,
        latent=z,
        nfe=nfe,
        products=products,
        trace="exact",
        probes=1,
        status=[_word(v) for v in value.tolist()],
        smallest=smallest,
        residual=zero,
    )


def _word(value: float) -> str:
    return "ok" if math.isfinite(value) else "singular" if math.isinf(value) else "diverged"


def _check(plan: Plan, model: Model) -> None:
    if plan.streams:
        raise OdesolveError(
            f'{plan.solver} draws noise, it is no map: give log_prob="ito" to ode.sample, or an '
            "ODE solver"
        )
    if plan.places:
        raise OdesolveError(
            f"the plan applies {plan.places[0]!r}, whose derivative is unknown: give a plan "
            "without it"
        )
    if model.reading.classifier:
        raise OdesolveError(
            "the gradient of a classifier is not differentiated, so the Jacobian is unknown: give "
            "the model without it"
        )


class _Jacobian:
    """Probes that return the whole Jacobian: their values are (B, D, D)."""

    exact = True

    def __init__(self, like: Tensor):
        self.count = self.products = like.shape[1:].numel()
        self.units = torch.eye(self.count, dtype=like.dtype, device=like.device)[:, None]

    def rows(self, index: Tensor) -> _Jacobian:
        return self

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        units = self.units.expand(-1, len(x), -1)
        return line.out, line.pull(units).transpose(0, 1)


def _chained(plan: Plan, jacobians: list[Tensor], x: Tensor) -> Tensor:
    """The Jacobian of the result, from those of the evaluations in order, which it consumes."""
    dim = x.shape[1:].numel()
    identity = torch.eye(dim, dtype=torch.float64, device=x.device)
    values = {START: identity.expand(len(x), -1, -1)}
    last = {n: k for k, i in enumerate(plan.instructions) for n in i.reads}

    def spend(k: int, i: Instruction) -> None:
        for name in i.reads:
            if last[name] == k and name != plan.result:
                values.pop(name, None)

    def evaluate(k: int, i: Evaluate) -> None:
        values[i.output] = jacobians.pop(0).double() @ values[i.input]
        spend(k, i)

    def combine(k: int, i: Combine) -> None:
        for output, terms in i.rows:
            values[output.name] = sum(w * values[n] for n, w in terms)  # type: ignore[assignment]
        spend(k, i)

    def apply(k: int, i: Apply) -> None:
        raise AssertionError(f"{i.fn!r} has no known derivative, and was refused before")

    each(plan.instructions, evaluate, combine, apply)
    return values[plan.result]


@torch.no_grad()
def _inverted(plan: Plan, model: Model, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents whose images are x where the inversion converged, with the evaluations and products
    (B,) of each."""
    z, calls = _encoded(plan, model, x)
    at = push(plan, model, z)
    image = at.x
    jacobian = at.jacobian
    residual = _rms(x - image)
    close = _close(model, x)
    step = torch.ones_like(residual)
    runs = torch.ones_like(residual, dtype=torch.int64)
    for _ in range(TRIES):
        todo = (~(residual <= close)).nonzero().flatten()
        if not len(todo):
            break
        share = step[todo].to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        move = share * _newton(jacobian[todo], (x - image)[todo])
        trial = push(plan, model.rows(todo, len(x)), z[todo] + move)
        distances = _rms(x[todo] - trial.x)
        better = distances < (1 - 1e-4 * step[todo]) * residual[todo]
        rows = todo[better]
        z[rows], image[rows], jacobian[rows] = (
            (z[todo] + move)[better],
            trial.x[better],
            trial.jacobian[better],
        )
        residual[rows] = distances[better]
        longer = (2 * step[todo]).clamp_max(1.0)
        step[todo] = torch.where(better, longer, 0.5 * step[todo])
        runs[todo] += 1
    return z, calls + runs * at.nfe, runs * at.products


def _encoded(plan: Plan, model: Model, x: Tensor) -> tuple[Tensor, int]:
    """A guess of the latent: the end of a DDIM solve from x on the plan's grid, backwards from its
    last time with noise."""
    times = list(plan.grid)
    if float(model.path.sigma(times[-1])) == 0.0:
        x = x * float(model.path.alpha(times[-2]))
        times = times[:-1]
    if len(times) < 2:
        return x.clone(), 0
    back = make_plan("ddim", model.path, None, times, reverse=True)
    program = lower(back, model.path, model.reading_for(x.dtype))
    return run.run(program, x, None, model), program.network_calls


def _newton(jacobian: Tensor, gap: Tensor) -> Tensor:
    """The move of the latent that closes the gap to first order."""
    move = torch.linalg.solve_ex(jacobian, gap.double().flatten(1)).result
    return move.to(gap.dtype).view_as(gap)


def _close(model: Model, x: Tensor) -> Tensor:
    """The residual (B,) at which an inversion counts as converged, by the resolution of the
    network's dtype."""
    eps = max(torch.finfo(d).eps for d in (x.dtype, model.dtype or x.dtype))
    size = x.detach().double().flatten(1).abs().amax(1)
    return eps**ENOUGH * size.clamp_min(1.0)


def _rms(gap: Tensor) -> Tensor:
    return gap.double().flatten(1).square().mean(1).sqrt()


@torch.no_grad()
def _singular(jacobian: Tensor) -> Tensor:
    """Singular values (B, D), the largest first; NaN where the Jacobian is not finite, which LAPACK
    rejects."""
    finite = torch.isfinite(jacobian).flatten(1).all(1)[:, None]
    return torch.where(finite, torch.linalg.svdvals(jacobian.nan_to_num(0.0, 0.0, 0.0)), torch.nan)
