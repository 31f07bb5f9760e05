"""Which implementation of the ops runs: one schema, one choice a device, said out loud."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from odesolve.kernels import declared, reference
from odesolve.kernels.declared import P
from odesolve.kernels.reference import ErrorNorm, Weights
from torch import Tensor
from torch._C import _len_torch_dispatch_stack  # type: ignore[attr-defined]
from torch.compiler import is_compiling

from odesolve.doors.modes import transformed
from odesolve.doors.words import fits

OPS = ("combine", *declared.OPS)  # of the library; others may be declared
# Module of each backend and the type of device it serves. A backend's function returns False for
# arguments that it leaves to the reference (a layout or a dtype without a kernel), and has written
# nothing then.
FEW = 8  # streams that every backend draws in one pass
BACKENDS = {
    "reference": ("reference", ""),
    "native": ("native", "cpu"),
    "triton": ("triton.backend", "cuda"),
}


@dataclass(frozen=True)
class Backend:
    """What runs: ``name`` on this machine's fastest device, ``devices`` on each type of device, and
    which ops there are.

    ``refused`` says of each known backend that is not in use why.
    """

    name: str
    devices: dict[str, str]
    ops: tuple[str, ...]
    refused: dict[str, str]

    def __str__(self) -> str:
        used = ", ".join(f"{v} on {k}" for k, v in self.devices.items())
        return "; ".join([f"{self.name} ({used})", *(f"{k}: {v}" for k, v in self.refused.items())])


@fits
@functools.lru_cache(1)
def backend() -> Backend:
    """The backends in use; ``ODESOLVE_BACKEND`` forces one. Raises RuntimeError if the forced one
    is not there.

    Example:
        >>> import odesolve as ode
        >>> sorted(ode.backend().devices)
        ['cpu', 'cuda']
    """
    wanted = os.environ.get("ODESOLVE_BACKEND")
    if wanted is not None and wanted not in BACKENDS:
        raise RuntimeError(
            f"ODESOLVE_BACKEND={wanted!r} is not available: choose from {', '.join(BACKENDS)}"
        )
    refused = {k: why for k in BACKENDS if (why := _refusal(k))}
    if wanted in refused:
        raise RuntimeError(f"ODESOLVE_BACKEND={wanted!r} is not available: {refused[wanted]}")
    if wanted is None and "native" in refused:
        logging.getLogger("odesolve").warning(
            "the slow reference kernels run on the CPU: %s", refused["native"]
        )
    if wanted is not None:
        refused.update(
            {k: f"ODESOLVE_BACKEND={wanted}" for k in BACKENDS if k not in (wanted, *refused)}
        )
    serving = {kind: k for k, (_, kind) in BACKENDS.items() if k not in refused}
    devices = {kind: serving.get(kind, "reference") for kind in ("cpu", "cuda")}
    if wanted == "triton" and not torch.cuda.is_available():
        devices["cpu"] = "triton"  # its interpreter runs on CPU tensors
    return Backend(
        wanted or devices["cuda" if torch.cuda.is_available() else "cpu"], devices, OPS, refused
    )


def _refusal(name: str) -> str:
    """Why a backend cannot run here, "" if it can."""
    if (
        name == "triton"
        and not torch.cuda.is_available()
        and os.environ.get("TRITON_INTERPRET") != "1"
    ):
        return "no CUDA or ROCm device"  # said before Triton is imported, which takes a second
    try:
        return getattr(_module(name), "refusal", lambda: "")()
    except ImportError as e:
        return str(e)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"odesolve.kernels.{BACKENDS[name][0]}")


@functools.cache
def implementation(name: str, device: str) -> Callable[..., bool | None] | None:
    """The fused implementation of an op on a type of device, or None."""
    served = backend().devices.get(device, "reference")
    if served != "reference":
        return getattr(_module(served), name, None)
    return None


def _refuse(*args) -> bool:
    return False


@functools.cache
def _fused(name: str) -> tuple[Callable[..., bool | None], Callable[..., bool | None]]:
    """The implementations for CPU tensors and for others; one that always refuses where there is
    none."""
    return implementation(name, "cpu") or _missing(name, "cpu"), (
        implementation(name, "cuda") or _missing(name, "cuda")
    )


def _missing(name: str, device: str) -> Callable[..., bool]:
    """What runs where a backend has no kernel for an op: nothing, so that the reference does. It
    says so once, unless the op's declaration says that this is meant: a forgotten line must not
    pass as a slow machine."""
    served = backend().devices.get(device, "reference")
    if served == "reference" or served in _left(name):
        return _refuse
    flags: list[bool] = []

    def refuse(*args) -> bool:
        if not flags:
            flags.append(True)
            logging.getLogger("odesolve").warning(
                "the op %r has no %s kernel: its slow reference runs on %s", name, served, device
            )
        return False

    return refuse


def _left(name: str) -> Mapping[str, str]:
    """The backends that leave an op to the reference on purpose, and why."""
    if name in declared.OPS:
        return declared.OPS[name].left
    return {}


def traced(x: Tensor) -> bool:
    """Whether somebody watches the ops on x (compile, export, make_fx, fake tensors, subclasses),
    so that the op must show."""
    return is_compiling() or _len_torch_dispatch_stack() > 0 or type(x) is not Tensor


def run(name: str, x: Tensor, *args) -> None:
    """One op on the backend of x's device: fused where it can be, else the reference; one node
    where it is traced."""
    if traced(x):
        from odesolve.kernels import ops

        ops.run(name, args)
        return
    on_cpu, elsewhere = _fused(name)
    if (on_cpu if x.is_cpu else elsewhere)(*args) is False:
        declared.OPS[name].spec(*args)


def public(spec: Callable[P, None]) -> Callable[P, None]:
    """The op that a specification was declared as, to be called: by the same arguments, on the
    fastest backend.

    It is compiled from one line, as a dataclass's methods are. Rejected: a wrapper that takes *args
    and binds them, at twice the cost of a small op."""
    op = declared.OPS.get(spec.__name__)
    if op is None or op.spec is not spec:
        raise ValueError(
            f"{spec.__name__} is not declared as an op: decorate it with "
            "kernels.declared.op(writes=..., device=...)"
        )
    names = ", ".join(op.parameters)
    source = f"def {op.name}({names}): run({op.name!r}, {op.where}, {names})"
    namespace: dict[str, Callable[P, None]] = {}
    exec(source, {"run": run}, namespace)
    call = functools.update_wrapper(namespace[op.name], spec)
    call.__defaults__ = spec.__defaults__  # type: ignore[attr-defined]
    return call


def combine(
    outs: Sequence[Tensor],
    ins: Sequence[Tensor],
    weights: Weights,
    base: Sequence[int],
    keys: Tensor | None = None,
    streams: Sequence[int] = (),
    error: ErrorNorm | None = None,
) -> None:
    """A block of linear combinations and noise in one pass over memory; ``reference.combine`` is
    its contract.

    Not differentiable: ``combined`` is.
    """
    x = ins[0]
    # ``traced``, written out: this is the call that every step makes.
    if is_compiling() or _len_torch_dispatch_stack() or type(x) is not Tensor:
        _combine_traced(outs, ins, weights, base, keys, streams, error)
        return
    on_cpu, elsewhere = _fused("combine")
    if (on_cpu if x.is_cpu else elsewhere)(outs, ins, weights, base, keys, streams, error) is False:
        if len(streams) > FEW and error is None:
            _combine_sums(outs, ins, weights, base, keys, streams)
        else:
            reference.combine(outs, ins, weights, base, keys, streams, error)


def _combine_sums(
    outs,
    ins,
    weights,
    base,
    keys,
    streams,
) -> None:
    """``combine`` in two passes, for more streams than a kernel takes: the noise of every output is
    one input more."""
    n_in = len(ins)
    table = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float64)
    wide = torch.float64 if any(t.dtype == torch.float64 for t in (*outs, *ins)) else torch.float32
    sums = [torch.empty_like(o, dtype=wide) for o in outs]
    normal_sums(sums, keys, streams, table[..., n_in:])
    unit = torch.eye(len(outs), dtype=table.dtype, device=table.device).expand(
        *table.shape[:-1], -1
    )
    combine(outs, [*ins, *sums], torch.cat([table[..., :n_in], unit], -1), base)


def _combine_traced(
    outs,
    ins,
    weights,
    base,
    keys,
    streams,
    error,
) -> None:
    weights = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float64)
    dtypes = [o.dtype for o in outs]
    if error is not None:
        base = [*base, -1]
        dtypes = [*dtypes, error.out.dtype]
    values = combined(ins, weights, base, keys, streams, dtypes)
    for out, value in zip(outs, values, strict=False):
        out.copy_(value)
    if error is not None:
        rms(error.out, values[-1], ins[0], outs[0], error.rtol, error.atol)


def combined(
    ins: Sequence[Tensor],
    weights: Tensor,
    base: Sequence[int],
    keys: Tensor | None = None,
    streams: Sequence[int] = (),
    dtypes: Sequence[torch.dtype] | None = None,
) -> list[Tensor]:
    """The outputs of ``combine`` as new tensors (of the first input's dtype unless given):
    differentiable and traceable."""
    x = ins[0]
    dtypes = [x.dtype] * len(base) if dtypes is None else list(dtypes)
    if transformed():
        return reference.combined(ins, weights, base, keys, streams, dtypes)
    watched = torch.is_grad_enabled() and (
        weights.requires_grad or any(t.requires_grad for t in ins)
    )
    if watched or traced(x):
        from odesolve.kernels import ops

        return ops.combined(ins, weights, base, keys, streams, dtypes, watched)
    outs = [torch.empty_like(x, dtype=d) for d in dtypes]
    combine(outs, ins, weights, base, keys, streams)
    return outs


combine_row = public(reference.combine_row)
normal = public(reference.normal)
rms = public(reference.rms)
inner = public(reference.inner)
quadratic_form = public(reference.quadratic_form)
quantile = public(reference.quantile)
window = public(reference.window)
control = public(reference.control)
normal_sums = public(reference.normal_sums)
assignment = public(reference.assignment)
