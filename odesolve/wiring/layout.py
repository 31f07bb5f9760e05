"""The data of a check: their shape, their scale, and the order of their axes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.wiring.result import Finding

LEAST = 4  # rows
USUAL = (0.1, 4.0)  # standard deviations of data that networks are usually trained on


def rows_of(data: Any, device: torch.device) -> Tensor:
    """Data (N, ...) in float64 on the network's device. Raises OdesolveError for anything but a
    batch of numbers."""
    try:
        x = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as e:
        raise OdesolveError(f"data is {type(data).__name__}: {_to_type(data)}") from e
    if x.dim() < 2 or x.shape[0] < LEAST or x.numel() == 0:
        raise OdesolveError(
            f"data has shape {tuple(x.shape)}: give at least {LEAST} samples, as (N, ...)"
        )
    if x.is_complex() or x.is_sparse or x.dtype == torch.bool:
        raise OdesolveError(
            f"data is {x.dtype} ({x.layout}): give real numbers in a dense tensor, (N, ...)"
        )
    x = x.detach().to(device).double()
    if not bool(torch.isfinite(x).all()):
        raise OdesolveError("data holds NaN or infinity: give finite samples, (N, ...)")
    if float((x - x.mean(0)).abs().max()) == 0.0:
        raise OdesolveError("all samples of data are the same: give samples that differ, (N, ...)")
    return x


def _to_type(data: Any) -> str:
    """What to type for data in another form."""
    if isinstance(data, (str, os.PathLike)):
        how = f"give what the file holds, {_loaded(os.fspath(data))}"
    elif isinstance(data, Mapping):
        how = f"give the samples in it, such as data[{next(iter(data), 'x')!r}]"
    elif isinstance(data, tuple) and len({getattr(part, "shape", None) for part in data}) > 1:
        how = "give the samples in it, such as data[0]"
    elif isinstance(data, (list, tuple)):
        how = "give torch.stack([torch.as_tensor(x) for x in data])"
    elif hasattr(data, "dataset") or (
        not hasattr(data, "__getitem__") and isinstance(data, Iterable)
    ):
        how = (
            "give one batch of it, such as next(iter(data)), or next(iter(data))[0] where that "
            "holds labels too"
        )
    elif not isinstance(data, bytes) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        how = (
            "give torch.stack([data[i] for i in range(256)]), or data[i][0] where a sample has "
            "a label too"
        )
    else:
        how = "give a tensor or array of samples"
    return f"{how}, (N, ...)"


def _loaded(name: str) -> str:
    """The call that reads a file of this name."""
    if name.endswith((".npy", ".npz")):
        return f"np.load({name!r})" + ("['x']" if name.endswith("z") else "")
    return f"such as np.load({name!r}) or torch.load({name!r})"


def device_of(model: Model, data: Any) -> torch.device:
    """The device of the network, or of the data if the network has no weights."""
    weights = next(iter(model.net.parameters()), None) if isinstance(model.net, nn.Module) else None
    if weights is not None:
        return weights.device
    if isinstance(data, Tensor):
        return data.device
    return torch.device("cpu")


def scale(x: Tensor, model: Model) -> Finding:
    """Whether the data have the scale that networks are trained on."""
    deviation = float((x - x.mean(0)).square().mean().sqrt())
    low = float(x.min())
    high = float(x.max())
    says = f"values from {low:.3g} to {high:.3g}, deviation {deviation:.3g}"
    whole = bool((x == x.round()).all())
    if whole and low >= 0 and 100 < high <= 255:
        return Finding("data", "wrong", f"{says}: pixels as bytes", "x / 127.5 - 1")
    expected = model.reading.sigma_data
    if model.predicts == "edm" and not 0.4 < deviation / expected < 2.5:
        return Finding(
            "data", "doubt", f"{says}, while sigma_data={expected:g}", f"sigma_data={deviation:.2g}"
        )
    if not USUAL[0] < deviation < USUAL[1]:
        return Finding(
            "data",
            "doubt",
            f"{says}: networks are mostly trained on deviations near 1",
            f"x / {deviation:.2g}",
        )
    return Finding("data", "right", says)


def other_layouts(x: Tensor) -> list[tuple[str, Tensor]]:
    """The same data with their channels at the other end."""
    if x.dim() != 4:
        return []
    ways = [("x.permute(0, 3, 1, 2)", (0, 3, 1, 2)), ("x.permute(0, 2, 3, 1)", (0, 2, 3, 1))]
    return [(typed, x.permute(*order).contiguous()) for typed, order in ways]


SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "2 * x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
    "x / 127.5 - 1": lambda x: x / 127.5 - 1,
    "x / 255": lambda x: x / 255,
    "(x - x.mean()) / x.std()": lambda x: (x - x.mean()) / x.std(),
}
