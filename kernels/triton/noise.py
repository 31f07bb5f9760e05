"""Normal numbers in registers: Philox4x32-10 on quads and Box-Muller with the polynomials of
``odesolve.kernels.philox``.

Four elements share one counter, so a block of n elements costs n/4 Philox calls, and the sine and
cosine of n/2 angles. ``tl.randn`` takes four times the instructions (one counter and one slow-path
sine an element): it is bound by compute where this stays bound by memory. Every product and sum
stands alone as in the specification: compile with ``enable_fp_fusion=False`` (see
``launch.OPTIONS``)."""

from __future__ import annotations

import triton
import triton.language as tl
from odesolve.kernels import philox

MULTIPLIER_0 = tl.constexpr(philox.MULTIPLIERS[0])
MULTIPLIER_1 = tl.constexpr(philox.MULTIPLIERS[1])
WEYL_0 = tl.constexpr(philox.WEYL[0])
WEYL_1 = tl.constexpr(philox.WEYL[1])
ROUNDS = tl.constexpr(philox.ROUNDS)
LOG = tl.constexpr(philox.LOG)
SIN = tl.constexpr(philox.SIN)
COS = tl.constexpr(philox.COS)
SQRT_HALF_BITS = tl.constexpr(philox.SQRT_HALF_BITS)
LN2 = tl.constexpr(philox.LN2)
QUARTER_TURN = tl.constexpr(philox.QUARTER_TURN)


@triton.jit
def words(quad, keys, sample, stream):
    """The four words of each quad (uint32) of a sample, whose (seed, id) is row ``sample`` of
    ``keys``."""
    seed = tl.load(keys + 2 * sample)
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    c0 = quad.to(tl.uint32)
    zero = c0 * 0
    c1 = zero + tl.load(keys + 2 * sample + 1).to(tl.uint32)
    c2 = zero + stream.to(tl.uint32)
    c3 = zero + (stream >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        p0 = c0.to(tl.uint64) * MULTIPLIER_0  # one wide product: cheaper than a high and a low one
        p1 = c2.to(tl.uint64) * MULTIPLIER_1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + WEYL_0).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + WEYL_1).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def normals(start, keys, sample, stream, BLOCK: tl.constexpr):
    """Standard normals (float32) of the elements start to start + BLOCK - 1 of a sample; start is a
    multiple of four."""
    quad = start // 4 + tl.arange(0, BLOCK // 4)
    a, b, c, d = words(quad, keys, sample, stream)
    n0, n1 = box_muller(a, b)
    n2, n3 = box_muller(c, d)
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (BLOCK,))


@triton.jit
def signs(start, keys, sample, stream, BLOCK: tl.constexpr):
    """Rademacher numbers (float32) of the elements start to start + BLOCK - 1 of a sample."""
    quad = start // 4 + tl.arange(0, BLOCK // 4)
    a, b, c, d = words(quad, keys, sample, stream)
    bits = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK,))
    return 1.0 - 2.0 * (bits >> 31).to(tl.int32).to(tl.float32)


@triton.jit
def box_muller(a, b):
    """Two normals from two words: radius from ``a``, angle from ``b``."""
    u = (a >> 1).to(tl.int32).to(tl.float32) * 4.656612873077393e-10 + 2.3283064365386963e-10
    radius = tl.sqrt_rn(-2.0 * log(u))
    signed = b.to(tl.int32, bitcast=True)
    # where the sum wraps, quadrant -2 stands for 2: no bit below differs
    quadrant = (signed + 536870912) >> 30
    y = (signed - (quadrant << 30)).to(tl.float32) * QUARTER_TURN
    square = y * y
    sin = y + (y * square) * (((SIN[2] * square) + SIN[1]) * square + SIN[0])
    cos = (1.0 - 0.5 * square) + (square * square) * (
        ((COS[2] * square) + COS[1]) * square + COS[0]
    )
    odd = (quadrant & 1) == 1
    s = tl.where(odd, cos, sin)
    c = tl.where(odd, sin, cos)
    s = tl.where((quadrant & 2) == 2, -s, s)
    c = tl.where(((quadrant + 1) & 2) == 2, -c, c)
    return radius * c, radius * s


@triton.jit
def log(u):
    """Natural logarithm of positive normal numbers: (f + e ln 2) + (f^3 LOG(f) - f^2/2)."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    poly = LOG[7] * f + LOG[6]
    for i in tl.static_range(6):
        poly = poly * f + LOG[5 - i]
    small = square * f * poly - 0.5 * square
    return (f + exponent.to(tl.float32) * LN2) + small
