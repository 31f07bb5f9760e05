"""Equations in torchsde's form, with random parameters, of every kind of noise and both calculi."""

from __future__ import annotations

import torch
from torch import nn

from tests.products import LONG

B, D, M = 3, 2, 3
WIDE = {"dtype": torch.float64}


class Equation(nn.Module):
    """Nonlinear drift and diffusion; g of scalar noise has a symmetric Jacobian, which torchsde's
    Milstein needs."""

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


EVERY = ("diagonal", "scalar", "additive", "general")
KINDS = {
    "ito": {
        "euler": ("diagonal", "scalar", "additive", "general"),
        "milstein": ("diagonal", "scalar", "additive"),
        "srk": ("diagonal", "scalar", "additive"),
    },
    "stratonovich": {
        "milstein": ("diagonal", "scalar", "additive"),
        **dict.fromkeys(
            ("midpoint", "heun", "euler_heun", "log_ode", "reversible_heun"),
            ("diagonal", "scalar", "additive", "general"),
        ),
    },
}
CASES = [(c, m, n) for c, methods in KINDS.items() for m, noises in methods.items() for n in noises]
# Every method, with a noise or two in turn.
FEW = [
    ("ito", "euler", "diagonal"),
    ("ito", "milstein", "scalar"),
    ("ito", "srk", "scalar"),
    ("ito", "srk", "additive"),
    ("stratonovich", "milstein", "diagonal"),
    ("stratonovich", "midpoint", "general"),
    ("stratonovich", "heun", "scalar"),
    ("stratonovich", "euler_heun", "diagonal"),
    ("stratonovich", "log_ode", "general"),
    ("stratonovich", "reversible_heun", "general"),
    ("stratonovich", "reversible_heun", "additive"),
]
SOME = CASES if LONG else FEW


class Smooth:
    """A Brownian motion that is none: sums of sines, with areas that fit no path. Any callable will
    do."""

    levy_area_approximation = "foster"

    def __init__(self, m, seed=0, batch=B):
        r = torch.Generator().manual_seed(seed)
        self.shape, self.phase = (batch, m), 6 * torch.rand(batch, m, generator=r, **WIDE)

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        w = torch.sin(3 * tb + self.phase) - torch.sin(3 * ta + self.phase)
        u = (tb - ta) * (0.5 * w + 0.1 * torch.cos(2 * ta + self.phase))
        skew = torch.sin(self.phase[:, :, None] - 2 * self.phase[:, None])
        a = (tb - ta) * (skew - skew.mT)
        out = [w, *([u] if return_U else []), *([a] if return_A else [])]
        return out[0] if len(out) == 1 else tuple(out)


def flat(answer):
    """All tensors of what sdeint returned."""
    return (
        [answer] if isinstance(answer, torch.Tensor) else [x for part in answer for x in flat(part)]
    )


def gap(ours, theirs):
    """The largest difference."""
    pairs = list(zip(flat(ours), flat(theirs), strict=True))
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
