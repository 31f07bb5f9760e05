"""The modes of torch in which a function of ours may be called."""

from __future__ import annotations

from torch._C import _functorch  # type: ignore[attr-defined]
from torch.compiler import is_compiling


def transformed() -> bool:
    """Whether a torch.func transform is active, which sees through plain torch ops alone."""
    return not is_compiling() and _functorch.peek_interpreter_stack() is not None
