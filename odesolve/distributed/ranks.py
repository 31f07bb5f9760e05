"""Ranks: the mesh that they form, how a batch is cut for them, and how its parts are gathered."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh

from odesolve.distributed.waits import (
    BROKEN,
    GRACE,
    LIMITS,
    InThread,
    RankError,
    Silent,
    gathered,
    line,
    meet,
    silent,
)
from odesolve.doors.annotations import count, meant, number
from odesolve.errors import OdesolveError
from odesolve.kernels.philox import signed
from odesolve.process.launch import Launch, address, launched, own_device

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
NAMES = ("data", "time")
MINUTES = 10.0
WEEK = 604_800.0  # seconds
MARGIN = 60.0  # seconds
# Groups hold threads and sockets until the process ends, so that each kind of mesh is made once.
_MESHES: weakref.WeakKeyDictionary[Any, dict[tuple, DeviceMesh]] = weakref.WeakKeyDictionary()


@meant(data=count(), time=count(), timeout=number(0.0, WEEK, above=0.0))
def mesh(
    data: int | None = None,
    time: int = 1,
    device: str | None = None,
    timeout: float | None = None,
) -> DeviceMesh:
    """A mesh of all ranks with the dimensions "data" and "time"; a rank that has not joined the
    others joins them first.

    Under torchrun, srun or mpirun every rank calls it, with the same numbers; a process that runs
    alone gets a mesh of one. A second call returns the same mesh.

    Args:
        data, time: the number of ranks along each; data times time is the number of all ranks.
        device: "cuda" (NCCL) where there is a GPU, else "cpu" (gloo).
        timeout: seconds that a rank waits for the others before it raises and names them, 600 by
            default.

    Raises OdesolveError where data times time is not the number of ranks, and where a rank does not
    join in time."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in BACKENDS:
        raise OdesolveError(f"device={device!r}: give 'cpu' or 'cuda'")
    limit = 60.0 * MINUTES if timeout is None else float(timeout)
    if not dist.is_initialized():
        _join(kind, limit)
    ranks = dist.get_world_size()
    if time < 1 or (data is not None and data < 1):
        raise OdesolveError(f"data={data}, time={time}: give at least 1 of each")
    if ranks % time or (data is not None and data * time != ranks):
        raise OdesolveError(
            f"data={data} times time={time} is not the number of ranks, {ranks}: give numbers "
            "whose product it is, or start "
            f"torchrun --nproc-per-node {(data or 1) * time}"
        )
    meshes = _MESHES.setdefault(dist.group.WORLD, {})
    key = (kind, time, limit)
    if key not in meshes or any(group in BROKEN for group in meshes[key].get_all_groups()):
        meet("distributed.mesh", f"time={time}, device={kind!r}", limit)
        try:
            world = torch.arange(ranks).view(-1, time)
            meshes[key] = _within(kind, limit, lambda: _new_mesh(kind, world, limit))
        # torch.distributed finds old addresses where ranks join again by the same store
        except RuntimeError as e:
            raise RankError(
                f"distributed.mesh: its groups could not be made ({line(e)}): start the ranks anew"
            ) from e
    return meshes[key]


def _new_mesh(kind: str, ranks: Tensor, limit: float) -> DeviceMesh:
    """A mesh of these ranks (data, time) whose groups wait at most ``limit`` seconds."""
    backend = BACKENDS[kind]
    axes = (ranks.T.tolist(), ranks.tolist())
    groups = [_group(lines, limit, backend) for lines in axes]
    mesh = DeviceMesh.from_group(groups, kind, mesh=ranks, mesh_dim_names=NAMES)
    for group in groups:
        LIMITS[group] = limit
    return mesh


def _group(lines: list[list[int]], limit: float, backend: str) -> Any:
    """The group of this rank among those of a dimension."""
    # gloo gets a longer limit than ours, so that our error comes first: it can say which rank is
    # missing. NCCL, for which the host does not wait, keeps the limit itself.
    longest = limit + MARGIN * (backend == "gloo")
    group, _ = dist.new_subgroups_by_enumeration(lines, timedelta(seconds=longest), backend)
    return group


