"""The benchmarks: odesolve beside its peers in the same run, on this machine.

python benchmarks/run.py [ops] [steps] [adaptive] [brownian] [adapters] [window] [--quick] [--out
FILE]

The tests of what is timed run first, and nothing is printed while they fail.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import timing
import torch

REGISTRY = ("ops", "steps", "adaptive", "brownian", "adapters", "window")


def main() -> int:
    """Run what the command line asks for; 1 if a test fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(REGISTRY)}; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs")
    parser.add_argument(
        "--rounds", type=int, default=15, help="how often every contender is timed (default 15)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--match", default="", help="only cases whose line holds this text")
    parser.add_argument(
        "--out", type=Path, help="CSV file (default benchmarks/results/cpu.csv for a whole run)"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(REGISTRY):
        parser.error(
            f"no benchmark named {', '.join(sorted(unknown))}: choose from {', '.join(REGISTRY)}"
        )
    chosen = [importlib.import_module(n) for n in args.names or REGISTRY]
    if not _green({t for module in chosen for t in module.TESTS}):
        print("the tests of what is to be timed fail: no figures", file=sys.stderr)
        return 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    timed = []
    with torch.no_grad():  # for all alike: samplers run without
        for case in (c for module in chosen for c in module.cases()):
            if args.match in f"{case.op} {case.name} {case.size}":
                timed.append(timing.measure(case, 3 if args.quick else args.rounds))
                print(timed[-1], flush=True)
    whole = not (args.names or args.match or args.quick)
    out = args.out or (timing.RESULTS / "cpu.csv" if whole else None)
    if out:
        timing.write(out, timed)
        print(f"written: {out}")
    return 0


def _green(tests: set[str]) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *sorted(tests)]
    print(f"running the tests first: {' '.join(sorted(tests))}", flush=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
