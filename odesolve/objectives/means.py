"""Whether a weighted error has a mean under a law of times: with an infinite mean, no number of
draws estimates a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import short
from odesolve.errors import OdesolveError
from odesolve.objectives import times as laws
from odesolve.objectives.weights import Weight, compared
from odesolve.paths import Flipped, Path

# Falling shares of a law's probability next to an end of the path; floats are less dense near 1
# than near 0.
NEAR = {"data": (1e-20, 1e-40), "noise": (2.0**-20, 2.0**-40)}


def law_for(
    times: Any,
    path: Path,
    predicts: str,
    weight: Weight,
    sigma_data: float,
    importance: bool = False,
) -> Any:
    """The law of an objective: the user's, or by default the path's, cut off before an end where
    the mean would be infinite.

    Raises OdesolveError for a law without a density where importance divides by it, and for an
    infinite mean."""
    law = laws.named(times, laws.default(path, predicts))
    if importance:
        _check_density(law, times, path)
    # the plain error: the path's law stays where that is finite, other laws are the user's choice
    if weight is None:
        return law
    ends = infinite(law, path, predicts, weight, sigma_data, importance)
    if not ends:
        return law
    inner = _inside(path, ends, laws.default(path, predicts))
    if times is None and path.training_steps is None:
        return inner
    what = f"weight={weight!r} of a network that predicts {predicts!r} has an infinite mean"
    if path.training_steps is not None:
        raise OdesolveError(
            f"{what}: the table has no signal at its noise end, where it should "
            "predict 'v' or 'data'"
        )
    raise OdesolveError(
        f"{what} under times={short(times)}, which reach the {' and the '.join(ends)} end: give "
        f"times=Uniform({inner.low:.4g}, {inner.high:.4g}), or leave times= out"
    )


def infinite(
    law: Any,
    path: Path,
    predicts: str,
    weight: Weight,
    sigma_data: float,
    importance: bool = False,
) -> list[str]:
    """The ends of the path, "data" or "noise", near which the mean is infinite. Unknown for
    functions of the user's own: none."""
    if not isinstance(weight, str):
        return []
    path = path.base if isinstance(path, Flipped) else path
    if path.training_steps is not None:
        t = torch.arange(1, path.training_steps + 1, dtype=torch.float64) / path.training_steps
        if bool(_size(path, t, predicts, weight, sigma_data).isfinite().all()):
            return []
        return ["noise"]
    if isinstance(law, laws.Importance):
        # a part of which it has everywhere
        law = laws.Uniform()
        importance = False
    if not isinstance(law, laws.Law):
        return []
    ends = []
    for end, near in NEAR.items():
        share = torch.tensor(near, dtype=torch.float64)
        t = law.quantile(share if end == "data" else 1 - share, path)
        size = share * _size(path, t, predicts, weight, sigma_data)
        size = size / laws.relative(law, t, path) if importance else size
        if not bool((size[1] <= 0.5 * size[0]) & size[1].isfinite()):
            ends.append(end)
    return ends


def _size(
    path: Path,
    t: Tensor,
    predicts: str,
    weight: Weight,
    sigma_data: float,
) -> Tensor:
    """The weighted error of a network that returns zero, for data and noise of unit size."""
    rows = compared(path, t, weight, predicts, sigma_data)
    size = rows.c0**2 + rows.c1**2
    return size if rows.factor is None else size * rows.factor


def _inside(path: Path, ends: list[str], usual: laws.Law) -> laws.Uniform:
    """Uniform times away from these ends, and from those that the path's law avoids."""
    low, high = laws.shares(path)
    least = usual.low if isinstance(usual, laws.Uniform) else 0.0
    return laws.Uniform(
        max(low, least) if "data" in ends else least, high if "noise" in ends else 1.0
    )


def _check_density(law: Any, times: Any, path: Path) -> None:
    what = f"importance=True divides by the density of times, and {short(times)}"
    if not hasattr(law, "density"):
        raise OdesolveError(f"{what} has none: give a law with density(t, path)")
    if path.training_steps is None:
        if getattr(law, "discrete", False):
            raise OdesolveError(
                f"{what} has single times: give a law with a density, or leave importance= out"
            )
    elif not hasattr(law, "share") and not hasattr(law, "quantile"):
        raise OdesolveError(
            f"{what} on a table by its probabilities: give a law with quantile(u, path)"
        )
