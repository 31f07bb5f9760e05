"""Parts of objectives by name: ``times="logit_normal(mean=-0.5)"``,
``coupling="optimal_transport"``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from odesolve.doors.convention import check_call
from odesolve.errors import OdesolveError, folded, nearest, unknown
from odesolve.planning.labels import parts


def built(
    argument: str,
    given: Any,
    known: Mapping[str, type],
    instead: str,
    takes: tuple[str, ...],
) -> Any:
    """The object for an argument: a callable object, or its name with options in brackets.

    ``instead`` says what else to give, ``takes`` the arguments of its calls. Raises OdesolveError
    for unknown names and options, and for objects that cannot be called with these.
    """
    if isinstance(given, str):
        return object_named(argument, given, known)
    if isinstance(given, type) and given in known.values():
        raise OdesolveError(
            f"{argument} is the class {given.__name__}: give an object of it, {given.__name__}(...)"
        )
    if not callable(given):
        raise OdesolveError(
            f"{argument} is {given!r}: give a name such as {next(iter(known))!r}, or {instead}"
        )
    check_call(given, argument, *takes)
    return given


def object_named(argument: str, text: str, known: Mapping[str, Any], *first: Any) -> Any:
    """The object of a known name, built from ``first`` and the options in brackets. Raises
    OdesolveError."""
    name, options = parts(text)
    kinds = {folded(key): kind for key, kind in known.items()}
    if folded(name) not in kinds:
        raise unknown(argument, name, known)
    kind = kinds[folded(name)]
    takes = list(inspect.signature(kind).parameters)[len(first) :]
    for option in options:
        if option not in takes:
            close = nearest(option, takes) or takes
            raise OdesolveError(
                f"{argument}={text!r}: {name} takes "
                f"{' or '.join(close) or 'nothing'}, not {option!r}"
            )
    try:
        return kind(*first, **options)
    except TypeError as error:
        raise OdesolveError(
            f"{argument}={text!r}: give {name}({', '.join(f'{t}=...' for t in takes)})"
        ) from error
