"""What planning and the loop cost outside the network: medians in microseconds, on this machine, in
this run.

python benchmarks/overhead.py [--out overhead.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from odesolve.kernels.dispatch import combine

import odesolve as ode
from odesolve import run
from odesolve.lowering.lower import Block, lower
from odesolve.planning import planner

PATH = ode.paths.VP()
SOLVERS = ("euler", "ddim", "dpmpp_2m", "unipc_2", "ipndm_4", "deis_tab2", "heun_edm", "rk4")


def median_us(fn, repeats: int = 31) -> float:
    """Median wall time of fn() in microseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def planning_us(solver: str, rows: int) -> tuple[float, float]:
    """Fresh and cached planning of this many rows."""

    def fresh():
        planner._plan.cache_clear()
        ode.plan(solver, PATH, rows, "karras")

    return median_us(fresh), median_us(lambda: ode.plan(solver, PATH, rows, "karras"))


def loop_us(solver: str, steps: int, shape) -> dict[str, float]:
    """Time a step of the loop with a network that returns its input, and of its ops alone on the
    same buffers."""
    model = ode.Model(lambda x, t: x, PATH, "noise")
    x = torch.randn(shape)
    program = lower(ode.plan(solver, PATH, steps, "karras"), PATH, model.reading_for(x.dtype))
    blocks = [op for op in program.ops if isinstance(op, Block)]
    slots = [torch.empty_like(x).normal_() for _ in range(program.slots)]

    def ops():
        for b in blocks:
            combine([slots[i] for i in b.outs], [slots[i] for i in b.ins], b.weights, b.base)

    with torch.no_grad():
        whole, alone = median_us(lambda: run.run(program, x, None, model)), median_us(ops)
    n = len(program.times)
    return {
        "loop": whole / n,
        "ops": alone / n,
        "overhead": (whole - alone) / n,
        "passes": program.passes / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rows", type=int, default=50, help="rows to plan and steps to run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    print(
        f"{'solver':12} {'plan us':>9} {'cached':>8} {'loop/call':>10} {'ops/call':>9} "
        f"{'overhead':>9} {'passes/step':>12}"
    )
    for solver in SOLVERS:
        fresh, cached = planning_us(solver, args.rows)
        row = {"plan": fresh, "cached": cached, **loop_us(solver, args.rows, (1, 4, 8, 8))}
        table[solver] = row
        print(
            f"{solver:12} {fresh:9.0f} {cached:8.1f} {row['loop']:10.1f} {row['ops']:9.1f} "
            f"{row['overhead']:9.1f} {row['passes']:12.2f}"
        )
    if args.out:
        about = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        args.out.write_text(json.dumps({"about": about, "us": table}, indent=1))


if __name__ == "__main__":
    main()
