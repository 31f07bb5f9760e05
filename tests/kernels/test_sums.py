"""Weighted sums of streams: the fused implementations against the specification.

The Triton kernel is checked by this same file in a process of its own, which interprets it.
"""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from odesolve.kernels import dispatch, philox, reference

from tests.products import LONG, diagonal

BACKEND = "triton.backend" if os.environ.get("ODESOLVE_BACKEND") == "triton" else "native"
fused = pytest.importorskip(f"odesolve.kernels.{BACKEND}")
INTERPRETED = BACKEND != "native"
FEW = INTERPRETED and not LONG  # the interpreter takes its time
ULP = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}


def keys(batch):
    return philox.keys(2**63 + 11, 2**32 - 1 - torch.arange(batch))


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def streams(*shape):
    """Of all 64 bits."""
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=torch.Generator().manual_seed(3))


def given(kind, batch, n_out, terms):
    """Streams and weights, of one kind each: shared as a tensor or as numbers, or a set a
    sample."""
    whose, weighted = kind.split("-")
    s = streams(batch, terms) if whose == "each" else streams(terms)
    w = numbers(batch, n_out, terms) if weighted == "each" else numbers(n_out, terms)
    return (s.tolist() if whose == "list" else s), (w.tolist() if weighted == "list" else w)


def check(outs, batch, s, w, accumulate=False):
    """Equal to rounding: every total is a sum of so many rounded terms."""
    results = []
    for op in (fused.normal_sums, reference.normal_sums):
        new = [o.clone() for o in outs]
        assert op(new, keys(batch), s, w, accumulate) is None
        results.append(new)
    sizes = (
        torch.as_tensor(w).abs().sum(-1).max() if torch.as_tensor(w).numel() else torch.tensor(0.0)
    )
    wide = ULP[torch.float64 if any(o.dtype == torch.float64 for o in outs) else torch.float32]
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        bound = 8 * wide * float(sizes) + 2 * ULP[got.dtype] * want.double().abs()
        assert bool(((got.double() - want.double()).abs() <= bound).all())
    return results[0]


KINDS = ["each-each", "list-list", "shared-shared", "shared-each", "each-shared"]


SHAPES = [(3, 2), (2, 2, 5, 7), (1, 1301), (5,), (0, 3), (3, 0)]


@pytest.mark.few(10)
@pytest.mark.parametrize(
    ("shape", "kind"),
    diagonal(SHAPES, KINDS[:2]) if INTERPRETED else list(itertools.product(SHAPES, KINDS)),
)
def test_equals_the_specification(kind, shape):
    s, w = given(kind, shape[0], 2, 3 if INTERPRETED else 7)
    for accumulate in (False, True):
        check(
            [numbers(*shape).float(), numbers(*shape, seed=1).float()], shape[0], s, w, accumulate
        )


TERMS = [0, 1, 9] if FEW else [0, 1, 20] if INTERPRETED else [0, 1, 98, 300]


@pytest.mark.parametrize("terms", TERMS)
def test_any_number_of_terms(terms):
    s, w = given("each-each", 2, 1, terms)
    check([torch.full((2, 40), float("nan"))], 2, s, w)


TYPES = [(torch.float32, torch.bfloat16), (torch.float64,), (torch.float16, torch.float64)]


@pytest.mark.parametrize("types", TYPES[:1] if FEW else TYPES)
def test_types(types):
    outs = [numbers(2, 50).to(d) for d in types]
    check(outs, 2, *given("shared-each", 2, len(outs), 9), accumulate=True)


@pytest.mark.parametrize("layout", ["strided"] if FEW else ["channels_last", "strided"])
def test_the_numbers_go_by_the_logical_element(layout):
    plain = numbers(2, 4, 3, 5).float()
    odd = plain.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        odd = torch.stack([plain, plain], -1)[..., 0]
    s, w = given("each-each", 2, 1, 5)
    for accumulate in (False, True):
        (want,), (got,) = (check([x], 2, s, w, accumulate) for x in (plain, odd))
        assert torch.equal(got, want)


@pytest.mark.apart
def test_many_outputs():
    """Triton's kernel writes at most four in a launch."""
    check([torch.empty(2, 30) for _ in range(9)], 2, *given("shared-shared", 2, 9, 5))


def test_one_stream_is_that_stream():
    for n in (2, 1301):
        out = torch.empty(3, n)
        fused.normal_sums([out], keys(3), [2**63 + 7], [[1.0]])
        assert torch.equal(out, philox.normals(keys(3), -(2**63) + 7, n))


def test_sums_are_taken_in_the_order_of_the_streams():
    """One after the other, each rounded: in float32 this order can be told from others."""
    s, w = given("shared-shared", 2, 1, 8)
    total = torch.zeros(2, 64)
    for stream, weight in zip(s.tolist(), w[0].float(), strict=True):
        total = total + weight * philox.normals(keys(2), stream, 64)
    fused.normal_sums([out := torch.empty(2, 64)], keys(2), s, w)
    assert torch.equal(out, total)


def test_more_streams_go_on_from_what_is_there():
    s, w = given("each-each", 3, 2, 7 if FEW else 12)
    whole, parts = ([torch.empty(3, 10, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    fused.normal_sums(whole, keys(3), s, w)
    fused.normal_sums(parts, keys(3), s[:, :5], w[..., :5])
    fused.normal_sums(parts, keys(3), s[:, 5:], w[..., 5:], True)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("n", [3] if FEW else [3, 1301] if INTERPRETED else [2, 3, 40, 1301])
def test_a_sample_has_the_same_bits_in_any_batch(n):
    s, w = given("each-each", 5, 2, 3 if INTERPRETED else 6)
    w[1] = 0.0

    def run(part):
        outs = [torch.empty(len(s[part]), n) for _ in range(2)]
        fused.normal_sums(outs, keys(5)[part], s[part], w[part])
        return outs

    whole = run(slice(None))
    for part in (slice(0, 2), slice(2, 5), slice(1, 2)):
        assert all(torch.equal(a, b[part]) for a, b in zip(run(part), whole, strict=True))
    assert bool((whole[0][1] == 0.0).all())


def test_a_weight_of_zero_draws_nothing(monkeypatch):
    drawn, original = [], reference.normal_like
    monkeypatch.setattr(
        reference, "normal_like", lambda x, k, s, d: (drawn.append(int(s)), original(x, k, s, d))[1]
    )
    reference.normal_sums(
        [torch.empty(1, 2), torch.empty(1, 2)],
        keys(1),
        [5, 6, 7],
        [[0.0, 1.0, 0.0], [0.0, 0.0, -0.0]],
    )
    assert drawn == [6]


def test_what_does_not_fit_is_left_to_the_reference():
    out = torch.full((2, 3), 7.0)
    s, w = given("each-each", 2, 1, 4)
    for outs, noise, these, weights in (
        ([out], keys(3), s, w),
        ([out], keys(2), s, w[:1].expand(3, 1, 4)),
        ([out], keys(2), s.expand(2, 2, 4)[0, :1].expand(3, 4), w),
        ([out], keys(2), s, w[..., :3]),
        ([out.int()], keys(2), s, w),
    ):
        assert fused.normal_sums(outs, noise, these, weights) is False
    assert bool((out == 7.0).all())


def test_the_public_form_serves_lists_and_tensors():
    s, w = given("shared-shared", 2, 2, 5)
    results = []
    for these, weights in ((s, w), (s.tolist(), w.tolist())):
        outs = [torch.empty(2, 9) for _ in range(2)]
        dispatch.normal_sums(outs, keys(2), these, weights)
        results.append(outs)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
