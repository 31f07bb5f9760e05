"""Whether the functions of a path agree with each other: its derivatives with differences of alpha
and sigma, its log-SNR and the inverse of that with their ratio."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.paths.base import Flipped, Path, as_time
from odesolve.paths.registry import HOME

# Between the ends, where derivatives may be infinite; odd shares, as tables have corners at even
# ones.
SHARES = (0.1234, 0.3217, 0.5171, 0.7239, 0.8933)
STEP = 1e-4  # of the difference, relative to the path
TOLERANCE = 0.02  # a wrong sign or factor errs by more; a corner, a difference in float32 by less
LEAST = 1e-3  # of the scale of a slope, below which it counts as 0


def check_functions(path: Path) -> None:
    """Raise OdesolveError for a path from outside the package whose functions disagree at two of a
    few times or more. A path is looked at once; those of the library are tested."""
    while isinstance(path, Flipped):
        path = path.base
    if not type(path).__module__.startswith(HOME):
        _check(path)


@functools.lru_cache(256)
@torch.no_grad()
def _check(path: Path) -> None:
    length = path.t_noise - path.t_data
    t = path.t_data + length * torch.tensor(SHARES, dtype=torch.float64, device="cpu")
    a = _at(path, "alpha", t)
    s = _at(path, "sigma", t)
    da = _slope(path, "alpha", t, STEP * length)
    ds = _slope(path, "sigma", t, STEP * length)
    f = da / a
    slope = abs(1 / length)
    _compare(path, "dalpha", t, da, slope * a.abs(), "the derivative of alpha(t)")
    _compare(path, "dsigma", t, ds, slope * s.abs(), "the derivative of sigma(t)")
    _compare(path, "f", t, f, slope + 0 * t, "alpha'(t) / alpha(t)")
    if length > 0:  # of a path whose data are at the end it is that of its SDE, which runs back
        of_g2 = 2 * s * (ds.abs() + (f * s).abs())
        _compare(path, "g2", t, 2 * s * (ds - f * s), of_g2, "2 sigma (sigma' - f sigma)")
    lam = torch.log(a) - torch.log(s)
    _compare(path, "lam", t, lam, 1 + 0 * t, "log(alpha(t) / sigma(t))")
    if type(path).t_of_lam is not Path.t_of_lam:
        _compare(path, "t_of_lam", lam, t, abs(length) + 0 * t, "the t at which lam(t) is that")


def _slope(path: Path, name: str, t: Tensor, step: float) -> Tensor:
    before, after = _at(path, name, torch.cat([t - step, t + step])).chunk(2)
    return (after - before) / (2 * step)


def _at(path: Path, name: str, t: Tensor) -> Tensor:
    try:
        return as_time(getattr(path, name)(t)).to(torch.float64).expand(t.shape)
    except OdesolveError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise OdesolveError(
            f"{name} of the path {type(path).__name__} fails on a tensor of times of shape "
            f"{tuple(t.shape)} ({type(error).__name__}: {error}): let it take one argument, a "
            "float or a tensor, and return a tensor of its shape"
        ) from error


def _compare(
    path: Path,
    name: str,
    t: Tensor,
    expected: Tensor,
    scale: Tensor,
    meaning: str,
) -> None:
    """Raise OdesolveError where a function of the path is another one than expected; what is
    infinite or no number, on either side, is not compared."""
    given = _at(path, name, t)
    size = torch.maximum(given.abs(), expected.abs())
    off = (given - expected).abs() > TOLERANCE * size + LEAST * scale
    off &= given.isfinite() & expected.isfinite()
    if int(off.sum()) < 2:
        return
    k = int(off.nonzero()[0])
    raise OdesolveError(
        f"{name}({float(t[k]):.4g}) of the path {type(path).__name__} is {float(given[k]):.4g}, "
        f"and by its alpha and sigma it is {float(expected[k]):.4g}: define it as {meaning}"
    )
