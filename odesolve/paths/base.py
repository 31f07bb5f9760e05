"""Probability paths x_t = alpha(t) x0 + sigma(t) eps, and every conversion between what networks
predict on them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from odesolve.doors.annotations import meant
from odesolve.doors.values import real, row
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError, short, unknown
from odesolve.files import Door, Number, shaped
from odesolve.paths.registry import check_kind, join, name_of

PREDICTIONS = ("data", "noise", "v", "velocity", "score", "edm")
# What these are called elsewhere; "_prediction" and "_pred" behind a word say nothing more.
ELSEWHERE = {
    **dict.fromkeys(("epsilon", "eps"), "noise"),
    **dict.fromkeys(
        ("x0", "x_0", "x_start", "xstart", "start", "start_x", "sample", "denoised", "original"),
        "data",
    ),
    **dict.fromkeys(("flow", "flow_matching", "rectified_flow", "u"), "velocity"),
}
Time = float | Tensor
SPEC = Door("this", "describes no path", "give what path.spec() returned")


class Point(NamedTuple):
    """A path at one time, as Python floats: what a solver reads when it writes a row."""

    t: float
    alpha: float
    sigma: float
    dalpha: float
    dsigma: float
    lam: float

    @property
    def rho(self) -> float:
        """Noise to signal ratio sigma/alpha (the EDM "sigma")."""
        if self.alpha > 0:
            return self.sigma / self.alpha
        return float("inf")


def as_time(t: Time) -> Tensor:
    """t as a tensor of at least float32; Python numbers become float64."""
    if not isinstance(t, Tensor):
        return torch.as_tensor(t, dtype=torch.float64)
    if t.dtype in (torch.float32, torch.float64):
        return t
    return t.to(torch.float32)


def prediction_named(given: object) -> str:
    """The prediction of this name, in any case: one of ``PREDICTIONS``, or of another program's,
    such as "v-prediction".

    Raises OdesolveError for other names.
    """
    if given is None:
        raise OdesolveError(
            f"what the network predicts is missing: give predicts= one of {', '.join(PREDICTIONS)}"
        )
    word = str(given).strip().lower().replace("-", "_").replace(" ", "_")
    word = word.removesuffix("_prediction").removesuffix("_pred").removeprefix("pred_")
    if word in ("f", "f_theta", "raw"):
        raise OdesolveError(
            f"unknown prediction {given!r}: did you mean 'edm', EDM's network within its "
            "preconditioning?"
        )
    name = ELSEWHERE.get(word, word)
    if name not in PREDICTIONS:
        raise unknown("prediction", given, PREDICTIONS, ELSEWHERE)
    return name


@dataclass(frozen=True)
class Path:
    """A Gaussian probability path; data at t = 0, noise at t = ``t_max``.

    All functions of time take a float or a tensor of any shape and return a tensor of that shape
    (float64 for a float). ``t_min`` is where grids that are uniform in log-SNR stop before the last
    step to the data end, ``t_clip`` where they begin after the first step when the log-SNR at
    ``t_max`` is infinite. ``family`` is "preserving" (unit variance), "exploding" (the signal
    stays, the noise grows) or "flow" (no signal is left at the noise end, and none is missed).

    A path is a frozen dataclass with alpha, sigma, one of ``dalpha`` and ``f``, one of ``dsigma``
    and ``g2``, and ``t_of_lam``; its fields are its parameters. It joins ``ode.plan``, plan files
    and the command line when its class is made: ``class Mine(Path, name="mine")``, or without a
    name as "package.module:Mine". OdesolveError where something is missing."""

    t_max: ClassVar[float] = 1.0
    t_min: ClassVar[float] = 1e-3
    t_clip: ClassVar[float | None] = None
    family: ClassVar[str] = "preserving"
    source: ClassVar[str] = ""  # where it was published: "authors year"
    registered: ClassVar[str] = "Path"  # its name in files

    def __init_subclass__(cls, name: str | None = None, typed: bool = True, **more: Any) -> None:
        """Check the class and register it; ``typed`` says whether its name alone makes a path."""
        super().__init_subclass__(**more)
        check_kind(cls, Path, vars(cls))
        cls.registered = name_of(cls, name)
        if cls.alpha is not Path.alpha and cls.sigma is not Path.sigma:
            join(cls, cls.registered, typed)

    def alpha(self, t: Time) -> Tensor:
        """Signal scale alpha(t)."""
        raise self._missing("alpha(t), the signal scale")

    def sigma(self, t: Time) -> Tensor:
        """Noise scale sigma(t)."""
        raise self._missing("sigma(t), the noise scale")

    def _missing(self, what: str) -> OdesolveError:
        return OdesolveError(f"the path {type(self).__name__} has no {what}: define it")

    def dalpha(self, t: Time) -> Tensor:
        """Time derivative of alpha."""
        return self.f(t) * self.alpha(t)

    def dsigma(self, t: Time) -> Tensor:
        """Time derivative of sigma; infinite where sigma leaves 0 like a square root."""
        s = self.sigma(t)
        return 0.5 * self.g2(t) / s + self.f(t) * s

    def lam(self, t: Time) -> Tensor:
        """Half log-SNR lambda = log(alpha/sigma), decreasing from data to noise."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def t_of_lam(self, lam: Time) -> Tensor:
        """Time at which the half log-SNR is ``lam``."""
        raise self._missing("t_of_lam(lam), the time at which the half log-SNR is lam")

    def f(self, t: Time) -> Tensor:
        """Linear drift coefficient f = alpha'/alpha of the forward SDE dx = f x dt + g dW."""
        return self.dalpha(t) / self.alpha(t)

    def g2(self, t: Time) -> Tensor:
        """Squared diffusion g^2 = d(sigma^2)/dt - 2 f sigma^2 of the forward SDE."""
        s = self.sigma(t)
        return 2 * s * (self.dsigma(t) - self.f(t) * s)

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient of the forward SDE."""
        return torch.sqrt(self.g2(t))

    def rho(self, t: Time) -> Tensor:
        """Noise to signal ratio sigma/alpha = exp(-lambda)."""
        return torch.exp(-self.lam(t))

    def t_of_rho(self, rho: Time) -> Tensor:
        """Time at which sigma/alpha is ``rho``."""
        return self.t_of_lam(-torch.log(as_time(rho)))

    def start_std(self, t: float) -> float:
        """Standard deviation of the noise that a solve starting at t begins with: sigma, or 1 on
        unit-variance paths."""
        return float(self.sigma(t))

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior that sampling starts from."""
        return self.start_std(self.t_noise)

    @property
    def t_noise(self) -> float:
        """Time of the noise end."""
        return self.t_max

    @property
    def t_data(self) -> float:
        """Time of the data end."""
        return 0.0

    @property
    def training_steps(self) -> int | None:
        """Number of discrete training times (they lie at i / training_steps), or None for
        continuous time."""
        return None

    @fits_as("path.flipped")
    def flipped(self) -> Path:
        """The same path with time reversed: noise at 0 and data at ``t_max``, as flow-matching
        papers write it."""
        return Flipped(self)

    @fits_as("path.points")
    def points(self, times) -> list[Point]:
        """The path at each of the given times, in float64 on the host."""
        t = row("times", times, "times (n,)")
        columns = (t, self.alpha(t), self.sigma(t), self.dalpha(t), self.dsigma(t), self.lam(t))
        numbers = [as_time(column).expand(t.shape).tolist() for column in columns]
        return [Point(*row) for row in zip(*numbers, strict=True)]

    @fits_as("path.point")
    def point(self, t: float) -> Point:
        """The path at one time."""
        return self.points([t])[0]

    def spec(self) -> dict:
        """Name and parameters as plain values, for JSON. Raises OdesolveError for a path that keeps
        what is no parameter of it: two such paths would count as one."""
        fields = {f.name for f in dataclasses.fields(self)}
        kept = {k for k in vars(self) if not hasattr(type(self), k)}
        if loose := sorted(kept - fields):
            raise OdesolveError(
                f"the path {type(self).__name__} keeps {', '.join(loose)} and has no such field: "
                "make the class a @dataclass(frozen=True) with its parameters as fields"
            )
        values = {name: getattr(self, name) for name in sorted(fields)}
        for name, value in values.items():
            if not _written(value):
                raise OdesolveError(
                    f"the path {type(self).__name__} keeps {name}={short(value)}, and files hold "
                    "its parameters as finite numbers: give a number, or define spec() and the "
                    "classmethod from_parameters, which write and read it another way"
                )
        return {"name": self.registered, **dataclasses.asdict(self)}

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Path:
        """The path that ``spec()`` describes by these parameters, numbers; classes with others say
        themselves how they are read."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key, value in parameters.items():
            shaped(value, Number, SPEC)
            if key not in known:
                raise SPEC.refuse(f"{cls.registered} has no {key!r}")
        with SPEC.reading():
            return cls(**parameters)

    def rows(
        self,
        t: Time,
        prediction: str,
        sigma_data: float = 0.5,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(c0, c1, s) with s * F = c0 * x0 + c1 * eps for what a network of this kind predicts.

        The scale s keeps c0 and c1 finite where F itself is not (the score at sigma = 0, the
        velocity where sigma' is infinite).
        """
        a = self.alpha(t)
        s = self.sigma(t)
        one = torch.ones_like(a)
        zero = torch.zeros_like(a)
        if prediction == "data":
            return one, zero, one
        if prediction == "noise":
            return zero, one, one
        if prediction == "v":
            return -s, a, one
        if prediction == "score":
            return zero, -one, s
        if prediction == "edm":
            r = torch.hypot(s, a * sigma_data)
            return s / (sigma_data * r), -a * sigma_data / r, one
        if prediction == "velocity":
            da = self.dalpha(t)
            ds = self.dsigma(t)
            steep = torch.isinf(ds)
            return (
                torch.where(steep, zero, da),
                torch.where(steep, one, ds),
                torch.where(steep, zero, one),
            )
        raise unknown("prediction", prediction, PREDICTIONS)

    @fits_as("path.convert")
    def convert(
        self,
        t: Time,
        given: str,
        want: str,
        sigma_data: float = 0.5,
    ) -> tuple[Tensor, Tensor]:
        """(k_x, k_F) with ``want`` = k_x * x + k_F * F for a network output F that predicts
        ``given``.

        One 2x2 system, (x, s F) = ((alpha, sigma), (c0, c1)) (x0, eps), inverted once. Entries are
        infinite or NaN only where the quantity itself is undetermined (noise at sigma = 0 from
        data, data at alpha = 0 from noise)."""
        if given == want:
            a = self.alpha(t)
            return torch.zeros_like(a), torch.ones_like(a)
        # f x - g^2 score / 2 stays finite at the data end, sigma' may not
        if (given, want) == ("score", "velocity"):
            return self.f(t), (-0.5 if self.t_noise > self.t_data else 0.5) * self.g2(t)
        a = self.alpha(t)
        s = self.sigma(t)
        if {given, want} == {"noise", "score"}:  # each other's multiple, also where alpha = 0
            return torch.zeros_like(s), -s if want == "noise" else -1 / s
        c0, c1, scale = self.rows(t, given, sigma_data)
        w0, w1, wanted_scale = self.rows(t, want, sigma_data)
        det = (a * c1 - s * c0) * wanted_scale
        return (w0 * c1 - w1 * c0) / det, scale * (a * w1 - s * w0) / det


