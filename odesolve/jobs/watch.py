"""Shards that others are at: whose they are, whether they move, and when to make them here, too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path as File

from odesolve.errors import warn
from odesolve.jobs.folder import MOST
from odesolve.jobs.notes import Note, notes

PATIENCE = 300.0  # seconds
TOLD = 10.0  # seconds of waiting after which it is told, or half of the patience
LOOKS = 10  # at notes, within the patience; at least one a second
NOBODY = "a process that says nothing of itself has it"

Movement = tuple[tuple[str, float, int], ...]


class Watch:
    """What a process that waits has seen of shards that are not there, by its own clock.

    A holder moves where its note does: whatever keeps it (SIGSTOP, a disk, a GPU), after
    ``patience`` seconds without a batch its shard is made here under another lease. Results are the
    same bits, so nothing is lost where it goes on afterwards."""

    def __init__(
        self,
        root: File,
        named: str,
        patience: float,
        show: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.root = root
        self.named = named
        self.patience = patience
        self.show = show
        self.clock = clock
        self.seen: dict[int, tuple[Movement, float]] = {}
        self.begun: dict[int, float] = {}
        self.holders: dict[int, str] = {}
        self.turns: dict[int, int] = {}
        self.looked = float("-inf")

    def look(self, todo: Sequence[int]) -> None:
        """Look at who has these shards, now and then."""
        now = self.clock()
        if now - self.looked < min(1.0, self.patience / LOOKS):
            return
        self.looked = now
        held: dict[int, list[Note]] = {k: [] for k in todo}
        for note in notes(self.root):
            held.get(note.shard, []).append(note)
        for k, own in held.items():
            self._follow(k, own, now)
        self.seen = {k: self.seen[k] for k in todo}
        self.begun = {k: self.begun[k] for k in todo}

    def _follow(self, k: int, own: list[Note], now: float) -> None:
        moved = tuple((note.name, note.since, note.done) for note in own)
        self.holders[k] = " and ".join(note.told() for note in own) or NOBODY
        self.begun.setdefault(k, now)
        before = self.seen.get(k)
        if before is None or before[0] != moved:
            self.seen[k] = moved, now
            self.turns[k] = 0
        elif now - before[1] >= self.patience:
            self.seen[k] = moved, now
            self.turns[k] = self.turns.get(k, 0) + 1
        self._tell(k, now)

    def _tell(self, k: int, now: float) -> None:
        """Say once for whom this waits, where it takes its time."""
        if not self.show or now - self.begun[k] < min(TOLD, self.patience / 2):
            return
        self.begun[k] = float("inf")
        moved = (
            f"it moved {now - self.seen[k][1]:.0f} s ago, after {self.patience:g} s without a "
            "move another makes it"
        )
        print(
            f"odesolve: {self.named} waits for shard {k}: {self.holders[k]}; {moved}",
            file=sys.stderr,
            flush=True,
        )

    def leases(self, k: int) -> list[int]:
        """The numbers of leases under which shard k may be made: its own, and others after nothing
        has moved for so long."""
        turn = self.turns.get(k, 0)
        return [k, k + turn * (MOST + 1)] if turn else [k]

    def taken_over(self, k: int, lease: int) -> None:
        """Say that shard k is made here, too."""
        if lease != k:
            warn(
                f"shard {k} of {self.named} has not moved for {self.patience:g} s "
                f"({self.holders[k]}): it is made here, with "
                "the same results; look there for what keeps it"
            )
