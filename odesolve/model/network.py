"""How a user's network is called: at which times, on which conditions, in which precision, for how
many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.functions.callee import Callee, shielded
from odesolve.functions.graphs import answer
from odesolve.functions.torch_func import refuse_inside, watching
from odesolve.lowering import scales
from odesolve.model.checks import checked, checked_times
from odesolve.model.conditions import Cond, own, rows, shared_of, stackable, stacked
from odesolve.model.predictions import gradient_of
from odesolve.paths import Path

N = TypeVar("N", bound="Network")
TIMES = ("t", "index", "sigma", "c_noise")
STRIDED = torch.strided
KEPT_TIMES = 64  # grids
_NAMES = """
    net path time time_scale dtype cond learned_variance uncond classifier labels strengths common
    door judge _kept_times
"""
_ATTRIBUTES = frozenset(_NAMES.split())  # of every network; those of a wrapper are its own
_PLAIN = ("cond",)
_OF_NETWORK = ("cond", "uncond", "excess")  # branches that the network is called for


@dataclass(frozen=True)
class Share:
    """The rows of a call that are evaluated here, and ``join``, which makes the answers to all rows
    of the answers to these."""

    rows: Sequence[Tensor]
    join: Callable[[Sequence[Tensor]], list[Tensor]]


class Network:
    """A network with everything that a call of it takes besides the state and the time: the
    conditions of each branch of guidance, a classifier, how path times are told, the dtype of the
    input.

    It knows nothing of predictions: ``predictions.converted`` reads what it answers. A network that
    is counted, spread over ranks or otherwise wrapped stands in a model by
    ``Model.with_network``."""

    def __init__(
        self,
        net: Callable[..., Tensor],
        path: Path,
        time: str | Callable[[Path, Tensor], Tensor],
        time_scale: float,
        dtype: torch.dtype | None,
        cond: Cond,
        learned_variance: bool,
    ):
        if not callable(time) and time not in TIMES:
            raise unknown("time", time, TIMES)
        self.net = net
        self.path = path
        self.time = time
        self.time_scale = time_scale
        self.dtype = dtype
        self.cond = dict(cond)
        self.learned_variance = learned_variance
        self.uncond: dict[str, Any] | None = None
        self.classifier: Callable[..., Tensor] | None = None
        self.labels: dict[str, Any] = {}
        self.strengths: dict[str, Tensor] = {}  # scales of guidance, one per sample
        self.common: list[Any] = []  # conditions of all samples, known by a cut of the batch
        self.door = Callee(net, "the network", at=0)
        self.judge = Callee(net, "the classifier", at=0)
        self._kept_times: dict[tuple, Tensor] = {}

    def replaced(self: N, **parts: Any) -> N:
        """The network with other parts by name, such as ``cond=``."""
        # copy.copy, in words that torch.compile understands
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__, **parts)
        if "path" in parts:
            out._kept_times = {}  # which are kept by the times of one path
        return out

    def around(self: N, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> N:
        """The network, and its classifier if there is one, each wrapped by a function of the
        user's callable."""
        judge = self.classifier
        return self.replaced(net=wrap(self.net), classifier=None if judge is None else wrap(judge))

    def rows(self: N, index: Tensor, batch: int) -> N:
        """The network for these samples (n,) of a batch: conditions with one value per sample are
        cut to theirs."""
        before = self.common
        uncond = self.uncond
        return self.replaced(
            common=shared_of(self.conditions, batch, before),
            cond=rows(self.cond, index, batch, before),
            uncond=None if uncond is None else rows(uncond, index, batch, before),
            labels=rows(self.labels, index, batch, before),
            strengths=scales.cut(self.strengths, index, batch) if self.strengths else {},
        )

    def settled(self: N) -> N:
        """A copy whose conditions lie in memory of their own."""
        return self.replaced(
            cond=own(self.cond),
            uncond=None if self.uncond is None else own(self.uncond),
            strengths=own(self.strengths),
        )

    @contextmanager
    def sharing(self, *rows: Tensor) -> Iterator[Share]:
        """A call for each of these rows, all of them here; a network that is spread over ranks
        gives this rank its part."""
        yield Share(rows, list)

    @property
    def conditions(self) -> tuple[Cond, Cond, Cond]:
        """The conditions: of the conditional branch, of the unconditional one, the classifier's."""
        return self.cond, self.uncond or {}, self.labels

    @property
    def own_tensors(self) -> list[Any]:
        """The tensors that it was given besides those of the network."""
        return [*self.conditions, self.strengths]

    @property
    def parts(self) -> dict[str, Any]:
        """All that decides what it answers, by name; neither doors nor what is kept between calls.

        Names with an underscore are those of older fingerprints, which stay comparable by them."""
        known = {
            "net": self.net,
            "path": self.path,
            "cond": self.cond,
            "time": self.time,
            "time_scale": self.time_scale,
            "dtype": self.dtype,
            "_uncond": self.uncond,
            "_classifier": self.classifier,
            "_labels": self.labels,
            "_strengths": self.strengths,
        }
        if type(self) is not Network:
            own = {k: v for k, v in vars(self).items() if k not in _ATTRIBUTES}
            known |= {"network": type(self), **own}
        return known

    # Times.

    def network_times(self, t: Tensor) -> Tensor:
        """What the network gets for the path times t (any shape)."""
        if callable(self.time):
            return checked_times(shielded(self.time, "time", at=1)(self.path, t), t)
        if self.time == "index":
            return self._indices(t)
        if self.time == "sigma":
            return self.path.rho(t)
        if self.time == "c_noise":
            return -0.25 * self.path.lam(t)
        return t * self.time_scale

    def _indices(self, t: Tensor) -> Tensor:
        steps = self.path.training_steps
        if steps is None:
            raise OdesolveError(
                "time='index' needs a path with a table of training times: use paths.Discrete(...)"
            )
        index = t * steps - 1
        # 29/100 * 100 is not quite 29, and networks look their embedding up by integer
        whole = index.round()
        rounding = 4 * steps * torch.finfo(index.dtype).eps
        return torch.where((index - whole).abs() <= rounding, whole, index)

    def time_dtype(self, x: Tensor) -> torch.dtype:
        """That of times for the network beside a state: its own, at least float32; half-precision
        networks embed their time in float32."""
        return torch.promote_types(self.dtype or x.dtype, torch.float32)

    def times_for(self, times: Sequence[float | tuple[float, float]], x: Tensor) -> list[Tensor]:
        """See ``Model.times_for``."""
        t = self._times(tuple(times), self.time_dtype(x), x.device).unsqueeze(1)
        # a copy, for networks that change their t
        each = t.expand(-1, x.shape[0], *t.shape[2:]).clone()
        return list(each.unbind(0))

    def _times(
        self,
        times: tuple[float | tuple[float, float], ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """What the network gets for these times, kept for the next solve on the same grid."""
        # a user's function may say something else tomorrow
        if callable(self.time) or torch.compiler.is_compiling():
            return self._moved_times(times, dtype, device)
        key = (times, dtype, device, self.time, self.time_scale)
        t = self._kept_times.get(key)
        if t is None:
            if len(self._kept_times) >= KEPT_TIMES:
                self._kept_times.clear()
            t = self._kept_times[key] = self._moved_times(times, dtype, device)
        return t

    def _moved_times(
        self,
        times: tuple[float | tuple[float, float], ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        t = self.network_times(torch.tensor(times, dtype=torch.float64)).to(dtype)
        return t.to(device, non_blocking=True)

    # Calls.

    def evaluate(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]:
        """Raw outputs, one per branch, to be read before the next call: of the network, and the
        classifier's gradient."""
        if branches == _PLAIN and not self.learned_variance:
            return [self._checked(self._call(x_in, t, self.cond, True), state)]
        out = self._answers(x_in, state, t, branches)
        variance = None
        if self.learned_variance:
            variance = out[0].chunk(2, dim=1)[1]
            out = [o.chunk(2, dim=1)[0] for o in out]
        if "excess" in branches:
            apart = out[0].to(state.dtype) - out[1].to(state.dtype)
            out[1] = (self._strength("guidance", state) - 1) * apart
        if "classifier" in branches:
            out.append(self._slope(state, t))
        if "variance" in branches:
            assert variance is not None
            out.append(variance)
        return out

    def _answers(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]:
        """What the network answers for the branches that it is called for: by one call for both,
        where their conditions fit into one."""
        uncond = self.uncond or {}
        guided = "uncond" in branches or "excess" in branches
        if guided and stackable(self.cond, uncond, x_in.shape[0], self.common):
            twice = torch.cat([x_in, x_in])
            both = self._answer(twice, torch.cat([t, t]), stacked(self.cond, uncond), twice)
            return list(both.chunk(2))
        conds = {"cond": self.cond, "uncond": uncond, "excess": uncond}
        return [self._answer(x_in, t, conds[b], state) for b in branches if b in _OF_NETWORK]

    def _answer(self, x_in: Tensor, t: Tensor, cond: Cond, state: Tensor) -> Tensor:
        """What the network answers, of the shape of the state, or with twice its channels where it
        learned a variance."""
        shape = state.shape
        if self.learned_variance:
            shape = torch.Size([*shape[:1], *(2 * c for c in shape[1:2]), *shape[2:]])
        return self._checked(self._call(x_in, t, cond), state, shape)

    def _call(self, x: Tensor, t: Tensor, cond: Cond, read: bool = False) -> Tensor:
        door = self.door = self.door.of(self.net)
        if not x.requires_grad and not watching():  # nothing is recorded, by anybody
            if cond:
                return door(x, t, named=cond, read=read)
            return door.on(x, t, read)
        out = answer(door, x, t, named=cond, read=read) if cond else answer(door.on, x, t, read)
        refuse_inside("what the network returned", out, x)
        return out

    def _slope(self, state: Tensor, t: Tensor) -> Tensor:
        """The gradient of the classifier's log-probability, times the scale of each sample."""
        assert self.classifier is not None
        self.judge = self.judge.of(self.classifier)
        slope = self._checked(gradient_of(self.judge, state, t, self.labels), state)
        if "classifier" not in self.strengths:
            return slope
        return self._strength("classifier", state) * slope

    def _strength(self, name: str, state: Tensor) -> Tensor:
        """The scale of each sample, beside the state; it moves to the state's device once."""
        each = self.strengths[name]
        if each.device != state.device and not each.requires_grad:
            each = self.strengths[name] = each.to(state.device)
        return scales.column(each, state)

    def _checked(self, out: Tensor, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        shape = x.shape if shape is None else shape
        try:
            if (
                type(out) is Tensor
                and out.dtype is x.dtype
                and out.layout is STRIDED
                and out.shape == shape
            ):
                return out  # the usual case, looked at once per call
        except RuntimeError:  # of nested tensors, which have no shape
            pass
        return checked(out, x, shape)
