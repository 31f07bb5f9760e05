"""Weights of squared errors. All regressions of this field measure one error, that of the data, each with its own factor.

With e0 = |x0 - x0'|^2 the error of a prediction F = kx x + kF x0 is kF^2 e0; a weighting is known by its factor w(t) of e0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.convention import check_call, path_first
from odesolve.errors import OdesolveError, unknown
from odesolve.paths import PREDICTIONS, Path, prediction_named

Weight = str | Callable[[Path, Tensor], Tensor] | None
NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "snr": lambda snr: snr,  # the plain error of the noise
    "max_snr": lambda snr: snr.clamp_min(1.0),  # Salimans and Ho 2022, "truncated SNR"
    "snr_plus_1": lambda snr: snr + 1.0,
}
MIN_SNR = re.compile(r"min_snr\((\d+\.?\d*|\.\d+)\)")
# What weights are called elsewhere; None is the network's own error as it is.
ELSEWHERE = {"simple": "noise", "elbo": "vlb", "truncated_snr": "max_snr", "min_snr": "min_snr(5)", "uniform": None}


def weighed(weight: Weight) -> Weight:
    """A weight as an objective is given it, by our name of it, checked before any batch. Raises OdesolveError."""
    if not isinstance(weight, str):
        return function(weight, "(path, t) -> (B,), or a name such as 'min_snr(5)'")
    name = ELSEWHERE.get(weight.lower().replace("-", "_"), weight.lower().replace("-", "_"))
    if name is None or name in ("vlb", *NAMED) or MIN_SNR.fullmatch(name):
        return name
    try:
        return prediction_named(name)
    except OdesolveError:
        raise unknown("weight", weight, (*PREDICTIONS, "vlb", *NAMED, "min_snr(5)"), ELSEWHERE) from None


def function(weight: Any, form: str) -> Any:
    """A weight that is a function or None. Raises OdesolveError for anything else, with the form that it has."""
    if weight is not None and not callable(weight):
        raise OdesolveError(f"weight is {weight!r}: give a function {form}")
    if "path" in form:
        path_first(weight, "weight")
        check_call(weight, "weight", "path", "t")
    return weight


def factor(path: Path, t: Tensor, predicts: str, sigma_data: float) -> Tensor:
    """kF^2 at times (n,), float64: what the squared error of a prediction is to that of the data."""
    return path.convert(t.double(), "data", predicts, sigma_data)[1].square()


def of_data(path: Path, t: Tensor, weight: str, sigma_data: float) -> Tensor:
    """w(t) of e0, (n,) float64, of a weighting's name: a prediction, whose plain error it is, "vlb" (minus half the slope of the
    SNR: the continuous bound in nats), "snr", "max_snr", "snr_plus_1", "min_snr(5)" (Hang et al. 2023). Raises OdesolveError."""
    t = t.double()
    if weight in PREDICTIONS:
        return factor(path, t, weight, sigma_data)
    snr = torch.exp(2 * path.lam(t))
    if weight == "vlb":
        return 0.5 * path.g2(t) * snr / path.sigma(t) ** 2
    if weight in NAMED:
        return NAMED[weight](snr)
    if (limit := MIN_SNR.fullmatch(weight)) is not None:
        return snr.clamp_max(float(limit[1]))
    raise unknown("weight", weight, (*PREDICTIONS, "vlb", *NAMED, "min_snr(5)"))


def weights(path: Path, t: Tensor, weight: Weight, predicts: str, sigma_data: float) -> Tensor | None:
    """The factor (n,) of a network's own squared error at times (n,), None for 1; a function (path, t) gives it itself."""
    if weight is None or weight == predicts:
        return None
    if callable(weight):
        given = weight(path, t)
        if not isinstance(given, Tensor) or given.shape != t.shape:
            raise OdesolveError(f"the weight returned {getattr(given, 'shape', type(given).__name__)}: return (n,)")
        return given
    return of_data(path, t, weight, sigma_data) / factor(path, t, predicts, sigma_data)
