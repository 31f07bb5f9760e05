"""What a log-density leaves out that is taken a little before the data's end of a path.

At a fixed state, d log q / du = -div v - v . score in the clock of ``flow.PathFlow``, with v =
dy/du. From u = 0 to the first angle v is extrapolated. The score is the difficulty. A network's
own, -y - v / tan u, has its error divided by the angle, so that what is estimated from it does not
vanish with the angle. It is read at wider angles, too: the network's share falls with the angle,
and what the noise has blurred grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDER = (
    0.06,
    0.25,
    # angles, where data have a deviation of about 1: a network learns little of a score at smaller
    # ones
)
SHARE = 0.3  # of the estimate, that it may err by where the scores agree


class Before(NamedTuple):
    """Estimate (B,) of log p(x0) - log p(x0 + rho eps), what it may err by, and the network
    evaluations it took."""

    value: Tensor
    error: Tensor
    calls: int


def angles(first: float, last: float) -> list[float]:
    """Where the flow is asked: at the first angle and at wider ones, one at least."""
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
    the way of the state, is what the estimate errs by. Exact networks differ least at the first
    angle. Log-densities of x differ by the change of scale besides, 1 / cos u.
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
    """Of scores (n, B, D) the one that the next one is nearest to, and how far it is; all of it
    where there is no next one."""
    if len(scores) == 1:
        return scores[0], scores[0]
    steps = scores[1:] - scores[:-1]
    best = steps.norm(dim=2).argmin(0)
    rows = torch.arange(scores.shape[1], device=scores.device)
    return scores[best, rows], steps[best, rows]
