"""Weights of squared errors. All regressions of the field measure one error, that of the data, each
with its own factor.

With e0 = |x0 - x0'|^2 the error of a prediction F = kx x + kF x0 is kF^2 e0; the factor w(t) of e0
identifies a weighting."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odesolve.doors.convention import check_call, path_first
from odesolve.errors import OdesolveError, unknown
from odesolve.paths import PREDICTIONS, Path, prediction_named
from odesolve.paths.discrete import LOWEST

Weight = str | Callable[[Path, Tensor], Tensor] | None
# the plain error of the noise; "truncated SNR" and it (Salimans and Ho 2022)
NAMED = ("snr", "max_snr", "snr_plus_1")
MIN_SNR = re.compile(r"min_snr\((\d+\.?\d*|\.\d+)\)")
# Other names of weights; None is the network's own error, without a factor.
ELSEWHERE = {
    "simple": "noise",
    "elbo": "vlb",
    "truncated_snr": "max_snr",
    "min_snr": "min_snr(5)",
    "uniform": None,
}


def weighed(weight: Weight) -> Weight:
    """An objective's weight under our own name, checked before any batch. Raises OdesolveError."""
    if not isinstance(weight, str):
        return function(weight, "(path, t) -> (B,), or a name such as 'min_snr(5)'")
    name = ELSEWHERE.get(weight.lower().replace("-", "_"), weight.lower().replace("-", "_"))
    if name is None or name in ("vlb", *NAMED) or MIN_SNR.fullmatch(name):
        return name
    try:
        return prediction_named(name)
    except OdesolveError:
        raise unknown(
            "weight", weight, (*PREDICTIONS, "vlb", *NAMED, "min_snr(5)"), ELSEWHERE
        ) from None


def function(weight: Any, form: str) -> Any:
    """A weight that is a function or None. Raises OdesolveError for anything else, and names the
    ``form`` to give."""
    if weight is not None and not callable(weight):
        raise OdesolveError(f"weight is {weight!r}: give a function {form}")
    if "path" in form:
        path_first(weight, "weight")
        check_call(weight, "weight", "path", "t")
    return weight


def factor(path: Path, t: Tensor, predicts: str, sigma_data: float) -> Tensor:
    """kF^2 at times (n,), float64: the squared error of a prediction over that of the data."""
    return weighted(path, t, predicts, "data", sigma_data)


def of_data(path: Path, t: Tensor, weight: str, sigma_data: float) -> Tensor:
    """w(t) of e0, (n,) float64, for a weighting's name: a prediction, for its plain error, "vlb"
    (minus half the slope of the SNR: the continuous bound in nats), "snr", "max_snr", "snr_plus_1",
    "min_snr(5)" (Hang et al. 2023). Raises OdesolveError."""
    return weighted(path, t, weight, "data", sigma_data)


def weights(
    path: Path,
    t: Tensor,
    weight: Weight,
    predicts: str,
    sigma_data: float,
) -> Tensor | None:
    """The factor (n,) of a network's own squared error at times (n,), None for 1; a function (path,
    t) returns the factor itself."""
    if weight is None or weight == predicts:
        return None
    if callable(weight):
        given = weight(path, t)
        if not isinstance(given, Tensor) or given.shape != t.shape:
            raise OdesolveError(
                f"the weight returned {getattr(given, 'shape', type(given).__name__)}: return (n,)"
            )
        if given.is_complex():
            raise OdesolveError(f"the weight returned {given.dtype}: return real numbers (n,)")
        return given
    return weighted(path, t, weight, predicts, sigma_data)


class Powers(NamedTuple):
    """A function of time alpha^a sigma^s rest, with a rest that is finite and not 0, so that
    quotients have limits.

    Each is one number, or one per time.
    """

    alpha: Tensor | float
    sigma: Tensor | float
    rest: Tensor | float


def weighted(
    path: Path,
    t: Tensor,
    weight: str,
    predicts: str,
    sigma_data: float,
    ends: Tensor | None = None,
) -> Tensor:
    """The factor (n,) float64 of a prediction's squared error, by a weight's name; at both ends of
    the path its limit, which may be infinite. Where ``ends`` is true, the error is that of sigma
    times the prediction."""
    t = t.double()
    a = signal(path, t)
    s = path.sigma(t)
    up, down = (powers(path, t, a, s, name, sigma_data) for name in (weight, predicts))
    power = up.sigma - down.sigma
    if ends is not None:
        power = torch.where(ends, power - 2, power)
    return up.rest / down.rest * a.pow(up.alpha - down.alpha) * s.pow(power)


