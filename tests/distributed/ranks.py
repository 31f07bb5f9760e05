"""Several ranks in processes of their own, with a limit on how long they may take."""

from __future__ import annotations

import datetime
import multiprocessing
import queue
import time
import traceback

import torch
import torch.distributed as dist

ENDED = "ended without a word"
FORK = multiprocessing.get_context("fork")  # nothing is imported anew
LIMIT = 60.0  # seconds; a hang ends here


def _rank(check, rank, world, store, told):
    torch.set_num_threads(1)
    try:
        joined = dist.FileStore(store, world)
        dist.init_process_group(
            "gloo",
            store=joined,
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=LIMIT),
        )
        told.put((rank, check(), None))
        dist.destroy_process_group()
    except BaseException:
        told.put((rank, None, traceback.format_exc()))


def on_ranks(check, world, folder):
    """What ``check()`` returns on every one of so many ranks, in order. Processes are forked, so
    nothing is imported anew."""
    found = outcomes(check, world, folder)
    gone = [rank for rank, value in enumerate(found) if value is ENDED]
    assert not gone, f"ranks {gone} of {world} ended"
    return found


def outcomes(check, world, folder):
    """The same; ``ENDED`` of ranks that end without a word."""
    told = FORK.Queue()
    store = str(folder / f"store{world}")
    ranks = [
        FORK.Process(target=_rank, args=(check, r, world, store, told), daemon=True)
        for r in range(world)
    ]
    for p in ranks:
        p.start()
    found, end = {}, time.monotonic() + LIMIT
    try:
        while len(found) < world:
            _read(told, found)
            for rank, p in enumerate(ranks):
                if p.exitcode not in (None, 0) and rank not in found:
                    found[rank] = ENDED
            waiting = [rank for rank in range(world) if rank not in found]
            assert time.monotonic() < end, (
                f"ranks {waiting} of {world} came to no end in {LIMIT:.0f} s"
            )
    finally:
        for p in ranks:
            p.join(5.0)
            p.kill()
    return [found[r] for r in range(world)]


def _read(told, found):
    try:
        rank, value, error = told.get(timeout=0.2)
    except queue.Empty:
        return
    assert error is None, error
    found[rank] = value
