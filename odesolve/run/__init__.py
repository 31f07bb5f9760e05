"""Executors: the pure core ``advance`` and the drivers over it."""

from odesolve.run.advance import Cursor, advance, begin
from odesolve.run.executor import Executor
from odesolve.run.graph import Graph
from odesolve.run.loop import Step, iterate, resume, run
from odesolve.run.window import Report, Window

__all__ = [
    "Cursor",
    "Executor",
    "Graph",
    "Report",
    "Step",
    "Window",
    "advance",
    "begin",
    "iterate",
    "resume",
    "run",
]
