"""Markov chains that sample a density: unadjusted Langevin, with a fixed or a signal-to-noise step,
and MALA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.doors.convention import check_call
from odesolve.doors.keywords import door
from odesolve.doors.values import dense, positive, real, refuse_loose, whole
from odesolve.errors import OdesolveError
from odesolve.functions.callee import Callee
from odesolve.functions.graphs import tells_lost
from odesolve.functions.steadiness import warn_of_training
from odesolve.functions.torch_func import refuse_inside, unwatched
from odesolve.kernels.dispatch import combine, inner, normal, quadratic_form
from odesolve.noise.keys import Ids, keys_of
from odesolve.noise.stream_numbers import CHAINS
from odesolve.run import places

Field = Callable[[Tensor], Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STREAMS = 2**31 - 1  # numbers of the steps' draws


@brief
@dataclass(frozen=True)
class Chains:
    """What ``mala`` returns.

    Attributes:
        x: the last states (B, ...).
        kept: states after every ``keep`` steps, (n // keep, B, ...); None without ``keep``.
        acceptance: share of the proposals that each chain accepted, (B,) float64.
        log_prob: log-density of the last states, (B,) float64.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> normal = lambda x: -0.5 * x.square().sum(1)
        >>> chains = ode.mala(normal, torch.zeros(8, 2), 0.5, n=50, seed=0)
        >>> chains.x.shape, bool((chains.acceptance > 0.5).all())
        (torch.Size([8, 2]), True)
    """

    x: Tensor = field(repr=False)
    kept: Tensor | None = field(repr=False)
    acceptance: Tensor
    log_prob: Tensor = field(repr=False)


@door("ode.langevin")
@unwatched
@tells_lost(1, "x")
@torch.no_grad()
def langevin(
    score: Field,
    x: Tensor,
    step: float | Tensor | None = None,
    n: int = 100,
    *,
    snr: float | None = None,
    seed: int | None = None,
    ids: Ids | None = None,
    keep: int | None = None,
) -> Tensor:
    """n steps of unadjusted Langevin dynamics, x <- x + step score(x) + sqrt(2 step) z, for every
    sample of a batch.

    Args:
        score: gradient of the log-density, (B, ...) -> (B, ...).
        x: where the chains start, (B, ...) in float32 or float64.
        step: the step, a number or one per chain (B,). On a normal law of variance v the chain's
            own law has the variance v / (1 - step / (2 v)).
        snr: in place of a step, a ratio r of signal to noise: step = 2 (r |z| / |score|)^2 with the
            norms of each sample's own, on the device (Song et al. 2021, algorithm 5, which takes
            the batch's mean norms). It is for many dimensions D: a step that depends on the state
            and on the noise leaves a law ((D + 2) / D)^2 times too wide even as r goes to 0.
        seed, ids: the numbers of a chain are a function of the seed and its own id (0 to B - 1 by
            default).
        keep: return the states after every ``keep`` steps, (n // keep, B, ...), instead of the
            last.

    Raises OdesolveError for a start, a step or a number of steps that cannot be used.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> x = ode.langevin(lambda x: -x, torch.zeros(1000, 2), step=0.1, n=100, seed=0)
        >>> round(float(x.std()), 1)
        1.0
    """
    check_call(score, "score", "x")
    x = _start(x, n, keep)
    warn_of_training(score, "the score")
    if (step is None) == (snr is None):
        raise OdesolveError("give either step= or snr=")
    snr = None if snr is None else positive("snr", snr, "0.16")
    keys = keys_of(x.shape[0], seed, ids, x.device)
    kept = _Kept(x, n, keep)
    fixed = None if step is None else _weights(step, x)
    z = torch.empty_like(x)
    ask = Callee(score, "score", at=0)
    for k in range(n):
        s = _checked(ask(x), x)
        if fixed is not None:
            combine((x,), (x, s), fixed, (0,), keys, (CHAINS + k,))
        elif snr is not None:
            normal(z, keys, CHAINS + k)
            places.langevin(z, [x, s], (snr, 1.0))
            x, z = z, x
        kept.note(k, x)
    return x if kept.states is None else kept.states


@door("ode.mala")
@unwatched
@tells_lost(1, "x")
@torch.no_grad()
def mala(
    log_prob: Field,
    x: Tensor,
    step: float | Tensor,
    n: int = 100,
    *,
    score: Field | None = None,
    seed: int | None = None,
    ids: Ids | None = None,
    keep: int | None = None,
) -> Chains:
    """n steps of the Metropolis-adjusted Langevin algorithm, whose law is exactly that of the
    density (Roberts, Tweedie 1996).

    A Langevin step proposes, and is accepted with probability min(1, p(y) q(x | y) / (p(x) q(y |
    x))), each chain for itself.

    Args:
        log_prob: log-density up to a constant, (B, ...) -> (B,).
        x: where the chains start, (B, ...) in float32 or float64.
        step: of the Langevin step, a number or one per chain (B,). The best acceptance in many
            dimensions is 0.57.
        score: gradient of ``log_prob``; by default autograd's.
        seed, ids: the numbers of a chain, proposals and acceptances, are a function of the seed and
            its own id.
        keep: also return the states after every ``keep`` steps.

    Raises OdesolveError for a start, a step or a number of steps that cannot be used.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> normal = lambda x: -0.5 * x.square().sum(1)
        >>> chains = ode.mala(normal, torch.zeros(1000, 2), step=0.5, n=100, seed=0)
        >>> round(float(chains.x.std()), 1), round(float(chains.acceptance.mean()), 1)
        (1.0, 0.9)
    """
    check_call(log_prob, "log_prob", "x")
    if score is not None:
        check_call(score, "score", "x")
    x = _start(x, n, keep)
    keys = keys_of(x.shape[0], seed, ids, x.device)
    kept = _Kept(x, n, keep)
    chains = _Adjusted(log_prob, score, x, step, keys)
    for k in range(n):
        chains.step(k)
        kept.note(k, x)
    return Chains(x, kept.states, chains.accepted / max(n, 1), chains.lp)


class _Adjusted:
    """Chains of ``mala`` on their way: states x, which are written to, with the log-density ``lp``
    and its gradient ``s`` there, and how many proposals each has accepted."""

    def __init__(
        self,
        log_prob: Field,
        score: Field | None,
        x: Tensor,
        step: float | Tensor,
        keys: Tensor,
    ):
        self.x = x
        self.keys = keys
        self.eta = _step(step, x)
        self.weights = _weights(step, x)
        self.log_prob = Callee(log_prob, "log_prob", at=0)
        self.score = None if score is None else Callee(score, "score", at=0)
        self.lp, s = _density(self.log_prob, self.score, x)
        self.s = s.clone()
        self.y = torch.empty_like(x)
        self.both = torch.empty_like(x)
        self.accepted, self.cross, self.square = (
            torch.zeros(x.shape[0], dtype=torch.float64, device=x.device) for _ in range(3)
        )
        self.u = self.accepted.new_empty(x.shape[0], 1)

    def step(self, k: int) -> None:
        """Propose a Langevin step, and take it or not."""
        x = self.x
        proposal = CHAINS + 2 * k
        draw = CHAINS + 2 * k + 1
        combine((self.y,), (x, self.s), self.weights, (0,), self.keys, (proposal,))
        lp, s = _density(self.log_prob, self.score, self.y)
        ratio = self._ratio(lp, s, proposal)
        normal(self.u, self.keys, draw)
        # NaN, beyond the support, is no acceptance
        took = (torch.special.log_ndtr(self.u[:, 0]) < ratio).double()
        none = torch.zeros_like(took)
        rows = torch.stack([1 - took, took, none, none], 1)
        block = torch.stack([rows, rows.roll(2, 1)], 1)
        combine((x, self.s), (x, self.y, self.s, s), block, (-1, -1))
        self.lp = torch.where(took > 0, lp, self.lp)
        self.accepted += took

    def _ratio(self, lp: Tensor, s: Tensor, proposal: int) -> Tensor:
        """log p(y) q(x | y) / (p(x) q(y | x)) from log p and its gradient s at y.

        In log q(x | y) - log q(y | x), with y - x = eta s + sqrt(2 eta) z, the squares of z are
        cancelled by hand."""
        combine((self.both,), (self.s, s), ((1.0, 1.0),), (-1,))
        quadratic_form(self.cross, self.both, self.keys, proposal, "normal")
        inner(self.square, self.both, self.both)
        moved = lp - self.lp - (self.eta / 2) ** 0.5 * self.cross
        return moved - (self.eta / 4) * self.square


class _Kept:
    """The states of chains after every ``keep`` steps."""

    def __init__(self, x: Tensor, n: int, keep: int | None):
        self.keep = keep
        self.states = None if keep is None else x.new_empty(n // keep, *x.shape)

    def note(self, k: int, x: Tensor) -> None:
        if self.states is not None and self.keep and (k + 1) % self.keep == 0:
            self.states[k // self.keep] = x


def _start(x: Tensor, n: int, keep: int | None) -> Tensor:
    if isinstance(x, Tensor):
        refuse_loose("x", x)
    if (
        not isinstance(x, Tensor)
        or x.is_meta
        or x.dim() == 0
        or x.dtype not in (torch.float32, torch.float64)
    ):
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise OdesolveError(
            f"x is {given}, and where the chains start: give a float32 or float64 tensor (B, ...)"
        )
    whole("n", n, 0, STREAMS)
    if keep is not None:
        whole("keep", keep, 1)
    if x.is_cpu and not bool(x.isfinite().all()):
        raise OdesolveError("x holds NaN or infinity: give finite values where the chains start")
    return x.detach().clone(memory_format=torch.contiguous_format)


def _step(step: float | Tensor, x: Tensor) -> Tensor:
    """The step as (B,) float64. Values on a device are not waited for."""
    if not isinstance(step, Tensor):
        length = real("step", step, "positive numbers, such as 0.1", above=0.0)
        return x.new_full(x.shape[:1], length, dtype=torch.float64)
    if step.is_complex() or step.dtype == torch.bool:
        raise OdesolveError(f"step is {step.dtype}: give positive numbers")
    eta = step.to(x.device, torch.float64)
    if eta.dim() > 1 or (eta.dim() == 1 and len(eta) != x.shape[0]):
        raise OdesolveError(
            f"step has shape {tuple(eta.shape)}: give a number, or one per chain, ({x.shape[0]},)"
        )
    if eta.is_cpu and not bool(((eta > 0) & eta.isfinite()).all()):
        raise OdesolveError(f"step is {step}: give positive numbers")
    return eta.expand(x.shape[0])


def _weights(step: float | Tensor, x: Tensor) -> tuple[tuple[float, ...], ...] | Tensor:
    """Weights of a Langevin step on (x, score, z)."""
    eta = _step(step, x)
    if not isinstance(step, Tensor):
        return ((0.0, float(step), math.sqrt(2 * step)),)
    return torch.stack([torch.zeros_like(eta), eta, (2 * eta).sqrt()], 1)[:, None]


def _checked(s: Tensor, x: Tensor) -> Tensor:
    refuse_inside("what the score returned", s, x)
    if not isinstance(s, Tensor) or not _fits(s, x, x.shape):
        raise OdesolveError(
            f"score returned {_kind(s)} for a state of shape {tuple(x.shape)}: return the gradient "
            "of log p, real numbers"
        )
    return s.detach()


def _fits(out: Tensor, x: Tensor, shape: torch.Size) -> bool:
    """Whether an answer has real numbers of this shape, one by one in memory, where the chains
    are."""
    return dense(out) and out.shape == shape and out.dtype in FLOATS and out.device == x.device


def _kind(out: object) -> str:
    """What an answer is, for errors."""
    if not isinstance(out, Tensor):
        return type(out).__name__
    return (
        f"{out.dtype} {tuple(out.shape)} on {out.device}"
        if dense(out)
        else f"a {out.dtype} tensor that is not dense"
    )


def _density(log_prob: Field, score: Field | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p (B,) in float64 and its gradient."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_(score is None)
        lp = log_prob(point)
        refuse_inside("what the log-density returned", lp, x)
        if not isinstance(lp, Tensor) or not _fits(lp, x, x.shape[:1]):
            raise OdesolveError(
                f"log_prob returned {_kind(lp)} for {x.shape[0]} states: return one per state, "
                "(B,), a real one"
            )
        if score is None:
            (s,) = torch.autograd.grad(lp.sum(), point)
        else:
            s = score(point)
    return lp.detach().double(), _checked(s, x)
