"""Hutchinson's estimator: quadratic forms of random vectors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from odesolve.doors.annotations import meant, text
from odesolve.doors.values import is_whole
from odesolve.errors import OdesolveError, unknown
from odesolve.trace.draws import frames, gaussians, signs
from odesolve.trace.exact import Exact
from odesolve.trace.linearised import Field, Linearised
from odesolve.trace.protocol import Probes

LAWS = {"rademacher": signs, "gaussian": gaussians, "orthogonal": frames}


@meant(law=text("rademacher"))
@dataclass(frozen=True)
class Hutchinson:
    """The mean of z^T J z over ``probes`` random vectors, one Jacobian product each (Hutchinson
    1989).

    ``law`` "rademacher" has the variance 2 (|S|_F^2 - sum S_ii^2) for the symmetric part S of J,
    "gaussian" 2 |S|_F^2. With "orthogonal", the vectors are mutually orthogonal. Exact with D
    probes or more, by D unit vectors, which cost no more."""

    probes: int = 1
    law: str = "rademacher"

    def __post_init__(self):
        if self.law not in LAWS:
            raise unknown("law", self.law, LAWS)
        if not is_whole(self.probes, 1) or self.probes < 1:
            raise OdesolveError(f"probes={self.probes!r}: give at least 1")

    def __str__(self) -> str:
        name = "hutchinson" if self.law == "rademacher" else self.law
        return f"{name}({self.probes})"

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...), with the keys (B, 2) of its samples."""
        dim = like.shape[1:].numel()
        if self.probes >= dim:
            return Exact().begin(like, keys)
        if self.law != "orthogonal":
            return self.forms(like, keys)
        # Two orthogonal probes have the covariance -var / (D - 1), as draws without
        # replacement from a population of D.
        return Forms(frames(like, keys, self.probes), (1.0 - self.probes / dim) ** 0.5)

    def forms(self, like: Tensor, keys: Tensor) -> Forms:
        """The probes, for any number of them."""
        return Forms(LAWS[self.law](like, keys, self.probes))


class Forms:
    """Quadratic forms of fixed vectors z (K, B, D); ``spread`` scales the values about their
    mean."""

    exact = False

    def __init__(self, z: Tensor, spread: float = 1.0):
        self.z = z
        self.spread = spread
        self.count = self.products = len(z)

    def rows(self, index: Tensor) -> Forms:
        """The probes of these samples."""
        return Forms(self.z[:, index], self.spread)

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        line = Linearised(f, x)
        values = (line.pull(self.z) * self.z).sum(2).T
        return line.out, (values if self.spread == 1.0 else spread(values, self.spread)).to(x.dtype)


def spread(values: Tensor, factor: float | Tensor) -> Tensor:
    """Values (B, K) with their distance from their mean multiplied by a factor."""
    mean = values.mean(1, keepdim=True)
    return mean + factor * (values - mean)
