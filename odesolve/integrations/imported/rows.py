"""A plan from the rows that probes measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.plans.instructions import START, Combine, Evaluate, Instruction, Output
from odesolve.plans.plan import Plan

LINEAR = 1e-5  # a row explains a result to this fraction of its terms, as float32 objects allow


def units(count: int, dtype: torch.dtype) -> Tensor:
    """(count, 1, 1, 1, count): every row a batch of one whose pixels are the coordinates of a basis
    vector."""
    return torch.eye(count, dtype=dtype).reshape(count, 1, 1, 1, count)


def not_finite(who: str) -> OdesolveError:
    """The error for a sampler that fails on its grid."""
    return OdesolveError(
        f"{who} has coefficients that are not finite on this grid: give one that it can run on"
    )


def check_linear(matrix: Tensor, values: Tensor, results: Tensor, who: str) -> None:
    """Raise OdesolveError unless rows explain what a map makes of other values.

    ``found`` (k, n) are the rows, ``values`` (n, ...) what they were tried on, ``results`` (k, ...)
    what came out."""
    if not bool(matrix.isfinite().all()):
        raise not_finite(who)
    flat = values.reshape(len(values), -1).double()
    size = matrix.abs().double() @ flat.abs()
    right = results.reshape(len(results), -1).double()
    wrong = (matrix.double() @ flat - right).abs()
    worst = float((wrong / size.clamp_min(1e-300)).nan_to_num(math.inf).max())
    if worst > LINEAR:
        raise OdesolveError(
            f"{who} is not linear between network calls (its result is off by {worst:.0e} of its "
            "terms): it clips, thresholds "
            "or decides by values; switch that off, as by clip_sample=False or thresholding=False"
        )


def without_rounding(
    total: Mapping[str, float], size: Mapping[str, float], eps: float
) -> dict[str, float]:
    """Weights without those that are the rounding of a zero: below what their terms were rounded
    by."""
    return {name: w for name, w in total.items() if abs(w) > 8 * eps * size[name]}


class ProbedRows:
    """A plan in the making: values are named by whether a step ends with them."""

    def __init__(self, solver: str, path: Any, grid: Sequence[float]):
        self.solver = solver
        self.path = path
        self.grid = tuple(grid)
        self.instructions: list[Instruction] = []
        self.done = self.stages = self.evaluations = 0

    def evaluate(self, at: str, t: float) -> str:
        """The data prediction at a value."""
        self.evaluations += 1
        name = f"D{self.evaluations}"
        self.instructions.append(Evaluate(at, name, t))
        return name

    def state(self, terms: Mapping[str, float], finished: bool) -> str:
        """A state by its terms. It need not obey the laws: the sampler's own arithmetic may
        round."""
        self.done = self.done + finished
        self.stages = self.stages + (not finished)
        name = f"x{self.done}" if finished else f"y{self.stages}"
        weights = terms or {START: 0.0}
        self.instructions.append(
            Combine((Output(name),), tuple(weights), (tuple(weights.values()),))
        )
        return name

    def plan(self, result: str) -> Plan:
        """The finished plan, checked."""
        spec = json.dumps(self.path.spec(), separators=(",", ":"))
        plan = Plan(self.solver, self.grid, tuple(self.instructions), result, spec, self.path)
        plan.check()
        return plan


def ends(times: Sequence[float], candidates: Sequence[bool]) -> list[bool]:
    """Which states end a step, of candidates at these times: of several at one time the last, so
    that steps have a length."""
    out = list(candidates)
    latest: int | None = None
    for i in range(len(times)):
        if not out[i]:
            continue
        if latest is not None and math.isclose(times[latest], times[i], rel_tol=1e-6):
            out[latest] = False
        latest = i
    return out
