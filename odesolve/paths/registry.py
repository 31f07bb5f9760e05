"""The paths that there are: each class of paths joins when it is made, checked, under the name that
plan files and the command line know it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, unknown

FAMILIES = ("preserving", "exploding", "flow")
# Of each pair the base class computes one from the other.
PAIRS = {
    "dalpha": ("f", "the time derivative of alpha"),
    "dsigma": ("g2", "the time derivative of sigma"),
}
# What each scale decides: a class that writes the scale anew must write these, too.
FOLLOWING = {
    "alpha": ("dalpha", "f", "g2", "lam", "t_of_lam"),
    "sigma": ("dsigma", "g2", "lam", "t_of_lam"),
}
HOME = "odesolve.paths."
# Classes by the name in a file, and what makes a path of default parameters by the name that a
# user types.
KINDS: dict[str, type] = {}
TYPED: dict[str, Callable[[], Any]] = {}


def name_of(kind: type, given: str | None) -> str:
    """The name of a class of paths in files: the one that it gives itself, else its own; of a class
    from outside with its module, so that two programs never mean two paths by one name."""
    if given is not None:
        if not isinstance(given, str) or not given.strip():
            raise OdesolveError(f"name={given!r} of the path {kind.__name__}: give a name")
        if ":" in given:
            raise OdesolveError(
                f"name={given!r} of the path {kind.__name__}: a colon stands between a module and "
                "a class, so give a name without one, or none"
            )
        return given.strip()
    if kind.__module__.startswith(HOME):
        return kind.__name__
    return f"{kind.__module__}:{kind.__qualname__}"


def check_kind(kind: type, base: type, own: Mapping[str, Any]) -> None:
    """Raise OdesolveError for a class that cannot be a path: of a family that there is not, or
    without one of two functions that the base class computes from each other, or with functions
    that its parent wrote for another alpha or sigma."""
    family = own.get("family")
    if isinstance(family, str) and family not in FAMILIES:
        raise unknown(f"family of the path {kind.__name__}", family, FAMILIES)
    for first, (second, meaning) in PAIRS.items():
        of = first.removeprefix("d")
        written = getattr(kind, of) is not getattr(base, of)
        missing = all(getattr(kind, n) is getattr(base, n) for n in (first, second))
        if written and missing:
            raise OdesolveError(
                f"the path {kind.__name__} has neither {first}(t) nor {second}(t), and each is "
                f"computed from the other: define one of them, such as {first}(t), {meaning}"
            )
    for scale, others in FOLLOWING.items():
        _check_following(kind, base, scale, others)


def _check_following(kind: type, base: type, scale: str, others: Sequence[str]) -> None:
    """Raise OdesolveError for functions that a class inherits from one with another scale."""
    ours = {getattr(base, scale), getattr(kind, scale)}
    inherited = {}
    for name in others:
        writer = next(c for c in kind.__mro__ if name in vars(c))
        if getattr(writer, scale, getattr(base, scale)) not in ours:
            inherited[name] = f"{name} of {writer.__name__}"
    if inherited:
        general = [f"{name} = Path.{name}" for name in inherited if name != "t_of_lam"]
        computed = f", or let the base class compute it: {', '.join(general)}" if general else ""
        raise OdesolveError(
            f"the path {kind.__name__} has another {scale}(t) than its parents, and inherits "
            f"{', '.join(inherited.values())}, which belong to theirs: define each of them for "
            f"this {scale}(t){computed}"
        )


def join(kind: type, name: str, typed: bool) -> None:
    """Register a class. A class that is made again, as in a notebook, replaces the one before.

    Raises OdesolveError for a name that another class has."""
    for there in _same_name(name):
        if _origin(there) != _origin(kind):
            raise OdesolveError(
                f"the name {name!r} is that of the path {':'.join(_origin(there))}, in any case: "
                f"give {kind.__name__} another name="
            )
    KINDS[name] = kind
    if typed:
        TYPED[_typed(name)] = kind


def _same_name(name: str) -> list[Any]:
    """The classes, and what else makes a path, of the name as it is typed: in any case."""
    known = [*KINDS.items(), *TYPED.items()]
    return [there for other, there in known if _typed(other) == _typed(name)]


def _typed(name: str) -> str:
    """A name as it is looked up; two classes of a module may differ by case alone."""
    return name if ":" in name else name.lower()


def _origin(kind: Any) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


@fits
def path_named(name: str) -> Any:
    """The path of this name, in any case, with its default parameters.

    Raises OdesolveError for other names, and for a class that needs parameters."""
    factory = TYPED.get(_typed(name))
    if factory is None:
        raise unknown("path", name, (*TYPED, "package.module:MyPath"))
    try:
        return factory()
    except TypeError as e:
        raise OdesolveError(
            f"path {name!r} cannot be made without parameters: give package.module:name of one "
            "that has them"
        ) from e
