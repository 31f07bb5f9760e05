"""The loop as a captured graph: it records network and update once, then replays them with the
coefficients of any plan."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.values import refuse_loose, whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import combine_row
from odesolve.lowering.lower import Program
from odesolve.run.executor import Latest
from odesolve.run.loop import NetworkCalls
from odesolve.run.loop import run as run_loop
from odesolve.run.table import LEAVE_ALONE, CoefficientTable, Layout, table_of, unfit

KEPT = 16  # programs whose tables are kept on the host
_REASONS: Latest[str | None] = Latest()


@fits
@brief
class Graph:
    """An executor that captures one step, network included, as a CUDA graph, and replays it for
    every step of any plan.

    Solver, steps up to ``steps``, grid, guidance scale and seed are data: the executor writes them
    into a table on the device and captures nothing again. Where a graph is impossible, the plain
    loop runs, and ``reason`` says why. Threads that share it take turns.

    Args:
        model: the network to capture, with its conditions.
        like: a state; shape, dtype, device and memory format of all solves.
        steps: the most evaluations of a plan.
        states: the most state buffers of a plan; five serve every solver of the list.
        streams: the most noise streams per step.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> graph = ode.Graph(model, like=torch.zeros(4, 2), steps=32)
        >>> for solver, steps in (("ddim", 10), ("dpmpp_2m", 20)):  # one capture serves both
        ...     x = ode.sample(model, (4, 2), solver, steps=steps, seed=0, executor=graph)
    """

    cast = True

    def __init__(
        self,
        model: NetworkCalls,
        like: Tensor,
        steps: int = 128,
        states: int = 5,
        streams: int = 3,
    ):
        _check_given(model, like, {"steps": (steps, 1), "states": (states, 1)}, streams)
        self.model = model.settled()
        self.like = like
        self.layout = Layout(steps + 1, states, tuple(model.branches), streams)
        self._captured: torch.cuda.CUDAGraph | None = None
        self._turn = threading.Lock()
        self._done: torch.Event | None = None  # where the latest solve ends on its stream
        self._tables: dict[int, tuple[Program, CoefficientTable]] = {}
        self._states = [torch.zeros_like(like) for _ in range(states)]
        self._input = torch.zeros_like(like, dtype=model.dtype or like.dtype)
        rows = self.layout.rows
        outs = self.layout.outs
        columns = self.layout.ins + streams
        self._weights = like.new_zeros((rows, outs, columns), dtype=torch.float64)
        self._codes = torch.full((rows, outs + streams), LEAVE_ALONE, device=like.device)
        self._row = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._keys = torch.zeros(like.shape[0], 2, dtype=torch.int64, device=like.device)
        one = model.times_for([(0.5, 0.5) if model.reading.two_times else 0.5], like)[0]
        self._times = one.new_zeros((rows, *one.shape))

    def settings(self) -> dict[str, Any]:
        """The settings, without the sizes of the table: no result depends on these."""
        return {"model": self.model, "like": self.like}

    @property
    def reason(self) -> str | None:
        """Why the plain loop ran in the latest solve of the calling thread; None where the graph
        did."""
        return _REASONS.get(self)

    @torch.no_grad()
    def run(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None = None,
        model: NetworkCalls | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Run a program from the start state x: the same as ``run.run`` in one launch per step, and
        equal to it up to rounding.

        ``model`` may have other conditions than the captured one, of the same shapes.
        """
        with self._turn:
            reason = self._misfit(program, x, model) or self._capture()
        _REASONS.put(self, reason)
        if reason is not None:
            logging.getLogger("odesolve").warning(
                "the plain loop runs instead of the graph: %s", reason
            )
            return run_loop(program, x, keys, model or self.model, tick)
        assert self._captured is not None
        return self.replay(program, x, keys, self._captured.replay, model)

    def replay(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None,
        step,
        model: NetworkCalls | None = None,
    ) -> Tensor:
        """Fill the table and the buffers, and call ``step`` once for every evaluation."""
        with self._turn:
            # Another thread's stream may still be at work on the buffers: this one waits for it,
            # and the host for neither.
            if self._done is not None:
                self._done.wait(torch.cuda.current_stream(x.device))
            out = self._replay(program, x, keys, step, model)
            if x.is_cuda:
                self._done = torch.cuda.current_stream(x.device).record_event()
            return out

    def _replay(
        self,
        program: Program,
        x: Tensor,
        keys: Tensor | None,
        step: Callable[[], None],
        model: NetworkCalls | None,
    ) -> Tensor:
        table = self._load(program, model or self.model)
        if keys is not None:
            self._keys.copy_(keys)
        self._states[table.start].copy_(x)
        self._row.zero_()
        # row 0 reads no output of the network
        self._update(self._states[:1] * len(self.layout.branches))
        for _ in program.calls:
            step()
        return self._states[table.result].clone()

    def step(self) -> None:
        """One evaluation and the update after it; all memory that it reads and writes stays at the
        same address."""
        t = self._times.index_select(0, self._row)[0]
        self._update(self.model.evaluate(self._input, self._states[0], t, self.layout.branches))

    def _update(self, outputs: list[Tensor]) -> None:
        outs = [*self._states, self._input]
        ins = [*self._states, *outputs]
        combine_row(outs, ins, self._weights, self._codes, self._row, self._keys)
        self._row.add_(1)

    def _misfit(self, program: Program, x: Tensor, model: NetworkCalls | None = None) -> str | None:
        like = self.like
        same = (
            x.shape == like.shape
            and x.dtype == like.dtype
            and x.device == like.device
            and x.stride() == like.stride()
        )
        if not same:
            return (
                f"a state of {x.dtype} {tuple(x.shape)} where {like.dtype} {tuple(like.shape)} "
                "was captured"
            )
        if "classifier" in self.layout.branches:
            return "a classifier's gradient is taken at the state itself, which moves"
        return unfit(program, self.layout) or (
            self.model.settle(model) if model is not None else None
        )

    def _load(self, program: Program, model: NetworkCalls) -> CoefficientTable:
        """Write a program's table; its times as this model's network takes them."""
        if id(program) not in self._tables:
            if len(self._tables) >= KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[id(program)] = (program, table_of(program, self.layout))
        table = self._tables[id(program)][1]
        self._weights.copy_(table.weights, non_blocking=True)
        self._codes.copy_(table.codes, non_blocking=True)
        # Call k is answered by row k + 1, and the step reads its time by the row it is about to
        # run.
        times = model.times_for(program.call_times, self.like)
        if self._times.dim() > times[0].dim() + 1:  # a plan of single times on a network of two
            times = [torch.stack([t, t], 1) for t in times]
        self._times[1 : len(times) + 1] = torch.stack(times)
        return table

    def _capture(self) -> str | None:
        """Capture the step unless that is done; the reason where it is impossible."""
        if self._captured is not None:
            return None
        if not self.like.is_cuda:
            return (
                f"a graph needs a CUDA or ROCm device, and the state is on {self.like.device.type}"
            )
        try:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):  # the capture must not record what libraries set up on first use
                    self._row.zero_()
                    self.step()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step()
        except Exception as e:
            return (
                "the network cannot be captured: "
                f"{str(e).splitlines()[0] if str(e) else type(e).__name__}"
            )
        self._captured = graph
        return None


def _check_given(model: object, like: object, sizes: Mapping[str, Any], streams: object) -> None:
    """Raise OdesolveError for arguments that no graph can be made from."""
    for name, (count, least) in sizes.items():
        whole(name, count, least)
    whole("streams", streams, 0)
    if not hasattr(model, "settled"):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model(net, path, predicts=...)"
        )
    if not isinstance(like, Tensor) or like.dtype not in (torch.float32, torch.float64):
        raise OdesolveError(
            f"like is {getattr(like, 'dtype', type(like).__name__)}: give a float32 or "
            "float64 state (B, ...)"
        )
    refuse_loose("like", like)
    if not like.dim():
        raise OdesolveError(f"like has shape {tuple(like.shape)}: give a state (B, ...)")
