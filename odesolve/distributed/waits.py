"""Ranks that wait for each other never wait for ever: one that fails tells the others, and one that
does not come is named."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from odesolve.errors import OdesolveError

# seconds that our groups wait
LIMITS: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
LIMIT = 600.0
SPIN = 1e-3  # seconds without a pause, in which most answers come
PAUSE = 2e-3
LOOK = 0.2  # seconds between two looks for a rank that has failed
GRACE = 2.0  # seconds in which a living rank answers
ANSWER = 1.0  # seconds in which the process that keeps the board answers
_NUMBERS: weakref.WeakKeyDictionary[Any, dict[str, int]] = weakref.WeakKeyDictionary()
_WORLDS = itertools.count()  # stores outlive the groups that met by them
# groups whose ranks may still wait for a call that ended elsewhere
BROKEN: weakref.WeakSet[Any] = weakref.WeakSet()
_CALL: ContextVar[CollectiveCall | None] = ContextVar("call", default=None)


class CollectiveCall:
    """One call that the ranks of a mesh make together, and the board on which a rank that fails
    tells the others.

    ``ranks`` are those of the mesh. Every rank makes the same calls on a mesh in the same order, so
    that the numbers of the calls agree."""

    def __init__(self, mesh: DeviceMesh, name: str):
        self.name = name
        self.ranks = mesh.mesh.flatten().tolist()
        self.groups = tuple(mesh.get_all_groups())
        self.rank = dist.get_rank()
        self.numbers = _numbers()
        self.place = f"{_place(self.numbers)}/{','.join(map(str, self.ranks))}"
        self.number = self.numbers.get(self.place, 0)
        self.count(self.number + 1)
        self.waits = 0
        self.board = Board() if len(self.ranks) > 1 else None
        self.left = False
        self.alone = False  # whether no other rank waits for this one any more

    def count(self, number: int) -> None:
        """Give this call a number: the highest of all ranks, where a rank was refused a call that
        others made."""
        self.number = number
        self.numbers[self.place] = number
        self.key = f"{self.place}/{number}"

    @contextlib.contextmanager
    def running(self) -> Iterator[CollectiveCall]:
        """While the call runs: the ranks that wait for this one learn of its error, unless they
        know already."""
        before = _CALL.set(self)
        try:
            yield self
        except BaseException as e:
            if not isinstance(e, RankError) and not self.alone and len(self.ranks) > 1:
                self.tell(e)
                BROKEN.update(self.groups)  # as on the ranks that read it on the board
            raise
        finally:
            _CALL.reset(before)

    def tell(self, error: BaseException) -> None:
        """Write on the board that this rank has left, and why."""
        if self.board is not None and not self.left:
            self.left = True
            with contextlib.suppress(RuntimeError):
                self.board.set(f"{self.key}/failed", f"{self.rank} {line(error)}".encode())

    def look(self) -> None:
        """Raise OdesolveError where another rank has left this call."""
        if self.board is None:
            return
        try:
            if not self.board.check(f"{self.key}/failed"):
                return
            note = self.board.get(f"{self.key}/failed").decode()
        except Silent:
            return
        except RuntimeError as e:
            raise RankError(
                f"{self.name}: the process that keeps the ranks together has ended: start them anew"
            ) from e
        rank, _, error = note.partition(" ")
        if int(rank) != self.rank:
            raise RankError(
                f"{self.name}: rank {rank} failed ({error}), and this rank, "
                f"{self.rank}, waited for it"
            )

    def here(self) -> None:
        """Write on the board that this rank has reached this point of the call."""
        if self.board is not None:
            with contextlib.suppress(RuntimeError):
                self.board.set(f"{self.key}/{self.waits}/{self.rank}", "")

    def missing(self, ranks: list[int]) -> list[int]:
        """The ranks that have not reached this point, or do not answer."""
        if self.board is None:
            return []
        try:
            return [r for r in ranks if not self.board.check(f"{self.key}/{self.waits}/{r}")]
        except RuntimeError:
            return [0]


class Silent(RuntimeError):
    """The process that keeps the board does not answer: it is stopped, or hangs."""


class Board:
    """The store by which the ranks met. Every request runs in a thread, as the store has no time
    limit of its own."""

    _thread: InThread | None = None

    def __init__(self) -> None:
        self.store = _store()

    def check(self, key: str) -> bool:
        """Whether any rank has written under this key."""
        return self._answer(lambda: self.store.check([key]))

    def get(self, key: str) -> bytes:
        """What is written under this key."""
        return self._answer(lambda: self.store.get(key))

    def set(self, key: str, value: bytes | str) -> None:
        """Write a value under this key."""
        self._answer(lambda: self.store.set(key, value))

    def wipe(self, key: str) -> None:
        """Remove what is written under this key."""
        self._answer(lambda: self.store.delete_key(key))

    def _answer(self, request: Callable[[], Any]) -> Any:
        if Board._thread is not None and Board._thread.is_alive():
            raise Silent
        Board._thread = InThread(request)
        return Board._thread.within(ANSWER)


class InThread(threading.Thread):
    """Work that has no time limit of its own, such as a store's, in a thread."""

    def __init__(self, work: Callable[[], Any]):
        super().__init__(daemon=True)
        self.work = work
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Keep what the work returns or raises."""
        try:
            self.answer = self.work()
        except Exception as e:
            self.error = e

    def within(self, seconds: float) -> Any:
        """What the work returns. Raises Silent if it takes longer, and what the work raises."""
        self.start()
        self.join(seconds)
        if self.is_alive():
            raise Silent
        if self.error is not None:
            raise self.error
        return self.answer


class RankError(OdesolveError):
    """Ranks were given different arguments, or another rank failed, ended or did not come: all
    ranks that wait for it raise this."""


def _numbers() -> dict[str, int]:
    """How many calls of each kind the ranks that are joined now have made, and which of this
    process's worlds they are."""
    world = dist.group.WORLD
    if world not in _NUMBERS:
        _NUMBERS[world] = {"world": next(_WORLDS)}
    return _NUMBERS[world]


