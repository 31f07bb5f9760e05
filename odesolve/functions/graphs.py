"""Whether autograd sees how an answer depends on its input: networks and right-hand sides that lose
the graph are refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import get_gradient_edge

from odesolve.doors.modes import transformed
from odesolve.errors import OdesolveError, warn

T = TypeVar("T")
# The relative move of a state that shows whether an answer depends on it: half precision inside of
# f still shows that much.
MOVE = 1e-2
SAME = 64.0  # roundings by which two equal answers may differ


class IndependentAnswer(OdesolveError):
    """A network does not depend on its input, as far as autograd can see."""

    def __init__(self) -> None:
        super().__init__(
            "the network's output does not depend on its input, as far as autograd can see: take "
            "torch.no_grad, inference_mode and detach (.data, numpy) out of the network (where the "
            "field is really constant, return its value + 0 * x)"
        )


def origin(x: Tensor) -> Any:
    """The node of x where gradients by x are recorded, else None. It has to be taken before a call,
    as work in place gives x another node."""
    recorded = x.requires_grad and torch.is_grad_enabled() and not transformed()
    return get_gradient_edge(x).node if recorded else None


def gradients(*args: Any, **options: Any) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad``; raises OdesolveError for a compiled network whose graph can be used
    only once."""
    try:
        return torch.autograd.grad(*args, **options)
    except RuntimeError as e:
        if "donated buffers" not in str(e):
            raise
        raise OdesolveError(
            "the network was compiled so that its graph can be used only once: set "
            "torch._functorch.config.donated_buffer = False before its first call"
        ) from e


def reaches(out: Any, node: Any) -> bool:
    """Whether the graph of out leads to a node."""
    if not isinstance(out, Tensor) or not out.requires_grad:
        return False
    return any(at is node for at in nodes_of(get_gradient_edge(out).node))


def nodes_of(node: Any, stops: Iterable[Any] = ()) -> Iterator[Any]:
    """The nodes that a gradient passes from ``node`` on, each once, without ``stops`` and what lies
    behind them."""
    todo = [node]
    seen = set(stops)
    while todo:
        at = todo.pop()
        if at is not None and at not in seen:
            seen.add(at)
            yield at
            todo.extend(before for before, _ in at.next_functions)


def answer(net: Callable[..., Any], x: Tensor, *args: Any, **cond: Any) -> Any:
    """net(x, *args, **cond), which has to depend on x: by a graph to x where gradients by x are
    recorded, by a tangent in forward differentiation. Raises Independent (an OdesolveError) for an
    answer without either."""
    node = origin(x)
    out = net(x, *args, **cond)
    if node is not None and not reaches(out, node):
        raise IndependentAnswer
    if node is None and transformed() and _moves(x) and not _moves(out):
        raise IndependentAnswer
    return out


class Followed:
    """Calls of a right-hand side ``name``, which may be constant in the state y, but must not
    depend on y behind autograd's back.

    Where gradients by y are recorded, a part of an answer without a graph to y is compared with its
    value at another y: it is refused where it differs. This is done for the 1st, 2nd, 4th, 8th, ...
    of such answers; ``calls`` counts the calls that it took.

    Rejected: a comparison each time, which doubles the calls of a field that is really constant.
    """

    def __init__(self, name: str = "f"):
        self.name = name
        self.lost = 0
        self.calls = 0

    def __call__(self, call: Callable[[Tensor], Any], y: Tensor) -> Any:
        """call(y). Raises OdesolveError for an answer that depends on y without a graph to it."""
        node = origin(y)
        out = call(y)
        if node is not None:
            constant = [k for k, part in _parts(out).items() if not reaches(part, node)]
            if constant:
                self._look(call, y, out, constant)
        return out

    def _look(
        self,
        call: Callable[[Tensor], Any],
        y: Tensor,
        out: Any,
        constant: list[Any],
    ) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1):
            return
        self.calls += 1
        with torch.no_grad():
            again = _parts(call(_moved(y.detach())))
        here = _parts(out)
        if any(_differ(here[k].detach(), again[k]) for k in constant):
            raise OdesolveError(
                f"{self.name} depends on y in a way that autograd does not see, so that gradients "
                "would be wrong: take torch.no_grad, inference_mode, detach, .data and numpy out "
                f"of {self.name} (where it differentiates y, give create_graph=True to "
                "torch.autograd.grad), or call the solver without gradients"
            )


