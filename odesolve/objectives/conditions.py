"""Couplings of data with conditions: sampling starts from noise that is independent of the
condition, so the noise of training must be, too."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.values import dense, short
from odesolve.errors import OdesolveError
from odesolve.model.conditions import of_samples
from odesolve.objectives.couplings import Independent

Cond = Mapping[str, Any]


def coupled(
    coupling: Any,
    x: Tensor,
    noise: Tensor,
    cond: Cond | None,
    generator: torch.Generator | None,
) -> Tensor:
    """The noise (B, ...) in the order that a coupling gives it, for data x (B, ...) with these
    conditions.

    A coupling that moves noise across conditions makes the noise depend on them, while that of
    sampling does not: samples of a condition would then follow the wrong law. So noise stays with
    the condition that it was drawn with: exactly for labels (whole numbers, booleans, strings),
    where the coupling works within each label; nearly for real numbers, whose squared distance,
    times the coupling's ``cond_weight``, is added to the cost (Kerrigan et al. 2024; Chemseddine et
    al. 2024). As that weight grows, pairs become those of independent noise. ``Independent`` needs
    none of this. A coupling of the user's own that takes ``cond`` gets the conditions and decides
    by itself. A condition that all samples share does not matter. Where the batches differ in size,
    each label is matched to all of the noise.

    Raises OdesolveError for real conditions without a ``cond_weight``, and for what is neither
    labels nor numbers."""
    if isinstance(coupling, Independent):
        return _coupling_answer(coupling, x, noise, generator)
    if cond and _takes_cond(coupling):
        return _coupling_answer(coupling, x, noise, generator, cond=cond)
    labels = list[Tensor]()
    beside = list[Tensor]()
    for name, value in of_samples(_listed("", cond or {}, len(x)), len(x)):
        marks, numbers = _read(name, value)
        if marks is not None:
            labels.append(marks.to(x.device))
        elif numbers is not None:
            root = _root(coupling, name, value, x, noise)
            beside.append(root * numbers.to(x).reshape(len(x), -1))
    if not labels and not beside:
        return _coupling_answer(coupling, x, noise, generator)
    groups = _groups(labels) if labels else [torch.arange(len(x), device=x.device)]
    out = noise.new_empty(len(x), *noise.shape[1:])
    for rows in groups:
        at = rows.to(noise.device)
        own = noise[at] if len(noise) == len(x) else noise
        out[at] = _near(coupling, x[rows], own, [b[rows] for b in beside], generator)
    return out


def _coupling_answer(
    coupling: Any,
    x: Tensor,
    noise: Tensor,
    generator: torch.Generator | None,
    **cond: Any,
) -> Tensor:
    """The result of a coupling. Raises OdesolveError unless it has one sample of the noise per
    sample of the data."""
    partners = coupling(x, noise, generator, **cond)
    expected = (len(x), *noise.shape[1:])
    is_tensor = isinstance(partners, Tensor)
    if not is_tensor or partners.shape != expected or partners.dtype != noise.dtype:
        given = type(partners).__name__
        if is_tensor:
            given = f"{partners.dtype} of shape {tuple(partners.shape)}"
        raise OdesolveError(
            f"coupling returned {given}: return the noise in its order, {noise.dtype} of shape "
            f"{expected}"
        )
    return partners


def _near(
    coupling: Any,
    x: Tensor,
    noise: Tensor,
    beside: list[Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """The coupling of samples with extra numbers appended, the same ones on both sides."""
    if not beside:
        return _coupling_answer(coupling, x, noise, generator)
    data, source = (torch.cat([v.flatten(1), *(b.to(v) for b in beside)], 1) for v in (x, noise))
    wide = _coupling_answer(coupling, data, source, generator)
    return wide[:, : noise[0].numel()].reshape(noise.shape)


def _groups(labels: list[Tensor]) -> list[Tensor]:
    """The rows of each combination of labels."""
    _, group = torch.unique(torch.stack(labels, 1), dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    return list(order.split(torch.bincount(group).tolist()))


def _listed(name: str, value: Any, n: int) -> Any:
    """Conditions whose rows are tuples and the like, as lists. Raises OdesolveError for rows that
    are tensors in a list."""
    if isinstance(value, Mapping):
        return {k: _listed(f"{name}.{k}" if name else str(k), v, n) for k, v in value.items()}
    if type(value) not in (list, tuple, range) or len(value) != n:
        return value
    if not any(isinstance(v, Tensor) for v in value):
        return list(value)
    if type(value) is tuple or all(isinstance(v, Tensor) and v.shape[:1] == (n,) for v in value):
        return value  # several conditions
    raise OdesolveError(
        f"coupling: the condition {name!r} is a list of {n} tensors: give one, torch.stack({name})"
    )


def _takes_cond(coupling: Any) -> bool:
    try:
        return "cond" in inspect.signature(coupling).parameters
    except (TypeError, ValueError):  # of C, and others that do not say
        return False


def _root(
    coupling: Any,
    name: str,
    value: Any,
    x: Tensor,
    noise: Tensor,
) -> float:
    """The factor that scales a real condition next to the samples."""
    weight = getattr(coupling, "cond_weight", None)
    if weight is None:
        raise OdesolveError(
            f"coupling: by it the noise would depend on the condition {name!r}, {short(value)}, "
            "and that of sampling does not: "
            "give OptimalTransport(cond_weight=...), the factor of its squared distance in the "
            "cost, or no coupling"
        )
    if len(noise) != len(x):
        given = f"the source has {len(noise)} samples for {len(x)} data of the condition {name!r}"
        raise OdesolveError(f"{given}, {short(value)}: give one for each")
    return math.sqrt(weight)


def _read(name: str, value: Any) -> tuple[Tensor | None, Tensor | None]:
    """A condition as labels (B,), or as real numbers (B, ...); None twice for a condition without
    numbers."""
    if not isinstance(value, Tensor):
        value = _array(name, value)
        if value.dtype.kind not in "biuf":
            return _numbered(name, value.tolist()), None
        value = torch.as_tensor(value)
    if not dense(value) or value.is_meta:
        given = f"the condition {name!r} is on the meta device, quantized or {value.layout}"
        raise OdesolveError(f"coupling: {given}: give its numbers in a dense tensor")
    if not value.numel():
        return None, None
    if value.is_complex():
        raise OdesolveError(
            f"coupling: the condition {name!r} is {value.dtype}: give its real and imaginary parts"
        )
    if value.is_floating_point():
        return None, value.detach()
    return torch.unique(value.reshape(len(value), -1), dim=0, return_inverse=True)[1], None


def _array(name: str, value: Any) -> np.ndarray:
    """Rows as an array. Raises OdesolveError for rows of several lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        given = f"the condition {name!r} is {short(value)}, rows of several lengths"
        raise OdesolveError(
            f"coupling: {given}: give one label or one row of numbers per sample"
        ) from None


def _numbered(name: str, values: list[Any]) -> Tensor:
    """A number for each distinct string or other value."""
    numbers: dict[Any, int] = {}
    try:
        return torch.tensor([numbers.setdefault(v, len(numbers)) for v in values])
    except TypeError:
        given = f"the condition {name!r} is {short(values)}"
        raise OdesolveError(
            f"coupling: {given}: give one label or one row of numbers per sample"
        ) from None
