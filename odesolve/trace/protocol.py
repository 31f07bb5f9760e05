"""The protocols of an estimator of traces and of its probes for one batch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from odesolve.trace.linearised import Field


class Probes(Protocol):
    """The random vectors of a batch, drawn once and fixed along a trajectory.

    Attributes:
        count: K, the number of estimates of a trace.
        products: Jacobian products per sample and evaluation.
        exact: whether the estimates are the trace itself; otherwise one estimate alone has no known
            error.
    """

    @property
    def count(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def exact(self) -> bool: ...

    def __call__(self, f: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        """(f(x), values) with values (B, K) in the dtype of x: their mean estimates tr(df/dx), sd /
        sqrt(K) is its error.

        f maps (B, ...) to (B, ...), every sample on its own, and is evaluated once. Where gradients
        are recorded, the results are connected to x and to everything that f depends on; otherwise
        no graph remains."""
        ...

    def rows(self, index: Tensor) -> Probes:
        """The probes of these samples (int64), in this order; a sample may occur more than once."""
        ...


class Estimator(Protocol):
    """A way to estimate traces; ``str`` gives its name."""

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...) with the keys (B, 2) of its samples
        (``odesolve.noise.keys.keys_of``)."""
        ...


def name_of(estimator: Estimator, probes: Probes) -> str:
    """The name of an estimator for a reader, with the choice that its probes made in this batch."""
    if probes.exact:
        return "exact"
    return str(getattr(probes, "name", estimator))
