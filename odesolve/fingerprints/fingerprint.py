"""A SHA-256 of all that answers depend on: another network, condition, function or constant makes
another job."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from odesolve.fingerprints.code import OF_LIBRARIES, Names, of_library
from odesolve.fingerprints.parts import EXACT, Parts, parts_of, unwrapped

KIND = "sha256-1"  # of fingerprints: two kinds cannot be compared
DIGITS = 32
PLAIN = (int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented))
OF_TORCH = (
    torch.dtype,
    torch.layout,
    torch.memory_format,
    torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
)
CHUNK = 1 << 26
NAMED = 12  # levels in the name of a part
SHOWN = 3  # levels of parts whose digests are kept, to name what differs
MOST = 200  # digests of parts that are kept


def fingerprint(value: Any) -> str:
    """Hexadecimal digits of all that decides what a model, a function or any other value answers;
    the same on every device.

    A network counts by its parameters, buffers, attributes, modes, hooks, and the code of the
    user's classes; a function by its code, defaults, closure, and the globals that it names; a
    library by its name; torch.compile and DDP by what they wrap; a dict of weights by their names
    within it; weights that are cut over ranks by this rank's part. An object whose class has a
    method ``__fingerprint__`` counts by what that returns."""
    return ValueWalk().digest(value, "it").hex()[:DIGITS]


def checksum(x: Tensor) -> str:
    """The SHA-256 of a tensor's bytes, dtype and shape."""
    return _of_tensor(x).hex()[:DIGITS]


@dataclass
class _Frame:
    """A value that a walk is inside of: the rest of its parts, and the digests of those before."""

    value: Any
    name: str
    kind: str
    parts: Iterator[tuple[str, Any]]
    ordered: bool
    digests: list[tuple[str, bytes]] = field(default_factory=list)
    label: str = ""

    def close(self) -> bytes:
        digests = self.digests if self.ordered else sorted(self.digests)
        whole = hashlib.sha256(f"{self.kind} {len(digests)} {self.ordered};".encode())
        for label, digest in digests:
            text = label.encode("utf-8", "surrogatepass")
            whole.update(b"%d:" % len(text) + text + digest)
        return whole.digest()


