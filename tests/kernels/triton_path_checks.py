"""Rows that take their noise from a Brownian path, in Triton's interpreter;
test_triton_interpreter.py runs this file."""

from __future__ import annotations

import pytest
import torch
from odesolve.kernels import dispatch, reference
from odesolve.kernels.triton import backend

from tests.products import LONG, diagonal

from .triton_checks import close, keys, rows, tensors

# More than a kernel of combine takes. The kernel of sums goes over them one by one, which takes the
# interpreter its time: forty-four in the long suite.
MANY = tuple((3 << 56) + 7 * k for k in range(44))
SOME = MANY if LONG else MANY[:9]


def check(outs, ins, weights, base, noise, streams):
    got, want = ([torch.empty_like(o).fill_(float("nan")) for o in outs] for _ in range(2))
    # left to a sum and a combine
    assert backend.combine(got, ins, weights, base, noise, streams) is False
    dispatch.combine(got, ins, weights, base, noise, streams)
    reference.combine(want, ins, weights, base, noise, streams)
    for a, b in zip(got, want, strict=True):
        close(a, b, scale=4.0)


@pytest.mark.parametrize(
    ("dtype", "count"),
    diagonal([torch.float32, torch.float64], [9, 44]) if LONG else [(torch.float64, 9)],
)
def test_many_streams(dtype, count):
    check(
        tensors(2, (2, 70), dtype),
        tensors(3, (2, 70), dtype),
        rows(2, 3 + count),
        [1, -1],
        keys(2),
        MANY[:count],
    )


def test_a_half_precision_output_is_rounded_once():
    outs = [*tensors(1, (2, 70)), *tensors(1, (2, 70), torch.bfloat16)]
    check(outs, tensors(2, (2, 70)), rows(2, 2 + len(SOME)), [0, -1], keys(2), SOME)


def test_many_streams_with_weights_of_each_sample():
    weights = rows(3, 1, 2 + len(SOME))
    check(tensors(1, (3, 40)), tensors(2, (3, 40)), weights, [0], keys(3), SOME)


def test_numbers_as_weights():
    weights = rows(1, 1 + len(SOME)).tolist()
    check(tensors(1, (2, 33)), tensors(1, (2, 33)), weights, [-1], keys(2), SOME)
