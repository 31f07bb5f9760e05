"""``odesolve names``: what a sampler is called elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any

from odesolve.errors import OdesolveError
from odesolve.integrations import names
from odesolve.names.lookup import understood
from odesolve.names.reading import canonical
from odesolve.planning.labels import parse_label, parts
from odesolve.planning.planner import solvers


def names_command(given: argparse.Namespace) -> int:
    """The table of all names, or every name of one sampler."""
    if given.label is None:
        print(names.table())
        return 0
    found = _found(given.label)
    what = (found.solver, dict(found.options), found.schedule)
    facts: dict[str, Any] = {"odesolve": str(found), "schedule": found.schedule}
    for where, called in (
        ("diffusers", names.to_diffusers),
        ("comfyui", names.to_comfy),
        ("a1111", names.to_label),
    ):
        facts[where] = _or_none(lambda called=called: called(*what))
    facts |= _note(given.label, found)
    print(
        json.dumps(facts, default=_name)
        if given.json
        else "\n".join(f"{k:10} {_text(v)}" for k, v in facts.items())
    )
    return 0


def _found(label: str) -> names.Named:
    """The sampler of a label of the web UI, of ComfyUI ("dpmpp_2m_sde karras"), of diffusers or
    k-diffusion, or of ours."""
    readers: list[Callable[[], names.Named]] = [
        lambda: names.from_label(label),
        lambda: names.from_comfy(*label.split()),
        lambda: names.from_diffusers(label, {}),
    ]
    for read in readers:
        # TypeError: more words than a name of ComfyUI has
        with contextlib.suppress(OdesolveError, TypeError):
            return read()
    found = understood(*parts(label))
    if found is not None:
        options = canonical(found.solver, found.options)
        return names.Named(found.solver, options, found.schedule or "normal", found.reverse)
    ours = parse_label(label)
    return names.Named(ours.solver, canonical(ours.solver, ours.options))


def _note(label: str, found: names.Named) -> dict[str, str]:
    """Where a name of another program is one of ours with another meaning."""
    ours = solvers().get(label)
    if ours is None or ours.name == found.solver:
        return {}
    return {
        "note": f"solver={label!r} is another one here, of {ours.source}: type "
        f"solver={str(found)!r}"
    }


def _or_none(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OdesolveError:
        return None


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        first, second = value
        if isinstance(second, dict):
            options = {k: _name(v) if callable(v) else repr(v) for k, v in second.items()}
            return f"{first}({', '.join(f'{k}={v}' for k, v in options.items())})"
        return f"{first} {second}"
    return str(value)


def _name(value: Any) -> str:
    """Of a function in a config, which has no text of its own."""
    return getattr(value, "__qualname__", str(value))
