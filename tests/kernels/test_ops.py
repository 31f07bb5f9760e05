"""The ops seen from outside: autograd, torch.func, fake tensors, compile and make_fx agree with the
eager call."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from odesolve.kernels import control, dispatch, philox, reference
from odesolve.kernels.declared import OPS
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from tests.products import diagonal

KEYS = philox.keys(5, torch.arange(3))
STREAMS = (3, 2**63 + 7)
BASES = ([0, 0], [-1, 1], [2, -1], [2, 2])


@pytest.fixture(autouse=True)
def _nan_memory():
    """The folder's poisoned torch.empty, a Python function, cannot be traced."""


def tensors(n, grad=False):
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 2, 2, dtype=torch.float64, generator=g).requires_grad_(grad)
        for _ in range(n)
    ]


def weights(per_sample=False, grad=False):
    shape = (3, 2, 5) if per_sample else (2, 5)
    g = torch.Generator().manual_seed(1)
    return torch.randn(shape, dtype=torch.float64, generator=g).requires_grad_(grad)


@pytest.mark.few(2)
@pytest.mark.parametrize(("base", "per_sample"), diagonal(BASES, [False, True]))
def test_first_and_second_derivatives(base, per_sample):
    def f(w, *ins):
        return tuple(dispatch.combined(ins, w, base, KEYS, STREAMS))

    given = (weights(per_sample, grad=True), *tensors(3, grad=True))
    assert gradcheck(f, given)
    assert gradgradcheck(f, given)


@pytest.mark.parametrize(("base", "per_sample"), list(product(BASES, [False, True])))
def test_gradients_equal_those_of_plain_torch(base, per_sample):
    """Half-precision inputs keep their dtype; the backward pass is the same op, so it agrees to
    rounding."""
    w = weights(per_sample)
    results = []
    for combined in (dispatch.combined, reference.combined):
        ins = [x.detach().float().requires_grad_() for x in tensors(3)]
        ins[1] = ins[1].detach().bfloat16().requires_grad_()
        outs = combined(ins, w, base, KEYS, STREAMS, [torch.float32, torch.bfloat16])
        loss = sum((o.float() * (k + 1)).sin().sum() for k, o in enumerate(outs))
        results.append([*outs, *torch.autograd.grad(loss, ins)])
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(
            got, want, rtol=2.0**-7 if got.dtype == torch.bfloat16 else 1e-5, atol=1e-6
        )


def test_a_zero_weight_keeps_nan_out_of_the_gradient():
    good, bad = (
        torch.ones(1, 2, requires_grad=True),
        torch.full((1, 2), float("nan"), requires_grad=True),
    )
    (out,) = dispatch.combined([good, bad], torch.tensor([[2.0, 0.0]], dtype=torch.float64), [-1])
    assert out.tolist() == [[2.0, 2.0]]
    grads = torch.autograd.grad(out.sum(), [good, bad])
    assert [g.tolist() for g in grads] == [[[2.0, 2.0]], [[0.0, 0.0]]]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transforms_of_torch_func():
    ins, w = tensors(3), weights()[:, :3]
    whole = dispatch.combined(ins, w, [0, -1])

    def first(*xs):
        return dispatch.combined(xs, w, [0, -1])[0]

    mapped = torch.func.vmap(lambda *xs: first(*(x[None] for x in xs))[0])(*ins)
    torch.testing.assert_close(mapped, whole[0])
    _, tangent = torch.func.jvp(lambda x: first(x, *ins[1:]), (ins[0],), (ins[1],))
    torch.testing.assert_close(tangent, (1 + w[0, 0]) * ins[1])
    torch.testing.assert_close(
        torch.func.grad(lambda x: first(x, *ins[1:]).sum())(ins[0]), (1 + w[0, 0]).expand(3, 2, 2)
    )


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad):
    args = (
        tensors(3, grad),
        weights(grad=grad),
        [0, -1],
        KEYS,
        [3, 7],
        [torch.float64, torch.float64],
    )
    # test_schema cannot convert a list of dtypes.
    utilities = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.odesolve.combined.default, args, test_utils=utilities)


