"""torchsde's Brownian motions, on the library's Brownian tree: values do not depend on earlier
calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.annotations import meant, text
from odesolve.doors.values import is_whole, real
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, unknown, warn
from odesolve.functions.pairing import numbers, real_type
from odesolve.kernels.dispatch import normal
from odesolve.noise import brownian
from odesolve.noise.keys import fresh_seed, seed_of
from odesolve.noise.levy import levy_area
from odesolve.noise.stream_numbers import LEVY

AREAS = ("none", "space-time", "davie", "foster")
FINEST = 32  # levels of the tree without a tolerance
ROUNDING = 2.0**-20  # of a time, by which it may lie outside without a warning
MIX = 0x9E3779B97F4A7C15  # spreads two numbers over the streams of Levy areas

Scalar = float | Tensor


@fits
class BaseBrownian:
    """What sdeint takes as a Brownian motion: a callable bm(ta, tb) with a ``shape`` (B, m) and
    ``levy_area_approximation``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    levy_area_approximation: str

    def __call__(
        self,
        ta: Scalar,
        tb: Scalar | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment over [ta, tb]; a subclass of yours defines it."""
        raise NotImplementedError

    def size(self) -> tuple[int, ...]:
        """The shape."""
        return self.shape


class BrownianInterval(BaseBrownian):
    """A Brownian motion on [t0, t1]: ``bm(ta, tb)`` is its increment, ``size``.

    Args:
        t0, t1: the interval. Times outside are moved to its nearer end, with a warning unless
            rounding explains them.
        size: of an increment, (B, ..., m); () and (B,) are motions in one dimension.
        dtype, device: of the increments; by default torch's type and the CPU. Complex ones are
            circularly symmetric, E |W|^2 = t.
        entropy: the path is a function of it alone, and of the sample's place in the batch; torch's
            generator gives one.
        tol: to which times are resolved; 2^-32 of the interval by default.
        levy_area_approximation: "none"; "space-time": also U, the integral of W - W(ta); "davie" or
            "foster": also A, Levy areas of the last dimension, drawn given both. They belong to an
            interval: those of its two halves do not determine its own.
        W, H: the increment over [t0, t1], and its space-time area, where they are known.
        dt, pool_size, cache_size, halfway_tree: without effect.

    Raises OdesolveError for what cannot be used, and for ta > tb.
    """

    @meant(levy_area_approximation=text("space-time"))
    def __init__(
        self,
        t0: Scalar = 0.0,
        t1: Scalar = 1.0,
        size: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        entropy: int | None = None,
        dt: Scalar | None = None,
        tol: Scalar = 0.0,
        pool_size: int = 8,
        cache_size: int | None = 45,
        halfway_tree: bool = False,
        levy_area_approximation: str = "none",
        W: Tensor | None = None,
        H: Tensor | None = None,
    ):
        if levy_area_approximation not in AREAS:
            raise unknown("levy_area_approximation", levy_area_approximation, AREAS)
        self.shape, self.dtype, self.device = _kind(size, dtype, device, W=W, H=H)
        self.levy_area_approximation = levy_area_approximation
        if self.dtype.is_complex and levy_area_approximation in ("davie", "foster"):
            raise OdesolveError(
                "complex motions have no Levy areas of pairs: give a real dtype, or 'space-time'"
            )
        self.entropy = fresh_seed() if entropy is None else seed_of(entropy, "entropy")
        self.dt = dt
        self.tol = _number("tol", tol)
        self.pool_size = pool_size
        self.cache_size = cache_size
        self.halfway_tree = halfway_tree
        self._start = _number("t0", t0)
        self._end = _number("t1", t1)
        _check_unused(dt, self.tol, halfway_tree)
        real = real_type(self.dtype)
        wide = real if real in (torch.float32, torch.float64) else torch.float32
        self._path = brownian.BrownianPath(
            (*(self.shape or (1,)), 2) if self.dtype.is_complex else self.shape or (1,),
            _ends(self._start, self._end),
            self.entropy,
            area=levy_area_approximation != "none",
            dtype=wide,
            device=self.device,
            depth=_depth(self._end - self._start, self.tol),
        )
        self._given = W, H

    def __call__(
        self,
        ta: Scalar,
        tb: Scalar | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment W over [ta, tb], of one time from t0 to it; with return_U and return_A also
        U and A, as (W, U, A)."""
        a, b = (self._start, float(ta)) if tb is None else (float(ta), float(tb))
        a = self._inside(a)
        b = self._inside(b)
        if a > b:
            raise OdesolveError(
                f"bm is asked from ta={a:g} to tb={b:g}: give ta <= tb, an increment back is "
                "-bm(tb, ta)"
            )
        w, h = self._bent(a, b, *self._free_increment(a, b))
        out: list[Tensor | None] = [w]
        if return_U:
            out.append(None if h is None else (b - a) * (0.5 * w + h))
        if return_A:
            out.append(self._levy(a, b, w, h))
        out = [None if x is None else x.to(self.dtype) for x in out]
        if len(out) == 1:
            return out[0]
        return tuple(out)

    def _inside(self, t: float) -> float:
        near = ROUNDING * max(abs(self._start), abs(self._end))
        if not self._start - near <= t <= self._end + near:
            warn(f"t={t:g} lies outside of [{self._start:g}, {self._end:g}] and is moved there")
        return min(max(t, self._start), self._end)

    def _free_increment(self, a: float, b: float) -> tuple[Tensor, Any]:
        """Increment and area of the unconditioned path; the two parts of complex ones have half the
        variance each."""
        areas = self.levy_area_approximation != "none"
        pair: Any = self._path(a, b, area=True) if areas else (self._path(a, b), None)
        if not self.dtype.is_complex:
            return pair
        w, h = pair
        return numbers(0.5**0.5 * w), None if h is None else numbers(0.5**0.5 * h)

    def _bent(self, a: float, b: float, w: Any, h: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Increment and area of the path with the given W and H over [t0, t1]: the rest is
        independent of them."""
        W, H = self._given
        ticks = 2**self._path.tree.depth  # to which the path moves times
        length = self._end - self._start
        first, last = (round((t - self._start) / length * ticks) for t in (a, b))
        share = (last - first) / ticks
        place = (first + last) / ticks
        if W is not None:
            free = self._free_increment(self._start, self._end)[0]
            w = w + share * (W.to(w.dtype) - free)
        if H is not None and h is not None:
            free = self._free_increment(self._start, self._end)[1]
            more = H.to(w.dtype) - free
            w = w + 6 * share * (1 - place) * more
            h = h + share**2 * more
        shape = self.shape
        return w.reshape(shape), None if h is None else h.reshape(shape)

    def _levy(self, a: float, b: float, w: Tensor, h: Tensor | None) -> Tensor | None:
        if self.levy_area_approximation not in ("davie", "foster") or h is None:
            return None
        if len(self.shape) < 2:
            return torch.zeros_like(w)
        z = w.new_empty(*self.shape, self.shape[-1])
        normal(z, self._path.keys, _stream(a, b))
        return levy_area(w, h, b - a, z, self.levy_area_approximation)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(t0={self._start:.3f}, t1={self._end:.3f}, size={self.shape}, "
            f"dtype={self.dtype}, "
            f"device={self.device!r}, entropy={self.entropy}, "
            f"levy_area_approximation={self.levy_area_approximation!r})"
        )


class _Shifted(BaseBrownian):
    """An interval whose values at single times begin at w0."""

    def __init__(self, w0: Tensor, interval: BrownianInterval):
        self._w0 = w0
        self._interval = interval
        self.shape = interval.shape
        self.dtype = interval.dtype
        self.device = interval.device
        self.levy_area_approximation = interval.levy_area_approximation

    def __call__(
        self,
        t: Scalar,
        tb: Scalar | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment over [t, tb], or of one time the value there."""
        out = self._interval(t, tb, return_U, return_A)
        if tb is None and not (return_U or return_A):
            return out + self._w0
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}(interval={self._interval})"


@fits
class BrownianPath(_Shifted):
    """A Brownian motion on [t0, t0 + 1] that begins at w0; ``window_size`` has no effect."""

    def __init__(self, t0: Scalar, w0: Tensor, window_size: int = 8):
        super().__init__(w0, brownian_interval_like(w0, t0, t0 + 1))


@fits
class BrownianTree(_Shifted):
    """A Brownian motion on [t0, t1] from w0, to w1 unless that is None; t1 is t0 + 1 by default.

    The path is a function of ``entropy`` alone, resolved to times of length ``tol``; the other
    arguments have no effect."""

    def __init__(
        self,
        t0: Scalar,
        w0: Tensor,
        t1: Scalar | None = None,
        w1: Tensor | None = None,
        entropy: int | None = None,
        tol: float = 1e-6,
        pool_size: int = 24,
        cache_depth: int = 9,
        safety: float | None = None,
    ):
        end = t0 + 1 if t1 is None else t1
        known = None if w1 is None else w1 - w0
        super().__init__(w0, brownian_interval_like(w0, t0, end, entropy=entropy, tol=tol, W=known))


@fits
class ReverseBrownian(BaseBrownian):
    """A Brownian motion in -t: its increment over [ta, tb] is that of the other over [-tb, -ta]."""

    def __init__(self, base_brownian: Any):
        self.base_brownian = base_brownian
        self.shape = base_brownian.shape
        self.dtype = base_brownian.dtype
        self.device = base_brownian.device
        self.levy_area_approximation = base_brownian.levy_area_approximation

    def __call__(
        self,
        ta: Scalar,
        tb: Scalar | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Any:
        """The increment of the other over [-tb, -ta]."""
        if tb is None:
            raise OdesolveError("a reversed motion has no first time: give ta and tb")
        return self.base_brownian(-tb, -ta, return_U=return_U, return_A=return_A)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_brownian={self.base_brownian})"


@fits
def brownian_interval_like(
    y: Tensor,
    t0: Scalar = 0.0,
    t1: Scalar = 1.0,
    size: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> BrownianInterval:
    """A ``BrownianInterval`` of the shape, type and device of a tensor."""
    return BrownianInterval(
        t0,
        t1,
        y.shape if size is None else size,
        y.dtype if dtype is None else dtype,
        device or y.device,
        **kwargs,
    )


def _kind(
    size: Sequence[int] | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    **given: Tensor | None,
) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    for name, x in given.items():
        if x is not None and not (isinstance(x, Tensor) and real_type(x.dtype).is_floating_point):
            raise OdesolveError(
                f"{name} is {x!r}: give a floating-point tensor of the shape of an increment"
            )
    tensors = [x for x in given.values() if x is not None]
    if size is None and not tensors:
        raise OdesolveError("size is missing: give that of an increment, such as size=(16, 2)")
    if size is not None and not (isinstance(size, (tuple, list)) and all(map(is_whole, size))):
        raise OdesolveError(f"size={size!r}: give that of an increment, such as size=(16, 2)")
    shape = tuple(tensors[0].shape if size is None else size)
    kind = tensors[0].dtype if dtype is None and tensors else dtype or torch.get_default_dtype()
    if not real_type(kind).is_floating_point:
        raise OdesolveError(
            f"dtype={kind}: increments are floating-point numbers, such as torch.float64"
        )
    where = torch.device(tensors[0].device if device is None and tensors else device or "cpu")
    for x in tensors:
        if (tuple(x.shape), x.dtype, x.device.type) != (shape, kind, where.type):
            raise OdesolveError(
                f"W or H has shape {tuple(x.shape)}, {x.dtype} on {x.device}: give both {shape}, "
                f"{kind} on {where}"
            )
    return shape, kind, where


def _number(name: str, t: Scalar) -> float:
    if isinstance(t, Tensor) and t.numel() != 1:
        raise OdesolveError(f"{name} has shape {tuple(t.shape)}: give a number")
    return real(name, t)


def _check_unused(dt: Scalar | None, tol: float, halfway_tree: bool) -> None:
    """Raise OdesolveError for values that torchsde refuses, of arguments that have no effect
    here."""
    if dt is not None:
        _number("dt", dt)
    if halfway_tree and (tol <= 0.0 or dt is not None):
        raise OdesolveError(
            f"halfway_tree=True with tol={tol:g} and dt={dt}: give a positive tol and no dt"
        )


def _ends(start: float, end: float) -> tuple[float, float]:
    if not start < end:
        raise OdesolveError(f"the interval is [{start:g}, {end:g}]: give t0 < t1")
    return start, end


def _depth(length: float, tol: float) -> int:
    if tol < 0.0:
        raise OdesolveError(f"tol={tol:g}: give a positive number, or 0")
    return (
        FINEST
        if tol == 0.0
        else min(max(math.ceil(math.log2(length / tol)), 1), FINEST)
        if tol < length
        else 1
    )


def _stream(a: float, b: float) -> int:
    """A stream of Levy areas for an interval, by the bits of its ends."""
    x, y = (int(n) for n in np.array([a, b]).view(np.uint64))
    mixed = (x * MIX ^ (y * MIX >> 7) ^ (y << 32)) * MIX % 2**64
    return LEVY + (mixed >> 8)