def signal(path: Path, t: Tensor) -> Tensor:
    """alpha, and 0 where a table was raised to its floor because it has no signal."""
    a = path.alpha(t)
    if path.training_steps is None:
        return a
    return torch.where(a.square() <= LOWEST * (1 + 1e-9), 0.0, a)


def powers(
    path: Path,
    t: Tensor,
    a: Tensor,
    s: Tensor,
    name: str,
    sigma_data: float,
) -> Powers:
    """sigma^2 kF^2 of a prediction, sigma^2 w of a weight, by alpha and sigma at t. Raises
    OdesolveError for other names."""
    if name in ("noise", "snr"):
        return Powers(2.0, 0.0, 1.0)
    if name == "data":
        return Powers(0.0, 2.0, 1.0)
    if name == "score":
        return Powers(2.0, -2.0, 1.0)
    if name == "v":
        return Powers(0.0, 0.0, (a**2 + s**2).square())
    if name == "edm":
        return Powers(0.0, 0.0, ((a * sigma_data) ** 2 + s**2) / sigma_data**2)
    if name in ("velocity", "vlb"):
        return _moving(path, t, a, s, name == "vlb")
    if name == "max_snr":
        return Powers(0.0, 0.0, torch.maximum(a**2, s**2))
    if name == "snr_plus_1":
        return Powers(0.0, 0.0, a**2 + s**2)
    if (limit := MIN_SNR.fullmatch(name)) is not None:
        most = float(limit[1])
        low = a**2 < most * s**2
        one = torch.ones_like(a)
        return Powers(2.0 * low, 2.0 * ~low, torch.where(low, one, most * one))
    raise unknown("weight", name, (*PREDICTIONS, "vlb", *NAMED, "min_snr(5)"))


def _moving(
    path: Path,
    t: Tensor,
    a: Tensor,
    s: Tensor,
    bound: bool,
) -> Powers:
    """Powers of the velocity and the bound's weight (alpha / sigma times the velocity's root), by
    alpha sigma' - sigma alpha'.

    Where sigma' is infinite that is alpha g^2 / (2 sigma).
    """
    ds = path.dsigma(t)
    steep = torch.isinf(ds)
    moved = torch.where(
        steep, 0.5 * path.g2(t), a * torch.where(steep, 0.0, ds) - s * path.dalpha(t)
    ).abs()
    if bound:
        return Powers(torch.where(steep, 2.0, 1.0), torch.where(steep, -2.0, -1.0), moved)
    return Powers(2.0 * steep, -2.0 * steep, moved.square())


class Rows(NamedTuple):
    """The comparison for a prediction: the error of ``scale`` F - (c0 x0 + c1 noise), times
    ``factor`` (None for 1).

    ``scale`` is None for 1; it is 0 at times where F itself is infinite although its weighted error
    is finite."""

    c0: Tensor
    c1: Tensor
    scale: Tensor | None
    factor: Tensor | None

    @property
    def finite(self) -> Tensor:
        """Whether the comparison is finite, per time."""
        flags = self.c0.isfinite() & self.c1.isfinite()
        if self.factor is None:
            return flags
        return flags & self.factor.isfinite()


def compared(
    path: Path,
    t: Tensor,
    weight: Weight,
    predicts: str,
    sigma_data: float,
) -> Rows:
    """The rows of a regression at times (n,), finite wherever its weighted error is."""
    c0, c1, scale = path.rows(t, predicts, sigma_data)
    if predicts not in ("score", "velocity") or not isinstance(weight, str) or weight == predicts:
        return Rows(c0 / scale, c1 / scale, None, weights(path, t, weight, predicts, sigma_data))
    ends = scale == 0
    safe = torch.where(ends, 1.0, scale)
    if predicts == "velocity":  # sigma times it
        c1 = torch.where(ends, 0.5 * path.g2(t), c1)
    return Rows(
        c0 / safe,
        c1 / safe,
        1.0 - ends.to(t.dtype),
        weighted(path, t, weight, predicts, sigma_data, ends),
    )
