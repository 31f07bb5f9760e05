"""Ranks: the mesh they form, how a batch is cut for them, and how parts come together again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh

from odesolve.distributed.waits import BROKEN, LIMITS, RankError, gathered, line, meet
from odesolve.doors.annotations import count, meant, number
from odesolve.errors import OdesolveError
from odesolve.kernels.philox import signed
from odesolve.process.launch import Launch, address, launched, own_device

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
NAMES = ("data", "time")
MINUTES = 10.0
WEEK = 604_800.0  # seconds
MARGIN = 60.0  # seconds
# Groups hold threads and sockets until the end of the process, so each kind of mesh is made once.
_MADE: weakref.WeakKeyDictionary[Any, dict[tuple, DeviceMesh]] = weakref.WeakKeyDictionary()


@meant(data=count(), time=count(), timeout=number(0.0, WEEK, above=0.0))
def mesh(
    data: int | None = None,
    time: int = 1,
    device: str | None = None,
    timeout: float | None = None,
) -> DeviceMesh:
    """A mesh of all ranks with the dimensions "data" and "time"; joins the others first where that
    has not been done.

    Under torchrun, srun or mpirun every rank calls it, with the same numbers; alone it is a mesh of
    one. Asked again, it is the same mesh.

    Args:
        data, time: how many ranks along each; data times time is the number of ranks.
        device: "cuda" (NCCL) where there is one, else "cpu" (gloo).
        timeout: seconds that a rank waits for the others before it raises and names them, 600 by
            default.

    Raises OdesolveError where data times time is not the number of ranks, and where a rank does not
    come."""
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
    made = _MADE.setdefault(dist.group.WORLD, {})
    key = (kind, time, limit)
    if key not in made or any(group in BROKEN for group in made[key].get_all_groups()):
        meet("distributed.mesh", f"time={time}, device={kind!r}", limit)
        try:
            made[key] = _made(kind, torch.arange(ranks).view(-1, time), limit)
        except (
            RuntimeError
            # of torch.distributed, which finds old addresses where it is joined anew by one store
        ) as e:
            raise RankError(
                f"distributed.mesh: its groups could not be made ({line(e)}): start the ranks anew"
            ) from e
    return made[key]


def _made(kind: str, ranks: Tensor, limit: float) -> DeviceMesh:
    """A mesh of these ranks (data, time) whose groups wait no longer than so many seconds."""
    groups = [_group(lines, limit, BACKENDS[kind]) for lines in (ranks.T.tolist(), ranks.tolist())]
    made = DeviceMesh.from_group(groups, kind, mesh=ranks, mesh_dim_names=NAMES)
    for group in groups:
        LIMITS[group] = limit
    return made


def _group(lines: list[list[int]], limit: float, backend: str) -> Any:
    """This rank's of the groups of a dimension."""
    # gloo waits longer than we do, who can say for whom; NCCL, where the host does not wait, keeps
    # the limit itself.
    longest = limit + MARGIN * (backend == "gloo")
    made, _ = dist.new_subgroups_by_enumeration(lines, timedelta(seconds=longest), backend)
    return made


def _join(kind: str, limit: float) -> None:
    launch = launched()
    try:
        _join_as(launch, kind, limit)
    # torch.distributed's: a port that is taken, no address, ranks that do not come.
    except (RuntimeError, ValueError) as e:
        raise OdesolveError(
            f"distributed.mesh: {launch.count} ranks did not meet ({line(e)}): start all of them, "
            "set MASTER_ADDR and "
            "MASTER_PORT to the first one's host and a free port of it, or give mesh(timeout=) "
            "more seconds"
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
    """How many of a batch each rank has, in order: as even as can be, the first ones one more."""
    return [batch // ranks + (r < batch % ranks) for r in range(ranks)]


def mine(batch: int, ranks: int, rank: int) -> Tensor:
    """The numbers of the samples that a rank has."""
    sizes = cut(batch, ranks)
    first = sum(sizes[:rank])
    return torch.arange(first, first + sizes[rank])


def agreed(seed: int, device: torch.device | str, group: Any = None) -> int:
    """The first rank's seed, on every rank of a group."""
    held = torch.tensor([signed(seed)], dtype=torch.int64, device=device)
    return int(gathered(held, group)[0]) % 2**64


def together(parts: Sequence[Tensor], sizes: Sequence[int], group: Any) -> list[Tensor]:
    """Tensors with one row a sample, of which a rank has ``sizes[rank]`` rows, whole on every rank:
    one all-gather of bytes."""
    rows = max(sizes)
    flat = [
        p.contiguous().view(len(p), -1).view(torch.uint8) if p.numel() else p.new_empty(0)
        for p in parts
    ]
    widths = [p.element_size() * p.shape[1:].numel() for p in parts]
    send = torch.zeros(rows, sum(widths), dtype=torch.uint8, device=parts[0].device)
    if len(parts[0]):
        send[: len(parts[0])] = torch.cat(flat, 1)
    got = gathered(send, group)
    kept = torch.cat([part[:n] for part, n in zip(got, sizes, strict=True)])
    columns = kept.split(widths, 1)
    return [
        c.contiguous().view(p.dtype).view(-1, *p.shape[1:])
        if c.numel()
        else p.new_empty(len(kept), *p.shape[1:])
        for c, p in zip(columns, parts, strict=True)
    ]
