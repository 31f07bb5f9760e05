"""The last tile of a sample, where its length is the distance of two samples: it is the end of a
row, not the row.

A batch of one in sequence-first layout, a transposed column, windows that slide by one: torch calls
the first two contiguous. Every op must give the bits that it gives on a dense copy; the reference,
which sums in torch's order, gives them to rounding.
"""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels import dispatch, philox
from odesolve.kernels.reference import ErrorNorm

import odesolve as ode
from tests.rows import rows

KEYS = philox.keys(7, torch.tensor([4, 9]))


def numbers(count, dtype, seed=0):
    return torch.randn(
        count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).to(dtype)


LAYOUTS = {
    "sequence first": lambda dtype, seed=0: (
        numbers(17 * 64, dtype, seed).view(17, 1, 64).transpose(0, 1)
    ),
    "column": lambda dtype, seed=0: numbers(1025, dtype, seed)[:, None].T,
    "sliding": lambda dtype, seed=0: numbers(1026, dtype, seed).unfold(0, 1025, 1),
}
WRITTEN = [name for name in LAYOUTS if name != "sliding"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def test_the_layouts_are_what_they_should_be():
    strides = [make(torch.float32).stride() for make in LAYOUTS.values()]
    assert strides == [(64, 64, 1), (1, 1), (1, 1)]
    assert all(LAYOUTS[name](torch.float32).is_contiguous() for name in WRITTEN)


def same(results, others):
    reference = ode.backend().devices["cpu"] == "reference"
    pairs = zip(results, others, strict=True)
    close = {"rtol": 1e-12, "atol": 1e-12}
    return all(torch.allclose(a, b, **close) if reference else torch.equal(a, b) for a, b in pairs)


def read(x, y):
    """What every op makes of two tensors, in outputs that lie in order."""
    batch, keys = len(x), KEYS[: len(x)]
    norm, rms, dot, form, middle = (
        torch.full((batch,), torch.nan, dtype=torch.float64) for _ in range(5)
    )
    outs = [torch.full(x.shape, torch.nan, dtype=torch.float64) for _ in range(5)]
    dispatch.combine(outs[:2], [x, y], [[0.5, 2.0]] * 3, [0, -1], error=ErrorNorm(norm, 0.1, 0.2))
    dispatch.combine([outs[2]], [x, y], [[0.5, 2.0, 1.5]], [1], keys, [3])
    dispatch.combine([outs[3]], [x, y], [[0.5, 2.0]], [-1])
    dispatch.rms(rms, x, y, x, 0.1, 0.2)
    dispatch.inner(dot, x, y)
    dispatch.quadratic_form(form, x, keys, 3)
    dispatch.quantile(middle, x, 0.999)
    residual, tables = torch.full((1, batch), torch.nan), torch.tensor([[0.5, 2.0]])
    dispatch.window(outs[4][None], residual, x, y[None], [x[None], y[None]], tables, tables[:, 0])
    return [norm, rms, dot, form, middle, residual, *outs]


@rows("layout", LAYOUTS)
@rows("first", DTYPES)
@rows("second", DTYPES)
def test_reading(layout, first, second):
    x, y = LAYOUTS[layout](first), LAYOUTS[layout](second, seed=1)
    copies = [torch.empty(t.shape, dtype=t.dtype).copy_(t) for t in (x, y)]
    assert same(read(x, y), read(*copies))


def written(like):
    """What every op writes into tensors of one layout, in order."""
    batch, keys = len(like), KEYS[: len(like)]
    x, y = (numbers(like.numel(), torch.float32, seed).view(like.shape) for seed in (2, 3))
    outs = [
        torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).fill_(torch.nan)
        for _ in range(7)
    ]
    outs[6].copy_(x)
    dispatch.combine(outs[:2], [x, y], [[0.5, 2.0]] * 2, [0, -1])
    dispatch.combine([outs[2]], [x, y], [[0.5, 2.0, 1.5]], [1], keys, [3])
    dispatch.normal(outs[3], keys, 5)
    dispatch.normal_sums(outs[4:5], keys, [1, 2], [[0.5, 2.0]])
    tables = torch.tensor([[0.5, 2.0]])
    dispatch.window(
        outs[5][None], torch.empty(1, batch), x, y[None], [x[None], y[None]], tables, tables[:, 0]
    )
    dispatch.combine([outs[6]], [outs[6], y], [[0.5, 2.0]], [0])  # in place
    dispatch.normal_sums(outs[6:], keys, [1, 2], [[0.5, 2.0]], True)
    return outs


@rows("layout", WRITTEN)
@rows("dtype", DTYPES)
def test_writing(layout, dtype):
    like = LAYOUTS[layout](dtype)
    dense = torch.empty(like.shape, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(written(like), written(dense), strict=True))


def test_an_inner_product_in_half_precision():
    x = LAYOUTS["sequence first"](torch.bfloat16)
    out = torch.empty(1)
    dispatch.inner(out, x, x)
    torch.testing.assert_close(
        out.double(), x.double().square().flatten(1).sum(1), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("swapped", ["network", "noise"])
def test_a_model_that_works_with_the_sequence_first(dtype, swapped):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64).to(dtype)

    def dense(x, t):
        return layer(x.to(dtype))

    def turned(x, t):
        return layer(x.to(dtype).transpose(0, 1)).transpose(0, 1)

    def solve(net, noise):
        model = ode.Model(net, ode.paths.VP(), predicts="noise")
        return ode.sample(model, noise, solver="dpmpp_2m_sde", steps=10, seed=3)

    noise = torch.empty(1, 17, 64).copy_(LAYOUTS["sequence first"](torch.float32))
    with torch.no_grad():
        want = solve(dense, noise)
        got = (
            solve(turned, noise)
            if swapped == "network"
            else solve(dense, LAYOUTS["sequence first"](torch.float32))
        )
    assert torch.equal(got, want)
