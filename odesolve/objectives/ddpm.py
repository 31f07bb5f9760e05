"""DDPM's variational bound as a loss, of steps of fixed or learned variance, and the hybrid loss
that learned variances train by.

Its simple loss is ``Matching(model)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import count, number
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.words import fits_call
from odesolve.errors import OdesolveError, unknown
from odesolve.grids import is_listed
from odesolve.likelihood.bounds import STEPS
from odesolve.likelihood.result import check_width
from odesolve.likelihood.vlb import Chain, Decoder, prior_loss
from odesolve.model.model import Model
from odesolve.objectives.draws import check_data, check_told, normal_for
from odesolve.objectives.matching import Matching, Terms
from odesolve.objectives.times import Importance
from odesolve.objectives.weights import Weight, weighed
from odesolve.planning.planner import GridLike
from odesolve.sampling.model_plan import plan_for

SHARE = 1e-3  # of the bound in the hybrid loss


@brief
@dataclass(frozen=True)
class BoundTerms(Terms):
    """``each`` (B,) estimates the bound of a sample: ``prior`` and the number of terms times
    ``term``, that of ``index``.

    ``raw`` is ``term``.
    """

    prior: Tensor = field(repr=False)
    term: Tensor = field(repr=False)
    index: Tensor = field(repr=False)


@brief
@dataclass(frozen=True)
class HybridTerms(Terms):
    """``each`` (B,) is ``simple`` (B,) and a share of ``bound`` (B,), both a number of the
    sample."""

    simple: Tensor = field(repr=False)
    bound: Tensor = field(repr=False)


class _Terms(Chain):
    """A chain whose terms of a batch, the decoder's among them, are made from one evaluation of the
    network."""

    def each(self, x: Tensor, k: Tensor, data: Tensor, share: Tensor) -> Tensor:
        """Terms (B,) of numbers k (B,) by what ``data`` or ``read`` returned."""
        out = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for last in (False, True):
            rows = ((k == self.count) == last).nonzero()[:, 0]
            if len(rows):
                own_share = share if share.dim() == 0 else share[rows]
                term = (
                    self.data_term_of(x[rows], data[rows], own_share)
                    if last
                    else self.term_of(x[rows], k[rows], data[rows], own_share)
                )
                out = out.index_copy(0, rows, term)
        return out


class VariationalBound:
    """DDPM's bound L_T + sum L_{t-1} + L_0 in nats, a random one of its terms a sample (Ho et al.
    2020, eq. 5).

    In expectation it is minus the value of ``ode.elbo`` on the same chain, whose terms these are.

    Args:
        model: an ``ode.Model`` without guidance, of any prediction and path.
        variance: of a step: "small" (beta-tilde), "large" (beta), or "learned": between the two,
            where the second half of the channels of a model with ``learned_variance=True`` says
            (Nichol and Dhariwal 2021, eq. 15).
        steps, grid: of the chain, as for ``ode.sample``; by default the path's own table, or 100
            steps.
        decoder, levels, low, high: as for ``ode.elbo``: "gaussian", a density, or "discrete",
            probabilities of ``levels`` values.
        stratified: numbers of a batch lie one in each n-th of all, as in ``objectives.times``.
        importance: draw terms by the root mean square of their latest losses (Nichol and Dhariwal
            2021, eq. 18), which are remembered in ``importance``, which ``training.fit`` saves; the
            expectation stays the bound.
    """

    @door("VariationalBound", steps=count(), levels=count(2), low=number(), high=number())
    def __init__(
        self,
        model: Model,
        variance: str = "small",
        *,
        steps: int | None = None,
        grid: GridLike | None = None,
        decoder: str = "gaussian",
        levels: int = 256,
        low: float = -1.0,
        high: float = 1.0,
        stratified: bool = False,
        importance: bool = False,
    ):
        _check(model, variance, decoder)
        check_width(levels, low, high)
        self.model = model
        self.variance = variance
        self.stratified = stratified
        self.decoder = Decoder(levels, low, high) if decoder == "discrete" else Decoder()
        if steps is None and not is_listed(grid):
            steps = model.path.training_steps or STEPS
        rule = "uniform" if grid is None and steps == model.path.training_steps else grid
        self._points = model.path.points(plan_for(model, "ddpm", steps, rule, {}).grid)
        chain = _Terms(model, self._points, variance, self.decoder)
        check_told(chain.t, model)
        self._chains = {torch.device("cpu"): chain}
        self.importance = Importance(self.count) if importance else None

    @property
    def count(self) -> int:
        """Number of terms besides the prior's: those between, from noise to data (0 on), and the
        decoder's, the last."""
        return self.chain("cpu").count + 1

    def chain(self, device: torch.device | str) -> _Terms:
        """The chain, its numbers on a device."""
        device = torch.device(device)
        if device not in self._chains:
            self._chains[device] = _Terms(
                self.model, self._points, self.variance, self.decoder, device
            )
        return self._chains[device]

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        index: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> BoundTerms:
        """The loss of data x (B, ...), by one evaluation of the network.

        Args:
            noise: standard normal (B, ...), instead of random.
            index: numbers (B,), int64, of the terms, 0 to ``count`` - 1, instead of random ones.
            cond: conditions of this batch, as the network takes them.
            generator: of numbers and noise; by default torch's own.

        Raises OdesolveError for shapes that do not go together, numbers out of range, and data
        beyond a discrete decoder's."""
        index, noise = self.draw(x, noise, index, generator)
        model = self.model.given(**(cond or {}))
        terms = self.at(model, x, index, noise)
        if self.importance is not None:
            self.importance.remember(terms.index, terms.term)
        return terms

    def draw(
        self,
        x: Tensor,
        noise: Tensor | None,
        index: Tensor | None,
        generator,
    ) -> tuple[Tensor, Tensor]:
        """Numbers (B,) and noise (B, ...) for data, drawn where they are not given."""
        check_data(x)
        if self.decoder.levels is not None and not bool(
            ((x >= self.decoder.low) & (x <= self.decoder.high)).all()
        ):
            raise OdesolveError(
                f"x leaves [{self.decoder.low}, {self.decoder.high}]: give low= and high= of its "
                "lowest and highest value"
            )
        if index is None:
            device = x.device if generator is None else generator.device
            u = torch.rand(len(x), dtype=torch.float64, generator=generator, device=device)
            if self.stratified:
                u = (torch.arange(len(x), device=device) + u) / len(x)
            even = (u * self.count).long().clamp_max(self.count - 1)
            index = even if self.importance is None else self.importance.places(u)
        if index.shape != x.shape[:1] or index.is_floating_point():
            raise OdesolveError(
                f"index is {index.dtype} of shape {tuple(index.shape)} for a batch of {len(x)}: "
                "give one whole number per sample"
            )
        index = index.to(x.device, torch.int64)
        if bool(((index < 0) | (index >= self.count)).any()):
            raise OdesolveError(
                f"index goes from {int(index.min())} to {int(index.max())}: the terms are 0 to "
                f"{self.count - 1}"
            )
        return index, normal_for(x, noise, generator)

    def at(
        self,
        model: Model,
        x: Tensor,
        index: Tensor,
        noise: Tensor,
        still: bool = False,
    ) -> BoundTerms:
        """The loss of a model instead of ours; ``still`` keeps gradients from the mean of the
        steps."""
        data, share = self.chain(x.device).data(model, x, index, noise)
        return self._terms(model, x, index, data.detach() if still else data, share)

    def of_answers(
        self,
        model: Model,
        answers: Sequence[Tensor],
        x: Tensor,
        index: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """The bound (B,) of what a model answered at noisy data, its learned variance last; without
        gradients of the mean of the steps."""
        chain = self.chain(x.device)
        noisy = chain.noisy(x, index, noise)
        at = model.at(chain.t[index], "data", noisy)
        data, share = chain.read(model, noisy, at, answers)
        return self._terms(model, x, index, data.detach(), share).each

    def _terms(
        self,
        model: Model,
        x: Tensor,
        index: Tensor,
        data: Tensor,
        share: Tensor,
    ) -> BoundTerms:
        """The loss by data predictions, and where the log-variance lies."""
        chain = self.chain(x.device)
        first = chain.points[0]
        prior = prior_loss(x, first, model.path.start_std(first.t))
        term = chain.each(x, index, data, share)
        law = self.importance
        weight = self.count if law is None else 1 / law.probabilities.to(x.device)[index]
        each = prior + weight * term
        return BoundTerms(each.mean(), each, chain.t[index], prior, term, index, raw=term)


class Hybrid:
    """L_simple + 1e-3 L_vlb, the bound's gradient kept from the mean: it trains the variance alone
    (Nichol and Dhariwal 2021).

    Their eq. 16, by one evaluation of the network. Both are a number of the sample, the bound in
    nats.

    Args:
        model: an ``ode.Model`` with ``learned_variance=True``.
        share: of the bound.
        weight: of the simple loss, see ``Matching``.
        options: of the ``VariationalBound``, whose times are those of both.

    Raises OdesolveError for a model that says no variance.
    """

    @door("Hybrid", share=number(0.0))
    def __init__(
        self,
        model: Model,
        share: float = SHARE,
        *,
        weight: Weight = None,
        **options: Any,
    ):
        if options.get("importance"):
            raise OdesolveError(
                "importance=True is for the bound alone: the simple loss takes its terms evenly"
            )
        self.bound = VariationalBound(model, "learned", **options)
        self.model = model
        self.share = share
        self.weight = weighed(weight)
        self._simple = Matching(model, weight)

    @fits_call
    def __call__(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        index: Tensor | None = None,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> HybridTerms:
        """The loss of data x (B, ...); arguments and errors are those of ``VariationalBound``."""
        index, noise = self.bound.draw(x, noise, index, generator)
        model = self.model.given(**(cond or {}))
        chain = self.bound.chain(x.device)
        t = chain.t[index]
        t, noise, x_t = self._simple.place(x, noise, t, cond, None)
        at = model.at(t, model.predicts, x_t)
        answers = model.answers(x_t, at, "variance")
        simple = self._simple.terms(x, noise, t, model.convert(x_t, at, answers), given=True)
        bound = self.bound.of_answers(model, answers, x, index, noise) / x.shape[1:].numel()
        each = simple.each + self.share * bound.to(simple.each.dtype)
        return HybridTerms(each.mean(), each, t, simple.each, bound)


def _check(model: Model, variance: str, decoder: str) -> None:
    if not isinstance(model, Model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model, whose path the bound is of"
        )
    if model.reading.guidance is not None or model.reading.classifier or model.reading.applies:
        raise OdesolveError("the model is guided, or does something to x0: train the plain one")
    for kind, given, known in (
        ("variance", variance, ("small", "large", "learned")),
        ("decoder", decoder, ("gaussian", "discrete")),
    ):
        if given not in known:
            raise unknown(kind, given, known)
    if variance == "learned" and not model.reading.variance:
        raise OdesolveError(
            "the model says no variance: give ode.Model(..., learned_variance=True)"
        )
