"""Quadratic forms of waves with random signs: exact on diagonal Jacobians, and mutually
orthogonal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from odesolve.doors.values import is_whole
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.trace.draws import period, waves
from odesolve.trace.exact import Exact
from odesolve.trace.hutchinson import spread
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.protocol import Probes


@fits
@dataclass(frozen=True)
class Fourier:
    """The mean of z^T J z over z = sqrt(2) s cos(w i) and sqrt(2) s sin(w i): random signs s_i,
    ``products`` / 2 frequencies w.

    Mixed unit vectors (Avron and Toledo 2011, their F D with a Fourier matrix F), in real pairs,
    drawn without replacement, with an odd period, so that all distances |i - j| count alike. The
    squares of a pair add up to a constant, so a diagonal J is exact. For the symmetric part S of J
    and N = D, or D + 1 if D is even, the mean has the variance 2 (|S|_F^2 - sum S_ii^2) / products
    (N - products) / (N - 1): less than Hutchinson's with signs, and less than with orthogonal
    vectors, up to a factor 1 + 2 / D where the diagonal is constant. Exact with ``products`` >= D.
    """

    products: int = 16

    def __post_init__(self):
        if not is_whole(self.products, 1) or self.products < 2 or self.products % 2:
            raise OdesolveError(f"products={self.products!r}: give an even number, at least 2")

    def __str__(self) -> str:
        return f"fourier({self.products})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        if self.products >= like.shape[1:].numel():
            return Exact().begin(like, keys)
        return Pairs(waves(like, keys, self.products // 2))


class Pairs:
    """Waves (2k, B, D), the cosines before the sines; the value of a pair is the mean of its two
    forms."""

    exact = False

    def __init__(self, z: Tensor):
        self.z = z
        self.products = len(z)
        self.count = len(z) // 2

    def rows(self, index: Tensor) -> Pairs:
        """The probes of these samples."""
        return Pairs(self.z[:, index])

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        forms = (line.pull(self.z) * self.z).sum(2)
        return line.out, of_pairs(forms, line.dim).to(x.dtype)


def of_pairs(forms: Tensor, dim: int) -> Tensor:
    """Values (B, k) of the forms (2k, B), spread about their mean so that sd / sqrt(k) is its
    error."""
    count = len(forms) // 2
    values = 0.5 * (forms[:count] + forms[count:]).T
    return spread(values, (1.0 - len(forms) / period(dim)) ** 0.5)
