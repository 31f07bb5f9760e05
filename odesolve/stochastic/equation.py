"""Drift and diffusion as the formulas of a step call them: values in, values out, whatever the form
of the user's state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, short, unknown
from odesolve.functions.callee import Callee
from odesolve.functions.graphs import Followed
from odesolve.functions.pairing import converted, pairs
from odesolve.functions.torch_func import refuse_inside
from odesolve.ode.drift import Drift
from odesolve.stochastic.fused import Combination, Number, Workspace

NOISES = ("diagonal", "additive", "scalar", "general")


class Matrix:
    """A diffusion (B, ..., m) as a factor of an increment (B, m) of m Brownian motions per
    sample."""

    def __init__(self, space: Any, value: Tensor):
        self.space = space
        self.value = value

    def __mul__(self, w: Tensor) -> Any:
        # Rejected: a matrix product, whose sums depend on the batch.
        batch, motions = w.shape
        between = [1] * (self.value.dim() - 2)
        rows = w.to(self.value.dtype).view(batch, *between, motions)
        return self.space.tensor((self.value * rows).sum(-1))


class Equation:
    """dy = f dt + g dW on samples (B, ...): ``noise`` says what W is.

    "diagonal": one Brownian motion per element, g of y's shape. "additive": the same, and g does
    not depend on y: a number, a tensor, or a function of t, or of t and y. "scalar": one Brownian
    motion per sample, g of y's shape. "general": m of them per sample, g of shape (B, ..., m). All
    are real: a complex element has one, which both parts of its pair share. Raises OdesolveError
    for a g of another form."""

    def __init__(self, drift: Drift, g: Any, noise: str, keys: Tensor):
        if noise not in NOISES:
            raise unknown("noise", noise, NOISES)
        self.drift = drift
        self.noise = noise
        self.space = Workspace(drift.start, keys)
        self.followed = Followed("g")
        called, self._of_time = _diffusion(g, noise)
        self._g = Callee(called, "g") if callable(g) else called
        self.complex = any(drift.tails)
        self._constant = float(g) if isinstance(g, (int, float)) and not self.complex else None
        self._times: dict[float, Tensor] = {}
        self.drifts: list[Tensor] = []
        self.diffusions: list[Any] = []

    def begin(self) -> None:
        """Start a step: ``drifts`` and ``diffusions`` collect what f and g return in it."""
        self.space.begin()
        self.drifts = []
        self.diffusions = []
        self._times.clear()

    @property
    def keys(self) -> Tensor:
        """Seed and id of every running sample, (B, 2)."""
        return self.space.keys

    def keep(self, like: Tensor, index: Tensor) -> None:
        """Go on with these of the running samples, whose states look like this."""
        self.space = Workspace(like, self.keys[index])

    def time(self, t: Number) -> Tensor:
        """A time, one for all samples or one each, in the form that f and g take."""
        like = self.space.like
        if isinstance(t, Tensor):
            return self.drift.time(t.to(like.dtype))
        if t not in self._times:
            self._times[t] = self.drift.time(like.new_full((like.shape[0],), t))
        return self._times[t]

    def f(self, x: Combination, t: Number) -> Combination:
        """The drift."""
        self.drifts.append(self.drift(self.time(t), self.space.value(x)))
        return self.space.tensor(self.drifts[-1])

    def tensor_of(self, x: Combination) -> Combination:
        """The same value as a tensor that f and g both read."""
        return self.space.tensor(self.space.value(x))

    def g(self, t: Number, x: Combination) -> Any:
        """The diffusion, as the factor of the increment of W: numbers, a tensor of y's form, or a
        value of scalar noise."""
        self.diffusions.append(self._value(t, self.space.value(x)))
        return self.diffusions[-1]

    def both(self, x: Combination, t: Number, w: Any) -> tuple[Combination, Combination]:
        """The drift, and the diffusion times an increment."""
        g = self.g(t, x)
        return self.f(x, t), g * w

    def increment_shape(self, t: float) -> tuple[int, ...]:
        """Shape of an increment of W: that of the state, (B, 1) for scalar noise, (B, m) for
        general noise with m from g at t."""
        y = self.drift.start
        if self.noise == "scalar":
            return y.shape[0], 1
        if self.noise != "general":
            return _motions(self.drift)
        with torch.no_grad():
            out = self.diffusion(t, y, self.drift.args)
        assert isinstance(out, Tensor)
        return y.shape[0], out.shape[-1]

    def increment(self, w: Tensor) -> Combination:
        """The increment of one Brownian motion per element as a value: both parts of a complex
        number have the same."""
        return self.space.tensor(_spread(self.drift, w) if self.complex else w)

    def check_additive(self, t: float) -> None:
        """Raise OdesolveError for a g of additive noise that depends on y, which the steps would
        not notice."""
        if self.noise != "additive" or self._of_time:
            return
        y = self.drift.start
        args = self.drift.args
        with torch.no_grad():
            here, there = (
                torch.as_tensor(self.diffusion(t, x, args)) for x in (y, y + 1 + y.abs())
            )
        if not torch.equal(here, there):
            raise OdesolveError(
                "g of additive noise returned another value at another y: give noise='diagonal', "
                "or a g of t alone"
            )

    def _value(self, t: Number, y: Tensor) -> Any:
        out = self.diffusion(t, y, self.drift.args)
        if self.noise == "general":
            assert isinstance(out, Tensor)
            return Matrix(self.space, out)
        if self.noise != "scalar":
            return out
        return self.space.tensor(
            out.expand_as(y).contiguous() if isinstance(out, Tensor) else torch.full_like(y, out)
        )

    def diffusion(self, t: Number, y: Tensor, args: tuple[Any, ...]) -> float | Tensor:
        """The value of g at a state (B, ...): a number, a tensor that broadcasts to the state, one
        number per sample (B,), or for general noise a tensor (B, ..., m)."""
        if self._constant is not None:
            return self._constant
        time = self.time(t)

        def call(y: Tensor) -> Any:
            given = time, self.drift.open(y)
            if isinstance(self._g, Callee):
                return self._g(*given, args=args)
            return self._g(*given)

        out = self.followed(call, y) if y.requires_grad and self.noise != "additive" else call(y)
        refuse_inside("what g returned", out, y)
        if isinstance(out, (int, float)) and not self.complex:
            return float(out)
        return self._packed(out, y)

    def _packed(self, out: Any, y: Tensor) -> Tensor:
        """The result of g as a tensor that broadcasts to (B, ...), or one number per sample
        (B,)."""
        drift = self.drift
        batch = y.shape[0]
        lead = (batch,) if drift.by_sample else ()
        try:
            if self.noise == "general":
                if (
                    drift.keys is not None
                    or out.shape[:-1] != (*lead, *drift.shapes[0])
                    or out.shape[-1] == 0
                ):
                    raise TypeError
                columns = self._real(out if drift.by_sample else out[None], 0)
                if self.complex:
                    return columns.movedim(-1, -2)
                return columns
            if isinstance(out, (int, float, complex)):
                out = _tensor(out, y)
                pieces = [out] * len(drift.shapes)
            elif drift.keys is not None:
                pieces = [out[k] for k in drift.keys] if drift.keys else list(out)
            if drift.keys is None:
                return self._alone(out, y)
            flat = [
                _tensor(p, y).expand(*lead, *s) for p, s in zip(pieces, drift.shapes, strict=True)
            ]
            parts = [self._real(p, i).reshape(batch, -1) for i, p in enumerate(flat)]
            return torch.cat(parts, 1)
        except OdesolveError:
            raise
        except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as e:
            form = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            shapes = [(*lead, *s) for s in drift.shapes]
            raise OdesolveError(
                f"g returned {form} for a state of shape "
                f"{shapes if drift.keys is not None else shapes[0]}: return g in the "
                "form of y, with one Brownian motion per element (noise='diagonal' or 'additive') "
                "or per sample ('scalar'), or of a "
                "tensor y (B, ...) a tensor (B, ..., m) with m of them per sample ('general')"
            ) from e

    def _alone(self, out: Tensor, y: Tensor) -> Tensor:
        """``_packed`` for a state that is one tensor."""
        drift = self.drift
        batch = y.shape[0]
        whole = out.expand((batch, *drift.shapes[0]) if drift.by_sample else drift.shapes[0])
        number = self.noise == "additive" and not (self.complex or out.is_complex())
        if number and out.numel() == (batch if out.dim() == y.dim() else 1):
            return out.reshape(-1).double().expand(batch)
        whole = self._real(whole, 0)
        return whole if drift.by_sample else whole.reshape(y.shape)

    def _real(self, out: Tensor, piece: int) -> Tensor:
        """The result of g for a piece of the state, in the real type of the state, complex numbers
        as pairs."""
        instead = "give y0 as complex numbers, or let g return real ones"
        return pairs(converted(out, self.drift.dtypes[piece], "g's result", instead))


def _tensor(value: Any, like: Tensor) -> Tensor:
    """A number in full precision, or a tensor, as a tensor on the state's device."""
    if isinstance(value, (int, float, complex)):
        wide = torch.complex128 if isinstance(value, complex) else torch.float64
        return torch.tensor(value, dtype=wide, device=like.device)
    return torch.as_tensor(value, device=like.device)


