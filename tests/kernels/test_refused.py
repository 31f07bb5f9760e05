"""What no op takes is refused in a sentence by every backend, with nothing written; and what all
take alike.

The Triton kernels are checked by this same file in a process of its own, which interprets them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from odesolve.kernels import control, dispatch, philox, reference
from odesolve.kernels.reference import ErrorNorm

import odesolve as ode
from tests.rows import rows

BACKENDS = {"active": dispatch, "reference": reference}
KEYS = philox.keys(1, torch.arange(2))
X = torch.arange(6.0).view(2, 3)
ONE = [[1.0]]


def refused(op, args, outs=(), message=""):
    """Every backend raises, and leaves the outputs as they were."""
    for backend in BACKENDS.values():
        before = [o.clone() for o in outs]
        with pytest.raises(ode.OdesolveError, match=message or "give"):
            getattr(backend, op)(*args)
        assert all(torch.equal(a, b) for a, b in zip(outs, before, strict=True))


@rows(
    "kind", ["gaussian", "Normal", "", b"normal", None, 0, True, ["normal"], np.array(["normal"])]
)
def test_kinds_of_noise(kind):
    out, form = torch.full((2, 3), 7.0), torch.full((2,), 7.0)
    refused("normal", (out, KEYS, 0, kind), [out], "unknown kind of noise")
    refused("quadratic_form", (form, X, KEYS, 0, kind), [form], "unknown kind of noise")


def test_the_message_says_what_to_give():
    with pytest.raises(
        ode.OdesolveError,
        match=r"unknown kind of noise 'rademache': did you mean "
        r"'rademacher'\?",
    ):
        dispatch.normal(torch.empty(2, 3), KEYS, 0, "rademache")
    with pytest.raises(
        ode.OdesolveError,
        match=r"unknown kind of noise b'normal': did you mean "
        r"'normal'\?",
    ):
        dispatch.normal(torch.empty(2, 3), KEYS, 0, b"normal")


@pytest.mark.apart  # one trace is enough
def test_kinds_of_noise_in_a_trace():
    from torch.fx.experimental.proxy_tensor import make_fx

    with pytest.raises(ode.OdesolveError, match="unknown kind of noise"):
        make_fx(lambda x: dispatch.normal(x, KEYS, 0, "gaussian"))(X.clone())


@rows(
    "stream", [0.5, None, "a", torch.tensor(0.5), torch.ones(2), torch.zeros(3, dtype=torch.int64)]
)
def test_streams(stream):
    out, form = torch.full((2, 3), 7.0), torch.full((2,), 7.0)
    refused("normal", (out, KEYS, stream), [out], "stream")
    refused("quadratic_form", (form, X, KEYS, stream), [form], "stream")
    refused("combine", ([out], [X], [[1.0, 1.0]], [-1], KEYS, [stream]), [out], "stream")
    if not isinstance(stream, torch.Tensor):
        refused("normal_sums", ([out], KEYS, [stream], ONE), [out], "stream")


@rows("keys", [None, KEYS[:1], KEYS.int(), KEYS.double(), KEYS.repeat(1, 2), KEYS[0]])
def test_keys(keys):
    out, form = torch.full((2, 3), 7.0), torch.full((2,), 7.0)
    refused("normal", (out, keys, 0), [out], "keys")
    refused("quadratic_form", (form, X, keys, 0), [form], "keys")
    refused("combine", ([out], [X], [[1.0, 1.0]], [-1], keys, [0]), [out], "keys")
    refused("normal_sums", ([out], keys, [0], ONE), [out], "keys")


@rows(
    ("weights", "base", "more"),
    [
        (ONE * 2, [-1], ()),  # a row too many
        ([[1.0, 2.0]], [-1], ()),
        (torch.ones(1, 1, 1, 1), [-1], ()),
        (torch.ones(3, 1, 1), [-1], ()),
        (ONE, [1], ()),
        (ONE, [-2], ()),
        (ONE, [0.5], ()),
        (ONE, [-1, -1], ()),
        (ONE, [-1], (None, (), ErrorNorm(torch.ones(2), 1.0, 1.0))),  # no row for the error
        (ONE * 2, [-1], (None, (), ErrorNorm(torch.ones(3), 1.0, 1.0))),
        (ONE * 2, [-1], (None, (), ErrorNorm(torch.ones(2), torch.ones(3), 1.0))),
        (ONE * 2, [-1], (None, (), ErrorNorm(torch.ones(2), 1.0, np.ones(2)))),
    ],
)
def test_combine(weights, base, more):
    out = torch.full((2, 3), 7.0)
    for backend in BACKENDS.values():
        with pytest.raises(ode.OdesolveError):
            backend.combine([out], [X], weights, base, *more)


@rows(
    ("outs", "ins"),
    [
        ([torch.ones(2, 4)], [X]),
        ([torch.ones(2, 3)], [X[:1]]),
        ([torch.ones(2, 3)], [X, X[:, :1]]),
        ([torch.ones(2, 3, dtype=torch.int64)], [X]),
        ([torch.ones(2, 3)], [X.cfloat()]),
    ],
)
def test_tensors_of_combine(outs, ins):
    refused("combine", (outs, ins, [[1.0] * len(ins)], [-1]), outs)


def test_outputs_that_cannot_hold_noise():
    whole = torch.ones(2, 3, dtype=torch.int64)
    refused("normal", (whole, KEYS, 0), [whole], "int64 cannot hold")
    refused("normal_sums", ([whole], KEYS, [0], ONE), [whole], "int64 cannot hold")


@rows("weight", ["one", None, 1j, torch.ones(3), torch.ones(3, 1), np.ones(2), [1.0, 2.0]])
def test_numbers_of_samples(weight):
    out = torch.full((2,), 7.0)
    refused("inner", (out, X, X, weight), [out], "weight")
    refused("quadratic_form", (out, X, KEYS, 0, "normal", weight), [out], "weight")
    refused("rms", (out, X, X, X, weight, 1.0), [out], "rtol")
    refused("rms", (out, X, X, X, 1.0, weight), [out], "atol")


def test_reductions():
    out, short = torch.full((2,), 7.0), torch.full((1,), 7.0)
    for op, tensors, more in (("inner", 2, ()), ("rms", 3, (1.0, 1.0)), ("quantile", 1, (0.5,))):
        refused(op, (short, *[X] * tensors, *more), [short], "out has shape")
        refused(op, (out, *[X.cfloat()] * tensors, *more), [out], "complex")
        if tensors > 1:
            refused(op, (out, *[X] * (tensors - 1), X[:, :1], *more), [out], "shape")
    refused("quadratic_form", (short, X, KEYS, 0), [short], "out has shape")
    for q in (-0.5, 1.5, float("nan")):
        refused("quantile", (out, X, q), [out], "is no quantile")
    refused("quantile", (out, X[:, :0], 0.5), [out], "at least one element")


def test_window():
    out, residual = torch.full((2, 2, 3), 7.0), torch.full((2, 2), 7.0)
    old, ones = torch.zeros(2, 2, 3), torch.ones(2)
    right = {"origin": X, "old": old, "ins": [old], "weights": ones[:, None], "growth": ones}
    for name, wrong in (
        ("origin", X[:1]),
        ("old", out[:, :1]),
        ("ins", [out[..., :1]]),
        ("weights", torch.ones(2, 2)),
        ("weights", torch.ones(3, 1)),
        ("growth", torch.ones(3)),
        ("growth", torch.ones(2, 2, 1)),
    ):
        refused(
            "window", (out, residual, *{**right, name: wrong}.values()), [out, residual], "window"
        )
    refused("window", (out, residual[:1], *right.values()), [out, residual], "window")


@rows("place", range(7))
def test_control(place):
    shapes = [(control.ROWS, 2), (2,), (2, 4), (3, 2), (2, 4), (3,), (control.SETTINGS,)]
    shapes[place] = (*shapes[place], 1)
    tensors = [torch.zeros(s, dtype=torch.float64) for s in shapes]
    refused("control", tensors, tensors, "control")


@rows("shape", [(2,), (0,), ()])
def test_states_without_more_dimensions(shape):
    """Samples of one element; a tensor without any dimension is one of them."""
    batch = shape[0] if shape else 1
    keys, x = philox.keys(1, torch.arange(batch)), torch.full(shape, 2.0)
    z = philox.normals(keys, 3, 1)[:, 0]
    for backend in BACKENDS.values():
        out, norm, drawn = torch.empty(shape), torch.empty(batch), torch.empty(shape)
        backend.normal(drawn, keys, 3)
        torch.testing.assert_close(drawn.reshape(batch), z)
        backend.combine(
            [out],
            [x],
            torch.tensor([[2.0, 1.0], [1.0, 0.0]]),
            [0],
            keys,
            [3],
            ErrorNorm(norm, 0.0, 0.5),
        )
        torch.testing.assert_close(out.reshape(batch), 6.0 + z)
        torch.testing.assert_close(norm, torch.full((batch,), 4.0))
        backend.combine([out], [x], torch.full((batch, 1, 1), 3.0), [-1])
        assert torch.equal(out, torch.full(shape, 6.0))
        backend.normal_sums([out], keys, [3], torch.full((batch, 1, 1), 2.0))
        torch.testing.assert_close(out.reshape(batch), 2.0 * z)
        for op, args, want in (
            ("rms", (x, x, x, 0.0, 0.5), 4.0),
            ("inner", (x, x, 0.5), 2.0),
            ("quantile", (-x, 0.3), 2.0),
            ("quadratic_form", (x, keys, 3, "normal"), 2.0 * z),
        ):
            getattr(backend, op)(norm, *args)
            torch.testing.assert_close(norm, torch.as_tensor(want).expand(batch))


@rows("op", ["rms", "inner", "quantile", "quadratic_form", "normal", "combine", "normal_sums"])
@rows("shape", [(0, 3), (2, 0), (0, 0), (0, 2, 0)])
def test_nothing_at_all(op, shape):
    x, out = torch.empty(shape), torch.full(shape[:1], 7.0)
    keys = philox.keys(1, torch.arange(shape[0]))
    args = {
        "rms": (out, x, x, x, 0.1, 0.1),
        "inner": (out, x, x),
        "quantile": (out, x, 0.5),
        "quadratic_form": (out, x, keys, 3),
        "normal": (x, keys, 3),
        "combine": ([x], [x], ONE, [-1]),
        "normal_sums": ([x], keys, [3], ONE),
    }
    if op == "quantile" and shape == (2, 0):  # refused, as is tested above
        return
    for backend in BACKENDS.values():
        getattr(backend, op)(*args[op])
        if args[op][0] is out:
            assert torch.equal(out, torch.zeros(shape[:1]))


@rows("stream", [2**63 + 7, -1, 2**70 + 3, np.int64(-4), np.uint64(2**63 + 5), True])
def test_every_whole_number_is_a_stream(stream):
    """Its last 64 bits count."""
    want = philox.normals(KEYS, (int(stream) + 2**63) % 2**64 - 2**63, 3)
    for backend in BACKENDS.values():
        out, total = torch.empty(2, 3), torch.empty(2, 3)
        backend.normal(out, KEYS, stream)
        torch.testing.assert_close(out, want)
        backend.normal_sums([total], KEYS, [stream], ONE)
        torch.testing.assert_close(total, want)
        backend.combine([total], [X], [[0.0, 1.0]], [-1], KEYS, [stream])
        torch.testing.assert_close(total, want)


@pytest.mark.apart  # an overlap is not looked for on a GPU
def test_outputs_that_overlap_what_is_read():
    """Every backend reads first what it is to overwrite."""
    for backend in BACKENDS.values():
        memory = torch.arange(8.0)
        backend.combine([memory[1:7].view(2, 3)], [memory[:6].view(2, 3)], [[2.0]], [-1])
        assert memory.tolist() == [0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 7.0]
        x = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
        backend.quantile(x.view(-1)[3:], x, 1.0)
        assert x.view(-1).tolist() == [1.0, 2.0, 4.0, 2.0, 8.0, 32.0]
        w = torch.tensor([3.0, 5.0, 7.0])
        backend.inner(w[1:], torch.ones(2, 1), torch.ones(2, 1), w[:2])
        assert w.tolist() == [3.0, 3.0, 5.0]


@pytest.mark.apart  # addresses on a GPU are aligned
def test_a_buffer_that_begins_at_an_odd_byte():
    memory = torch.frombuffer(bytearray(4 * 3000 + 1), dtype=torch.float32, offset=1, count=3000)
    x = torch.arange(3000.0)
    dispatch.combine([memory], [x], [[2.0]], [-1])
    assert torch.equal(memory, 2.0 * x)
    dispatch.combine([out := torch.empty(3000)], [memory], [[1.0]], [-1])
    assert torch.equal(out, memory)


def test_an_output_that_repeats_itself():
    for backend in BACKENDS.values():
        with pytest.raises((RuntimeError, ode.OdesolveError)):
            backend.combine([torch.ones(1, 3).expand(2, 3)], [X], ONE, [-1])
        with pytest.raises((RuntimeError, ode.OdesolveError)):
            backend.inner(torch.ones(1).expand(2), X, X)
