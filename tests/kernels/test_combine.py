"""The reference combine against a formula in float64: outs[i] = ins[base[i]] + sum_j weights[i][j]
ins[j]."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odesolve.kernels import dispatch, philox
from odesolve.kernels.reference import combine

SIZES = list(product((1, 2, 3, 4), (1, 2, 3, 4, 5, 6)))
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}


def formula(ins, weights, base):
    """(B, ...) outputs and the sizes of the terms behind them, in float64, one element at a
    time."""
    ins = [x.double() for x in ins]
    outs, sizes = [], []
    for i, b in enumerate(base):
        total = ins[b].clone() if b >= 0 else torch.zeros_like(ins[0])
        size = total.abs()
        for j, x in enumerate(ins):
            w = torch.as_tensor(weights, dtype=torch.float64)[..., i, j]
            term = w.reshape(-1, *[1] * (x.dim() - 1)) * x if w.dim() else w * x
            total, size = total + term, size + term.abs()
        outs.append(total)
        sizes.append(size)
    return outs, sizes


def check(outs, ins, weights, base):
    """Every output is within rounding of the formula: a few ulps of the wide sum, one ulp of the
    output's own type."""
    wide = torch.float64 if any(t.dtype == torch.float64 for t in [*outs, *ins]) else torch.float32
    for out, want, size in zip(outs, *formula(ins, weights, base), strict=True):
        allowed = (len(ins) + 2) * EPS[wide] * size + EPS[out.dtype] * want.abs().clamp_min(
            torch.finfo(out.dtype).tiny
        )
        assert bool(((out.double() - want).abs() <= allowed).all())


def tensors(n, shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=g).to(dtype) for _ in range(n)]


def rows(n_out, n_in, seed=1):
    return torch.randn(
        n_out, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize(("n_out", "n_in"), SIZES)
def test_every_block_size(n_out, n_in):
    ins, weights = tensors(n_in, (2, 3, 5)), rows(n_out, n_in)
    base = [i % (n_in + 1) - 1 for i in range(n_out)]  # -1, 0, 1, ...
    for given_weights in (weights.tolist(), weights, weights.expand(2, -1, -1)):
        outs = [torch.empty_like(ins[0]) for _ in range(n_out)]
        combine(outs, ins, given_weights, base)
        check(outs, ins, weights, base)


@pytest.mark.parametrize("n_out", [1, 3])
def test_weights_for_each_sample(n_out):
    ins = tensors(4, (5, 2, 3))
    weights = torch.randn(
        5, n_out, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    base = [1, -1, 0][:n_out]
    outs = [torch.empty_like(ins[0]) for _ in range(n_out)]
    combine(outs, ins, weights, base)
    check(outs, ins, weights, base)
    for k in range(5):  # sample k alone gives sample k of the batch, to the last bit
        alone = [torch.empty_like(x[k : k + 1]) for x in outs]
        combine(alone, [x[k : k + 1] for x in ins], weights[k : k + 1], base)
        assert all(torch.equal(a[0], o[k]) for a, o in zip(alone, outs, strict=True))


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    in_types=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    out_types=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    per_sample=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_mix_of_float_types(in_types, out_types, per_sample, seed):
    ins = [
        x.to(d) for x, d in zip(tensors(len(in_types), (3, 7), seed=seed), in_types, strict=True)
    ]
    weights = rows(len(out_types), len(in_types), seed)
    base = [seed % (len(ins) + 1) - 1] * len(out_types)
    outs = [torch.empty(3, 7, dtype=d) for d in out_types]
    combine(outs, ins, weights.expand(3, -1, -1) if per_sample else weights.tolist(), base)
    assert [o.dtype for o in outs] == out_types
    narrow = (
        weights.float().double()
        if per_sample and torch.float64 not in [*in_types, *out_types]
        else weights
    )
    check(outs, ins, narrow, base)


def test_half_inputs_are_summed_in_float32_and_rounded_once():
    ins = [torch.full((1, 1), v, dtype=torch.bfloat16) for v in (256.0, 1.0, 1.0)]
    single, half = torch.empty(1, 1), torch.empty(1, 1, dtype=torch.bfloat16)
    combine([single, half], ins, [[1.0, 1.0, 1.0]] * 2, [-1, -1])
    assert (single.item(), half.item()) == (258.0, 258.0)  # 256 + 1 would be 256 again in bfloat16


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1,), (4,), (), (2, 3, 8, 8), (1, 1, 1, 1)])
def test_any_shape_even_empty(shape):
    ins = tensors(3, shape)
    outs = [torch.empty_like(ins[0]) for _ in range(2)]
    combine(outs, ins, rows(2, 3).tolist(), [0, -1])
    check(outs, ins, rows(2, 3), [0, -1])
    if shape:
        combine(outs, ins, rows(2, 3).expand(shape[0], -1, -1), [0, -1])
        check(outs, ins, rows(2, 3), [0, -1])


