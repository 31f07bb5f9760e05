"""Functions of users that differentiate their own state: the way to call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.graphs import nodes_of
from odesolve.functions.tensors import each, tensors_in


class Differentiating:
    """A function that differentiates its state. It is called so that it can: with gradients
    enabled, on a leaf of its own.

    Where nothing outside is recorded, its results hold no graph.
    """

    def __init__(self, fn: Callable[..., Any], what: str, at: int):
        self.fn = fn
        self.what = what
        self.at = at

    def __call__(self, *given: Any, **named: Any) -> Any:
        outside = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            out = self._on_leaves(given, named)[0]
        return out if outside else each(out, Tensor.detach)

    def repeat(
        self,
        recorded: bool | None,
        error: Exception,
        given: Sequence[Any],
        named: Mapping[str, Any],
    ) -> Any:
        """Repeat a call that failed with this error. Raises OdesolveError unless gradients are
        asked for."""
        if recorded is not False:
            outside = torch.is_grad_enabled()
            with torch.inference_mode(False), torch.enable_grad():
                out, leaves = self._on_leaves(given, named)
            if recorded or any(wants_gradients(x, leaves) for x in tensors_in([out])):
                return out if outside else each(out, Tensor.detach)
        raise OdesolveError(
            f"{self.what} differentiates its state, and nothing here asks for gradients of it: let "
            "it do so within torch.enable_grad(), by y = y if y.requires_grad else "
            "y.detach().requires_grad_(), with create_graph=True; or ask for gradients, by a y0 "
            "with requires_grad outside of torch.no_grad"
        ) from error

    def _on_leaves(
        self, given: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[Any, list[Tensor]]:
        given = [each(x, _normal) for x in given]
        named = {k: each(x, _normal) for k, x in named.items()}
        state = given[self.at]
        recorded = any(x.requires_grad for x in tensors_in([state]))
        state = state if recorded else each(state, _leaf)
        given[self.at] = state
        out = self.fn(*given, **named)
        if recorded and not any(x.requires_grad for x in tensors_in([out])):
            raise OdesolveError(
                f"{self.what} differentiates its state, and what it returns has no graph: give "
                "create_graph=True to torch.autograd.grad"
            )
        return out, tensors_in([state])


def _leaf(x: Tensor) -> Tensor:
    """The same values as a leaf, which can be differentiated."""
    if x.is_floating_point() or x.is_complex():
        return x.detach().requires_grad_()
    return x


def _normal(x: Tensor) -> Tensor:
    """A tensor that autograd takes."""
    return x.clone() if x.is_inference() else x


def wants_gradients(out: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether anything but these leaves, such as a parameter, gets gradients from out."""
    variables = (getattr(node, "variable", None) for node in nodes_of(out.grad_fn))
    others = (leaf for leaf in variables if leaf is not None)
    return any(all(leaf is not mine for mine in leaves) for leaf in others)
