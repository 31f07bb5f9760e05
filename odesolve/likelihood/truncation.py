"""The truncation error of a log-density that starts a little before the data's end of a path.

At a fixed state, d log q / du = -div v - v . score in the clock of ``flow.PathFlow``, with v =
dy/du. From u = 0 to the first angle v is extrapolated. The score is the difficulty. A network's own
score, -y - v / tan u, has its error divided by the angle, so that an estimate from it does not
vanish with the angle. So the score is read at wider angles, too: there the network's error falls,
and the blur by the noise grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDER = (
    0.06,
    0.25,
    # angles, for data of standard deviation about 1: a network learns little about a score at
    # smaller ones
)
SHARE = 0.3  # of the estimate: its error where the scores agree


class Before(NamedTuple):
    """Estimate (B,) of log p(x0) - log p(x0 + rho eps), its error, and the number of network
    evaluations."""

    value: Tensor
    error: Tensor
    calls: int


def angles(first: float, last: float) -> list[float]:
    """The angles where the flow is evaluated: the first and wider ones, at least one."""
    wider = [u for u in WIDER if 2.0 * first < u < last]
    return [first, *(wider or [min(2.0 * first, last)])]


def estimate(
    at: Sequence[float],
    y: Tensor,
    slopes: Sequence[Tensor],
    traces: tuple[Tensor, Tensor],
) -> Before:
    """From dy/du (B, ...) at these angles and the state y, and its divergences (B,) at the first
    two.

    The score is the one that differs least from that of the next angle, and their difference, along
    the state's trajectory, is the error of the estimate. Exact networks differ least at the first
    angle. Log-densities of x also include the change of scale, 1 / cos u.
    """
    flat = y.double().flatten(1)
    start = at[0]
    v = torch.stack([slope.double().flatten(1) for slope in slopes])
    back = 0.5 * start / (at[1] - start)
    pairs = ((v[0], v[1]), traces)
    moved, trace = ((1 + back) * now - back * then for now, then in pairs)
    tangents = torch.tensor(list(map(math.tan, at)), dtype=v.dtype, device=v.device)
    score, gap = _steadiest(-flat - v / tangents[:, None, None])
    scale = 0.5 * start**2 * (flat.shape[1] + (flat * score).sum(1))
    value = start * (trace + (moved * score).sum(1)) + scale
    error = SHARE * value.abs() + start * (moved * gap).sum(1).abs()
    return Before(value, error, len(at) - 1)


def _steadiest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The score among (n, B, D) with the nearest next one, and their difference; the score itself
    where there is no next one."""
    if len(scores) == 1:
        return scores[0], scores[0]
    steps = scores[1:] - scores[:-1]
    best = steps.norm(dim=2).argmin(0)
    rows = torch.arange(scores.shape[1], device=scores.device)
    return scores[best, rows], steps[best, rows]
