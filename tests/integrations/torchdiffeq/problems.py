"""Small random problems, and both libraries by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from odesolve.integrations import torchdiffeq as ours

theirs = pytest.importorskip(
    "torchdiffeq", reason="the peers are an extra: pip install odesolve[peers]"
)
LIBRARIES = {"torchdiffeq": theirs, "odesolve": ours}
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
EXPLICIT = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = ("explicit_adams", "implicit_adams")


class Field(nn.Module):
    """A perceptron of the state, turned by time, or a linear field; counts its calls.

    With ``pairs`` the state is a tuple (B, 3), (B,): the second is the integral of a function of
    the first."""

    def __init__(self, seed: int = 0, linear: bool = False, pairs: bool = False):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.a, self.b = (
            nn.Parameter(0.5 * torch.randn(s, generator=draw, dtype=torch.float64))
            for s in ((3, 4), (4, 3))
        )
        self.linear, self.pairs, self.calls = linear, pairs, 0

    def forward(self, t, y):
        self.calls += 1
        z = y[0] if self.pairs else y
        a, b = self.a.to(z.dtype), self.b.to(z.dtype)
        hidden = z @ a if self.linear else torch.tanh(z @ a)
        out = hidden @ b + torch.sin(2 * t) * z
        return (out, (z * out).sum(-1)) if self.pairs else out

    def start(self, batch: int = 2, seed: int = 1):
        z = torch.randn(
            batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        return (z, torch.zeros(batch, dtype=torch.float64)) if self.pairs else z


@st.composite
def fields(draw):
    return Field(draw(st.integers(0, 1000)), draw(st.booleans()), draw(st.booleans()))


@st.composite
def times(draw, most: int = 5):
    """Between 2 and ``most`` times that rise or fall, float64."""
    steps = draw(st.lists(st.floats(0.05, 0.6), min_size=1, max_size=most - 1))
    t = draw(st.floats(-1.0, 1.0)) + torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    return -t if draw(st.booleans()) else t


def flat(y) -> Tensor:
    """A state, or a list of tensors, as one vector."""
    return torch.cat([x.detach().reshape(-1) for x in (y if isinstance(y, (tuple, list)) else [y])])


def gap(a, b) -> float:
    """The largest difference between two states."""
    return float((flat(a) - flat(b)).abs().max())


def exact(field: Field, y0, t):
    """The solution to rounding."""
    with torch.no_grad():
        return ours.odeint(field, y0, t, method="dopri8", rtol=1e-13, atol=1e-14)
