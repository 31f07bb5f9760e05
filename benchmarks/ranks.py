"""What a call over ranks costs beside the solve: comparing what ranks were given, telling of
failures, bringing parts together.

Ranks of gloo on this machine; ``python benchmarks/ranks.py`` writes results/ranks.csv. Medians in
ms, of the slowest rank. ``--calls`` makes so many more calls and prints threads and open files
before and after."""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import tempfile
from pathlib import Path

import timing
import torch
import torch.distributed as dist

import odesolve as ode

OUT = Path(__file__).parent / "results" / "ranks.csv"
REPEATS = 100


class Net(torch.nn.Module):
    """So many modules of two tensors each, of which none is called: what a look at a network
    costs."""

    def __init__(self, modules: int):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(64, 64) for _ in range(modules)])

    def forward(self, x, t):
        return 0.5 * x


def median_ms(call) -> float:
    """Median time of a call. Every rank makes as many calls: each of them waits for the others."""
    return 1e3 * timing.median(call, REPEATS)


def cases():
    """Name, model and shape."""
    path = ode.paths.VP()
    yield "a function", ode.Model(lambda x, t: 0.5 * x, path, "data"), (8, 64)
    yield "1 module", ode.Model(Net(1), path, "data"), (8, 64)
    yield "400 modules", ode.Model(Net(400), path, "data"), (8, 64)
    yield "400 modules, 12 MB of noise", ode.Model(Net(400), path, "data"), (8, 3, 256, 512)


def rows(ranks: int):
    for name, model, shape in cases():
        noise, half = torch.zeros(shape), torch.zeros(max(1, shape[0] // ranks), *shape[1:])
        solve = median_ms(lambda model=model, half=half: ode.sample(model, half, "ddim", 10))
        own = median_ms(
            lambda model=model, noise=noise: ode.distributed.sample(model, noise, "ddim", 10)
        )
        whole = median_ms(
            lambda model=model, noise=noise: ode.distributed.sample(
                model, noise, "ddim", 10, gather=True
            )
        )
        yield {"ranks": ranks, "model": name, "solve": solve, "call": own, "gathered": whole}


def held() -> tuple[int, int]:
    """Threads and open files of this process."""
    status = Path("/proc/self/status").read_text()
    threads = next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads")
    )
    return threads, len(os.listdir("/proc/self/fd"))


def rank(number: int, ranks: int, store: str, calls: int, told) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, ranks), rank=number, world_size=ranks
    )
    found = list(rows(ranks))
    model = ode.Model(lambda x, t: 0.5 * x, ode.paths.VP(), "data")
    ode.distributed.sample(model, (8, 4), "ddim", 1)
    before = held()
    for _ in range(calls):
        ode.distributed.sample(model, (8, 4), "ddim", 1)
    told.put((number, found, before, held()))
    dist.barrier()
    dist.destroy_process_group()


def measured(ranks: int, calls: int) -> list[dict]:
    made = multiprocessing.get_context("fork")
    told, store = made.Queue(), str(Path(tempfile.mkdtemp()) / "store")
    processes = [
        made.Process(target=rank, args=(k, ranks, store, calls, told)) for k in range(ranks)
    ]
    for p in processes:
        p.start()
    answers = [told.get() for _ in processes]
    for p in processes:
        p.join()
    for number, _, before, after in sorted(answers):
        print(
            f"rank {number} of {ranks}, {calls} calls: threads and files {before} before, "
            f"{after} after"
        )
    slowest = []
    for lines in zip(*(found for _, found, _, _ in answers), strict=True):
        worst = {k: max(line[k] for line in lines) for k in ("solve", "call", "gathered")}
        slowest.append({**lines[0], **{k: f"{v:.3f}" for k, v in worst.items()}})
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=0)
    given = parser.parse_args()
    found = [row for ranks in (1, 2) for row in measured(ranks, given.calls)]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    for row in found:
        print(row)


if __name__ == "__main__":
    main()
