"""Base classes of equations: a module with a kind of noise and a calculus."""

from __future__ import annotations

from torch import nn

from odesolve.doors.words import fits
from odesolve.errors import unknown

NOISES = ("diagonal", "scalar", "additive", "general")
CALCULI = ("ito", "stratonovich")


@fits
class BaseSDE(nn.Module):
    """A module with ``noise_type`` ("diagonal", "scalar", "additive", "general") and ``sde_type``
    ("ito", "stratonovich").

    Raises OdesolveError for others.
    """

    def __init__(self, noise_type: str, sde_type: str):
        super().__init__()
        check_types(noise_type, sde_type)
        self.noise_type = noise_type
        self.sde_type = sde_type


@fits
class SDEIto(BaseSDE):
    """An equation in Ito's calculus."""

    def __init__(self, noise_type: str):
        super().__init__(noise_type, "ito")


@fits
class SDEStratonovich(BaseSDE):
    """An equation in Stratonovich's calculus."""

    def __init__(self, noise_type: str):
        super().__init__(noise_type, "stratonovich")


def check_types(noise_type: str, sde_type: str) -> None:
    """Raise OdesolveError for a kind of noise or an unknown calculus."""
    if noise_type not in NOISES:
        raise unknown("noise_type", noise_type, NOISES)
    if sde_type not in CALCULI:
        raise unknown("sde_type", sde_type, CALCULI)
