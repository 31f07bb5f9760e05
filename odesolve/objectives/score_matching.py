"""Score matching: against a known score, without any target, by random projections, and by
denoising at one level; scores of energies, and NCSN's loss over many levels.

Losses are the published ones, half of a squared norm summed over the numbers of a sample: they
differ by constants alone, so that their gradients agree in expectation. ``Matching`` has the mean
over the numbers, and no half."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odesolve import trace as traces
from odesolve.doors.annotations import count, meant, one_of, text
from odesolve.doors.keywords import door
from odesolve.doors.values import real, row
from odesolve.doors.words import fits, fits_call
from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.objectives import times as laws
from odesolve.objectives.draws import (
    check_data,
    check_finite,
    checked_times,
    column,
    counted,
    keys_for,
    normal_for,
    sum_over,
)
from odesolve.objectives.matching import Matching, Terms
from odesolve.objectives.means import law_for
from odesolve.objectives.weights import Weight, weighed, weights
from odesolve.paths import Path

Score = Callable[..., Tensor]


@dataclass(frozen=True)
class States:
    """Where a loss evaluates a score: its field, the states (B, ...), their times (B,); for noised
    data the noise and its standard deviation.

    ``counts`` (B, ...) is the weight of each number of the loss, None for 1.
    """

    field: Callable[[Tensor], Tensor]
    x: Tensor
    t: Tensor
    noise: Tensor | None = None
    sigma: Tensor | None = None
    counts: Tensor | None = None

    def weighed(self, x: Tensor) -> Tensor:
        """The field at x times the weights of its numbers, whose divergence is the weighted one."""
        if self.counts is None:
            return self.field(x)
        return self.counts * self.field(x)

    def half_square(self, v: Tensor, within: bool = False) -> Tensor:
        """Half of the weighted sum of squares (B,); ``within``: the numbers contain the weights
        already, as those of ``weighed`` do."""
        if self.counts is not None and within:
            return 0.5 * sum_over(v * (v / torch.where(self.counts > 0, self.counts, 1.0)))
        return 0.5 * sum_over(v.square(), self.counts)


class ScoreMatching(ABC):
    """What the losses of this file share: ``loss(x)`` of a function s(x) at x itself, of an
    ``ode.Model`` at x noised to time t.

    Args:
        score: s(x) of states (B, ...), or an ``ode.Model`` without guidance, of any prediction.
        weight: of a model's loss at a time, as ``Matching`` would weigh the squared error of its
            score.
        times: of a model: a law of ``objectives.times``, by default the path's for scores.
    """

    noised: ClassVar[bool] = False  # the score is compared with the noise over its deviation

    @door("ScoreMatching")
    def __init__(
        self,
        score: Model | Score,
        *,
        weight: Weight = None,
        times: laws.Law | laws.Importance | str | None = None,
    ):
        if isinstance(score, Model):
            if (
                score.reading.guidance is not None
                or score.reading.classifier
                or score.reading.applies
            ):
                raise OdesolveError(
                    "the model is guided, or does something to x0: train the plain one"
                )
            self.times = self._law(score, times, weighed(weight))
        elif not callable(score):
            raise OdesolveError(
                f"score is {type(score).__name__}: give a function s(x) or an ode.Model"
            )
        elif weight is not None or times is not None:
            raise OdesolveError(
                "weight and times are of an ode.Model: a function s(x) has one level alone"
            )
        self.score = score
        self.weight = weighed(weight)

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        t: float | Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Terms:
        """The loss of x (B, ...), float32 or float64; times are 0 where there are none.

        Args:
            noise: standard normal (B, ...), of losses that noise x.
            t: of a model: one time, or (B,), instead of random ones.
            cond: of a model: conditions of this batch.
            generator: of times, noise and projections; by default torch's own.
            mask: which elements of the data count: booleans, or weights of at least 0, a tensor
                that broadcasts to x. The loss of a sample is their weighted sum: Hyvärinen's
                theorem holds for each number by itself.

        Raises OdesolveError for shapes that do not match, times outside the path, and arguments
        that only a model takes."""
        check_data(x)
        at = replace(self._at(x, noise, t, cond or {}, generator), counts=counted(mask, x))
        each = self._each(at, generator)
        if isinstance(self.score, Model):
            factor = weights(
                self.score.path, at.t, self.weight, "score", self.score.reading.sigma_data
            )
            if t is not None:
                self._check_ends(at, factor)
            each = each if factor is None else each * factor.to(each.dtype)
        return Terms(each.mean(), each, at.t)

    def _law(
        self,
        model: Model,
        times: laws.Law | laws.Importance | str | None,
        weight: Weight,
    ) -> Any:
        # scores that are as large as the noise over its deviation
        if self.noised or model.predicts != "score":
            return law_for(times, model.path, "score", weight, model.reading.sigma_data)
        return laws.named(times, laws.default(model.path, "score"))

    def _check_ends(self, at: States, factor: Tensor | None) -> None:
        model = self.score
        assert isinstance(model, Model)
        finite = torch.ones_like(at.t, dtype=torch.bool) if factor is None else factor.isfinite()
        if (self.noised or model.predicts != "score") and at.sigma is not None:
            finite = finite & (at.sigma > 0)
        if model.predicts in ("data", "velocity"):
            check_finite(
                at.t,
                finite & model.path.convert(at.t, model.predicts, "score")[1].isfinite(),
                "the score",
            )
        check_finite(at.t, finite, "the weighted score")

    def _at(
        self,
        x: Tensor,
        noise: Tensor | None,
        t: float | Tensor | None,
        cond: Mapping[str, Any],
        generator,
    ) -> States:
        model = self.score
        if not isinstance(model, Model):
            if noise is not None or t is not None or cond:
                raise OdesolveError(
                    "noise, t and cond are of an ode.Model: a function s(x) is looked at where x is"
                )
            return States(model, x, x.new_zeros(len(x), dtype=torch.float64))
        if t is None:
            t = laws.draw_times(self.times, len(x), model.path, generator)
        elif not isinstance(t, Tensor):
            t = torch.full(
                (len(x),), real("t", t, "one time, or a tensor (B,)"), dtype=torch.float64
            )
        t, noise = checked_times(t, x, model), normal_for(x, noise, generator)
        sigma = model.path.sigma(t)
        own = model.given(**cond)
        x_t = column(model.path.alpha(t), x) * x + column(sigma, x) * noise
        return States(lambda y: own.score(y, t), x_t, t, noise, sigma)

    @abstractmethod
    def _each(self, at: States, generator: torch.Generator | None) -> Tensor:
        """The loss of every sample, (B,)."""


class ExplicitScoreMatching(ScoreMatching):
    """|s - grad log p|^2 / 2 for a known score: half the Fisher divergence (Hyvärinen 2005, eq. 2).

    ``exact`` is a function of x, as ``score`` is; with a model it is another model, or a function
    of x and times (B,)."""

    @door("ExplicitScoreMatching")
    def __init__(self, score: Model | Score, exact: Model | Score, **options: Any):
        super().__init__(score, **options)
        both = isinstance(exact, Model) and isinstance(score, Model)
        if not both and (isinstance(exact, Model) or not callable(exact)):
            raise OdesolveError(
                f"exact is {type(exact).__name__}: give a function, as score is, or of an "
                "ode.Model another one"
            )
        self.exact = exact

    def _each(self, at: States, generator: torch.Generator | None) -> Tensor:
        exact: Score = self.exact.score if isinstance(self.exact, Model) else self.exact
        target = exact(at.x, at.t) if isinstance(self.score, Model) else exact(at.x)
        return at.half_square(at.field(at.x) - target)


class ImplicitScoreMatching(ScoreMatching):
    """|s|^2 / 2 + div s, the explicit loss less half the Fisher information: no target is needed
    (Hyvärinen 2005, theorem 1).

    ``trace`` is an estimator of ``odesolve.trace``; by default the exact one, D Jacobian products
    per sample."""

    @door("ImplicitScoreMatching", trace=one_of("Estimator"))
    def __init__(
        self,
        score: Model | Score,
        *,
        trace: traces.Estimator | None = None,
        **options: Any,
    ):
        super().__init__(score, **options)
        self.trace = traces.Exact() if trace is None else trace

    def _each(self, at: States, generator: torch.Generator | None) -> Tensor:
        s, values = self.trace.begin(at.x, keys_for(at.x, generator))(at.weighed, at.x)
        return at.half_square(s, within=True) + values.mean(1)


class SlicedScoreMatching(ScoreMatching):
    """The implicit loss by random projections v with E v v^T = 1, one product v^T grad (v^T s) each
    (Song, Garg et al. 2019).

    Args:
        projections: how many per sample.
        law: "rademacher" or "gaussian".
        reduced: |s|^2 / 2 instead of (v^T s)^2 / 2, whose mean it is (their SSM-VR): less variance
            at no cost.
    """

    @door("SlicedScoreMatching", projections=count(), law=text("rademacher"))
    def __init__(
        self,
        score: Model | Score,
        projections: int = 1,
        law: str = "rademacher",
        *,
        reduced: bool = True,
        **options: Any,
    ):
        super().__init__(score, **options)
        if law not in ("rademacher", "gaussian"):
            raise OdesolveError(f'law={law!r}: give "rademacher" or "gaussian" projections')
        self.trace = traces.Hutchinson(projections, law)
        self.reduced = reduced

    def _each(self, at: States, generator: torch.Generator | None) -> Tensor:
        probes = self.trace.forms(at.x, keys_for(at.x, generator))
        s, values = probes(at.weighed, at.x)
        if self.reduced:
            return at.half_square(s, within=True) + values.mean(1)
        if at.counts is not None:
            s = s / torch.where(at.counts > 0, at.counts, 1.0).sqrt()
        along = (probes.z.to(s.dtype) * s.flatten(1)).sum(2)
        return 0.5 * along.square().mean(0) + values.mean(1)


class DenoisingScoreMatching(ScoreMatching):
    """|s(x~) + noise / sigma|^2 / 2 at noised data: the explicit loss of their score plus a
    constant (Vincent 2011, eq. 9).

    With a function s, x~ = x + ``sigma`` noise. A model has its own levels; its loss is D / 2 times
    that of ``Matching(model, weight="score")``.
    """

    noised: ClassVar[bool] = True

    @door("DenoisingScoreMatching")
    def __init__(self, score: Model | Score, sigma: float | None = None, **options: Any):
        super().__init__(score, **options)
        if isinstance(score, Model) != (sigma is None):
            raise OdesolveError(
                f"sigma={sigma}: give it with a function s(x), and not with an ode.Model, which "
                "has levels"
            )
        if sigma is not None and not 0 < sigma < math.inf:
            raise OdesolveError(f"sigma={sigma}: give the deviation of the noise, above 0")
        self.sigma = sigma

    def _at(
        self,
        x: Tensor,
        noise: Tensor | None,
        t: float | Tensor | None,
        cond: Mapping[str, Any],
        generator,
    ) -> States:
        if self.sigma is None:
            return super()._at(x, noise, t, cond, generator)
        plain = super()._at(x, None, t, cond, generator)
        noise = normal_for(x, noise, generator)
        return States(
            plain.field,
            x + self.sigma * noise,
            plain.t,
            noise,
            torch.full_like(plain.t, self.sigma),
        )

    def _each(self, at: States, generator: torch.Generator | None) -> Tensor:
        assert at.noise is not None
        assert at.sigma is not None
        return at.half_square(at.field(at.x) + at.noise / column(at.sigma, at.x))


@fits
class Energy(nn.Module):
    """-grad E as a network; see ``energy``."""

    def __init__(self, of: Callable[..., Tensor]):
        super().__init__()
        self.of = of

    def forward(self, x: Tensor, *args: Any, **cond: Any) -> Tensor:
        """The score (B, ...) at x, connected to x and to what E depends on where gradients are
        recorded."""
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            free = x.clone() if x.is_inference() else x.detach()
            at = x.view_as(x) if x.requires_grad and recording else free.requires_grad_()
            value = self.of(at, *args, **cond)
            if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise OdesolveError(
                    f"the energy returned {given} for a batch of {len(x)}: return "
                    "E(x) of shape (B,)"
                )
            gradient = None
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(
                    value.sum(), at, create_graph=recording, allow_unused=True
                )
        if gradient is None:
            raise OdesolveError(
                "the energy does not depend on x, as far as autograd can see: compute it from x"
            )
        return -gradient


@fits
def energy(of: Callable[..., Tensor]) -> Energy:
    """The score -grad E of a density exp(-E) / Z, as a trainable module; Z is never needed.

    E(x, ...) gives (B,) for x (B, ...); other arguments are passed on:
    ``ode.Model(energy(E), path, "score")`` for E(x, t).
    Raises OdesolveError for an E of another shape, or that does not depend on x.
    """
    if not callable(of):
        raise OdesolveError(f"the energy is {type(of).__name__}: give a function or module E(x)")
    return Energy(of)


@meant()
@dataclass(frozen=True)
class Levels(laws.Law):
    """Finitely many noise to signal ratios, all equally likely."""

    discrete: ClassVar[bool] = True
    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        expected = "noise to signal ratios, each above 0"
        if not (row("ratios", self.ratios, expected) > 0.0).all() or not len(self.ratios):
            raise OdesolveError(f"ratios={self.ratios}: give {expected}")
        if math.inf in self.ratios:
            raise OdesolveError(f"ratios={self.ratios}: give finite {expected}")

    @classmethod
    def geometric(cls, low: float, high: float, count: int) -> Levels:
        """``count`` ratios from high to low with one quotient, as NCSN's (Song and Ermon 2019,
        section 4.2)."""
        if not (0.0 < low < high < math.inf and count >= 2):
            raise OdesolveError(
                f"low={low}, high={high}, count={count}: give 0 < low < high and two levels or more"
            )
        return cls(tuple(high * (low / high) ** (k / (count - 1)) for k in range(count)))

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        place = (u * len(self.ratios)).long().clamp_max(len(self.ratios) - 1)
        return path.t_of_rho(torch.tensor(self.ratios, dtype=torch.float64, device=u.device))[place]

    def density(self, t: Tensor, path: Path) -> Tensor:
        """Probability of each."""
        return torch.full_like(t.double(), 1 / len(self.ratios))

    def share(self, t: Tensor, path: Path) -> Tensor:
        """The probability of times from the data up to these, float64."""
        ratios = torch.tensor(self.ratios, dtype=torch.float64, device=t.device)
        return (ratios <= path.rho(t.double())[..., None] * (1 + 1e-12)).double().mean(-1)


@fits
def ncsn(model: Model, levels: Levels) -> Matching:
    """NCSN's loss: the mean over levels of sigma^2 times denoising score matching (Song and Ermon
    2019, eqs. 5 and 6).

    It is ``Matching``, 2 / D times theirs: for data N(m, s^2) the smallest loss at a level is s^2 /
    (s^2 + sigma^2)."""
    return Matching(model, weight="noise", times=levels)
