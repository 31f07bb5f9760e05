"""Averages of any width after the training, out of averages of a few widths that were kept along
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odesolve.doors.annotations import count, meant
from odesolve.doors.values import real, short
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.training.ema import EMA, Power, tensors_of

WIDEST = 12**-0.5


@fits
@dataclass(frozen=True)
class Snapshot:
    """An average as it was after so many updates: its profile, and its weights and buffers by name,
    on the CPU."""

    updates: int
    profile: Power
    weights: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, ema: EMA) -> Snapshot:
        """The one of now. Raises OdesolveError for an average of another profile than ``Power``, or
        without an update."""
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
@dataclass(frozen=True)
class Reconstructed:
    """Averaged weights, and buffers, by name in ``tensors``; ``copy_to`` writes them over a
    module's.

    ``error`` is the norm of the profile's difference relative to its own (0: exact), ``shares``
    what of each snapshot is in it."""

    tensors: dict[str, Tensor] = field(repr=False)
    error: float
    shares: tuple[float, ...]

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Over the weights and buffers of a module of the same make. Raises OdesolveError for
        another one."""
        theirs = tensors_of(module)
        wrong = [
            n
            for n in {**self.tensors, **theirs}
            if _shape(self.tensors.get(n)) != _shape(theirs.get(n))
        ]
        if wrong:
            raise OdesolveError(
                f"{wrong[0]} differs: give a module of the same make as the one that was averaged"
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
        snapshots: along a training, of one or more profiles; two of sigma_rel .05 and .1, every so
            many steps, are the paper's.
        profile: what is wanted: a ``Power``, or its relative width such as 0.15.
        updates: after so many; by default as many as the last snapshot has.

    Raises OdesolveError for no snapshots, snapshots of other makes, and more updates than the last
    one has."""
    wide = "a training.Power, or a relative width above 0, up to 12^-1/2 = 0.2887"
    wanted = (
        profile
        if isinstance(profile, Power)
        else Power.of_width(real("profile", profile, wide, 0.0, WIDEST, above=0.0))
    )
    several = isinstance(snapshots, (list, tuple)) and len(snapshots) > 0
    if not several or not all(isinstance(s, Snapshot) for s in snapshots):
        raise OdesolveError(
            f"snapshots is {short(snapshots)}: give a list of "
            "training.Snapshot.of(ema), at least one"
        )
    last = max(s.updates for s in snapshots)
    end = last if updates is None else updates
    if not 0 < end <= last:
        raise OdesolveError(
            f"updates={updates}: give a number from 1 to those of the last snapshot, {last}"
        )
    held = [(s.updates / end, s.profile.gamma) for s in snapshots]
    own = np.array([[_product(a, b) for b in held] for a in held])
    aim = np.array([_product(a, (1.0, wanted.gamma)) for a in held])
    scale = 1 / np.sqrt(np.diag(own))  # profiles of one norm
    shares = scale * np.linalg.lstsq(scale[:, None] * own * scale, scale * aim, rcond=1e-13)[0]
    whole = _product((1.0, wanted.gamma), (1.0, wanted.gamma))
    error = np.sqrt(max(0.0, (whole - 2 * shares @ aim + shares @ own @ shares) / whole))
    nearest = min(snapshots, key=lambda s: abs(s.updates - end))
    makes = [{name: v.shape for name, v in s.weights.items()} for s in snapshots]
    if any(make != makes[0] for make in makes):
        raise OdesolveError("the snapshots are of other modules: give those of one training")
    mixed = {
        k: _mixed([s.weights[k] for s in snapshots], shares, v) for k, v in nearest.weights.items()
    }
    return Reconstructed({**mixed, **nearest.buffers}, float(error), tuple(shares.tolist()))


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
