"""The specification of noise: Philox4x32-10 and Box-Muller, element by element, in torch on any
device.

A normal number is a function of (seed, sample id, stream, element) alone: of no batch, layout,
device or thread. Every backend computes what stands here with the same float32 operations in the
same order, each rounded, none fused."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Final

import torch
from odesolve.kernels import refusals
from torch import Tensor

ROUNDS: Final = 10
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_LOW: Final = 0xFFFFFFFF

# Minimax in float32: log1p(f) = f - f^2/2 + f^3 LOG(f) on [sqrt(1/2) - 1, sqrt(2) - 1], to 2e-9;
# sin(y) = y + y^3 SIN(y^2) and cos(y) = 1 - y^2/2 + y^4 COS(y^2) on [-pi/4, pi/4], to 2e-9.
LOG: Final = (
    0.3333319127559662,
    -0.25000619888305664,
    0.20006965100765228,
    -0.16632071137428284,
    0.14127133786678314,
    -0.13034309446811676,
    0.13077987730503082,
    -0.08228962868452072,
)
SIN: Final = (-0.16666650772094727, 0.008331977762281895, -0.00019495567539706826)
COS: Final = (0.04166664555668831, -0.0013887366512790322, 2.4438379114144482e-05)
SQRT_HALF_BITS: Final = 0x3F3504F3  # float32 sqrt(1/2), as its bits
LN2: Final = 0.693147182464599609375  # float32
# radians per unit of the remainder, rounded to float32 where used
QUARTER_TURN: Final = math.pi / 2 * 2.0**-30


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al. 2011): four words of 32 bits from a counter of four and a key of
    two, all in int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        h0, l0 = _product(c0, MULTIPLIERS[0])
        h1, l1 = _product(c2, MULTIPLIERS[1])
        c0 = h1 ^ c1 ^ k0
        c1 = l1
        c2 = h0 ^ c3 ^ k1
        c3 = l0
        k0 = (k0 + WEYL[0]) & _LOW
        k1 = (k1 + WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _product(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 64-bit product; int64 wraps, and wrapped bits are the right
    bits."""
    p = a * m
    return (p >> 32) & _LOW, p & _LOW


def words(keys: Tensor, stream: Tensor | int, n: int) -> Tensor:
    """The n random words of each sample, (B, n) int64 in [0, 2^32).

    ``keys`` is (B, 2) int64, a row (seed, sample id); ``stream`` a number of 64 bits or one per
    sample, (B,). Element e is word e % 4 of the counter (e // 4, sample id, stream low, stream
    high) under the key (seed low, seed high)."""
    batch = keys.shape[0]  # len(keys) would fix an exported program's batch
    refusals.keys(keys, batch)
    quad = torch.arange((n + 3) // 4, dtype=torch.int64, device=keys.device)[None, :]
    seed = keys[:, 0:1]
    sample = keys[:, 1:2] & _LOW
    where = streams(stream, keys.device, batch).reshape(-1, 1)
    shape = (batch, quad.shape[1])
    counter = (quad, sample, where & _LOW, (where >> 32) & _LOW)
    out = philox(tuple(c.expand(shape) for c in counter), (seed & _LOW, (seed >> 32) & _LOW))
    return torch.stack(out, dim=-1).flatten(1)[:, :n]


def normals(keys: Tensor, stream: Tensor | int, n: int) -> Tensor:
    """Standard normals (B, n), float32: Box-Muller on the words (0, 1) and (2, 3) of each four."""
    bits = words(keys, stream, -(-n // 4) * 4)
    return box_muller(bits[:, 0::2], bits[:, 1::2]).flatten(1)[:, :n]


def signs(keys: Tensor, stream: Tensor | int, n: int) -> Tensor:
    """Rademacher numbers (B, n), float32: -1 where the top bit of the element's word is set."""
    return 1.0 - 2.0 * (words(keys, stream, n) >> 31).float()


def box_muller(a: Tensor, b: Tensor) -> Tensor:
    """Two normals (..., 2) from two words: radius from ``a``, angle from ``b``. At most 6.66 in
    size."""
    u = (a >> 1).float() * 2.0**-31 + 2.0**-32  # in (0, 1]
    # The square root is taken in float64 and rounded: correct in float32, which torch.sqrt on a CPU
    # is not.
    radius = (-2.0 * log(u)).double().sqrt().float()
    signed = b - ((b >> 31) << 32)
    quadrant = (signed + 2**29) >> 30
    # A number and no tensor made here: exported programs hold no such constants.
    y = (signed - (quadrant << 30)).float() * QUARTER_TURN
    sin, cos = sin_cos(y)
    odd = (quadrant & 1) == 1
    s = torch.where(odd, cos, sin)
    c = torch.where(odd, sin, cos)
    s = torch.where((quadrant & 2) == 2, -s, s)
    c = torch.where(((quadrant + 1) & 2) == 2, -c, c)
    return torch.stack([radius * c, radius * s], dim=-1)


def log(u: Tensor) -> Tensor:
    """Natural logarithm of positive normal float32 numbers: (f + e ln 2) + (f^3 LOG(f) - f^2/2)."""
    bits = u.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0
    square = f * f
    small = square * f * horner(LOG, f) - 0.5 * square
    return (f + exponent.float() * LN2) + small


def sin_cos(y: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine on [-pi/4, pi/4]: y + (y y^2) SIN(y^2), (1 - y^2/2) + y^4 COS(y^2)."""
    square = y * y
    sin = y + (y * square) * horner(SIN, square)
    cos = (1.0 - 0.5 * square) + (square * square) * horner(COS, square)
    return sin, cos


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Polynomial with these coefficients, lowest first: one product and one sum a term, each
    rounded."""
    out = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out * x + c
    return out


def keys(seed: int, samples: Tensor) -> Tensor:
    """Keys (B, 2) of samples with these ids (B,), whole numbers from 0 to 2^32 - 1, under one seed
    of 64 bits."""
    seeds = torch.full_like(samples, signed(seed), dtype=torch.int64)
    return torch.stack([seeds, samples.to(torch.int64)], dim=1)


def streams(given, device: torch.device, batch: int | None = None) -> Tensor:
    """Numbers of streams, one or a tensor or list of them, in int64; refused unless they are whole
    (and fit the batch)."""
    try:
        numbers = torch.as_tensor(
            signed_all(given) if isinstance(given, (list, tuple)) else signed(given), device=device
        )
    except (TypeError, ValueError, RuntimeError):
        numbers = None
    return refusals.streams(given, numbers, batch).to(torch.int64)


def signed(number):
    """A whole number as the signed one with the same 64 bits; anything else as it is."""
    if isinstance(number, (int, Integral)):
        return (int(number) + 2**63) % 2**64 - 2**63
    return number


def signed_all(numbers):
    """``signed`` of a list of whole numbers; a tensor as it is."""
    if isinstance(numbers, Tensor):
        return numbers
    return [signed(n) for n in numbers]
