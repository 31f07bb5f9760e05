"""Whether latents can be samples of the base whose density they get: nothing else reveals a wrong
base."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from odesolve.errors import warn
from odesolve.likelihood.result import LogProb

# The factor by which the median square may be off. Networks' latents are within a few percent;
# those of data that define the model, such as the centres of a mixture, lie nearer to the mean than
# those of its samples.
ABOVE = 3.0
BELOW = 16.0
# the log-probability, for samples of the base, below which latents count as apart
RARE = math.log(1e-9)
ODD = math.log(0.1)  # the same for a single sample: all data may lie about one place
DRAWS = 256  # samples of a base without known moments
# relative difference of distances below which two samples count as one: copies carry no more
# information
ALIKE = 1e-5


@dataclass(frozen=True)
class LatentLaw:
    """The known facts about a base: mean and standard deviation, which broadcast to a sample, and
    the least degrees of freedom of a sample's square as a chi-square variable: D, or 1 where the
    numbers may be dependent."""

    mean: Tensor | float
    std: Tensor | float
    freedom: int
    name: str


def noted(density: LogProb, base: Any, std: float, quiet: bool = False) -> LogProb:
    """The result with a note where its latents cannot come from their base, by default N(0, std^2);
    also warns unless ``quiet``."""
    fine = [word == "ok" for word in density.status]
    if not any(fine):
        return density
    note = apart(
        density.latent.detach()[torch.tensor(fine, device=density.latent.device)], base, std
    )
    if note is None:
        return density
    if not quiet:
        warn(note)
    return replace(density, notes=(*density.notes, note))


def apart(latent: Tensor, base: Any, std: float) -> str | None:
    """The note for latents (B, ...) that lie too far from the base's mean, or too near to it, for
    samples of the base; None where they may be samples, and for bases that are functions.

    It compares the median of the samples' mean squares, which ignores a few outliers, with that of
    the base. They are apart where the samples beyond the median, drawn independently, have a
    probability below 1e-9, and a single one below 0.1."""
    law = _law(base, std, latent)
    if law is None:
        return None
    dim = latent.shape[1:].numel()
    standard = (latent.double() - law.mean) / law.std
    squares = standard.flatten(1).square().mean(1)
    squares = squares[torch.isfinite(squares)].clamp_min(1e-300)
    if not len(squares):
        return None
    squares = torch.unique((squares.log() / ALIKE).round()).mul(ALIKE).exp()
    median = float(squares.median())
    low, high = _medians(law.freedom)
    if low / BELOW <= median <= ABOVE * high or not _improbable(
        squares, median, law.freedom, median > high
    ):
        return None
    times = (median / (high if median > high else low)) ** 0.5
    mean_squares = latent.double().flatten(1).square().mean(1)
    size = float(mean_squares.median().sqrt())
    return (
        f"the latents are {times:.3g} times as far from the base's mean as its samples are (their "
        f"size is {size:.3g}, the base "
        f"{law.name}; {len(squares)} samples of {dim} numbers): unless the data are as far from "
        "those of the model, give base= "
        "the density that the flow ends in, x in the scale that the network was trained at (a "
        "state at t divided by "
        "path.alpha(t)), and t= the times of x and of the base"
    )


def _medians(freedom: int) -> tuple[float, float]:
    """The least and the largest median that the mean square of a sample may have by its degrees of
    freedom."""
    return (1 - 2 / (9 * freedom)) ** 3, 1.0


def _improbable(squares: Tensor, median: float, freedom: int, above: bool) -> bool:
    """Whether it is very unlikely that this many samples of the base all lie beyond this mean
    square, and unlikely for a single one."""
    half = torch.tensor(0.5 * freedom, dtype=torch.float64)
    tail = (torch.special.gammaincc if above else torch.special.gammainc)(half, half * median)
    one = math.log(max(float(tail), 1e-300))
    n = len(squares)
    k = int((squares >= median if above else squares <= median).sum())
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return one < ODD and ways + k * one < RARE


def _law(base: Any, std: float, like: Tensor) -> LatentLaw | None:
    if base is None or (isinstance(base, str) and base == "normal"):
        return LatentLaw(0.0, std, like.shape[1:].numel(), f"N(0, {std:.4g}^2)")
    try:
        moments = _moments(base, like)
        mean, deviation = (
            torch.broadcast_to(m.to(like.device, torch.float64), like.shape[1:]) for m in moments
        )
    except Exception:  # a foreign object: we use only the moments that it states
        return None
    if not bool((mean.isfinite() & deviation.isfinite() & (deviation > 0)).all()):
        return None
    inner = base.base_dist if isinstance(base, Independent) else base
    freedom = like.shape[1:].numel() if isinstance(inner, Normal) else 1
    return LatentLaw(mean, deviation, freedom, type(base).__name__)


def _moments(base: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, stated by the base or estimated from its samples, drawn without
    touching a global generator."""
    if isinstance(getattr(base, "mean", None), Tensor):
        std = getattr(base, "stddev", None)
        return base.mean, std if isinstance(std, Tensor) else base.variance.sqrt()
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []), torch.no_grad():
        try:
            samples = base.sample((DRAWS,))
        except TypeError:
            samples = base.sample(DRAWS)
    return samples.double().mean(0), samples.double().std(0)
