"""How far the truth lies from an estimate when only the spread of a few values describes the error.

Student's t is right for normal values. A probe's values are quadratic forms: where one direction
has nearly all of the trace, they are squares of normals, which are skewed, and a sample whose
values happen to be small has a small spread, too. With 8 of them, t covers the mean in 85 % of the
cases at a level of 95 %. The spreads of a whole batch do not all share one sample's accident."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

BATCH = 20  # fewest samples whose spreads determine how much spreads differ
# intervals aim at this share of the misses allowed, as all their inputs are estimates
SAFE = 0.8
# sums of signs, which take few values, may have this share: their next value is far off
SLACK = 1.3
# simulated samples; values from which on skewness does not count
DRAWS = 2**15
MOST = 256


def reach(stderr: Tensor, count: int, level: float) -> Tensor:
    """The distance (B,) within which the truth lies with this probability, for standard errors (B,)
    of means of ``count`` values each.

    The larger of two: one from the root mean square of all standard errors, by ``factor``, and one
    from the sample's own standard error, by Student's t; with 20 samples or more, the latter
    shrinks towards the others as far as they are alike. NaN for a standard error that is NaN."""
    known = stderr[torch.isfinite(stderr)].square()
    if count < 2 or not len(known):
        return torch.zeros_like(stderr) * stderr
    from scipy.special import stdtrit

    level = 1.0 - SAFE * (1.0 - level)
    own = stderr.square()
    degrees = torch.full_like(stderr, count - 1.0)
    if len(known) >= BATCH:
        own, degrees = _drawn_together(own, known, count - 1)
    quantiles = stdtrit(degrees.cpu().numpy(), 0.5 + 0.5 * level)
    t = torch.from_numpy(quantiles).to(stderr)
    least = factor(count, len(known), level) * known.mean().sqrt()
    return torch.maximum(t * own.sqrt(), least)


def _drawn_together(own: Tensor, known: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Shrunken variances (B,) of single samples, and their degrees of freedom, if variances follow
    inverse chi-squares.

    Moderated t (Smyth 2004), here with the prior's degrees d from the second moment: that of
    variances is (1 + 2 / degrees) (d - 2) / (d - 4) times the square of their mean. That moment is
    raised by 3 / sqrt(n) over its estimate."""
    mean = known.mean()
    if not float(mean) > 0.0:
        return own, torch.full_like(own, float(degrees))
    moment = known.square().mean() / mean.square() / (1.0 + 2.0 / degrees)
    prior = 4.0 + 2.0 / (moment * (1.0 + 3.0 / len(known) ** 0.5) - 1.0).clamp_min(1e-6)
    variance = (mean * (prior - 2.0) + degrees * own) / (prior + degrees)
    return variance, (prior + degrees).expand_as(own)


@functools.lru_cache(256)
def factor(count: int, samples: int, level: float) -> float:
    """The factor on the root mean square standard error of ``samples`` samples of ``count`` values:
    it covers their means for values that are normal, squares of normals, or random signs."""
    from scipy.special import stdtrit

    normal = float(stdtrit(samples * (count - 1), 0.5 + 0.5 * level))
    if count > MOST:
        return normal
    errors, variances = _squares(count)
    window = np.concatenate(
        [[0.0], np.cumsum(np.resize(variances, len(variances) + min(samples, DRAWS)))]
    )
    size = len(window) - 1 - len(variances)
    pooled = (window[size:-1] - window[: -1 - size]) / size
    squares = float(np.quantile(np.abs(errors) / np.sqrt(pooled / count), level))
    return max(normal, squares, _signs(count, level))


@functools.lru_cache(16)
def _squares(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the mean of ``count`` squares of normals, and the squares' variances, for many
    simulated samples."""
    values = np.random.default_rng(0).standard_normal((DRAWS, count)) ** 2
    return values.mean(1) - 1.0, values.var(1, ddof=1)


def _signs(count: int, level: float) -> float:
    """Distance of a sum of signs from 0, over the root of their number, that covers it with about
    this probability."""
    from scipy.special import bdtr

    rarer = np.arange(count // 2, 0, -1)
    coverage = 1.0 - 2.0 * bdtr(rarer - 1.0, count, 0.5)
    enough = rarer[coverage >= 1.0 - SLACK / SAFE * (1.0 - level)]
    return float((count - 2 * (enough[0] if len(enough) else 0)) / count**0.5)
