"""The doors: functions that users call. Their arguments are checked, and the error of a call that
does not fit says what to type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from odesolve.doors.annotations import Check, Meant
from odesolve.doors.words import explained, refuse_misfit, refuse_others, takes_of
from odesolve.errors import UnknownOption

P = ParamSpec("P")
R = TypeVar("R")


def door(
    name: str, /, passes: Callable[..., Any] | None = None, **kinds: Check | None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function that users call by this name: the error of a call that does not fit
    says what to type.

    ``passes`` is a function that gets the options which this one does not take itself; ``kinds``
    are checks of arguments, beside those of their annotations.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        takes = takes_of(call) | (set() if passes is None else takes_of(passes))
        checks = Meant(call, kinds)

        @functools.wraps(call)
        def outer(*args: P.args, **kwargs: P.kwargs) -> R:
            if passes is not None:  # else unknown options would be dropped
                refuse_others(name, takes, kwargs)
            try:
                checks(args, kwargs)
                return call(*args, **kwargs)
            except UnknownOption as error:
                raise explained(name, takes, error) from None
            except TypeError as error:
                refuse_misfit(error, name, call, args, kwargs)
                raise

        return outer

    return decorate