def _within(kind: str, limit: float, work: Callable[[], Any]) -> Any:
    """What this set-up of groups returns; OdesolveError if the first rank's process, which torch
    asks without a limit, does not answer. The set-up keeps the limit for other ranks itself."""
    if kind == "cuda":  # a thread has a device of its own
        return work()
    try:
        return InThread(work).within(2.0 * limit + GRACE)
    except Silent:
        raise silent("distributed.mesh") from None


def _join(kind: str, limit: float) -> None:
    launch = launched()
    try:
        _within(kind, limit, lambda: _join_as(launch, kind, limit))
    # errors of torch.distributed: a port that is taken, no address, ranks that do not come
    except (RuntimeError, ValueError) as e:
        raise OdesolveError(
            f"distributed.mesh: {launch.count} ranks did not meet ({line(e)}): start all of them, "
            "set MASTER_ADDR and MASTER_PORT to the first rank's host and a free port there, or "
            "give mesh(timeout=) more seconds"
        ) from e


def _join_as(launch: Launch, kind: str, limit: float) -> None:
    if kind == "cuda":
        own_device(launch)
    options: dict[str, Any] = {"backend": BACKENDS[kind], "timeout": timedelta(seconds=limit)}
    if launch.by == "torchrun":
        dist.init_process_group(**options)
    elif launch.count == 1:
        dist.init_process_group(**options, store=HashStore(), rank=0, world_size=1)
    else:
        host, port = address(launch)
        where = f"tcp://{host}:{port}"
        dist.init_process_group(
            **options, init_method=where, rank=launch.rank, world_size=launch.count
        )


def cut(batch: int, ranks: int) -> list[int]:
    """How many samples of a batch each rank has, in order: as evenly as possible, the first ranks
    one more."""
    return [batch // ranks + (r < batch % ranks) for r in range(ranks)]


def mine(batch: int, ranks: int, rank: int) -> Tensor:
    """The numbers of a rank's samples within the batch."""
    sizes = cut(batch, ranks)
    first = sum(sizes[:rank])
    return torch.arange(first, first + sizes[rank])


def agreed(seed: int, device: torch.device | str, group: Any = None) -> int:
    """The first rank's seed, on every rank of a group."""
    own = torch.tensor([signed(seed)], dtype=torch.int64, device=device)
    return int(gathered(own, group)[0]) % 2**64


def together(parts: Sequence[Tensor], sizes: Sequence[int], group: Any) -> list[Tensor]:
    """Tensors with one row per sample, of which this rank has ``sizes[rank]`` rows, with the rows
    of
    all ranks: by one all-gather of bytes.

    Rejected: one all-gather per tensor, which pays the latency of each.
    """
    widths = [part.element_size() * part.shape[1:].numel() for part in parts]
    device = parts[0].device
    send = torch.zeros(max(sizes), sum(widths), dtype=torch.uint8, device=device)
    if len(parts[0]):
        send[: len(parts[0])] = torch.cat([_as_bytes(part) for part in parts], 1)
    received = gathered(send, group)
    rows = torch.cat([some[:n] for some, n in zip(received, sizes, strict=True)])
    columns = zip(rows.split(widths, 1), parts, strict=True)
    return [_from_bytes(column, part) for column, part in columns]


def _as_bytes(part: Tensor) -> Tensor:
    """A tensor (n, ...) as bytes (n, width)."""
    if not part.numel():
        return part.new_empty(0)
    return part.contiguous().view(len(part), -1).view(torch.uint8)


def _from_bytes(column: Tensor, like: Tensor) -> Tensor:
    """Bytes (n, width) as rows of the type and the shape of another tensor's."""
    if not column.numel():
        return like.new_empty(len(column), *like.shape[1:])
    return column.contiguous().view(like.dtype).view(-1, *like.shape[1:])
