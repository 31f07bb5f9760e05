"""Schroedinger bridges: of all processes between two laws the one nearest to a Brownian motion, by
two alternating loops.

Both loops draw samples, have the user's ``fit`` learn a process towards the other end from them,
and go on with what it draws: ``imf`` keeps pairs and fits the drift of their bridges, ``ipf`` keeps
whole paths and fits their reversal. Times and directions are those of ``objectives.bridges``: data
at u = 0, source at u = 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, number, takes, text
from odesolve.doors.brief import brief
from odesolve.doors.words import fits
from odesolve.errors import Diverged, OdesolveError
from odesolve.model.model import Model
from odesolve.objectives.bridges import check_end, sde
from odesolve.planning.equation_solvers import sde_solver
from odesolve.sde import solve_sde

Carry = Callable[[Tensor], Tensor]


@brief
@dataclass(frozen=True)
class BridgeRound:
    """One fit: the end it goes ``towards``, what it learned, and the states (K, B, ...) that this
    drew, in their order."""

    towards: str
    carry: Carry = field(repr=False)
    states: Tensor = field(repr=False)

    @property
    def x(self) -> Tensor:
        """The pairs' data (B, ...)."""
        return self.states[-1 if self.towards == "data" else 0]

    @property
    def source(self) -> Tensor:
        """The pairs' source (B, ...)."""
        return self.states[0 if self.towards == "data" else -1]


@meant(fit=takes("x", "source", "towards"), rounds=count(0))
def imf(
    fit: Callable[[Tensor, Tensor, str], Carry],
    x: Tensor,
    source: Tensor,
    rounds: int,
    towards: str = "data",
) -> Iterator[BridgeRound]:
    """Iterative Markovian fitting (Shi et al. 2023, DSBM; Peluchetti 2023): bridges of the current
    pairs, made Markov, again.

    Args:
        fit: (x, source, towards) -> carry: trains the drift of the pairs' bridges towards that end,
            as ``BridgeMatching(..., towards=towards)`` does, and returns what takes samples of the
            other end there, such as ``carried(model, ...)``.
        x, source: pairs (B, ...) to begin with, independent or from a coupling; each round starts
            from one of these sets anew.
        rounds: fits, which go to both ends in turn; two are one iteration of the papers.
        towards: the end that the first fit goes to.

    Every round keeps both marginals; the pairs approach those of the Schroedinger bridge.
    """
    check_end(towards)
    if x.shape != source.shape:
        raise OdesolveError(f"data {tuple(x.shape)} and source {tuple(source.shape)}: give pairs")
    pairs = (x, source) if towards == "data" else (source, x)
    first = BridgeRound(
        "source" if towards == "data" else "data", lambda start: pairs[1], torch.stack(pairs)
    )
    return _alternate(
        lambda last, end: fit(last.x, last.source, end),
        lambda carry, start: torch.stack([start, carry(start)]),
        first,
        (x, source),
        rounds,
    )


@meant(fit=takes("states", "towards"), reference=takes("x"), rounds=count(0))
def ipf(
    fit: Callable[[Tensor, str], Carry],
    reference: Carry,
    x: Tensor,
    source: Tensor,
    rounds: int,
) -> Iterator[BridgeRound]:
    """Iterative proportional fitting (De Bortoli et al. 2021, DSB): reverse a process, start from
    the other end, reverse again.

    Args:
        fit: (states, towards) -> carry: trains a process towards that end on states (K, B, ...),
            which were drawn in the other direction and lie in the order they were drawn in; carry
            takes samples (B, ...) of one end to such states.
        reference: the carry to begin with, from the data to the source's end: a Brownian motion,
            without regard to the source.
        x, source: samples (B, ...) of data and (M, ...) of source.
        rounds: fits: to the data first, then in turn; two are one iteration of the papers.

    With K = 2 and ``fit`` the likelihood of one end given the other, it is the alternating (EM)
    form for two conditional laws, argmin KL(q(y | x) p_data || p(x | y) p_source) over p and q in
    turn. Every round keeps the marginal that it starts from."""
    first = BridgeRound("source", reference, reference(x))
    return _alternate(
        lambda last, end: fit(last.states, end),
        lambda carry, start: carry(start),
        first,
        (x, source),
        rounds,
    )


