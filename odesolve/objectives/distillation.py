"""Students of diffusion models: half as many DDIM steps again and again, and guidance in one
evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, number, takes, text
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits, fits_call
from odesolve.errors import OdesolveError, unknown
from odesolve.grids import Grid, make
from odesolve.methods.tableaus import EXPLICIT
from odesolve.model.model import Model
from odesolve.objectives import times as laws
from odesolve.objectives.draws import (
    can_look,
    check_data,
    check_finite,
    check_told,
    checked_times,
    column,
    mask_for,
    mean_square,
    normal_for,
)
from odesolve.objectives.matching import Terms
from odesolve.objectives.means import law_for
from odesolve.objectives.weights import Weight, signal, weighed, weights
from odesolve.paths import Path
from odesolve.planning.labels import rule_of

TABLEAUS = {tableau.name: tableau for tableau in EXPLICIT}


def check_teacher(teacher: Model, path: Path) -> None:
    """Raise OdesolveError unless a teacher is on this path."""
    if teacher.path != path:
        raise OdesolveError(
            f"the teacher is on {teacher.path}, the student on {path}: give one path"
        )


def check_solver(solver: str) -> None:
    """Raise OdesolveError unless ``runge_kutta`` knows the method."""
    if solver not in TABLEAUS:
        raise unknown("solver", solver, TABLEAUS)


def runge_kutta(
    model: Model,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    solver: str = "heun",
) -> Tensor:
    """One step of the probability flow from times t (B,) to r (B,), by "euler", "midpoint", "heun",
    "rk4", ..."""
    tableau = TABLEAUS[solver]
    h = r - t
    slopes: list[Tensor] = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        move = sum(a * k for a, k in zip(row, slopes, strict=True))
        slopes.append(model.velocity(x + column(h, x) * move if row else x, t + c * h))
    return x + column(h, x) * sum(b * k for b, k in zip(tableau.b, slopes, strict=True))


def ddim(
    path: Path,
    x: Tensor,
    data: Tensor,
    t: Tensor,
    r: Tensor,
) -> Tensor:
    """The DDIM step of states x (B, ...) from times t (B,) to r (B,) by the data prediction at t
    (Song et al. 2021, eq. 12)."""
    gain = -path.alpha(r) * torch.expm1(path.lam(t) - path.lam(r))
    return column(path.sigma(r) / path.sigma(t), x) * x + column(gain, x) * data


def two_steps(
    teacher: Model,
    x: Tensor,
    t: Tensor,
    middle: Tensor,
    end: Tensor,
) -> Tensor:
    """The data prediction whose one DDIM step from t to end is the teacher's two (Salimans and Ho
    2022, algorithm 2).

    The paper's (z'' - (sigma''/sigma) z) / (alpha'' - (sigma''/sigma) alpha) is the mean of the
    teacher's two predictions with weights expm1(-h) of the log-SNR, as here: no difference of
    states, and finite at both ends of every path. Times are (B,)."""
    path = teacher.path
    lam = path.lam(t)
    mid = path.lam(middle)
    far = path.lam(end)
    first = teacher.data(x, t)
    second = teacher.data(ddim(path, x, first, t, middle), middle)
    share = torch.expm1(mid - far) / torch.expm1(lam - far)  # of the second: 1 at the data end
    return torch.lerp(first, second, column(share, x).expand_as(first))


def _check_student(student: Model, teacher: Model) -> None:
    if (
        student.reading.guidance is not None
        or student.reading.classifier
        or student.reading.applies
    ):
        raise OdesolveError("the student is guided, or does something to x0: train the plain one")
    check_teacher(teacher, student.path)


def _error(
    student: Model,
    x_t: Tensor,
    t: Tensor,
    aim: Tensor,
    weight: Weight,
    given: bool = False,
    counts: Tensor | None = None,
) -> Tensor:
    """Weighted squared error (B,) of a student's own prediction where its data prediction is to be
    ``aim``.

    Raises OdesolveError where that is infinite at times that were given.
    """
    predicts = student.predicts
    sigma_data = student.reading.sigma_data
    factor = weights(student.path, t, weight, predicts, sigma_data)
    kx, kd = student.path.convert(t, "data", predicts, sigma_data)
    if given:
        finite = kd.isfinite() & (kd.isfinite() if factor is None else factor.isfinite())
        check_finite(t, finite, f"{predicts!r} of a data prediction, or its weight,")
    prediction = student.predict(x_t, student.at(t, predicts, x_t))
    if predicts != "data":
        aim = column(kx, x_t) * x_t + column(kd, x_t) * aim
    each = mean_square(prediction - aim, counts)
    if factor is None:
        return each
    return each * factor.to(each.dtype)


class ProgressiveDistillation:
    """A student whose DDIM step is two of its teacher's (Salimans and Ho 2022, algorithm 2).

    Args:
        student: an ``ode.Model`` on the teacher's path, most often begun from its weights. Where
            there is no signal at the first time (alpha = 0), it may not predict the noise or the
            score, which say nothing of the data.
        teacher: an ``ode.Model``, guided or not; conditions go to both.
        times: the teacher's, an even number of steps from noise to data: a list of times, or a name
            or rule of ``odesolve.grids`` with ``steps`` of them. The student's are every other one:
            ``student_times``.
        weight: of the data's squared error: "max_snr" (max(SNR, 1)), "snr_plus_1" (SNR + 1), or as
            for ``Matching``.

    Raises OdesolveError for models that do not go together and an odd number of steps.
    """

    @door("ProgressiveDistillation")
    def __init__(
        self,
        student: Model,
        teacher: Model,
        times: str | Grid | Sequence[float] | Tensor,
        steps: int | None = None,
        *,
        weight: Weight = "max_snr",
    ):
        _check_student(student, teacher)
        self.student = student
        self.teacher = teacher
        self.weight = weighed(weight)
        self.times = make(rule_of(times), student.path, steps, snap=student.snap)
        check_even(self.times)
        first = torch.tensor(self.times[0], dtype=torch.float64)
        if student.predicts in ("noise", "score") and float(signal(student.path, first)) == 0.0:
            given = (
                f"the student predicts {student.predicts!r}, and there is no signal at "
                f"t={self.times[0]}"
            )
            raise OdesolveError(
                f"{given}: let it predict 'v', 'data' or 'velocity', or begin where alpha is not 0"
            )
        for model in (student, teacher):
            check_told(torch.tensor(self.times[:-1], dtype=torch.float64), model)

    @property
    def student_times(self) -> tuple[float, ...]:
        """The grid to sample the student on:
        ``ode.sample(student, noise, "ddim", grid=objective.student_times)``."""
        return self.times[::2]

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        index: Tensor | None = None,
        noise: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Terms:
        """The loss of data x (B, ...); ``t`` of the terms is where the student's steps begin.

        Args:
            index: steps (B,) of the student, 0 (from the noise) to N - 1, instead of random ones.
            noise: standard normal (B, ...), instead of random noise.
            cond: conditions of this batch, as the networks take them.
            generator: of steps and noise; by default torch's own.
            mask: which numbers of the data count: booleans, or weights of at least 0, a tensor that
                broadcasts to x. The loss of a sample is their weighted mean.

        Raises OdesolveError for shapes that do not go together and steps that are not there.
        """
        check_data(x)
        n = len(self.times) // 2
        z = normal_for(x, noise, generator)
        cond = cond or {}
        if index is None:
            device = "cpu" if generator is None else generator.device
            index = torch.randint(n, (len(x),), generator=generator, device=device)
        elif index.shape != x.shape[:1] or (
            can_look(index) and bool(((index < 0) | (index >= n)).any())
        ):
            raise OdesolveError(
                f"index has shape {tuple(index.shape)}: give (B,) whole numbers, 0 to {n - 1}"
            )
        times = torch.tensor(self.times, dtype=torch.float64, device=x.device)
        t, middle, end = (times[2 * index.to(x.device) + k] for k in range(3))
        path = self.student.path
        x_t = column(path.alpha(t), x) * x + column(path.sigma(t), x) * z
        with torch.no_grad():
            aim = two_steps(self.teacher.given(**cond), x_t, t, middle, end)
        each = _error(
            self.student.given(**cond), x_t, t, aim, self.weight, counts=mask_for(mask, x)
        )
        return Terms(each.mean(), each, t)


def check_even(times: Sequence[float]) -> None:
    """Raise OdesolveError unless the steps between these times go together in twos."""
    if len(times) % 2 == 0:
        raise OdesolveError(
            f"{len(times) - 1} steps cannot be halved: give the teacher an even number"
        )


@dataclass(frozen=True)
class Stage:
    """A student and the times it is sampled on:
    ``ode.sample(stage.model, noise, "ddim", grid=stage.times)``."""

    model: Model
    times: tuple[float, ...]


@meant(steps=count(), rounds=count(), fit=takes("teacher", "times"))
def halve(
    teacher: Model,
    times: str | Grid | Sequence[float] | Tensor,
    fit: Callable[[Model, tuple[float, ...]], Model],
    steps: int | None = None,
    rounds: int | None = None,
) -> list[Stage]:
    """Students with 1/2, 1/4, ... of a teacher's DDIM steps, each the teacher of the next (Salimans
    and Ho 2022, algorithm 2).

    Args:
        teacher: the first, an ``ode.Model``.
        times, steps: its grid, as for ``ProgressiveDistillation``.
        fit: (teacher, times) -> student: makes a student and trains it by
            ``ProgressiveDistillation(student, teacher, times)``.
        rounds: how often; by default as often as the steps are even.

    Raises OdesolveError where the steps cannot be halved that often.
    """
    held = make(rule_of(times), teacher.path, steps, snap=teacher.snap)
    stages = list[Stage]()
    while len(stages) < rounds if rounds is not None else len(held) % 2 == 1 and len(held) > 1:
        check_even(held)
        teacher = fit(teacher, held)
        held = held[::2]
        stages.append(Stage(teacher, held))
    return stages


@brief
@dataclass(frozen=True)
class GuidedTerms(Terms):
    """``scale`` (B,) is the guidance of each sample."""

    scale: Tensor = field(repr=False)


class GuidedDistillation:
    """A student that takes the scale of guidance as a condition (Meng et al. 2023, algorithm 1).

    It learns uncond + scale (cond - uncond), in one evaluation instead of two; scale is the
    paper's w + 1, and 1 is the conditional model, as everywhere here. What comes out is a model:
    ``ode.sample(student.given(scale=..., **cond), ...)``, and both student and teacher of
    ``ProgressiveDistillation`` with the scale among the conditions.

    Args:
        student: an ``ode.Model`` that takes ``name`` (B,) besides the teacher's conditions.
        teacher: an ``ode.Model`` without guidance, on the same path.
        null: the teacher's conditions where there is none: tensors (B, ...) or (1, ...), or other
            values.
        low, high: scales are drawn uniformly between them.
        name: that of the scale among the student's conditions.
        weight: as for ``ProgressiveDistillation``.
        times: a law of ``objectives.times``; by default the path's.

    Raises OdesolveError for models that do not go together.
    """

    @door("GuidedDistillation", low=number(), high=number(), name=text("scale"))
    def __init__(
        self,
        student: Model,
        teacher: Model,
        null: Mapping[str, Any],
        *,
        low: float = 1.0,
        high: float = 5.0,
        name: str = "scale",
        weight: Weight = "max_snr",
        times: laws.Law | laws.Importance | str | None = None,
    ):
        _check_student(student, teacher)
        if teacher.reading.guidance is not None:
            raise OdesolveError(
                "the teacher is guided already: give the plain one, its scale is drawn here"
            )
        if low > high:
            raise OdesolveError(
                f"low={low}, high={high}: give scales of guidance, low at most high"
            )
        self.student = student
        self.teacher = teacher
        self.null = dict(null)
        self.weight = weighed(weight)
        self.low = low
        self.high = high
        self.name = name
        self.times = law_for(
            times, student.path, student.predicts, self.weight, student.reading.sigma_data
        )

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        cond: Mapping[str, Any],
        scale: Tensor | None = None,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> GuidedTerms:
        """The loss of data x (B, ...).

        Args:
            cond: conditions of this batch, as the teacher takes them.
            scale: (B,), instead of random ones; noise, t, generator, mask as for ``Matching``.

        Raises OdesolveError for shapes that do not go together and times outside the path.
        """
        check_data(x)
        path = self.student.path
        z = normal_for(x, noise, generator)
        given = t is not None
        t = checked_times(
            laws.draw_times(self.times, len(x), path, generator) if t is None else t,
            x,
            self.student,
            self.teacher,
        )
        if scale is None:
            device = "cpu" if generator is None else generator.device
            scale = torch.rand(len(x), dtype=x.dtype, generator=generator, device=device)
            scale = self.low + (self.high - self.low) * scale
        if scale.shape != x.shape[:1]:
            raise OdesolveError(
                f"scale has shape {tuple(scale.shape)} for a batch of {len(x)}: give one per sample"
            )
        scale = scale.to(x)
        x_t = column(path.alpha(t), x) * x + column(path.sigma(t), x) * z
        with torch.no_grad():
            there, gone = (
                self.teacher.given(**c).data(x_t, t) for c in (cond, expanded(self.null, len(x)))
            )
            aim = gone + column(scale, x) * (there - gone)
        student = self.student.given(**cond, **{self.name: scale})
        each = _error(student, x_t, t, aim, self.weight, given, mask_for(mask, x))
        return GuidedTerms(each.mean(), each, t, scale)


@fits
def expanded(cond: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Conditions with one row, as one per sample."""

    def rows(v: Any) -> Any:
        one = isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == 1
        if one:
            return v.expand(batch, *v.shape[1:])
        return v

    return {k: rows(v) for k, v in cond.items()}
