"""Reference end points that carry a certificate: two independent solves and how far they are
apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve import grids, run
from odesolve.doors.brief import brief
from odesolve.errors import Diverged
from odesolve.lowering.lower import lower
from odesolve.model.model import Model
from odesolve.profile.metrics import Comparison
from odesolve.sampling.model_plan import plan_for

FIRST = 256
FLOOR = 3.0  # errors below this many times the certificate say nothing about the solver
Tick = Callable[[int], None] | None


@dataclass(frozen=True)
class Certificate:
    """Difference of two reference solves: RMS over everything, ``median`` and ``worst`` over
    per-sample RMSEs.

    ``calls`` is what both took together, ``agreed`` whether the difference came under the
    tolerance, ``how`` the two solves in words. An exact reference given by the user has zeros.
    """

    rms: float
    median: float
    worst: float
    calls: int
    agreed: bool
    how: str

    def __str__(self) -> str:
        if self.how == EXACT.how:
            return f"reference: {self.how}"
        apart = (
            f"rms {self.rms:.1e}, median sample {self.median:.1e}, worst sample {self.worst:.1e}"
        )
        apart = f"they differ by {apart} ({self.calls} evaluations)"
        verdict = "" if self.agreed else "; they do NOT agree to the tolerance"
        floor = (
            f"errors below {FLOOR * self.rms:.1e} (rms) and {FLOOR * self.median:.1e} (median "
            "sample) are not certified"
        )
        return f"reference: {self.how}; {apart}{verdict}: {floor}"


EXACT = Certificate(0.0, 0.0, 0.0, 0, True, "given by the user, taken as exact")


@brief
@dataclass(frozen=True)
class Reference:
    """End points ``x`` of shape (B, ...) for the batch's noise, and the certificate of their
    accuracy."""

    x: Tensor
    certificate: Certificate


def certified(
    model: Model,
    noise: Tensor,
    tolerance: float = 3e-5,
    limit: int = 4096,
    tick: Tick = None,
) -> Reference:
    """Solve twice with different methods, each with 256 evaluations and then twice as many, until
    both agree.

    Agreement is an RMS difference below ``tolerance`` times the RMS of the end points; ``limit``
    caps the evaluations of one attempt. The state is float64 where the network runs on it, else
    float32. Raises Diverged if no solve is finite.
    """
    best: Reference | None = None
    spent = 0
    size = FIRST
    while True:
        fine, coarse, how, calls = _pair(model, noise, size, tick)
        spent += calls
        if bool(torch.isfinite(fine).all() and torch.isfinite(coarse).all()):
            gap = Comparison(fine)(coarse)
            agreed = gap.rmse <= tolerance * float(fine.double().square().mean().sqrt())
            candidate = Reference(
                fine, Certificate(gap.rmse, gap.median, gap.worst, spent, agreed, how)
            )
            best = candidate if best is None or gap.rmse < best.certificate.rms else best
            if agreed:
                return best
        last = model.snap and size >= (model.path.training_steps or 0)
        size *= 2
        if last or 2 * size > limit:
            break
    if best is None:
        raise Diverged(
            "both reference solves left the finite numbers: give reference=",
            noise,
            model.path.t_noise,
            0,
        )
    return best


def _pair(model: Model, noise: Tensor, size: int, tick: Tick) -> tuple[Tensor, Tensor, str, int]:
    """The finer and the coarser solve, the two in words, and the evaluations that both took."""
    path = model.path
    start = float(plan_for(model, "ddim", 1, grids.Uniform(), {}).grid[0])
    clock = "rho" if math.isfinite(path.point(start).rho) else "t"
    # only training times: multistep methods, which have no inner stages
    if model.snap and path.training_steps:
        size = min(size, path.training_steps)
        chosen = [("ab4", size, {"start": "ramp"}), ("ab3", size, {"start": "ramp"})]
    else:
        chosen = [("ab4", size, {}), ("rk4", size // 4, {})]
    out = []
    words = []
    calls = 0
    for solver, steps, options in chosen:
        plan = plan_for(model, solver, steps, grids.Asinh(start=start), {"clock": clock, **options})
        x, dtype, n = _solve(model, plan, noise, tick)
        out.append(x)
        calls += n
        words.append(f"{solver} in {clock} with {steps} steps")
    return (
        out[0],
        out[1],
        (f"{' against '.join(words)}, {str(dtype).removeprefix('torch.')} state"),
        calls,
    )


def _solve(model: Model, plan, noise: Tensor, tick: Tick) -> tuple[Tensor, torch.dtype, int]:
    for dtype in (torch.float64, torch.float32):
        try:
            x = noise.to(dtype) * model.path.start_std(plan.grid[0])
            program = lower(plan, model.path, model.reading_for(dtype))
            return run.run(program, x, None, model, tick), dtype, program.network_calls
        except Exception:
            # A network with float32 inside refuses float64 in its own words; any other fault shows
            # again in float32.
            if dtype == torch.float32:
                raise
    raise AssertionError("unreachable")
