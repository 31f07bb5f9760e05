"""Discrete data as continuous ones: noise over the width of every value, uniform or learnt, and the
bits that follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from odesolve.adjoint.memory import holding
from odesolve.doors.brief import brief
from odesolve.doors.keywords import door
from odesolve.doors.values import refuse_loose, whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.functions.torch_func import unwatched
from odesolve.kernels import dispatch
from odesolve.likelihood.result import LogProb, check_width
from odesolve.log_prob import log_prob
from odesolve.noise.keys import Ids, fresh_seed, keys_of
from odesolve.noise.stream_numbers import DEQUANTISE

MOST = 2**24  # levels that float32 tells apart
Noise = str | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@brief
class Dequantised(NamedTuple):
    """Continuous data x (B, ...), and log q (B,), the log-density in nats of the noise u in [0,
    1)^D that made them."""

    x: Tensor
    log_q: Tensor


class LogisticNoise(nn.Module):
    """A dequantiser to train: u = sigmoid(mean + exp(log_scale) eps), its mean and log-scale what
    ``net`` says of the data.

    ``net`` maps data at the centres of their values (B, C, ...) to (B, 2 C, ...): means, then
    log-scales; zeros are a good start. A variational dequantiser with one Gaussian layer (Ho et al.
    2019, section 3.1)."""

    def __init__(self, net: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """(u, log q(u | x)) from standard normals."""
        mean, log_scale = self.net(x).chunk(2, 1)
        if mean.shape != x.shape:
            raise OdesolveError(
                f"net returned {tuple(mean.shape)} for half of its channels: "
                "return twice those of x"
            )
        a = mean + log_scale.exp() * eps
        # log q = log N(eps) - log |da/deps| - log |du/da|, with log du/da = logsigmoid(a) +
        # logsigmoid(-a)
        log_slope = nn.functional.logsigmoid(a) + nn.functional.logsigmoid(-a)
        log_q = -0.5 * (eps**2 + math.log(2 * math.pi)) - log_scale - log_slope
        return torch.sigmoid(a), log_q.flatten(1).sum(1)


@fits
@unwatched
def dequantise(
    x: Tensor,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    noise: Noise = "uniform",
    seed: int | None = None,
    ids: Ids | None = None,
    *,
    draw: int = 0,
) -> Dequantised:
    """Spread discrete data over the width of their values: low + (high - low) (k + u) / levels, u
    in [0, 1).

    Args:
        x: data (B, ...) as images come: whole numbers k = 0 to levels - 1, or floats low + (high -
            low) k / (levels - 1), which for 8-bit images in [-1, 1] is k / 127.5 - 1.
        levels, low, high: how many values there are, and the interval that the continuous data
            fill.
        noise: "uniform", or a function (c, eps) -> (u, log q) of the centres c of the values and of
            standard normals, both (B, ...), such as ``LogisticNoise``: u in [0, 1] of the same
            shape, log q (B,) its log-density.
        seed, ids: what the noise is made from, as for ``ode.sample``; ``draw`` counts independent
            draws of one seed.

    The result is float32, or float64 for float64 data. Raises OdesolveError for values off the
    levels.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> x = torch.arange(256.0).reshape(1, 256) / 127.5 - 1  # 8-bit values in [-1, 1]
        >>> spread = ode.dequantise(x, seed=0)
        >>> spread.x.shape, bool(spread.x.min() >= -1), bool(spread.x.max() <= 1)
        (torch.Size([1, 256]), True, True)
    """
    k = _whole(x, levels, low, high)
    draw = whole("draw", draw)
    z = torch.empty_like(k)
    dispatch.normal(z, keys_of(len(k), seed, ids, k.device), DEQUANTISE + draw)
    if noise == "uniform":
        below = 1.0 - 0.5 * torch.finfo(k.dtype).eps
        u = torch.special.ndtr(z.double()).to(k).clamp_max(below)
        log_q = torch.zeros(len(k), dtype=torch.float64, device=k.device)
    elif callable(noise):
        u, log_q = noise(low + (high - low) * (k + 0.5) / levels, z)
        if u.shape != k.shape or log_q.shape != k.shape[:1]:
            given = f"{tuple(u.shape)} and {tuple(log_q.shape)}"
            raise OdesolveError(
                f"the dequantiser returned shapes {given}: return u {tuple(k.shape)} and log q "
                f"({len(k)},)"
            )
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise OdesolveError(
                "the dequantiser returned u outside of [0, 1]: end it with a sigmoid"
            )
    else:
        raise OdesolveError(
            f"noise={noise!r}: give 'uniform', or a function (centres, normals) -> (u, log q)"
        )
    return Dequantised(low + (high - low) * (k + u) / levels, log_q)


def _whole(x: Any, levels: int, low: float, high: float) -> Tensor:
    """The numbers k of the values, as floats."""
    check_width(levels, low, high, MOST)
    if isinstance(x, Tensor):
        refuse_loose("x", x)
    if (
        not isinstance(x, Tensor)
        or x.is_meta
        or x.dim() < 2
        or x.is_complex()
        or x.dtype == torch.bool
    ):
        raise OdesolveError(
            f"x is {getattr(x, 'dtype', type(x).__name__)}: give whole numbers or floats (B, ...)"
        )
    if not x.is_floating_point():
        k = x.to(torch.get_default_dtype())
    else:
        wide = x.double()
        exact = (wide - low) / (high - low) * (levels - 1)
        k = exact.round()
        # Floats of any width are taken as they were rounded: bfloat16 keeps 8 bits of a number.
        eps = torch.finfo(x.dtype).eps
        largest = max(abs(low), abs(high))
        rounding = 2 * (levels - 1) * eps * largest / (high - low)
        off = (exact - k).abs().max() if x.numel() else torch.zeros(())
        if not bool(off <= max(rounding, 1e-6)):
            raise OdesolveError(
                f"x lies off the {levels} values from {low} to {high} by {float(off):.2g} of a "
                "step: give "
                "low + (high - low) k / (levels - 1), or the whole numbers k themselves"
            )
        k = k.to(torch.promote_types(x.dtype, torch.float32))
    least, most = (float(v) for v in k.aminmax()) if k.numel() else (0.0, 0.0)
    if least < 0 or most > levels - 1:
        raise OdesolveError(
            f"x holds values {least:g} to {most:g} of 0 to {levels - 1}: give levels=, low= and "
            "high= of the data"
        )
    return k


@brief
@dataclass(frozen=True)
class BitsPerDim:
    """Bits a dimension of B discrete samples; lower is better.

    Attributes:
        value: (B,), the importance-weighted bound over the draws, -log2 mean_d(p / q) / D: an upper
            bound of the model's bits in expectation, tighter with every draw (Burda et al. 2016).
        mean: (B,), the mean over the draws of the plain bound, what other libraries report.
        stderr: (B,), standard error of ``value`` that comes from the trace's probes; ``spread``:
            standard error of ``mean`` that comes from the noise, NaN for one draw.
        draws: the log-density of each draw.
    """

    value: Tensor
    mean: Tensor
    stderr: Tensor
    spread: Tensor
    draws: list[LogProb]


@door("ode.bits_per_dim")
@unwatched
@holding
def bits_per_dim(
    model: Any,
    x: Tensor,
    *,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    noise: Noise = "uniform",
    draws: int = 1,
    seed: int | None = None,
    ids: Ids | None = None,
    **options: Any,
) -> BitsPerDim:
    """Bits a dimension of discrete data under the discrete model P(k) = integral of the density
    over the values' widths.

    -log2 of the density at dequantised data, plus log2(levels / (high - low)) a dimension and log q
    (Theis et al. 2016, section 3.1; Ho et al. 2019, eq. 8), over ``draws`` draws of the noise.

    Args:
        model: what ``ode.log_prob`` takes; ``options`` go to it.
        x, levels, low, high, noise, seed, ids: as for ``dequantise``. The probes of the trace are
            the same for all draws, so ``stderr`` does not fall with their number.

    Raises OdesolveError for arguments that cannot be used.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> model = ode.problems.gaussian(torch.zeros(4), std=0.3).model(ode.paths.VP())
        >>> images = torch.tensor([[0, 128, 255, 127], [130, 120, 128, 126]])
        >>> bits = ode.bits_per_dim(model, images, seed=0)
        >>> bool(bits.value[0] > bits.value[1])  # the first is less likely
        True
    """
    draws = whole("draws", draws, 1)
    seed = fresh_seed() if seed is None else seed
    densities = []
    logs = []
    for draw in range(draws):
        y, log_q = dequantise(x, levels, low, high, noise, seed, ids, draw=draw)
        one = log_prob(model, y, seed=seed, ids=ids, **options)
        densities.append(one)
        logs.append(one.value - log_q.to(one.value))
    weights = torch.stack(logs)
    dim = x.shape[1:].numel()
    unit = dim * math.log(2.0)
    width = math.log2(levels / (high - low))
    best = weights.logsumexp(0) - math.log(draws)
    share = (weights.detach() - weights.detach().logsumexp(0)).exp()
    stderr = (share * torch.stack([one.stderr for one in densities])).sum(0)
    spread = (
        weights.detach().std(0) / draws**0.5
        if draws > 1
        else torch.full_like(best.detach(), math.nan)
    )
    return BitsPerDim(
        width - best / unit, width - weights.mean(0) / unit, stderr / unit, spread / unit, densities
    )
