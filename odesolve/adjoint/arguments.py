"""What gets gradients besides the first state: tensors among the arguments, and the parameters of f, found or given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError, unknown

MODES = ("backprop", "continuous", "reversible")
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Wanted:
    """The arguments of f, which of them want gradients, and parameters; ``found`` says that nobody listed them."""

    args: Arguments
    places: tuple[int, ...]
    params: tuple[Tensor, ...]
    found: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that gets a gradient, in order: arguments, then parameters."""
        return (*(self.args[i] for i in self.places), *self.params)

    def leaves(self) -> tuple[Arguments, tuple[Tensor, ...]]:
        """The arguments with leaves of their own in place of those that want gradients, and ``tensors`` with these leaves."""
        args = list(self.args)
        for i in self.places:
            args[i] = self.args[i].detach().requires_grad_()
        return tuple(args), (*(args[i] for i in self.places), *self.params)

    def check(self, out: Tensor, own: Sequence[Tensor]) -> None:
        """Raise OdesolveError if out depends on a parameter that would get no gradient; ``own`` are leaves of this pass."""
        if not self.found:
            return
        known = {id(p) for p in (*self.params, *own)}
        for p in leaves_of(out):
            if id(p) not in known:
                raise OdesolveError(
                    f"f uses a parameter of shape {tuple(p.shape)} that its first evaluation did not use, so it was not found: "
                    "give all as params=[...], such as list(net.parameters())"
                )


def wanted(
    module: Any, call: Callable[[Arguments], Tensor], args: Sequence[Any], params: Sequence[Tensor] | None
) -> Wanted:
    """Arguments and parameters that get gradients.

    Without ``params`` they are those of ``module``, where it is one, and every leaf with ``requires_grad`` that the result of
    ``call(args)`` depends on: one evaluation of f finds what closures, methods and partials hold. A tensor that is itself
    computed from leaves counts by its leaves; where that is expensive, give it in ``args`` or ``params``.
    Raises OdesolveError for ``params`` that hold anything but floating-point tensors with ``requires_grad``.
    """
    places = tuple(i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad)
    if params is not None:
        given = tuple(params)
        for p in given:
            if not isinstance(p, Tensor) or not p.requires_grad:
                what = f"a tensor {tuple(p.shape)} without requires_grad" if isinstance(p, Tensor) else type(p).__name__
                raise OdesolveError(f"params hold {what}: give tensors that require gradients, or leave params out")
        return Wanted(tuple(args), places, given, False)
    first = Wanted(tuple(args), places, (), True)
    copies, leaves = first.leaves()
    with torch.enable_grad():
        out = call(copies)
    known = {id(p) for p in leaves}
    listed = [p for p in module.parameters() if p.requires_grad] if isinstance(module, nn.Module) else []
    seen = {id(p): p for p in (*listed, *leaves_of(out)) if id(p) not in known}
    return Wanted(tuple(args), places, tuple(seen.values()), True)


def leaves_of(out: Tensor) -> list[Tensor]:
    """The leaves that autograd would send a gradient of out to."""
    todo, seen, found = [out.grad_fn], set(), []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.append(leaf)
        todo.extend(before for before, _ in node.next_functions)
    return found


def check_mode(adjoint: str | None, steps: object) -> None:
    """Raise OdesolveError for an unknown way to gradients, or one that needs steps of one size."""
    if adjoint is not None and adjoint not in MODES:
        raise unknown("adjoint", adjoint, MODES)
    if adjoint == "reversible" and steps is None:
        raise OdesolveError('adjoint="reversible" takes steps of one size: give steps=, such as steps=20')
