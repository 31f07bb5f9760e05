"""Lower bounds of log-densities that need no divergence: the variational bound of a sampler's
steps, and that of its SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, number
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.values import refuse_loose, whole
from odesolve.errors import OdesolveError, short, unknown
from odesolve.functions.graphs import tells_lost
from odesolve.functions.steadiness import warn_of_training
from odesolve.functions.torch_func import unwatched
from odesolve.grids import is_listed
from odesolve.kernels.dispatch import normal
from odesolve.likelihood.result import check_width
from odesolve.likelihood.vlb import Chain, Decoder, Diffusion, prior_loss
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, keys_of
from odesolve.noise.stream_numbers import BOUNDS
from odesolve.planning.planner import GridLike
from odesolve.process.progress import Bar
from odesolve.sampling.model_plan import plan_for

STEPS = 100  # of a chain on a path without a table of its own
# of the SDE's bound
EVALUATIONS = 64
DRAWS = 4


@brief
@dataclass(frozen=True)
class Bound:
    """Lower bounds of the log-densities of B samples, in nats: unbiased estimates, whose
    expectation is the bound.

    Attributes:
        value: -(prior + diffusion + reconstruction), (B,) float64.
        stderr: its standard error (B,), over the draws; NaN with a single one.
        prior: L_T (B,), KL of the noised data to the prior; exact.
        diffusion: sum of the terms between (B,).
        reconstruction: L_0 (B,), minus the decoder's log-density.
        steps: the terms L_{t-1} (B, N - 1) from noise to data, NaN where a term was not drawn; None
            of the SDE's bound.
        dim: numbers in a sample.
        nfe: network evaluations of every sample.
        discrete: whether the decoder gave probabilities of discrete values.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> bound = ode.elbo(model, problem.sample(4), of="sde", seed=0)
        >>> bound.value.shape, bound.stderr.shape, bound.dim
        (torch.Size([4]), torch.Size([4]), 2)
    """

    value: Tensor
    stderr: Tensor
    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    steps: Tensor | None
    dim: int
    nfe: int
    discrete: bool

    @meant(levels=count(2), low=number(), high=number())
    def bits_per_dim(self, levels: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
        """-log2 P / D, an upper bound (B,). Of a density, of data that take ``levels`` equally wide
        values in [low, high].

        A discrete decoder's value is of probabilities already, and the arguments are not used.
        """
        check_width(levels, low, high)
        bits = -self.value / (self.dim * math.log(2.0))
        if self.discrete:
            return bits
        return bits + math.log2(levels / (high - low))


@door("ode.elbo", low=number(), high=number())
@unwatched
@tells_lost(1, "x")
@torch.no_grad()
def elbo(
    model: Model,
    x: Tensor,
    *,
    of: str = "chain",
    steps: int | None = None,
    grid: GridLike | None = None,
    variance: str = "small",
    decoder: str = "gaussian",
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    terms: int | None = None,
    evaluations: int = EVALUATIONS,
    draws: int | None = None,
    seed: int | None = None,
    ids: Ids | None = None,
    progress: bool | None = None,
) -> Bound:
    """Lower bound of the log-density of data x (B, ...) under ancestral sampling, or under the
    reverse SDE.

    Args:
        model: an ``ode.Model``, of any prediction type and path.
        x: data (B, ...).
        of: "chain": L_T + sum L_{t-1} + L_0 of DDPM's steps (Ho et al. 2020, eq. 5). "sde": its
            limit of infinitely many steps from the noise end to the path's ``t_min`` (Kingma et al.
            2021, eq. 17; Song et al. 2021b, theorem 3), which equals log p(x) in expectation for an
            exact model, but for what the decoder misses at ``t_min``.
        steps, grid: of the chain, as for ``ode.sample``; by default the path's own table, or 100
            steps.
        variance: of a step: "small" (beta-tilde), "large" (beta) or "learned", as for the solver
            ddpm.
        decoder: "gaussian": a density, N(x0; prediction, variance of the last step). "discrete":
            the probability that it gives a value, of ``levels`` from ``low`` to ``high``. The
            variance is beta of the last step unless it is learned; of the SDE it is sigma^2 /
            alpha^2.
        terms: how many of the chain's terms between are evaluated: the chain is cut into that many
            equal shares, and one random term is taken from each.
        evaluations: how often the SDE's integrand is evaluated, over all draws together; each draw
            has one evaluation of the decoder besides.
        draws: independent estimates; their spread gives ``stderr``. By default 1 of a chain, 4 of
            the SDE.
        seed, ids: of the noise, as for ``ode.sample``: a sample's estimate does not depend on the
            batch.
        progress: show a bar on long computations.

    Returns a ``Bound``. Raises OdesolveError for arguments that cannot be used.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> x = problem.sample(4)
        >>> bound = ode.elbo(model, x, of="sde", seed=0)
        >>> bool((bound.value - problem.log_prob(x)).abs().max() < 5 * bound.stderr.max())
        True
    """
    warn_of_training(model.net if isinstance(model, Model) else model)
    _check(model, x, of, variance, decoder, levels, low, high)
    x = x.double() if model.dtype is not None or x.dtype == torch.float64 else x.float()
    decode = Decoder(levels, low, high) if decoder == "discrete" else Decoder()
    draws = draws if draws is not None else DRAWS if of == "sde" else 1
    draws = whole("draws", draws, 1)
    evaluations = whole("evaluations", evaluations, 1)
    noise = _Noise(x, keys_of(len(x), seed, ids, x.device))
    if of == "sde":
        if steps is not None or grid is not None or terms is not None:
            raise OdesolveError(
                'steps, grid and terms are of a chain: with of="sde" give evaluations='
            )
        return _sde(model, x, decode, evaluations, draws, noise, progress)
    if steps is None and not is_listed(grid):
        steps = model.path.training_steps or STEPS
    rule = "uniform" if grid is None and steps == model.path.training_steps else grid
    plan = plan_for(
        model, "ddpm", STEPS if steps is None and not is_listed(rule) else steps, rule, {}
    )
    chain = Chain(model, model.path.points(plan.grid), variance, decode, x.device)
    count = chain.count if terms is None else whole("terms", terms, 1, chain.count)
    return _chain(chain, x, count, draws, noise, progress)


def _chain(
    chain: Chain,
    x: Tensor,
    count: int,
    draws: int,
    noise: _Noise,
    progress: bool | None,
) -> Bound:
    batch = len(x)
    n = chain.count
    device = x.device
    terms = torch.zeros(draws, 2, batch, dtype=torch.float64, device=device)
    sums, visits = (torch.zeros(batch, n, dtype=torch.float64, device=device) for _ in range(2))
    with Bar(draws * (count + 1), progress, "call") as tick:
        for draw in range(draws):
            for k in range(count):
                u = k + (noise.uniform() if count < n else 0.5)
                index = (
                    torch.as_tensor(u * (n / count), device=device)
                    .long()
                    .clamp(max=n - 1)
                    .expand(batch)
                )
                term = chain.term(x, index, noise())
                terms[draw, 0] += term * (n / count)
                sums.scatter_add_(1, index[:, None], term[:, None])
                visits.scatter_add_(1, index[:, None], torch.ones_like(term)[:, None])
                _tick(tick, noise)
            terms[draw, 1] = chain.data_term(x, noise())
            _tick(tick, noise)
    prior = prior_loss(x, chain.points[0], chain.model.path.start_std(chain.points[0].t))
    return _bound(prior, terms, sums / visits, x, noise.count, chain.decoder)


def _sde(
    model: Model,
    x: Tensor,
    decode: Decoder,
    evaluations: int,
    draws: int,
    noise: _Noise,
    progress,
) -> Bound:
    each = evaluations // draws
    if each < 1:
        raise OdesolveError(
            f"evaluations={short(evaluations)} for {draws} draws: give at least one per draw"
        )
    path = model.path
    begin = path.t_noise if path.t_clip is None else path.t_clip
    sde = Diffusion(model, path.point(begin), path.point(path.t_min), decode, x.device)
    terms = torch.zeros(draws, 2, len(x), dtype=torch.float64, device=x.device)
    with Bar(draws * (each + 1), progress, "call") as tick:
        for draw in range(draws):
            for k in range(each):
                lam, weight = sde.level((k + noise.uniform()) / each)
                terms[draw, 0] += sde.term(x, lam, noise()) * weight / each
                _tick(tick, noise)
            terms[draw, 1] = sde.data_term(x, noise())
            _tick(tick, noise)
    return _bound(
        prior_loss(x, sde.first, path.start_std(begin)), terms, None, x, noise.count, decode
    )


def _bound(
    prior: Tensor,
    terms: Tensor,
    steps: Tensor | None,
    x: Tensor,
    nfe: int,
    decode: Decoder,
) -> Bound:
    """``terms`` (draws, 2, B) holds the sums of terms between, and the decoder's."""
    draws, (between, last) = len(terms), terms.mean(0)
    sums = terms.sum(1)
    stderr = sums.std(0) / draws**0.5 if draws > 1 else torch.full_like(prior, torch.nan)
    value = -(prior + between + last)
    return Bound(
        value,
        stderr,
        prior,
        between,
        last,
        steps,
        x.shape[1:].numel(),
        nfe,
        decode.levels is not None,
    )


