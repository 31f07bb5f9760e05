"""What a check found, in words, and the model that it would make."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from odesolve.doors.brief import grid, line, table
from odesolve.model.model import Model
from odesolve.wiring.denoising import Fit

VERDICTS = ("right", "wrong", "doubt", "unknown")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes: ``about`` names it, ``verdict`` is "right", "wrong", "doubt" (it may be meant) or
    "unknown" (it cannot be told from what was given), ``says`` is what was seen, ``typed`` what to
    type instead, or empty."""

    about: str
    verdict: str
    says: str
    typed: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:8} {self.about:12} {self.says}"
        return f"{line}\n{'':22}type: {self.typed}" if self.typed else line


@dataclass
class Check:
    """What ``ode.check`` found.

    Attributes: ``findings`` one by one; ``declared`` and ``best`` how the declared reading and the
    one that fits best denoise (``Fit``: ``wiring``, ``excess``, ``rho``, ``errors``), None where
    none could be asked; ``same`` those that fit as well as the best, and so give the same sampler
    up to a re-timing or to what these data can tell; ``fits`` all that were tried, best first;
    ``model`` the network read as ``best`` says; ``data`` whether data were given; ``calls`` of the
    network and ``seconds``.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> found = ode.check(model, problem.sample(256), seed=0)
        >>> found.ok, found["prediction"].verdict
        (True, 'right')
    """

    findings: list[Finding]
    declared: Fit | None = None
    best: Fit | None = None
    same: list[Fit] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list, repr=False)
    model: Model | None = field(default=None, repr=False)
    data: bool = True
    calls: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return all(f.verdict != "wrong" for f in self.findings)

    @property
    def status(self) -> str:
        """The gravest verdict: "wrong", "unknown" where the reading could not be told, "doubt" or
        "right"."""
        verdicts = {f.verdict for f in self.findings}
        return next((v for v in ("wrong", "unknown", "doubt") if v in verdicts), "right")

    def __getitem__(self, about: str) -> Finding:
        """The finding of this name, such as ``found["prediction"]``."""
        return next(f for f in self.findings if f.about == about)

    def table(self, limit: int = 12) -> str:
        """The readings that were tried, best first: the excess of their errors and what one
        types."""
        rows = [f"{fit.excess:+8.2f}  {fit.wiring}" for fit in self.fits[:limit]]
        return "\n".join(["  excess  reading", *rows])

    def __repr__(self) -> str:
        return line(type(self).__name__, self._brief())

    def _repr_html_(self) -> str:
        rows = [(f.verdict, f.about, f.says, f.typed) for f in self.findings]
        found = grid("findings", ("verdict", "about", "what was seen", "type instead"), rows)
        return table("Check", self._brief(), found)

    def _brief(self) -> dict[str, str]:
        best = {} if self.best is None else {"best": str(self.best.wiring)}
        worth = [f.about for f in self.findings if f.verdict != "right"]
        look = {"look at": ", ".join(worth)} if worth else {}
        return {"status": self.status, **best, **look, "calls": str(self.calls)}

    def __str__(self) -> str:
        heads = {
            "right": "the network is read as it was trained",
            "wrong": "something is wired wrong",
            "doubt": "nothing is wired wrong; look at what is in doubt",
            "unknown": "what was looked at holds, and some things cannot be told",
        }
        lines = [f"odesolve check: {heads[self.status]} ({self.calls} calls, {self.seconds:.1f} s)"]
        lines += [f"  {line}" for f in self.findings for line in str(f).split("\n")]
        others = [str(f.wiring) for f in self.same]
        if others:
            lines += ["  these fit as well:", *(f"    {other}" for other in others[:6])]
            lines += [f"    and {len(others) - 6} more" for _ in others[6:7]]
        return "\n".join(lines)

    def to_json(self, path: str | File | None = None) -> str:
        """All findings and fits as JSON, written to a file where one is named."""
        text = json.dumps(self._facts(), indent=1)
        if path is not None:
            File(path).write_text(text)
        return text

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"status": self.status, "data": self.data, "calls": self.calls}
        facts |= {"seconds": round(self.seconds, 3), "findings": [vars(f) for f in self.findings]}
        facts |= {
            "declared": fits_as_values([self.declared]),
            "best": fits_as_values([self.best]),
            "same": fits_as_values(self.same),
        }
        return facts | {"fits": fits_as_values(self.fits)}

    def attainable(self) -> list[float]:
        """The mean squared errors that can be had without a network, at the best reading's noise
        levels."""
        if self.best is None:
            return []
        return [e / math.exp(gap) for e, gap in zip(self.best.errors, self.best.logs, strict=True)]

    def plot(self, path: str | File | None = None) -> Any:
        """Draw the errors of the declared and the best reading over the noise, beside what can be
        had without a network, into a file; without a path returns the matplotlib figure, which a
        notebook draws.

        Raises ImportError without matplotlib, with the install line.
        """
        from odesolve.wiring.pictures import draw

        return draw(self, path)


def fits_as_values(fits: Iterable[Fit | None]) -> list[dict[str, Any]]:
    """Fits as plain values."""
    return [
        {"reading": str(f.wiring), "excess": f.excess, "rho": list(f.rho), "errors": list(f.errors)}
        for f in fits
        if f is not None
    ]
