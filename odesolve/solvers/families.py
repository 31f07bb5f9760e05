"""The families that solvers belong to, each with the colour that work-precision plots give it.

A solver names its family where it is registered. A new family is a line here, or a string where
the solver is registered: it then gets the next of the spare colours."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family of solvers: what readers call it, and its colour in plots."""

    name: str
    colour: str


# The first seven are Okabe and Ito's palette, which colour-blind readers can tell apart.
DDIM = Family("DDIM", "#000000")
IPNDM = Family("iPNDM", "#D55E00")
UNIPC = Family("UniPC", "#0072B2")
DEIS = Family("DEIS", "#CC79A7")
DPMPP = Family("DPM-Solver++", "#009E73")
DPM_SOLVER = Family("DPM-Solver", "#56B4E9")
ADAMS = Family("Adams-Bashforth", "#E69F00")
RES = Family("RES", "#7F7F00")
EULER = Family("Euler", "#555555")
HEUN_EDM = Family("Heun (EDM)", "#7A5195")
RUNGE_KUTTA = Family("Runge-Kutta", "#A65628")
FLOW_MAP = Family("flow map", "#332288")
CONSISTENCY = Family("consistency", "#882255")
DDPM = Family("DDPM", "#999933")
CHURN = Family("churn (EDM)", "#AA4499")
ER_SDE = Family("ER-SDE", "#117733")
SEEDS = Family("SEEDS", "#88CCEE")
SA_SOLVER = Family("SA-Solver", "#CC3311")
RESTART = Family("Restart", "#4477AA")
LANGEVIN = Family("Langevin", "#EE7733")
EULER_MARUYAMA = Family("Euler-Maruyama", "#888888")
STOCHASTIC_RK = Family("stochastic Runge-Kutta", "#66421F")

SPARE = ("#1B7837", "#762A83", "#B2182B", "#2166AC", "#8C510A", "#01665E", "#C51B7D", "#4D4D4D")


def colour_of(family: str) -> str:
    """The colour of a family: its own, or a spare one, the same whatever else is drawn.

    A spare colour follows from the letters of the name. Rejected: the next free one in the order
    of registration, which changes with what else a program imports."""
    known = COLOURS.get(family)
    if known is not None:
        return known
    return SPARE[sum(family.encode()) % len(SPARE)]


COLOURS = dict(f for f in tuple(globals().values()) if isinstance(f, Family))
