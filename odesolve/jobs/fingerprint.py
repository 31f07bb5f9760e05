"""What a model's answers depend on, as a hash: another network, path or condition is another job."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.models import Model

PLAIN = (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)
DEPTH = 6
CHUNK = 1 << 20
OWN = ("net", "path", "cond", "_uncond", "time", "time_scale", "dtype", "snap", "functions", "reading", "_classifier")


def fingerprint(model: Model) -> str:
    """16 hexadecimal digits from a model's weights, conditions, path and reading; the same on every device.

    Functions count by their name and by what they hold, not by their code.
    """
    told = hashlib.sha256()
    for name in OWN:
        for line in _lines(getattr(model, name), name, 0):
            told.update(line.encode() + b"\n")
    return told.hexdigest()[:16]


def _lines(value: Any, name: str, depth: int) -> Iterator[str]:
    """Lines of text that differ where two values do; of objects of other kinds no more than their class, past some depth."""
    if isinstance(value, PLAIN):
        yield f"{name}={value!r}"
    elif isinstance(value, Tensor):
        yield f"{name}={tuple(value.shape)} {value.dtype} {checksum(value)}"
    elif depth < DEPTH:
        yield f"{name}:{_kind(value)}"
        for key, part in _parts(value):
            yield from _lines(part, f"{name}.{key}", depth + 1)


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, torch.nn.Module):
        return [(k, v) for k, v in value.state_dict().items() if isinstance(v, Tensor)]
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(k), v) for k, v in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, types.MethodType):
        return [("self", value.__self__)]
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(k, c.cell_contents) for k, c in cells if _filled(c)]
    held = vars(value) if hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)) else {}
    kinds = (*PLAIN, Tensor, Mapping, list, tuple)
    return [
        (k, v) for k, v in held.items() if isinstance(v, kinds) and not k.startswith("_")
    ]  # those are its own business


def _filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def checksum(x: Tensor) -> str:
    """A sum over the bytes of a tensor, and one weighted by their places, in whole numbers."""
    flat = x.detach().contiguous().reshape(-1).view(torch.uint8)
    plain = placed = 0
    for k, part in enumerate(flat.split(CHUNK)):
        held = part.to(torch.int64)
        plain += int(held.sum())
        placed += (k + 1) * int((held * torch.arange(1, len(held) + 1, device=x.device)).sum())
    return f"{plain:x}.{placed:x}"
