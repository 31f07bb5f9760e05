"""Results in a line of text, and as a small table in notebooks: what a result holds, never the
numbers of its tensors."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

C = TypeVar("C", bound=type)
LINE = 240  # characters of a repr
CELL = 100  # of a value
FEW = 4  # numbers that stand for themselves
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def brief(cls: C) -> C:
    """The class, its results with a repr of a line and a table for notebooks.

    What is said is the ``_facts()`` of a result, texts by name; of a class without one its fields
    or public attributes, those that are tensors by type and shape, or as numbers where there is one
    a sample."""
    own = vars(cls)
    ways: dict[str, Any] = {"__repr__": _repr}
    if not hasattr(cls, "_facts"):
        ways["_facts"] = _facts
    if "_repr_html_" not in own:
        ways["_repr_html_"] = _repr_html
    for name, way in ways.items():
        setattr(cls, name, way)
    return cls


def _facts(self: Any) -> dict[str, str]:
    hidden: set[str] = set()
    if isinstance(self, tuple):
        values = self._asdict()  # type: ignore[attr-defined]
    elif is_dataclass(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        hidden = {f.name for f in fields(self) if not f.repr}
    else:
        values = {k: v for k, v in vars(self).items() if not k.startswith("_")}
    return {
        name: text(value)
        for name, value in values.items()
        if value is not None and (name not in hidden or _holds_tensors(value))
    }


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def _repr(self: Any) -> str:
    return line(type(self).__name__, self._facts())


def _repr_html(self: Any) -> str:
    return table(type(self).__name__, self._facts())


def line(name: str, facts: Mapping[str, str]) -> str:
    """``Name(a=..., b=...)``, cut where it gets long."""
    inside = ", ".join(f"{k}={v}" if v else k for k, v in facts.items())
    return f"{name}({_cut(inside, LINE)})"


def text(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, bool | int | str):
        return _cut(str(value), CELL)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _cut(f"{{{', '.join(f'{k}: {text(v)}' for k, v in value.items())}}}", CELL)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return _several(value)
    return _cut(repr(value), CELL)


def _several(values: Sequence[Any]) -> str:
    """Statuses counted, tensors one by one, and of the rest how many there are."""
    if values and all(isinstance(v, str) and " " not in v for v in values):
        words = list(dict.fromkeys(values))
        if len(words) == 1:
            return words[0]
        return ", ".join(f"{values.count(w)} {w}" for w in words)
    if len(values) <= FEW:
        return _cut(f"({', '.join(map(text, values))})", CELL)
    return f"{len(values)} of {type(values[0]).__name__}"


def tensor(x: Tensor) -> str:
    """Type and shape of a tensor; of a few numbers these, of one number a sample their mean and
    range."""
    where = "" if x.device.type == "cpu" else f" on {x.device}"
    kind = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}{where}"
    if x.dim() > 1 or x.numel() == 0:
        return kind
    try:
        numbers = x.detach().double().reshape(-1).tolist()
    # a tensor of a transform, of no memory, or of a type of another library
    except Exception:
        return kind
    if x.dim() == 0:
        return _number(numbers[0])
    if len(numbers) <= FEW and len({*numbers}) > 1:
        return f"[{', '.join(map(_number, numbers))}]"
    return spread(numbers)


def spread(numbers: Sequence[float]) -> str:
    """Numbers by their mean and range, or as one where they are all the same."""
    known = [v for v in numbers if not math.isnan(v)]
    lost = f", {len(numbers) - len(known)} NaN" if len(known) < len(numbers) else ""
    if not known:
        return f"{len(numbers)} NaN"
    low, high = min(known), max(known)
    if low == high:
        return f"{_number(low)}{lost}"
    mean = math.fsum(known) / len(known) if math.isfinite(low + high) else low + high
    return f"{_number(mean)} ({_number(low)} to {_number(high)}){lost}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cut(words: str, most: int) -> str:
    plain = " ".join(words.split())
    return plain if len(plain) <= most else f"{plain[: most - 4]} ..."


def table(title: str, facts: Mapping[str, Any], *beneath: str) -> str:
    """HTML of a title and facts by name, in the colours of the page it stands in; ``beneath`` is
    HTML already."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_safe(k)}</th>'
        f'<td style="text-align:left">{_safe(v)}</td></tr>'
        for k, v in facts.items()
    )
    return f"<table>{_caption(title)}<tbody>{rows}</tbody></table>{''.join(beneath)}"


def grid(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """HTML of a table with a line of names over its columns."""
    names = "".join(f'<th style="text-align:left">{_safe(h)}</th>' for h in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{_safe(c)}</td>' for c in row) + "</tr>"
        for row in rows
    )
    return f"<table>{_caption(title)}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def folded(title: str, inside: str, plain: bool = True) -> str:
    """HTML of what opens on a click: a text, or HTML already."""
    body = f"<pre>{_safe(inside)}</pre>" if plain else inside
    return f"<details><summary>{_safe(title)}</summary>{body}</details>"


def _caption(title: str) -> str:
    return f'<caption style="text-align:left"><b>{_safe(title)}</b></caption>'


def _safe(value: Any) -> str:
    return html.escape(str(value))
