"""What a log-density comes back as: a value with everything that is known about its error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, number
from odesolve.doors.brief import line, table, tensor, text
from odesolve.doors.values import real, whole
from odesolve.doors.words import fits_as
from odesolve.errors import OdesolveError
from odesolve.likelihood.reach import reach as reach_of

UNSOLVED = (
    "the solver's error was not estimated, and interval() leaves it out: give check=True, or ask "
    "without adjoint= and "
    "steps="
)
SINGLE = (
    "one probe has no error bar: what it errs by is unknown, and hides all other errors; give "
    "products=8 or more, or "
    'trace="exact"'
)
SHOWN = (
    "value",
    "stderr",
    "solver_error",
    "prior_mismatch",
    "truncation",
    "truncation_error",
    "nfe",
    "products",
)
FEW = 6  # numbers of a line


def check_width(levels: object, low: object, high: object, most: int | None = None) -> None:
    """Raise OdesolveError unless there are at least two levels, from low to high."""
    whole("levels", levels, 2, most)
    if not real("low", low) < real("high", high):
        raise OdesolveError(
            f"low={low!r}, high={high!r}: give the lowest and the highest value, low below high"
        )


def told_statuses(status: Sequence[str]) -> str:
    """How many samples failed and how, as "2 of 5 failed: 1 diverged, 1 max_calls"; empty where
    none did."""
    words = Counter(word for word in status if word != "ok")
    if not words:
        return ""
    return (
        f"{words.total()} of {len(status)} failed: "
        f"{', '.join(f'{n} {word}' for word, n in words.items())}"
    )


def _few(numbers: Tensor) -> str:
    """The first few numbers as text, with the mean of all where there are more; whole numbers
    without decimals."""
    numbers = numbers.detach().double()
    shown = ", ".join(f"{v:.6g}" for v in numbers[:FEW].tolist())
    return shown if len(numbers) <= FEW else f"{shown}, ... (mean {float(numbers.nanmean()):.6g})"


@dataclass(frozen=True, repr=False)
class LogProb:
    """Log-densities of B samples, in nats, with their errors.

    Attributes:
        value: log-density (B,), float64; differentiable where it was asked for with gradients.
        stderr: standard error (B,) that comes from the random probes of the trace; 0 where the
            trace is exact, NaN of one probe.
        solver_error: estimate (B,) of the error that the solver makes, None where it was not
            estimated.
        latent: the state (B, ...) at the noise end.
        nfe: network evaluations (B,), forward passes; ``products``: Jacobian products (B,), a
            backward pass each at most.
        trace: how the divergence was found, such as "exact" or "xtrace(24)"; of "auto" what it
            chose, for how many of the samples; ``probes``: estimates behind ``stderr``, 1 where the
            trace is exact.
        prior_mismatch: estimate (B,) of log p_T - log prior at the latent, which ``value`` leaves
            out; None without a path.
        truncation: estimate (B,) of log p of the clean data less ``value``, which is of the data
            with the noise of the first time on them; None without a path, 0 where the flow begins
            at the data's end.
        truncation_error: what ``truncation`` may err by (B,), where the first time lies after the
            one at which the path has its data, so that ``interval`` counts both; None otherwise.
        status: "ok", or why the solve of a sample stopped; a list of B.
        rounds: network calls that waited for one another, of all samples together; None where they
            were not counted.
        notes: sentences on what the numbers do not say, such as that one probe has no error.
            Printed with them.

    ``LogProb.MEANING`` says what ``value`` is, in one sentence, which stored values carry along.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> found = ode.log_prob(model, problem.sample(4))
        >>> found.value.shape, found.trace, found.status
        (torch.Size([4]), 'exact', ['ok', 'ok', 'ok', 'ok'])
        >>> bool((found.value - problem.log_prob(problem.sample(4))).abs().max() < 1e-2)
        True
    """

    MEANING: ClassVar[str] = (
        "log-density of the model itself in nats: log-density of the base at the latent plus the "
        "integral of the divergence; "
        "the estimates prior_mismatch and truncation are in no value"
    )

    value: Tensor
    stderr: Tensor
    solver_error: Tensor | None
    latent: Tensor = field(repr=False)
    nfe: Tensor
    products: Tensor
    trace: str
    probes: int
    prior_mismatch: Tensor | None = None
    truncation: Tensor | None = None
    truncation_error: Tensor | None = None
    status: list[str] = field(default_factory=list, repr=False)
    rounds: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.probes == 1 and bool(self.stderr.isnan().any()) and SINGLE not in self.notes:
            object.__setattr__(self, "notes", (*self.notes, SINGLE))
        if self.solver_error is None and UNSOLVED not in self.notes:
            object.__setattr__(self, "notes", (*self.notes, UNSOLVED))

    def _facts(self) -> dict[str, str]:
        return {
            "samples": f"{len(self.value)} of {self.dim} numbers",
            "status": text(self.status),
            "trace": self.trace,
            **{n: tensor(v) for n in SHOWN if (v := getattr(self, n)) is not None},
        }

    def __repr__(self) -> str:
        facts = line(type(self).__name__, self._facts())
        return f"{facts}\nnote: {'; '.join(self.notes)}" if self.notes else facts

    def _repr_html_(self) -> str:
        notes = {"note": " ".join(self.notes)} if self.notes else {}
        return table(type(self).__name__, {**self._facts(), **notes})

    def __str__(self) -> str:
        lines = [
            f"{type(self).__name__} of {len(self.value)} samples of {self.dim} numbers, "
            f"trace {self.trace}"
        ]
        for name in SHOWN:
            numbers = getattr(self, name)
            if numbers is not None and len(numbers):
                lines.append(f"  {name:<17}{_few(numbers)}")
        failed = told_statuses(self.status)
        lines += [f"  {failed}"] if failed else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @property
    def ok(self) -> bool:
        """Whether every sample's solve arrived."""
        return all(word == "ok" for word in self.status)

    @property
    def dim(self) -> int:
        """Numbers in a sample."""
        return self.latent.shape[1:].numel()

    @property
    def error(self) -> Tensor:
        """Standard error and solver error together (B,), as a root of squares."""
        if self.solver_error is None:
            return self.stderr
        return torch.hypot(self.stderr, self.solver_error)

    @fits_as("lp.interval")
    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds (B,) that hold the log-density with this probability.

        From the value to value + ``truncation`` where that is counted, widened by what the probes
        may err by at this level, and by ``solver_error`` and ``truncation_error`` as a whole at any
        level.

        For the probes a batch is looked at as a whole (``likelihood.reach``): spreads of few and
        skewed values mislead one by one, not together. So a sample's interval depends on the batch
        that it was in, which its value and ``stderr`` do not; alone it is wider, with few probes
        much so."""
        if not 0.0 < level < 1.0:
            raise OdesolveError(f"level={level}: give a probability between 0 and 1, such as 0.95")
        reach = reach_of(self.stderr, self.probes, level) + (
            0.0 if self.solver_error is None else self.solver_error
        )
        if self.truncation is None or self.truncation_error is None:
            return self.value - reach, self.value + reach
        reach = reach + self.truncation_error
        low = self.truncation.clamp_max(0.0)
        high = self.truncation.clamp_min(0.0)
        return self.value + low - reach, self.value + high + reach

    @meant(levels=count(2), low=number(), high=number())
    def bits_per_dim(self, levels: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
        """-log2 P / D of data that take ``levels`` equally wide values in [low, high], from the
        density of dequantised ones.

        The width of a value is (high - low) / levels, so the density in bits gains log2(levels /
        (high - low)) per dimension: 7 for 8-bit images in [-1, 1], 8 in [0, 1]. For x dequantised
        uniformly within its value the mean over that noise is an upper bound of the discrete
        model's bits (Theis et al. 2016, section 3.1)."""
        check_width(levels, low, high)
        return -self.value / (self.dim * math.log(2.0)) + math.log2(levels / (high - low))
