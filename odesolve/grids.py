"""Time grids: n + 1 times from the noise end of a path to its data end, strictly monotone.

Example:
    >>> import odesolve as ode
    >>> times = ode.grids.make(ode.grids.Karras(rho=7.0), ode.paths.VE(), 4)
    >>> len(times), times[0], times[-1]  # the noise, the data
    (5, 1.0, 0.0)
    >>> ode.plan("heun", ode.paths.VE(), steps=4, grid="karras").grid == times
    True
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.values import row, whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, distinct, plain, short, unknown
from odesolve.paths import Path, unknown_grid
from odesolve.paths.snapping import snapped

MAX_STEPS = 100_000
# How far a time may lie beyond an end of its path and be moved to it: in log-SNR as published lists
# in float32 do, in time (of the path's range) by rounding, by more where the list is in half.
LOG_SNR = 1e-4
ROUNDING = 1e-6
FLOAT32 = 2.0**-22  # an end itself, written in float32
STEEPEST = 1e9  # parameter of a grid: beyond it float64 tells its times no longer apart
HALF = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Grid:
    """A rule that places n + 1 times on a path.

    ``start`` and ``stop`` are times on the path. The default start is the noise end. Rules in
    log-SNR cannot reach an end where it is infinite: they place n times down to ``stop`` (by
    default the path's ``t_min``) and add the data end; rules in time go to the data end directly
    unless ``stop`` is given."""

    start: float | None = None
    stop: float | None = None

    def times(self, path: Path, n: int) -> list[float]:
        """The n + 1 times, from noise to data."""
        raise NotImplementedError

    def _ends(self, path: Path) -> tuple[float, float]:
        start = path.t_noise if self.start is None else self.start
        stop = path.t_data if self.stop is None else self.stop
        return inside(path, start), inside(path, stop)


@fits
@dataclass(frozen=True)
class Polynomial(Grid):
    """t^(1/exponent) uniform between the ends: exponent 1 is uniform in t, 2 quadratic, larger ones
    finer near the data."""

    exponent: float = 2.0

    def times(self, path: Path, n: int) -> list[float]:
        if not self.exponent > 0:
            raise OdesolveError(
                f"exponent={self.exponent}: give a positive number, 2 for the quadratic grid"
            )
        start, stop = self._ends(path)
        # Distances from the data end, so that a flipped path gets the same grid.
        a = abs(start - path.t_data)
        b = abs(stop - path.t_data)
        u = torch.linspace(
            a ** (1 / self.exponent), b ** (1 / self.exponent), n + 1, dtype=torch.float64
        )
        away = u**self.exponent
        away[0], away[-1] = a, b
        return (path.t_data + math.copysign(1.0, path.t_noise - path.t_data) * away).tolist()


@fits
@dataclass(frozen=True)
class Uniform(Polynomial):
    """Uniform in t."""

    exponent: float = 1.0


@dataclass(frozen=True)
class _LogSNR(Grid):
    """Grids that are placed by the noise-to-signal ratio.

    ``final`` adds the data end after ``stop`` (k-diffusion's trailing zero). With ``merged`` the
    last of the n + 1 placed times is moved onto the data end instead, which saves the evaluation at
    ``stop``: better for methods whose last step is not first order, worse for those in log-SNR.
    """

    final: bool = True
    merged: bool = False

    def times(self, path: Path, n: int) -> list[float]:
        first, last = self._range(path)
        stop = path.t_min if self.stop is None else self.stop
        final = self.final and not self.merged and stop != path.t_data
        times = path.t_of_lam(self._place(path, first, last, n - 1 if final else n)).tolist()
        times[-1] = stop if len(times) > 1 else times[-1]
        times[0] = path.t_noise if self.start is None else self.start
        if self.merged:
            times[-1] = path.t_data
        return [*times, path.t_data] if final else times

    def _range(self, path: Path) -> tuple[float, float]:
        start = self.start
        if start is None:
            start = path.t_noise if path.t_clip is None else path.t_clip
        stop = path.t_min if self.stop is None else self.stop
        start = inside(path, start)
        stop = inside(path, stop)
        lam = path.lam(torch.tensor([start, stop], dtype=torch.float64)).tolist()
        if not all(map(math.isfinite, lam)):
            raise OdesolveError(
                f"the log-SNR is infinite at t={start} or t={stop}: give start= and stop= between "
                "the ends"
            )
        return lam[0], lam[1]

    def _place(self, path: Path, first: float, last: float, n: int) -> Tensor:
        raise NotImplementedError


@fits
@dataclass(frozen=True)
class Lambda(_LogSNR):
    """Uniform in the half log-SNR lambda, which is also uniform in log sigma (k-diffusion's
    exponential)."""

    def _place(self, path: Path, first: float, last: float, n: int) -> Tensor:
        return torch.linspace(first, last, n + 1, dtype=torch.float64)


@fits
@dataclass(frozen=True)
class Karras(_LogSNR):
    """(sigma/alpha)^(1/rho) uniform (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0

    def _place(self, path: Path, first: float, last: float, n: int) -> Tensor:
        if not 0 < self.rho <= STEEPEST:
            raise OdesolveError(
                f"rho={self.rho}: give a positive number up to {STEEPEST:g}, 7 for the grid of "
                "the paper"
            )
        ends = math.exp(-first / self.rho), math.exp(-last / self.rho)
        u = torch.linspace(*ends, n + 1, dtype=torch.float64)
        return -self.rho * torch.log(u)


@fits
@dataclass(frozen=True)
class VPTime(_LogSNR):
    """Polynomial in the time of a linear-beta VP path with the same range of noise-to-signal
    ratios.

    On any path: the ratios of the VP path whose ends match are taken at times with t^(1/exponent)
    uniform. On VP itself this is ``Polynomial`` from 1 to ``epsilon``.
    """

    exponent: float = 2.0
    epsilon: float = 1e-3

    def _place(self, path: Path, first: float, last: float, n: int) -> Tensor:
        if not self.exponent > 0:
            raise OdesolveError(
                f"exponent={self.exponent}: give a positive number, 2 for the quadratic grid"
            )
        if not 0 < self.epsilon < 1:
            raise OdesolveError(f"epsilon={self.epsilon}: give a number between 0 and 1")
        # B(t) = log(1 + rho^2) = b1 t + b2 t^2 through both ends.
        top = math.log1p(math.exp(-2 * first))
        low = math.log1p(math.exp(-2 * last))
        b2 = (low / self.epsilon - top) / (self.epsilon - 1)
        b1 = top - b2
        if b1 + 2 * b2 <= 0:  # B would fall again before t = 1
            raise OdesolveError(
                f"epsilon={self.epsilon} does not fit this range of noise: give "
                f"epsilon={low / top:.2g}"
            )
        u = torch.linspace(1.0, self.epsilon ** (1 / self.exponent), n + 1, dtype=torch.float64)
        t = u**self.exponent
        return -0.5 * torch.log(torch.expm1(t * (b1 + b2 * t)))


@fits
@dataclass(frozen=True)
class Asinh(Grid):
    """Uniform in asinh(ratio / scale) of the noise-to-signal ratio: in log-SNR far out, in the
    ratio itself near the data.

    It reaches both ends, and suits methods in rho, whose last step is as good as the others;
    references are solved on it. Where the ratio is infinite at one end, the time next to it lies at
    ``far``."""

    scale: float = 0.15
    far: float = 250.0

    def times(self, path: Path, n: int) -> list[float]:
        if not (self.scale > 0 and 0 < self.far < math.inf):
            raise OdesolveError(f"scale={self.scale}, far={self.far}: give positive numbers")
        start, stop = self._ends(path)
        first = path.point(start).rho
        last = path.point(stop).rho
        # towards the noise: the same times backwards
        if math.isinf(last) and not math.isinf(first):
            return replace(self, start=stop, stop=start).times(path, n)[::-1]
        infinite = math.isinf(first)
        ends = (
            math.asinh((self.far if infinite else first) / self.scale),
            math.asinh(last / self.scale),
        )
        u = torch.linspace(ends[0], ends[1], n + 1 - infinite, dtype=torch.float64)
        ratio = self.scale * torch.sinh(u)
        inner = ratio[:-1] if infinite else ratio[1:-1]
        return [start, *path.t_of_rho(inner).tolist(), stop][: n + 1]


@fits
@dataclass(frozen=True)
class Shifted(Grid):
    """Uniform in t, then t -> k t / (1 + (k - 1) t) in units of t_max, as flow models for large
    images are sampled.

    ``shift`` is k; ``mu`` gives k = exp(mu) instead, the dynamic shift of Flux and SD3.
    """

    shift: float = 3.0
    mu: float | None = None

    def times(self, path: Path, n: int) -> list[float]:
        k = math.exp(min(self.mu, 700.0)) if self.mu is not None else self.shift
        if not 0 < k <= STEEPEST:
            raise OdesolveError(
                f"shift={k}: give a positive number up to {STEEPEST:g}; 1 leaves the grid uniform"
            )
        start, stop = self._ends(path)
        a, b = (abs(v - path.t_data) / path.t_max for v in (start, stop))
        # The shift maps the unshifted ends to the ones asked for.
        first, last = (end / (k - (k - 1) * end) for end in (a, b))
        u = torch.linspace(first, last, n + 1, dtype=torch.float64)
        shifted = k * u / (1 + (k - 1) * u)
        shifted[0], shifted[-1] = a, b
        away = path.t_max * shifted
        return (path.t_data + math.copysign(1.0, path.t_noise - path.t_data) * away).tolist()


@fits
@dataclass(frozen=True)
class Spaced(Grid):
    """Integer training times of a table of N: "trailing", "leading" or "linspace", then the data
    end.

    "trailing" is N - i N/n (it starts at the noise end), "leading" starts one stride lower,
    "linspace" covers both ends (Lin et al. 2024, table 2). Rounded to integers without duplicates.
    """

    spacing: str = "trailing"
    offset: int = 0

    def times(self, path: Path, n: int) -> list[float]:
        total = path.training_steps
        if total is None:
            raise OdesolveError(
                f"grid {self.spacing!r} needs a path with training times: use paths.Discrete(...)"
            )
        if n > total:
            raise OdesolveError(
                f"{n} steps on a table of {total} training times: give at most {total}"
            )
        i = torch.arange(n, dtype=torch.float64)
        if self.spacing == "trailing":
            index = torch.round(total - i * (total / n))
        elif self.spacing == "leading":
            index = (n - 1 - i) * (total // n) + 1 + whole("offset", self.offset, 0, total - 1)
        elif self.spacing == "linspace":
            index = (
                torch.round(i.flip(0) * ((total - 1) / max(n - 1, 1))) + 1
                if n > 1
                else torch.tensor([total])
            )
        else:
            raise unknown("spacing", self.spacing, ("trailing", "leading", "linspace"))
        times = (index.clamp(1, total) / total).tolist()
        if path.t_noise < path.t_data:
            times = [path.t_max - t for t in times]
        return [*times, path.t_data]


@fits
@dataclass(frozen=True)
class Listed(Grid):
    """Times given by the user, n + 1 of them; ``rounding`` is that of the numbers as they were
    given, relative to their size."""

    values: tuple[float, ...] = ()
    rounding: float = 0.0

    def times(self, path: Path, n: int) -> list[float]:
        return list(self.values)


NAMED: dict[str, Grid] = {
    "uniform": Uniform(),
    "quadratic": Polynomial(exponent=2.0),
    "lambda": Lambda(),
    "exponential": Lambda(),
    "karras": Karras(),
    "vp_time": VPTime(),
    "asinh": Asinh(),
    "trailing": Spaced(spacing="trailing"),
    "leading": Spaced(spacing="leading"),
    "linspace": Spaced(spacing="linspace"),
    "shift": Shifted(),
}


@fits
def named(grid: str | Grid | Sequence[float] | Tensor) -> Grid:
    """The rule for a name, a rule, or a list of times. Raises OdesolveError for an unknown name."""
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str):
        return rule_named(grid, NAMED)
    if isinstance(grid, Tensor) and grid.requires_grad:
        raise OdesolveError(
            "grid requires gradients, which the times of a plan do not get: give grid.detach()"
        )
    values = row("grid", grid, "the name of a rule, a rule, or a list of two or more times")
    if len(values) < 2:
        raise OdesolveError(
            f"grid is {short(grid)}: give two or more times, or the name of a rule such as 'karras'"
        )
    return Listed(values=tuple(values.tolist()), rounding=_rounding(grid))


def rule_named(name: str, known: Mapping[str, Grid]) -> Grid:
    """The rule of this name, in any case. Raises OdesolveError with the nearest name otherwise."""
    if plain(name) not in known:
        raise unknown_grid(name, known)
    return known[plain(name)]


found = rule_named  # its name before 0.2


def is_listed(grid: object) -> bool:
    """Whether a grid is a list of times, which has its own number of steps."""
    return isinstance(grid, Listed) or not (grid is None or isinstance(grid, str | Grid))


@meant()
def sigmas(path: Path, values: Sequence[float] | Tensor) -> Listed:
    """The grid at these noise-to-signal ratios (k-diffusion's sigmas; a last 0 is the data end).

    Those beyond the path's by at most 1e-4 in log-SNR are moved to its ends. Raises OdesolveError
    for ratios farther outside."""
    rho = row("sigmas", values, "a list of noise-to-signal ratios, such as k-diffusion's sigmas")
    times = times_of(path, rho, _rounding(values))
    if len(times) > 1 and float(rho[-1]) == 0.0 and times[-2] == path.t_data:
        # the data end of this path has noise, and the list reached it before its last 0
        times.pop()
    return Listed(values=tuple(times))


def times_of(path: Path, rho: Tensor, rounding: float = 0.0) -> list[float]:
    """Times of noise-to-signal ratios (n,), float64 on the host, moved and refused as by
    ``sigmas``; 0 is the data end."""
    ends = torch.tensor([path.t_noise, path.t_data], dtype=torch.float64)
    first, last = path.lam(ends).tolist()
    lam = -torch.log(rho)
    inside = lam.clamp(first, last)
    beside = (lam - inside).abs() <= max(LOG_SNR, rounding)
    near = (lam == inside) | beside | (rho == 0.0)
    if not bool(near.all()):
        lowest = 0.0 if float(path.sigma(path.t_data)) == 0.0 else math.exp(-last)
        sigma, low, high = distinct(float(rho[~near][0]), lowest, math.exp(-first))
        raise OdesolveError(
            f"the grid leaves the path's range: sigma={sigma} is not in [{low}, {high}]; give "
            "noise levels inside"
        )
    hair = max(FLOAT32, rounding)  # before an end
    times = torch.where(lam <= first + hair, path.t_noise, path.t_of_lam(inside))
    return torch.where((lam >= last - hair) | (rho == 0.0), path.t_data, times).tolist()


def count(steps: object, name: str = "steps") -> int:
    """A whole number of steps, from 1 to what a plan holds. Raises OdesolveError for others."""
    number = whole(name, steps, 1, math.inf)
    if number > MAX_STEPS:
        raise OdesolveError(
            f"{name}={short(steps)}: a plan holds a row of coefficients for each step, of at most "
            f"{MAX_STEPS}: give fewer, or "
            "for a longer solve ode.solve(model, x, t=..., rtol=..., atol=...), which holds none"
        )
    return number


def make(grid: Grid, path: Path, steps: int | None, snap: bool = False) -> tuple[float, ...]:
    """The checked times of a grid: n + 1 of them, strictly monotone, inside the path; on training
    times if ``snap``.

    Raises OdesolveError where the grid leaves the path's range or is not monotone, or steps is no
    positive integer."""
    if isinstance(grid, Listed):
        steps = len(grid.values) - 1
    given = grid.times(path, count(steps))
    times = [inside(path, t, getattr(grid, "rounding", 0.0)) for t in given]
    pairs = list(itertools.pairwise(times))
    if not (all(a > b for a, b in pairs) or all(a < b for a, b in pairs)):
        falls = times[0] > times[-1]
        k = next(k for k, (a, b) in enumerate(pairs) if (a > b) != falls or a == b)
        pair = ", ".join(distinct(given[k], given[k + 1]))
        raise OdesolveError(
            f"the grid is not strictly monotone at t={pair}: give increasing or decreasing"
        )
    return tuple(snapped(path, times) if snap and path.training_steps is not None else times)


def inside(path: Path, t: float, rounding: float = 0.0) -> float:
    """A time of the path, or an end that it passes by rounding. OdesolveError farther outside."""
    low, high = sorted((path.t_noise, path.t_data))
    end = min(max(t, low), high)
    if t == end or abs(t - end) <= max(ROUNDING, rounding) * (high - low):
        return end
    beyond, at = path.lam(torch.tensor([t, end], dtype=torch.float64)).tolist()
    if abs(beyond - at) <= max(LOG_SNR, rounding):
        return end
    time, low, high = distinct(t, low, high)
    raise OdesolveError(
        f"the grid leaves the path's range: t={time} is not in [{low}, {high}]; give times inside"
    )


def _rounding(values: object) -> float:
    """The rounding of numbers in half precision relative to their size; 0 for wider ones."""
    return HALF.get(str(getattr(values, "dtype", "")).rpartition(".")[2], 0.0)
