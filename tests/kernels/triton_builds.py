"""Compiles what the Triton backend would launch, for machines that are not here, and prints what
the machine code is like.

Run by test_triton_compiled.py in a process of its own without TRITON_INTERPRET:
``triton_builds.py TARGET CASE...`` with targets such as cuda:90 and hip:gfx942 prints a JSON
object, case -> figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from odesolve.kernels import control, philox
from odesolve.kernels.reference import ErrorNorm
from odesolve.kernels.triton import backend, launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

B, N = 2, 4096
KEYS = philox.keys(0, torch.arange(B))
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
}
SINGLE, DOUBLE, HALF = torch.float32, torch.float64, torch.bfloat16


def new(*dtypes):
    return [torch.empty(B, N, dtype=d) for d in dtypes]


def block(outs, ins, noise=0, error=False):
    columns = len(ins) + noise
    weights = [[0.5] * columns] * (len(outs) + error)
    norm = ErrorNorm(torch.empty(B), 1e-3, 1e-4) if error else None
    backend.combine(
        new(*outs), new(*ins), weights, [0] * len(outs), KEYS if noise else None, range(noise), norm
    )


def row(outs, ins, noise=1):
    table = torch.zeros(4, len(outs), len(ins) + noise, dtype=torch.float64)
    codes = torch.zeros(4, len(outs) + noise, dtype=torch.int64)
    backend.combine_row(
        new(*outs), new(*ins), table, codes, torch.zeros(1, dtype=torch.int64), KEYS
    )


def window():
    states = [torch.empty(4, B, N) for _ in range(3)]
    table = torch.zeros(4, 2, dtype=torch.float64)
    streams, given = torch.zeros(4, dtype=torch.int64), (states[1][0], states[1], states[2:])
    backend.window(states[0], torch.empty(4, B), *given, table, table[:, 0], KEYS, streams)


def step_control():
    wide = {"dtype": torch.float64}
    state, norm, weights = (
        torch.zeros(control.ROWS, 70, **wide),
        torch.zeros(70, **wide),
        torch.zeros(70, 61, **wide),
    )
    table, settings = torch.zeros(2, 61, **wide), torch.zeros(control.SETTINGS, **wide)
    backend.control(
        state, norm, weights, torch.zeros(6, 70), table, torch.zeros(6, **wide), settings
    )


def sums():
    streams, weights = (
        KEYS[:, :1].expand(B, 98).contiguous(),
        torch.zeros(B, 2, 98, dtype=torch.float64),
    )
    backend.normal_sums(new(SINGLE, SINGLE), KEYS, streams, weights)


def huge():
    """More elements than 32 bits count, on a device that has no memory."""
    launch.table = lambda values, dtype, device: torch.tensor(values, dtype=dtype)
    x = torch.empty(2, 2**32, device="meta")
    backend.combine([x], [x, x], [[0.5, 0.5]], [0])


CASES = {
    "plain": lambda: block([SINGLE], [SINGLE] * 2),
    "wide": lambda: block([SINGLE] * 2, [SINGLE] * 5),
    "noise": lambda: block([SINGLE], [SINGLE] * 2, noise=1),
    "half": lambda: block([HALF], [HALF] * 2),
    "half_noise": lambda: block([HALF], [HALF] * 2, noise=1),
    "double": lambda: block([DOUBLE], [DOUBLE] * 2),
    "mixed": lambda: block([SINGLE, HALF], [SINGLE, SINGLE, HALF], noise=1),
    "error": lambda: block([SINGLE], [SINGLE] * 4, error=True),
    "row": lambda: row([SINGLE] * 5 + [HALF], [SINGLE] * 5 + [HALF]),
    "row_guided": lambda: row([SINGLE] * 6, [SINGLE] * 7),
    "normal": lambda: backend.normal(new(SINGLE)[0], KEYS, 3),
    "rms": lambda: backend.rms(torch.empty(B), *new(*[SINGLE] * 3), 1e-3, 1e-4),
    "inner": lambda: backend.inner(torch.empty(B), *new(SINGLE, SINGLE)),
    "signs": lambda: backend.quadratic_form(torch.empty(B), *new(SINGLE), KEYS, 3),
    "window": window,
    "control": step_control,
    "sums": sums,
    "shifted": lambda: backend.combine(
        [torch.empty(B * N + 1)[1:]], [torch.empty(B * N + 1)[1:]], [[0.5]], [0]
    ),
    "huge": huge,
    "one": lambda: backend.normal(torch.empty(B, 1), KEYS, 3),
}


def launches(case):
    """The kernels that an op starts, in order: (kernel, work, arguments)."""
    seen = []
    launch.Launcher.start = lambda self, key, device, work, args, written=(): seen.append(
        (self.kernel, work, args)
    )
    CASES[case]()
    return seen


def source(kernel, args):
    """What Triton's JIT would make of these arguments: types, constants and known multiples of
    16."""
    signature, constants, known = {}, {}, {}
    for k, (p, a) in enumerate(zip(kernel.params, args, strict=True)):
        if p.is_constexpr or a is None or (type(a) is int and a == 1 and not p.do_not_specialize):
            signature[p.name], constants[k,] = "constexpr", a
            continue
        tensor = isinstance(a, torch.Tensor)
        signature[p.name] = TYPES[a.dtype] if tensor else "i64" if a >= 2**31 else "i32"
        multiple = (a.data_ptr() if tensor else a) % 16 == 0
        if multiple and not p.do_not_specialize and not p.do_not_specialize_on_alignment:
            known[k,] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, known)


def figures(kernel, work, args, target):
    options = {"num_warps": work.warps, **launch.OPTIONS}
    made = triton.compile(source(kernel, (*args, work.block)), target=target, options=options)
    elements = work.block // (work.warps * target.warp_size)  # of a thread
    shared = {"name": kernel.__name__, "elements": elements, "smem": made.metadata.shared}
    return shared | (
        of_cubin(made.asm["cubin"]) if target.backend == "cuda" else of_amdgcn(made.asm["amdgcn"])
    )


def of_cubin(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [TOOLS / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("--dump-resource-usage", "-sass")
        )
    found = {
        k.lower(): int(re.search(rf"\b{k}:(\d+)", usage)[1]) for k in ("REG", "STACK", "LOCAL")
    }
    ops = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.MULTILINE)
    return found | {
        "instructions": len(ops) - ops.count("NOP"),
        "memory": [op for op in ops if op.startswith(("LDG", "STG"))],
        "spills": sum(op.startswith(("LDL", "STL")) for op in ops),
    }


def of_amdgcn(text):
    names = ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    found = {k: int(re.search(rf"\.{k}:\s+(\d+)", text)[1]) for k in names}
    ops = re.findall(r"^\s+([a-z]\w+)", text, re.MULTILINE)
    return {
        "reg": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        # scalar registers spill into vector registers, not into memory
        "spills": found["vgpr_spill_count"],
        "instructions": sum(op.startswith("v_") for op in ops),
        "memory": [op for op in ops if re.match("(global|buffer|flat)_(load|store)", op)],
    }


if __name__ == "__main__":
    kind, arch = sys.argv[1].split(":")
    launch.WARP = 32 if kind == "cuda" else 64
    machine = GPUTarget(kind, int(arch) if kind == "cuda" else arch, launch.WARP)
    print(
        json.dumps(
            {case: [figures(*one, machine) for one in launches(case)] for case in sys.argv[2:]}
        )
    )
