"""torchsde's solvers on our Brownian path compute what ours compute."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode

torchsde = pytest.importorskip("torchsde")
STEPS = 16


class Equation:
    """A nonlinear equation in the form of torchsde."""

    def __init__(self, noise, calculus, spread):
        self.noise_type, self.sde_type, self.spread = noise, calculus, spread

    def f(self, t, y):
        return t - y**3

    def g(self, t, y):
        return self.spread(t, y)


class Path(torchsde.BaseBrownian):
    """Our path as torchsde asks for one."""

    shape = dtype = device = None
    levy_area_approximation = "space-time"

    def __init__(self, path):
        self.path, self.shape, self.dtype, self.device = (
            path,
            torch.Size(path.shape),
            path.dtype,
            path.device,
        )

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        s, t = float(ta), float(tb)
        if not return_U:
            return self.path(s, t)
        w, h = self.path(s, t, area=True)
        return w, (t - s) * (h + 0.5 * w)

    def __repr__(self):
        return "Path"


CASES = [
    ("euler_maruyama", "diagonal", "ito", "euler"),
    ("milstein", "diagonal", "ito", "milstein"),
    ("milstein", "diagonal", "stratonovich", "milstein"),
    ("stochastic_heun", "diagonal", "stratonovich", "heun"),
    ("euler_maruyama", "additive", "ito", "euler"),
    ("sra1", "additive", "ito", "srk"),
]


@pytest.mark.parametrize(("solver", "noise", "calculus", "method"), CASES)
def test_the_same_steps_on_the_same_path(solver, noise, calculus, method):
    """Milstein's diffusion is linear: there a difference is the derivative to rounding."""
    path = ode.BrownianPath((5, 3), seed=1, area=noise == "additive", dtype=torch.float64)
    y0 = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    if noise == "additive":
        ours, theirs = (
            lambda t: 0.5 + t,
            lambda t, y: (0.5 + t) * torch.eye(3, dtype=y.dtype).expand(5, 3, 3),
        )
    else:
        ours = theirs = lambda t, y: 0.3 * y + 0.1
    equation = Equation(noise, calculus, theirs)
    want = torchsde.sdeint(
        equation, y0, torch.tensor([0.0, 1.0]).double(), bm=Path(path), dt=1 / STEPS, method=method
    )
    sol = ode.solve_sde(
        equation.f, ours, y0, solver=solver, noise=noise, calculus=calculus, steps=STEPS, tree=path
    )
    assert torch.allclose(sol.last, want[-1], rtol=1e-10, atol=1e-12)
