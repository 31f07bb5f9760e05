"""The C++ kernels: noise equal to its specification bit for bit, sums to rounding, the same bits
for a sample everywhere."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odesolve.kernels import dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm

native = pytest.importorskip("odesolve.kernels.native")
LONG = os.environ.get("ODESOLVE_LONG") == "1"  # this file is a script, too, and imports no test
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
LAYOUTS = {
    "dense": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "strided": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "batch_last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}
SHAPE = (3, 4, 5, 7)
SHAPES = [
    SHAPE,
    (1, 1, 1, 1),
    (5, 1, 1, 3),
    (2, 3, 19, 23),
    (300, 1, 2, 1),
    (0, 2, 2, 2),
    (2, 0, 1, 1),
]


def normals(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def keys(batch, seed=-3):
    return philox.keys(seed, torch.arange(batch) * 7 + 2**32 - 20)


def combine(outs, ins, *args):
    assert native.combine(outs, ins, *args) is None
    return outs


def formula(ins, weights, base, terms=()):
    """Outputs and the sizes of their terms, in float64."""
    columns = [x.double() for x in [*ins, *terms]]
    for i, b in enumerate(base):
        total = columns[b].clone() if b >= 0 else torch.zeros_like(columns[0])
        size = total.abs()
        for j, x in enumerate(columns):
            w = weights[..., i, j]
            term = x * (w.reshape(-1, *[1] * (x.dim() - 1)) if w.dim() else w)
            total, size = total + term, size + term.abs()
        yield total, size


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 255, 256, 257, 1023, 1025, 4999])
def test_noise_is_the_specification(n):
    where = keys(3, seed=[0, -1, 2**40 + 3][n % 3])
    for stream in (0, 1, -1, 2**31, 2**63 + 5, 2**64 - 1):
        signed = (stream + 2**63) % 2**64 - 2**63
        for kind, want in ("normal", philox.normals), ("rademacher", philox.signs):
            out = torch.empty(3, n)
            assert native.normal(out, where, stream, kind) is None
            assert torch.equal(out, want(where, signed, n)), (stream, kind)


def test_a_stream_for_each_sample():
    streams = torch.tensor([5, -7, 2**62])
    for n in (3, 2000):
        out = torch.empty(3, n)
        assert native.normal(out, keys(6)[::2], streams) is None
        assert torch.equal(out, philox.normals(keys(6)[::2], streams, n))


def test_one_key_for_all_samples():
    out = torch.empty(4, 9, dtype=torch.float64)
    native.normal(out, keys(1).expand(4, 2), 3)
    assert torch.equal(out, philox.normals(keys(1), 3, 9).double().expand(4, 9))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_goes_by_the_logical_element(dtype, layout):
    out = LAYOUTS[layout](torch.empty(SHAPE, dtype=dtype))
    native.normal(out, keys(3), 11)
    assert torch.equal(out, philox.normals(keys(3), 11, 140).reshape(SHAPE).to(dtype))


def test_noise_far_along_a_stream():
    """Tiles start in the middle of a sample: elements are counted from its first."""
    out = torch.empty(2, 70_001)
    native.normal(out, keys(2), 1)
    assert torch.equal(out, philox.normals(keys(2), 1, 70_001))


@settings(
    max_examples=400 if LONG else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    in_types=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=10),
    out_types=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    layouts=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=13, max_size=13),
    shape=st.sampled_from(SHAPES),
    weights=st.sampled_from(["numbers", "tensor", "by sample"]),
    noise=st.sampled_from([0, 1, 2]),
    in_place=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sums_are_right(in_types, out_types, layouts, shape, weights, noise, in_place, seed):
    ins = [
        LAYOUTS[k](normals(*shape, seed=i).to(d))
        for i, (d, k) in enumerate(zip(in_types, layouts, strict=False))
    ]
    outs = [
        LAYOUTS[k](torch.empty(shape, dtype=d))
        for d, k in zip(out_types, layouts[10:], strict=False)
    ]
    kept = [x.clone() for x in ins]
    if in_place:
        outs[-1] = ins[seed % len(ins)]
    types = [t.dtype for t in [*ins, *outs]]
    wide = torch.float64 if torch.float64 in types else torch.float32
    n_out, n_in = len(outs), len(ins)
    w = normals(shape[0], n_out, n_in + noise, seed=seed).to(wide)
    w = w if weights == "by sample" else normals(n_out, n_in + noise, seed=seed).to(wide)
    base = [(seed + i) % (n_in + 1) - 1 for i in range(n_out)]
    streams = [seed, -seed - 1][:noise]
    z = [philox.normals(keys(shape[0]), s, math.prod(shape[1:])).reshape(shape) for s in streams]
    combine(outs, ins, w.tolist() if weights == "numbers" else w, base, keys(shape[0]), streams)
    for out, (want, size) in zip(outs, formula(kept, w.double(), base, z), strict=True):
        last_place = EPS[out.dtype] * want.abs().clamp_min(torch.finfo(out.dtype).tiny)
        allowed = (n_in + noise + 1) * EPS[wide] * size + last_place
        assert bool(((out.double() - want).abs() <= allowed).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_halves_are_rounded_once_to_even(dtype, wide):
    """All halves come back, and numbers just beside the middle of two of them go to the right
    one."""
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = halves[halves.isfinite()].to(wide)[None, :]
    back = torch.empty(x.shape, dtype=dtype)
    combine([back], [x], [[1.0]], [-1])
    assert torch.equal(back, x.to(dtype))
    up = torch.nextafter(back, torch.full_like(back, float("inf"))).to(wide)
    middle = x + (up - x) / 2
    for beside in (middle, torch.nextafter(middle, x), torch.nextafter(middle, up)):
        combine([back], [beside], [[1.0]], [-1])
        near = torch.where((beside - x).abs() < (up - beside).abs(), x, up)
        even = x.to(dtype).view(torch.int16) % 2 == 0
        near = torch.where(beside == middle, torch.where(even, x, up), near)
        finite = up.isfinite() & (x != 0) & (up != 0)
        assert torch.equal(back[finite].to(wide), near[finite])


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan_pass_through(dtype):
    x = torch.tensor([[float("inf"), -float("inf"), float("nan"), 1.0]], dtype=dtype)
    for out in (torch.empty(1, 4, dtype=d) for d in DTYPES):
        combine([out], [x], [[1.0]], [-1])
        assert torch.equal(out.isnan(), torch.tensor([[False, False, True, False]]))
        assert torch.equal(out[:, [0, 1, 3]], x[:, [0, 1, 3]].to(out.dtype))


@pytest.mark.parametrize("by_sample", [False, True])
def test_zero_weights_do_not_read(by_sample):
    good, bad = torch.ones(2, 3), torch.full((2, 3), float("nan"))
    weights = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-0.0, 0.0]])
    outs = [torch.empty(2, 3) for _ in range(3)]
    combine(outs, [good, bad], weights.expand(2, -1, -1) if by_sample else weights, [-1, 0, -1])
    assert [o.unique().tolist() for o in outs] == [[2.0], [1.0], [0.0]]


@pytest.mark.parametrize("n", [5, 700, 3000])
def test_an_output_may_replace_an_input(n):
    """Every output and the error see the old values, wherever in the block the replacement
    stands."""
    a, b = normals(3, n).float(), normals(3, n, seed=1).float()
    weights = [[0.5, 1.0], [1.0, -1.0], [2.0, 0.25]]
    fresh, norm = [torch.empty(3, n) for _ in range(2)], torch.empty(3)
    combine(fresh, [a, b], weights, [0, 1], None, (), ErrorNorm(norm, 1e-3, 1e-4))
    x, y, again = a.clone(), b.clone(), torch.empty(3)
    combine([x, y], [x, y], weights, [0, 1], None, (), ErrorNorm(again, 1e-3, 1e-4))
    assert torch.equal(x, fresh[0])
    assert torch.equal(y, fresh[1])
    assert torch.equal(norm, again)


@pytest.mark.parametrize("shape", [(1,), (5,), ()])
def test_few_dimensions(shape):
    x, out = torch.full(shape, 3.0), torch.empty(shape)
    combine([out], [x], [[2.0]], [0])
    assert torch.equal(out, torch.full(shape, 9.0))


def test_expanded_input():
    row, out = torch.arange(3.0)[None], torch.empty(4, 3)
    combine([out], [row.expand(4, 3), torch.ones(4, 3)], [[2.0, 1.0]], [-1])
    assert torch.equal(out, (2 * row + 1).expand(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 140, 2500])
def test_error_norm(dtype, n):
    ins, norm = (
        [normals(4, n, seed=i).to(dtype) for i in range(3)],
        torch.empty(4, dtype=torch.float64),
    )
    out, w = torch.empty(4, n, dtype=dtype), normals(2, 4, seed=9)
    rtol, atol = torch.rand(4, dtype=torch.float64) + 0.1, 0.01
    combine([out], ins, w, [0], keys(4), [3], ErrorNorm(norm, rtol, atol))
    e, told = torch.empty(4, n, dtype=torch.float64), torch.empty(4, dtype=torch.float64)
    reference.combine([e], ins, w[1:], [-1], keys(4), [3])
    # the scale is that of the output as it is stored
    reference.rms(told, e, ins[0].double(), out.double(), rtol, atol)
    torch.testing.assert_close(norm, told, rtol=1e-12 if dtype == torch.float64 else 2e-6, atol=0)


def solve(batch):
    """One of everything, with samples that must not depend on each other."""
    shape = (len(batch), 3, 33, 37)
    ins = [normals(64, *shape[1:], seed=i).float()[batch] for i in range(3)]
    w, where, norm = normals(64, 3, 5, seed=8)[batch], keys(64)[batch], torch.empty(shape[0])
    outs = [torch.empty(shape), torch.empty(shape, dtype=torch.bfloat16)]
    combine(outs, ins, w, [0, 1], where, [4, 2**40], ErrorNorm(norm, 0.1, 0.2))
    dot, form, top, rms = (torch.empty(shape[0]) for _ in range(4))
    native.inner(dot, ins[0], ins[1])
    native.quadratic_form(form, ins[0], where, 3)
    native.quantile(top, ins[1], 0.9)
    native.rms(rms, ins[0], ins[1], ins[2], 0.1, 0.2)
    return [*outs, norm, dot, form, top, rms]


def test_samples_do_not_depend_on_their_batch():
    whole = solve(torch.arange(64))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    for part in (order, torch.tensor([63]), torch.arange(10, 13)):
        assert all(torch.equal(a, b[part]) for a, b in zip(solve(part), whole, strict=True))


def test_samples_do_not_depend_on_threads():
    one, threads = solve(torch.arange(64)), torch.get_num_threads()
    torch.set_num_threads(2)
    two = solve(torch.arange(64))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_samples_do_not_depend_on_layout():
    x, where = [normals(*SHAPE, seed=i).float() for i in range(3)], keys(3)
    (want,) = combine([torch.empty(SHAPE)], x, normals(1, 4), [1], where, [4])
    for layout in LAYOUTS.values():
        out = layout(torch.empty(SHAPE))
        combine([out], [x[0], layout(x[1]), layout(x[2])], normals(1, 4), [1], where, [4])
        assert torch.equal(out, want)


@functools.cache
def digest():
    """A fingerprint of results that pass through every loop and conversion."""
    results = solve(torch.arange(64))
    for dtype in DTYPES:
        x = [normals(3, 1501, seed=i).to(dtype) for i in range(12)]
        for k in range(1, 13):
            outs = [torch.empty(3, 1501, dtype=d) for d in DTYPES]
            results += combine(outs, x[:k], normals(4, k), [0, -1, 0, -1])
        dot, out, residual = torch.empty(3), torch.empty(3, 1, 1501, dtype=dtype), torch.empty(3, 1)
        native.inner(dot, x[0], x[1])
        native.window(
            out, residual, x[0][:1], x[1][:, None], [x[2][:, None]], normals(3, 1), normals(3)
        )
        results += [dot, out, residual]
    data = b"".join(r.contiguous().view(torch.uint8).numpy().tobytes() for r in results)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "isa",
    ["baseline"] + [pytest.param("avx2", marks=pytest.mark.long)] * (native.ISA != "baseline"),
)
def test_every_instruction_set_gives_the_same_bits(isa):
    env = {**os.environ, "ODESOLVE_ISA": isa}
    done = subprocess.run(
        [sys.executable, __file__], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [isa, digest()]


def test_python_threads_may_call_at_once():
    x = [normals(1, 40_000, seed=i).float() for i in range(4)]
    wanted = [
        combine([torch.empty(1, 40_000)], [a], [[2.0, 1.0]], [-1], keys(1), [i])[0]
        for i, a in enumerate(x)
    ]
    wrong = []

    def work(i):
        for _ in range(50):
            (got,) = combine([torch.empty(1, 40_000)], [x[i]], [[2.0, 1.0]], [-1], keys(1), [i])
            if not torch.equal(got, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_dispatch_uses_it_on_the_cpu():
    assert dispatch.implementation("combine", "cpu") is native.combine


def memory_free():
    """Bytes that may be taken without swapping, 0 where nobody says."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 0


