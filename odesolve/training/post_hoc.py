"""Averages of any width after the training, from snapshots of a few averages along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odesolve.doors.annotations import count, meant
from odesolve.doors.brief import brief
from odesolve.doors.values import real, short
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.training.ema import EMA, Power, tensors_of

WIDEST = 12**-0.5


@fits
@brief
@dataclass(frozen=True)
class Snapshot:
    """An average after ``updates`` updates: its profile, and its weights and buffers by name, on
    the CPU."""

    updates: int
    profile: Power
    weights: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, ema: EMA) -> Snapshot:
        """The snapshot of an average as it is now. Raises OdesolveError for another profile than
        ``Power``, and before the first update."""
        if not isinstance(ema, EMA):
            raise OdesolveError(
                f"ema is {short(ema)}: give a training.EMA(network, training.Power(...))"
            )
        if not isinstance(ema.profile, Power) or not ema.updates:
            raise OdesolveError(
                f"the average has {ema.updates} updates and the profile {ema.profile}: give one "
                "of training.Power(...), updated"
            )
        weights, buffers = (
            {name: v.detach().to("cpu", copy=True) for name, v in named}
            for named in (ema.module.named_parameters(), ema.module.named_buffers())
        )
        return cls(ema.updates, ema.profile, weights, buffers)


@fits
@brief
@dataclass(frozen=True)
class Reconstructed:
    """Averaged weights, and buffers, by name in ``tensors``; ``copy_to`` writes them over those of
    a module.

    ``error`` is the norm of the profile's error, relative to the profile (0: exact); ``shares`` are
    the weights of the snapshots in the sum."""

    tensors: dict[str, Tensor] = field(repr=False)
    error: float
    shares: tuple[float, ...]

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write these over the weights and buffers of a module of the same make. Raises
        OdesolveError for a module of another make."""
        theirs = tensors_of(module)
        for name in {**self.tensors, **theirs}:
            if _shape(self.tensors.get(name)) != _shape(theirs.get(name)):
                raise OdesolveError(
                    f"{name} differs: give a module of the same make as the one that was averaged"
                )
        for name, value in self.tensors.items():
            theirs[name].copy_(value)


@meant(updates=count())
def reconstructed(
    snapshots: Sequence[Snapshot], profile: Power | float, updates: int | None = None
) -> Reconstructed:
    """The average of another width as a sum of snapshots, by least squares of profiles (Karras et
    al. 2024, section 3.2).

    Args:
        snapshots: taken along a training, of one or more profiles; the paper takes two, of
            sigma_rel
            0.05 and 0.1, at regular intervals.
        profile: the wanted one: a ``Power``, or its relative width such as 0.15.
        updates: the number of updates after which the average is wanted; by default that of the
            last snapshot.

    Raises OdesolveError without snapshots, for snapshots of different makes, and for more updates
    than the last snapshot has."""
    wanted = _power(profile)
    _check_snapshots(snapshots)
    last = max(s.updates for s in snapshots)
    end = last if updates is None else updates
    if not 0 < end <= last:
        raise OdesolveError(
            f"updates={updates}: give a number from 1 to those of the last snapshot, {last}"
        )
    shares, error = _least_squares([(s.updates / end, s.profile.gamma) for s in snapshots], wanted)
    makes = [{name: v.shape for name, v in s.weights.items()} for s in snapshots]
    if any(make != makes[0] for make in makes):
        raise OdesolveError("the snapshots are of other modules: give those of one training")
    nearest = min(snapshots, key=lambda s: abs(s.updates - end))
    mixed = {
        name: _mixed([s.weights[name] for s in snapshots], shares, own)
        for name, own in nearest.weights.items()
    }
    return Reconstructed({**mixed, **nearest.buffers}, error, tuple(shares.tolist()))


def _power(profile: Power | float) -> Power:
    """The profile itself, or the one of a relative width."""
    if isinstance(profile, Power):
        return profile
    expected = "a training.Power, or a relative width above 0, up to 12^-1/2 = 0.2887"
    return Power.of_width(real("profile", profile, expected, 0.0, WIDEST, above=0.0))


def _check_snapshots(snapshots: Any) -> None:
    several = isinstance(snapshots, (list, tuple)) and len(snapshots) > 0
    if not several or not all(isinstance(s, Snapshot) for s in snapshots):
        raise OdesolveError(
            f"snapshots is {short(snapshots)}: give a list of "
            "training.Snapshot.of(ema), at least one"
        )


def _least_squares(
    profiles: list[tuple[float, float]],
    wanted: Power,
) -> tuple[np.ndarray, float]:
    """The shares of profiles (t, gamma) whose sum is nearest to the wanted one at t = 1, and the
    norm of the difference, relative to it."""
    aim = (1.0, wanted.gamma)
    products = np.array([[_product(a, b) for b in profiles] for a in profiles])
    with_aim = np.array([_product(a, aim) for a in profiles])
    # Profiles of one norm: as they are, early ones would make the equations ill-conditioned.
    scale = 1 / np.sqrt(np.diag(products))
    scaled = scale[:, None] * products * scale
    shares = scale * np.linalg.lstsq(scaled, scale * with_aim, rcond=1e-13)[0]
    whole = _product(aim, aim)
    left = whole - 2 * shares @ with_aim + shares @ products @ shares
    return shares, float(np.sqrt(max(0.0, left / whole)))


def _shape(value: Tensor | None) -> torch.Size | None:
    return None if value is None else value.shape


def _product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The integral of two profiles (gamma + 1) tau^gamma / t^(gamma + 1), each up to its t."""
    (t, g), (s, h) = sorted((a, b))
    return (g + 1) * (h + 1) * (t / s) ** h / (s * (g + h + 1))


def _mixed(values: list[Tensor], shares: np.ndarray, nearest: Tensor) -> Tensor:
    """The sum in float64; whole numbers as the nearest snapshot has them."""
    if not nearest.is_floating_point():
        return nearest.clone()
    total: Any = sum(float(c) * v.double() for c, v in zip(shares, values, strict=True))
    return torch.as_tensor(total).to(nearest.dtype)
