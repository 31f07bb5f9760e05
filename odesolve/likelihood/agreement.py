"""Whether latents can be samples of the law by which their density is taken: nothing else shows
that a base is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from odesolve.errors import warn
from odesolve.likelihood.result import LogProb

# Times that the median square may be off. Networks' latents are within a few percent; of data that
# a model was made of, such as the centres of a mixture, they are nearer to the mean than its
# samples'.
ABOVE = 3.0
BELOW = 16.0
RARE = math.log(1e-9)  # of the chance that samples of the base give for what is called apart
ODD = math.log(0.1)  # of the chance of one such sample alone: data may all be about one place
DRAWS = 256  # samples of a base that tells no moments
# relative, of the distances of two samples that count as one: copies say no more than one of them
ALIKE = 1e-5


@dataclass(frozen=True)
class LatentLaw:
    """What is known of a base: mean and deviation, which broadcast to a sample, and the chi-square
    law's degrees of freedom that a sample's square has at least, all its numbers or 1 where they
    may go together."""

    mean: Tensor | float
    std: Tensor | float
    freedom: int
    name: str


def noted(density: LogProb, base: Any, std: float, quiet: bool = False) -> LogProb:
    """The result with a note where its latents cannot be of their base, by default N(0, std^2);
    warns of it unless ``quiet``."""
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
    """What to say of latents (B, ...) that lie too far from the base's mean, or too near to it, for
    samples of the base; None where they may be some, and of bases that are functions.

    The median of the samples' mean squares, for which a few samples that are far off do not count,
    is compared with that of the base, and is apart where the samples beyond it, drawn
    independently, have a chance below 1e-9, and one of them below 0.1."""
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
    """Whether this many samples of the base hardly ever all lie beyond this mean square, and a
    single one seldom does."""
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
    except Exception:  # of an object of somebody else's, of which no more is asked than it says
        return None
    if not bool((mean.isfinite() & deviation.isfinite() & (deviation > 0)).all()):
        return None
    inner = base.base_dist if isinstance(base, Independent) else base
    freedom = like.shape[1:].numel() if isinstance(inner, Normal) else 1
    return LatentLaw(mean, deviation, freedom, type(base).__name__)


def _moments(base: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, as the base states them, or as samples of it show, which are drawn
    without touching anyone's generator."""
    if isinstance(getattr(base, "mean", None), Tensor):
        std = getattr(base, "stddev", None)
        return base.mean, std if isinstance(std, Tensor) else base.variance.sqrt()
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []), torch.no_grad():
        try:
            drawn = base.sample((DRAWS,))
        except TypeError:
            drawn = base.sample(DRAWS)
    return drawn.double().mean(0), drawn.double().std(0)
