"""Where the increments of a solve come from: streams of its own, or the Brownian motion that the
user gave."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.pairing import numbers, real_type
from odesolve.kernels.dispatch import normal
from odesolve.noise import brownian
from odesolve.noise.keys import keys_of
from odesolve.noise.levy import levy_area
from odesolve.noise.stream_numbers import AREAS, LEVY, STEPS

KNOWN = {
    "none": (),
    "space-time": ("space-time",),
    "davie": ("space-time", "levy"),
    "foster": ("space-time", "levy"),
}


class Source(Protocol):
    """(number of the step, its beginning and end): the increment (B, m), and the area that the
    method needs, or None."""

    def __call__(self, step: int, s: Any, t: Any) -> tuple[Tensor, Tensor | None]: ...


class Streams:
    """Normal numbers that depend on the step's number alone, computed anew at every call; torch's
    generator gives the seed.

    Complex ones are circularly symmetric, as torch's are: each part has half the variance.
    """

    def __init__(
        self,
        batch: int,
        motions: int,
        areas: str,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.shape = (batch, motions)
        self.areas = areas
        self.dtype = dtype
        self.keys = keys_of(batch, None, None, device)

    def __call__(self, step: int, s: Any, t: Any) -> tuple[Tensor, Tensor | None]:
        length = float(t - s)
        w = length**0.5 * self._normal(STEPS + step, self.shape)
        if self.areas == "none":
            return w, None
        a = (length / 12) ** 0.5 * self._normal(AREAS + step, self.shape)
        if self.areas == "space-time":
            return w, a
        rest = self._normal(LEVY + step, (*self.shape, self.shape[1]))
        return w, levy_area(w, a, length, rest)

    def _normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        real = real_type(self.dtype)
        kind = real if real in (torch.float32, torch.float64) else torch.float32
        if self.dtype.is_complex:
            shape = (*shape, 2)
        out = torch.empty(shape, dtype=kind, device=self.keys.device)
        normal(out, self.keys, stream)
        if self.dtype.is_complex:
            return numbers(0.5**0.5 * out).to(self.dtype)
        return out.to(self.dtype)


class GivenMotion:
    """A ``bm(ta, tb)`` like torchsde's, or a path of this library, with values reshaped to (B,
    m)."""

    def __init__(self, bm: Any, areas: str, batch: int):
        self.bm = bm
        self.areas = areas
        self.batch = batch
        self.own = isinstance(bm, brownian.BrownianPath)
        known = (
            ("space-time",) * bm.area
            if self.own
            else KNOWN.get(getattr(bm, "levy_area_approximation", "foster"), ())
        )
        if areas != "none" and areas not in known:
            kind = "foster" if areas == "levy" else areas
            raise OdesolveError(
                "this method needs areas that bm does not have: give BrownianInterval(..., "
                f"levy_area_approximation={kind!r})"
            )

    def motions(self) -> int | None:
        """The number of Brownian motions per sample, where bm says it. Raises OdesolveError for
        another batch."""
        shape = getattr(self.bm, "shape", None)
        if shape is None:
            return None
        if len(shape) < 2 or shape[0] != self.batch:
            raise OdesolveError(
                f"bm is of shape {tuple(shape)}: give one of shape ({self.batch}, m), y0 has a "
                f"batch of {self.batch}"
            )
        return torch.Size(shape[1:]).numel()

    def __call__(self, step: int, s: Any, t: Any) -> tuple[Tensor, Tensor | None]:
        ends = (float(s), float(t)) if self.own else (torch.as_tensor(s), torch.as_tensor(t))
        if self.areas == "none":
            return self._flat(self.bm(*ends)), None
        if self.own:
            w, a = (self._flat(x) for x in self.bm(*ends, area=True))
            return w, a
        if self.areas == "levy":
            w, a = self.bm(*ends, return_A=True)
            areas = a.reshape(self.batch, a.shape[-2], a.shape[-1])
            return self._flat(w), areas
        w, u = (self._flat(x) for x in self.bm(*ends, return_U=True))
        return w, u / float(t - s) - 0.5 * w

    def _flat(self, w: Tensor) -> Tensor:
        return w.reshape(self.batch, -1)
