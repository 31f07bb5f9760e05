"""Shards that other processes work at: which process has each, whether it makes progress, and when
this one makes the shard, too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path as File

from odesolve.errors import warn
from odesolve.jobs.folder import MOST
from odesolve.jobs.notes import Note, notes

PATIENCE = 300.0  # seconds
SAY = 10.0  # seconds of waiting after which a line says so, or half of the patience
LOOKS = 10  # looks at notes within the patience; at least one per second
NOBODY = "a process that left no note has it"

Movement = tuple[tuple[str, float, int], ...]


class Lookout:
    """What a process that waits has seen of missing shards, by its own clock.

    A holder makes progress where its note changes. Whatever stops it (SIGSTOP, a disk, a GPU):
    after ``patience`` seconds without a batch this process makes its shard under another lease. The
    results are the same bits, so that nothing is lost where the holder goes on afterwards.

    Rejected: the holder's own clock in its note, as clocks of two machines differ."""

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
        """Look at which processes have these shards, unless the last look was a moment ago."""
        now = self.clock()
        if now - self.looked < min(1.0, self.patience / LOOKS):
            return
        self.looked = now
        by_shard: dict[int, list[Note]] = {k: [] for k in todo}
        for note in notes(self.root):
            by_shard.get(note.shard, []).append(note)
        for k, own in by_shard.items():
            self._follow(k, own, now)
        self.seen = {k: self.seen[k] for k in todo}
        self.begun = {k: self.begun[k] for k in todo}

    def _follow(self, k: int, own: list[Note], now: float) -> None:
        moved = tuple((note.name, note.since, note.done) for note in own)
        self.holders[k] = " and ".join(note.sentence() for note in own) or NOBODY
        self.begun.setdefault(k, now)
        before = self.seen.get(k)
        if before is None or before[0] != moved:
            self.seen[k] = moved, now
            self.turns[k] = 0
        elif now - before[1] >= self.patience:
            self.seen[k] = moved, now
            self.turns[k] = self.turns.get(k, 0) + 1
        self._say(k, now)

    def _say(self, k: int, now: float) -> None:
        """Say once which process this one waits for, where that takes long."""
        if not self.show or now - self.begun[k] < min(SAY, self.patience / 2):
            return
        self.begun[k] = float("inf")
        since = now - self.seen[k][1]
        line = (
            f"odesolve: {self.named} waits for shard {k}: {self.holders[k]}; its last progress "
            f"was {since:.0f} s ago, after {self.patience:g} s without any another process makes it"
        )
        print(line, file=sys.stderr, flush=True)

    def leases(self, k: int) -> list[int]:
        """The leases under which shard k may be made: its own and, once its holder has used up the
        patience, another one for each time that this happened."""
        turn = self.turns.get(k, 0)
        if turn:
            return [k, k + turn * (MOST + 1)]
        return [k]

    def taken_over(self, k: int, lease: int) -> None:
        """Warn that this process makes shard k, too."""
        if lease != k:
            warn(
                f"shard {k} of {self.named} made no progress for {self.patience:g} s "
                f"({self.holders[k]}): this process makes it, with the same results; look there "
                "for what stops it"
            )
