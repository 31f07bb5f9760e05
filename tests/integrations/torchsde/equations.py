"""Equations in torchsde's form, with random parameters, of every kind of noise and both calculi."""

from __future__ import annotations

import torch
from torch import nn

B, D, M = 3, 2, 3
WIDE = {"dtype": torch.float64}


class Equation(nn.Module):
    """Nonlinear drift and diffusion; g of scalar noise has a symmetric Jacobian, which torchsde's Milstein needs."""

    def __init__(self, noise, calculus, seed=0, m=M):
        super().__init__()
        self.noise_type, self.sde_type = noise, calculus
        r = torch.Generator().manual_seed(seed)
        self.m = {"scalar": 1, "diagonal": D}.get(noise, m)
        self.a = nn.Parameter(0.5 * torch.randn(D, D, generator=r, **WIDE))
        self.b = nn.Parameter(0.5 * torch.randn(D, self.m, generator=r, **WIDE))
        self.c = nn.Parameter(0.3 * torch.randn(D, generator=r, **WIDE))

    def f(self, t, y):
        return torch.sin(y @ self.a + t) - 0.5 * y

    def h(self, t, y):
        return torch.cos(t) - self.c * y

    def g(self, t, y):
        if self.noise_type == "diagonal":
            return 0.4 + 0.3 * torch.sin(self.c * y + t)
        if self.noise_type == "additive":
            return (0.5 * self.b * torch.cos(t)).expand(len(y), D, self.m)
        if self.noise_type == "scalar":
            return (0.3 * torch.sin(y * self.c + t) + 0.4).unsqueeze(-1)
        return 0.4 * torch.sin(y.flip(1).unsqueeze(-1) * self.b + t)


def start(seed=0, batch=B):
    return torch.randn(batch, D, generator=torch.Generator().manual_seed(seed), **WIDE)


KINDS = {
    "ito": {
        "euler": ("diagonal", "scalar", "additive", "general"),
        "milstein": ("diagonal", "scalar", "additive"),
        "srk": ("diagonal", "scalar", "additive"),
    },
    "stratonovich": {
        "milstein": ("diagonal", "scalar", "additive"),
        **{
            k: ("diagonal", "scalar", "additive", "general")
            for k in ("midpoint", "heun", "euler_heun", "log_ode", "reversible_heun")
        },
    },
}
CASES = [(c, m, n) for c, methods in KINDS.items() for m, noises in methods.items() for n in noises]
