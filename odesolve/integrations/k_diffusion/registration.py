"""Our solvers in the sampler module of a host program, found there by its own look-up
``sample_<name>``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from odesolve.doors.values import short
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.integrations.k_diffusion import sampling
from odesolve.solvers import REGISTRY

LISTS = ("KSAMPLER_NAMES", "SAMPLER_NAMES", "SAMPLERS")
RECORD = "_odesolve_registered"


@fits
def register(
    host: Any,
    prefix: str = "ode_",
    names: Iterable[str] | None = None,
    listed: Any = (),
    replace: bool = False,
) -> list[str]:
    """Put ``sample_<prefix><solver>`` into a host's sampler module, and the names into its lists.

    Args:
        host: the module that the host looks its solvers up in, such as k_diffusion.sampling or
            comfy.k_diffusion.sampling.
        prefix: before the names of our solvers, so that they hide none of the host's.
        names: of ``ode.solvers()``; by default all.
        listed: where the host lists the names to choose from: a list, a module or class with
            KSAMPLER_NAMES, SAMPLER_NAMES or SAMPLERS (in ComfyUI comfy.samplers), or several of
            these.
        replace: also put our functions in the place of the host's own of the same name, such as
            sample_dpmpp_2m.

    Returns the names that are registered now, without "sample_". A second call changes nothing that
    is already there. ``unregister(host)`` undoes all of it. Raises OdesolveError for a name of no
    solver."""
    if names is not None and (isinstance(names, str) or not isinstance(names, Iterable)):
        raise OdesolveError(
            f"names={short(names)}: give a list of names of ode.solvers(), or None for all"
        )
    chosen = list(REGISTRY) if names is None else [REGISTRY.find(n).name for n in names]
    if not chosen and not replace:
        raise OdesolveError("names is empty: give names of ode.solvers(), or None for all")
    record = vars(host).setdefault(RECORD, SimpleNamespace(before={}, listed=[]))
    samplers = {f"{prefix}{n}": sampling.ode_sampler(n) for n in chosen}
    own = (
        [n.removeprefix("sample_") for n in vars(sampling) if n.startswith("sample_")]
        if replace
        else []
    )
    samplers |= {n: getattr(sampling, f"sample_{n}") for n in own if hasattr(host, f"sample_{n}")}
    for name, function in samplers.items():
        attribute = f"sample_{name}"
        if getattr(host, attribute, None) is not function:
            record.before.setdefault(attribute, getattr(host, attribute, None))
            setattr(host, attribute, function)
    for names_there in _lists(listed):
        added = [n for n in samplers if n not in names_there]
        names_there.extend(added)
        record.listed.append((names_there, added))
    return list(samplers)


@fits
def unregister(host: Any) -> None:
    """Take out what ``register`` put into a host, and put back what was there before."""
    record = vars(host).pop(RECORD, None)
    if record is None:
        return
    for attribute, before in record.before.items():
        if before is None:
            delattr(host, attribute)
        else:
            setattr(host, attribute, before)
    for names, added in record.listed:
        names[:] = [n for n in names if n not in added]


def _lists(listed: Any) -> list[list[str]]:
    """Every list of names in ``listed``, each once."""
    if isinstance(listed, list) and all(isinstance(n, str) for n in listed):
        lists = [listed]
    elif isinstance(listed, Sequence):
        lists = [names for each in listed for names in _lists(each)]
    else:
        lists = [getattr(listed, n) for n in LISTS if isinstance(getattr(listed, n, None), list)]
        if not lists:
            raise OdesolveError(
                f"listed is {listed!r}: give a list of names, or what has one of {', '.join(LISTS)}"
            )
    return list({id(names): names for names in lists}.values())
