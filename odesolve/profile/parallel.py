"""A parallel executor compared with the loop: rounds, evaluations and wall time of the best plans,
and whether it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.plans.plan import Plan
from odesolve.profile.counting import clock
from odesolve.profile.result import Parallel, Profile, Row
from odesolve.run import Reporting
from odesolve.sampling.execute import execute, program_for
from odesolve.sampling.model_plan import plan_for

# share of the loop's time that counts as a gain; ratio of errors that count as equal
PAYS = 0.9
ALIKE = 2.0
SMALL = 0.5  # rows of a batch cost less than this share of a call each where a network has room


@dataclass
class _Setting:
    model: Model
    noise: Tensor
    executor: Any
    rounds: int


def measured(
    profile: Profile,
    model: Model,
    noise: Tensor,
    executor: Any,
    metric: str,
    timing: int,
) -> list[Parallel]:
    """The executor on the best plan of every budget, for one sample and for the whole batch of
    ``noise`` (B, ...).

    ``executor`` is an ``ode.Window``, or another with a ``report``. Raises OdesolveError for one
    without."""
    if not isinstance(executor, Reporting):
        raise OdesolveError(
            f"executor is {type(executor).__name__}, which keeps no report: give an ode.Window(), "
            "an ode.Parareal(), or one of yours with a property report"
        )
    best: dict[tuple[str, str, int], Row] = {}
    for budget in profile.budgets:
        if any(r.calls <= budget for r in profile.good):
            row = profile.best(budget, metric)
            best.setdefault((row.label, row.grid, row.calls), row)
    out = []
    for row in best.values():
        for batch in sorted({1, len(noise)}):
            setting = _Setting(
                model.rows(torch.arange(batch), len(noise)), noise[:batch], executor, max(1, timing)
            )
            out.append(_one(setting, row))
    return out


def _one(s: _Setting, row: Row) -> Parallel:
    given = row.arguments()
    solver, steps, grid = (given.pop(k) for k in ("solver", "steps", "grid"))
    plan = plan_for(s.model, solver, steps, grid, given)
    start = s.noise * s.model.path.start_std(plan.grid[0])
    loop, loop_seconds = _timed(s, plan, start, None)
    x, seconds = _timed(s, plan, start, s.executor)
    report = s.executor.report
    size = loop.double().square().mean().sqrt()
    return Parallel(
        solver=row.label,
        grid=row.grid,
        nfe=row.nfe,
        batch=len(start),
        calls=plan.nfe,
        rounds=report.rounds,
        evaluations=float(report.evaluations.double().mean()),
        seconds=seconds,
        loop_seconds=loop_seconds,
        difference=float((x - loop).double().square().mean().sqrt() / size),
        rows=_rows(s, start, plan),
    )


def _timed(s: _Setting, plan: Plan, start: Tensor, executor: Any) -> tuple[Tensor, float]:
    """The end points, and the seconds of the fastest run after one that warms up."""
    program = program_for(s.model, plan, start.dtype, executor)
    with torch.no_grad():
        return _fastest(
            lambda: execute(s.model, program, start, None, executor), s.rounds, start.device
        )


def _rows(s: _Setting, start: Tensor, plan: Plan) -> float:
    """The cost of a call on the states of all steps, in calls on one of them and divided by their
    number: 1 where one state keeps the network busy, a small share where it has room for more."""
    n = plan.nfe
    t = plan.grid[len(plan.grid) // 2]
    many = start.repeat(n, *[1] * (start.dim() - 1))
    wide = s.model.rows(torch.arange(len(start)).repeat(n), len(start))
    with torch.no_grad():
        one = _fastest(lambda: s.model.data(start, t), s.rounds, start.device)[1]
        return _fastest(lambda: wide.data(many, t), s.rounds, start.device)[1] / (n * one)


def _fastest(call: Callable[[], Tensor], rounds: int, device: torch.device) -> tuple[Tensor, float]:
    x = call()
    best = float("inf")
    for _ in range(rounds):
        begin = clock(device)
        x = call()
        best = min(best, clock(device) - begin)
    return x, best


def advice(profile: Profile, metric: str = "median") -> list[str]:
    """In words: where the executor is faster than the loop, and elsewhere why it is not."""
    lines = []
    for p in profile.parallel:
        many = "1 sample" if p.batch == 1 else f"{p.batch} samples"
        says = (
            f"{p.solver} on {p.grid}, {p.calls} calls, {many}: in parallel {p.rounds} rounds, "
            f"{p.evaluations:.0f} evaluations, "
            f"{1e3 * p.seconds:.1f} ms; one after another {1e3 * p.loop_seconds:.1f} ms"
        )
        reasons = _reasons(profile, p, metric)
        if p.seconds <= PAYS * p.loop_seconds:
            says += f": {p.loop_seconds / p.seconds:.1f} times faster"
            says += f", but {reasons[-1]}" if reasons and reasons[-1].startswith("a plan") else ""
        else:
            says += f": it does not pay, {'; '.join(reasons)}"
        lines.append(f"{says}.")
    return [*lines, *_devices(profile)]


def _reasons(profile: Profile, p: Parallel, metric: str) -> list[str]:
    out = []
    if p.evaluations * p.rows > PAYS * p.calls:
        out.append(
            f"the network is busy: a call on {p.calls} states takes {p.rows * p.calls:.1f} times "
            "as long as on one"
            if p.rows > SMALL
            else f"{p.evaluations:.0f} evaluations are too many for a network whose calls on "
            f"{p.calls} states take "
            f"{p.rows * p.calls:.1f} times as long as on one"
        )
    else:
        out.append(f"{p.rounds} rounds cost more outside the network than {p.calls} calls")
    few = _few_steps(profile, p, metric)
    if few is not None:
        out.append(
            f"a plan of {few.calls} calls is as good: {few.label} on {few.grid}, error "
            f"{few.error(metric):.2g}"
        )
    return out


def _few_steps(profile: Profile, p: Parallel, metric: str) -> Row | None:
    """The cheapest row with an equal error and no more calls than the executor takes rounds."""
    mine = min(
        r.error(metric)
        for r in profile.good
        if (r.label, r.grid, r.nfe) == (p.solver, p.grid, p.nfe)
    )
    alike = max(ALIKE * mine, profile.floor(metric))
    return min(
        (
            r
            for r in profile.good
            if r.error(metric) <= alike and r.calls <= p.rounds and r.calls < p.calls
        ),
        key=lambda r: r.calls,
        default=None,
    )


def _devices(profile: Profile) -> list[str]:
    """What several devices could do instead."""
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    devices = max(ranks, torch.cuda.device_count())
    most = max((p.evaluations / p.calls for p in profile.parallel), default=1.0)
    if devices < 2:
        return []
    return [
        f"There are {devices} devices: for a network that is large enough to be split over them "
        "(tensor or sequence parallelism) "
        f"that keeps the evaluations, of which rounds take up to {most:.1f} times as many."
    ]
