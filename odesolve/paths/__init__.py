"""Probability paths: alpha, sigma, their derivatives, log-SNR and its inverse, the SDE's f and g, and conversions."""

from odesolve.errors import OdesolveError
from odesolve.paths.base import PREDICTIONS, Flipped, Path, Point
from odesolve.paths.diffusion import EDM, VE, VP, Cosine, SubVP
from odesolve.paths.discrete import Discrete
from odesolve.paths.flow import Linear, Trig

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
]

_PRESETS = {"ddpm": Discrete.ddpm, "stable_diffusion": Discrete.stable_diffusion}


def from_spec(spec: dict) -> Path:
    """The path that ``path.spec()`` describes; tables other than the presets cannot be rebuilt from their digest."""
    parameters = dict(spec)
    name = parameters.pop("name", None)
    if name == "Flipped":
        return from_spec(parameters["base"]).flipped()
    if name == "Discrete":
        if parameters["label"] not in _PRESETS:
            given = f"a Discrete path with digest {parameters['digest']}"
            raise OdesolveError(f"{given} cannot be rebuilt from JSON: pass the path itself, Discrete(alphas_cumprod)")
        return _PRESETS[parameters["label"]]()
    kinds = {c.__name__: c for c in (VP, Cosine, VE, SubVP, EDM, Linear, Trig)}
    if name not in kinds:
        raise OdesolveError(f"unknown path {name!r}: choose from {', '.join([*kinds, 'Discrete', 'Flipped'])}")
    return kinds[name](**parameters)
