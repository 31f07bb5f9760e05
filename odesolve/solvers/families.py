"""The families that solvers belong to, each with the colour that work-precision plots give it, and
with when to take it.

A solver names its family where it is registered. A new family is a line here, or a string where
the solver is registered: it then gets the next of the spare colours."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family of solvers: what readers call it, its colour in plots, and when to take it."""

    name: str
    colour: str
    advice: str = ""


# The first seven are Okabe and Ito's palette, which colour-blind readers can tell apart.
DDIM = Family(
    "DDIM",
    "#000000",
    "The reference that every paper shows, and the plainest step; with `eta=1` it is "
    "ancestral sampling. Others need fewer evaluations for the same error.",
)
IPNDM = Family(
    "iPNDM",
    "#D55E00",
    "First choice at 5 to 20 evaluations of a diffusion model: one evaluation a step, and "
    "the default there. It keeps the last answers of the network, so that the first steps "
    "are of lower order.",
)
UNIPC = Family(
    "UniPC",
    "#0072B2",
    "At 10 evaluations and more, beside iPNDM: often within a few per cent of it. "
    "`unipc_3` is for 50 evaluations, or for small errors.",
)
DEIS = Family(
    "DEIS",
    "#CC79A7",
    "A multistep method like iPNDM with the weights of the actual grid; take it for small "
    "errors at 20 evaluations and more, or to reproduce its paper.",
)
DPMPP = Family(
    "DPM-Solver++",
    "#009E73",
    "What most image pipelines use: `dpmpp_2m` for guided models at 10 to 30 evaluations, "
    "`dpmpp_2m_sde` where noise is to forget the network's errors.",
)
DPM_SOLVER = Family(
    "DPM-Solver",
    "#56B4E9",
    "The noise prediction's counterpart of DPM-Solver++: for unguided models, and to "
    "reproduce what was made with it. With large guidance scales it is the less steady of "
    "the two.",
)
ADAMS = Family(
    "Adams-Bashforth",
    "#E69F00",
    "First choice on straight paths, for flow models, at 15 evaluations and more: the "
    "order tells where the velocity is smooth in time.",
)
RES = Family(
    "RES",
    "#7F7F00",
    "Exponential integrators whose order conditions hold for stiff problems too; take one "
    "to compare, or where a workflow names it.",
)
EULER = Family(
    "Euler",
    "#555555",
    "The plainest step of a flow model, and the same as DDIM on a straight path: the "
    "reference, and for networks that were straightened.",
)
HEUN_EDM = Family(
    "Heun (EDM)",
    "#7A5195",
    "For EDM's models at 35 evaluations and more, with Karras' grid; at fewer, one "
    "evaluation a step gives a smaller error.",
)
RUNGE_KUTTA = Family(
    "Runge-Kutta",
    "#A65628",
    "For smooth velocities, and where a step may keep nothing of earlier ones: `midpoint` "
    "comes close to multistep methods on straight paths.",
)
FLOW_MAP = Family(
    "flow map",
    "#332288",
    "For networks that were trained to jump from one time to another (MeanFlow, shortcut "
    "models): 1 to 4 steps. On other networks it does not converge.",
)
CONSISTENCY = Family(
    "consistency",
    "#882255",
    "For consistency models: 1 to 4 steps, with fresh noise between them. On other "
    "networks it does not converge.",
)
DDPM = Family(
    "DDPM",
    "#999933",
    "For models of 1000 steps as they were trained, above all those that learned their "
    "variance; it needs hundreds of steps.",
)
CHURN = Family(
    "churn (EDM)",
    "#AA4499",
    "For EDM's models with the settings that their authors tuned: noise goes up a little, "
    "and an ODE step comes down.",
)
ER_SDE = Family(
    "ER-SDE",
    "#117733",
    "Reverse SDEs at any number of evaluations: the linear part is exact for any size of "
    "noise, and the default draws less than the full SDE.",
)
SEEDS = Family(
    "SEEDS",
    "#88CCEE",
    "Reverse SDEs in few, long steps of two or three evaluations each.",
)
SA_SOLVER = Family(
    "SA-Solver",
    "#CC3311",
    "Reverse SDEs at 30 evaluations and more, or with half the noise (`tau` about 0.5).",
)
RESTART = Family(
    "Restart",
    "#4477AA",
    "For networks whose errors pile up: an ODE solve with segments that go back up in "
    "noise, and so cost more evaluations.",
)
LANGEVIN = Family(
    "Langevin",
    "#EE7733",
    "For networks known at some noise levels only, such as NCSN's, and as correctors; "
    "slower than solvers of the reverse SDE.",
)
EULER_MARUYAMA = Family(
    "Euler-Maruyama",
    "#888888",
    "The plain step of an SDE, with any diffusion coefficient: for flow models that are "
    "to draw noise, and as the reference in many steps.",
)
STOCHASTIC_RK = Family(
    "stochastic Runge-Kutta",
    "#66421F",
    "Accurate single paths of the reverse SDE, of strong order up to 1.5, in many steps; "
    "not for few.",
)

SPARE = ("#1B7837", "#762A83", "#B2182B", "#2166AC", "#8C510A", "#01665E", "#C51B7D", "#4D4D4D")


def colour_of(family: str) -> str:
    """The colour of a family: its own, or a spare one, the same whatever else is drawn.

    A spare colour follows from the letters of the name. Rejected: the next free one in the order
    of registration, which changes with what else a program imports."""
    known = COLOURS.get(family)
    if known is not None:
        return known
    return SPARE[sum(family.encode()) % len(SPARE)]


KNOWN = {f.name: f for f in tuple(globals().values()) if isinstance(f, Family)}
COLOURS = {family.name: family.colour for family in KNOWN.values()}
