"""Arguments that the C++ kernels leave to the reference: False comes back, and nothing has been
written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from odesolve.kernels import dispatch
from odesolve.kernels.reference import ErrorNorm
from torch._subclasses import FakeTensorMode

native = pytest.importorskip("odesolve.kernels.native")
KEYS = torch.tensor([[1, 0], [1, 1]])


class Sub(torch.Tensor):
    """A tensor whose ops somebody watches."""


def ones(*shape):
    return torch.ones(shape or (2, 3))


def negated():
    return torch.complex(ones(), ones()).conj().imag


REFUSED = {
    "no arguments": (),
    "no tensor": ([ones()], [1.0], [[1.0]], [-1]),
    "other shape": ([ones(2, 4)], [ones()], [[1.0]], [-1]),
    "other number of dimensions": ([ones(2, 3, 1)], [ones()], [[1.0]], [-1]),
    "too few weights": ([ones()], [ones(), ones()], [[1.0]], [-1]),
    "too few rows": ([ones(), ones()], [ones()], [[1.0]], [-1, -1]),
    "words for weights": ([ones()], [ones()], [["one"]], [-1]),
    "weights of another batch": ([ones()], [ones()], torch.ones(3, 1, 1), [-1]),
    "no such base": ([ones()], [ones()], [[1.0]], [1]),
    "integers": ([ones()], [ones().long()], [[1.0]], [-1]),
    "complex numbers": ([ones()], [ones().cfloat()], [[1.0]], [-1]),
    "meta": ([ones().to("meta")], [ones().to("meta")], [[1.0]], [-1]),
    "subclass": ([ones()], [ones().as_subclass(Sub)], [[1.0]], [-1]),
    "sparse": ([ones()], [ones().to_sparse()], [[1.0]], [-1]),
    "negated view": ([ones()], [negated()], [[1.0]], [-1]),
    "differentiable": ([ones()], [ones().requires_grad_()], [[1.0]], [-1]),
    "differentiable weights": ([ones()], [ones()], torch.ones(1, 1).requires_grad_(), [-1]),
    "noise without keys": ([ones()], [ones()], [[1.0, 1.0]], [-1], None, [0]),
    "keys of another batch": ([ones()], [ones()], [[1.0, 1.0]], [-1], KEYS[:1], [0]),
    "keys of another type": ([ones()], [ones()], [[1.0, 1.0]], [-1], KEYS.int(), [0]),
    "streams that are no numbers": ([ones()], [ones()], [[1.0, 1.0]], [-1], KEYS, ["a"]),
    "norm of another batch": (
        [ones()],
        [ones()],
        [[1.0], [1.0]],
        [-1],
        None,
        (),
        ErrorNorm(torch.ones(3), 1.0, 1.0),
    ),
    "an output that repeats itself": ([ones(1, 3).expand(2, 3)], [ones()], [[1.0]], [-1]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_left_to_the_reference(case):
    args = REFUSED[case]
    kept = args[0][0].clone() if args else None
    assert native.combine(*args) is False
    if args and not args[0][0].is_meta:
        assert torch.equal(args[0][0], kept)


@pytest.mark.parametrize("out", [slice(1, 5), slice(0, 4, 2)])
def test_partial_overlaps(out):
    memory = torch.arange(8.0)
    x = memory[slice(0, 4, 1)] if out.step is None else memory[:2]
    assert native.combine([memory[out]], [x], [[1.0]], [-1]) is False
    assert (
        native.combine([memory[:4], memory[2:6]], [torch.ones(4)], [[1.0], [1.0]], [-1, -1])
        is False
    )
    assert (
        native.combine(
            [memory[:4].view(torch.int16).view(torch.bfloat16)[:4]], [memory[:4]], [[1.0]], [-1]
        )
        is False
    )
    assert memory.tolist() == list(range(8))


def test_fake_tensors():
    with FakeTensorMode():
        x = torch.ones(2, 3)
        assert native.combine([torch.empty(2, 3)], [x], [[1.0]], [-1]) is False


def test_gradients_are_watched_only_while_they_are_recorded():
    x, out = ones().requires_grad_(), torch.zeros(2, 3)
    with torch.no_grad():
        assert native.combine([out], [x], [[2.0]], [-1]) is None
        assert native.combine([out], [torch.nn.Parameter(ones())], [[1.0]], [0]) is None
    assert torch.equal(out, 2 * ones())


def test_writes_are_seen_by_autograd():
    y = torch.ones(3, requires_grad=True)
    saved = torch.ones(3)
    product = (y * saved).sum()
    assert native.combine([saved], [torch.ones(3)], [[2.0]], [-1]) is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_inference_tensors():
    with torch.inference_mode():
        out = torch.zeros(2, 3)
    assert native.combine([out], [ones()], [[2.0]], [-1]) is None
    assert torch.equal(out, 2 * ones())


def test_other_ops_refuse_too():
    out, x = torch.full((2,), 7.0), ones()
    two = torch.ones(2, 2, 3)
    refused = [
        native.normal(x, KEYS[:1], 0),
        native.normal(x, KEYS, 0.5),
        *(
            native.normal(x, KEYS, 0, kind)
            for kind in ("uniform", b"normal", None, 0, ["normal"], KEYS)
        ),
        native.normal(torch.ones(()), KEYS, 0),
        native.normal(x, KEYS, torch.zeros(3, dtype=torch.int64)),
        native.rms(out, x, x, ones(2, 4), 1.0, 1.0),
        native.rms(out[:1], x, x, x, 1.0, 1.0),
        native.inner(out, x, ones(3, 2)),
        native.inner(out, x, x, torch.ones(3)),
        *(
            native.quadratic_form(out, x, KEYS, 0, kind)
            for kind in ("none", b"rademacher", None, 1.5)
        ),
        native.inner(out, x, x, out),
        native.quantile(x.view(-1)[4:], x, 0.5),
        native.combine([x], [ones()], [[1.0]], [0.5]),
        native.combine([x], [ones()], x.view(-1)[:2].view(2, 1, 1), [-1]),
        native.combine(
            [x], [ones()], [[1.0]] * 2, [-1], None, (), ErrorNorm(x.view(-1)[:2], 1.0, 1.0)
        ),
        native.normal_sums([x], KEYS, [1], x.view(-1)[:2].view(2, 1, 1)),
        native.window(two, torch.ones(2, 2), x, two, [two.clone()], two[..., 0, :1], torch.ones(2)),
        native.quantile(out, ones(2, 0), 0.5),
        native.quantile(out, x, 1.5),
        native.window(two, out, x, two, [two], torch.ones(2, 1), torch.ones(2)),
        native.window(
            two, torch.ones(2, 2), x, two.double(), [two], torch.ones(2, 1), torch.ones(2)
        ),
        native.window(
            two, torch.ones(2, 2), two[0], two.clone(), [], torch.ones(2, 0), torch.ones(2)
        ),
        native.window(two, torch.ones(2, 2), x, two, [two], torch.ones(2, 2), torch.ones(2)),
    ]
    assert refused == [False] * len(refused)
    assert torch.equal(x, ones())
    assert out.tolist() == [7.0, 7.0]


def test_what_is_refused_still_works():
    x, out = negated(), ones()
    dispatch.combine([out], [x], [[2.0]], [-1])
    assert torch.equal(out, -2 * ones())


def test_an_older_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    with pytest.raises(
        ImportError,
        match=r"torch .* has no DLPack C exchange table; torch 2.10 "
        r"and newer have one",
    ):
        native._load()


def test_a_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "odesolve._native", None)
    with pytest.raises(
        ImportError,
        match=r"were not compiled: install g\+\+ and python3-dev, "
        r"then odesolve again",
    ):
        native._load()


def test_a_module_that_does_not_load_is_named(monkeypatch):
    def broken(name):
        raise ImportError("undefined symbol")

    monkeypatch.setattr(native.importlib, "import_module", broken)
    with pytest.raises(ImportError, match="the compiled module does not load: undefined symbol"):
        native._load()


@pytest.mark.long  # a process; test_backend.py has another
def test_the_reference_runs_where_it_cannot_and_says_why():
    program = (
        "import odesolve; b = odesolve.backend(); print(b.devices['cpu'], b.refused['native'])"
    )
    env = {**os.environ, "ODESOLVE_ISA": "mmx"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("reference ")
    assert "ODESOLVE_ISA='mmx' is no instruction set known here" in done.stdout
    assert len(done.stderr.splitlines()) == 1
