"""Gradient targets besides the first state: tensors among the arguments, and the parameters of f,
listed by the user or detected in an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError, unknown
from odesolve.functions.graphs import nodes_of

MODES = ("backprop", "continuous", "reversible")
VIEWS = ("ViewBackward0", "AliasBackward0")  # of Tensor.view_as
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class GradientTargets:
    """The arguments of f, which of them require gradients, and parameters; ``looked`` says that an
    evaluation of f detected these, as the user listed none."""

    args: Arguments
    places: tuple[int, ...]
    params: tuple[Tensor, ...]
    looked: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that gets a gradient, in order: arguments, then parameters."""
        return (*(self.args[i] for i in self.places), *self.params)

    def leaves(self) -> tuple[Arguments, tuple[Tensor, ...]]:
        """The arguments with fresh leaves in place of those that require gradients, and ``tensors``
        with these leaves."""
        args = list(self.args)
        for i in self.places:
            args[i] = self.args[i].detach().requires_grad_()
        return tuple(args), (*(args[i] for i in self.places), *self.params)

    def check(self, out: Tensor, own: Sequence[Tensor]) -> None:
        """Raise OdesolveError if out depends on a parameter that would get no gradient; ``own`` are
        leaves of this pass."""
        if not self.looked:
            return
        known = {id(p) for p in (*self.params, *own)}
        for p in leaves_of(out, self.params):
            if id(p) not in known:
                raise OdesolveError(
                    f"f uses a tensor of shape {tuple(p.shape)} that requires gradients and was "
                    "not found: it is no parameter "
                    "of f, or its first evaluation did not use it. Give all as params=[...], such "
                    "as list(net.parameters()); "
                    "where it is memory that f writes to again and returns, let f return a new "
                    "tensor"
                )


def gradient_targets(
    module: Any,
    call: Callable[[Sequence[Tensor], Arguments], Tensor],
    ys: Sequence[Tensor],
    args: Sequence[Any],
    params: Sequence[Tensor] | None,
    others: Sequence[Any] = (),
) -> GradientTargets:
    """Arguments and parameters that get gradients.

    Without ``params`` they are those of ``module``, where it is one, otherwise every leaf with
    ``requires_grad`` that the result of ``call(ys, args)`` depends on: one evaluation of f detects
    those in closures, methods and partials. A tensor computed from leaves counts as its leaves;
    where that is expensive, give it in ``args`` or ``params``. ``others`` are further tensors that
    f is known to use. Raises OdesolveError for ``params`` that hold anything but floating-point
    tensors with ``requires_grad``."""
    places = tuple(i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad)
    if params is not None:
        given = tuple(params)
        for p in given:
            if not isinstance(p, Tensor) or not p.requires_grad:
                what = (
                    f"a tensor {tuple(p.shape)} without requires_grad"
                    if isinstance(p, Tensor)
                    else type(p).__name__
                )
                raise OdesolveError(
                    f"params hold {what}: give tensors that require gradients, or leave params out"
                )
        return GradientTargets(tuple(args), places, given, False)
    known = [x for x in others if isinstance(x, Tensor) and x.requires_grad]
    if isinstance(module, nn.Module):
        known += [p for p in module.parameters() if p.requires_grad]
    else:
        copies, own = GradientTargets(tuple(args), places, (), True).leaves()
        states = [y.detach().requires_grad_() for y in ys]
        with torch.enable_grad():
            before = torch.zeros(1, requires_grad=True).view(1).grad_fn
            out = call(states, copies)
        _refuse_views(out, before)
        known += [
            p for p in leaves_of(out, known) if not any(p is mine for mine in (*own, *states))
        ]
    unique = tuple({id(p): p for p in known}.values())
    return GradientTargets(tuple(args), places, unique, True)


def _refuse_views(out: Tensor, before: Any) -> None:
    """Raise OdesolveError for a leaf that f sees through a view of its own shape from before a
    node: torch.autograd.functional creates such views and differentiates by them, and gradients of
    the leaf would bypass them."""
    for node in nodes_of(out.grad_fn):
        inputs = [x for x, _ in node.next_functions]
        leaf = getattr(inputs[0], "variable", None) if inputs else None
        old = node.name() in VIEWS and node._sequence_nr() < before._sequence_nr()
        if old and leaf is not None and tuple(leaf.shape) == tuple(node._input_metadata[0].shape):
            raise OdesolveError(
                f"f holds a view of a tensor {tuple(leaf.shape)} that requires gradients, which "
                "would pass the view by: give the "
                "view as args=(...) of f, or as params=[...]"
            )


def leaves_of(out: Tensor, stops: Sequence[Tensor] = ()) -> list[Tensor]:
    """The leaves that a gradient of out would reach, without going past the tensors ``stops``."""
    hidden = {p.grad_fn for p in stops if p.grad_fn is not None}
    leaves = (getattr(node, "variable", None) for node in nodes_of(out.grad_fn, hidden))
    return [leaf for leaf in leaves if leaf is not None]


def check_mode(adjoint: str | None, steps: object, more: Sequence[object] = ()) -> None:
    """Raise OdesolveError for an unknown ``adjoint``, for one that needs steps of one size, or for
    ``more`` without any."""
    if adjoint is None and any(x is not None for x in more):
        raise OdesolveError(
            'params and adjoint_options are for gradients: give adjoint="backprop" as well'
        )
    if adjoint is not None and adjoint not in MODES:
        raise unknown("adjoint", adjoint, MODES)
    if adjoint == "reversible" and steps is None:
        raise OdesolveError(
            'adjoint="reversible" takes steps of one size: give steps=, such as steps=20'
        )
