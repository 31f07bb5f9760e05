"""Laws of the times that a network is trained at: each a quantile function of uniform numbers, with
its density.

Numbers u in [0, 1] run from data (0) to noise (1), whatever the direction and range of the path's
own time."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from msgspec import Struct
from torch import Tensor

from odesolve.doors.annotations import count, meant, number
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.files import Door, shaped, short
from odesolve.objectives.names import built
from odesolve.paths import Path

BINS = 64
HISTORY = 10
# rounding may move a time beyond the end of a law, where it still has a density
EDGE = 1e-9
_DOOR = Door("this", "is no state of a law of times", "give what importance.state_dict() returned")


@dataclass(frozen=True)
class Law(ABC):
    """A law of times; ``stratified``: one number of the batch falls into each n-th of [0, 1]
    (Kingma et al. 2021, appendix I.1)."""

    stratified: bool = field(default=False, kw_only=True)

    def __call__(self, n: int, path: Path, generator: torch.Generator | None = None) -> Tensor:
        """Times (n,), float64, on the generator's device."""
        device = "cpu" if generator is None else generator.device
        u = torch.rand(n, dtype=torch.float64, generator=generator, device=device)
        if self.stratified:
            u = (torch.arange(n, device=device) + u) / n
        return self.quantile(u, path)

    @abstractmethod
    def quantile(self, u: Tensor, path: Path) -> Tensor:
        """Times at uniform numbers."""

    @abstractmethod
    def density(self, t: Tensor, path: Path) -> Tensor:
        """Density at times of the path."""

    def share(self, t: Tensor, path: Path) -> Tensor:
        """The probability of times from the data up to these, float64."""
        u = _number(t, path)
        low = torch.zeros_like(u)
        high = torch.ones_like(u)
        for _ in range(60):  # bisection: the quantile rises in u
            middle = 0.5 * (low + high)
            above = _number(self.quantile(middle, path), path) > u
            low = torch.where(above, low, middle)
            high = torch.where(above, middle, high)
        return high


def _time(u: Tensor, path: Path) -> Tensor:
    return path.t_data + (path.t_noise - path.t_data) * u


def _number(t: Tensor, path: Path) -> Tensor:
    return (t.double() - path.t_data) / (path.t_noise - path.t_data)


def _length(path: Path) -> float:
    return abs(path.t_noise - path.t_data)


