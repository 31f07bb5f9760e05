"""Some samples on their way through a part of a program, from call to call; and the same way with a
frozen network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve.kernels.dispatch import combined
from odesolve.lowering.lower import Call
from odesolve.run.advance import Cursor, Functions, accept, proceed
from odesolve.run.rows import Request


class Lane:
    """The samples ``rows`` (n,) of a batch in the part of ``cursor.program`` whose calls are at the
    positions ``calls``.

    ``slots`` hold a row for each of them. A lane reads only those fields of ``cursor`` that do not
    change in a solve. ``times`` are the network's, (B,) per call.
    """

    def __init__(
        self,
        cursor: Cursor,
        times: Sequence[Tensor],
        calls: Sequence[int],
        rows: Tensor,
        slots: list[Tensor | None],
    ):
        self.cursor = cursor
        self.times = times
        self.calls = calls
        self.rows = rows
        self.slots = slots
        self.index = 0

    @property
    def done(self) -> bool:
        """Whether the part has no more calls."""
        return self.index == len(self.calls)

    @property
    def call(self) -> Call:
        """The pending call."""
        call = self.cursor.program.pending(self.calls[self.index])
        assert call is not None
        return call

    @property
    def state(self) -> Tensor:
        """The state of the pending call."""
        state = self.slots[self.call.state]
        assert state is not None
        return state

    @property
    def alive(self) -> dict[int, Tensor]:
        """The slots that hold a value."""
        return {s: v for s, v in enumerate(self.slots) if v is not None}

    def keep(self, mask: Tensor) -> None:
        """Keep some of the samples, those where ``mask`` (n,) is true."""
        if not bool(mask.all()):
            self.rows = self.rows[mask]
            self.slots = [None if s is None else s[mask.to(s.device)] for s in self.slots]

    def request(self, under_way: Tensor) -> Request | None:
        """The request of the pending call, for those samples that are ``under_way`` (B,)."""
        self.keep(under_way[self.rows])
        if not len(self.rows):
            return None
        call = self.call
        state = self.state
        rows = self.rows.to(state.device)
        x = self.slots[call.input]
        assert x is not None
        return Request(call.branches, rows, x, state, self.times[call.index][rows])

    def answer(self, outputs: Sequence[Tensor] | None, functions: Functions) -> None:
        """Go to the next call with the network's outputs at this one, or past it where no sample is
        left."""
        position = self.calls[self.index]
        self.index += 1
        if outputs is None or not len(self.rows):
            return
        keys = self.cursor.keys
        cursor = replace(
            self.cursor, keys=None if keys is None else keys[self.rows.to(keys.device)]
        )
        accept(cursor.program, position, self.slots, outputs, None)
        proceed(cursor, position + 1, self.slots, functions, None)

    def functions(self, model: Any) -> Functions:
        """A model's transforms of x0, for these samples."""
        batch = len(self.times[0])
        if len(self.rows) == batch:
            return model.functions
        return model.rows(self.rows, batch).functions

    def extrapolation(self, outputs: Sequence[Tensor], model: Any) -> Lane:
        """The same samples at the end of the part, as if the network predicted the same data from
        here on."""
        out = Lane(self.cursor, self.times, self.calls, self.rows, list(self.slots))
        out.index = self.index
        network = FrozenNetwork(model, self.call, self.state, outputs)
        functions = self.functions(model)
        out.answer(outputs, functions)
        while not out.done:
            out.answer(network.at(out.call, out.state), functions)
        return out


class FrozenNetwork:
    """A network that was called once and from there on predicts the same data, in any kind of
    prediction."""

    def __init__(self, model: Any, call: Call, state: Tensor, outputs: Sequence[Tensor]):
        self.model = model
        self.raw = dict(zip(call.branches, outputs, strict=True))
        self.data: dict[str, Tensor] = {}
        weights = self._weights(call.t, model.reading.prediction, "data")
        if weights is not None:
            for b, f in self.raw.items():
                if b in _PREDICTIONS:
                    self.data[b] = _mixed(state, f, _of(b, weights), state.dtype)

    def at(self, call: Call, state: Tensor) -> list[Tensor]:
        """Its outputs at a later call, one tensor per branch; where the data do not determine one,
        the first output."""
        weights = self._weights(call.t, "data", self.model.reading.prediction)
        out = []
        for branch in call.branches:
            name = branch if branch in self.raw else "cond"  # guidance may begin or end in between
            raw = self.raw[name]
            if weights is not None and name in self.data:
                raw = _mixed(state, self.data[name], _of(name, weights), raw.dtype)
            out.append(torch.zeros_like(raw) if branch != name and branch == "excess" else raw)
        return out

    def _weights(self, t: float, source: str, target: str) -> tuple[float, float] | None:
        """Weights of the state and of the prediction ``source`` for ``target``; None where the two
        are the same, or the conversion is not finite."""
        if source == target:
            return None
        kx, kf = (
            float(k)
            for k in self.model.path.convert(t, source, target, self.model.reading.sigma_data)
        )
        if math.isfinite(kx) and math.isfinite(kf):
            return (kx, kf)
        return None


# branches that hold predictions, not a gradient or variance
_PREDICTIONS = ("cond", "uncond", "excess")


def _of(branch: str, weights: tuple[float, float]) -> tuple[float, float]:
    """The weights of the state and of a branch's output: "excess" is a difference of predictions,
    without the state."""
    return (0.0, weights[1]) if branch == "excess" else weights


def _mixed(
    state: Tensor,
    other: Tensor,
    weights: tuple[float, float],
    dtype: torch.dtype,
) -> Tensor:
    table = torch.tensor([weights], dtype=torch.float64, device=state.device)
    return combined([state, other], table, [-1], dtypes=[dtype])[0]