def _motions(drift: Drift) -> tuple[int, ...]:
    """Shape of the increments of one Brownian motion for every number of the state, real or
    complex."""
    batch, *shape = drift.start.shape
    if drift.keys is not None:
        return batch, sum(s.numel() for s in drift.shapes)
    if drift.tails[0]:
        return (batch, *(shape[:-1] or (1,)))
    return (batch, *shape)


def _spread(drift: Drift, w: Tensor) -> Tensor:
    """Increments (one per number) as a state, the same for both parts of a complex number."""
    if drift.keys is None:
        both = w.unsqueeze(-1).expand(*w.shape, 2)
        return both.reshape(len(w), *drift.start.shape[1:])
    sizes = [s.numel() for s in drift.shapes]
    parts = zip(w.split(sizes, 1), drift.tails, strict=True)
    return torch.cat([p.repeat_interleave(2, 1) if tail else p for p, tail in parts], 1)


def _diffusion(g: Any, noise: str) -> tuple[Callable[..., Any], bool]:
    """g as a function of (t, y, *args), and whether we know that it depends on time alone."""
    if callable(g):
        of_time = noise == "additive" and _takes_time_only(g)
        return (lambda t, y, *rest: g(t)) if of_time else g, of_time
    if noise != "additive" or not isinstance(
        g, (int, float, complex, Tensor, Mapping, tuple, list)
    ):
        raise OdesolveError(
            f"g is {short(g)}: give a function g(t, y), or a number or a tensor "
            "with noise='additive'"
        )
    return lambda t, y, *rest: g, True


def _takes_time_only(g: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(g).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return False
    return sum(p.kind in kinds and p.default is p.empty for p in parameters) <= 1