@pytest.mark.long
@pytest.mark.skipif(memory_free() < 14e9, reason="takes 10 GB, and the machine must stay usable")
def test_more_elements_than_32_bits_count():
    n = 2**31 + 4099
    x, out = torch.zeros(1, n, dtype=torch.bfloat16), torch.zeros(1, n, dtype=torch.bfloat16)
    marks = torch.tensor([0, 2**31 - 1, 2**31, n - 1])
    x[0, marks] = torch.tensor([1.0, 2.0, 3.0, 4.0]).bfloat16()
    combine([out], [x], [[2.0]], [0])
    assert out[0, marks].tolist() == [3.0, 6.0, 9.0, 12.0]
    assert out.count_nonzero() == 4
    native.normal(out, keys(1), 5)
    first = n // 4 * 4
    assert torch.equal(out[0, first:], quad_of(keys(1)[0], 5, first // 4)[: n - first].bfloat16())


def quad_of(key, stream, quad):
    """The four normals of one counter."""
    low = [torch.tensor([x & 0xFFFFFFFF]) for x in (quad, key[1].item(), stream, stream >> 32)]
    seed = key[0].item()
    words = philox.philox(
        tuple(low), (torch.tensor([seed & 0xFFFFFFFF]), torch.tensor([seed >> 32 & 0xFFFFFFFF]))
    )
    return torch.cat(
        [philox.box_muller(words[0], words[1]), philox.box_muller(words[2], words[3])], dim=1
    )[0]


if __name__ == "__main__":
    print(native.ISA, digest())
