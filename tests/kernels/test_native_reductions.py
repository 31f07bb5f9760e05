"""The C++ reductions and the window update against float64 and the reference."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels import philox, reference

from tests.products import product
from tests.rows import rows

native = pytest.importorskip("odesolve.kernels.native")
SIZES = [1, 15, 16, 17, 511, 1025, 5000]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def normals(*shape, seed=0, dtype=torch.float32):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).to(dtype)


def keys(batch):
    return philox.keys(2**50 + 1, torch.arange(batch))


def layouts(x):
    return x, x.flip(0).t().contiguous().t().flip(0), torch.stack([x, x], -1)[..., 0]


@rows("n", SIZES)
@rows("dtype", DTYPES)
def test_inner(n, dtype):
    a, b = normals(3, n, dtype=dtype), normals(3, n, seed=1)
    want = (a.double() * b.double()).sum(1)
    for x in layouts(a):
        out = torch.ones(3, dtype=torch.float64)
        assert native.inner(out, x, b) is None
        torch.testing.assert_close(out, want, **CLOSE)
        native.inner(out, x, b, torch.tensor([1.0, 2.0, -1.0]), True)
        torch.testing.assert_close(
            out, want * torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64), **CLOSE
        )


@rows("n", SIZES)
@rows("kind", ["normal", "rademacher"])
def test_quadratic_form(n, kind):
    v, stream = normals(3, n), torch.tensor([1, 2, -3])
    eps = torch.empty(3, n, dtype=torch.float64)
    reference.normal(eps, keys(3), stream, kind)
    want = (eps * v.double()).sum(1)
    for x in (*layouts(v), v.double()):
        out = torch.empty(3, dtype=torch.float64)
        assert native.quadratic_form(out, x, keys(3), stream, kind) is None
        torch.testing.assert_close(out, want, **CLOSE)
        native.quadratic_form(out, x, keys(3), stream, kind, -0.5, True)
        torch.testing.assert_close(out, want / 2, **CLOSE)


@rows("n", SIZES)
@rows("dtype", [torch.float64, torch.float32])
def test_rms(n, dtype):
    e, y1 = normals(3, n, dtype=dtype), normals(3, n, seed=2, dtype=dtype)
    y0 = normals(3, n, seed=1, dtype=torch.bfloat16)
    rtol = torch.tensor([0.1, 0.2, 0.3])
    scale = 0.01 + rtol.double()[:, None] * torch.maximum(y0.abs(), y1.abs()).double()
    want = (e.double() / scale).square().mean(1).sqrt()
    for x in layouts(e):
        out = torch.empty(3, dtype=torch.float64)
        assert native.rms(out, x, y0, y1, rtol, 0.01) is None
        torch.testing.assert_close(
            out, want, rtol=1e-12 if dtype == torch.float64 else 3e-7, atol=0
        )


@pytest.mark.parametrize("place", range(3))
def test_nan_anywhere_makes_the_norm_nan(place):
    args = [torch.ones(2, 3) for _ in range(3)]
    args[place][1, 2] = float("nan")
    out = torch.empty(2)
    native.rms(out, *args, 0.5, 0.5)
    assert out.isnan().tolist() == [False, True]


def test_nothing_to_sum():
    x, out = torch.empty(2, 0), torch.ones(2)
    native.rms(out, x, x, x, 1.0, 1.0)
    assert out.tolist() == [0.0, 0.0]
    native.inner(out, x, x)
    assert out.tolist() == [0.0, 0.0]
    assert native.inner(out[:0], x[:0], x[:0]) is None


@rows(("n", "q", "dtype"), product(SIZES, [0.0, 0.3, 0.5, 0.995, 1.0], DTYPES))
def test_quantile(n, q, dtype):
    x = normals(3, n, dtype=dtype)
    want, out = torch.empty(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    reference.quantile(want, x, q)
    for y in layouts(x):
        assert native.quantile(out, y, q) is None
        torch.testing.assert_close(
            out, want, rtol=1e-6 if dtype != torch.float64 else 1e-15, atol=0
        )
    exact = torch.quantile(x.abs().double(), q, dim=1)
    torch.testing.assert_close(out, exact, rtol=1e-6, atol=0)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "values", [[1.0] * 40, [0.0, -0.0], [INF, 1.0, 2.0], [NAN, 1.0, 3.0], [1e-40, 2e-40]]
)
def test_quantile_of_ties_and_ends(values):
    x = torch.tensor([values])
    for q in (0.0, 0.25, 0.5):
        want, out = torch.empty(1), torch.empty(1)
        reference.quantile(want, x, q)
        native.quantile(out, x, q)
        torch.testing.assert_close(out, want, rtol=0, atol=0, equal_nan=True)


def window(op, case, in_place=False):
    out = case["old"].clone() if in_place else torch.full_like(case["old"], float("nan"))
    residual = torch.empty(case["old"].shape[:2], dtype=torch.float64)
    old = out if in_place else case["old"]
    args = (
        case["origin"],
        old,
        case["ins"],
        case["weights"],
        case["growth"],
        case["keys"],
        case["streams"],
    )
    assert op(out, residual, *args) is None
    return out, residual


CASES = {
    "one window": {"weights": (5, 2), "growth": (5,), "streams": None},
    "a window for each sample": {"weights": (5, 3, 2), "growth": (5, 3), "streams": None},
    "noise": {"weights": (5, 3), "growth": (5,), "streams": (5,)},
    "noise for each sample": {"weights": (5, 3, 3), "growth": (5,), "streams": (5, 3)},
}


@rows("shape", [(1,), (3,), (2, 41), (3, 1000), (12_000,)])
@rows("case", list(CASES))
def test_window(shape, case):
    dtype = torch.float64 if len(shape) == 2 and shape[0] == 2 else torch.float32
    sizes = CASES[case]
    values = {
        "origin": normals(3, *shape, dtype=dtype),
        "old": normals(5, 3, *shape, seed=1, dtype=dtype),
        "ins": [normals(5, 3, *shape, seed=i, dtype=torch.float32) for i in (2, 3)],
        "weights": normals(*sizes["weights"], seed=4, dtype=torch.float64),
        "growth": normals(*sizes["growth"], seed=5, dtype=torch.float64),
        "keys": keys(3),
        "streams": sizes["streams"] and torch.randint(-9, 2**62, sizes["streams"]),
    }
    values["weights"][1, ..., 0] = 0.0
    (out, residual), (want, told) = window(native.window, values), window(reference.window, values)
    close = (
        {"rtol": 1e-13, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    )
    torch.testing.assert_close(out, want, **close)
    torch.testing.assert_close(
        residual, told, rtol=1e-12 if dtype == torch.float64 else 2e-6, atol=0
    )
    again, moved = window(native.window, values, in_place=True)
    assert torch.equal(again, out)
    assert torch.equal(moved, residual)


def test_window_in_other_layouts_and_types():
    origin, old = normals(2, 4, 6, 6), normals(3, 2, 4, 6, 6, seed=1)
    ins, weights, growth = normals(3, 2, 4, 6, 6, seed=2), normals(3, 1, seed=3), normals(3, seed=4)
    want, told = torch.empty_like(old), torch.empty(3, 2)
    native.window(want, told, origin, old, [ins], weights, growth)
    last = lambda x: x.transpose(-1, -3).contiguous().transpose(-1, -3)
    out, residual = last(torch.zeros_like(old)), torch.empty(2, 3).t()
    assert (
        native.window(
            out, residual, last(origin), last(old), [last(ins)], weights.expand(3, 1), growth
        )
        is None
    )
    assert torch.equal(out, want)
    assert torch.equal(residual, told)
    half = torch.empty_like(old, dtype=torch.bfloat16)
    native.window(half, residual, origin, old, [ins], weights, growth)
    assert torch.equal(half, want.bfloat16())
