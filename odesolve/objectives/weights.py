"""Weights of squared errors. All regressions of this field measure one error, that of the data, each with its own factor.

With e0 = |x0 - x0'|^2 the error of a prediction F = kx x + kF x0 is kF^2 e0; a weighting is known by its factor w(t) of e0.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.paths import PREDICTIONS, Path

Weight = str | Callable[[Path, Tensor], Tensor] | None
NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "max_snr": lambda snr: snr.clamp_min(1.0),  # Salimans and Ho 2022, "truncated SNR"
    "snr_plus_1": lambda snr: snr + 1.0,
}
MIN_SNR = re.compile(r"min_snr\(([\d.]+)\)")


def factor(path: Path, t: Tensor, predicts: str, sigma_data: float) -> Tensor:
    """kF^2 at times (n,), float64: what the squared error of a prediction is to that of the data."""
    return path.convert(t.double(), "data", predicts, sigma_data)[1].square()


def of_data(path: Path, t: Tensor, weight: str, sigma_data: float) -> Tensor:
    """w(t) of e0, (n,) float64, of a weighting's name: a prediction, whose plain error it is, "vlb" (minus half the slope of the
    SNR: the continuous bound in nats), "max_snr", "snr_plus_1" or "min_snr(5)" (Hang et al. 2023). Raises OdesolveError."""
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
