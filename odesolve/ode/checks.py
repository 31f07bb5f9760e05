"""Checks of the arguments of adaptive solves."""

from __future__ import annotations

import torch
from torch import Tensor

from odesolve.doors.values import real, refuse_loose, switch, whole
from odesolve.errors import OdesolveError, short
from odesolve.ode.batch import Scale
from odesolve.ode.controller import Controller
from odesolve.ode.drift import Drift

SYNC = 8  # attempts between two reads from a device that runs on its own


def length(name: str, value: float) -> float:
    """A length without a sign; that of a longest step may be infinite. Raises OdesolveError for
    anything else."""
    expected = "a length, without the sign of the direction"
    if name == "min_step":
        return real(name, value, expected, 0.0)
    return real(name, value, f"{expected} and above 0", above=0.0, infinite=name == "max_step")


def tolerance(name: str, value: Scale, drift: Drift) -> Scale:
    """A tolerance as a number, or one per sample (B,). Raises OdesolveError for anything else."""
    batch = drift.start.shape[0]
    if not isinstance(value, Tensor):
        return real(name, value, "a positive number such as 1e-5", 0.0)
    refuse_loose(name, value)
    if not drift.by_sample or value.shape != (batch,):
        expected = "a number, as this is one system"
        if drift.by_sample:
            expected = f"({batch},), one per sample"
        raise OdesolveError(f"{name} has shape {tuple(value.shape)}: give {expected}")
    if value.is_cpu and not bool(((value >= 0.0) & value.isfinite()).all()):
        raise OdesolveError(f"{name} is {value.tolist()}: give positive numbers such as 1e-5")
    return value.to(drift.start.device, torch.float64)


def tolerances(rtol: Scale, atol: Scale, drift: Drift) -> tuple[Scale, Scale]:
    """Both tolerances. Raises OdesolveError where they allow no error at all: every step has
    one."""
    both = tolerance("rtol", rtol, drift), tolerance("atol", atol, drift)
    # the host does not wait for values on a device
    known = [torch.as_tensor(v) for v in both if not isinstance(v, Tensor) or v.is_cpu]
    if len(known) == 2 and bool((known[0] + known[1] == 0.0).any()):
        raise OdesolveError(
            "rtol=0 and atol=0 leave a step no error at all: give one of them above 0, such as "
            "rtol=1e-5"
        )
    return both


def check_settings(
    max_steps: object,
    controller: object,
    sync: object,
    args: object,
    **switches: object,
) -> None:
    """Raise OdesolveError for settings of the wrong type."""
    whole("max_steps", max_steps, 1)
    if not isinstance(controller, Controller):
        raise OdesolveError(
            f"controller={short(controller)}: give an odesolve.ode.controller.Controller"
        )
    if sync is not None:
        whole("sync", sync, 1)
    if not isinstance(args, tuple | list):
        raise OdesolveError(
            f"args is {type(args).__name__}: give a tuple of the further arguments of f, such as "
            "(theta,)"
        )
    for name, given in switches.items():
        if given is not None:
            switch(name, given)
