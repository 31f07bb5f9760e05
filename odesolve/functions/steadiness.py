"""Whether a right-hand side returns the same value twice, and the effect of layers in train mode on
a solve.

A solver by tolerance mistakes random values for an error and shortens its steps without end; a
solver of fixed steps returns a meaningless number. The usual cause is dropout in a network that was
left in train mode."""

from __future__ import annotations

import ctypes
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from odesolve.doors.modes import transformed
from odesolve.doors.values import is_whole, refuse_loose
from odesolve.errors import OdesolveError, short, warn
from odesolve.functions.modules import modules_within

# A difference relative to the root mean square of an answer: sums in another order differ by less,
# also in half precision, and dropout by far more.
APART = 1e-3
# Further calls where the first call drew random numbers. Rejected: one, as a result of few numbers
# is the same by chance in one of twenty cases.
REPEATS = 3
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
SHARES = (nn.MultiheadAttention, nn.RNNBase)  # whose ``dropout`` is a number
MT19937 = 625 * 4  # bytes
COUNTING = nn.modules.batchnorm._NormBase


class Steady:
    """A function that repeats its first call. Raises OdesolveError where the results differ.

    It repeats the call three times where the first moved one of the global random generators
    (torch's, also the device's, numpy's and Python's), or where ``module``, by default the
    function's own, has layers that draw; otherwise once with ``always``. With ``batch``, it repeats
    the call for only that many samples. ``extra`` counts the further calls. Under a transform of
    torch.func, which hides values, the next plain call counts as the first.

    With ``elsewhere``, two times of the network (of one dimension, with a row each), the repeated
    call has the first and the last row at these times: it also raises where the results of other
    rows depend on them, as the solve will give each row its own time."""

    elsewhere: tuple[float, float] | None = None

    def __init__(
        self,
        f: Callable[..., Any],
        name: str = "f",
        always: bool = False,
        batch: int | None = None,
        module: Any = None,
    ):
        self.f = f
        self.name = name
        self.always = always
        self.batch = batch
        self.extra = 0
        self.asked = False
        self.module = module if module is not None else f
        self.arguments: Any = None
        self.__wrapped__ = f  # for inspect.signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.asked or transformed():
            return self.f(*args, **kwargs)
        return self._first(args, kwargs)

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked = True
        question = _copied((args, kwargs))  # a network may work in place
        mixed = self._mixed(question)
        # With ``always`` the last call counts, so that a caller sees what f keeps of its arguments.
        early = [self._again(question if mixed is None else mixed)] if self.always else []
        before = _generators(question)
        out = self.f(*args, **kwargs)
        self._refuse_loose(out)
        drew = draws(self.module) or before != _generators(question)
        if not drew and not self.always:
            return out
        # a copy, as f may return the same buffer each time
        out = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, out)
        later = [self._again(question) for _ in range(REPEATS - len(early) if drew else 0)]
        for other in (*(early if mixed is None else ()), *later):
            check_same(out, other, self.name)
        if mixed is not None:
            calls = self.extra
            self._check_times(out, early[0], question)
            # f may keep its arguments, and further calls came after these: a reference here shows
            # that they may still be in use.
            if self.extra > calls:
                self.arguments = args, kwargs
        return out

    def _mixed(self, question: Any) -> Any:
        """The arguments with the first row, and the last of three or more, at other times; None
        where they have no such times, or where rows depend on each other in train mode, which has a
        warning of its own."""
        if self.elsewhere is None or not self.always:
            return None
        if any(m.training for m in modules_of(self.module) if counting(m)):
            return None
        args, named = _copied(question)
        times = args[1] if len(args) > 1 else None
        if not isinstance(times, Tensor) or times.dim() != 1 or len(times) < 2:
            return None
        first, last = self.elsewhere
        times[0] = first
        if len(times) > 2:
            times[-1] = last
        return args, named

    def _check_times(self, out: Any, other: Any, question: Any) -> None:
        """Compare the results of the rows with the same times. Raises OdesolveError where the times
        of other rows changed them."""
        if not isinstance(out, Tensor) or not isinstance(other, Tensor) or len(other) < 2:
            return
        rows = slice(1, -1) if len(other) > 2 else slice(1, 2)
        if _apart(out.detach()[rows], other[rows]):
            check_same(out, self._again(question), self.name)
        elif _apart(out.detach()[:1], other[:1]) or not self._late(other[:1], question):
            return
        raise OdesolveError(
            f"{self.name} answers for a sample's time by the times of other samples (one time for "
            "all, as t[0] or t.mean() is?), and samples step at times of their own: give "
            'control="batch", which hands one time for all, or let each row of the answer go by '
            "its own row of t"
        )

    def _late(self, first: Tensor, question: Any) -> bool:
        """Whether the first row, whose result did not change with its time, changes where all rows
        have that time: f may use the latest or the earliest time of all, which may be the one at
        which all solves begin."""
        args, named = _copied(question)
        assert self.elsewhere is not None
        args[1][:] = self.elsewhere[0]
        return _apart(self._again((args, named))[:1], first)

    def _again(self, question: Any) -> Any:
        self.extra += 1
        again, named = _copied(self._of_samples(question))
        # In the same mode. Rejected: no_grad, where attention takes other kernels and roundings.
        out = self.f(*again, **named)
        self._refuse_loose(out)
        # a copy, as f may return the same buffer each time
        return pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, out)

    def _refuse_loose(self, out: Any) -> None:
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor):
                refuse_loose(f"what {self.name} returned", x)
                if x.is_meta:
                    raise OdesolveError(
                        f"what {self.name} returned is on the meta device, without numbers: move it"
                    )

    def _of_samples(self, question: Any) -> Any:
        """The arguments for the first ``batch`` samples."""
        sizes = [len(x) for x in pytree.tree_leaves(question) if isinstance(x, Tensor) and x.dim()]
        if self.batch is None or not sizes or max(sizes) <= self.batch:
            return question
        whole = max(sizes)

        def cut(x: Any) -> Any:
            per_sample = isinstance(x, Tensor) and x.dim() and len(x) == whole
            return x[: self.batch] if per_sample else x

        return pytree.tree_map(cut, question)


