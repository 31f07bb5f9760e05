"""What the bookkeeping of jobs costs, and how long a job of a million ids takes to be taken up
again.

    python benchmarks/jobs.py [--quick] [--folder DIR] [--out benchmarks/results/jobs.csv]

"bookkeeping" is the share of a job's wall time that is not spent drawing samples: manifest, leases,
hashes, writes. The network is the exact mixture over the digits, on one thread, which costs 1 ms a
call of 200 samples; with real networks the share is smaller. "resume" is the time from the call to
the first shard that is to be made, of a folder with all shards but one."""

from __future__ import annotations

import argparse
import csv
import functools
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import timing
import torch

import odesolve as ode
from odesolve.fingerprints.fingerprint import fingerprint
from odesolve.jobs import draws

HEAD = ("what", "setting", "value", "unit")
BATCH = 200


def bookkeeping(folder: Path, n: int, steps: int, shard: int) -> float:
    """The share of a job's time outside of the solves."""
    model, spent, draw = ode.problems.digits().model(ode.paths.VP()), [0.0], draws.solve_batch

    def timed(*args):
        out, seconds = timing.timed(lambda: draw(*args))
        spent[0] += seconds
        return out

    with (
        tempfile.TemporaryDirectory(dir=folder) as out,
        mock.patch.object(draws, "solve_batch", timed),
    ):
        job = functools.partial(ode.jobs.sample, model, (BATCH, 1, 8, 8), "dpmpp_2m_sde", steps)
        _, total = timing.timed(lambda: job(n=n, out=out, shard=shard))
    return (total - spent[0]) / total


def resume(folder: Path, n: int, shard: int) -> float:
    """Seconds until a job goes on that lacks one shard."""
    first = []

    def net(x, t):
        first.append(time.perf_counter())
        return x

    with tempfile.TemporaryDirectory(dir=folder) as out:
        call = {"n": n, "out": out, "shard": shard}
        with mock.patch("odesolve.jobs.files.os.fsync"):  # one by one they would take minutes
            job = ode.jobs.sample(
                ode.Model(lambda x, t: x, ode.paths.VP(), "noise"), (shard, 2), "ddim", 1, **call
            )
        job.found()[job.shards // 2].unlink()
        (Path(out) / "job.json").write_text(
            (Path(out) / "job.json")
            .read_text()
            .replace(job.settings["model"], fingerprint(_model(net)))
        )
        start = time.perf_counter()
        ode.jobs.sample(_model(net), (shard, 2), "ddim", 1, **call)
    return first[0] - start


def _model(net) -> ode.Model:
    return ode.Model(net, ode.paths.VP(), "noise")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller jobs, to see that it runs")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("."),
        help="where to write; speeds are those of its disk",
    )
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    n, ids, rounds = (2000, 20_000, 1) if args.quick else (20_000, 1_000_000, 3)
    rows = []
    for steps, shard in ((5, 200), (10, 1000), (50, 1000)):
        share = statistics.median(bookkeeping(args.folder, n, steps, shard) for _ in range(rounds))
        rows.append(
            (
                "bookkeeping",
                f"{n} samples, {steps} steps, shards of {shard}",
                f"{100 * share:.2f}",
                "%",
            )
        )
        print(*rows[-1], flush=True)
    for shard in (1000, 64):
        seconds = resume(args.folder, ids, shard)
        rows.append(("resume", f"{ids} ids, shards of {shard}", f"{seconds:.2f}", "s"))
        print(*rows[-1], flush=True)
    if args.out:
        with args.out.open("w", newline="") as f:
            csv.writer(f).writerows([HEAD, *rows])


if __name__ == "__main__":
    main()
