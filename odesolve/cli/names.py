"""``odesolve names``: the names of a sampler in other programs."""

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
    sampler = _sampler(given.label)
    what = (sampler.solver, dict(sampler.options), sampler.schedule)
    facts: dict[str, Any] = {"odesolve": str(sampler), "schedule": sampler.schedule}
    programs = {
        "diffusers": names.to_diffusers,
        "comfyui": names.to_comfy,
        "a1111": names.to_label,
    }
    for program, translate in programs.items():
        facts[program] = None
        with contextlib.suppress(OdesolveError):  # it has no name there
            facts[program] = translate(*what)
    facts |= _note(given.label, sampler)
    if given.json:
        print(json.dumps(facts, default=_name))
    else:
        print("\n".join(f"{k:10} {_text(v)}" for k, v in facts.items()))
    return 0


def _sampler(label: str) -> names.Named:
    """The sampler of a label from the web UI, ComfyUI ("dpmpp_2m_sde karras"), diffusers or
    k-diffusion, or from here."""
    readers: list[Callable[[], names.Named]] = [
        lambda: names.from_label(label),
        lambda: names.from_comfy(*label.split()),
        lambda: names.from_diffusers(label, {}),
    ]
    for read in readers:
        # TypeError: more words than a name of ComfyUI has
        with contextlib.suppress(OdesolveError, TypeError):
            return read()
    free = understood(*parts(label))
    if free is not None:
        options = canonical(free.solver, free.options)
        return names.Named(free.solver, options, free.schedule or "normal", free.reverse)
    ours = parse_label(label)
    return names.Named(ours.solver, canonical(ours.solver, ours.options))


def _note(label: str, sampler: names.Named) -> dict[str, str]:
    """A note where a name of another program is one of ours with another meaning."""
    ours = solvers().get(label)
    if ours is None or ours.name == sampler.solver:
        return {}
    other = f"solver={label!r} is another solver here, of {ours.source}"
    return {"note": f"{other}: type solver={str(sampler)!r}"}


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
    """The name of a function in a config, which has no text of its own."""
    return getattr(value, "__qualname__", str(value))