@meant(low=number(0.0, 1.0), high=number(0.0, 1.0))
@dataclass(frozen=True)
class Uniform(Law):
    """Uniform between the fractions ``low`` and ``high`` of the way from data to noise."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0:
            raise OdesolveError(
                f"low={self.low}, high={self.high}: give shares of the way, 0 <= low < high <= 1"
            )

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return _time(self.low + (self.high - self.low) * u, path)

    def density(self, t: Tensor, path: Path) -> Tensor:
        u = _number(t, path)
        inside = (u >= self.low - EDGE) & (u <= self.high + EDGE)
        return inside.double() / ((self.high - self.low) * _length(path))


@meant(mean=number(), std=number(above=0.0))
@dataclass(frozen=True)
class LogitNormal(Law):
    """u = sigmoid(mean + std n) (Esser et al. 2024, eq. 19); a mean above 0 is nearer to the
    noise."""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return _time(torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)), path)

    def density(self, t: Tensor, path: Path) -> Tensor:
        u = _number(t, path)
        z = (torch.logit(u) - self.mean) / self.std
        return torch.exp(-0.5 * z**2) / (
            self.std * math.sqrt(2 * math.pi) * u * (1 - u) * _length(path)
        )


@meant(scale=number())
@dataclass(frozen=True)
class Mode(Law):
    """u = 1 - v - scale (cos^2(pi v / 2) - 1 + v) of uniform v (Esser et al. 2024, eq. 20); -1 <=
    scale <= 1.7519."""

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1.0 <= self.scale <= 2 / (math.pi - 2):
            raise OdesolveError(
                f"scale={self.scale}: give a number from -1 to {2 / (math.pi - 2):.4f}"
            )

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return _time(self._mode(1 - u), path)

    def density(self, t: Tensor, path: Path) -> Tensor:
        u = _number(t, path)
        low = torch.zeros_like(u)
        high = torch.ones_like(u)
        for _ in range(60):  # bisection: u falls in v
            middle = 0.5 * (low + high)
            above = self._mode(middle) > u
            low = torch.where(above, middle, low)
            high = torch.where(above, high, middle)
        slope = 1 + self.scale * (1 - 0.5 * math.pi * torch.sin(math.pi * low))
        return 1 / (slope * _length(path))

    def _mode(self, v: Tensor) -> Tensor:
        return 1 - v - self.scale * (torch.cos(0.5 * math.pi * v) ** 2 - 1 + v)


@meant()
@dataclass(frozen=True)
class CosMap(Law):
    """u = 1 - 1 / (tan(pi v / 2) + 1) of uniform v (Esser et al. 2024, eq. 21)."""

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return _time(1 - 1 / (torch.tan(0.5 * math.pi * u) + 1), path)

    def density(self, t: Tensor, path: Path) -> Tensor:
        u = _number(t, path)
        return 2 / (math.pi * (1 - 2 * u + 2 * u**2) * _length(path))


@meant(mean=number(), std=number(above=0.0))
@dataclass(frozen=True)
class LogNormal(Law):
    """log(sigma / alpha) is normal (Karras et al. 2022, table 1), held within the path."""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        t = path.t_of_lam(-(self.mean + self.std * torch.special.ndtri(u)))
        return t.clamp(*sorted((path.t_data, path.t_noise)))

    def density(self, t: Tensor, path: Path) -> Tensor:
        t = t.double()
        z = (-path.lam(t) - self.mean) / self.std
        slope = (path.dsigma(t) / path.sigma(t) - path.dalpha(t) / path.alpha(t)).abs()
        return torch.exp(-0.5 * z**2) / (self.std * math.sqrt(2 * math.pi)) * slope


@meant(low=number(above=0.0), high=number(above=0.0))
@dataclass(frozen=True)
class LogUniform(Law):
    """log(sigma / alpha) is uniform between those of ``low`` and ``high``, noise to signal ratios
    (NCSN's and VE's levels)."""

    low: float = 0.02
    high: float = 100.0

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high:
            raise OdesolveError(
                f"low={self.low}, high={self.high}: give noise to signal ratios, 0 < low < high"
            )

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return path.t_of_lam(-(math.log(self.low) + (math.log(self.high) - math.log(self.low)) * u))

    def density(self, t: Tensor, path: Path) -> Tensor:
        t = t.double()
        slope = (path.dsigma(t) / path.sigma(t) - path.dalpha(t) / path.alpha(t)).abs()
        inside = (path.rho(t) >= self.low * (1 - EDGE)) & (path.rho(t) <= self.high * (1 + EDGE))
        return inside * slope / (math.log(self.high) - math.log(self.low))


@meant()
@dataclass(frozen=True)
class Table(Law):
    """The training times i / N of a path with a table, all equally likely."""

    discrete: ClassVar[bool] = True

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        n = self._steps(path)
        place = (u * n).floor().clamp_max(n - 1) + 1
        return _time(place / n, path)

    def density(self, t: Tensor, path: Path) -> Tensor:
        """Probability of each."""
        return torch.full_like(t.double(), 1 / self._steps(path))

    def _steps(self, path: Path) -> int:
        if path.training_steps is None:
            raise OdesolveError(
                "the path has no table of training times: give another law, such as times.Uniform()"
            )
        return path.training_steps


class _Remembered(Struct, forbid_unknown_fields=True):
    losses: Tensor
    seen: Tensor


class Importance:
    """Times with probability in proportion to their loss: the root mean square of the latest losses
    in equal bins of u.

    Nichol and Dhariwal 2021, section 3.3, with bins instead of a table. Call ``update`` with
    the times and raw losses of a batch: ``law.update(terms.t, terms.raw, path)``, as ``terms.each``
    holds the factor of importance already. With ``importance=True`` the objective is that of
    uniform times."""

    stratified = False

    @meant(bins=count(2), history=count(), floor=number(0.0, 1.0))
    def __init__(self, bins: int = BINS, history: int = HISTORY, floor: float = 1e-3):
        self.losses = torch.full((bins, history), torch.nan, dtype=torch.float64)
        self.seen = torch.zeros(bins, dtype=torch.int64)
        self.floor = floor

    def update(self, t: Tensor, losses: Tensor, path: Path) -> None:
        """Remember the losses (n,) at times (n,)."""
        self.remember(self._place(t.cpu(), path), losses)

    def remember(self, places: Tensor, losses: Tensor) -> None:
        """Remember the losses (n,) in bins (n,)."""
        for place, loss in zip(
            places.tolist(), losses.detach().double().cpu().tolist(), strict=True
        ):
            self.losses[place, self.seen[place] % self.losses.shape[1]] = loss
            self.seen[place] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The losses that it remembers, for a checkpoint."""
        return {"losses": self.losses.clone(), "seen": self.seen.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what another law remembered. Raises OdesolveError where its bins or history
        differ."""
        saved = shaped(state, _Remembered, _DOOR)
        if saved.losses.shape != self.losses.shape:
            theirs = tuple(saved.losses.shape)
            mine = tuple(self.losses.shape)
            raise OdesolveError(
                f"the state is of (bins, history) = {theirs}, this law of {mine}: make it as it was"
            )
        for name, mine in (("losses", self.losses), ("seen", self.seen)):
            given = getattr(saved, name)
            if given.shape != mine.shape or given.dtype != mine.dtype:
                raise _DOOR.refuse(f"{name} is {short(given)}: expected {short(mine)}")
        if bool((saved.seen < 0).any()):
            raise _DOOR.refuse("seen holds numbers below 0")
        self.losses = saved.losses.clone()
        self.seen = saved.seen.clone()

    @property
    def probabilities(self) -> Tensor:
        """Of the bins; uniform until every one of them has a full history."""
        bins, history = self.losses.shape
        if bool((self.seen < history).any()):
            return torch.full((bins,), 1 / bins, dtype=torch.float64)
        p = self.losses.square().mean(1).sqrt()
        return (1 - self.floor) * p / p.sum() + self.floor / bins

    def __call__(self, n: int, path: Path, generator: torch.Generator | None = None) -> Tensor:
        """Times (n,), float64."""
        device = "cpu" if generator is None else generator.device
        u = torch.rand(2, n, dtype=torch.float64, generator=generator, device=device)
        return _time((self.places(u[0]) + u[1]) / len(self.losses), path)

    def places(self, u: Tensor) -> Tensor:
        """Bins (n,) at uniform numbers (n,)."""
        steps = self.probabilities.cumsum(0).to(u.device)
        return torch.searchsorted(steps, u * steps[-1]).clamp_max(len(steps) - 1)

    def density(self, t: Tensor, path: Path) -> Tensor:
        """Density at times of the path."""
        p = self.probabilities.to(t.device)
        return p[self._place(t, path)] * len(p) / _length(path)

    def share(self, t: Tensor, path: Path) -> Tensor:
        """The probability of times from the data up to these, float64."""
        p = self.probabilities.to(t.device)
        u = (_number(t, path) * len(p)).clamp(0, len(p))
        whole = u.long().clamp_max(len(p) - 1)
        return p.cumsum(0)[whole] - p[whole] * (whole + 1 - u)

    def _place(self, t: Tensor, path: Path) -> Tensor:
        """Bins of times; a time of a table stands for the numbers between the time before and
        itself."""
        u = _number(t, path)
        u = u if path.training_steps is None else u - 0.5 / path.training_steps
        return (u * len(self.losses)).long().clamp(0, len(self.losses) - 1)


@fits
def draw_times(law: Any, n: int, path: Path, generator: torch.Generator | None = None) -> Tensor:
    """Times (n,) of a law; on a path with a table each is rounded up to the next time of the table,
    as ``Table`` does."""
    t = law(n, path, generator)
    if path.training_steps is None or isinstance(law, Table) or not isinstance(t, Tensor):
        return t
    return _time(_index(t, path) / path.training_steps, path)


drawn = draw_times  # its name before 0.2


@fits
def relative(law: Any, t: Tensor, path: Path) -> Tensor:
    """The density of a law at times relative to the uniform one; on a table the probability
    relative to equal ones."""
    steps = path.training_steps
    if steps is None:
        return law.density(t, path) * _length(path)
    at = _index(t, path)
    share = law.share if hasattr(law, "share") else functools.partial(Law.share, law)
    high, low = (share(_time(k / steps, path), path) for k in (at + 1e-6, at - 1 + 1e-6))
    return steps * (torch.where(at >= steps, 1.0, high) - torch.where(at <= 1, 0.0, low))


def _index(t: Tensor, path: Path) -> Tensor:
    """Numbers of the table's times, 1 to N and float64, that these lie below or at."""
    assert path.training_steps is not None
    return (_number(t, path) * path.training_steps - 1e-6).ceil().clamp_min(1)


@fits
def named(times: Any, default: Law) -> Any:
    """An objective's law: the user's, also by a name such as "logit_normal(mean=1)", or the
    default."""
    if times is None:
        return default
    return built(
        "times", times, NAMED, "a law of odesolve.objectives.times", ("n", "path", "generator")
    )


NAMED: dict[str, type] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "mode": Mode,
    "cosmap": CosMap,
    "log_normal": LogNormal,
    "log_uniform": LogUniform,
    "table": Table,
    "importance": Importance,
}


@fits
def shares(path: Path) -> tuple[float, float]:
    """The numbers u between which the log-SNR of a path is cut off: those of its ``t_min`` and
    ``t_clip``; without a ``t_clip``, one as near to the noise."""
    low = float(_number(torch.tensor(path.t_min, dtype=torch.float64), path))
    high = (
        1 - low
        if path.t_clip is None
        else float(_number(torch.tensor(path.t_clip, dtype=torch.float64), path))
    )
    return low, high


def default(path: Path, predicts: str) -> Law:
    """The law that a path's networks train with: its table; EDM's log-normal for "edm"; otherwise
    uniform, from where the target is finite."""
    if path.training_steps is not None:
        return Table()
    if predicts == "edm":
        return LogNormal()
    finite = predicts in ("data", "noise", "v") or (
        predicts == "velocity" and math.isfinite(float(path.dsigma(path.t_data)))
    )
    if finite:
        return Uniform()
    return Uniform(low=float(_number(torch.tensor(path.t_min, dtype=torch.float64), path)))
