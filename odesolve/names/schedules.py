"""Lists of noise levels by the names of the user interfaces, as ComfyUI and AUTOMATIC1111's web UI
compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from odesolve.errors import OdesolveError, unknown
from odesolve.names.levels import Levels, beta, exponential, karras


def sigmas(schedule: str, n: int, table: Sequence[float], discard: bool = False) -> list[float]:
    """Noise levels from high to low with a 0 at the end, as a program with this table of trained
    levels lists them.

    Args:
        schedule: "normal", "karras", "exponential", "polyexponential", "beta" (quantiles of levels:
            web UI and diffusers), "beta_times" (quantiles of training times: ComfyUI), "simple",
            "sgm_uniform", "ddim_uniform", "kl_optimal" or "linear_quadratic".
        n: number of steps: n + 1 levels, except where the peers make another number: "ddim_uniform"
            takes every (N // n)-th level, "beta_times" leaves repeated ones out.
        table: trained levels sigma/alpha, rising, (N,); "normal" and "sgm_uniform" interpolate
            their logarithm.
        discard: place one more and leave out the last before 0, as the programs do for DPM2, DPM2
            a, DPM++ 3M SDE (web UI) and dpm_2, dpm_2_ancestral, uni_pc (ComfyUI).

    Raises OdesolveError for an unknown schedule and for numbers that cannot be used.
    """
    levels = np.asarray(table, dtype=np.float64)
    if schedule not in RULES:
        raise unknown("schedule", schedule, RULES)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise OdesolveError(f"n={n!r}: give a whole number of steps, at least 1")
    if levels.ndim != 1 or len(levels) < 2 or not (levels[0] > 0 and (np.diff(levels) > 0).all()):
        raise OdesolveError(
            "table: give trained noise levels sigma/alpha, positive and rising, at least 2"
        )
    values = RULES[schedule](n + discard, levels).tolist()
    return [*(values[:-1] if discard else values), 0.0]


def _at(table: Levels, times: Levels) -> Levels:
    """Levels at positions on the table, log-linear between its entries."""
    return np.exp(np.interp(times, np.arange(len(table)), np.log(table)))


def _normal(n: int, table: Levels) -> Levels:
    return _at(table, np.linspace(len(table) - 1, 0, n))


def _sgm_uniform(n: int, table: Levels) -> Levels:
    return _at(table, np.linspace(len(table) - 1, 0, n + 1)[:-1])


def _simple(n: int, table: Levels) -> Levels:
    return table[[-(1 + int(i * (len(table) / n))) for i in range(n)]]


def _ddim_uniform(n: int, table: Levels) -> Levels:
    return table[1 :: max(len(table) // n, 1)][::-1]


def _beta_times(n: int, table: Levels) -> Levels:
    index = np.rint(beta(n + 1, 0.0, len(table) - 1.0)[:-1]).astype(int)
    return table[index[np.insert(np.diff(index) != 0, 0, True)]]


def _kl_optimal(n: int, table: Levels) -> Levels:
    """Uniform in arctan sigma (Sabour et al. 2024, eq. 8)."""
    return np.tan(np.linspace(math.atan(table[-1]), math.atan(table[0]), n))


def _linear_quadratic(n: int, table: Levels) -> Levels:
    """Of 1 - sigma: half of the steps linear up to 0.025, the others a parabola to 1 that continues
    it (Mochi)."""
    if n == 1:
        return table[-1:]
    low = 0.025
    half = n // 2
    i = np.arange(n, dtype=np.float64)
    rest = n - half
    excess = half - low * n
    bend = excess / (half * rest**2)
    curve = bend * i**2 + (low / half - 2 * excess / rest**2) * i + bend * half**2
    return table[-1] * (1.0 - np.where(i < half, i * low / half, curve))


def _between(rule: Callable[..., Levels]) -> Callable[[int, Levels], Levels]:
    return lambda n, table: rule(n, table[0], table[-1])


RULES: dict[str, Callable[[int, Levels], Levels]] = {
    "normal": _normal,
    "karras": _between(karras),
    "exponential": _between(exponential),
    "polyexponential": _between(exponential),
    "beta": _between(beta),
    "beta_times": _beta_times,
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "ddim_uniform": _ddim_uniform,
    "kl_optimal": _kl_optimal,
    "linear_quadratic": _linear_quadratic,
}
