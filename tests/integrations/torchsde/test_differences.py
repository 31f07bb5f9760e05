"""Where torchsde and its own documentation, or the mathematics, part: what is done here."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from odesolve.integrations import torchsde as ours

from .equations import WIDE, Equation, Smooth, start

torchsde = pytest.importorskip("torchsde")
SAMPLES = 1000
UNIT = torch.tensor([0.0, 1.0], **WIDE)


class Sheared:
    """dy = B y o dW with B = ((0, 1), (0, 0)), solved by y + W B y."""

    noise_type, sde_type = "scalar", "stratonovich"

    def f(self, t, y):
        return 0 * y

    def g(self, t, y):
        return torch.stack([y[:, 1], 0 * y[:, 1]], 1).unsqueeze(-1)


@torch.no_grad()
def test_milstein_with_scalar_noise():
    """Theirs multiplies g by the transposed Jacobian, and comes to another solution."""
    y0 = torch.ones(SAMPLES, 2, **WIDE)
    bm = ours.BrownianInterval(size=(SAMPLES, 1), entropy=2, **WIDE)
    exact = y0 + bm(0.0, 1.0) * torch.tensor([1.0, 0.0], **WIDE)
    call = {"bm": bm, "method": "milstein", "dt": 1 / 128}
    assert torch.allclose(
        ours.sdeint(Sheared(), y0, UNIT, **call), torch.stack([y0, exact]), atol=1e-12
    )
    assert float((torchsde.sdeint(Sheared(), y0, UNIT, **call)[-1] - exact).square().mean()) > 0.1


def test_the_variance_of_levy_areas():
    """h^2/4; theirs is a third more by Davie's approximation and an eighth less by Foster's."""
    found = {}
    for lib in (ours, torchsde):
        for kind in ("davie", "foster"):
            bm = lib.BrownianInterval(
                size=(40_000, 2), entropy=1, levy_area_approximation=kind, **WIDE
            )
            found[lib.__name__, kind] = 4 * float(bm(0.0, 1.0, return_A=True)[1][:, 0, 1].var())
    assert [found[ours.__name__, k] for k in ("davie", "foster")] == pytest.approx([1, 1], rel=0.03)
    assert [found["torchsde", k] for k in ("davie", "foster")] == pytest.approx(
        [4 / 3, 0.876], rel=0.03
    )


def test_the_reversible_gradient_between_steps():
    """Outputs that lie between steps: theirs warns and is off by percents."""
    eq, ts = Equation("general", "stratonovich", 1), torch.tensor([0.0, 0.13, 0.5], **WIDE)

    def gradient(solve):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The spacing between time points")
            ys = solve(eq, start(), ts, bm=Smooth(3), method="reversible_heun", dt=0.05)
        return torch.autograd.grad(ys.square().sum(), eq.b)[0]

    exact = gradient(torchsde.sdeint)
    assert torch.allclose(gradient(ours.sdeint_adjoint), exact, rtol=1e-11)
    assert float((gradient(torchsde.sdeint_adjoint) - exact).abs().max() / exact.abs().max()) > 1e-3


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("milstein", 1.0), ("srk", 1.5)])
def test_strong_orders(method, order):
    """On geometric Brownian motion, by the default path of the adapter."""

    class Geometric:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return 0.5 * y

        def g(self, t, y):
            return 0.8 * y

    y0 = torch.ones(SAMPLES, 1, **WIDE)
    bm = ours.BrownianInterval(
        size=(SAMPLES, 1), entropy=3, levy_area_approximation="space-time", **WIDE
    )
    exact = torch.exp((0.5 - 0.32) + 0.8 * bm(0.0, 1.0))
    steps = (8, 16, 32, 64)
    errors = []
    for n in steps:
        ys = ours.sdeint(Geometric(), y0, UNIT, bm=bm, method=method, dt=1 / n)
        errors.append(float((ys[-1] - exact).square().mean().sqrt()))
    assert -np.polyfit(np.log2(steps), np.log2(errors), 1)[0] == pytest.approx(order, abs=0.2)


@torch.no_grad()
def test_levy_areas_raise_the_order_of_general_noise():
    """Where columns of g do not commute: with the areas of the fine path, log_ode's is 1, and
    midpoint's 1/2."""

    class Crossed:
        noise_type, sde_type = "general", "stratonovich"

        def f(self, t, y):
            return 0 * y

        def g(self, t, y):
            return torch.diag_embed(y.flip(1))

    class Known(ours.BaseBrownian):
        """Areas summed up over 64 pieces of the step."""

        levy_area_approximation, shape = "foster", (SAMPLES, 2)

        def __init__(self):
            self.bm = ours.BrownianInterval(size=self.shape, entropy=5, **WIDE)

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            times = np.linspace(float(ta), float(tb), 65)
            rises = torch.stack([self.bm(*ends) for ends in itertools.pairwise(times)])
            before = torch.cumsum(rises, 0) - rises
            cross = (before[:, :, :, None] * rises[:, :, None, :]).sum(0)
            return rises.sum(0), 0.5 * (cross - cross.mT)

    path, y0 = Known(), torch.tensor([[1.0, -0.5]], **WIDE).expand(SAMPLES, 2).contiguous()
    fine = ours.sdeint(Crossed(), y0, UNIT, bm=path.bm, method="heun", dt=1 / 2048)[-1]
    for method, bm, order in (("log_ode", path, 1.0), ("midpoint", path.bm, 0.5)):
        ends = [
            ours.sdeint(Crossed(), y0, UNIT, bm=bm, method=method, dt=1 / n)[-1] for n in (4, 8, 16)
        ]
        errors = [float((y - fine).square().mean().sqrt()) for y in ends]
        assert -np.polyfit([2, 3, 4], np.log2(errors), 1)[0] == pytest.approx(order, abs=0.2)
