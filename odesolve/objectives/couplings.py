"""Which samples of the source go with which data: at random, by optimal transport within the batch,
by entropic transport.

A coupling returns the source in an order that pairs it with the data; data and their conditions
keep their places. Objectives apply it within labels, so that a source says nothing about the
condition of its data: see ``conditions.coupled``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import count, meant, number
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import assignment
from odesolve.objectives.draws import check_data
from odesolve.objectives.names import built

LOOK = 10  # iterations between two looks at the marginals, each of which waits for the device


@fits
class Independent:
    """A random order, which makes pairs of two ordered sets independent.

    Raises OdesolveError for batches of different size.
    """

    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The noise (B, ...) in an order drawn from the generator."""
        _check(x, noise)
        device = "cpu" if generator is None else generator.device
        return noise[
            torch.randperm(len(noise), generator=generator, device=device).to(noise.device)
        ]


@meant(cond_weight=number(0.0))
@dataclass(frozen=True)
class OptimalTransport:
    """The order of least total squared distance within the batch, exactly (Tong et al. 2024, TMLR;
    Pooladian et al. 2023).

    Args:
        cond_weight: factor of the squared distance of conditions in the cost, see
            ``conditions.coupled``; objectives with conditions that are real numbers need it.

    Solved on the host by an auction and shortest augmenting paths, up to rounding in float64: there
    is no gap to the optimum. A batch of 4096 takes 0.2 to 1.4 s on one core, the longest for tight
    clusters. Without the compiled kernels scipy solves it, in tens of seconds. Samples of one
    number are sorted. The plan is one of the batch: batches of B samples approach the transport of
    the two laws as B grows. Batches that differ in size need POT (the extra ``ot``): partners are
    then drawn from the rows of the exact plan, since several data share one.

    Raises OdesolveError for values that are not finite, ImportError for batches of different size
    without POT."""

    cond_weight: float | None = None

    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The noise (M, ...) in the order that pairs it with x (B, ...); where M = B nothing is
        random."""
        _check(x, noise, same=False)
        if len(x) != len(noise):
            return noise[
                _draw_columns(_exact_plan(_finite(squared_distance(x, noise))), generator).to(
                    noise.device
                )
            ]
        if x[0].numel() == 1:
            order = torch.empty(len(x), dtype=torch.int64, device=noise.device)
            order[_sorted(x).to(noise.device)] = _sorted(noise)
            return noise[order]
        cost = _products(x, noise).cpu()
        order = torch.empty(len(x), dtype=torch.int64)
        assignment(order, cost)
        return noise[order.to(noise.device)]


@meant(
    reg=number(),
    iterations=count(),
    tolerance=number(above=0.0),
    cond_weight=number(0.0),
    relax=number(above=0.0),
)
@dataclass(frozen=True)
class Sinkhorn:
    """The partner of every x drawn from its row of the entropic plan; some of the noise may be
    drawn twice, some never.

    Args:
        reg: factor of the entropy beside the mean squared distance. ``2 sigma**2`` is the static
            Schroedinger bridge of Brownian motion of diffusion sigma over a unit of time (Tong et
            al. 2024, AISTATS); towards 0 it is optimal transport.
        iterations, tolerance: of the plan, see ``sinkhorn_plan``; draws vary by far more than the
            default tolerance.
        cond_weight: as for ``OptimalTransport``.
        relax: unbalanced transport on the source side: its samples need not be drawn equally often,
            at the cost of this factor times the KL divergence from equal probabilities, so that the
            plan may leave out samples far from all data. For bridges only: in ``Matching`` it would
            change the noise that sampling starts from, which raises OdesolveError.

    Batches may differ in size. Raises OdesolveError where the iteration does not reach its
    tolerance."""

    reg: float
    iterations: int = 2000
    tolerance: float | None = 1e-2
    cond_weight: float | None = None
    relax: float | None = None

    def __post_init__(self) -> None:
        _check_reg(self.reg, self.iterations)

    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A partner (B, ...) for every x (B, ...) among the noise (M, ...)."""
        _check(x, noise, same=False)
        limits = {"iterations": self.iterations, "tolerance": self.tolerance, "relax": self.relax}
        plan = sinkhorn_plan(squared_distance(x, noise), self.reg, **limits)
        return noise[_draw_columns(torch.softmax(plan, 1), generator).to(noise.device)]


@fits
def named(coupling: Any) -> Any:
    """An objective's coupling: the object itself, or one by its name, as in "sinkhorn(reg=0.1)";
    None for none."""
    instead = "one of odesolve.objectives.couplings"
    takes = ("x", "noise", "generator")
    if coupling is None:
        return None
    return built("coupling", coupling, NAMED, instead, takes)


NAMED: dict[str, type] = {
    "independent": Independent,
    "optimal_transport": OptimalTransport,
    "ot": OptimalTransport,
    "sinkhorn": Sinkhorn,
}


