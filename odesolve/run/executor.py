"""What runs a lowered plan: the plain loop, or the user's ``executor=``."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from weakref import ref

from torch import Tensor

from odesolve.lowering.lower import Program
from odesolve.run.loop import NetworkCalls
from odesolve.run.report import Report

T = TypeVar("T")


class Executor(Protocol):
    """A driver of programs: ``cast`` says that the network reads a buffer of its own, separate from
    the state."""

    cast: bool

    def run(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None = None,
        model: NetworkCalls | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The program's result from the start state x, which it does not overwrite. It calls
        ``tick`` with the number of a network call when that call and all before it are done."""
        ...


@runtime_checkable
class Described(Protocol):
    """An executor that lists its settings: see ``settings_of``."""

    def settings(self) -> Mapping[str, Any]:
        """Everything that its results depend on, by name."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """An executor that reports the cost of a solve."""

    @property
    def report(self) -> Report | None:
        """The report of the latest solve in the calling thread; None before the first."""
        ...


def settings_of(executor: object) -> dict[str, Any]:
    """The settings of an executor: its ``settings()``, otherwise the arguments of its constructor
    that it stores under their own names.

    Jobs write them into their folder, and ranks compare them. Rejected: all attributes, by which an
    executor would change through use."""
    if isinstance(executor, Described):
        return dict(executor.settings())
    own = getattr(executor, "__dict__", {})
    return {k: own[k] for k in inspect.signature(type(executor)).parameters if k in own}


class Latest(Generic[T]):
    """What executors report on their latest solve, for the thread in which it ran.

    Rejected: an attribute of the executor, which a solve in another thread would overwrite before
    it is read, and which a copy or a pickle would carry along. Rejected: a WeakKeyDictionary, in
    which two executors that compare equal share one place, and which takes none without a hash."""

    def __init__(self) -> None:
        self._local = threading.local()

    def put(self, executor: object, value: T) -> None:
        """Say it."""
        values = self._local.__dict__.setdefault("values", {})
        key = id(executor)
        values[key] = (ref(executor, lambda _: values.pop(key, None)), value)

    def get(self, executor: object) -> T | None:
        """The latest report, None without one."""
        entry = self._local.__dict__.get("values", {}).get(id(executor))
        return None if entry is None else entry[1]


REPORTS: Latest[Report] = Latest()
