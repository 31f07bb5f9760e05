"""Checks of what a scheduler gets: numbers and switches of its config, times, and keys that nothing
reads."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from odesolve.doors.values import refuse_loose
from odesolve.doors.words import refuse_others, takes_of
from odesolve.errors import OdesolveError, warn
from odesolve.integrations.diffusers.config import READ

# Keys that say which solver the config's own class is, with the values that say nothing.
OVERRIDDEN: dict[str, Any] = {
    "solver_order": 2,
    "solver_type": "midpoint",
    "algorithm_type": "dpmsolver++",
    "euler_at_final": False,
    "predictor_order": 2,
    "corrector_order": 2,
    "disable_corrector": [],
    "predict_x0": True,
}


@functools.cache
def _keys_of_diffusers() -> frozenset[str]:
    """Every key that a scheduler of diffusers has in its config."""
    classes = [
        getattr(diffusers.schedulers, name)
        for name in dir(diffusers.schedulers)
        if name.endswith("Scheduler")
    ]
    return frozenset(key for cls in classes for key in takes_of(cls.__init__))


def strange(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that no scheduler has, ours or one of diffusers."""
    left = {
        k: v
        for k, v in config.items()
        if k not in READ and k not in OVERRIDDEN and not k.startswith("_")
    }
    if left:
        return {k: v for k, v in left.items() if k not in _keys_of_diffusers()}
    return left


def refuse_strange(given: Mapping[str, Any]) -> None:
    """Raise OdesolveError for a keyword of ``OdesolveScheduler`` that is no key of any scheduler's
    config."""
    if nobodys := strange(given):
        refuse_others("OdesolveScheduler", READ | OVERRIDDEN.keys(), nobodys)


def warn_of_overridden(config: Mapping[str, Any], solver: str) -> None:
    """Warn, once, of the config's keys that would choose another solver than the one that was
    named."""
    own = getattr(diffusers, str(config.get("source")), None)
    defaults = (
        {}
        if own is None
        else {k: p.default for k, p in inspect.signature(own.__init__).parameters.items()}
    )
    usual = {k: (value, defaults.get(k, value)) for k, value in OVERRIDDEN.items()}
    lost = [
        f"{k}={config[k]!r}"
        for k, values in usual.items()
        if k in config and config[k] not in values
    ]
    if lost:
        warn(
            f"solver={solver!r} is named, so {', '.join(lost)} of the config is not read: give "
            "what you want of it in the "
            "solver's label, or leave solver= out"
        )


def check_timesteps(times: np.ndarray, steps: int) -> None:
    """Raise OdesolveError for timesteps outside those of the training: the network has never seen
    them."""
    if float(times.max()) > steps - 1 or float(times.min()) < 0:
        raise OdesolveError(
            f"timesteps go from {times.max():g} to {times.min():g}, and the network was trained "
            f"on {steps - 1} to 0: give times "
            "of the training"
        )


def check_whole(given: np.ndarray, whole: np.ndarray) -> None:
    """Raise OdesolveError for fractional timesteps where the network takes whole ones."""
    if (given != whole).any():
        fraction = float(given[given != whole][0])
        raise OdesolveError(
            f"timesteps hold {fraction:g}, and the network takes whole ones: "
            "give whole numbers, or OdesolveScheduler(..., exact_timesteps=True)"
        )


def check_time(value: float, kind: str, steps: int) -> None:
    """Raise OdesolveError for a timestep outside the training."""
    beyond = kind != "edm" and not -0.5 <= value <= steps + 0.5
    if math.isnan(value) or beyond:
        raise OdesolveError(
            f"timestep={value:g} is none of a training of {steps} steps: give an entry of "
            "scheduler.timesteps"
        )


def check_tensors(output: Any, sample: Any) -> None:
    """Raise OdesolveError unless both arguments of a step are floating-point tensors on one
    device."""
    for name, x in (("model_output", output), ("sample", sample)):
        if not isinstance(x, Tensor):
            raise OdesolveError(f"{name} is {type(x).__name__}: give a tensor (B, ...)")
        refuse_loose(name, x)
        if not x.is_floating_point() and not x.is_complex():
            raise OdesolveError(f"{name} is {x.dtype}: give floating-point numbers")
    if output.device != sample.device:
        raise OdesolveError(
            f"model_output lies on {output.device} and sample on {sample.device}: move one of them"
        )


def numbers_at(timesteps: Any) -> Tensor:
    """Times as a tensor on their own device. Raises OdesolveError for what holds no numbers."""
    try:
        return torch.as_tensor(timesteps)
    except (TypeError, ValueError, RuntimeError) as e:
        raise OdesolveError(
            f"timesteps={timesteps!r}: give a number, or one per sample (B,)"
        ) from e
