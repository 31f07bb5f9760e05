"""JSON as plain values, and plain values against schemas (``msgspec.Struct``), strictly: no other
value is turned into a number."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from torch import Tensor

from odesolve.files.contents import door_of_text
from odesolve.files.door import Door, short

LARGEST = 1.7976931348623157e308
EXACT = 2**53  # whole numbers up to here are floats too

Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Number = Annotated[int, Meta(ge=-EXACT, le=EXACT)] | Finite  # finite; whole numbers stay whole
Measure = (
    Annotated[int, Meta(ge=0, le=EXACT)] | Annotated[float, Meta(ge=0.0, le=LARGEST)]
)  # of what cannot be negative
Real = Annotated[int, Meta(ge=-EXACT, le=EXACT)] | float  # or infinite, or NaN
Size = Annotated[int, Meta(ge=0, le=EXACT)]
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]

Kind = TypeVar("Kind")
_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$(?P<where>.*)`)?", re.DOTALL)
_WORDS = {
    f"float >= {-LARGEST!r}": "a finite number",
    f"float <= {LARGEST!r}": "a finite number",
    "float >= 0.0": "a number of at least 0",
    "int >= 0": "a number of at least 0",
    f"int >= {-EXACT}": "a whole number from -2^53",
    f"int <= {EXACT}": "a whole number up to 2^53",
    "object": "names with values",
    "array": "a list",
    "str": "text",
    "bool": "true or false",
    "int": "a whole number",
    "int | float": "a number",
    "int | float | null": "a number",
}
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")


def parsed(given: Any, door: Door, finite: bool = True) -> Any:
    """The values of a JSON text; ``finite`` also refuses the words NaN and Infinity, which are no
    JSON.

    Raises the door's error for a text that is no JSON, has a key twice, or is nested too deeply."""
    text = door_of_text(given, door)
    try:
        values = _quick(text) if finite else None
        return _careful(text, finite) if values is None else values
    except RecursionError:
        raise door.refuse("it is nested too deeply") from None
    except ValueError as e:
        raise door.refuse(str(e)) from None


class uncollected:
    """A ``with`` without garbage collection, which would go through all values that have been read
    again and again."""

    __slots__ = ("on",)

    def __enter__(self) -> None:
        self.on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.on:
            gc.enable()


_ANY = msgspec.json.Decoder()


def _quick(text: str) -> Any:
    """The values, where the text has as many keys as they have; None where that takes a closer
    look."""
    if " :" in text or "\n:" in text or "\t:" in text or "\r:" in text:
        return None
    try:
        values = _ANY.decode(text)
    except msgspec.DecodeError:
        return None
    if text.count('":') == _keys(values):
        return values
    return None


def _keys(value: Any) -> int:
    """How many keys there are; lists count only where they begin with a dict, which is quicker."""
    if isinstance(value, dict):
        return len(value) + sum(map(_keys, value.values()))
    dicts = isinstance(value, list) and value and isinstance(value[0], dict)
    return sum(map(_keys, value)) if dicts else 0


def _careful(text: str, finite: bool) -> Any:
    strange: list[str] = []
    values = json.loads(
        text,
        object_pairs_hook=_once,
        parse_constant=lambda word: strange.append(word) or float(word),
    )
    if "\\u" in text:  # raises for half a character, which no file can hold
        json.dumps(values, ensure_ascii=False).encode()
    if strange and finite:
        where = (_unreal(values) or "").lstrip(".") or "it"
        raise ValueError(f"{where} is {strange[0]}: expected a finite number")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{short(twice)} is there twice")
    return out


def _unreal(value: Any) -> str | None:
    """The place of the first number that is not finite, such as ".rows[3]"; "" for the value
    itself, None where all are finite."""
    if isinstance(value, dict):
        parts = [(f".{name}", part) for name, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"[{k}]", part) for k, part in enumerate(value)]
    else:
        if isinstance(value, float) and not math.isfinite(value):
            return ""
        return None
    places = ((name, _unreal(part)) for name, part in parts)
    return next((f"{name}{place}" for name, place in places if place is not None), None)


def shaped(value: Any, kind: type[Kind] | Any, door: Door, texts: bool = False) -> Kind:
    """Plain values as an object of a schema. Raises the door's error, which names the field, its
    value and what was expected.

    With ``texts``, keys that are whole numbers may be given as text, as JSON has them.
    """
    if isinstance(value, Mapping) and not isinstance(value, dict):
        value = dict(value)
    if isinstance(value, Tensor):  # which msgspec would take for a row of fields
        raise door.refuse(f"it is a tensor of shape {tuple(value.shape)}")
    try:
        return msgspec.convert(value, kind, str_keys=texts)
    except msgspec.ValidationError as e:
        message = _with_key(str(e), value, kind, texts)
        raise door.refuse(_in_words(message, value)) from None
    except RecursionError:
        raise door.refuse("it is nested too deeply") from None


def _with_key(message: str, value: Any, kind: Any, texts: bool) -> str:
    """msgspec's message with the key for which it writes "...": it is the key that msgspec refuses
    alone, too."""
    before, dots, after = message.partition("[...]")
    if not dots:
        return message
    matches = _STEP.findall(before.partition("$")[2])
    steps = [name or int(place) for name, place, _ in matches]
    for key, part in _reached(value, steps).items():
        try:
            msgspec.convert(_alone(value, steps, {key: part}), kind, str_keys=texts)
        except msgspec.ValidationError as e:
            if "[...]" in str(e):
                return f"{before}.{key}{after}"
    return message


def _reached(value: Any, steps: list[Any]) -> Any:
    for step in steps:
        value = value[step]
    return value


def _alone(value: Any, steps: list[Any], part: Any) -> Any:
    """The values with another part at this place."""
    if not steps:
        return part
    inside = _alone(value[steps[0]], steps[1:], part)
    if isinstance(value, (list, tuple)):
        return [inside if k == steps[0] else v for k, v in enumerate(value)]
    return {**value, steps[0]: inside}


def _in_words(message: str, value: Any) -> str:
    """msgspec's message in our words, with the value that stands there."""
    parts = _MESSAGE.fullmatch(message)
    assert parts is not None
    what = parts["what"].replace("`", "")
    what = what[0].lower() + what[1:].partition(", got ")[0]
    expected = what.removeprefix("expected ")
    words = "the name of a value"
    if not expected.startswith("str matching"):
        words = _WORDS.get(expected)
    what = what if words is None else f"expected {words}"
    where = parts["where"] or ""
    place = where.lstrip(".") or "it"
    if parts["key"]:
        return f"a key of {place}: {what}"
    if "missing required field" in what or "unknown field" in what:
        return f"{place}: {what}"
    shown = _at(value, where)
    return f"{place} is {shown}: {what}" if shown else f"{place}: {what}"


def _at(value: Any, where: str) -> str:
    """The value at a place, as text; empty where the message does not name the place."""
    steps = [name or (int(place) if place else None) for name, place, _ in _STEP.findall(where)]
    try:
        return short(_reached(value, steps))
    except (LookupError, TypeError):
        return ""
