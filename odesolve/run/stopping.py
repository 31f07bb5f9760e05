"""When a sample of a window is done, how far its window may slide, and how many of its calls are
worth their cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.run.windows import Windows

SETTLED = 0.2  # of the tolerance: a state that has moved by less is not evaluated again
# bound on the factor by which a sweep is trusted to reduce a state's last move
CONTRACTS = 0.3
# of the tolerance: the error allowed in a state that a window leaves behind, as later steps may
# amplify it
FIRM = 0.1
FINER = 0.3  # relative move below which a sample goes on to a finer stride
PATIENCE = 2  # rounds at one stride at most
WORTH = 20  # the fewest calls that a stride leaves: enough to interpolate between


@dataclass(frozen=True)
class Verdict:
    """The verdict on a round: samples that are ``done`` or no longer finite, ``bad`` (B,), how far
    each window slides, and whether each of these is nonzero anywhere; whether any sample is still
    running, and whether calls will be left out."""

    done: Tensor
    bad: Tensor
    by: Tensor
    some_done: bool
    some_bad: bool
    some_slide: bool
    under_way: bool
    gaps: bool


class Stopping:
    """The rule of a fused solve: a fixed point to ``tolerance``, evaluated at every ``stride``-th
    call first."""

    def __init__(self, windows: Windows, tolerance: float, stride: int | None):
        self.windows = windows
        self.tolerance = tolerance
        origin = windows.origin
        self.last = torch.full_like(origin, torch.inf, dtype=torch.float64)
        self.stride = torch.full_like(origin, stride or coarsest(windows.size))
        self.tries = torch.zeros_like(origin)

    def due_calls(self) -> Tensor:
        """Calls that are evaluated this round (W, B): those on the sample's stride that are new or
        have moved, and the first that is not sure."""
        windows = self.windows
        step = windows.place.step
        far = windows.moved > self.tolerance * SETTLED * windows.scale
        on_stride = (step % self.stride == 0) | (step == windows.tables.calls - 1)
        first = windows.slot == windows.sure
        return windows.place.inside & (((~windows.known | far) & on_stride) | first)

    def judge(self) -> Verdict:
        """Read the device's results once: which samples are done, whose windows slide, and which go
        on to a finer stride."""
        windows = self.windows
        inside = windows.place.inside
        move = windows.residual.sqrt() / windows.scale.clamp_min(1e-300)
        largest = torch.where(inside, move, 0.0).amax(0)
        error = move * (largest / self.last).clamp(CONTRACTS, 1.0)
        self.last = largest
        exact = windows.slot < windows.sure
        good = exact | (windows.known & (error <= self.tolerance)) | ~inside
        done = self._done(good, exact)
        left = windows.alive & ~done
        bad = left & ~torch.isfinite(largest)
        self._refine(largest)
        by = self._slide(exact, good, error, left)
        gaps = left & (self.stride > 1)
        slides = by > 0
        # Read all at once: each read of a number makes the host wait for the device.
        flags = torch.stack([mask.any() for mask in (done, bad, slides, left, gaps)])
        return Verdict(done, bad, by, *flags.tolist())

    def _done(self, good: Tensor, exact: Tensor) -> Tensor:
        windows = self.windows
        at_end = windows.origin + windows.size >= windows.tables.calls
        whole = (self.stride == 1) | exact.all(0)
        return good.all(0) & at_end & whole & windows.alive

    def _refine(self, largest: Tensor) -> None:
        self.tries += 1
        finer = (largest < FINER) | (self.tries >= PATIENCE)
        self.stride = torch.where(finer, (self.stride // 2).clamp_min(1), self.stride)
        self.tries = torch.where(finer, 0, self.tries)

    def _slide(self, exact: Tensor, good: Tensor, error: Tensor, left: Tensor) -> Tensor:
        """How many calls at the head of each window are left behind (B,)."""
        windows = self.windows
        calls = windows.tables.calls
        if windows.size >= calls:
            return torch.zeros_like(windows.origin)
        firm = exact | (good & (error <= FIRM * self.tolerance))
        room = (calls - windows.size - windows.origin).clamp_min(0)
        return (left * firm.long().cumprod(0).sum(0)).minimum(room)

    def restart(self, b: int) -> None:
        """Sample b begins again: its last move no longer counts."""
        self.last[b] = torch.inf


def coarsest(calls: int) -> int:
    """The coarsest stride that leaves calls enough; at most 8."""
    return max(k for k in (1, 2, 4, 8) if k == 1 or calls >= WORTH * k)
