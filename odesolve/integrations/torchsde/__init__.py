"""The calls of torchsde: ``from odesolve.integrations import torchsde`` in place of
``import torchsde``."""

from odesolve.integrations.torchsde.base import BaseSDE, SDEIto, SDEStratonovich
from odesolve.integrations.torchsde.brownian import (
    BaseBrownian,
    BrownianInterval,
    BrownianPath,
    BrownianTree,
    ReverseBrownian,
    brownian_interval_like,
)
from odesolve.integrations.torchsde.sdeint import sdeint, sdeint_adjoint

__all__ = [
    "BaseBrownian",
    "BaseSDE",
    "BrownianInterval",
    "BrownianPath",
    "BrownianTree",
    "ReverseBrownian",
    "SDEIto",
    "SDEStratonovich",
    "brownian_interval_like",
    "sdeint",
    "sdeint_adjoint",
]