class ValueWalk:
    """One walk through values, however deep and however they refer to each other: it looks at each
    value once.

    ``code=False`` leaves out what depends on Python's version in code. ``tensors`` are the digests
    of an earlier walk, which hold while the tensors are unchanged. Afterwards ``unseen`` has the
    names of values that show nothing, ``shown`` the digests of parts.

    Rejected: recursion, which Python limits to fewer levels than values have."""

    def __init__(self, code: bool = True, tensors: dict[int, tuple[Any, Any, bytes]] | None = None):
        self.code = code
        self.tensors = {} if tensors is None else tensors
        # with the values, so that none takes the place of another
        self.done: dict[int, tuple[Any, bytes]] = {}
        self.unseen: dict[str, str] = {}
        self.shown: dict[str, str] = {}
        self.libraries: set[str] = set()

    def digest(self, value: Any, name: str) -> bytes:
        """The SHA-256 of a value; ``name`` is the first word of the names of its parts."""
        root = unwrapped(value)
        known = self._known(root, name, {})
        if known is not None:
            return known
        stack = [self._opened(root, name, "")]
        depth = {id(root): 0}
        while True:
            frame = stack[-1]
            label, part = next(frame.parts, (None, None))
            if label is None:
                stack.pop()
                del depth[id(frame.value)]
                digest = frame.close()
                self.done[id(frame.value)] = frame.value, digest
                self._show(frame.name, digest)
                if not stack:
                    return digest
                stack[-1].digests.append((frame.label, digest))
                continue
            part = unwrapped(part)
            inner = f"{frame.name}.{label}" if label and len(stack) <= NAMED else frame.name
            digest = self._known(part, inner, depth)
            if digest is not None:
                frame.digests.append((label, digest))
            else:
                depth[id(part)] = len(stack)
                stack.append(self._opened(part, inner, label))

    def _known(self, value: Any, name: str, depth: dict[int, int]) -> bytes | None:
        """The digest of a value without parts, of one that this walk has seen, or of one that this
        walk is inside of; None of others."""
        if id(value) in depth:
            return _sha(f"back to {len(depth) - depth[id(value)]}")
        digest = self._plain(value)
        if digest is None and id(value) in self.done:
            return self.done[id(value)][1]
        if digest is not None:
            self._show(name, digest)
        return digest

    def _plain(self, value: Any) -> bytes | None:
        kind: Any = type(value)
        if kind in PLAIN:
            return _sha(_written(value))
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            named = "ndarray" if kind is np.memmap else kind.__name__
            return _sha(
                f"{named} {value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes()
            )
        if isinstance(value, torch.device):
            return _sha("device")
        if isinstance(value, OF_TORCH):
            return _sha(str(value))
        return _of_plain(value) if kind is list or kind is tuple else None  # type: ignore[arg-type]

    def _tensor(self, x: Tensor) -> bytes:
        state = None if x.is_inference() else (x._version, x.device, _address(x))
        entry = self.tensors.get(id(x))
        if entry is None or state is None or entry[1] != state:
            entry = self.tensors[id(x)] = x, state, self._bytes(x)
        return entry[2]

    def _bytes(self, x: Tensor) -> bytes:
        if isinstance(x, UninitializedParameter | UninitializedBuffer):
            return _sha("uninitialised")
        try:
            return _of_tensor(x)
        # kinds of tensors that have no bytes of their own
        except (RuntimeError, NotImplementedError, TypeError):
            self.unseen.setdefault("a tensor", f"{type(x).__module__}.{type(x).__qualname__}")
            return _sha("unseen")

    def _opened(self, value: Any, name: str, label: str) -> _Frame:
        try:
            kind, parts, ordered = self._parts(value)
            parts = list(parts)
        except Exception:  # Unseen, and any error of the object itself
            self.unseen.setdefault(name, f"{type(value).__module__}.{type(value).__qualname__}")
            kind = "unseen"
            parts = [("class", type(value))]
            ordered = True
        return _Frame(value, name, kind, iter(parts), ordered, label=label)

    def _parts(self, value: Any) -> Parts:
        if isinstance(value, np.ndarray):
            return Parts("objects", [("shape", value.shape), ("held", value.ravel().tolist())])
        look = EXACT.get(type(value), parts_of)
        parts = look(value)
        if isinstance(value, type) and of_library(value):
            self.libraries.add(value.__module__.partition(".")[0])
        elif isinstance(value, Names) and parts.kind == "library":
            self.libraries.add(value.module.__name__.partition(".")[0])
        if parts.kind == "code" and not self.code:
            kept = [part for part in parts.parts if part[0] in ("shape", "arguments")]
            return Parts("code", kept)
        return parts

    def _show(self, name: str, digest: bytes) -> None:
        if name.count(".") <= SHOWN and name not in self.shown:
            self.shown[name] = digest.hex()[:8]

    def parts(self) -> dict[str, str]:
        """The digests of parts by name, as many levels of them as fit into ``MOST``."""
        for level in range(SHOWN, 0, -1):
            kept = {name: v for name, v in self.shown.items() if name.count(".") <= level}
            if len(kept) <= MOST:
                return kept
        return {}

    def versions(self) -> dict[str, str]:
        """The versions of libraries whose classes and modules stand by their names."""
        apart = (*OF_LIBRARIES, *sys.stdlib_module_names)
        versions = {}
        for name in sorted(self.libraries.difference(apart)):
            version = getattr(sys.modules.get(name), "__version__", None)
            if version is not None:
                versions[name] = str(version)
        return versions


def _written(value: Any) -> str:
    return f"{type(value).__name__} {hex(value) if type(value) is int else repr(value)}"


def _sha(text: str, body: bytes = b"") -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass") + b"\0" + body).digest()


def _of_plain(values: list[Any] | tuple[Any, ...]) -> bytes | None:
    """The digest of a list of plain values at once; None for one that holds other things."""
    if not all(type(v) in PLAIN for v in values):
        return None
    text = "\n".join(map(_written, values))
    return _sha(f"{type(values).__name__} {len(values)} {text}")


def _address(x: Tensor) -> int:
    try:
        return x.data_ptr()
    except (RuntimeError, NotImplementedError):  # of sparse tensors, and of wrappers
        return 0


def _of_tensor(x: Tensor) -> bytes:
    x = x.detach()
    whole = hashlib.sha256(f"{x.dtype} {tuple(x.shape)};".encode())
    if hasattr(x, "to_local"):  # a DTensor: this rank's part, and how it is cut
        whole.update(f"{x.placements} of {tuple(x.device_mesh.shape)};".encode())  # type: ignore[attr-defined]
        x = x.to_local()  # type: ignore[attr-defined]
    if x.is_meta:
        return whole.digest()
    if x.layout != torch.strided:
        x = x.to_dense()
    if x.is_quantized:
        whole.update(f"{x.qscheme()};".encode())
        x = torch.stack([x.dequantize(), x.int_repr().to(torch.float32)])
    flat = x.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    for part in flat.split(CHUNK):
        whole.update(part.cpu().numpy().data)
    return whole.digest()
