"""Executors: the pure core ``advance`` and the drivers over it."""

from odesolve.run.advance import Cursor, advance, begin
from odesolve.run.graph import Graph
from odesolve.run.loop import Step, iterate, resume, run

__all__ = ["Cursor", "Graph", "Step", "advance", "begin", "iterate", "resume", "run"]
