"""Probability paths: alpha, sigma, their derivatives, log-SNR and its inverse, the SDE's f and g,
and conversions."""

from dataclasses import fields
from typing import Any

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.files import Door, Number, Text, shaped
from odesolve.paths.base import PREDICTIONS, Flipped, Path, Point, prediction_named
from odesolve.paths.diffusion import EDM, VE, VP, Cosine, SubVP
from odesolve.paths.discrete import Discrete
from odesolve.paths.flow import Linear, Trig
from odesolve.paths.words import no_path, unknown_grid

__all__ = [
    "EDM",
    "PREDICTIONS",
    "VE",
    "VP",
    "Cosine",
    "Discrete",
    "Flipped",
    "Linear",
    "Path",
    "Point",
    "SubVP",
    "Trig",
    "from_spec",
    "no_path",
    "prediction_named",
    "unknown_grid",
]

_PRESETS = {"ddpm": Discrete.ddpm, "stable_diffusion": Discrete.stable_diffusion}


_KINDS: dict[str, type[Path]] = {c.__name__: c for c in (VP, Cosine, VE, SubVP, EDM, Linear, Trig)}
_DOOR = Door("this", "describes no path", "give what path.spec() returned")


@fits
def from_spec(spec: dict) -> Path:
    """The path that ``path.spec()`` describes; tables other than the presets cannot be rebuilt from
    their digest.

    Raises OdesolveError for what describes none.
    """
    flips = 0
    found = shaped(spec, dict[str, Any], _DOOR)
    while found.get("name") == "Flipped":
        flips = flips + 1
        found = shaped(found.get("base"), dict[str, Any], _DOOR)
    path = _unflipped(found)
    for _ in range(flips):
        path = path.flipped()
    return path


def _unflipped(spec: dict[str, Any]) -> Path:
    parameters = dict(spec)
    name = shaped(parameters.pop("name", None), Text, _DOOR)
    if name == "Discrete":
        label = parameters.get("label")
        if not isinstance(label, str) or label not in _PRESETS:
            given = f"a Discrete path with digest {parameters.get('digest')}"
            raise OdesolveError(
                f"{given} cannot be rebuilt from JSON: pass the path itself, "
                "Discrete(alphas_cumprod)"
            )
        return _PRESETS[label]()
    if name not in _KINDS:
        raise OdesolveError(
            f"unknown path {name!r}: choose from {', '.join([*_KINDS, 'Discrete', 'Flipped'])}"
        )
    kind = _KINDS[name]
    for k, value in parameters.items():
        shaped(value, Number, _DOOR)
        if k not in {f.name for f in fields(kind)}:
            raise _DOOR.refuse(f"{name} has no {k!r}")
    with _DOOR.reading():
        return kind(**parameters)
