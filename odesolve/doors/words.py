"""Calls that do not fit a function.

Users come with the words of other programs. ``fits`` marks the functions that they call: a call
that does not fit raises an error which says what to type, and one that fits costs nothing more.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar, cast

import torch

from odesolve.doors.vocabulary import advised
from odesolve.errors import OdesolveError, UnknownOption, nearest, short

C = TypeVar("C", bound=Callable[..., Any])


def fits(call: C) -> C:
    """Decorator of a function or a class: the error of a call that does not fit says what to
    type."""
    return fits_as(call.__name__)(call)


def fits_as(name: str) -> Callable[[C], C]:
    """``fits`` for a function that users call by another name, such as "model.data"."""

    def decorate(call: Any) -> Any:
        if isinstance(call, type):
            own = _without_arguments if call.__init__ is object.__init__ else call.__init__
            call.__init__ = decorate(own)  # type: ignore[misc]
            return call

        @functools.wraps(call)
        def outer(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except TypeError as error:
                refuse_misfit(error, name, call, args, kwargs)
                raise

        return outer

    return decorate


def fits_call(call: C) -> C:
    """Decorator of a ``__call__``: the error of a call that does not fit names the object's class
    and says what to type."""

    @functools.wraps(call)
    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(self, *args, **kwargs)
        except (TypeError, AttributeError, RuntimeError) as error:
            _refuse_kinds(error, kwargs)
            if isinstance(error, TypeError):
                refuse_misfit(error, f"{type(self).__name__}(...)", call, (self, *args), kwargs)
            raise

    return cast(C, outer)


def _refuse_kinds(error: Exception, given: Mapping[str, Any]) -> None:
    """Raise OdesolveError where a call failed that was given conditions without names, or a
    generator of another library."""
    cond = given.get("cond")
    generator = given.get("generator")
    named = isinstance(cond, Mapping) and all(isinstance(k, str) for k in cond)
    if cond is not None and not named:
        raise OdesolveError(
            f"cond is {short(cond)}: give the network's arguments by name, as cond={{'label': y}}"
        ) from error
    if generator is not None and not isinstance(generator, torch.Generator):
        raise OdesolveError(f"generator is {short(generator)}: give a torch.Generator") from error


def _without_arguments(self: Any) -> None:
    pass


def refuse_misfit(
    error: TypeError,
    name: str,
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> None:
    """Raise OdesolveError for a call that does not fit the signature; return where the error came
    from further in."""
    if isinstance(error, UnknownOption):
        return
    misfit = _misfit(name, takes_of(call), call, args, kwargs)
    if misfit is not None:
        raise misfit from error


def takes_of(call: Callable[..., Any]) -> set[str]:
    """The arguments that may be given by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters.values()
    return {p.name for p in parameters if p.kind in named} - {"self"}


def refuse_others(name: str, takes: AbstractSet[str], given: Mapping[str, Any]) -> None:
    """Raise OdesolveError for a keyword that is not among those that a function takes."""
    for word in given:
        if word not in takes:
            error = UnknownOption(f"{name} has no {word}=: leave it out", word)
            raise explained(name, takes, error)


def explained(name: str, takes: AbstractSet[str], error: UnknownOption) -> UnknownOption:
    """The error for an option that a function passed on, and that no function took: the outermost
    function has the last word."""
    word = error.word
    every = takes | error.takes
    close = nearest(word, sorted(every | error.options)) if len(word) > 2 else []
    meant = f"did you mean {' or '.join(map(repr, close))}?"
    advice = advised(word, every) if word else None
    if advice is not None:
        message = f"{name} has no {word}=: {advice}"
    elif close and close[0] in error.options:
        message = f"{error.said}: {meant}"
    elif close:
        message = f"{name} has no {word}=: {meant}"
    else:
        message = error.said
    out = UnknownOption(message, word, error.options)
    out.said = error.said
    out.takes = frozenset(every)
    return out


def _misfit(
    name: str,
    takes: AbstractSet[str],
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> OdesolveError | None:
    """The error for a call that does not fit a signature, None for one that does."""
    signature = inspect.signature(call)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as misfit:
        for word in kwargs:
            if word not in takes:
                known = ", ".join(sorted(takes)) or "nothing: leave it out"
                error = UnknownOption(f"{name} has no {word}=: it takes {known}", word)
                return explained(name, takes, error)
        shown = ", ".join(str(p) for p in signature.parameters if p != "self")
        return UnknownOption(
            f"{name} does not fit what was given ({misfit}): give {name}({shown})", ""
        )
    return None
