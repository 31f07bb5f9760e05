"""The Triton kernels against the reference, in Triton's interpreter. test_triton_interpreter.py
runs this file with TRITON_INTERPRET=1 set, which must be there before triton is imported. A program
costs milliseconds: few of them a launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from odesolve.kernels import dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm
from odesolve.kernels.triton import backend, combine, launch

from tests.products import LONG, diagonal

from . import triton_traces

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# One rounding of the output; bfloat16 is cut off, not rounded, when the interpreter stores it.
ULP = {
    torch.float64: 1e-15,
    torch.float32: 2.0**-22,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
STREAMS = (3, 2**63 + 7, 2**40, 5)


def tensors(count, shape, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=g).to(dtype) for _ in range(count)]


def rows(*shape, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def keys(batch, seed=2**63 + 11):
    return philox.keys(seed, 2**32 - 1 - torch.arange(batch))


def close(got, want, scale=1.0):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    size = scale * want.double().abs().amax() if want.numel() else 0.0
    assert (
        float((got.double() - want.double()).abs().amax() if want.numel() else 0.0)
        <= 8 * ULP[got.dtype] * size + 1e-30
    )


def both(outs, ins, weights, base, noise=None, streams=(), error=False):
    """What the kernel and the reference write into outputs like these."""
    results = []
    for op in (backend.combine, reference.combine):
        new = [torch.empty_like(o).fill_(float("nan")) for o in outs]
        norm = torch.full((outs[0].shape[0],), float("nan")) if error else None
        assert (
            op(
                new,
                ins,
                weights,
                base,
                noise,
                streams,
                ErrorNorm(norm, 1e-2, 1e-3) if error else None,
            )
            is None
        )
        results.append([*new, *([norm] if error else [])])
    return results


def check(*args, **kwargs):
    for got, want in zip(*both(*args, **kwargs), strict=True):
        close(got, want, scale=4.0)


@pytest.mark.parametrize(
    "shape",
    [(3, 2, 7, 5), (1, 2100), (1, 1), (5,), (), (0, 3), (3, 0)] + [(2, 37), (2, 1040)] * LONG,
)
def test_shapes(shape):
    ins = tensors(3, shape)
    check(ins[:2], ins, rows(2, 3).tolist(), [0, -1])
    if shape:
        check(
            ins[:2],
            ins,
            rows(2 + (len(shape) > 1), 5).tolist(),
            [2, 1],
            keys(shape[0]),
            STREAMS[:2],
            error=len(shape) > 1,
        )


@pytest.mark.parametrize(
    ("n_out", "n_in", "streams"), [(8, 12, 2), (3, 2, 4)] + [(1, 1, 0), (2, 6, 1)] * LONG
)
def test_sizes_of_blocks(n_out, n_in, streams):
    ins = tensors(n_in, (2, 40))
    base = [i % (n_in + 1) - 1 for i in range(n_out)]
    check(
        ins[:1] * n_out, ins, rows(n_out, n_in + streams).tolist(), base, keys(2), STREAMS[:streams]
    )


@pytest.mark.parametrize("wide", [0, 1])
def test_any_mix_of_float_types(wide):
    kinds = DTYPES[wide:]
    ins = [x.to(d) for x, d in zip(tensors(len(kinds), (2, 50)), kinds, strict=True)]
    outs = [torch.empty(2, 50, dtype=d) for d in kinds]
    base = [0, -1, 1, 2][: len(kinds)]
    check(outs, ins, rows(len(kinds), len(kinds) + 1).tolist(), base, keys(2), STREAMS[:1])


@pytest.mark.parametrize("kind", ["single", "strided"] + ["double", "expanded"] * LONG)
def test_weights_of_each_sample(kind):
    ins, w = tensors(3, (3, 40)), rows(3, 2, 4)
    given = {
        "double": w,
        "single": w.float(),
        "expanded": w[:1].expand(3, 2, 4),
        "strided": rows(3, 2, 8)[..., ::2],
    }
    check(ins[:2], ins, given[kind], [0, 1], keys(3), STREAMS[:1])
    check(ins[:2], ins, given[kind], [0, 1], keys(3), STREAMS[:1], error=False)


def layouts(x):
    wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., ::2] = x
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    apart = (
        torch.empty(x.shape[0], x[0].numel() + 16, dtype=x.dtype)[:, : x[0].numel()]
        .view(x.shape)
        .copy_(x)
    )
    return {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "batch_inside": x.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": wide[..., ::2],
        "shifted": shifted,
        "apart": apart,
        "expanded": x[:1].expand(x.shape),
    }


LAYOUTS = ["channels_last", "transposed", "strided", "shifted", "expanded"]
LAYOUTS += ["batch_inside", "apart"] * LONG


@pytest.mark.parametrize(("layout", "noisy"), diagonal(LAYOUTS, [False, True]))
def test_layouts(layout, noisy):
    """The numbers of a stream go by the logical index; a norm has the same bits in every layout of
    its inputs."""
    ins = tensors(3, (2, 4, 3, 4))
    extra = (keys(2), STREAMS[:1]) if noisy else (None, ())
    w = rows(3, 3 + noisy).tolist()
    if layout == "expanded":
        check(
            ins[:2],
            [ins[0], *(layouts(x)[layout] for x in ins[1:])],
            w,
            [1, -1],
            *extra,
            error=True,
        )
        return
    odd = [layouts(x)[layout] for x in ins]
    plain, _ = both(ins[:2], ins, w, [1, -1], *extra, error=True)
    for outs, given in (
        (odd[:2], odd),
        (odd[:2], ins),
        (ins[:2], odd),
        ([odd[0], ins[1]], [odd[0], ins[1], odd[2]]),
    ):
        got, want = both(outs, given, w, [1, -1], *extra, error=True)
        for a, b, c in zip(got, want, plain, strict=True):
            close(a, b, scale=4.0)
            assert torch.equal(a, c) or (a.dim() == 1 and given[0].stride() != ins[0].stride())


@pytest.mark.parametrize("gap", [2**31 + 16, 2**31 + 7])
def test_samples_more_than_2_to_the_31_elements_apart(gap):
    """Memory that is mostly never touched: only its addresses count."""
    memory = torch.from_numpy(np.empty(gap + 64, np.float16))
    far = memory.as_strided((2, 48), (gap, 1))
    near = tensors(1, (2, 48), torch.float16)[0]
    far.copy_(near)
    out = torch.empty(2, 48)
    backend.combine([out], [far], [[2.0, 1.0]], [-1], keys(2), STREAMS[:1])
    close(out, 2.0 * near.float() + philox.normals(keys(2), STREAMS[0], 48))
    backend.combine([far], [near], [[2.0]], [0])
    assert torch.equal(far, 3.0 * near)


def test_noise_has_the_bits_of_the_specification():
    """Alone, drawn by the side of others, in a block of outputs, and after many streams."""
    x, noise = torch.zeros(3, 1301), keys(3)
    want = [philox.normals(noise, s, 1301) for s in STREAMS]
    for count in (1, 4):
        outs = [torch.empty_like(x) for _ in range(count)]
        backend.combine(outs, [x], torch.eye(count + 1)[1:], [-1] * count, noise, STREAMS[:count])
        assert all(torch.equal(a, b) for a, b in zip(outs, want, strict=False))


def test_a_sample_has_the_same_bits_in_any_batch():
    ins, noise, w = tensors(3, (5, 1301)), keys(5), rows(5, 3, 4)

    def run(part):
        outs, norm = [torch.empty_like(x[part]) for x in ins[:2]], torch.empty(len(noise[part]))
        some = [x[part] for x in ins]
        backend.combine(
            outs, some, w[part], [0, -1], noise[part], STREAMS[:1], ErrorNorm(norm, 1e-2, 1e-3)
        )
        return [*outs, norm]

    whole = run(slice(None))
    for part in (slice(0, 2), slice(2, 5), slice(3, 4)):
        assert all(torch.equal(a, b[part]) for a, b in zip(run(part), whole, strict=True))


@pytest.mark.parametrize("n", [40, 2100] if LONG else [40])
def test_an_output_may_be_an_input(n):
    """Also where buffers change places, and where another output needs the old value."""
    ins = tensors(3, (2, n))
    for weights, base in (
        (rows(3, 4), [0, -1, 1]),
        (torch.zeros(3, 4, dtype=torch.float64), [1, 0, 0]),
    ):
        want = [torch.empty_like(x) for x in ins]
        backend.combine(want, ins, weights, base, keys(2), STREAMS[:1])
        first, second, third = (x.clone() for x in ins)
        outs = [second, torch.empty_like(first), first]
        backend.combine(outs, [first, second, third], weights, base, keys(2), STREAMS[:1])
        assert all(torch.equal(a, b) for a, b in zip(outs, want, strict=True))
        assert torch.equal(third, ins[2])


@pytest.mark.parametrize("kind", ["floats", "tensor", "samples"])
def test_zero_weights_do_not_read(kind):
    good, bad = torch.ones(2, 3), torch.full((2, 3), float("nan"))
    outs = [torch.empty(2, 3) for _ in range(3)]
    weights = [[2.0, 0.0], [0.0, 0.0], [-0.0, 0.0]]
    tensor = torch.tensor(weights, dtype=torch.float64)
    given = {"floats": weights, "tensor": tensor, "samples": tensor.expand(2, 3, 2)}[kind]
    backend.combine(outs, [good, bad], given, [-1, 0, -1])
    assert [o.unique().tolist() for o in outs] == [[2.0], [1.0], [0.0]]
    backend.combine(outs, [good, bad], [[1.0, 0.0]] * 3, [-1, 0, 1])
    assert bool(outs[2].isnan().all())
    assert [o.unique().tolist() for o in outs[:2]] == [[1.0], [2.0]]


def test_error_norm_of_what_is_not_finite_and_with_tolerances_of_each_sample():
    ins, w = tensors(2, (3, 40)), rows(2, 2)
    ins[0][1, 7] = float("nan")
    tolerances = (
        torch.tensor([1e-2, 1e-3, 1e-1]),
        torch.tensor([1e-3, 1e-2, 1e-3], dtype=torch.float64),
    )
    norms = []
    for op in (backend.combine, reference.combine):
        norm, out = torch.empty(3, dtype=torch.float64), torch.empty_like(ins[0])
        op([out], ins, w, [0], None, (), ErrorNorm(norm, *tolerances))
        norms.append(norm)
    assert norms[0].isnan().tolist() == [False, True, False]
    torch.testing.assert_close(*norms, rtol=1e-5, atol=0, equal_nan=True)


def graph_tables():
    """Six outputs of which some are left alone, seven inputs, one stream, in three rows."""
    w, codes = (
        rows(3, 6, 8),
        torch.tensor([[0, -1, 2, -2, 4, -1, 9], [-2] * 6 + [3], [-1, 0, 6, 6, -2, 5, 2**62]]),
    )
    w[0, :, 3], w[0, 1] = 0.0, 0.0
    w[2, :, 7] = 0.0
    return w, codes


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_row_of_a_table(row):
    """In place, as a captured graph runs it: inputs that no output needs hold NaN."""
    w, codes = graph_tables()
    results = []
    for op in (backend.combine_row, reference.combine_row):
        states = tensors(5, (2, 300))
        if row == 0:
            states[3].fill_(float("nan"))
        outs = [*states, torch.full((2, 300), float("nan")).bfloat16()]
        outputs = [x.bfloat16() for x in tensors(2, (2, 300), seed=1)]
        op(outs, [*states, *outputs], w, codes, torch.tensor([row]), keys(2))
        results.append(outs)
    untouched = [i for i in range(6) if codes[row, i] == -2]
    for i, (got, want) in enumerate(zip(*results, strict=True)):
        assert torch.equal(got.isnan(), want.isnan())
        if i in untouched:
            assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
        close(got.nan_to_num(), want.nan_to_num(), scale=4.0)


def test_a_row_equals_the_block_of_the_same_numbers():
    w, codes = rows(2, 2, 4), torch.tensor([[0, -1, 5], [1, 2, 6]])
    ins = tensors(3, (2, 70))
    for row in (0, 1):
        a, b = ([torch.empty_like(x) for x in ins[:2]] for _ in range(2))
        backend.combine_row(a, ins, w, codes, torch.tensor([row]), keys(2))
        backend.combine(b, ins, w[row], codes[row, :2].tolist(), keys(2), codes[row, 2:].tolist())
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_what_has_no_kernel_is_left_alone():
    x, out = torch.ones(2, 3), torch.full((2, 3), 7.0)
    for outs, ins, w, base, more in (
        ([out] * 9, [x], [[1.0]] * 9, [-1] * 9, ()),
        ([out], [x] * 13, [[1.0] * 13], [-1], ()),
        ([out], [x.int()], [[1.0]], [-1], ()),
        ([out], [torch.ones(3, 2)], [[1.0]], [-1], ()),
        ([out], [x], [[1.0, 1.0]], [-1], ()),
        ([out], [x], torch.ones(3, 1, 1), [-1], ()),
        ([out], [x], [[1.0, 1.0]], [-1], (None, (3,))),
        ([out], [x], [[1.0, 1.0]], [-1], (keys(3), (3,))),
        ([out], [torch._neg_view(x)], [[1.0]], [-1], ()),
    ):
        assert backend.combine(outs, ins, w, base, *more) is False
    assert backend.normal(out.int(), keys(2), 3) is False
    assert bool((out == 7.0).all())


@pytest.mark.parametrize(("dtype", "kind"), diagonal(DTYPES, ["normal", "rademacher"]))
def test_normal(kind, dtype):
    noise = keys(3)
    draw = philox.normals if kind == "normal" else philox.signs
    for shape in ((3, 2, 5, 7), (3, 1301)):
        want = draw(noise, 2, torch.Size(shape[1:]).numel()).reshape(shape).to(dtype)
        out = torch.empty(shape, dtype=dtype)
        for target in (out, layouts(out)["channels_last"] if len(shape) == 4 else out):
            backend.normal(target.fill_(float("nan")), noise, 2, kind)
            close(target, want) if dtype == torch.bfloat16 else torch.testing.assert_close(
                target, want, rtol=0, atol=0
            )
    streams = torch.tensor([5, 0, 2**40])
    backend.normal(out := torch.empty(3, 10), noise, streams, kind)
    assert torch.equal(out, draw(noise, streams, 10))


SHAPES = [(3, 1301), (3, 4, 2, 2), (2, 0), (0, 3)]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    diagonal(DTYPES, SHAPES, hard=[(dtype, SHAPES[1]) for dtype in DTYPES]),
)
def test_reductions(shape, dtype):
    a, b, c = tensors(3, shape, dtype)
    weight = rows(shape[0])
    for name, args in (
        ("rms", (a, b, c, 1e-2, 1e-3)),
        ("inner", (a, b)),
        ("inner", (a, b, weight, True)),
        ("quadratic_form", (a, keys(shape[0]), 3)),
        ("quadratic_form", (a, keys(shape[0]), 3, "normal", 0.5, True)),
    ):
        outs = [torch.ones(shape[0], dtype=torch.float64) for _ in range(2)]
        getattr(backend, name)(outs[0], *args)
        getattr(reference, name)(outs[1], *args)
        # the reference rounds the ratio to half precision
        half = a.element_size() < 4 and name == "rms"
        torch.testing.assert_close(*outs, rtol=2e-2 if half else 3e-6, atol=1e-4)


@pytest.mark.parametrize("n", [1301, 1040] if LONG else [1301])
def test_reductions_have_the_same_bits_in_any_batch_and_layout(n):
    a, b, c = tensors(3, (4, n))
    noise = keys(4)

    def run(part, change=lambda x: x):
        x, y, z = (change(t[part]) for t in (a, b, c))
        outs = [torch.empty(len(x)) for _ in range(3)]
        backend.rms(outs[0], x, y, z, 1e-2, 1e-3)
        backend.inner(outs[1], x, y)
        backend.quadratic_form(outs[2], x, noise[part], 3)
        return outs

    whole = run(slice(None))
    for part, change in (
        (slice(1, 3), lambda x: x),
        (slice(1, 4), lambda x: torch.cat([x, x], 1)[:, :n]),
    ):
        assert all(torch.equal(p, w[part]) for p, w in zip(run(part, change), whole, strict=True))


def test_tables_are_uploaded_once():
    x, out = torch.ones(2, 3), torch.empty(2, 3)
    backend.combine([out], [x], [[0.123]], [0])
    before = launch._copies.cache_info().misses
    for _ in range(3):
        backend.combine([out], [x], [[0.123]], [0])
    assert launch._copies.cache_info().misses == before
    assert launch.table((1, 2), torch.int64, x.device) is launch.table(
        (1, 2), torch.int64, x.device
    )


def test_tuning_tries_blocks_and_changes_no_result(monkeypatch):
    """With a made-up timer. A trial runs the kernel, which must not be felt by an output that is an
    input."""
    trials = []

    def timer(call, quantiles=None):
        call()
        trials.append(call)
        return [abs(len(trials) - 3.0)] * 3  # the third is the best

    monkeypatch.setattr(launch, "AUTOTUNE", True)
    monkeypatch.setattr(launch, "BENCH", timer)
    ins = tensors(2, (2, 300))
    want = [2.0 * ins[0] + ins[1] + ins[0], philox.normals(keys(2), 3, 300)]
    for _ in range(2):
        x, z = ins[0].clone(), torch.empty(2, 300)
        backend.combine([x], [x, ins[1]], [[2.0, 1.0]], [0])
        backend.normal(z, keys(2), 3)
        torch.testing.assert_close(x, want[0])
        assert torch.equal(z, want[1])
    assert len(trials) == 2 * len(launch.CONFIGS)
    tuner = backend._combine.tuners[("y0",)]
    assert tuner.best_config.kwargs["BLOCK"] == launch.CONFIGS[2][0]


def test_the_op_that_inductor_opens():
    assert all(triton_traces.values())


def test_it_serves_the_ops_when_asked_for():
    """The public forms come here under ODESOLVE_BACKEND=triton."""
    assert backend.refusal() == ""
    assert dispatch.backend().devices["cpu"] == "triton"
    calls = []
    original = backend._combine.start
    backend._combine.start = lambda *args: (calls.append(args), original(*args))
    try:
        dispatch.combine([out := torch.empty(2, 3)], [torch.ones(2, 3)], [[2.0]], [0])
    finally:
        del backend._combine.start
    assert len(calls) == 1
    assert out.unique().tolist() == [3.0]
    assert combine.MAX_OUT == 8
