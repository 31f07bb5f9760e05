"""The samples that are still running: their control state and the weights and times of the attempt
to come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odesolve.kernels import dispatch
from odesolve.kernels.control import END, ROWS, SHORTEST, TOOK, H, T
from odesolve.ode.drift import Drift

Scale = float | Tensor


class NormBlocks:
    """The weights that a method's combines take, as one table: ``dispatch.control`` says how it
    becomes numbers.

    A block is a matrix of (coefficient, kind), one row per output; ``nodes`` are the stage times in
    steps."""

    def __init__(
        self, blocks: Sequence[Sequence[Sequence[tuple[float, int]]]], nodes: Sequence[float]
    ):
        self.shapes = [(len(rows), len(rows[0])) for rows in blocks]
        flat = [entry for rows in blocks for row in rows for entry in row]
        self.table = torch.tensor(flat, dtype=torch.float64).reshape(-1, 2).t().contiguous()
        self.nodes = torch.tensor(tuple(nodes), dtype=torch.float64)

    def views(self, weights: Tensor) -> list[Tensor]:
        """The blocks (B, rows, columns) within a table (B, W)."""
        sizes = [r * c for r, c in self.shapes]
        parts = weights.split(sizes, 1) if sizes else ()
        return [p.unflatten(1, shape) for p, shape in zip(parts, self.shapes, strict=True)]


class Batch:
    """Running samples: ``rows`` are their numbers in the first state, ``state`` (ROWS, n) their
    control state.

    ``norm`` (n,) takes the error norm of an attempt; ``weights`` and ``clocks`` are views of the
    control's output for the next one: blocks (n, rows, columns), and the stage times as f takes
    them."""

    def __init__(
        self,
        drift: Drift,
        blocks: NormBlocks,
        settings: Sequence[float],
        rtol: Scale,
        atol: Scale,
    ):
        y = drift.start
        n = drift.start.shape[0]
        self.drift = drift
        self.blocks = blocks
        self.rtol = rtol
        self.atol = atol
        wide = {"dtype": torch.float64, "device": y.device}
        self.settings = torch.tensor(tuple(settings), dtype=torch.float64).to(y.device)
        self.table = blocks.table.to(y.device)
        self.nodes = blocks.nodes.to(y.device)
        self.rows = torch.arange(n, device=y.device)
        self.state = torch.zeros(ROWS, n, **wide)
        self._room()

    def _room(self) -> None:
        y = self.drift.start
        n = len(self.rows)
        self.norm = self.state.new_zeros(n)
        self._weights = self.state.new_zeros(n, self.table.shape[1])
        self._times = torch.zeros(len(self.nodes), n, dtype=y.dtype, device=y.device)
        self.weights = self.blocks.views(self._weights)
        self.clocks = [self.drift.time(t) for t in self._times]

    def bound(self, end: Tensor | float, shortest: Tensor | float) -> None:
        """Set the end time and the shortest step, for all samples or one per sample (n,)."""
        self.state[END] = end
        self.state[SHORTEST] = shortest

    def begin(self, t: Tensor | float, h: Tensor | float) -> None:
        """Start, or start again after a change of the state, from time t with a step h: the first
        attempt selects its state as if the last one had been accepted."""
        self.state[T] = t
        self.state[H] = h
        self.state[TOOK] = 1.0
        self.control(begin=True)

    def control(self, begin: bool = False) -> None:
        """Judge the attempt whose error is in ``norm``, and write the weights and times of the next
        one."""
        dispatch.control(
            self.state,
            self.norm,
            self._weights,
            self._times,
            self.table,
            self.nodes,
            self.settings,
            begin,
        )

    def keep(self, index: Tensor) -> None:
        """Keep only these of the running samples."""
        self.rows = self.rows[index]
        self.state = self.state[:, index]
        self.rtol = self.rtol[index] if isinstance(self.rtol, Tensor) else self.rtol
        self.atol = self.atol[index] if isinstance(self.atol, Tensor) else self.atol
        weights = self._weights
        times = self._times
        self.drift.keep(self.rows)
        self._room()
        self._weights.copy_(weights[index])
        self._times.copy_(times[:, index])

    def after(self, y: Tensor, y1: Tensor, index: Tensor | None = None) -> Tensor:
        """The states once the last attempt has been judged, of all running samples or of these: its
        candidates y1 where it was accepted, otherwise the states y before it."""
        took = self.state[TOOK] > 0
        if index is not None:
            took = took[index]
            y = y[index]
            y1 = y1[index]
        return torch.where(took.view(-1, *[1] * (y.dim() - 1)), y1, y)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def whole(self) -> bool:
        """Whether all samples of the first state are here."""
        return len(self.rows) == len(self.drift.start)
