"""The watcher of every accepted step: output times, events and the record for dense output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.torch_func import refuse_inside
from odesolve.kernels.control import EVENT, H0, NFE, STATUS, T0, TOOK, H, T
from odesolve.ode.adaptive_loop import Method
from odesolve.ode.batch import Batch
from odesolve.ode.crossings import Rows, Zeros, limit, zeros
from odesolve.ode.dense import Dense, Piece, evaluate
from odesolve.ode.drift import Drift
from odesolve.ode.events import Event, Found
from odesolve.ode.times import Times

ULPS = 4.0  # of the time in the state's type: an event may be off by them


class StepMarks:
    """Output times, ``t`` (n,) for all samples or (n, B) of each sample's own, in the direction
    ``sign`` (a number, or one per sample)."""

    def __init__(self, times: Times, like: Tensor):
        self.t = torch.as_tensor(times, dtype=torch.float64, device=like.device)
        way = (self.t[-1] - self.t[0]).sign()
        self.sign = way if way.dim() else float(way)
        self.inner = (self.sign * self.t[:-1]).t().contiguous()

    def passed(self, rows: Tensor, t: Tensor) -> Tensor:
        """How many of the output times, without the last, these samples have reached at times t
        (n,)."""
        if not isinstance(self.sign, Tensor):
            return torch.searchsorted(self.inner, self.sign * t, right=True)
        ahead = (self.sign[rows] * t)[:, None]
        return torch.searchsorted(self.inner[rows], ahead, right=True)[:, 0]

    def at(self, place: Tensor, rows: Tensor) -> Tensor:
        """The output times with these numbers, of these samples."""
        if self.t.dim() > 1:
            return self.t[place, rows]
        return self.t[place]


class StepWatch:
    """Fills ``y`` (times, B, ...) at the inner output times, locates events, and keeps the steps if
    ``dense``.

    It notes attempts as they happen and evaluates them in order when the host looks. A terminal
    event takes its sample back to the counts of the attempt that contains it.
    """

    def __init__(self, drift: Drift, times: Times, events: Sequence[Event], dense: bool):
        start = drift.start
        self.drift = drift
        self.events = tuple(events)
        self.marks = StepMarks(times, start)
        self.y = start.new_full((len(times), *start.shape), torch.nan)
        self.y[0] = start
        self.dense = Dense(len(start), self.marks.sign) if dense else None
        # output times passed
        self.done = torch.ones(len(start), dtype=torch.int64, device=start.device)
        self.crossings: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in self.events]
        self.noted: list[tuple[Any, Tensor]] = []
        first = self.marks.t[0].expand(len(start))
        self.values = [self._value(e, first, start, drift.args).clone() for e in self.events]
        # Of crossings.zeros, once they are known.
        self.limits = [v.new_full((2, len(v)), torch.nan) for v in self.values]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look for."""
        return len(self.y) == 2 and not self.events and self.dense is None

    def note(self, attempt: Any, state: Tensor) -> None:
        """Remember an attempt and the control state after it."""
        self.noted.append((attempt, state.clone()))

    def look(self, method: Method, batch: Batch) -> None:
        """Evaluate the attempts since the last look, and end the samples that met a terminal
        event."""
        self.stopped = torch.zeros(len(batch), dtype=torch.bool, device=batch.state.device)
        self.more = torch.zeros(len(batch), dtype=torch.float64, device=batch.state.device)
        for attempt, state in self.noted:
            took = (state[TOOK] > 0) & ~self.stopped
            passed = self.marks.passed(batch.rows, state[T])
            need = took if self.dense or self.events else took & (passed > self.done[batch.rows])
            index = need.nonzero().flatten()
            if len(index):
                nfe = batch.state[NFE].clone()
                piece = Piece(batch.rows[index], state[T0, index], state[H0, index],
                              method.interpolant(attempt, state, index, batch))  # fmt: skip
                self.more += batch.state[NFE] - nfe
                reached, met, states = self._find(
                    piece, attempt.y1[index], state[T, index], batch, index
                )
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
        """Nothing to do: the watch holds the data of all samples."""

    def _value(self, event: Event, t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Tensor:
        value = event.fn(self.drift.time(t.to(y.dtype)), self.drift.open(y), *args)
        refuse_inside("what an event's function returned", value, y)
        expected = (len(y),) if self.drift.by_sample else ()
        if (
            not isinstance(value, Tensor)
            or value.shape != expected
            or not value.is_floating_point()
        ):
            given = (
                f"{value.dtype} {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise OdesolveError(
                f"an event's function returned {given}: return a tensor of shape {expected}, one "
                "per sample: real "
                "numbers, whose sign changes at the event"
            )
        return value.double().reshape(len(y))

    def _find(
        self,
        piece: Piece,
        last: Tensor,
        end: Tensor,
        batch: Batch,
        index: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the zeros within steps that end at ``end`` (n,) in states ``last``, and drop those
        after a terminal one.

        ``index`` are the numbers of these samples among those that run. Returns how far the
        solution goes, (n,), whether a terminal event ended it, and the states there.
        """
        reached = end.clone()
        met = torch.zeros_like(end, dtype=torch.bool)
        states = torch.empty_like(last)
        crossings = [
            self._zeros(i, piece, last, end, batch, index) for i in range(len(self.events))
        ]
        times = [piece.t0[z.rows] + z.theta * piece.h[z.rows] for z in crossings]
        way = piece.h.sign()
        for event, z, t in zip(self.events, crossings, times, strict=True):
            if event.terminal:
                reached = way * (way * reached).scatter_reduce(0, z.rows, way[z.rows] * t, "amin")
        for event, kept_so_far, z, t in zip(
            self.events, self.crossings, crossings, times, strict=True
        ):
            mask = way[z.rows] * t <= (way * reached)[z.rows]
            rows = z.rows[mask]
            t = t[mask]
            y = evaluate(piece.coefficients[:, rows], z.theta[mask])
            kept_so_far.append((piece.rows[rows], t, y))
            if event.terminal:
                met[rows], states[rows] = True, y
        return reached, met, states

    def _zeros(
        self,
        i: int,
        piece: Piece,
        last: Tensor,
        end: Tensor,
        batch: Batch,
        index: Tensor,
    ) -> Zeros:
        """The zeros of an event within these steps, of its direction."""
        event = self.events[i]
        args = self.drift.args_of(piece.rows)

        def value(rows: Rows, theta: Tensor | float) -> Tensor:
            if isinstance(rows, slice):
                return self._along(event, piece, rows, theta, args)
            assert isinstance(theta, Tensor)
            # at most as many samples at a time as the solve has
            parts = zip(rows.split(len(end)), theta.split(len(end)), strict=True)
            values = [self._along(event, piece, *part, None) for part in parts]
            return torch.cat(values) if len(rows) else theta

        before = self.values[i][piece.rows]
        after = self._value(event, end, last, args)
        limits = self.limits[i][:, piece.rows]
        if bool(limits.isnan().any()):
            limits = self._limits(event, piece, batch, index).where(limits.isnan(), limits)
        crossings, limits = zeros(value, before, after, limits)
        self.values[i][piece.rows] = after
        self.limits[i][:, piece.rows] = limits
        mask = crossings.rising if event.direction > 0 else ~crossings.rising
        return crossings if event.direction == 0 else crossings.of(mask)

    def _along(
        self,
        event: Event,
        piece: Piece,
        rows: Rows,
        theta: Tensor | float,
        args: tuple[Any, ...] | None,
    ) -> Tensor:
        """An event's function at places of these steps; ``args`` where the rows are all samples."""
        t = piece.t0[rows] + theta * piece.h[rows]
        given = self.drift.args_of(piece.rows[rows]) if args is None else args
        return self._value(event, t, evaluate(piece.coefficients[:, rows], theta), given)

    def _limits(self, event: Event, piece: Piece, batch: Batch, index: Tensor) -> Tensor:
        """The values that the event must exceed in these first steps before it counts."""
        y = piece.coefficients[0]
        slope = piece.coefficients[1]
        args = self.drift.args_of(piece.rows)
        eps = ULPS * torch.finfo(y.dtype).eps * piece.t0.abs()
        start = self._value(event, piece.t0, y, args)
        later = self._value(event, piece.t0 + piece.h.sign() * eps, y, args)
        shape = (-1, *[1] * (y.dim() - 1))
        rtol, atol = (
            s[index].to(y.dtype).view(shape) if isinstance(s, Tensor) else s
            for s in (batch.rtol, batch.atol)
        )
        return limit(
            lambda y: self._value(event, piece.t0, y, args),
            y,
            slope,
            atol + rtol * y.abs(),
            (later - start).abs(),
        )

    def _stop(self, index: Tensor, t: Tensor, state: Tensor, batch: Batch) -> None:
        """End these samples at times t, with the counts of the attempt that ``state`` belongs
        to."""
        batch.state[:, index] = state[:, index]
        for row, value in ((T, t), (STATUS, float(EVENT)), (TOOK, 1.0), (H, 0.0)):
            batch.state[row, index] = value
        batch.state[NFE, index] += self.more[index]
        self.stopped[index] = True

    def _output(self, piece: Piece, reached: Tensor) -> None:
        """States at the output times within these steps."""
        first = self.done[piece.rows]
        passed = self.marks.passed(piece.rows, reached)
        count = (passed - first).clamp_min(0)
        self.done[piece.rows] = first + count
        which = torch.arange(len(count), device=count.device).repeat_interleave(count)
        if len(which):
            place = (
                torch.arange(len(which), device=count.device)
                - (count.cumsum(0) - count)[which]
                + first[which]
            )
            rows = piece.rows[which]
            theta = (self.marks.at(place, rows) - piece.t0[which]) / piece.h[which]
            self.y[place, rows] = evaluate(piece.coefficients[:, which], theta)

    def finish(self, arrived: Tensor, y: Tensor) -> Tensor:
        """The states at all output times; those of samples (B,) that arrived are y at the last."""
        rows = arrived.view(-1, *[1] * (y.dim() - 1))
        self.y[-1] = torch.where(rows, y, self.y[-1])
        return self.y

    def events_found(self) -> list[Found]:
        """The zeros of every event, sample by sample in order of time."""
        out = []
        for parts in self.crossings:
            rows, t, y = (
                (torch.cat(part) for part in zip(*parts, strict=True)) if parts else self._none()
            )
            order = rows.sort(stable=True).indices
            counts = torch.bincount(rows, minlength=len(self.done)).tolist()
            ts = t[order].split(counts)
            ys = y[order].split(counts)
            each = [self.drift.open(v if self.drift.by_sample else v[:, None]) for v in ys]
            out.append(Found(list(ts), each) if self.drift.by_sample else Found(ts[0], each[0]))
        return out

    def _none(self) -> tuple[Tensor, Tensor, Tensor]:
        start = self.drift.start
        return self.done[:0], start[:0].double().flatten(), start[:0]
