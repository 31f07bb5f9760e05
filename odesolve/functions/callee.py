"""The door through which functions of users are called: they cannot harm our memory, and we do not
rely on theirs.

A function may work in place on what it is given, or keep it; and what it returns may be a buffer
that its next call writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from sys import getrefcount
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
from odesolve.functions.graphs import nodes_of
from odesolve.kernels import dispatch

NOTHING: Mapping[str, Any] = {}
POOL = 32  # copies of results that are kept for their memory


class Callee:
    """A function of a user's, called with tensors of ours.

    Its first call gets copies. Where it writes to them or keeps them, so do all others; else they
    get the tensors themselves, and a later call that writes to one raises OdesolveError. Tensors of
    inference mode, whose writes leave no trace, are always copied. What it returns is ours: copied
    where anybody else holds its memory, be it a view.

    ``what`` is the function's name in errors; with ``several`` it returns tensors, each of which is
    made ours; ``at`` is the place of the state among what it gets from us, which it may
    differentiate."""

    # whether f may differentiate its state; None where that depends on the parameters that it has
    asked: bool | None

    def __init__(self, fn: Callable[..., Any], what: str = "f", several: bool = False, at: int = 1):
        self.fn = fn
        self.what = what
        self._own = _each_owned if several else _owned
        self.given = fn
        self.at = at
        self.asked = True
        # whether it gets copies; None until its first call has been looked at
        self.careful: bool | None = None
        # the copies of the first call that nothing recorded, until the next
        self.lent: list[StorageWeakRef] = []
        # memory for copies of what it returns, for calls of one thread
        self.pool: list[Tensor] | None = None
        self.spoils = False  # whether it gets copies of what is the user's own, too
        self.proven = False  # whether they have been looked at
        self.quick = self.flat = False  # whether it is harmless, and gets tensors alone from us
        self.free = False  # both, and nothing else is to be done for it

    def __call__(
        self,
        *ours: Any,
        args: Sequence[Any] = (),
        named: Mapping[str, Any] = NOTHING,
        read: bool = False,
    ) -> Any:
        """``fn(*ours, *args, **named)``: tensors of ours, or tuples, lists or dicts of such, and
        what is the user's own.

        With ``read`` what it returns is read before the next call, and need not be ours.
        """
        if is_compiling():  # before anything that a trace would have to guard
            copies, args, named = _copied((ours, args, named))
            return self.given(*copies, *args, **named)
        known = self.quick and (self.proven or ours[self.at].requires_grad)
        if not known or peek_interpreter_stack() is not None:
            out = self._looked_at(ours, args, named)
            return out if read else self._own(out, self.pool)
        watched = ours if self.flat and not args and not named else _all((ours, args, named))
        written = 0  # versions only rise: one has changed where their sum has
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
        """The same for two tensors, as every step calls it: in fewer lines for a function that is
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
        """A call that failed, because versions of inference mode cannot be read or because f
        differentiates."""
        if any(x.is_inference() for x in _all((ours, args, named))):
            return self._with_copies(ours, args, named)
        return self._run((ours, args, named), e)

    def _run(self, given: Given, error: RuntimeError | None = None) -> Any:
        """f of these; where it turns out to differentiate, with gradients enabled from now on."""
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
            out = differentiating.asked(self.asked, e, (*ours, *args), named)
        self.fn = differentiating
        self.free = False
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lent": []}  # nobody but this door watches what it lent

    def of(self, fn: Callable[..., Any]) -> Callee:
        """This door where it is that of fn, else a new one of its kind."""
        return self if self.given is fn else Callee(fn, self.what, at=self.at)

    def _looked_at(
        self,
        ours: tuple[Any, ...],
        args: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """A call that something transforms, one of the first two, or one of a function that gets
        copies."""
        given: Given = (ours, args, named)
        if transformed():
            ours_, args, named = _copied(given) if self.careful is not False else given
            return self._fitting(self.given(*ours_, *args, **named), ours)
        if self.lent:
            self.careful = not all(memory.expired() for memory in self.lent)
            self.proven = True
            self.lent = []
            self.quick = not self.careful
            self.flat = all(isinstance(x, Tensor) for x in ours)
            self.free = self.quick and self.flat and self.fn is self.given
        watched = _all((ours, args, named))
        # A graph holds what it recorded, so whether f keeps its input shows in a call without one.
        unsure = not self.proven and not any(x.requires_grad for x in _tensors(ours))
        if self.careful is not False or unsure or any(x.is_inference() for x in watched):
            return self._fitting(self._with_copies(ours, args, named), ours)
        before = [x._version for x in watched]
        out = self._run((ours, args, named))
        if before != [x._version for x in watched]:
            raise self._careless()
        return self._fitting(out, ours)

    def _fitting(self, out: Any, ours: tuple[Any, ...]) -> Any:
        """What f returned. Raises OdesolveError for tensors that no solver can read."""
        for x in _tensors([out]):
            refuse_loose(f"what {self.what} returned", x)
            if x.is_meta and not any(y.is_meta for y in _tensors(ours)):
                given = f"what {self.what} returned is on the meta device, without numbers"
                raise OdesolveError(f"{given}: move it to {_tensors(ours)[0].device}")
        return out

    def _with_copies(
        self,
        ours: tuple[Any, ...],
        args: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        originals = _all((ours, args, named))
        if self.careful is None and not _capturing(originals):
            return self._first(ours, args, named)
        given = (
            _copied((ours, args, named))
            if self.spoils
            else (*_copied((ours, (), NOTHING))[:1], args, named)
        )
        out = self._run(given)
        self._lend(given[0])
        return out

    def _first(self, ours: tuple[Any, ...], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The first call: on copies of what is ours; what is the user's is put back where it was
        written to."""
        given = _copied((ours, (), NOTHING))[0]
        theirs = _all(((), args, named))
        kept = [x.clone() for x in theirs]
        before = _versions(theirs)
        out = self._run((given, args, named))
        written = any(
            _differs(x, y, 0) for x, y in zip(_tensors(given), _tensors(ours), strict=True)
        )
        for x, y, version in zip(theirs, kept, before, strict=True):
            if _differs(x, y, version):
                self.spoils = True
                with torch.no_grad():
                    x.copy_(y)
        self.careful = written or self.spoils
        self.flat = all(isinstance(x, Tensor) for x in ours)
        self.quick = self.flat and not self.careful  # while a graph is recorded
        self._lend(given)
        return out

    def _lend(self, given: Sequence[Any]) -> None:
        """Remember these copies until the next call, to see then whether anything holds them."""
        if self.careful is False and not self.proven:
            lent = _tensors(given)
            recorded = any(x.requires_grad for x in lent)
            self.lent = [] if recorded else [StorageWeakRef(x.untyped_storage()) for x in lent]

    def _careless(self) -> OdesolveError:
        self.careful = True
        self.quick = False
        self.free = False
        return OdesolveError(
            f"{self.what} wrote to its input, and not in its first call, so that what it wrote "
            "over is lost: let it work on a "
            "copy, such as y = y.clone()"
        )


class Differentiating:
    """A function that differentiates its state, called so that it can: with gradients enabled, on a
    leaf of its own.

    Where nothing outside is recorded its results hold no graph.
    """

    def __init__(self, fn: Callable[..., Any], what: str, at: int):
        self.fn = fn
        self.what = what
        self.at = at

    def __call__(self, *given: Any, **named: Any) -> Any:
        outside = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            out = self._on_leaves(given, named)[0]
        return out if outside else _each(out, Tensor.detach)

    def asked(
        self,
        asked: bool | None,
        error: Exception,
        given: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """The first call, after one that failed with an error. Raises OdesolveError unless somebody
        asks for gradients."""
        if asked is not False:
            outside = torch.is_grad_enabled()
            with torch.inference_mode(False), torch.enable_grad():
                out, leaves = self._on_leaves(given, named)
            if asked or any(wants_gradients(x, leaves) for x in _tensors([out])):
                return out if outside else _each(out, Tensor.detach)
        raise OdesolveError(
            f"{self.what} differentiates its state, of which nobody asks gradients here: let it "
            "do so within "
            "torch.enable_grad(), of y = y if y.requires_grad else y.detach().requires_grad_(), "
            "with create_graph=True; or ask "
            "for gradients, by y0 with requires_grad outside of torch.no_grad"
        ) from error

    def _on_leaves(
        self, given: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[Any, list[Tensor]]:
        given = [_each(x, _normal) for x in given]
        named = {k: _each(x, _normal) for k, x in named.items()}
        state = given[self.at]
        recorded = any(x.requires_grad for x in _tensors([state]))
        state = state if recorded else _each(state, _leaf)
        given[self.at] = state
        out = self.fn(*given, **named)
        if recorded and not any(x.requires_grad for x in _tensors([out])):
            raise OdesolveError(
                f"{self.what} differentiates its state, and what it returns has no graph: give "
                "create_graph=True to "
                "torch.autograd.grad"
            )
        return out, _tensors([state])


def _leaf(x: Tensor) -> Tensor:
    """The same values, to be differentiated."""
    return x.detach().requires_grad_() if x.is_floating_point() or x.is_complex() else x


def _normal(x: Tensor) -> Tensor:
    """A tensor that autograd takes."""
    return x.clone() if x.is_inference() else x


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or the tensors of a tuple, list or dict, changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_each(x, change) for x in value)
    return {k: _each(x, change) for k, x in value.items()} if type(value) is dict else value


def wants_gradients(out: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether anything but these leaves, such as a parameter, is to get gradients from out."""
    found = (getattr(node, "variable", None) for node in nodes_of(out.grad_fn))
    return any(leaf is not None and not any(leaf is mine for mine in leaves) for leaf in found)


def shielded(fn: Callable[..., Any], what: str, at: int = 1) -> Callable[..., Any]:
    """fn(*ours) through the door, for parts that call it as they would call fn."""
    callee = Callee(fn, what, at=at)
    return lambda *ours: callee(*ours)


def owned(out: Any) -> Any:
    """A tensor that the caller alone holds, by one name: ``out`` itself, or a copy where anything
    else holds its memory.

    What is no tensor comes back as it is, and so does everything while something traces or
    transforms."""
    return out if is_compiling() else _owned(out)


def _owned(out: Any, pool: list[Tensor] | None = None) -> Any:
    if type(out) is not Tensor:
        return out.clone() if isinstance(out, Tensor) and not dispatch.traced(out) else out
    try:
        storage = out.untyped_storage()
    except (
        NotImplementedError
    ):  # torch's word for a wrapper of torch.func without memory, in a transform or after its end
        return out if transformed() else out.clone()
    held = getrefcount(out), _owners(out), _uses(storage._cdata)
    if held == ALONE and storage.resizable():  # memory from elsewhere, such as numpy's, is not
        return out
    base = out._base if held == VIEW and storage.resizable() else None
    if base is not None and (getrefcount(base), _owners(base)) == BASE:
        return out
    return out.clone() if pool is None or out.requires_grad else _copied_to(out, pool)


def _copied_to(out: Tensor, pool: list[Tensor]) -> Tensor:
    """A copy in memory of a pool that nothing holds any more; fresh pages cost a CPU several times
    the copy."""
    for i in range(len(pool)):
        if _held_in(pool, i) == POOLED:
            free = pool[i]
            same = free.shape == out.shape and free.dtype == out.dtype and free.device == out.device
            if same and free.is_inference() == torch.is_inference_mode_enabled():
                pool.append(pool.pop(i))  # so that the one that was taken longest ago comes first
                return free.copy_(out)
    fresh = out.clone()
    if len(pool) < POOL:
        pool.append(fresh)
    return fresh


def _held_in(pool: list[Tensor], i: int) -> tuple[int, int, int]:
    return getrefcount(pool[i]), _owners(pool[i]), _uses(pool[i].untyped_storage()._cdata)


def _measured(out: Tensor) -> tuple[Any, Any]:
    """The numbers of references that ``_owned`` finds: the same lines, so that they are the
    same."""
    storage = out.untyped_storage()
    held = getrefcount(out), _owners(out), _uses(storage._cdata)
    base = out._base if held else None
    return held, None if base is None else (getrefcount(base), _owners(base))


def _calibrated() -> tuple[Any, Any, Any]:
    """What ``_owned`` finds of a fresh tensor, of a fresh view, and of its base."""
    with torch.inference_mode(False):
        fresh = torch.empty(2)
        view = torch.empty(2)[1:]
        return _measured(fresh)[0], *_measured(view)


# Tensors on a memory, owners of a tensor; not every version of torch tells.
_uses: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda memory: -1)
_owners: Callable[[Tensor], int] = getattr(Tensor, "_use_count", lambda x: -1)
ALONE, VIEW, BASE = _calibrated()
POOLED = _held_in([torch.empty(2)], 0)
if _uses(torch.empty(0).untyped_storage()._cdata) < 0:  # then nothing is known to be fresh
    ALONE = VIEW = POOLED = None


def _each_owned(out: Any, pool: list[Tensor] | None = None) -> Any:
    if not isinstance(out, (tuple, list)):
        return _owned(out)
    parts = list(out)
    found = []
    del out
    while parts:
        part = parts.pop()
        found.append(_owned(part))
    return tuple(reversed(found))


Given = tuple[Sequence[Any], Sequence[Any], Mapping[str, Any]]


def _tensors(values: Iterable[Any], least: int = 0) -> list[Tensor]:
    """The tensors of so many dimensions at least among these values."""
    found: list[Tensor] = []
    for v in values:
        if isinstance(v, Tensor):
            if v.dim() >= least:
                found.append(v)
        elif isinstance(v, (tuple, list)):
            found += _tensors(v, least)
        elif isinstance(v, Mapping):
            found += _tensors(v.values(), least)
    return found


def _all(given: Given) -> list[Tensor]:
    """All tensors; a user's own without dimensions are taken for counters, which may be written
    to."""
    ours, args, named = given
    found = _tensors(ours)
    return [*found, *_tensors(args, 1), *_tensors(named.values(), 1)] if args or named else found


def _copied(given: Given) -> Given:
    ours, args, named = given
    return (
        tuple(_copy(x) for x in ours),
        tuple(_copy(v, 1) for v in args),
        {k: _copy(v, 1) for k, v in named.items()},
    )


def _copy(v: Any, least: int = 0) -> Any:
    return _each(v, lambda x: x.clone() if x.dim() >= least else x)


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    return [-1 if x.is_inference() else x._version for x in tensors]


def _differs(x: Tensor, y: Tensor, version: int) -> bool:
    """Whether x was written to: by its version, and by its values, as writes by numpy or a kernel
    leave no trace."""
    return (not x.is_inference() and x._version > version) or not (x.is_meta or torch.equal(x, y))


def _capturing(tensors: Iterable[Any]) -> bool:
    """Whether values cannot be looked at, as a CUDA graph is being captured."""
    return any(x.is_cuda for x in tensors) and torch.cuda.is_current_stream_capturing()
