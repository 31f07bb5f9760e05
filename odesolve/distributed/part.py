"""What the ranks of a mesh do together in a call: they compare their arguments, solve, and gather
their parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from odesolve.distributed.agreement import differing, marks, parts
from odesolve.distributed.ranks import NAMES, cut, mine, together
from odesolve.distributed.ranks import mesh as all_ranks
from odesolve.distributed.waits import BROKEN, CollectiveCall, RankError, gathered, line, objects
from odesolve.errors import OdesolveError
from odesolve.kernels.philox import signed

Solved = TypeVar("Solved")
P = ParamSpec("P")
_NOW: ContextVar[Ensemble] = ContextVar("ranks")


class Ensemble:
    """A call that the ranks of a mesh make together.

    Every rank takes part in every exchange, also one that has failed: so all of them end, each with
    its own error or with another rank's."""

    def __init__(self, mesh: DeviceMesh | None, name: str):
        self.mesh = where = all_ranks() if mesh is None else mesh
        _check(where)
        self.data = where["data"]
        self.time = where["time"]
        self.groups = self.data.get_group(), self.time.get_group()
        kind = where.device_type
        place = torch.cuda.current_device() if kind == "cuda" else None
        self.device = torch.device(kind) if place is None else torch.device(kind, place)
        self.call = CollectiveCall(where, name)
        self.name = name
        self.compared = False  # whether the ranks have exchanged their arguments

    @property
    def lockstep(self) -> bool:
        """Whether ranks meet within a solve."""
        return self.time.size() > 1

    def cut(self, batch: int) -> tuple[list[int], Tensor]:
        """How many samples of a batch each rank along "data" has, and the numbers of this
        rank's."""
        ranks = self.data.size()
        return cut(batch, ranks), mine(batch, ranks, self.data.get_local_rank())

    def agree(self, check: Callable[[], int], given: Mapping[str, Any]) -> int:
        """The first rank's seed, which ``check`` returns there. Raises on every rank where one
        failed, or was given other arguments."""
        self.compared = True
        if len(self.call.ranks) == 1:
            return check()
        seed = 0
        error = None
        digests = {}
        try:
            seed = check()
            digests = marks(given)
        except Exception as e:
            error = e
        row = [error is not None, signed(seed), *_numbers(digests), self.call.number]
        own = torch.tensor(row, device=self.device)
        rows, numbers = self._of_all(own).split([4, 1], 1)
        self.call.count(int(numbers.max()))
        if bool(rows[:, 0].any()):
            raise self._failure(error)
        if bool((rows[:, 2:] != rows[0, 2:]).any()):
            difference = differing(self._objects_of_all(parts(given)), self.call.ranks)
            raise RankError(f"{self.name}: {difference}: give every rank the same")
        return int(rows[0, 1]) % 2**64

    def solved(self, solve: Callable[[], Solved], gather: bool) -> Solved:
        """What the solve returns, once it has returned on every rank that waits for others. Raises
        its error, or another rank's."""
        part = None
        error = None
        self.call.alone = not (gather or self.lockstep)
        try:
            part = solve()
        except Exception as e:
            if self.lockstep or not gather:  # other ranks wait within the solve, or not at all
                raise
            error = e
        if gather or self.lockstep:
            failed = self._of_all(torch.tensor([error is not None], device=self.device))
            if bool(failed.any()):
                raise self._failure(error)
        return part  # type: ignore[return-value]

    def whole(self, values: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """Every rank's rows, on every rank."""
        return together(values, sizes, self.groups[0])

    def of_all(self, value: Any) -> list[Any]:
        """The values of all ranks along "data"."""
        return objects(value, self.groups[0])

    def _of_all(self, own: Tensor) -> Tensor:
        """The rows of all ranks of the mesh, in their order."""
        column = torch.stack(gathered(own, self.groups[0]))
        return torch.stack(gathered(column, self.groups[1]), 1).flatten(0, 1)

    def _objects_of_all(self, own: Any) -> list[Any]:
        lines = objects(objects(own, self.groups[0]), self.groups[1])
        return [each for places in zip(*lines, strict=True) for each in places]

    def _failure(self, error: Exception | None) -> Exception:
        """The error of this rank or, where it has none, one that says which rank failed with which
        error."""
        lines = self._objects_of_all(None if error is None else line(error))
        if error is not None:
            self.call.alone = True
            return error
        of_ranks = zip(self.call.ranks, lines, strict=True)
        rank, what = next((rank, text) for rank, text in of_ranks if text is not None)
        return RankError(
            f"{self.name}: rank {rank} failed ({what}), and rank {self.call.rank} waited for it"
        )


def ranked(name: str) -> Callable[[Callable[P, Solved]], Callable[P, Solved]]:
    """Decorator of a call of many ranks, outside of its door: where the door refuses the arguments
    of a rank, the others learn of it."""

    def decorate(call: Callable[P, Solved]) -> Callable[P, Solved]:
        @functools.wraps(call)
        def outer(*args: P.args, **kwargs: P.kwargs) -> Solved:
            ranks = Ensemble(kwargs.get("mesh"), name)  # type: ignore[arg-type]
            before = _NOW.set(ranks)
            try:
                with ranks.call.running():
                    return _called(ranks, lambda: call(*args, **kwargs))
            finally:
                _NOW.reset(before)

        return outer

    return decorate


def ranks_now() -> Ensemble:
    """The ranks of the call that is running."""
    return _NOW.get()


def _called(ranks: Ensemble, call: Callable[[], Solved]) -> Solved:
    try:
        return call()
    except Exception as e:
        if not ranks.compared:
            ranks.agree(functools.partial(_raise, e), {})
        raise


def _raise(error: Exception) -> int:
    raise error


def _check(mesh: DeviceMesh) -> None:
    if not isinstance(mesh, DeviceMesh) or mesh.mesh_dim_names != NAMES:
        given = mesh.mesh_dim_names if isinstance(mesh, DeviceMesh) else type(mesh).__name__
        raise OdesolveError(f"the mesh has {given}: give one of ode.distributed.mesh(data, time)")
    if mesh.get_coordinate() is None:
        raise OdesolveError(
            f"rank {dist.get_rank()} is not one of the mesh's, {mesh.mesh.flatten().tolist()}: "
            "let those call"
        )
    if any(group in BROKEN for group in mesh.get_all_groups()):
        raise OdesolveError(
            "a call on this mesh broke off, and ranks may still wait in it: make a new mesh, "
            "ode.distributed.mesh(...)"
        )


def _numbers(digests: Mapping[str, bytes]) -> list[int]:
    """All digests as two whole numbers."""
    named = [name.encode() + b"\0" + digest for name, digest in sorted(digests.items())]
    whole = sha256(b"".join(named)).digest()
    return [int.from_bytes(whole[k : k + 8], "little", signed=True) for k in (0, 8)]
