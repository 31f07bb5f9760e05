"""The search for the reading that denoises best, within a time limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from odesolve.wiring.denoising import Denoising, Fit
from odesolve.wiring.readings import Wiring, answers, questions

FEW = 2  # levels of the first round
KEPT = 0.7  # excess over the best that keeps a question in the first round: twice the error
SAME = 0.02  # difference of excess errors that counts as none
# margin that rules a reading out, and how it grows with the best one's own excess
MARGIN = 0.05
LOOSER = 0.3
SURE = 3.0  # standard errors
POOR = 0.03  # excess beyond which other scales of time are tried
MORE_SCALES = (0.001, 0.1, 10.0, 100.0, 250.0, 500.0, 999.0, 2000.0, 4000.0, 10000.0)
NEAR = (-3, -2, -1, 1, 2, 3)  # further scales, in quarters of an octave


@dataclass
class ReadingSearch:
    """A network's readings on known data, the declared one first; ``left_out`` counts the questions
    that time did not allow."""

    denoising: Denoising
    declared: Wiring
    deadline: float = math.inf
    tick: Callable[[], None] | None = None
    left_out: int = 0
    fits: list[Fit] = field(default_factory=list)

    def run(self) -> list[Fit]:
        """All fits at all levels, best first."""
        self._round(questions(self.declared))
        if not self.fits or self.fits[0].excess > POOR:
            self._round(self._other_scales(MORE_SCALES))
        if self.fits and self.fits[0].excess > POOR:
            best = self.fits[0].wiring
            if best.time == "t":
                near = [best.time_scale * 2 ** (k / 4) for k in NEAR]
                self._round(
                    replace(best.same_question(), time_scale=float(f"{s:.3g}")) for s in near
                )
        return self.fits

    def narrow(self, paths: int = 1) -> list[Fit]:
        """All fits of questions of the declared path alone, best first."""
        self._round(
            q for q in questions(self.declared, paths) if q.input_scale == self.declared.input_scale
        )
        return self.fits

    def _round(self, wirings: Iterable[Wiring]) -> None:
        errors: list[tuple[float, Wiring]] = []
        for question in wirings:
            if time.monotonic() > self.deadline and errors:
                self.left_out += 1
                continue
            tried = [fit for w in answers(question) if (fit := self.denoising.fit(w, FEW))]
            if tried:
                errors.append((min(f.excess for f in tried), question))
            if self.tick is not None:
                self.tick()
        lowest = min((excess for excess, _ in errors), default=0.0)
        finalists = [
            q
            for excess, q in errors
            if excess <= lowest + KEPT or q == self.declared.same_question()
        ]
        for question in finalists:
            self.fits += [fit for w in answers(question) if (fit := self.denoising.fit(w))]
        self.fits.sort(key=lambda fit: fit.excess)

    def _other_scales(self, scales: Iterable[float]) -> Iterator[Wiring]:
        first = [q for q in questions(self.declared) if q.time == "t" and q.time_scale == 1.0]
        for scale in scales:
            yield from (replace(q, time_scale=scale) for q in first)

    @staticmethod
    def most(declared: Wiring) -> int:
        """The largest number of questions in the first rounds of ``run``."""
        wirings = list(questions(declared))
        others = sum(1 for q in wirings if q.time == "t" and q.time_scale == 1.0)
        return len(wirings) + len(MORE_SCALES) * others + len(NEAR)

    def own(self) -> Fit | None:
        """The fit of the declared reading."""
        return next(
            (f for f in self.fits if f.wiring == self.declared), None
        ) or self.denoising.fit(self.declared)

    def best(self) -> tuple[Fit, list[Fit]]:
        """The best fit, and the others that cannot be distinguished from it: the best has the
        fewest changes from the declared reading."""
        lowest = self.fits[0]
        near = [f for f in self.fits if f.excess <= lowest.excess + SAME]
        near.sort(key=lambda f: (len(f.wiring.differs(self.declared)), f.excess))
        return near[0], near[1:]

    def beaten(self, fit: Fit | None, best: Fit) -> bool:
        """Whether a reading is worse than the best by more than chance and an imperfect network can
        explain."""
        if fit is None:
            return True
        margin = MARGIN + LOOSER * max(0.0, best.excess)
        return fit.excess - best.excess > margin and self.denoising.behind(fit, best) > SURE
