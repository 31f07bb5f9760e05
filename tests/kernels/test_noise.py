"""Noise by its specification: known answers, accuracy, moments, and what it does not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from odesolve.kernels import dispatch, philox
from scipy import stats

LOW = 0xFFFFFFFF


def words_of(counter, key):
    tensors = [tuple(torch.tensor([v]) for v in values) for values in (counter, key)]
    return [int(w) for w in philox.philox(*tensors)]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((LOW,) * 4, (LOW,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter, key, answer):
    assert " ".join(f"{w:08x}" for w in words_of(counter, key)) == answer


def test_counter_and_key_of_an_element():
    seed, sample, stream = -7, 2**32 - 1, (5 << 56) + 3
    keys = philox.keys(seed, torch.tensor([0, sample]))
    words = philox.words(keys, stream, 11)[1].tolist()
    for e, word in enumerate(words):
        counter = (e // 4, sample, stream & LOW, stream >> 32)
        assert word == words_of(counter, (seed & LOW, (seed >> 32) & LOW))[e % 4]


def test_streams_and_seeds_of_64_bits():
    """Numbers beyond int64 mean the same 64 bits; each part of the key matters."""
    ids = torch.arange(2)
    assert torch.equal(philox.keys(2**64 - 1, ids), philox.keys(-1, ids))
    seen = {
        tuple(philox.words(philox.keys(s, ids), t, 4).flatten().tolist())
        for s in (0, 1, 2**32)
        for t in (0, 1, 2**32)
    }
    assert len(seen) == 9


def exact(keys, stream, n):
    """Box-Muller in float64 on the same words, with the radius' uniform number rounded as it is."""
    words = philox.words(keys, stream, n).reshape(len(keys), -1, 2).numpy()
    u = (words[..., 0] >> 1).astype(np.float32) * np.float32(2.0**-31) + np.float32(2.0**-32)
    radius, angle = (
        np.sqrt(-2 * np.log(u.astype(np.float64))),
        2 * math.pi * words[..., 1] * 2.0**-32,
    )
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(
        len(keys), -1
    )


def test_normals_are_those_of_float64_to_rounding():
    keys = philox.keys(3, torch.arange(4))
    error = np.abs(philox.normals(keys, 0, 250_000).numpy() - exact(keys, 0, 250_000))
    assert error.max() < 7e-7
    assert error.mean() < 5e-8


def test_extreme_words():
    top = torch.tensor([0, 1, LOW - 1, LOW, 2**31 - 1, 2**31, 2**29, 3 * 2**29])
    a, b = (v.flatten() for v in torch.meshgrid(top, top, indexing="ij"))
    z = philox.box_muller(a, b)
    assert bool(torch.isfinite(z).all())
    assert 6.6 < float(z.abs().max()) < 6.67
    # log 1
    assert float(philox.box_muller(torch.tensor([LOW]), torch.tensor([5])).abs().max()) == 0.0


def test_distribution():
    """Fixed seeds, so these hold or do not; bounds at p = 1e-3 for each of the six."""
    z = philox.normals(philox.keys(0, torch.arange(4)), 0, 500_000).double().numpy()
    flat = z.ravel()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((flat**power).mean() - mean) < 3.3 * math.sqrt(variance / flat.size)
    pairs = np.corrcoef(z.reshape(-1, 4), rowvar=False)
    assert np.abs(pairs[np.triu_indices(4, 1)]).max() < 4 / math.sqrt(flat.size / 4)
    assert np.abs(np.corrcoef(z)[np.triu_indices(4, 1)]).max() < 4 / math.sqrt(500_000)


def test_signs():
    keys = philox.keys(0, torch.arange(3))
    signs = philox.signs(keys, 9, 10_001)
    assert torch.equal(signs, torch.where(philox.words(keys, 9, 10_001) >= 2**31, -1.0, 1.0))
    assert abs(float(signs.mean())) < 4 / math.sqrt(30_003)


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_fill(kind, dtype):
    """One number for an element, whatever the dtype, the batch and the layout."""
    keys = philox.keys(4, torch.arange(6))
    want = (
        (philox.normals if kind == "normal" else philox.signs)(keys, 2, 3 * 5 * 7)
        .reshape(6, 3, 5, 7)
        .to(dtype)
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        out = torch.empty(6, 3, 5, 7, dtype=dtype).contiguous(memory_format=layout)
        dispatch.normal(out, keys, 2, kind)
        assert torch.equal(out, want)
    order = [3, 0, 5]
    part = torch.empty(3, 3, 5, 7, dtype=dtype)
    dispatch.normal(part, keys[order], 2, kind)
    assert torch.equal(part, want[order])


def test_a_stream_for_each_sample():
    keys = philox.keys(4, torch.arange(3))
    out, one = torch.empty(3, 10), torch.empty(1, 10)
    dispatch.normal(out, keys, torch.tensor([5, 0, 2**40]))
    for k, stream in enumerate((5, 0, 2**40)):
        dispatch.normal(one, keys[k : k + 1], stream)
        assert torch.equal(one[0], out[k])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1,), (3,)])
def test_any_shape(shape):
    out = torch.empty(shape)
    dispatch.normal(out, philox.keys(1, torch.arange(shape[0])), 0)
    assert bool(torch.isfinite(out).all())