ROWS = weights()[:, :2].tolist()


def everything(a, b):
    """Every op once, on what the others made."""
    outs, norm = [torch.empty_like(a) for _ in range(2)], torch.empty(3, dtype=a.dtype)
    error = reference.ErrorNorm(norm, 1e-3, torch.full((3,), 1e-2, dtype=a.dtype))
    dispatch.combine(outs, [a, b], [*ROWS, [0.5, -0.5]], [0, -1], error=error)
    drawn = torch.empty_like(a)
    dispatch.normal(drawn, KEYS, STREAMS[1])
    numbers = torch.zeros(4, 3, dtype=a.dtype)
    for k, (name, *args) in enumerate(
        (
            ("inner", a, drawn, 2.0),
            ("quadratic_form", b, KEYS, 4),
            ("quantile", outs[0], 0.7),
            ("rms", a, b, drawn, 0.1, 0.2),
        )
    ):
        row = torch.empty_like(numbers[k])
        getattr(dispatch, name)(row, *args)
        numbers[k] = row
    old, window, residual = (
        torch.stack([a, b]),
        torch.empty(2, *a.shape, dtype=a.dtype),
        torch.empty(2, 3, dtype=a.dtype),
    )
    table = torch.tensor([[0.3, 0.1], [0.2, 0.7]], dtype=a.dtype)
    dispatch.window(
        window, residual, drawn, old, [old], table, table[0], KEYS, torch.tensor([1, 2])
    )
    state, steps, times = (
        torch.ones(control.ROWS, 3, dtype=a.dtype),
        torch.zeros(3, 2, dtype=a.dtype),
        a.new_zeros(1, 3),
    )
    state[control.STATUS], state[control.END], state[control.SHORTEST] = 0.0, 9.0, 0.0
    settings = torch.tensor(
        [0.2, 0.0, 0.0, 0.2, 0.9, 0.2, 10.0, 0.0, 1e-4, 5.0, 99.0, 6.0], dtype=a.dtype
    )
    dispatch.control(state, norm.double(), steps, times, table.round() + 1, table[0, :1], settings)
    sums = [torch.empty_like(a) for _ in range(2)]
    dispatch.normal_sums(sums, KEYS, STREAMS, ROWS)
    dispatch.normal_sums(sums, KEYS, torch.arange(6).view(3, 2), table.expand(3, 2, 2), True)
    order = torch.empty(3, dtype=torch.int64)
    dispatch.assignment(order, a.flatten(1)[:, :3] + torch.eye(3, dtype=a.dtype))
    return (*outs, norm, drawn, numbers, window, residual, state, steps, times, *sums, order)


@pytest.mark.parametrize("how", ["compile", "make_fx"])
def test_traced_equals_eager(how):
    a, b = tensors(2)
    traced = (
        torch.compile(everything, fullgraph=True, backend="aot_eager")
        if how == "compile"
        else make_fx(everything)(a, b)
    )
    for got, want in zip(traced(a, b), everything(a, b), strict=True):
        # a norm apart sums in another order
        torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


def test_every_op_is_a_node_of_its_own():
    a, b = tensors(2)
    targets = {str(n.target) for n in make_fx(everything)(a, b).graph.nodes}
    shown = {name for name in dispatch.OPS if name in OPS and OPS[name].traced}
    missing = {f"odesolve.{name}.default" for name in (*shown, "combined")} - targets
    assert not missing, "call these in everything, above"


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        outs = everything(
            torch.empty(3, 2, 2, dtype=torch.float64), torch.empty(3, 2, 2, dtype=torch.float64)
        )
    assert [tuple(o.shape) for o in outs] == [(3, 2, 2)] * 2 + [
        (3,),
        (3, 2, 2),
        (4, 3),
        (2, 3, 2, 2),
        (2, 3),
        (control.ROWS, 3),
        (3, 2),
        (1, 3),
        (3, 2, 2),
        (3, 2, 2),
        (3,),
    ]
