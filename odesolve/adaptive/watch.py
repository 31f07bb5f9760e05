"""What looks at every accepted step: output times, events and the record for dense output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from odesolve.adaptive.batch import Batch
from odesolve.adaptive.dense import Dense, Piece, evaluate
from odesolve.adaptive.drift import Drift
from odesolve.adaptive.events import Event, Found, find_zero
from odesolve.adaptive.loop import Method
from odesolve.errors import OdesolveError
from odesolve.kernels.control import EVENT, H0, NFE, STATUS, T0, TOOK, H, T


class Crossing(NamedTuple):
    """Which samples (n,) crossed a zero of an event, and its values (n,) at the ends of their steps."""

    where: Tensor
    before: Tensor
    after: Tensor


class Watch:
    """Fills ``y`` (times, B, ...) at the inner output times, finds events, and keeps the steps if ``dense``.

    Attempts are noted as they are made and evaluated when the host looks, one after the other; a terminal event takes its
    sample back to the counts of the attempt in which it lies.
    """

    def __init__(self, drift: Drift, times: Sequence[float], events: Sequence[Event], dense: bool):
        start = drift.start
        self.drift, self.events = drift, tuple(events)
        self.sign = 1.0 if times[-1] > times[0] else -1.0
        wide = {"dtype": torch.float64, "device": start.device}
        self.times = torch.tensor(times, **wide)
        self.y = start.new_full((len(times), *start.shape), torch.nan)
        self.y[0] = start
        self.dense = Dense(len(start), self.sign) if dense else None
        self.done = torch.ones(len(start), dtype=torch.int64, device=start.device)  # output times passed
        self.found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in self.events]
        self.noted: list[tuple[Any, Tensor]] = []
        self.values = [self._value(e, self.times[0].expand(len(start)), start, drift.args) for e in self.events]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look for."""
        return len(self.times) == 2 and not self.events and self.dense is None

    def note(self, attempt: Any, state: Tensor) -> None:
        """Remember an attempt and the control state after it."""
        self.noted.append((attempt, state.clone()))

    def look(self, method: Method, batch: Batch) -> None:
        """Evaluate what was noted, and end the samples that met a terminal event."""
        self.stopped = torch.zeros(len(batch), dtype=torch.bool, device=batch.state.device)
        self.more = torch.zeros(len(batch), dtype=torch.float64, device=batch.state.device)
        for attempt, state in self.noted:
            took = (state[TOOK] > 0) & ~self.stopped
            crossings = self._crossings(attempt, state, took)
            passed = torch.searchsorted(self.sign * self.times[:-1].contiguous(), self.sign * state[T], right=True)
            need = took if self.dense else took & (passed > self.done[batch.rows])
            for crossing in crossings:
                need = need | crossing.where
            index = need.nonzero().flatten()
            if len(index):
                nfe = batch.state[NFE].clone()
                piece = Piece(batch.rows[index], state[T0, index], state[H0, index],
                              method.interpolant(attempt, state, index, batch))  # fmt: skip
                self.more += batch.state[NFE] - nfe
                reached, met, states = self._find(piece, index, crossings, state[T, index])
                if bool(met.any()):
                    method.replace(index[met], states[met])
                    self._stop(index[met], reached[met], state, batch)
                self._output(piece, reached)
                if self.dense is not None:
                    self.dense.add(piece)
        self.noted.clear()
        if bool(self.stopped.any()):
            batch.control(begin=True)

    def keep(self, index: Tensor) -> None:
        """Go on with these of the running samples."""
        self.values = [v[index] for v in self.values]

    def _value(self, event: Event, t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Tensor:
        value = event.fn(self.drift.time(t.to(y.dtype)), self.drift.open(y), *args)
        expected = (len(y),) if self.drift.by_sample else ()
        if not isinstance(value, Tensor) or value.shape != expected or value.is_complex():
            given = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise OdesolveError(
                f"an event's function returned {given}: return a tensor of shape {expected}, one a sample, real numbers"
            )
        return value.double().reshape(len(y))

    def _crossings(self, attempt: Any, state: Tensor, took: Tensor) -> list[Crossing]:
        """Of every event the samples whose step encloses a zero."""
        out = []
        for i, event in enumerate(self.events):
            before, after = self.values[i], self._value(event, state[T], attempt.y1, self.drift.args)
            out.append(Crossing(took & event.crossed(before, after), before, after))
            self.values[i] = torch.where(took, after, before)
        return out

    def _find(
        self, piece: Piece, index: Tensor, crossings: list[Crossing], end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the zeros within the steps of these samples, which end at ``end`` (n,), and drop those after a terminal one.

        Returns how far the solution goes, (n,), whether a terminal event ended it, and the states there.
        """
        reached, met, states = (
            end.clone(),
            torch.zeros_like(end, dtype=torch.bool),
            torch.empty_like(piece.coefficients[0]),
        )
        zeros = []
        for event, crossing in zip(self.events, crossings, strict=True):
            local = crossing.where[index].nonzero().flatten()
            theta = self._zeros(event, piece, local, crossing, index[local])
            t = piece.t0[local] + theta * piece.h[local]
            zeros.append((local, theta, t))
            if event.terminal:
                reached[local] = self.sign * torch.minimum(self.sign * reached[local], self.sign * t)
        for event, found, (local, theta, t) in zip(self.events, self.found, zeros, strict=True):
            kept = self.sign * t <= self.sign * reached[local]
            local, t = local[kept], t[kept]
            y = evaluate(piece.coefficients[:, local], theta[kept])
            found.append((piece.rows[local], t, y))
            if event.terminal:
                met[local], states[local] = True, y
        return reached, met, states

    def _zeros(self, event: Event, piece: Piece, local: Tensor, crossing: Crossing, index: Tensor) -> Tensor:
        if len(local) == 0:
            return piece.t0[:0]
        coefficients, args = piece.coefficients[:, local], self.drift.args_of(piece.rows[local])

        def value(theta: Tensor) -> Tensor:
            t = piece.t0[local] + theta * piece.h[local]
            return self._value(event, t, evaluate(coefficients, theta), args)

        return find_zero(value, crossing.before[index], crossing.after[index])

    def _stop(self, index: Tensor, t: Tensor, state: Tensor, batch: Batch) -> None:
        """End these samples at times t, with the counts of the attempt that ``state`` belongs to."""
        batch.state[:, index] = state[:, index]
        for row, value in ((T, t), (STATUS, float(EVENT)), (TOOK, 1.0), (H, 0.0)):
            batch.state[row, index] = value
        batch.state[NFE, index] += self.more[index]
        self.stopped[index] = True

    def _output(self, piece: Piece, reached: Tensor) -> None:
        """States at the output times within these steps."""
        first = self.done[piece.rows]
        passed = torch.searchsorted(self.sign * self.times[:-1].contiguous(), self.sign * reached, right=True)
        count = (passed - first).clamp_min(0)
        self.done[piece.rows] = first + count
        which = torch.arange(len(count), device=count.device).repeat_interleave(count)
        if len(which):
            place = torch.arange(len(which), device=count.device) - (count.cumsum(0) - count)[which] + first[which]
            theta = (self.times[place] - piece.t0[which]) / piece.h[which]
            self.y[place, piece.rows[which]] = evaluate(piece.coefficients[:, which], theta)

    def finish(self, arrived: Tensor, y: Tensor) -> Tensor:
        """The states at all output times; those of samples (B,) that arrived are y at the last."""
        self.y[-1] = torch.where(arrived.view(-1, *[1] * (y.dim() - 1)), y, self.y[-1])
        return self.y

    def events_found(self) -> list[Found]:
        """The zeros of every event, sample by sample in order of time."""
        out = []
        for found in self.found:
            rows, t, y = (torch.cat(part) for part in zip(*found, strict=True)) if found else self._none()
            order = rows.sort(stable=True).indices
            counts = torch.bincount(rows, minlength=len(self.done)).tolist()
            ts, ys = t[order].split(counts), y[order].split(counts)
            each = [self.drift.open(v if self.drift.by_sample else v[:, None]) for v in ys]
            out.append(Found(list(ts), each) if self.drift.by_sample else Found(ts[0], each[0]))
        return out

    def _none(self) -> tuple[Tensor, Tensor, Tensor]:
        start = self.drift.start
        return self.done[:0], self.times[:0], start[:0]
