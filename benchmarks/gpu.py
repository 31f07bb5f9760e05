"""The ops on a GPU: checked against the reference in float64 first, then timed beside torch.

python benchmarks/gpu.py [checks] [ops] [--quick] [--match TEXT] [--out FILE]

Nothing is timed while a check fails. Without a CUDA or ROCm device it says so and ends. Times are
medians of ``triton.testing.do_bench`` (the L2 cache is flushed between runs) with p20 and p80;
``share_of_copy`` is the bandwidth by the bytes that an ideal implementation moves, over that of
``Tensor.copy_`` on 2^27 float32 numbers in the same run."""

from __future__ import annotations

import argparse
import csv
import functools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gpu_samplers
import timing
import torch
from odesolve.kernels import dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm
from timing import OURS, RESULTS, machine

import odesolve as ode

COLUMNS = (
    *(
        "op",
        "case",
        "size",
        "dtype",
        "backend",
        "p20_us",
        "p50_us",
        "p80_us",
        "bytes",
        "gbps",
        "share_of_copy",
    ),
    *("device", "torch", "triton", "commit"),
)
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
LARGE, EPS = 2**27, {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23}
DEVICE = "cuda"


@dataclass(frozen=True)
class Case(timing.Case):
    """One row of the table: what is done, on how many elements."""

    op: str
    name: str
    size: str
    dtype: torch.dtype = SINGLE


def new(count: int, *shape: int, dtype: torch.dtype = SINGLE) -> list[torch.Tensor]:
    """Standard normal tensors."""
    return [torch.randn(shape, device=DEVICE, dtype=dtype) for _ in range(count)]


def weights(n_out: int, columns: int) -> tuple[tuple[float, ...], ...]:
    """Rows of coefficients, none of them 0 or a power of two."""
    return tuple(tuple(0.3 + 0.1 * i - 0.17 * j for j in range(columns)) for i in range(n_out))


# Checks: each yields (what, whether it holds).


def agreement() -> Iterator[tuple[str, bool]]:
    """Every op against the reference in float64, at even and odd sizes, in three layouts."""
    keys = philox.keys(7, torch.arange(4, device=DEVICE))
    for shape in ((4, 3, 64, 64), (4, 3, 7, 5), (4, 65_537), (4, 8)):
        for dtype in (SINGLE, HALF):
            yield from _combine_agrees(shape, dtype, keys)
        x, y, z = new(3, *shape)
        out, want = torch.empty_like(x), torch.empty(shape, device=DEVICE)
        dispatch.normal(out, keys, 5)
        reference.normal(want, keys, 5)
        yield (
            f"normal {shape}",
            close(out, want.double(), 4 * EPS[SINGLE] * want.double().abs().clamp(min=0.1)),
        )
        got, want = torch.empty(4, device=DEVICE), torch.empty(4, device=DEVICE, dtype=DOUBLE)
        for name, args in (
            ("rms", (x, y, z, 1e-3, 1e-2)),
            ("inner", (x, y)),
            ("quadratic_form", (x, keys, 3)),
            ("quantile", (x, 0.9)),
        ):
            getattr(dispatch, name)(got, *args)
            wide = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
            getattr(reference, name)(want, *wide)
            size = want.abs() + (x.double() ** 2).flatten(1).sum(1).sqrt()
            yield f"{name} {shape}", close(got, want, 64 * EPS[SINGLE] * size)


def _combine_agrees(shape, dtype, keys) -> Iterator[tuple[str, bool]]:
    rows = weights(2, 4)
    for layout in ("contiguous", "channels last", "strided"):
        ins = [_laid_out(t, layout) for t in new(3, *shape, dtype=dtype)]
        outs = [torch.empty_like(ins[0], dtype=SINGLE), torch.empty_like(ins[0])]
        dispatch.combine(outs, ins, rows, (0, -1), keys, (9,))
        want = [torch.empty(shape, device=DEVICE, dtype=DOUBLE) for _ in outs]
        reference.combine(want, [t.double() for t in ins], rows, (0, -1), keys, (9,))
        size = 4 * sum(t.double().abs() for t in ins) + 4
        ok = all(
            close(o, w, 8 * EPS[SINGLE] * size + EPS[o.dtype] * w.abs())
            for o, w in zip(outs, want, strict=True)
        )
        yield f"combine {layout} {shape} {dtype}", ok
        single = [torch.empty_like(o[1:2]) for o in outs]
        dispatch.combine(single, [t[1:2] for t in ins], rows, (0, -1), keys[1:2], (9,))
        same = all(torch.equal(a, o[1:2]) for a, o in zip(single, outs, strict=True))
        yield f"combine {layout} {shape} {dtype}: a sample has the same bits alone", same


