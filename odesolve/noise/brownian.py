"""Brownian paths for users: the increment over any interval, at random access, every sample's path
from its own key."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.values import device_of, is_whole, real, row, switch
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, short
from odesolve.kernels.dispatch import combine, normal_sums
from odesolve.noise.keys import Ids, keys_of
from odesolve.noise.stream_numbers import DEPTH, TREE, AreaTree, Draws, Tree

Time = float | Tensor
# where the sums of single times begin: what was summed up to there is kept
LEVELS: Final = (0, 6, 12)
KEPT: Final = 1 << 25  # bytes of it
# of the larger end: so far outside a time of float32 may lie by its rounding
SLACK: Final = 2.0**-20


@fits
@brief
class BrownianPath:
    """A Brownian motion for every sample of a batch: ``path(s, t)`` is W(t) - W(s), the same
    whenever and however asked.

    Args:
        shape: of an increment, (B, ...).
        t: the interval on which the path is known, in either order.
        seed, ids: a sample's path is a function of the seed and its own id (0 to B - 1 by default)
            alone: it does not depend on the batch. Without a seed torch's own generator gives one.
        area: also know the space-time Levy areas. That path is another one, and a query costs about
            four times as much.
        dtype: of the increments; sums of single intervals are taken in float64.
        device: where they are computed.
        depth: the interval is resolved to 2^-depth of its length; times are moved to the nearest
            such tick. A path of another depth is the same path.

    Virtual Brownian tree (Levy's construction; Gaines and Lyons 1997): W is a sum of at most
    ``depth + 1`` standard normals a point, computed where it is asked for. Nothing is drawn from a
    generator.

    Raises OdesolveError for a shape or an interval that cannot be used.

    Example:
        >>> import odesolve as ode
        >>> path = ode.BrownianPath((2, 3), t=(0.0, 1.0), seed=0)  # two samples of three numbers
        >>> whole, halves = path(0.0, 1.0), path(0.0, 0.5) + path(0.5, 1.0)
        >>> bool((whole - halves).abs().max() < 1e-6)
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        t: Sequence[float] = (0.0, 1.0),
        seed: int | None = 0,
        ids: Ids | None = None,
        area: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        depth: int = DEPTH,
    ):
        low, high = _interval(t)
        if not isinstance(shape, Sequence) or not shape or not all(map(is_whole, shape)):
            raise OdesolveError(
                f"shape is {short(shape)}: give that of an increment with the batch first, such "
                "as (16, 2)"
            )
        if dtype not in (torch.float32, torch.float64):
            raise OdesolveError(f"dtype={dtype}: give torch.float32 or torch.float64")
        area = switch("area", area)
        if not is_whole(depth, 1) or depth > 48:
            raise OdesolveError(
                f"depth={short(depth)}: give 1 to 48, of which the interval is "
                "cut into 2^depth ticks"
            )
        self.shape = tuple(shape)
        self.area = area
        self.dtype = dtype
        self.device = device_of(device)
        self.keys = keys_of(self.shape[0], seed, ids, self.device)
        self.tree = AreaTree(low, high, depth) if area else Tree(low, high, depth)
        self._slack = SLACK * max(abs(low), abs(high))
        self._walk = _Walk(self.tree, self.keys, self.shape, dtype)

    def _facts(self) -> dict[str, str]:
        area = {"with areas": ""} if self.area else {}
        return {"shape": str(self.shape), "dtype": str(self.dtype), **area}

    def __call__(self, s: Time, t: Time, area: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """W(t) - W(s), (B, ...), for numbers or for times (B,) of each sample's own; with ``area``
        the pair (W, H).

        H is the mean of the path over the interval less that of its two ends: of variance |t - s| /
        12 and independent of W. With s > t W changes its sign, and H does not; with s = t both are
        0. Times on another device than the CPU are not waited for: those outside of the path's
           interval give NaN there.

        Raises OdesolveError for times outside of the path's interval (by more than their rounding),
        and for areas of a path that was made without.
        """
        if area and not self.area:
            raise OdesolveError(
                "this path knows no areas: make it with BrownianPath(..., area=True)"
            )
        if isinstance(s, Tensor) or isinstance(t, Tensor):
            tensors = [x for x in (s, t) if isinstance(x, Tensor)]
            single = all(x.dim() == 0 and x.is_cpu for x in tensors)
            if not single:
                return self._each(s, t, area)
        a, b = (
            self._tick(x if type(x) is float else real("t", x, "times of the path's interval"))
            for x in (s, t)
        )
        if isinstance(self.tree, AreaTree):
            low = np.array([min(a, b)])
            high = np.array([max(a, b)])
            draws, areas = self.tree.areas(low, high)
            return self._draw(draws, areas, 1.0 if a <= b else -1.0, area)
        return self._walk.between(a, b)

    def select(self, index: Tensor) -> BrownianPath:
        """The same paths of these samples only."""
        return self.keyed(self.keys[index])

    def keyed(self, keys: Tensor) -> BrownianPath:
        """Paths on the same interval of samples with these keys (B, 2), a seed and an id each."""
        part = copy.copy(self)
        part.keys = keys
        part.shape = (keys.shape[0], *self.shape[1:])
        part._walk = _Walk(part.tree, part.keys, part.shape, part.dtype)
        return part

    def _tick(self, t: float) -> int:
        tree = self.tree
        if not tree.low - self._slack <= t <= tree.high + self._slack:
            raise OdesolveError(
                f"t={t:g} lies outside of the path's interval: give a time from {tree.low:g} to "
                f"{tree.high:g}"
            )
        share = (t - tree.low) / (tree.high - tree.low)
        return round(min(max(share, 0.0), 1.0) * 2**tree.depth)

    def _each(self, s: Time, t: Time, area: bool) -> Tensor | tuple[Tensor, Tensor]:
        """Intervals of each sample's own, computed where the path lies."""
        ends = torch.stack([self._times(x) for x in (s, t)])
        outside = ~(
            (ends >= self.tree.low - self._slack) & (ends <= self.tree.high + self._slack)
        ).all(0)
        if outside.is_cpu and bool(outside.any()):
            i = int(outside.nonzero()[0])
            for x in ends[:, i].tolist():
                self._tick(x)
        ticks = self.tree.ticks(ends)
        a = ticks.amin(0)
        b = ticks.amax(0)
        sign = (
            torch.where(ticks[0] <= ticks[1], 1.0, -1.0)
            .to(torch.float64)
            .masked_fill(outside, torch.nan)
        )
        if isinstance(self.tree, AreaTree):
            return self._draw(*self.tree.areas(a, b), sign[:, None], area)
        return self._draw(self.tree.increments(a, b), None, sign[:, None], area)

    def _times(self, x: Time) -> Tensor:
        if not isinstance(x, Tensor):
            return torch.full((self.shape[0],), float(x), dtype=torch.float64, device=self.device)
        given = x.to(self.device, torch.float64, non_blocking=True)
        if given.dim() > 1 or (given.dim() == 1 and len(given) != self.shape[0]):
            raise OdesolveError(
                f"times have shape {tuple(given.shape)}: give a number, or one per sample, "
                f"({self.shape[0]},)"
            )
        return given.expand(self.shape[0])

    def _draw(self, draws: Draws, areas, sign, area: bool) -> Tensor | tuple[Tensor, Tensor]:
        """The sums of these rows of draws, one row for all samples as arrays, or one per sample as
        tensors."""
        rows = [draws.weights * sign]
        if area:
            # NaN where the times are outside
            rows.append(areas if isinstance(sign, float) else areas + 0.0 * sign)
        outs = [torch.empty(self.shape, dtype=self.dtype, device=self.device) for _ in rows]
        if isinstance(sign, float):
            normal_sums(
                outs, self.keys, draws.streams[0].tolist(), [row[0].tolist() for row in rows]
            )
        else:
            normal_sums(outs, self.keys, draws.streams, torch.stack(rows, 1))
        if area:
            return (outs[0], outs[1])
        return outs[0]


class _Walk:
    """W over single intervals: what the nodes below a level add to a time, on the chord of that
    level's cell.

    Cells of some levels are kept, and the last two times. A value has the same bits whether or not
    what leads to it was kept: every sum begins at a fixed level. The ends of cells are in float64,
    whose differences cost 4 digits of 16 in an interval of 1e-8 of the whole.
    """

    def __init__(self, tree: Tree, keys: Tensor, shape: Sequence[int], dtype: torch.dtype):
        self.tree = tree
        self.keys = keys
        self.shape = shape
        self.dtype = dtype
        self.levels = [level for level in LEVELS if level < tree.depth]
        unit = (tree.high - tree.low) / 2**tree.depth
        # Of the nodes of a level: the number of the first, their width in ticks and the slope of
        # their functions.
        widths = [1 << (tree.depth - k) for k in range(tree.depth)]
        self.nodes = [(TREE + (1 << k), w, (w * unit) ** 0.5 / w) for k, w in enumerate(widths)]
        self.width = widths[self.levels[-1]]
        self.cells: list[OrderedDict[int, dict[str, Tensor]]] = [OrderedDict() for _ in self.levels]
        room = KEPT // max(16 * torch.Size(shape).numel(), 1)
        self.rooms = [min(1 << level, room // 2) for level in self.levels[:-1]]
        self.rooms.append(room - sum(self.rooms))
        self.spare: list[Tensor] = []
        self.times: OrderedDict[int, Tensor] = OrderedDict()

    def between(self, a: int, b: int) -> Tensor:
        """W(b) - W(a) for ticks, (B, ...)."""
        out = torch.empty(self.shape, dtype=self.dtype, device=self.keys.device)
        if a == b:
            return out.zero_()
        sign = 1.0 if a < b else -1.0
        terms = self._terms(min(a, b), max(a, b))
        weights = [sign * w for w, _ in terms]
        combine((out,), [x for _, x in terms], (weights,), (-1,))
        return out

    def _terms(self, a: int, b: int) -> list[tuple[float, Tensor]]:
        """W(b) - W(a) for a < b, as a sum: what the fine nodes add at both ends, and chords of the
        finest cells that are kept."""
        width = self.width
        first, low = divmod(a, width)
        second, high = divmod(b, width)
        terms = [(-1.0, self._residual(a))] if low else []
        if high:
            terms.append((1.0, self._residual(b)))
        if second > first + 1:
            return terms + self._far(first, low, second, high)
        which = len(self.levels) - 1
        last = b - first * width if second == first else width
        terms.append(((last - low) / width, self._cell(which, first, True, False)["rise"]))
        if high and second > first:
            terms.append((high / width, self._cell(which, second, True, False)["rise"]))
        return terms

    def _far(self, first: int, low: int, second: int, high: int) -> list[tuple[float, Tensor]]:
        """The chords from ``low`` ticks into one cell to ``high`` into one that is not its
        neighbour."""
        which = len(self.levels) - 1
        terms = []
        for part, cell, into in ((1.0, second, high), (-1.0, first, low)):
            ends = self._cell(which, cell, True, True) if into else self._edge(which, cell)
            terms.append((part, ends["start"]))
            if into:
                terms.append((part * into / self.width, ends["rise"]))
        return terms

    def _residual(self, x: int) -> Tensor:
        """What the nodes from the last of the levels on add at a tick."""
        known = self.times.get(x)
        if known is not None:
            self.times.move_to_end(x)
            return known
        streams = []
        weights = []
        for first, w, slope in self.nodes[self.levels[-1] :]:
            into = x & (w - 1)
            if into:
                streams.append(first + x // w)
                weights.append(slope * min(into, w - into))
        out = torch.empty(self.shape, dtype=self.dtype, device=self.keys.device)
        normal_sums((out,), self.keys, streams, (weights,))
        self.times[x] = out
        if len(self.times) > 2:
            self.times.popitem(last=False)
        return out

    def _cell(self, which: int, cell: int, rise: bool, start: bool) -> dict[str, Tensor]:
        """Of a cell of level ``levels[which]`` the increment of W over it and W at its left end,
        where they are wanted.

        The number of cells counts as a cell: its left end is the end of the path.
        """
        cells = self.cells[which]
        ends = cells.pop(cell, {})
        cells[cell] = ends
        if len(cells) > max(self.rooms[which], 2):  # two are in use
            self.spare += cells.popitem(last=False)[1].values()
        rise = rise and "rise" not in ends
        start = start and "start" not in ends
        wanted = [name for name, want in (("rise", rise), ("start", start)) if want]
        for name in wanted:
            ends[name] = self._memory()
        outs = [ends[name] for name in wanted]
        if outs and which:
            self._sum(outs, which, cell, rise, start)
        elif outs:
            self._root(ends, cell, rise, start)
        return ends

    def _memory(self) -> Tensor:
        if self.spare:
            return self.spare.pop()
        return torch.empty(self.shape, dtype=torch.float64, device=self.keys.device)

    def _edge(self, which: int, cell: int) -> dict[str, Tensor]:
        """The widest cell that begins where this one does, with its left end."""
        while which and cell % (1 << (self.levels[which] - self.levels[which - 1])) == 0:
            cell >>= self.levels[which] - self.levels[which - 1]
            which -= 1
        return self._cell(which, cell, False, True)

    def _root(self, ends: dict[str, Tensor], cell: int, rise: bool, start: bool) -> None:
        whole = (TREE,), (((self.tree.high - self.tree.low) ** 0.5,),)
        if rise:
            normal_sums((ends["rise"],), self.keys, *whole)
        if start and cell:
            normal_sums((ends["start"],), self.keys, *whole)
        elif start:
            ends["start"].zero_()

    def _sum(
        self,
        outs: list[Tensor],
        which: int,
        cell: int,
        rise: bool,
        start: bool,
    ) -> None:
        """The increment and the left end of a cell from those of the cell around it and the nodes
        in between."""
        up, level = self.levels[which - 1 : which + 1]
        parts = 1 << (level - up)
        width = 1 << (self.tree.depth - level)
        parent, place = divmod(cell, parts)
        above = self._cell(which - 1, parent, rise or place > 0, start)
        names = [name for name, used in (("rise", rise or place > 0), ("start", start)) if used]
        shares = [{"rise": 1.0 / parts}] * rise + [{"rise": place / parts}] * start
        base = [-1] * rise + [names.index("start")] * start if start else [-1]
        combine(
            outs,
            [above[n] for n in names],
            [[row.get(n, 0.0) for n in names] for row in shares],
            base,
        )
        streams = []
        rises = []
        starts = []
        for first, w, slope in self.nodes[up:level]:
            into = cell * width & (w - 1)
            if not (rise or into):
                continue
            streams.append(first + cell * width // w)
            rises.append(slope * width if into < w // 2 else -slope * width)
            starts.append(slope * min(into, w - into))
        normal_sums(outs, self.keys, streams, [rises] * rise + [starts] * start, True)


def _interval(t: Sequence[float]) -> tuple[float, float]:
    ends: list[float] = row(
        "t", t, "the two ends of the path's interval, such as (0.0, 1.0)"
    ).tolist()
    low = min(ends, default=0.0)
    high = max(ends, default=0.0)
    if len(ends) != 2 or not (low < high and np.isfinite(high - low)):
        raise OdesolveError(
            f"t is {short(t)}: give two different finite ends of the path's interval, such as "
            "(0.0, 1.0)"
        )
    return low, high
