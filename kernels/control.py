"""The specification of the op that controls step sizes, and the layout of what it keeps."""

from __future__ import annotations

import torch
from odesolve.kernels import refusals
from odesolve.kernels.declared import op
from torch import Tensor

# Rows of the state, (ROWS, B) float64: time, step of the attempt under way (signed), the last two
# accepted errors (0: none yet), status, whether the last attempt was accepted, evaluations,
# accepted and rejected attempts, where the last attempt began, how long it was, and its error;
# where the solve ends, and the shortest step (a length, no sign).
T, H, ERROR, OLDER, STATUS, TOOK, NFE, STEPS, REJECTED, T0, H0, NORM, END, SHORTEST = range(14)
ROWS = 14
RUNNING, OK, EVENT, MAX_STEPS, MIN_STEP, DIVERGED = range(6)
MAX_CALLS = 6  # the host's own: the kernels only see that such a sample has ended

# Entries of ``settings``, float64: exponents of the last three errors; 1 / order, the exponent
# after a rejection; safety, limits of the factor; 0 or the least smooth factor that accepts; the
# least error taken for true; the longest step (a length, no sign); attempts; evaluations an
# attempt.
(
    BETA_1,
    BETA_2,
    BETA_3,
    EXPONENT,
    SAFETY,
    MIN_FACTOR,
    MAX_FACTOR,
    ACCEPT,
    FLOOR,
    LONGEST,
    LIMIT,
    EVALUATIONS,
) = range(12)
SETTINGS = 12

# Bits of the kinds of weights: times h, times "accepted", times "rejected".
BY_STEP = 1
IF_TOOK = 2
IF_KEPT = 4
LANDING = 1.01  # a step that would leave less than a hundredth of itself to the end goes there
SMALLEST = 1e-10  # an error below it is taken for it: the factor is at its upper limit long before
RESOLUTION = 8 * 2.0**-52  # of the time: no step is shorter


@op(writes=("state", "weights", "times"), device="state")
def control(
    state: Tensor,
    norm: Tensor,
    weights: Tensor,
    times: Tensor,
    table: Tensor,
    nodes: Tensor,
    settings: Tensor,
    begin: bool = False,
) -> None:
    """After an attempt with error ``norm`` (B,): accept it or not, choose the next step, write the
    next attempt's weights.

    ``state`` (ROWS, B), ``norm``, ``weights`` (B, W), ``table`` (2, W), ``nodes`` (S,) and
    ``settings`` are float64 and contiguous; ``times`` (S, B) is of the solution's type. An attempt
    is accepted if norm <= 1; the next step is h safety norm^-b1 last^-b2 older^-b3 within the
    limits (Soderlind 2003), h safety norm^-exponent after a rejection, and does not grow right
    after one. With settings[ACCEPT] the factor is smoothed to 1 + atan(factor - 1) and must reach
    it (Soderlind and Wang 2006). Factors are rounded to float32: the powers of two libraries differ
    in the last bits, and all backends and batches shall take the same steps. A norm that is not
    finite is a rejection with the smallest factor. A step never passes the sample's end, and lands
    on it exactly. Samples whose status is not RUNNING keep it, and have h = 0.

    weights[b, w] <- table[0, w], times h where table[1, w] has the bit BY_STEP, and 0 unless the
    attempt was accepted (IF_TOOK) or was not (IF_KEPT); times[s, b] <- t + nodes[s] h. With
    ``begin`` there was no attempt: only the next is made."""
    batch = state.shape[-1:].numel()
    columns = table.shape[-1:].numel()
    for x, shape in (
        (state, (ROWS, batch)),
        (norm, (batch,)),
        (weights, (batch, columns)),
        (times, (nodes.numel(), batch)),
        (table, (2, columns)),
        (nodes, (nodes.numel(),)),
        (settings, (SETTINGS,)),
    ):
        refusals.other_shapes("control", [x], shape)
    given = settings.tolist()
    if not begin:
        _judge(state, norm, given)
    _aim(state, given)
    t = state[T]
    h = state[H]
    took = state[TOOK]
    end = state[END]
    kind = table[1].long()
    value = torch.where(kind & BY_STEP != 0, table[0] * h[:, None], table[0])
    value = value.masked_fill((kind & IF_TOOK != 0) & (took[:, None] == 0), 0.0)
    weights.copy_(value.masked_fill((kind & IF_KEPT != 0) & (took[:, None] != 0), 0.0))
    landing = (h == end - t) & (nodes[:, None] == 1.0)
    times.copy_(torch.where(landing, end, t + nodes[:, None] * h))