def _alternate(
    fit: Callable[[BridgeRound, str], Carry],
    draw: Callable[[Carry, Tensor], Tensor],
    last: BridgeRound,
    samples: tuple[Tensor, Tensor],
    rounds: int,
) -> Iterator[BridgeRound]:
    for _ in range(rounds):
        end = "source" if last.towards == "data" else "data"
        carry = fit(last, end)
        last = BridgeRound(end, carry, draw(carry, samples[0 if end == "source" else 1]))
        yield last


@meant(sigma=number(0.0), steps=count(), solver=text("euler_maruyama"), seed=count(0, 2**64 - 1))
def carried(
    model: Model,
    sigma: float,
    towards: str = "data",
    steps: int = 100,
    solver: str = "euler_maruyama",
    seed: int | None = None,
) -> Carry:
    """What takes samples (B, ...) to the end ``towards`` by the SDE of a drift and diffusion sigma;
    see ``bridges.sde``.

    ``seed`` decides the noise of every call. Raises Diverged where a solve does not arrive.
    """
    solver = sde_solver(solver)
    f, g = sde(model, sigma, towards=towards)
    ends = (model.path.t_noise, model.path.t_data)

    def carry(start: Tensor) -> Tensor:
        times = ends if towards == "data" else ends[::-1]
        solution = solve_sde(f, g, start, times, solver, steps, seed=seed, noise="additive")
        if not solution.ok:
            at = int(torch.argmax((solution.t - times[1]).abs()))
            t = float(solution.t[at])
            step = int(solution.steps[at])
            raise Diverged(
                f"sample {at} left the finite numbers at t={t:.4g}: see .state, .t",
                solution.last,
                t,
                step,
            )
        return solution.last

    return carry


