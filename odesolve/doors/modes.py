"""What torch is doing while a function of ours is called."""

from __future__ import annotations

from torch._C import _functorch  # type: ignore[attr-defined]
from torch.compiler import is_compiling


def transformed() -> bool:
    """Whether a torch.func transform is under way, to which only plain torch ops are
    transparent."""
    return not is_compiling() and _functorch.peek_interpreter_stack() is not None
