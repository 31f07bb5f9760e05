"""The habits of diffusers' scheduler classes: where they put their times, how they round them,
where they start and end."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import diffusers

from odesolve.errors import OdesolveError, unknown
from odesolve.names.levels import KINDS
from odesolve.planning.labels import GRIDS, grid_label, parse_label
from odesolve.solvers import REGISTRY


@dataclass(frozen=True)
class Convention:
    """What a scheduler class does with its config.

    ``inner`` leaves out the lowest of n + 1 positions; ``whole`` puts noise levels at whole
    training steps, ``rounds`` says on which kinds of levels the network is told whole numbers;
    ``table`` spans Karras and other grids over the whole table and not over the times chosen.
    ``final`` is what follows the last evaluation: "zero", "sigma_min", or "alpha" for what
    ``set_alpha_to_one`` says; ``unit`` starts from noise of unit variance and not of that of the
    first level. ``taper``: below how many steps ``lower_order_final`` lowers the order."""

    name: str
    inner: bool = True
    whole: bool = True
    rounds: str = "all"  # or "karras", "none"
    table: bool = True
    final: str = "zero"
    unit: bool = True
    spacing: str = "linspace"
    taper: float = 0.0
    flow: str = "multistep"  # or "unipc", "match"
    zero: bool = False  # keeps a terminal cumulative alpha of zero
    # steps with the network's noise where the data prediction was clipped
    keeps_noise: bool = False


_MULTISTEP = Convention("DPMSolverMultistepScheduler", taper=15)
_KSPACE = Convention(
    "EulerDiscreteScheduler",
    inner=False,
    whole=False,
    rounds="none",
    table=False,
    unit=False,
    flow="match",
)
_TABLE = Convention(
    "DDIMScheduler", inner=False, final="alpha", spacing="leading", zero=True, keeps_noise=True
)
_MATCH = Convention(
    "FlowMatchEulerDiscreteScheduler", inner=False, rounds="none", table=False, flow="match"
)
_EDM = Convention("EDMEulerScheduler", rounds="none")


def _like(base: Convention, *names: str, **changes: Any) -> dict[str, Convention]:
    return {name: replace(base, name=name, **changes) for name in names}


CONVENTIONS: dict[str, Convention] = {
    **_like(_MULTISTEP, "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    **_like(_MULTISTEP, "DEISMultistepScheduler", "SASolverScheduler", final="sigma_min"),
    **_like(_MULTISTEP, "UniPCMultistepScheduler", taper=float("inf"), flow="unipc"),
    **_like(
        _KSPACE,
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
    ),
    **_like(_KSPACE, "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", rounds="karras"),
    **_like(_KSPACE, "LMSDiscreteScheduler"),
    **_like(_KSPACE, "DPMSolverSDEScheduler"),
    **_like(
        _TABLE, "DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler", "PNDMScheduler"
    ),
    **_like(_TABLE, "DDPMScheduler", "DDPMParallelScheduler", final="zero", keeps_noise=False),
    **_like(
        _MATCH,
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
    ),
    **_like(_EDM, "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", taper=15),
    **_like(_EDM, "CosineDPMSolverMultistepScheduler", taper=15),
}


def convention(like: str | None, source: str | None, solver: str, kind: str) -> Convention:
    """The convention to follow: the class named, else the config's own for flows and EDM, else the
    solver's.

    Raises OdesolveError for a class without one.
    """
    if like is not None:
        if like not in CONVENTIONS:
            raise unknown("scheduler class", like, CONVENTIONS)
        return CONVENTIONS[like]
    if kind != "vp" and source in CONVENTIONS:
        return CONVENTIONS[source]
    if kind == "flow":
        return _MATCH
    if kind == "edm":
        return _EDM
    habits = REGISTRY.find(solver).outside.habits
    if habits not in CONVENTIONS:
        raise unknown(f"scheduler class in the habits of {solver}", habits, CONVENTIONS)
    return CONVENTIONS[habits]


def kind_of_levels(grid: str | None, config: Mapping[str, Any]) -> str | None:
    """How noise levels are spaced: the grid that the user named, else what the config's flags say;
    None: by training times.

    Raises OdesolveError where a config asks for two at once.
    """
    if grid is not None:
        return None if grid == "normal" else grid
    flags = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "exponential",
        "use_beta_sigmas": "beta",
        "use_lu_lambdas": "lu",
    }
    chosen = [kind for flag, kind in flags.items() if config.get(flag)]
    if len(chosen) > 1:
        raise OdesolveError(
            f"the config asks for {' and '.join(chosen)} noise levels at once: "
            "give grid= one of them"
        )
    return chosen[0] if chosen else None


def spacing_named(solver: str) -> str | None:
    """How a solver's label says that noise levels are spaced, as ``grid`` does; None where it says
    nothing."""
    rule = parse_label(solver).grid
    if rule is None:
        return None
    return next(
        (kind for kind in ("normal", *KINDS) if GRIDS.get(kind) == rule), None
    ) or grid_label(rule)


def source_of(config: Mapping[str, Any]) -> str | None:
    """The class that a config was made for: the one it names, else the only one that registers
    these very keys."""
    if name := config.get("_class_name"):
        return name
    own = set(itertools.takewhile(lambda k: k != "_use_default_values", config))
    fitting = [name for name in CONVENTIONS if "Parallel" not in name and own == _registered(name)]
    return fitting[0] if len(fitting) == 1 else None


@functools.lru_cache(64)
def _registered(name: str) -> frozenset[str]:
    cls = getattr(diffusers, name, None)
    if cls is not None:
        return frozenset(inspect.signature(cls.__init__).parameters) - {"self"}
    return frozenset()