def _place(numbers: dict[str, int]) -> str:
    return f"odesolve/{numbers['world']}"


def meet(name: str, what: str, limit: float) -> None:
    """Wait until every rank has come here with the same arguments, before groups are made, which
    would wait without a word.

    Raises OdesolveError where a rank does not come, or comes with other arguments.
    """
    numbers = _numbers()
    ranks = range(dist.get_world_size())
    rank = dist.get_rank()
    board = Board()
    number = numbers.get(name, 0)
    arguments = {}
    place = f"{_place(numbers)}/{name}/{number}"
    end = time.monotonic() + limit
    while len(arguments) < len(ranks):
        with contextlib.suppress(Silent):
            if rank not in arguments:
                board.set(f"{place}/{rank}", what)
                arguments[rank] = what
            missing = [r for r in ranks if r not in arguments]
            here = [r for r in missing if board.check(f"{place}/{r}")]
            arguments |= {r: board.get(f"{place}/{r}").decode() for r in here}
        if len(arguments) < len(ranks) and time.monotonic() > end:
            with contextlib.suppress(RuntimeError):
                board.wipe(f"{place}/{rank}")
            if rank not in arguments:
                raise silent(name)
            whom = ", ".join(str(r) for r in ranks if r not in arguments)
            raise RankError(
                f"{name}: rank {whom} did not come in {limit:g} s: make the same "
                "calls on every rank"
            )
        time.sleep(PAUSE)
    numbers[name] = number + 1
    if len(set(arguments.values())) > 1:
        given = " and ".join(f"rank {r} {arguments[r]}" for r in ranks)
        raise RankError(f"{name}: {given} were given: give every rank the same")