def _judge(state: Tensor, norm: Tensor, given: list[float]) -> None:
    """Accept or reject: time, errors, counters and statuses of the running samples; H becomes the
    step that is wished for."""
    running = state[STATUS] == RUNNING
    kept = state[TOOK] == 0
    finite = norm.isfinite()
    t = state[T].clone()
    h = state[H].clone()
    factor, error, accepted = _factor(state, norm, kept, given)
    accepted = accepted & finite & running
    rejected = running & ~accepted
    factor = factor.where(finite, given[MIN_FACTOR])
    for row, value in ((T0, t), (H0, h), (NORM, norm)):
        state[row] = value.where(running, state[row])
    end = state[END]
    landed = accepted & (h == end - t)
    state[T] = torch.where(landed, end, t + h).where(accepted, t)
    _remember(state, error, accepted)
    state[STEPS] += accepted
    state[REJECTED] += rejected
    state[NFE] += given[EVALUATIONS] * running
    state[TOOK] = accepted.to(state.dtype)
    least = (RESOLUTION * t.abs()).maximum(state[SHORTEST])
    spent = running & (state[STEPS] + state[REJECTED] >= given[LIMIT])
    short = rejected & (h.abs() <= least)
    _end(state, spent, short & finite, short & ~finite, landed)
    state[H] = (h.abs() * factor).maximum(least).copysign(h)


def _remember(state: Tensor, error: Tensor, accepted: Tensor) -> None:
    """The last two accepted errors; before the first, the one at hand stands for those before
    it."""
    last = state[ERROR].where(state[ERROR] > 0, error)
    state[OLDER] = last.where(accepted, state[OLDER])
    state[ERROR] = error.where(accepted, state[ERROR])


def _end(
    state: Tensor,
    spent: Tensor,
    short: Tensor,
    diverged: Tensor,
    landed: Tensor,
) -> None:
    """The statuses, of several reasons the last one."""
    status = state[STATUS].masked_fill(spent, MAX_STEPS)
    status = status.masked_fill(short, MIN_STEP).masked_fill(diverged, DIVERGED)
    state[STATUS] = status.masked_fill(landed, OK)


def _factor(
    state: Tensor,
    norm: Tensor,
    kept: Tensor,
    given: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """By how much the step changes, the error to remember, and whether the attempt is accepted."""
    smooth = given[ACCEPT] > 0
    error = norm + given[FLOOR] if smooth else norm.clamp_min(SMALLEST)
    last = state[ERROR].where(state[ERROR] > 0, error)
    older = state[OLDER].where(state[OLDER] > 0, last)
    factor = (
        error ** -given[BETA_1] * last ** -given[BETA_2] * older ** -given[BETA_3] * given[SAFETY]
    )
    if smooth:
        factor = (1.0 + (factor - 1.0).atan()).float().to(factor.dtype)
        return factor, error, factor >= given[ACCEPT]
    accepted = norm <= 1.0
    factor = factor.where(accepted, error ** -given[EXPONENT] * given[SAFETY])
    factor = factor.clamp(given[MIN_FACTOR], given[MAX_FACTOR]).float().to(factor.dtype)
    factor = factor.clamp_max(1.0).where(accepted & kept, factor)
    return factor, error.clamp_min(given[FLOOR]), accepted


def _aim(state: Tensor, given: list[float]) -> None:
    """H <- the step of the next attempt: no longer than allowed, to the end where that is near, 0
    for samples that ended."""
    left = state[END] - state[T]
    h = state[H].abs().clamp_max(given[LONGEST])
    h = left.where(LANDING * h >= left.abs(), h.copysign(left))
    state[H] = h.masked_fill(state[STATUS] != RUNNING, 0.0)
