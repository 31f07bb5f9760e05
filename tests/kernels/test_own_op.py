"""An op from outside of the package: a specification and its declaration."""

from __future__ import annotations

import logging

import pytest
import torch
from odesolve.kernels import declared, dispatch, ops
from odesolve.kernels.declared import NUMBERS, OPS, op, schema_of
from odesolve.kernels.dispatch import public
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Scale = float | Tensor


@op(writes=("out",), device="x")
def scaled_largest(out: Tensor, x: Tensor, weight: Scale = 1.0, top: bool = True) -> None:
    """out (B,) <- weight times the largest (or the least) of each sample."""
    flat = x.flatten(1)
    out.copy_((flat.amax(1) if top else flat.amin(1)) * weight)


call = public(scaled_largest)


def given():
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.empty(4, dtype=torch.float64), x


def test_a_declaration_is_enough():
    out, x = given()
    for args, named, want in (
        ((), {}, x.amax(1)),
        ((2.0,), {}, 2.0 * x.amax(1)),
        ((), {"top": False}, x.amin(1)),
        ((), {"weight": torch.arange(4.0), "top": True}, torch.arange(4.0) * x.amax(1)),
    ):
        call(out, x, *args, **named)
        assert torch.equal(out, want)
    with pytest.raises(TypeError):
        call(out)


@pytest.mark.parametrize("how", ["compile", "make_fx"])
def test_it_is_a_node_of_a_trace(how):
    def both(x):
        out = torch.empty(4, dtype=torch.float64)
        call(out, x, 2.0)
        return out

    assert ops.LIBRARY is not None
    _, x = given()
    graph = make_fx(both)(x)
    assert "odesolve.scaled_largest.default" in {str(n.target) for n in graph.graph.nodes}
    traced = graph if how == "make_fx" else torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.equal(traced(x), 2.0 * x.amax(1))


def test_a_backend_without_a_kernel_says_so_once(caplog):
    device = dispatch.backend().devices["cpu"]
    if device == "reference":
        pytest.skip("the reference is all that there is")
    dispatch._fused.cache_clear()
    with caplog.at_level(logging.WARNING, "odesolve"):
        for _ in range(3):
            call(*given())
    assert [r.getMessage() for r in caplog.records] == [
        f"the op 'scaled_largest' has no {device} kernel: its slow reference runs on cpu"
    ]


def test_every_op_has_every_kernel_or_says_why_not():
    native = pytest.importorskip("odesolve.kernels.native")
    from odesolve.kernels.triton import backend as triton

    for name in dispatch.OPS:
        for kind, module in (("native", native), ("triton", triton)):
            left = OPS[name].left if name in OPS else {}
            said = f"{name}: give it a {kind} kernel, or say why not in left={{{kind!r}: ...}}"
            assert hasattr(module, name) != (kind in left), said


def test_what_cannot_be_declared():
    def odd(out: Tensor, x: dict) -> None: ...

    def right(out: Tensor, x: Tensor) -> None: ...

    with pytest.raises(TypeError, match="odd: x is annotated 'dict', which no trace holds"):
        op(writes=("out",), device="out")(odd)
    with pytest.raises(ValueError, match="right has no argument 'y'"):
        op(writes=("out",), device="y")(right)
    with pytest.raises(ValueError, match="an op is called 'scaled_largest' already"):
        op(writes=("out",), device="x")(scaled_largest)
    assert "odd" not in OPS
    assert schema_of(right, ("out",)) == "(Tensor(a!) out, Tensor x) -> ()"
    assert declared.TYPES.keys().isdisjoint(NUMBERS)


def plain(out: Tensor, x: Tensor) -> None:
    """Another op."""


def returning(out: Tensor, x: Tensor) -> Tensor:
    return x


def starred(out: Tensor, *x: Tensor) -> None:
    """As many as there are."""


def combine(out: Tensor, x: Tensor) -> None:
    """A name of the library's."""


@pytest.mark.parametrize(
    ("spec", "options", "told"),
    [
        (plain, {"writes": "out"}, r'writes=\("out",\)'),
        (plain, {"writes": ()}, "give the names of the arguments that it writes into"),
        (plain, {"writes": ("nope",)}, "no argument 'nope'"),
        (plain, {"device": "nope"}, "no argument 'nope'"),
        (plain, {"left": {"cuda": "none"}}, "'cuda': choose from native, triton"),
        (returning, {}, "annotate -> None"),
        (starred, {}, "give it plain arguments, by place"),
        (combine, {}, "called 'combine' already"),
        (scaled_largest, {}, "called 'scaled_largest' already"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(spec, options, told):
    before = dict(OPS)
    with pytest.raises((TypeError, ValueError), match=told):
        op(**{"writes": ("out",), "device": "x", **options})(spec)
    assert before == OPS


def test_what_is_not_declared_is_no_op():
    def scaled_largest(out: Tensor, x: Tensor) -> None:
        """Of the same name."""

    for spec in (plain, scaled_largest):
        with pytest.raises(ValueError, match="is not declared as an op: decorate it"):
            public(spec)
