"""Executors: the pure core ``advance`` and the drivers over it."""

from odesolve.run.advance import Cursor, advance, begin
from odesolve.run.loop import Step, iterate, resume, run

__all__ = ["Cursor", "Step", "advance", "begin", "iterate", "resume", "run"]