def _laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def close(got: torch.Tensor, want: torch.Tensor, allowed: torch.Tensor) -> bool:
    """Whether every element is within its allowance."""
    return bool(((got.double() - want).abs() <= allowed).all())


def device_only() -> Iterator[tuple[str, bool]]:
    """No call waits for the device, a block is one kernel, and a captured graph follows its row
    counter."""
    keys, ins, out = (
        philox.keys(7, torch.arange(4, device=DEVICE)),
        new(2, 4, 4096),
        new(1, 4, 4096),
    )
    rows = weights(1, 3)
    step = lambda: dispatch.combine(out, ins, rows, (0,), keys, (2,))  # noqa: E731
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for k in range(50):
            step()
            # a stream that was never seen before
            dispatch.combine(out, ins, rows, (0,), keys, (100 + k,))
        yield "fifty calls never wait", True
    except RuntimeError as e:
        yield f"fifty calls never wait ({e})", False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    started = [
        e.name
        for e in seen.events()
        if e.device_type != torch.autograd.DeviceType.CPU and "sync" not in e.name.lower()
    ]
    yield f"a block with noise is one kernel ({', '.join(started)})", len(started) == 1
    yield "a captured graph follows its row", _graph_follows(keys)


def _graph_follows(keys: torch.Tensor) -> bool:
    table = torch.tensor(
        [[[0.5, 0.1, 0.2]], [[-0.3, 0.0, 0.7]], [[0.0, 0.0, 0.0]]], dtype=DOUBLE, device=DEVICE
    )
    codes = torch.tensor([[0, 4], [-1, 9], [-2, 0]], device=DEVICE)
    row, ins, out = (
        torch.zeros(1, dtype=torch.int64, device=DEVICE),
        new(2, 4, 4096),
        torch.zeros(4, 4096, device=DEVICE),
    )
    dispatch.combine_row([out], ins, table, codes, row, keys)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dispatch.combine_row([out], ins, table, codes, row, keys)
    agreed = True
    for k in (1, 0, 2, 1):
        row.fill_(k)
        want = out.double()
        reference.combine_row([want], [t.double() for t in ins], table, codes, row, keys)
        graph.replay()
        agreed &= close(out, want, torch.full_like(want, 1e-5))
    return agreed


# Cases to time.


def ops() -> Iterator[Case]:
    """Blocks, noise and reductions beside eager torch and torch.compile."""
    for n in (2**14, 2**20, LARGE):
        for dtype in (SINGLE, HALF):
            yield _block(n, dtype)
            yield _noisy(n, dtype)
    for n in (2**20, LARGE):
        yield _normal(n)
        yield _inner(n)
        yield _error(n)
    yield _window(16, 2**22)


def _block(n: int, dtype: torch.dtype) -> Case:
    (a, b, c), (out, other) = new(3, 1, n, dtype=dtype), new(2, 1, n, dtype=dtype)
    ((p, q, r),) = rows = weights(1, 3)
    eager = lambda: p * a + q * b + r * c  # noqa: E731
    contenders = {
        OURS: lambda: dispatch.combine([out], [a, b, c], rows, (-1,)),
        "eager": eager,
        "torch.compile into out": torch.compile(lambda: other.copy_(eager()), dynamic=False),
    }
    return Case(
        "combine", "3 inputs", str(n), dtype, contenders=contenders, bytes=4 * n * a.element_size()
    )


def _noisy(n: int, dtype: torch.dtype) -> Case:
    (a, b), (out, other) = new(2, 1, n, dtype=dtype), new(2, 1, n, dtype=dtype)
    ((p, q, r),) = rows = weights(1, 3)
    keys = philox.keys(0, torch.arange(1, device=DEVICE))
    eager = lambda: p * a + q * b + r * torch.randn_like(a)  # noqa: E731
    contenders = {
        OURS: lambda: dispatch.combine([out], [a, b], rows, (-1,), keys, (3,)),
        "eager": eager,
        "torch.compile into out": torch.compile(lambda: other.copy_(eager()), dynamic=False),
    }
    return Case(
        "combine",
        "2 inputs and noise",
        str(n),
        dtype,
        contenders=contenders,
        bytes=3 * n * a.element_size(),
    )