@fits
def sinkhorn_plan(
    cost: Tensor,
    reg: float,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    iterations: int = 2000,
    tolerance: float | None = 1e-6,
    relax: float | None = None,
) -> Tensor:
    """Logarithm (n, m) of the plan of least mean cost minus ``reg`` times its entropy (Cuturi
    2013), in the cost's dtype.

    Args:
        cost: (n, m).
        reg: of the entropy, above 0.
        a, b: weights (n,) of the rows and (m,) of the columns, above 0; equal by default, rescaled
            to sum to 1.
        iterations: the largest number of iterations, each over both sides, on logarithms. Their
            number grows like the largest cost over ``reg``.
        tolerance: the iteration ends when the absolute errors of the columns' weights sum to this
            (the rows' weights are exact); None makes all iterations without a check.
        relax: factor of the divergence KL(columns of the plan | b) instead of the columns' weights
            (Chizat et al. 2018); the rows keep theirs.

    Raises OdesolveError where the tolerance is not reached, and for a cost that is not finite.
    """
    _check_reg(reg, iterations)
    if relax is not None and not 0 < relax < math.inf:
        raise OdesolveError(
            f"relax={relax}: give a number above 0, or leave it out: the columns then keep their "
            "weights"
        )
    if cost.dim() != 2 or not cost.is_floating_point():
        raise OdesolveError(
            f"cost is {cost.dtype} of shape {tuple(cost.shape)}: give floats of shape (n, m)"
        )
    rows, columns = (_log_weights(w, n, cost) for w, n in zip((a, b), cost.shape, strict=True))
    kernel = -_finite(cost) / reg
    g = torch.zeros_like(columns)
    error = math.inf
    share, slack = (1.0, 0.0) if relax is None else (relax / (relax + reg), reg / relax)
    f = rows - torch.logsumexp(kernel, 1)
    for k in range(iterations):
        reached = torch.logsumexp(kernel + f[:, None], 0)
        if tolerance is not None and (k % LOOK == 0 or k == iterations - 1):
            error = float((torch.exp(reached + g) - torch.exp(columns - slack * g)).abs().sum())
            if error <= tolerance:
                break
        g = share * (columns - reached)
        # the columns sum to 1 in the end: this sets the slowest part of g at once
        if slack:
            g = g + torch.logsumexp(columns - slack * g, 0) / slack
        f = rows - torch.logsumexp(kernel + g, 1)
    else:
        if tolerance is not None:
            raise OdesolveError(
                f"the columns miss their weights by {error:.2g} after {iterations} iterations: "
                "give more iterations=, a "
                f"larger tolerance= than {tolerance:g}, or a larger reg= than {reg:g}"
            )
    return kernel + f[:, None] + g


@fits
def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (n, m), float64, of samples x (n, ...) and y (m, ...)."""
    x, y = (z.detach().flatten(1).double() for z in (x, y.to(x.device)))
    centre = x.mean(0)  # a common shift would cost the product below its digits
    x = x - centre
    y = y - centre
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def _products(x: Tensor, y: Tensor) -> Tensor:
    """-2 x.y (n, n), float64, of centred samples: squared distances up to terms that are the same
    in any order."""
    x, y = (z.detach().flatten(1).double() for z in (x, y.to(x.device)))
    x = x - x.mean(0)
    y = y - y.mean(0)
    _finite(x.square().sum() + y.square().sum())  # which bounds every product
    return (-2 * x) @ y.T


def _draw_columns(plan: Tensor, generator: torch.Generator | None) -> Tensor:
    """A column (n,) for every row of a plan (n, m), by its weights."""
    device = "cpu" if generator is None else generator.device
    # One uniform number per row: multinomial would need the generator on the device of the plan.
    u = torch.rand(len(plan), 1, dtype=torch.float64, generator=generator, device=device).to(
        plan.device
    )
    cumulated = plan.cumsum(1)
    return torch.searchsorted(cumulated, u * cumulated[:, -1:], right=True).clamp_max(
        plan.shape[1] - 1
    )[:, 0]


def _exact_plan(cost: Tensor) -> Tensor:
    """The plan (n, m) of least cost between equal weights, by POT's network simplex."""
    try:
        import ot
    except ImportError as e:
        n, m = cost.shape
        raise ImportError(
            f"optimal transport of {n} to {m} samples needs POT: pip install 'odesolve[ot]', or "
            f"give {n}"
        ) from e
    rows, columns = (torch.full((k,), 1 / k, dtype=torch.float64).numpy() for k in cost.shape)
    return torch.from_numpy(ot.emd(rows, columns, cost.cpu().numpy()))


def _sorted(x: Tensor) -> Tensor:
    return _finite(x.detach().flatten()).argsort(stable=True)


def _log_weights(weights: Tensor | None, n: int, cost: Tensor) -> Tensor:
    if weights is None:
        return cost.new_full((n,), -math.log(n))
    if weights.shape != (n,) or not bool((weights > 0).all()):
        raise OdesolveError(
            f"weights of shape {tuple(weights.shape)} for a side of {n}: give one above 0 each"
        )
    return torch.log(weights / weights.sum()).to(cost)


def _finite(x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise OdesolveError("a sample or a cost is NaN or infinite: give finite values")
    return x


def _check_reg(reg: float, iterations: int) -> None:
    if not (reg > 0 and math.isfinite(reg)):
        raise OdesolveError(f"reg={reg}: give a number above 0, or take OptimalTransport()")
    if iterations < 1:
        raise OdesolveError(f"iterations={iterations}: give at least 1")


def _check(x: Tensor, noise: Tensor, same: bool = True) -> None:
    check_data(x)
    check_data(noise)
    if x.shape[1:] != noise.shape[1:] or (same and len(x) != len(noise)):
        expected = "as many samples of the same shape" if same else "samples of the same shape"
        raise OdesolveError(
            f"data {tuple(x.shape)} and noise {tuple(noise.shape)}: give {expected}"
        )
