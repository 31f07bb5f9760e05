"""Lists of noise levels as the samplers of this field place them, in float64, from high to low,
without a last zero."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from odesolve.errors import unknown

Levels = NDArray[np.float64]


def karras(n: int, low: float, high: float, rho: float = 7.0) -> Levels:
    """sigma^(1/rho) uniform (Karras et al. 2022, eq. 5)."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho


def exponential(n: int, low: float, high: float, power: float = 1.0) -> Levels:
    """Uniform in log sigma; with a ``power`` that of a uniform ramp in log sigma (k-diffusion's
    polyexponential)."""
    ramp = np.linspace(1.0, 0.0, n) ** power
    return np.exp(ramp * (math.log(high) - math.log(low)) + math.log(low))


def beta(
    n: int,
    low: float,
    high: float,
    a: float = 0.6,
    b: float = 0.6,
) -> Levels:
    """Quantiles of a beta distribution, denser at both ends (Lee et al. 2024, Beta Sampling)."""
    from scipy.stats import beta as distribution

    return low + distribution.ppf(np.linspace(1.0, 0.0, n), a, b) * (high - low)


KINDS = {"karras": karras, "exponential": exponential, "lu": exponential, "beta": beta}


def spaced(
    kind: str,
    n: int,
    low: float,
    high: float,
    **options: float,
) -> Levels:
    """n levels of this kind from high to low. Raises OdesolveError for an unknown kind."""
    if kind not in KINDS:
        raise unknown("kind of noise levels", kind, KINDS)
    return KINDS[kind](n, low, high, **options)


def positions(
    spacing: str,
    n: int,
    total: int,
    offset: int = 0,
    inner: bool = False,
    whole: bool = True,
) -> Levels:
    """Where on a table of ``total`` training steps n evaluations lie, from high to low (Lin et al.
    2024, table 2).

    With ``inner`` the table is cut into n + 1 and the lowest position left out, as multistep
    schedulers do; ``whole`` rounds to training steps. A spacing that would repeat itself or leave
    the table is replaced by an even one.
    Raises OdesolveError for an unknown spacing.
    """
    if spacing == "trailing":
        at = np.round(total - np.arange(n) * (total / n)) - 1
    elif spacing == "linspace":
        at = np.linspace(0, total - 1, n + 1)[:0:-1] if inner else np.linspace(total - 1, 0, n)
    elif spacing == "leading":
        parts = n + 1 if inner else n
        stride = total // parts if total >= parts else total / parts
        at = (np.arange(n, 0, -1) if inner else np.arange(n - 1, -1, -1)) * stride + offset
    else:
        raise unknown("timestep_spacing", spacing, ("linspace", "leading", "trailing"))
    at = np.asarray(at, dtype=np.float64)
    for candidate in (np.round(at), at) if whole else (at,):
        if _inside(candidate, total):
            return candidate
    return np.linspace(total - 1, max(0.0, min(at[-1], (total - 1) / (n + 1))), n)


def _inside(at: Levels, total: int) -> bool:
    return bool(at[0] <= total - 1 and at[-1] >= 0 and (np.diff(at) < 0).all())
