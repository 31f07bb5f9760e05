"""The systems that the library is to provide, each with a check whose figure must stay under its
limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class System:
    """A row: its number in the inventory, the system's name, what is checked, the largest figure
    that passes."""

    number: int
    name: str
    check: str
    limit: float
    figure: Callable[[], float]


SYSTEMS: list[System] = []


def system(
    number: int, name: str, check: str, limit: float
) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Enter a function that measures a row's figure."""

    def entered(figure: Callable[[], float]) -> Callable[[], float]:
        SYSTEMS.append(System(number, name, check, limit, figure))
        return figure

    return entered


def generator(seed: int = 0) -> torch.Generator:
    """A generator of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normals in float64."""
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


def slope(errors: Sequence[float]) -> float:
    """Order of convergence of errors at doubled numbers of steps, from the last two."""
    return float(torch.log2(torch.tensor(errors[-2] / errors[-1])))


def gap(found: torch.Tensor | float, exact: torch.Tensor | float) -> float:
    """Largest absolute difference."""
    difference = torch.as_tensor(found, dtype=torch.float64) - torch.as_tensor(
        exact, dtype=torch.float64
    )
    return float(difference.detach().abs().max())
