"""The door through which we call functions of users: they cannot harm our memory, and we do not
rely on theirs.

A function may write to its arguments, or keep them; and its result may be a buffer that the next
call writes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.compiler import is_compiling
from torch.multiprocessing.reductions import StorageWeakRef

from odesolve.doors.convention import raise_misread
from odesolve.doors.modes import transformed
from odesolve.doors.values import refuse_loose
from odesolve.errors import OdesolveError
from odesolve.functions.differentiating import Differentiating
from odesolve.functions.ownership import each_owned, tensor_owned
from odesolve.functions.tensors import (
    Given,
    all_tensors,
    capturing,
    copied,
    differs,
    tensors_in,
    versions,
)

NOTHING: Mapping[str, Any] = {}


class Callee:
    """A function of a user's that is called with tensors of ours.

    The first call gets copies. Where it writes to them or keeps them, all calls get copies;
    otherwise later calls get the tensors themselves, and one that writes to a tensor raises
    OdesolveError. Tensors of inference mode are always copied, as writes to them leave no trace.
    The result is ours: it is copied where anything else holds its memory, also as a view.

    ``what`` is the function's name in errors; with ``several`` it returns several tensors, and each
    is made ours; ``at`` is the place of the state among our tensors, which the function may
    differentiate."""

    # whether f may differentiate its state; None where that depends on its parameters
    wants_gradients: bool | None

    def __init__(self, fn: Callable[..., Any], what: str = "f", several: bool = False, at: int = 1):
        self.fn = fn
        self.what = what
        self._own = each_owned if several else tensor_owned
        self.given = fn
        self.at = at
        self.wants_gradients = True
        # whether it gets copies; None until the first call has shown it
        self.careful: bool | None = None
        # the copies of the first call, until the next one, unless a graph recorded them
        self.lent: list[StorageWeakRef] = []
        # memory for copies of results, for calls from one thread
        self.pool: list[Tensor] | None = None
        self.spoils = False  # whether it also gets copies of the user's own tensors
        self.proven = False  # whether the lent copies have been looked at
        self.quick = False  # whether it is known to be harmless
        self.flat = False  # whether it gets nothing but tensors from us
        self.free = False  # both, so that nothing else has to be done for a call

    def __call__(
        self,
        *ours: Any,
        args: Sequence[Any] = (),
        named: Mapping[str, Any] = NOTHING,
        read: bool = False,
    ) -> Any:
        """``fn(*ours, *args, **named)``: our tensors, or tuples, lists or dicts of them, and the
        user's own arguments.

        With ``read``, the result is read before the next call and need not be ours.
        """
        if is_compiling():  # before anything that would put a guard into a trace
            copies, args, named = copied((ours, args, named))
            return self.given(*copies, *args, **named)
        known = self.quick and (self.proven or ours[self.at].requires_grad)
        if not known or peek_interpreter_stack() is not None:
            out = self._looked_at(ours, args, named)
            return out if read else self._own(out, self.pool)
        watched = ours if self.flat and not args and not named else all_tensors((ours, args, named))
        # Versions only rise, so that their sum shows whether one has. Rejected: a list of them,
        # which a call pays for.
        written = 0
        try:
            for x in watched:
                written -= x._version
            out = self.fn(*ours, *args, **named) if named else self.fn(*ours, *args)
            for x in watched:
                written += x._version
        except RuntimeError as e:
            written = 0
            out = self._again(e, ours, args, named)
        except (TypeError, IndexError) as e:
            raise_misread(e, self.what, self.at, ours, named)
            raise
        if written:
            raise self._careless()
        return out if read else self._own(out, self.pool)

    def on(self, a: Tensor, b: Tensor, read: bool = False) -> Any:
        """The same for two tensors, as every step calls it: a shorter way for a function that is
        known to be harmless."""
        if is_compiling() or not self.free:
            return self(a, b, read=read)
        try:
            before = a._version + b._version
        except RuntimeError:  # of inference mode
            return self(a, b, read=read)
        try:
            out = self.given(a, b)
        except (RuntimeError, TypeError, IndexError) as e:
            raise_misread(e, self.what, self.at, (a, b))
            raise
        if a._version + b._version != before:
            raise self._careless()
        return out if read else self._own(out, self.pool)

    def _again(
        self,
        e: RuntimeError,
        ours: tuple[Any, ...],
        args: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """Repeat a call that failed: tensors of inference mode have no version, or f
        differentiates."""
        if any(x.is_inference() for x in all_tensors((ours, args, named))):
            return self._with_copies(ours, args, named)
        return self._run((ours, args, named), e)

    def _run(self, given: Given, error: RuntimeError | None = None) -> Any:
        """Call f. Where it turns out to differentiate, gradients are enabled from now on."""
        ours, args, named = given
        try:
            if error is not None:
                raise error
            return self.fn(*ours, *args, **named)
        except (RuntimeError, TypeError, IndexError) as e:
            wants = isinstance(e, RuntimeError) and "does not require grad" in str(e)
            if isinstance(self.fn, Differentiating) or not wants:
                raise_misread(e, self.what, self.at, ours, named)
                raise
            differentiating = Differentiating(self.given, self.what, self.at)
            out = differentiating.repeat(self.wants_gradients, e, (*ours, *args), named)
        self.fn = differentiating
        self.free = False
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lent": []}  # no other door watches what this one lent

    def of(self, fn: Callable[..., Any]) -> Callee:
        """This door where its function is fn, else a new one of the same kind."""
        if self.given is fn:
            return self
        return Callee(fn, self.what, at=self.at)

    def _looked_at(
        self,
        ours: tuple[Any, ...],
        args: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """A call that is looked at: under a transform, one of the first two, or of a function that
        gets copies."""
        given: Given = (ours, args, named)
        if transformed():
            ours_, args, named = copied(given) if self.careful is not False else given
            return self._fitting(self.given(*ours_, *args, **named), ours)
        if self.lent:
            self.careful = not all(memory.expired() for memory in self.lent)
            self.proven = True
            self.lent = []
            self.quick = not self.careful
            self.flat = all(isinstance(x, Tensor) for x in ours)
            self.free = self.quick and self.flat and self.fn is self.given
        watched = all_tensors((ours, args, named))
        # A graph holds what it recorded: only a call without one shows whether f keeps its input.
        unsure = not self.proven and not any(x.requires_grad for x in tensors_in(ours))
        if self.careful is not False or unsure or any(x.is_inference() for x in watched):
            return self._fitting(self._with_copies(ours, args, named), ours)
        before = [x._version for x in watched]
        out = self._run((ours, args, named))
        if before != [x._version for x in watched]:
            raise self._careless()
        return self._fitting(out, ours)

    def _fitting(self, out: Any, ours: tuple[Any, ...]) -> Any:
        """The result of f. Raises OdesolveError for tensors that no solver can read."""
        for x in tensors_in([out]):
            refuse_loose(f"what {self.what} returned", x)
            if x.is_meta and not any(y.is_meta for y in tensors_in(ours)):
                given = f"what {self.what} returned is on the meta device, without numbers"
                raise OdesolveError(f"{given}: move it to {tensors_in(ours)[0].device}")
        return out

    def _with_copies(
        self,
        ours: tuple[Any, ...],
        args: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        originals = all_tensors((ours, args, named))
        if self.careful is None and not capturing(originals):
            return self._first(ours, args, named)
        if self.spoils:
            given = copied((ours, args, named))
        else:
            given = (copied((ours, (), NOTHING))[0], args, named)
        out = self._run(given)
        self._lend(given[0])
        return out

    def _first(self, ours: tuple[Any, ...], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The first call: on copies of our tensors; those of the user are restored where f wrote to
        them."""
        given = copied((ours, (), NOTHING))[0]
        theirs = all_tensors(((), args, named))
        kept = [x.clone() for x in theirs]
        before = versions(theirs)
        out = self._run((given, args, named))
        pairs = zip(tensors_in(given), tensors_in(ours), strict=True)
        written = any(differs(x, y, 0) for x, y in pairs)
        for x, y, version in zip(theirs, kept, before, strict=True):
            if differs(x, y, version):
                self.spoils = True
                with torch.no_grad():
                    x.copy_(y)
        self.careful = written or self.spoils
        self.flat = all(isinstance(x, Tensor) for x in ours)
        self.quick = self.flat and not self.careful  # while a graph is recorded
        self._lend(given)
        return out

    def _lend(self, given: Sequence[Any]) -> None:
        """Remember these copies until the next call, which looks whether anything still holds
        them."""
        if self.careful is False and not self.proven:
            lent = tensors_in(given)
            recorded = any(x.requires_grad for x in lent)
            self.lent = [] if recorded else [StorageWeakRef(x.untyped_storage()) for x in lent]

    def _careless(self) -> OdesolveError:
        self.careful = True
        self.quick = False
        self.free = False
        return OdesolveError(
            f"{self.what} wrote to its input, though not in its first call, so that the values "
            "there are lost: let it work on a copy, such as y = y.clone()"
        )


def shielded(fn: Callable[..., Any], what: str, at: int = 1) -> Callable[..., Any]:
    """fn(*ours) through the door, for callers that expect a plain function."""
    callee = Callee(fn, what, at=at)
    return lambda *ours: callee(*ours)