class _FirstOnly(torch.autograd.Function):
    """A value that cannot be differentiated by any of the ``inputs``.

    Rejected: torch's once_differentiable, which raises nothing where the value is constant."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, advice: str, *inputs: Tensor | None) -> Tensor:
        ctx.advice = advice
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        raise OdesolveError(f"this solve's gradients have no gradients of their own: {ctx.advice}")


def first_only(value: Tensor, advice: str, *inputs: Tensor | None) -> Tensor:
    """A gradient that depends on the inputs in a way that was not recorded: differentiating it
    raises OdesolveError."""
    return _FirstOnly.apply(value, advice, *inputs)  # type: ignore[return-value]


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, advice: str, anchors: list[Tensor]) -> Tensor:
        ctx.advice = advice
        ctx.anchors = anchors
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        if torch.is_grad_enabled():
            grad = first_only(grad, ctx.advice, *ctx.anchors)
        return grad, None, None


def differentiable_once(x: Tensor, advice: str) -> Tensor:
    """x, where gradients are right and gradients of gradients would not be: these are refused."""
    # within a list, autograd does not visit the anchor on its way back
    anchors = [first_only(x.new_empty(0), advice, x)]
    return _Guarded.apply(x, advice, anchors)  # type: ignore[return-value]


def _moves(x: Any) -> bool:
    """Whether forward differentiation has a tangent of x."""
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _parts(out: Any) -> dict[Any, Tensor]:
    """The tensors of an answer."""
    if isinstance(out, Mapping):
        items = out.items()
    else:
        items = enumerate(out if isinstance(out, (tuple, list)) else [out])
    return {k: v for k, v in items if isinstance(v, Tensor)}


def _moved(y: Tensor) -> Tensor:
    """A state nearby: each number is moved by another share of its size."""
    shares = torch.linspace(
        0.5 * MOVE, 1.5 * MOVE, y.numel(), dtype=y.dtype, device=y.device
    ).view_as(y)
    return y + shares * (1.0 + y.abs())


def _differ(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape != b.shape or not torch.equal(a, b)
    if not a.numel():
        return False
    size = max(float(a.abs().amax()), float(b.abs().amax()))
    rounding = torch.finfo(a.dtype).eps * size
    return bool(((a - b).abs() > SAME * rounding).any())


def refuse_lost(name: str, state: Any, adjoint: str | None) -> None:
    """Raise OdesolveError for a state that was computed from tensors that ask for gradients, where
    the solve records none.

    For a leaf that asks for them there is a warning.
    """
    asking = _asking(state, adjoint)
    if any(x.grad_fn is not None for x in asking):
        raise OdesolveError(
            f"{name} was computed from tensors that ask for gradients, and this solve makes none: "
            "give adjoint='backprop', or detach() it"
        )
    if asking:
        warn(
            f"{name} asks for gradients, and this solve makes none: give adjoint='backprop' "
            "where there is one, or detach() it"
        )


def tells_lost(place: int, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator that calls ``refuse_lost`` for one argument, for functions that decide themselves
    whether anything is recorded."""

    def decorate(fn: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(fn)
        def outer(*args: Any, **kwargs: Any) -> T:
            state = args[place] if len(args) > place else kwargs.get(name)
            refuse_lost(name, state, kwargs.get("adjoint"))
            return fn(*args, **kwargs)

        return outer

    return decorate


def _asking(state: Any, adjoint: str | None) -> list[Tensor]:
    """The tensors of a state that ask for gradients which are not recorded."""
    if adjoint is not None or not torch.is_grad_enabled():
        return []
    return [x for x in _parts(state).values() if x.requires_grad]