@meant()
@dataclass(frozen=True)
class Flipped(Path, typed=False):
    """A path seen with time reversed (s = t_max - t): noise at s = 0, data at s = t_max; velocities
    change sign."""

    base: Path

    @property
    def family(self) -> str:  # type: ignore[override]
        return self.base.family

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.base.source

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self.base.t_max

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return self.base.t_max - self.base.t_min

    @property
    def t_clip(self) -> float | None:  # type: ignore[override]
        if self.base.t_clip is None:
            return None
        return self.base.t_max - self.base.t_clip

    @property
    def t_noise(self) -> float:
        return 0.0

    @property
    def t_data(self) -> float:
        return self.base.t_max

    @property
    def training_steps(self) -> int | None:
        return self.base.training_steps

    def start_std(self, t: float) -> float:
        return self.base.start_std(self.base.t_max - t)

    def _t(self, s: Time) -> Tensor:
        return self.base.t_max - as_time(s)

    def alpha(self, t: Time) -> Tensor:
        return self.base.alpha(self._t(t))

    def sigma(self, t: Time) -> Tensor:
        return self.base.sigma(self._t(t))

    def dalpha(self, t: Time) -> Tensor:
        return -self.base.dalpha(self._t(t))

    def dsigma(self, t: Time) -> Tensor:
        return -self.base.dsigma(self._t(t))

    def lam(self, t: Time) -> Tensor:
        return self.base.lam(self._t(t))

    def f(self, t: Time) -> Tensor:
        return -self.base.f(self._t(t))

    def g2(self, t: Time) -> Tensor:
        """Squared diffusion of the base path's SDE (non-negative; the SDE itself runs in the base
        path's time)."""
        return self.base.g2(self._t(t))

    def t_of_lam(self, lam: Time) -> Tensor:
        return self.base.t_max - self.base.t_of_lam(lam)

    @fits_as("path.flipped")
    def flipped(self) -> Path:
        return self.base

    def spec(self) -> dict:
        return {"name": "Flipped", "base": self.base.spec()}


def _written(value: object) -> bool:
    """Whether a parameter is a number that a file gives back: those that ``Number`` reads."""
    try:
        shaped(value, Number, SPEC)
    except OdesolveError:
        return False
    return isinstance(value, (int, float))


def check_numbers(path: Path, **limits: float) -> None:
    """Raise OdesolveError for a parameter of a path that is no finite number; ``limits`` are the
    largest of some."""
    for field in dataclasses.fields(path):
        given = getattr(path, field.name)
        number = real(
            f"{type(path).__name__} {field.name}",
            given,
            "a finite number",
            most=limits.get(field.name, math.inf),
        )
        if type(given) not in (int, float):
            object.__setattr__(path, field.name, number)


def require(condition: bool, message: str) -> None:
    """Raise an OdesolveError with this message unless the condition holds."""
    if not condition:
        raise OdesolveError(message)
