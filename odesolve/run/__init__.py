"""Executors: the pure core ``advance`` and the drivers over it."""

from odesolve.run.advance import Cursor, advance, begin
from odesolve.run.executor import Executor, Reporting, settings_of
from odesolve.run.graph import Graph
from odesolve.run.loop import Step, iterate, resume, run
from odesolve.run.report import Report
from odesolve.run.window import Window

__all__ = [
    "Cursor",
    "Executor",
    "Graph",
    "Report",
    "Reporting",
    "Step",
    "Window",
    "advance",
    "begin",
    "iterate",
    "resume",
    "run",
    "settings_of",
]