def silent(name: str) -> RankError:
    """The error where the process that keeps the board does not answer."""
    return RankError(
        f"{name}: rank 0, which keeps the ranks together, does not answer: look there for what "
        "stops it, and start the ranks anew"
    )


def gathered(send: Tensor, group: Any) -> list[Tensor]:
    """The tensors of all ranks of a group, which have one shape. Raises OdesolveError within the
    limit where a rank does not come."""
    count = dist.get_world_size(group)
    if count == 1:
        return [send]
    got = list(torch.empty(count, *send.shape, dtype=send.dtype, device=send.device))
    if send.is_cuda:  # the host goes on, and NCCL's own watchdog keeps the limit
        dist.all_gather(got, send, group=group)
        return got
    call = _CALL.get()
    try:
        work: Any = dist.all_gather(got, send, group=group, async_op=True)
        _wait(work, group, call)
        work.wait()
    except (RankError, RuntimeError) as e:
        BROKEN.update((_own(group),) if call is None else call.groups)
        if isinstance(e, RankError):
            raise
        raise _lost(group, call, e) from e  # a connection was closed
    return got


def objects(value: Any, group: Any) -> list[Any]:
    """The values of all ranks of a group: anything that can be pickled."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    body = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(device)
    size = torch.tensor([len(body)], device=device)
    sizes = [int(n) for n in gathered(size, group)]
    send = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    send[: len(body)] = body
    bodies = zip(gathered(send, group), sizes, strict=True)
    messages = (body[:n].cpu().numpy().tobytes() for body, n in bodies)
    return [pickle.loads(message) for message in messages]


def _wait(work: Any, group: Any, call: CollectiveCall | None) -> None:
    began = time.monotonic()
    look = LOOK
    limit = LIMITS.get(_own(group), LIMIT)
    if call is not None:
        call.waits += 1
    while not work.is_completed():
        waited = time.monotonic() - began
        time.sleep(0.0 if waited < SPIN else PAUSE)
        if waited < look:
            continue
        if call is not None:
            if look == LOOK:
                call.here()
            call.look()
        look = waited + LOOK
        if waited > limit:
            raise _late(group, call, limit)


def _own(group: Any) -> Any:
    return dist.group.WORLD if group is None else group


def _late(group: Any, call: CollectiveCall | None, limit: float) -> RankError:
    ranks = dist.get_process_group_ranks(_own(group))
    missing = call.missing(ranks) if call is not None else []
    name = "a network spread over ranks" if call is None else call.name
    whom = named_ranks(missing, "the other ranks")
    return RankError(
        f"{name}: {whom} did not come in {limit:g} s: look there for what stops it, or give "
        "mesh(timeout=) more seconds"
    )


def _lost(group: Any, call: CollectiveCall | None, error: RuntimeError) -> OdesolveError:
    """The error where a connection was closed: a rank that failed says so, one that has ended does
    not answer."""
    name = "a network spread over ranks" if call is None else call.name
    if call is None:
        return RankError(f"{name}: another rank has ended ({line(error)})")
    call.here()
    ranks = dist.get_process_group_ranks(_own(group))
    end = time.monotonic() + GRACE
    while (missing := call.missing(ranks)) and time.monotonic() < end:
        try:
            call.look()
        except RankError as e:
            return e
        time.sleep(PAUSE)
    whom = named_ranks(missing, "a rank")
    return RankError(f"{name}: {whom} ended ({line(error)}): start the ranks anew")


def named_ranks(ranks: list[int], otherwise: str = "no rank") -> str:
    """These ranks in words, and other words where there are none."""
    if not ranks:
        return otherwise
    plural = "s" if len(ranks) > 1 else ""
    return f"rank{plural} {', '.join(map(str, ranks))}"


def line(error: BaseException) -> str:
    """An error on one line, as other ranks show it."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= 300 else f"{text[:296]} ..."
    return f"{type(error).__name__}: {shown}"


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
