"""A black-box check of a field: whether every row uses its own time, whatever the times of the
other rows.

With steps per sample, and with nodes in one batch, one call gets rows of different times. A
function that reads one time for all rows (``t[0]``, ``t.mean()``) then computes for the wrong
times, and nothing else reveals it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.likelihood.flow import PathFlow, VelocityFlow

# evaluations per sample, and as many again where the first ones raise a suspicion
CALLS = 3
FEW = (
    # samples where the median or middle time may be the time in question: they get a second look
    2
)
# of the times in a call
ORDER = (0, 1, 2)
TURNED = (1, 0, 2)
# The other times, as shares of the interval: far from the one in question (halfway for a velocity,
# 0.7 of a path's angle), and such that no mean of them is that one.
OF_VELOCITY = (0.1, 0.8, 0.95)
OF_PATH = (0.1, 0.92, 0.98)
NUMBERS = 2**22  # of states that are evaluated in one call
ROUNDING = 1e-4  # of an output's size: the change allowed between calls on the same rows
SHARE = 0.02  # of the change by another own time: a change by others' times that leaves no doubt

# (states, numbers of the samples, times), one row each
Ask = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FieldClock:
    """How to call a field with rows of different times: ``ask`` at time ``at``, where the outputs
    are known, and at three ``others``, one below and two above. ``batched``: a sample may occur in
    a call more than once, as it does at nodes."""

    ask: Ask
    at: float
    others: tuple[float, float, float]
    batched: bool
    name: str = "the network"

    def look(self, x: Tensor, index: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """Which samples (n,) have an output at ``at`` that differs from ``here`` (n, ...) when the
        others have other times, as 0 or 1, and the number of evaluations (n,)."""
        low, high, higher = self.others
        rounds = [[low, self.at, high], [higher, self.at, high]]
        times = torch.tensor(rounds, dtype=torch.float64, device=x.device)
        off, calls = self._look(x, index, here, times, ORDER)
        if bool(off.any()) or not (self.batched or len(x) <= FEW):
            return off, calls
        times = times.new_tensor([[high, self.at, higher]] * 2)
        off, more = self._look(x, index, here, times, TURNED)
        return off, calls + more

    def _look(
        self,
        x: Tensor,
        index: Tensor,
        here: Tensor,
        times: Tensor,
        order: tuple[int, int, int],
    ) -> tuple[Tensor, Tensor]:
        answers = self._answers(x, index, times, order)
        if answers is not None and not bool(self._off(answers, here).any()):
            return self._verdict(x, 0.0, 1)
        # Another batch size may round differently, or be impossible: the same calls, with all rows
        # at one time.
        same = self._answers(x, index, times.new_full((2, 3), self.at), order)
        if answers is None:
            return self._verdict(x, 0.0 if same is None else 1.0, 2)
        off = (
            torch.zeros(len(x), dtype=torch.bool, device=x.device)
            if same is None
            else self._off(answers, same[1])
        )
        return off.double(), self._verdict(x, 0.0, 2)[1]

    def refuse(self) -> OdesolveError:
        """The error for a field that uses the times of other rows."""
        return OdesolveError(
            f"{self.name} answers for a sample's time by the times of other samples (one time for "
            "all, as t[0] or t.mean() is?), "
            'and samples are asked at times of their own: give control="batch", which hands one '
            "time for all, or let each row "
            "of the answer go by its own row of t"
        )

    def _verdict(self, x: Tensor, off: float, rounds: int) -> tuple[Tensor, Tensor]:
        each = torch.full((len(x),), off, dtype=torch.float64, device=x.device)
        return each, torch.full_like(each, CALLS * rounds)

    @torch.no_grad()
    def _answers(
        self,
        x: Tensor,
        index: Tensor,
        times: Tensor,
        order: tuple[int, int, int],
    ) -> Tensor | None:
        """Outputs (3, n, ...) at the times (2, 3), those of the first sample and of all others;
        None where a call fails."""
        out = x.new_empty(3, *x.shape)
        try:
            for rows, kinds in _calls(
                len(x), self.batched and 3 * x.numel() <= NUMBERS, order, x.device
            ):
                t = times[(rows > 0).long(), kinds]
                out[kinds, rows] = self.ask(x[rows], index[rows], t).to(out.dtype)
        except Exception as e:
            if isinstance(e, torch.OutOfMemoryError):
                raise
            return None
        return out.nan_to_num(0.0, 0.0, 0.0)

    @staticmethod
    def _off(answers: Tensor, known: Tensor) -> Tensor:
        """Which samples (n,) have outputs (3, n, ...) whose middle one differs from the known
        one."""
        known = known.detach().nan_to_num(0.0, 0.0, 0.0)
        gap, *changes = (_size(answers[k] - known) for k in (1, 0, 2))
        rounding = ROUNDING * _size(known).square().mean().sqrt()
        return (gap > rounding) & (gap > SHARE * torch.maximum(*changes))


def _calls(
    n: int,
    batched: bool,
    order: tuple[int, int, int],
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and which of the three times each has, for calls in which every sample has every time
    once: three calls on all samples, or one on three copies of them, in this order, rotated for
    samples between the first and the last, so that no fixed row (first, middle or last) always has
    the middle time."""
    rows = torch.arange(n, device=device)
    if batched:
        # the middle row is a sample's second of three, or its first
        inner = TURNED if n % 2 else ORDER
        orders = [order if k in (0, n - 1) else inner for k in range(n)]
        kinds = torch.tensor(orders, device=device)
        yield rows.repeat_interleave(3), kinds.flatten()
        return
    for k in range(3):
        yield rows, (rows + k) % 3


def _size(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().sum(1).sqrt()


def of_velocity(flow: VelocityFlow, at: float) -> FieldClock:
    """The clock of a velocity with known outputs at clock time ``at``."""

    def ask(y: Tensor, index: Tensor, u: Tensor) -> Tensor:
        return flow.field(u.to(y.dtype), index)(y)

    return FieldClock(ask, at, _between(flow, OF_VELOCITY), False, "f")


def of_path(flow: PathFlow, ask: Ask, at: float, batched: bool) -> FieldClock:
    """The clock of a model with known outputs at the path's time ``at``; discrete models are called
    at their training times."""
    t = flow.times(torch.tensor(_between(flow, OF_PATH), dtype=torch.float64))
    steps = flow.model.path.training_steps
    if steps is not None:
        t = (t * steps).round().clamp_min(1.0) / steps
    low, high, higher = t.tolist()
    return FieldClock(ask, at, (low, high, higher), batched)


def _between(
    flow: PathFlow | VelocityFlow, shares: tuple[float, float, float]
) -> tuple[float, float, float]:
    low, high, higher = (flow.start + share * (flow.stop - flow.start) for share in shares)
    return low, high, higher


def needed(control: str | None, in_turn: bool, samples: int) -> bool:
    """Whether rows of different times can meet in a call: where a call has several rows and no
    setting gives them one time."""
    return control != "batch" and (samples > 1 or not in_turn)