def layouts(x):
    """The same values in other layouts: channels last, transposed, every second element, reversed
    batch, expanded."""
    wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., ::2] = x
    return {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 3).contiguous().transpose(1, 3),
        "strided": wide[..., ::2],
    }


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
@pytest.mark.parametrize("which", ["ins", "outs", "both"])
def test_layout_does_not_matter(layout, which):
    ins, weights, base = tensors(3, (2, 4, 3, 5), torch.float32), rows(2, 3), [1, -1]
    outs = [torch.empty_like(ins[0]) for _ in range(2)]
    combine(outs, ins, weights.tolist(), base)
    odd_ins = [layouts(x)[layout] for x in ins] if which != "outs" else ins
    odd_outs = (
        [layouts(x)[layout] for x in outs]
        if which != "ins"
        else [torch.empty_like(x) for x in outs]
    )
    for o in odd_outs:
        o.fill_(float("nan"))
    combine(odd_outs, odd_ins, weights.tolist(), base)
    assert all(torch.equal(a, b) for a, b in zip(odd_outs, outs, strict=True))


def test_expanded_input():
    row = torch.randn(1, 3, dtype=torch.float64)
    out = torch.empty(4, 3, dtype=torch.float64)
    combine([out], [row.expand(4, 3), torch.ones(4, 3, dtype=torch.float64)], [[2.0, 1.0]], [-1])
    assert torch.equal(out, (2 * row + 1).expand(4, 3))


@pytest.mark.parametrize("kind", ["floats", "tensor"])
def test_zero_weights_do_not_read(kind):
    """A weight of exactly 0 skips its input, whatever lies there."""
    good, bad = torch.ones(2, 3), torch.full((2, 3), float("nan"))
    outs = [torch.empty(2, 3) for _ in range(3)]
    weights = [[2.0, 0.0], [0.0, 0.0], [-0.0, 0.0]]
    combine(outs, [good, bad], torch.tensor(weights) if kind == "tensor" else weights, [-1, 0, -1])
    assert [o.unique().tolist() for o in outs] == [[2.0], [1.0], [0.0]]


def test_base_alone_is_a_copy():
    x = torch.randn(3, 4)
    outs = [torch.empty(3, 4), torch.empty(3, 4, dtype=torch.bfloat16)]
    combine(outs, [x], [[0.0], [0.0]], [0, 0])
    assert torch.equal(outs[0], x)
    assert torch.equal(outs[1], x.bfloat16())


@pytest.mark.parametrize("op", [combine, dispatch.combine], ids=["reference", "dispatch"])
def test_an_output_may_be_an_input(op):
    """In place, also where another output still needs the old value, and where a buffer becomes
    two."""
    ins, weights, base = tensors(3, (2, 37), torch.float32), rows(3, 3).tolist(), [0, -1, 1]
    first, second, third = (x.clone() for x in ins)
    outs = [second, torch.empty_like(first), first]
    op(outs, [first, second, third], weights, base)
    check(outs, ins, weights, base)
    assert torch.equal(third, ins[2])


def test_inputs_are_left_alone():
    ins = tensors(3, (2, 3))
    kept = [x.clone() for x in ins]
    combine([torch.empty_like(ins[0])], ins, [[1.0, 2.0, 3.0]], [1])
    assert all(torch.equal(a, b) for a, b in zip(ins, kept, strict=True))


def test_sum_does_not_depend_on_the_other_outputs():
    """A row gives the same bits alone and in a block, so that looking at a solve does not change
    it."""
    ins, weights = tensors(4, (3, 5), torch.float32), rows(4, 4).tolist()
    together = [torch.empty_like(ins[0]) for _ in range(4)]
    combine(together, ins, weights, [0, -1, 2, -1])
    for i, base in enumerate([0, -1, 2, -1]):
        combine([alone := torch.empty_like(ins[0])], ins, [weights[i]], [base])
        assert torch.equal(alone, together[i])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_outputs_stay_where_they_are(device):
    ins = [torch.empty(2, 3, device=device) for _ in range(2)]
    outs = [torch.empty(2, 3, device=device)]
    before = outs[0].data_ptr()
    combine(outs, ins, [[1.0, 2.0]], [-1])
    assert (outs[0].data_ptr(), outs[0].device.type) == (before, device)


def test_dispatch_serves_the_same_contract():
    ins, weights = tensors(2, (2, 3), torch.float32), [[0.3, 0.7]]
    outs = [torch.empty_like(ins[0])]
    dispatch.combine(outs, ins, weights, [0])
    check(outs, ins, weights, [0])


@pytest.mark.parametrize("each", [False, True])
def test_more_streams_than_a_kernel_takes(each):
    """A path with areas has up to 82: the noise is summed first, then combined; a narrow output is
    rounded once."""
    who, x = (
        philox.keys(3, torch.arange(2)),
        torch.randn(2, 100, generator=torch.Generator().manual_seed(0)),
    )
    streams = [(4 << 56) + k for k in range(82)]
    weights = torch.randn(*([2] if each else []), 2, 1 + 82, dtype=torch.float64)
    got, want = ([torch.empty(2, 100), torch.empty(2, 100, dtype=torch.bfloat16)] for _ in range(2))
    dispatch.combine(got, [x], weights, [0, -1], who, streams)
    combine(want, [x], weights, [0, -1], who, streams)
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(got[1], want[1], rtol=2.0**-7, atol=1e-3)


@pytest.mark.parametrize("op", [combine, dispatch.combine], ids=["reference", "dispatch"])
def test_nothing_to_write(op):
    for weights in ([], torch.ones(0, 1)):
        op([], [torch.ones(2, 3)], weights, [])