def _normal(n: int) -> Case:
    (out,), keys = new(1, 1, n), philox.keys(0, torch.arange(1, device=DEVICE))
    contenders = {
        OURS: lambda: dispatch.normal(out, keys, 3),
        "torch.randn": lambda: torch.randn(1, n, out=out),
    }
    return Case("normal", "fill", str(n), contenders=contenders, bytes=4 * n)


def _inner(n: int) -> Case:
    (a, b), out = new(2, 16, n // 16), torch.empty(16, device=DEVICE)
    contenders = {OURS: lambda: dispatch.inner(out, a, b), "eager": lambda: (a * b).sum(1)}
    return Case("inner", "product", f"16x{n // 16}", contenders=contenders, bytes=8 * n)


def _error(n: int) -> Case:
    ins, out, norm = (
        new(4, 16, n // 16),
        torch.empty(16, n // 16, device=DEVICE),
        torch.empty(16, device=DEVICE),
    )
    rows, error = ((0.0, 0.1, 0.2, 0.3), (0.0, 0.01, -0.02, 0.01)), ErrorNorm(norm, 1e-3, 1e-4)

    def eager():
        y, a, b, c = ins
        moved = y + 0.1 * a + 0.2 * b + 0.3 * c
        e = 0.01 * a - 0.02 * b + 0.01 * c
        return moved, (e / (1e-4 + 1e-3 * torch.maximum(y.abs(), moved.abs()))).square().mean(
            1
        ).sqrt()

    contenders = {
        OURS: lambda: dispatch.combine([out], ins, rows, (0,), None, (), error),
        "eager": eager,
        "torch.compile": torch.compile(eager, dynamic=False),
    }
    return Case(
        "combine", "step and error norm", f"16x{n // 16}", contenders=contenders, bytes=20 * n
    )


def _window(points: int, n: int) -> Case:
    old, moved, out = new(3, points, 4, n // 4)
    (origin,), residual = new(1, 4, n // 4), torch.empty(points, 4, device=DEVICE)
    table = torch.full((points, 2), 0.1, dtype=DOUBLE, device=DEVICE)
    growth = torch.full((points,), -0.05, dtype=DOUBLE, device=DEVICE)

    def eager():
        prev = origin
        for p in range(points):
            prev = 0.95 * prev + 0.1 * old[p] + 0.1 * moved[p]
            out[p] = prev
        return (out - old).square().mean(2)

    contenders = {
        OURS: lambda: dispatch.window(out, residual, origin, old, (old, moved), table, growth),
        "torch loop": eager,
    }
    return Case(
        "window", f"{points} points", f"4x{n // 4}", contenders=contenders, bytes=12 * points * n
    )


def samplers() -> Iterator[tuple[str, bool]]:
    """Whole samplers and solves: nothing waits, one kernel a step, a captured step equals the loop,
    the CPU agrees."""
    for check in (
        gpu_samplers.waits,
        gpu_samplers.launches,
        gpu_samplers.graph_follows,
        gpu_samplers.equal_to_the_cpu,
        gpu_samplers.likelihoods_equal_to_the_cpu,
        gpu_samplers.pipelines,
    ):
        yield from check(DEVICE)


def graph() -> Iterator[Case]:
    """A captured step beside eager loops, where launches cost more than the network."""
    shape = "x".join(map(str, gpu_samplers.SHAPE))
    yield Case(
        "graph", f"{gpu_samplers.STEPS} steps", shape, contenders=gpu_samplers.contenders(DEVICE)
    )


def solves() -> Iterator[Case]:
    """A hundred steps of DDIM with a small network at batch 1: in a window, as a captured step, by
    the loop."""
    net = gpu_samplers.Net(width=64, blocks=4).to(DEVICE).eval().requires_grad_(False)
    model, x, steps = (
        ode.Model(net, gpu_samplers.PATH, "noise"),
        torch.randn(gpu_samplers.SHAPE, device=DEVICE),
        100,
    )
    executors = {
        "ode.Window": ode.Window(),
        "ode.Graph": ode.Graph(model, torch.zeros_like(x), steps),
        "loop": None,
    }
    samplers = {
        n: ode.Sampler(model, "ddim", steps, "uniform", executor=e) for n, e in executors.items()
    }
    contenders = {n: functools.partial(sampler, x, seed=0) for n, sampler in samplers.items()}
    yield Case(
        "solve", f"{steps} steps of DDIM", "x".join(map(str, x.shape)), contenders=contenders
    )


# More figures go in here: a generator of checks, or one of cases.
CHECKS = (agreement, device_only, samplers)
REGISTRY = {"ops": ops, "graph": graph, "solves": solves}


def main() -> int:
    """Check, time and write; 1 if a check fails, 0 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of checks, {', '.join(REGISTRY)}; all by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few runs a case, to see that it works"
    )
    parser.add_argument("--match", default="", help="only cases whose line holds this text")
    parser.add_argument(
        "--out", type=Path, help="CSV file (default benchmarks/results/DEVICE.csv for a whole run)"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - {"checks", *REGISTRY}:
        parser.error(
            f"nothing named {', '.join(sorted(unknown))}: choose from checks, {', '.join(REGISTRY)}"
        )
    if not torch.cuda.is_available():
        print("not measured: no CUDA or ROCm device")
        return 0
    torch.manual_seed(0)
    failed = sum(not _checked(what, holds) for check in CHECKS for what, holds in check())
    if failed:
        print(f"{failed} checks fail: nothing is timed", file=sys.stderr)
        return 1
    rows = []
    copy = _copy_bandwidth()
    for name in args.names or REGISTRY:
        for case in REGISTRY[name]() if name != "checks" else ():
            if args.match in f"{case.op} {case.name} {case.size} {case.dtype}":
                rows += _timed(case, copy, args.quick)
    out = args.out or (
        RESULTS / f"{_slug(torch.cuda.get_device_name())}.csv"
        if not (args.names or args.match)
        else None
    )
    if out and not args.quick:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"written: {out}")
    return 0 if _fast_enough(rows) else 1


def _fast_enough(rows: list[dict]) -> bool:
    """Whether the captured step, if it was timed, is as much faster than a diffusers loop as it has
    to be."""
    times = {
        row["backend"].split()[0]: float(row["p50_us"]) for row in rows if row["op"] == "graph"
    }
    if "diffusers" not in times:
        return True
    ratio = times["diffusers"] / times[OURS]
    return _checked(
        f"a captured step is {ratio:.2f} times faster than diffusers' loop",
        ratio >= gpu_samplers.FASTER,
    )


def _checked(what: str, holds: bool) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
    return holds


def _copy_bandwidth() -> float:
    """GB/s that ``copy_`` reaches: bytes read and written."""
    a, b = new(2, LARGE)
    return 8 * LARGE / _quantiles(lambda: b.copy_(a), False)[1] / 1e3


def _quantiles(run: Callable, quick: bool) -> tuple[float, float, float]:
    """p20, p50 and p80 in microseconds."""
    from triton.testing import do_bench

    low, middle, high = do_bench(
        run, warmup=5 if quick else 25, rep=10 if quick else 200, quantiles=[0.2, 0.5, 0.8]
    )
    return low * 1e3, middle * 1e3, high * 1e3


def _timed(case: Case, copy: float, quick: bool) -> list[dict]:
    import triton

    here = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    rows = []
    for name, run in case.contenders.items():
        low, middle, high = _quantiles(run, quick)
        gbps = case.bytes / middle / 1e3
        row = {
            "op": case.op,
            "case": case.name,
            "size": case.size,
            "dtype": str(case.dtype).removeprefix("torch."),
        }
        row |= {"backend": f"{OURS} {dispatch.backend().devices[DEVICE]}" if name == OURS else name}
        row |= {
            "p20_us": f"{low:.2f}",
            "p50_us": f"{middle:.2f}",
            "p80_us": f"{high:.2f}",
            "bytes": case.bytes,
        }
        row |= {
            "gbps": f"{gbps:.1f}",
            "share_of_copy": f"{gbps / copy:.3f}",
            **here,
            "commit": machine()["commit"],
        }
        rows.append(row)
        shown = f"{middle:10.1f} us {gbps:8.0f} GB/s {gbps / copy:6.1%} of copy_"
        print(
            f"{case.op:8} {case.name:22} {case.size:>12} {row['dtype']:9} {row['backend']:24} "
            f"{shown}",
            flush=True,
        )
    return rows


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
