"""A sampling function of k-diffusion's form as a plan: its denoiser answers with unit vectors."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import row
from odesolve.errors import OdesolveError
from odesolve.integrations.imported.rows import (
    ProbedRows,
    check_linear,
    ends,
    units,
    without_rounding,
)
from odesolve.noise.stream_numbers import STEPS
from odesolve.paths import EDM, Path
from odesolve.plans.instructions import START, noise_name
from odesolve.plans.plan import Plan


def imported_function(
    sample_fn: Callable[..., Tensor],
    sigmas: Sequence[float] | Tensor,
    *,
    path: Path | None = None,
    dtype: torch.dtype = torch.float64,
    **extras: Any,
) -> Plan:
    """The plan of ``sample_fn(model, x, sigmas, **extras)`` for denoisers model(x, sigma) on x0 +
    sigma eps, as in k-diffusion.

    Its x and its denoiser's answers are unit vectors, and so is the noise that it asks a
    ``noise_sampler`` for, where it takes one; noise is then drawn from the streams of the solve,
    one per call.

    Args:
        sample_fn: the function.
        sigmas: noise levels (n + 1,).
        path: by default ``paths.EDM`` up to the first level. Its times are the levels.
        dtype: of the probes.
        extras: more arguments, such as ``eta``, ``order``, ``solver_type``.

    Raises OdesolveError for a function that is not linear, draws noise in another way, or asks for
    noise of intervals that overlap.
    """
    levels = row("sigmas", sigmas, "noise levels (n + 1,)").to(dtype)
    who = getattr(sample_fn, "__name__", type(sample_fn).__name__)
    positive = levels[levels > 0].tolist()
    if not positive:
        raise OdesolveError("sigmas: give noise levels with a positive one among them")
    probe = _FunctionProbe(sample_fn, levels, extras)
    matrix = probe.rows(who)
    if path is None:
        path = EDM(sigma_max=max(positive), sigma_min=min(positive))
    return _plan(who, path, probe, matrix)


class _FunctionProbe:
    """Runs of a function; coordinate 0 stands for its x, then come its denoiser's answers, then its
    noise."""

    def __init__(self, sample_fn: Callable[..., Tensor], sigmas: Tensor, extras: dict[str, Any]):
        self.sample_fn = sample_fn
        self.sigmas = sigmas
        takes = inspect.signature(sample_fn).parameters
        self.extras = {**({"disable": True} if "disable" in takes else {}), **extras}
        self.noisy = "noise_sampler" in takes and extras.get("noise_sampler") is None
        nothing = sigmas.new_zeros(1, 1, 1, 1)
        self.calls = 10**9
        self.draws = 10**9
        inputs, _ = self.run(nothing.expand(2, 1, 1, 1, 1), 0, constant=True)
        self.calls, self.draws = len(inputs), len(self.intervals)

    def run(self, values: Tensor, seed: int, constant: bool = False) -> tuple[list[Tensor], Tensor]:
        """Inputs of all calls of the denoiser, and the result, for x, answers and noise
        ``values``."""
        inputs: list[Tensor] = []
        self.times: list[float] = []
        self.intervals: list[tuple[float, float]] = []

        def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            inputs.append(x.clone())
            self.times.append(float(sigma.reshape(-1)[0]))
            return values[0 if constant else self._checked(len(inputs), self.calls)].clone()

        def noise(sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
            self.intervals.append((float(sigma), float(sigma_next)))
            return values[
                0 if constant else self.calls + self._checked(len(self.intervals), self.draws)
            ].clone()

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            more = {**self.extras, **({"noise_sampler": noise} if self.noisy else {})}
            result = self.sample_fn(model, values[0].clone(), self.sigmas.clone(), **more)
        return inputs, result

    @staticmethod
    def _checked(k: int, most: int) -> int:
        if k > most:
            raise OdesolveError(
                "the function calls its model as the values that it sees make it: a plan cannot"
            )
        return k

    def rows(self, who: str) -> Tensor:
        """(calls + 1, coordinates): the input of every call, and the result."""
        count = 1 + self.calls + self.draws
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(count, 1, 3, 4, 4, dtype=self.sigmas.dtype, generator=generator)

        def all_of(given: Tensor, seed: int) -> Tensor:
            inputs, result = self.run(given, seed)
            if len(inputs) != self.calls:
                raise OdesolveError(
                    f"{who} calls its model as the values that it sees make it: a plan cannot"
                )
            return torch.stack([*inputs, result])

        once, twice = (all_of(values, seed) for seed in (1, 2))
        if not torch.equal(once, twice):
            raise OdesolveError(
                f"{who} draws noise that is no noise_sampler's, which cannot be told from its "
                "result: give one without (no churn)"
            )
        columns = all_of(units(count, self.sigmas.dtype), 1)
        matrix = columns.reshape(self.calls + 1, -1).double()
        check_linear(matrix, values, once, who)
        large = 100.0 * values  # what clips or thresholds lets small values pass
        check_linear(matrix, large, all_of(large, 1), who)
        return matrix


def _plan(who: str, path: Path, probe: _FunctionProbe, matrix: Tensor) -> Plan:
    calls = probe.calls
    eps = torch.finfo(probe.sigmas.dtype).eps
    streams = _streams(who, probe, matrix)
    names = [START, *(f"D{k + 1}" for k in range(calls)), *streams]
    listed = set(probe.sigmas.tolist())
    final = float(probe.sigmas[-1])
    after = [*probe.times[1:], final]
    finished = ends(after, [t in listed or k == calls - 1 for k, t in enumerate(after)])
    first = probe.times[0]
    rows = ProbedRows(
        who, path, [first, *(t for t, done in zip(after, finished, strict=True) if done)]
    )
    states = [START]
    vectors = [matrix[0]]
    for k in range(calls):
        assert rows.evaluate(states[k], probe.times[k]) == names[k + 1]
        total = _shortest(names, states, vectors, matrix[k + 1], eps)
        states.append(rows.state(total, finished[k]))
        vectors.append(matrix[k + 1])
    return rows.plan(states[-1])


def _streams(who: str, probe: _FunctionProbe, matrix: Tensor) -> list[str]:
    """Names of the noise that a function asked for. Raises OdesolveError where two pieces of one
    path overlap."""
    used = (matrix[:, 1 + probe.calls :] != 0).any(dim=0).tolist()
    intervals = [span for span, is_used in zip(probe.intervals, used, strict=True) if is_used]
    spans = itertools.pairwise(intervals)
    if any(a[1] < b[0] or a[0] <= b[0] for a, b in spans):
        raise OdesolveError(
            f"{who} asks for noise of intervals that overlap, whose parts a plan would draw "
            "independently: import it with eta=0, "
            "or give the solver that names.from_label finds"
        )
    return [noise_name(STEPS + k) for k in range(probe.draws)]


def _shortest(
    names: list[str],
    states: list[str],
    vectors: list[Tensor],
    target: Tensor,
    eps: float,
) -> dict[str, float]:
    """A row as an earlier state and few others: the choice with the fewest terms, and among equals
    the one with the latest state."""
    size = (
        torch.stack([*vectors, target]).abs().amax(dim=0)
    )  # what was summed on the way is not known: no more than all
    shortest = _terms(names, target, size, eps)
    for state, base in zip(states, vectors, strict=True):
        if float(base[0]) == 0.0 or float(target[0]) == 0.0:
            continue
        a = float(target[0] / base[0])
        rest = target - a * base
        rest[0] = 0.0
        terms = {state: a, **_terms(names, rest, (1.0 + abs(a)) * size, eps)}
        if len(terms) <= len(shortest):
            shortest = terms
    return shortest


def _terms(names: list[str], row: Tensor, size: Tensor, eps: float) -> dict[str, float]:
    total = dict(zip(names, row.tolist(), strict=True))
    return without_rounding(total, dict(zip(names, size.tolist(), strict=True)), eps)