class _Noise:
    """Normal numbers of the shape of x, one stream per evaluation, and uniform numbers (B,) beside
    them."""

    def __init__(self, x: Tensor, keys: Tensor):
        self.x = x
        self.keys = keys
        self.count = 0

    def __call__(self) -> Tensor:
        """The noise of the next evaluation, of the shape of x."""
        out = torch.empty_like(self.x, memory_format=torch.contiguous_format)
        normal(out, self.keys, BOUNDS + 2 * self.count)
        self.count += 1
        return out

    def uniform(self) -> Tensor:
        """Uniform numbers (B,) of the next evaluation, float64."""
        out = torch.empty(len(self.x), 1, dtype=torch.float64, device=self.x.device)
        normal(out, self.keys, BOUNDS + 2 * self.count + 1)
        return torch.special.ndtr(out[:, 0])


def _tick(tick, noise: _Noise) -> None:
    if tick is not None:
        tick(noise.count)


def _check(
    model,
    x,
    of: str,
    variance: str,
    decoder: str,
    levels: int,
    low: float,
    high: float,
) -> None:
    if not isinstance(model, Model):
        raise OdesolveError(
            f"model is {type(model).__name__}: give an ode.Model, whose path the bound is of"
        )
    if isinstance(x, Tensor):
        refuse_loose("x", x)
    if (
        not isinstance(x, Tensor)
        or x.dim() < 2
        or not x.is_floating_point()
        or x.numel() == 0
        or x.is_meta
    ):
        given = (
            f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"
            if isinstance(x, Tensor)
            else type(x).__name__
        )
        raise OdesolveError(f"x is {given}: give floats of shape (B, ...)")
    for kind, given, known in (
        ("of", of, ("chain", "sde")),
        ("variance", variance, ("small", "large", "learned")),
        ("decoder", decoder, ("gaussian", "discrete")),
    ):
        if given not in known:
            raise unknown(kind, given, known)
    if variance == "learned" and not (model.reading.variance and of == "chain"):
        raise OdesolveError(
            'variance="learned" is of a chain, by a network that says it: give '
            "Model(learned_variance=True)"
        )
    check_width(levels, low, high)
    if decoder == "discrete" and not bool(((x >= low) & (x <= high)).all()):
        raise OdesolveError(
            f"x leaves [{low}, {high}]: give low= and high= of its lowest and highest value"
        )
    if not bool(torch.isfinite(x).all()):
        raise OdesolveError("x holds NaN or infinity: give finite data")
