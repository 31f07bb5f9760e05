"""Probability paths: alpha, sigma, their derivatives, log-SNR and its inverse, the SDE's f and g,
and conversions.

Example:
    >>> import odesolve as ode
    >>> path = ode.paths.Linear()
    >>> float(path.alpha(0.25)), float(path.sigma(0.25))  # x = alpha x0 + sigma noise
    (0.75, 0.25)
"""

from typing import Any

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.files import Text, shaped
from odesolve.paths.base import PREDICTIONS, SPEC, Flipped, Path, Point, prediction_named
from odesolve.paths.derivatives import check_functions
from odesolve.paths.diffusion import EDM, VE, VP, Cosine, SubVP
from odesolve.paths.discrete import Discrete
from odesolve.paths.flow import Linear, Trig
from odesolve.paths.registry import KINDS, TYPED, path_named
from odesolve.paths.words import no_path, unknown_grid

__all__ = [
    "EDM",
    "PREDICTIONS",
    "TYPED",
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
    "check_functions",
    "from_spec",
    "no_path",
    "path_named",
    "prediction_named",
    "unknown_grid",
]


@fits
def from_spec(spec: dict) -> Path:
    """The path that ``path.spec()`` describes; tables other than the presets cannot be rebuilt from
    their digest, and no file imports a module: a path of your own is known once its module is
    imported.

    Raises OdesolveError for what describes none.
    """
    flips = 0
    parameters = shaped(spec, dict[str, Any], SPEC)
    # A loop and no recursion: a file may nest deeper than Python calls.
    while parameters.get("name") == "Flipped":
        flips = flips + 1
        parameters = shaped(parameters.get("base"), dict[str, Any], SPEC)
    path = _unflipped(parameters)
    for _ in range(flips):
        path = path.flipped()
    return path


def _unflipped(spec: dict[str, Any]) -> Path:
    parameters = dict(spec)
    name = shaped(parameters.pop("name", None), Text, SPEC)
    kind = KINDS.get(name)
    if kind is not None:
        return kind.from_parameters(parameters)
    module, colon, _ = name.partition(":")
    if colon:
        raise OdesolveError(f"the path {name!r} is not known yet: import {module} first")
    known = sorted(KINDS, key=lambda n: n.lower() not in TYPED)
    raise OdesolveError(f"unknown path {name!r}: choose from {', '.join(known)}")
