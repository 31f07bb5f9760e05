"""How a network is read, as one types it: paths, times, and the arguments of ``ode.Model`` that are
not defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from odesolve.paths import EDM, VE, VP, Cosine, Discrete, Flipped, Linear, Path, SubVP, Trig

Time = str | Callable[[Path, Tensor], Tensor]
KNOWN = (VP(), Linear(), EDM(), Cosine(), Trig(), VE(), SubVP())
_PARAMETERS = {type(p).__name__: p.spec() for p in KNOWN}
_PRESETS = {"ddpm": "ddpm()", "stable_diffusion": "stable_diffusion()"}


def typed_path(path: Path) -> str:
    """A path as one types it, parameters that are defaults left out."""
    if isinstance(path, Flipped):
        return f"{typed_path(path.base)}.flipped()"
    if isinstance(path, Discrete):
        preset = _PRESETS.get(path.label)
        return f"ode.paths.Discrete{'.' + preset if preset else '(alphas_cumprod)'}"
    kind = type(path).__name__
    usual = _PARAMETERS.get(path.registered)
    if usual is None:
        return repr(path)
    numbers = {k: v for k, v in path.spec().items() if k != "name"}
    inside = ", ".join(f"{k}={v:g}" for k, v in numbers.items() if v != usual.get(k))
    return f"ode.paths.{kind}({inside})"


def typed_time(time: Time) -> str:
    """A rule for the network's time as one types it."""
    if isinstance(time, str):
        return f'"{time}"'
    return getattr(time, "__name__", "your function")


def default_time(path: Path, predicts: str) -> str:
    """What a network gets as its time where that is not said."""
    if predicts == "edm":
        return "c_noise"
    return "index" if path.training_steps is not None else "t"


def typed_reading(
    path: Path,
    predicts: str,
    time: Time,
    time_scale: float,
    input_scale: str | None,
    sigma_data: float,
) -> list[str]:
    """The arguments of ``ode.Model`` behind the network that say what its answers mean, those that
    are defaults left out."""
    out = [typed_path(path), f'predicts="{predicts}"']
    if time != default_time(path, predicts):
        out.append(f"time={typed_time(time)}")
    if time_scale != 1.0 and time == "t":
        out.append(f"time_scale={time_scale:g}")
    if input_scale is not None and predicts != "edm":
        out.append(f'input_scale="{input_scale}"')
    if "edm" in (predicts, input_scale) and sigma_data != 0.5:
        out.append(f"sigma_data={sigma_data:g}")
    return out


def names_of(cond: Mapping[str, Any]) -> str:
    """The names of conditions, without what they hold."""
    return ", ".join(f"{name}=..." for name in cond)