def check_same(one: Any, other: Any, name: str) -> None:
    """Raise OdesolveError where the results of two equal calls differ by more than rounding; the
    second may have fewer samples."""
    for a, b in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=False):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and _apart(a.detach(), b.detach()):
            cure = "call net.eval()"
            if name == "f":
                cure += ", or draw its random numbers before the solve"
            raise OdesolveError(
                f"{name} answers differently to the same question (dropout in train mode?): {cure}"
            )


def _apart(a: Tensor, b: Tensor) -> bool:
    if a.dim() and b.dim() and len(b) < len(a):
        a = a[: len(b)]
    if a.shape != b.shape or torch.equal(a, b):
        return False
    a, b = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (a, b))
    close = 0.0
    if a.is_floating_point() or a.is_complex():
        close = max(APART, 4 * torch.finfo(a.dtype).eps)
    wide = torch.complex128 if a.is_complex() else torch.float64
    gap = torch.linalg.vector_norm((a - b).to("cpu", wide))
    size = torch.linalg.vector_norm(a.to("cpu", wide))
    return bool(gap > close * size)


def _copied(x: Any) -> Any:
    """The same values with copies of all tensors."""
    if isinstance(x, Tensor):
        return x.detach().clone()
    if type(x) in (tuple, list):
        return type(x)(_copied(v) for v in x)
    if type(x) is dict:
        return {k: _copied(v) for k, v in x.items()}
    return x


def _devices(x: Any) -> set[torch.device]:
    if isinstance(x, Tensor):
        return {x.device} if x.is_cuda else set()
    if type(x) is dict:
        x = list(x.values())
    if type(x) in (tuple, list):
        return set().union(*map(_devices, x))
    return set()


def _generators(question: Any) -> list[Any]:
    """The states of the global random generators that a call may draw from, without waiting for a
    device."""
    states: list[Any] = [torch.default_generator.get_state().numpy().tobytes(), random.getstate()]
    if "numpy" in sys.modules:
        states.append(_numpy_state(sys.modules["numpy"].random.get_bit_generator()))
    for device in _devices(question):
        if not torch.cuda.is_current_stream_capturing():
            generator = torch.cuda.default_generators[device.index]
            states += [device.index, generator.get_state().numpy().tobytes()]
    return states


def _numpy_state(generator: Any) -> Any:
    # The usual one: its state as it lies in memory. Rejected: its property, whose copy costs 0.1
    # ms.
    if type(generator).__name__ == "MT19937":
        return ctypes.string_at(generator.ctypes.state_address, MT19937)
    return repr(generator.state)


def budget(max_calls: int | None) -> float:
    """The number of evaluations that a sample may take, infinite for None. Raises OdesolveError
    unless it is a positive whole number."""
    if max_calls is None:
        return math.inf
    if not is_whole(max_calls, 1):
        raise OdesolveError(
            f"max_calls={short(max_calls)}: give how many evaluations a sample may take, at least 1"
        )
    return int(max_calls)


def steady_model(model: Any, always: bool, batch: int | None = None) -> tuple[Any, Steady]:
    """A model whose network is a ``Steady`` one, and that network."""
    steady = Steady(model.net, "the network", always, batch)
    return model.with_net(steady), steady


def modules_of(f: Any) -> list[nn.Module]:
    """The layers of a module, or of the modules that a function, method or object holds, as far as
    they are cheap to find."""
    return list(dict.fromkeys(layer for module in modules_within(f) for layer in module.modules()))


def draws(f: Any) -> bool:
    """Whether f has layers in train mode that draw random numbers."""
    return any(m.training and _draws(m) for m in modules_of(f))


def counting(layer: nn.Module) -> bool:
    """Whether a layer takes statistics of the whole batch in train mode."""
    return isinstance(layer, COUNTING)


def _draws(layer: nn.Module) -> bool:
    share: Any = getattr(layer, "p", 1.0) if isinstance(layer, RANDOM) else 0.0
    if isinstance(layer, SHARES):
        share = layer.dropout
    return float(share) > 0.0


def mixing(layer: nn.Module) -> bool:
    """Whether a layer makes a sample's result depend on the others of its batch in train mode."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def warn_of_training(f: Any, about: str = "the network", noise: bool = True) -> None:
    """Warn of layers in train mode that change a solve: layers that draw random numbers (with
    ``noise``), which may be intended, and layers through which samples change the results of
    others, or an evaluation those of the next."""
    layers = [m for m in modules_of(f) if m.training]
    if noise and any(map(_draws, layers)):
        warn(
            f"{about} has dropout in train mode, so that every evaluation is random: call "
            "net.eval() if that is not meant"
        )
    if any(map(mixing, layers)):
        warn(
            f"{about} has BatchNorm in train mode, whose statistics every evaluation changes, and "
            "which mixes the samples of a "
            "batch: call net.eval()"
        )
    elif any(counting(m) and m.running_mean is not None for m in layers):
        warn(
            f"{about} has InstanceNorm in train mode, whose statistics every evaluation changes: "
            "call net.eval()"
        )
