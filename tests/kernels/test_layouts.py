"""Every op on tensors of any layout and type, against the reference on dense float64 copies of
them.

The suite tries a few hundred cases. Many more, so many in all and no two runs alike:

    ODESOLVE_LAYOUT_CASES=20000 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 0
    tests/kernels/test_layouts.py

The Triton kernels are checked by this same file in a process of its own, which interprets them.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from odesolve.kernels import control, philox, reference
from odesolve.kernels.reference import ErrorNorm

from tests.products import LONG

from .layouts import Case, dense

INTERPRETED = os.environ.get("ODESOLVE_BACKEND") == "triton"
BACKENDS = ["triton.backend"] if INTERPRETED else ["native", "reference"]
FEW = 18 if INTERPRETED else 225
CASES = int(os.environ.get("ODESOLVE_LAYOUT_CASES", 2 * FEW if LONG else FEW))
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
LARGEST = 6.67  # no normal number is larger


def close(got, want, error):
    """Within ``error`` (the rounding of what was summed) and one rounding to the type of what was
    written."""
    tiny = torch.finfo(got.dtype).tiny
    allowed = error + EPS[got.dtype] * want.abs().clamp_min(tiny)
    assert bool(((got.double() - want).abs() <= allowed).all())


def step(*tensors):
    """The rounding of one sum in the type in which tensors like these are added."""
    return EPS[torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32]


def sizes(table):
    return torch.as_tensor(table, dtype=torch.float64).abs()


def check_combine(case, run):
    shape = case.shape()
    batch, count = shape[0], case.number(1, 4)
    streams = [case.number(0, 9) for _ in range(case.number(0, 2))]
    error = case.one_of((False, False, True))
    ins = [case.tensor(shape) for _ in range(count)]
    outs = [case.output(shape) for _ in range(case.number(1, 3))]
    if case.one_of((True, False)):
        ins[-1] = outs[case.number(0, len(outs) - 1)]
    base = [case.number(-1, count - 1) for _ in outs]
    weights, keys = case.weights(batch, len(outs) + error, count + len(streams)), case.keys(batch)
    norm = ErrorNorm(case.output((batch,)), case.scale(batch), case.scale(batch)) if error else None
    given_, table = dense(ins), dense(weights) if isinstance(weights, torch.Tensor) else weights
    run("combine", outs, ins, weights, base, keys, streams, norm)
    rows = torch.as_tensor(table, dtype=torch.float64)
    rows, size = rows.tolist() if rows.dim() == 2 else rows, sizes(table)
    want, bound = (
        [torch.empty(shape, dtype=torch.float64) for _ in range(len(outs) + error)]
        for _ in range(2)
    )
    base = [*base, -1] if error else base
    reference.combine(want, given_, rows, base, keys, streams)
    absolute = size[..., :count]
    reference.combine(
        bound, [x.abs() for x in given_], absolute if size.dim() == 3 else absolute.tolist(), base
    )
    unit = (count + len(streams) + 2) * step(*ins, *outs)
    for i, b in enumerate(bound):
        drawn = LARGEST * size[..., i, count:].sum(-1)
        b += drawn.reshape(-1, *[1] * (len(shape) - 1)) if drawn.dim() else drawn
        if i < len(outs):
            close(outs[i], want[i], unit * b)
    if error:
        told, slack = (torch.empty(batch, dtype=torch.float64) for _ in range(2))
        tolerances = [dense(s) if isinstance(s, torch.Tensor) else s for s in norm[1:]]
        reference.rms(told, want[-1], given_[0], outs[0].double(), *tolerances)
        reference.rms(slack, unit * bound[-1], given_[0], outs[0].double(), *tolerances)
        close(norm.out, told, slack + unit * told)


def check_normal(case, run):
    shape = case.shape()
    out, keys, stream = case.output(shape), case.keys(shape[0]), case.stream(shape[0])
    kind = case.one_of(("normal", "rademacher"))
    draw = philox.normals if kind == "normal" else philox.signs
    run("normal", out.fill_(torch.nan), keys, stream, kind)
    want = draw(keys, stream, torch.Size(shape[1:]).numel()).reshape(shape).to(out.dtype)
    if INTERPRETED and out.dtype == torch.bfloat16:  # cut off there
        close(out, want.double(), 0.0)
    else:
        assert torch.equal(out, want)


def check_normal_sums(case, run):
    shape, terms = case.shape(), case.number(0, 6)
    batch = shape[0]
    outs = [case.output(shape) for _ in range(case.number(1, 3))]
    keys, weights = case.keys(batch), case.weights(batch, len(outs), terms)
    streams = case.one_of(("list", "tensor", "samples"))
    streams = (
        case.streams(*([batch] if streams == "samples" else []), terms)
        if streams != "list"
        else [*range(terms)]
    )
    add, before = case.one_of((True, False)), dense(outs)
    table = dense(weights) if isinstance(weights, torch.Tensor) else weights
    run("normal_sums", outs, keys, streams, weights, add)
    want = [x.clone() for x in before]
    reference.normal_sums(want, keys, streams, table, add)
    for i, (out, value) in enumerate(zip(outs, want, strict=True)):
        size = LARGEST * sizes(table)[..., i, :].sum(-1)
        size = size.reshape(-1, *[1] * (len(shape) - 1)) if size.dim() else size
        close(out, value, (terms + 1) * step(*outs) * (size + before[i].abs() * add))


def check_rms(case, run):
    shape = case.shape()
    tensors, out = [case.tensor(shape) for _ in range(3)], case.output(shape[:1])
    rtol, atol = case.scale(shape[0]), case.scale(shape[0])
    run("rms", out, *tensors, rtol, atol)
    want = torch.empty(shape[0], dtype=torch.float64)
    reference.rms(
        want,
        *dense(tensors),
        *(dense(s) if isinstance(s, torch.Tensor) else s for s in (rtol, atol)),
    )
    close(out, want, 6 * step(*tensors) * want)


def check_inner(case, run):
    shape = case.shape()
    a, b, out = case.tensor(shape), case.tensor(shape), case.output(shape[:1])
    weight, add, before = case.scale(shape[0]), case.one_of((True, False)), None
    before = dense(out)
    run("inner", out, a, b, weight, add)
    want, size = before.clone(), before.abs()
    w = dense(weight) if isinstance(weight, torch.Tensor) else weight
    reference.inner(want, *dense([a, b]), w, add)
    reference.inner(size, *(x.abs() for x in dense([a, b])), w, add)
    close(out, want, 1e-12 * size)


def check_quadratic_form(case, run):
    shape = case.shape()
    v, out, keys, stream = (
        case.tensor(shape),
        case.output(shape[:1]),
        case.keys(shape[0]),
        case.stream(shape[0]),
    )
    kind, weight, add = (
        case.one_of(("normal", "rademacher")),
        case.scale(shape[0]),
        case.one_of((True, False)),
    )
    before = dense(out)
    run("quadratic_form", out, v, keys, stream, kind, weight, add)
    want, size = before.clone(), before.abs()
    w = dense(weight) if isinstance(weight, torch.Tensor) else weight
    reference.quadratic_form(want, dense(v), keys, stream, kind, w, add)
    reference.inner(size, dense(v).abs(), torch.full(shape, LARGEST), w, add)
    close(out, want, 1e-12 * size)


def check_quantile(case, run):
    shape = case.shape()
    if torch.Size(shape[1:]).numel() == 0:
        shape = (*shape[:1], 2)
    x, out, q = case.tensor(shape), case.output(shape[:1]), case.one_of((0.0, 0.3, 0.5, 0.995, 1.0))
    run("quantile", out, x, q)
    want = torch.empty(shape[0], dtype=torch.float64)
    reference.quantile(want, dense(x), q)
    close(out, want, 3 * step(x) * dense(x).abs().flatten(1).amax(1) if x.dim() > 1 else 0.0)


def check_window(case, run):
    points, (batch, *sample) = case.number(1, 3), case.shape()
    shape, noisy = (points, batch, *sample), case.one_of((True, False))
    out, residual, origin = case.output(shape), case.output((points, batch)), case.tensor(shape[1:])
    old = out if case.one_of((True, False)) else case.tensor(shape)
    ins = [case.tensor(shape) for _ in range(case.number(1, 3))]
    each = [batch] if case.one_of((True, False)) else []
    weights, growth = case.table(points, *each, len(ins) + noisy), case.table(points, *each)
    keys, streams = (case.keys(batch), case.streams(points, *each)) if noisy else (None, None)
    start, before, given_, tables = dense(origin), dense(old), dense(ins), dense([weights, growth])
    run("window", out, residual, origin, old, ins, weights, growth, keys, streams)
    want, size = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
    moved, unused = (torch.empty(points, batch, dtype=torch.float64) for _ in range(2))
    reference.window(want, moved, start, before, given_, *tables, keys, streams)
    drawn = [torch.full(shape, LARGEST, dtype=torch.float64)] * noisy
    absolute = (
        [x.abs() for x in (start, before)],
        [x.abs() for x in (*given_, *drawn)],
        [x.abs() for x in tables],
    )
    reference.window(size, unused, *absolute[0], absolute[1], *absolute[2])
    error = points * (len(ins) + 5) * step(out, origin, *ins) * size
    close(out, want, error)
    move = ((want - before).abs() * 2 + error) * (error + step(out, origin, *ins) * before.abs())
    mean = move.reshape(points, batch, torch.Size(sample).numel()).sum(2) / max(
        1, torch.Size(sample).numel()
    )
    close(residual, moved, mean + 1e-12 * moved)


def check_control(case, run):
    batch, stages, columns = case.number(0, 5), case.number(1, 4), case.number(1, 5)
    state, norm, weights = (
        case.output((control.ROWS, batch), torch.float64),
        case.tensor((batch,), torch.float64),
        None,
    )
    weights = case.output((batch, columns), torch.float64)
    times, table = case.output((stages, batch)), torch.zeros(2, columns, dtype=torch.float64)
    state.abs_()
    state[control.STATUS] = torch.arange(batch) % 2 * (torch.arange(batch) % 3)
    state[control.TOOK] = torch.arange(batch) % 2
    state[control.END], state[control.SHORTEST] = 9.0, 0.0
    table[0], table[1] = torch.randn(columns).double(), torch.arange(columns) % 8
    nodes = torch.linspace(0, 1, stages, dtype=torch.float64)
    limits = [0.2, 0.1, 0.0, 0.2, 0.9, 0.2, 10.0, case.one_of((0.0, 0.8)), 1e-4, 5.0, 99.0, 6.0]
    given_ = [norm.abs(), table, nodes, torch.tensor(limits, dtype=torch.float64)]
    wanted = [
        state.clone(memory_format=torch.contiguous_format),
        *(torch.zeros(*x.shape).double() for x in (weights, times)),
    ]
    begin = case.one_of((True, False))
    run("control", state, given_[0], weights, times, *given_[1:], begin)
    reference.control(wanted[0], given_[0], *wanted[1:], *given_[1:], begin)
    for got, want in zip((state, weights, times), wanted, strict=True):
        close(got, want, 1e-6 * want.abs() + 1e-7)


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
# What a kernel may leave to the reference: tables that do not lie in order, and a narrow window
# beside wide old values.
LEFT = {"control", "window"} | ({"quantile", *CHECKS} if INTERPRETED else set())


@pytest.mark.few(2)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", CHECKS)
def test_any_layout(op, backend):
    module, cases = pytest.importorskip(f"odesolve.kernels.{backend}"), -(-CASES // len(CHECKS))

    def run(name, *args):
        done = getattr(module, name, lambda *_: False)(*args)
        assert done is None or name in LEFT
        if done is False:
            getattr(reference, name)(*args)

    @settings(
        max_examples=max(1, cases if backend != "reference" else cases // 4),
        deadline=None,
        derandomize="ODESOLVE_LAYOUT_CASES" not in os.environ,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data):
        case = Case(data)
        CHECKS[op](case, run)
        assert case.nothing_else_was_written()

    one()