@meant(mean=takes("x", "k"))
def chain(
    mean: Callable[[Tensor, int], Tensor],
    start: Tensor,
    variances: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """States (K + 1, B, ...) of x_{k+1} = mean(x_k, k) + sqrt(variances[k]) n from samples (B,
    ...): the processes of DSB."""
    states = [start]
    device = start.device if generator is None else generator.device
    for k, variance in enumerate(variances.tolist()):
        n = torch.randn(start.shape, dtype=start.dtype, generator=generator, device=device).to(
            start.device
        )
        states.append(mean(states[-1], k) + variance**0.5 * n)
    return torch.stack(states)


@meant(mean=takes("x", "k"))
def mean_matching(states: Tensor, mean: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs and targets (K, B, ...) of the means of the reversed chain, in its order (De Bortoli
    et al. 2021, mean matching).

    The target at x_{k+1} is x_{k+1} + F_k(x_k) - F_k(x_{k+1}), F_k the means of the chain that drew
    the states (K + 1, B, ...). The reversed chain has the variances of that one in reversed order:
    marginals are right up to an error of the order of a variance, while that of the pairs'
    covariance grows with the iterations."""
    pairs = [(b, b + mean(a, k) - mean(b, k)) for k, (a, b) in enumerate(pairwise(states))]
    inputs, targets = zip(*reversed(pairs), strict=True)
    return torch.stack(inputs), torch.stack(targets)


@fits
def entropic_covariance(cov: Tensor, source_cov: Tensor, sigma: float) -> Tensor:
    """Cov[x, y] (D, D) of the Schroedinger bridge of diffusion sigma between two Gaussians of these
    covariances (D, D).

    (A^1/2 (4 A^1/2 B A^1/2 + sigma^4)^1/2 A^-1/2 - sigma^2) / 2 (Janati et al. 2020; Bunne et al.
    2023); of one number (sqrt(4 a b + sigma^4) - sigma^2) / 2. Raises OdesolveError for a
    covariance of the data that is not positive definite."""
    a, vectors = torch.linalg.eigh(cov.double())
    if not bool((a > 0).all()):
        raise OdesolveError(
            "the data's covariance is not positive definite: add a small multiple of the identity"
        )
    root, inverse = ((vectors * a**p) @ vectors.T for p in (0.5, -0.5))
    values, vectors = torch.linalg.eigh(4 * root @ source_cov.double() @ root)
    middle = (vectors * torch.sqrt(values.clamp_min(0) + sigma**4)) @ vectors.T
    return 0.5 * (
        root @ middle @ inverse
        - sigma**2 * torch.eye(len(a), dtype=torch.float64, device=cov.device)
    )


@fits
class GaussianBridge:
    """The mixture of Brownian bridges between two Gaussians that go together with a covariance, in
    closed form.

    Args:
        mean, cov: of the data, (D,) and (D, D).
        source_mean, source_cov: of the source.
        sigma: diffusion of the bridges.
        coupling: Cov[x, y], (D, D); by default that of the Schroedinger bridge, for which alone the
            process is Markov.

    Shares u of the way from the data (0) to the source (1) are numbers or one per sample, (B,);
    derivatives are by u."""

    def __init__(
        self,
        mean: Tensor,
        cov: Tensor,
        source_mean: Tensor,
        source_cov: Tensor,
        sigma: float,
        coupling: Tensor | None = None,
    ):
        d = len(mean)
        for name, given, shape in (
            ("cov", cov, (d, d)),
            ("source_mean", source_mean, (d,)),
            ("source_cov", source_cov, (d, d)),
            ("coupling", coupling, (d, d)),
        ):
            if given is not None and given.shape != shape:
                raise OdesolveError(
                    f"{name} has shape {tuple(given.shape)} beside a mean of {d}: give {shape}"
                )
        self.sigma = sigma
        self.ends = (mean.double(), source_mean.double())
        self.cov = cov.double()
        self.source_cov = source_cov.double()
        self.coupling = (
            entropic_covariance(cov, source_cov, sigma) if coupling is None else coupling.double()
        )

    def moments(self, u: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., D) and covariance (..., D, D) at shares u."""
        w = torch.as_tensor(u, dtype=torch.float64, device=self.cov.device)[..., None, None]
        between = (
            w
            * (1 - w)
            * (self.coupling + self.coupling.T + self.sigma**2 * torch.eye(len(self.cov)).to(w))
        )
        mean = ((1 - w) * self.ends[0] + w * self.ends[1])[..., 0, :]
        return mean, (1 - w) ** 2 * self.cov + w**2 * self.source_cov + between

    def score(self, x: Tensor, u: float | Tensor) -> Tensor:
        """Score (B, D) at x (B, D)."""
        mean, cov = self.moments(u)
        return -torch.linalg.solve(cov, (x - mean)[..., None])[..., 0]

    def velocity(self, x: Tensor, u: float | Tensor) -> Tensor:
        """Velocity (B, D) of the probability flow at x (B, D)."""
        w = torch.as_tensor(u, dtype=torch.float64, device=self.cov.device)[..., None, None]
        c = self.coupling
        noise = self.sigma**2 * (0.5 - w) * torch.eye(len(c)).to(w)
        slope = (1 - w) * (c.T - self.cov) + w * (self.source_cov - c) + noise
        return self.ends[1] - self.ends[0] - (slope @ self.score(x, u)[..., None])[..., 0]

    def drift(self, x: Tensor, u: float | Tensor, towards: str = "data") -> Tensor:
        """Drift (B, D) towards one end, by u, what ``BridgeMatching`` learns: velocity -+ sigma^2 /
        2 score."""
        half = 0.5 * self.sigma**2 * self.score(x, u)
        return self.velocity(x, u) + (-half if towards == "data" else half)
