"""Ranks: the mesh they form, how a batch is cut for them, and how parts come together again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from odesolve.errors import OdesolveError
from odesolve.kernels.philox import signed
from odesolve.meant import count, meant

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@meant(data=count(), time=count())
def mesh(data: int | None = None, time: int = 1, device: str | None = None) -> DeviceMesh:
    """A mesh of all ranks with the dimensions "data" and "time"; joins the others first where that has not been done.

    Under torchrun every rank calls it, with the same numbers; alone it is a mesh of one. ``device`` is "cuda" (NCCL) where there
    is one, else "cpu" (gloo). Raises OdesolveError where data times time is not the number of ranks.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in BACKENDS:
        raise OdesolveError(f"device={device!r}: give 'cpu' or 'cuda'")
    if not dist.is_initialized():
        _join(kind)
    ranks = dist.get_world_size()
    if time < 1 or (data is not None and data < 1):
        raise OdesolveError(f"data={data}, time={time}: give at least 1 of each")
    if ranks % time or (data is not None and data * time != ranks):
        raise OdesolveError(
            f"data={data} times time={time} is not the number of ranks, {ranks}: give numbers whose product it is, or start "
            f"torchrun --nproc-per-node {(data or 1) * time}"
        )
    return init_device_mesh(kind, (ranks // time, time), mesh_dim_names=("data", "time"))


def _join(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if "RANK" in os.environ:
        dist.init_process_group(BACKENDS[kind])
    else:
        dist.init_process_group(BACKENDS[kind], store=HashStore(), rank=0, world_size=1)


def cut(batch: int, ranks: int) -> list[int]:
    """How many of a batch each rank has, in order: as even as can be, the first ones one more."""
    return [batch // ranks + (r < batch % ranks) for r in range(ranks)]


def mine(batch: int, ranks: int, rank: int) -> Tensor:
    """The numbers of the samples that a rank has."""
    sizes = cut(batch, ranks)
    first = sum(sizes[:rank])
    return torch.arange(first, first + sizes[rank])


def agreed(seed: int, device: torch.device | str, group: Any = None) -> int:
    """The first rank's seed, on every rank."""
    held = torch.tensor([signed(seed)], dtype=torch.int64, device=device)
    dist.broadcast(held, group=group, group_src=0)
    return int(held) % 2**64


def together(parts: Sequence[Tensor], sizes: Sequence[int], group: Any) -> list[Tensor]:
    """Tensors with one row a sample, of which a rank has ``sizes[rank]`` rows, whole on every rank: one all-gather of bytes."""
    rows = max(sizes)
    flat = [p.contiguous().view(len(p), -1).view(torch.uint8) if p.numel() else p.new_empty(0) for p in parts]
    widths = [p.element_size() * p.shape[1:].numel() for p in parts]
    send = torch.zeros(rows, sum(widths), dtype=torch.uint8, device=parts[0].device)
    if len(parts[0]):
        send[: len(parts[0])] = torch.cat(flat, 1)
    got = torch.empty(len(sizes) * rows, send.shape[1], dtype=torch.uint8, device=send.device)
    dist.all_gather(list(got.split(rows)), send, group=group)
    kept = torch.cat([got[r * rows : r * rows + n] for r, n in enumerate(sizes)])
    columns = kept.split(widths, 1)
    return [
        c.contiguous().view(p.dtype).view(-1, *p.shape[1:]) if c.numel() else p.new_empty(len(kept), *p.shape[1:])
        for c, p in zip(columns, parts, strict=True)
    ]
