"""What an estimator of traces is, and the probes of one batch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from odesolve.trace.linearised import Field


class Probes(Protocol):
    """The random vectors of a batch, drawn once and fixed along a trajectory.

    Attributes:
        count: K, how many estimates of a trace there are.
        products: Jacobian products of each sample that an evaluation takes.
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
        are recorded the results are connected to x and to what f depends on; otherwise no graph is
        left."""
        ...

    def rows(self, index: Tensor) -> Probes:
        """The probes of these samples (int64), in this order; a sample may come more than once."""
        ...


class Estimator(Protocol):
    """A way to estimate traces; ``str`` gives its name."""

    def begin(self, like: Tensor, keys: Tensor) -> Probes:
        """Draw the probes of a batch like (B, ...) with the keys (B, 2) of its samples
        (``odesolve.noise.keys.keys_of``)."""
        ...


def name_of(estimator: Estimator, probes: Probes) -> str:
    """What the probes of an estimator are, for a reader: its name, or what became of it in this
    batch."""
    if probes.exact:
        return "exact"
    return str(getattr(probes, "name", estimator))
