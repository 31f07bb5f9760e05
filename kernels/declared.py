"""What an op is, said once: beside its specification. The public function, the node of a trace and
the choice of a backend follow from it.

An op is a function in plain torch that writes into tensors it is given. Its signature says how it
is called; ``op`` adds what a signature cannot say: which arguments are written, and which one
says where it runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Types of arguments as torch.library writes them. Rejected: torch.library.infer_schema, which knows
# neither tensors that may be numbers nor lists of dtypes.
TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "Sequence[Tensor]": "Tensor[]",
    "Sequence[int]": "int[]",
    "Sequence[dtype]": "ScalarType[]",
    "list[Tensor]": "Tensor[]",
    "None": "()",
    "str": "str",
    "float": "float",
    "bool": "bool",
}
# Arguments that may be numbers in the public form and are tensors in a trace.
NUMBERS = {
    "Scale": "Tensor",
    "Weights": "Tensor",
    "Tensor | int": "Tensor",
    "float | Tensor": "Tensor",
    "Sequence[int] | Tensor": "Tensor",
}


def schema_of(fn: Callable, writes: tuple[str, ...] = ()) -> str:
    """The schema of a function for torch.library, from its annotations. Raises TypeError for one
    that a trace cannot hold."""
    signature = inspect.signature(fn)
    letters = iter("abcdefgh")
    arguments = []
    for name, parameter in signature.parameters.items():
        kind = _type_of(fn, name, parameter.annotation)
        if name in writes:
            kind = kind.replace("Tensor", f"Tensor({next(letters)}!)")
        arguments.append(f"{kind} {name}")
    out = _type_of(fn, "return", signature.return_annotation)
    return f"({', '.join(arguments)}) -> {out}"


def _type_of(fn: Callable, name: str, annotation: object) -> str:
    known = {**TYPES, **NUMBERS}
    text = _text_of(annotation)
    if text not in known:
        raise TypeError(
            f"{fn.__name__}: {name} is annotated {text!r}, which no trace holds: choose from "
            f"{', '.join(map(repr, known))}"
        )
    return known[text]


def _text_of(annotation: object) -> str:
    """An annotation without the modules of its types, whether it was written as a text or not."""
    if isinstance(annotation, type):
        return annotation.__name__
    return re.sub(r"\w+\.", "", str(annotation))


@dataclass(frozen=True)
class Op:
    """An op by its specification. ``writes`` names the arguments that it writes into, ``device``
    the tensor (or the list of tensors) that says where it runs; ``left`` says for backends that
    leave it to the specification why. ``traced`` is False for what runs where nobody traces."""

    spec: Callable[..., None]
    writes: tuple[str, ...]
    device: str
    left: Mapping[str, str] = field(default_factory=dict)
    traced: bool = True

    @property
    def name(self) -> str:
        """The name of the specification is that of the op, everywhere."""
        return self.spec.__name__

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arguments, in order."""
        return tuple(inspect.signature(self.spec).parameters)

    @property
    def where(self) -> str:
        """The expression for the tensor that says where it runs."""
        kind = inspect.signature(self.spec).parameters[self.device].annotation
        return f"{self.device}[0]" if _text_of(kind) == "Sequence[Tensor]" else self.device

    @cached_property
    def schema(self) -> str:
        """For torch.library."""
        return schema_of(self.spec, self.writes)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Places of the arguments that may be numbers."""
        kinds = [p.annotation for p in inspect.signature(self.spec).parameters.values()]
        return tuple(k for k, kind in enumerate(kinds) if _text_of(kind) in NUMBERS)

    @cached_property
    def kind(self) -> int | None:
        """Where the kind of noise stands, if it takes one."""
        if "kind" in self.parameters:
            return self.parameters.index("kind")
        return None


OPS: dict[str, Op] = {}
# Called with every op that is declared: the trace's side, once it has been loaded, is one.
LISTENERS: list[Callable[[Op], None]] = []


def op(
    writes: tuple[str, ...],
    device: str,
    left: Mapping[str, str] | None = None,
    traced: bool = True,
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Declare the function below as the specification of an op of its name; see ``Op``.

    Raises TypeError for a signature that a trace cannot hold, ValueError for a name that is taken,
    for arguments that the specification lacks, and for unknown backends."""

    def declare(spec: Callable[P, None]) -> Callable[P, None]:
        declared = Op(spec, writes, device, left or {}, traced)
        _check(declared)
        # Everything is worked out here: a bad signature is refused where it stands and not in the
        # first trace, and a compiler that follows a call finds plain attributes.
        for name in ("numbers", "kind", *(["schema"] if traced else [])):
            getattr(declared, name)
        OPS[declared.name] = declared
        for listener in LISTENERS:
            listener(declared)
        return spec

    return declare


# ``combine`` and ``combined`` are written by hand, see kernels/ops.
TAKEN = ("combine", "combined")
BACKENDS = ("native", "triton")
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _check(declared: Op) -> None:
    name = declared.name
    if name in OPS or name in TAKEN:
        raise ValueError(f"an op is called {name!r} already: give another name")
    if isinstance(declared.writes, str) or not declared.writes:
        raise ValueError(
            f"{name} has writes={declared.writes!r}: give the names of the arguments that it "
            'writes into, such as writes=("out",)'
        )
    for argument in (*declared.writes, declared.device):
        if argument not in declared.parameters:
            raise ValueError(f"{name} has no argument {argument!r}: name one that it has")
    signature = inspect.signature(declared.spec)
    for parameter in signature.parameters.values():
        if parameter.kind not in POSITIONAL:
            raise TypeError(f"{name} takes {parameter}: give it plain arguments, by place")
    if _text_of(signature.return_annotation) != "None":
        raise TypeError(
            f"{name} returns {_text_of(signature.return_annotation)!r}: annotate -> None and write "
            "into an argument, what it returns is dropped"
        )
    for backend in declared.left:
        if backend not in BACKENDS:
            raise ValueError(f"left has {backend!r}: choose from {', '.join(BACKENDS)}")
