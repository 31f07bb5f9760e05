"""Masks and weights of numbers: every loss of squares is that of the numbers that count."""

import pytest
import torch

import odesolve as ode
from odesolve.objectives import (
    BridgeMatching,
    FlowMap,
    GuidedDistillation,
    Interpolant,
    Matching,
    MeanFlow,
    ProgressiveDistillation,
    ScoreAndFlow,
    Shortcut,
    TwoSided,
    bridges,
)

LINEAR = ode.paths.Linear()
X = torch.randn(6, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model(predicts="velocity", path=LINEAR):
    return ode.Model(lambda x, t, **cond: 0.4 * x, path, predicts)


MAP = FlowMap(lambda x, r, t, **cond: 0.4 * x * torch.cos(t - r).view(-1, 1, 1), LINEAR)
# What is done with each number by itself, so that a mask leaves the loss of those it keeps.
LOSSES = {
    "Matching": Matching(model("noise", ode.paths.VP()), "data"),
    "Matching by importance": Matching(model("v"), times="logit_normal", importance=True),
    "TwoSided": lambda x, **k: TwoSided(model(), 0.1)(x, x + 1, **k),
    "Interpolant": lambda x, **k: Interpolant(model(), bridges.sine_squared(1.0), model("noise"), antithetic=True)(
        x, x + 1, **k
    ),
    "BridgeMatching": lambda x, **k: BridgeMatching(model("data"), 1.0)(x, x + 1, **k),
    "ScoreAndFlow": lambda x, **k: ScoreAndFlow(model(), model("score"), 1.0)(x, x + 1, **k),
    "MeanFlow": MeanFlow(MAP),
    "MeanFlow of the mean": MeanFlow(MAP, power=0.5, of="mean"),
    "Shortcut": Shortcut(MAP, share=0.5),
    "ProgressiveDistillation": ProgressiveDistillation(model(), model("v"), "uniform", 4),
    "GuidedDistillation": lambda x, **k: GuidedDistillation(model(), model("v"), {"y": 0})(x, cond={"y": 1}, **k),
}


def loss(name, x=X, noise=None, **options):
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(X.shape, dtype=torch.float64, generator=g) if noise is None else noise
    return LOSSES[name](x, noise=noise, generator=g, **options)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_masked_does_not_count(name):
    """The loss of the first numbers alone, and gradients of the rest are 0."""
    mask = torch.arange(4) < 3
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(X.shape, dtype=torch.float64, generator=g)
    masked = loss(name, noise=noise, mask=mask)
    torch.testing.assert_close(masked.each, loss(name, X[..., :3], noise[..., :3]).each, rtol=1e-12, atol=0)
    other = torch.where(mask, X, 100.0)
    torch.testing.assert_close(loss(name, other, noise, mask=mask).each, masked.each, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [k for k in LOSSES if "MeanFlow" not in k])
def test_weights_are_of_the_squares(name):
    """Of weights 1 and 3 the loss is the mean of the halves, one and three parts of four; that of equal weights the plain one."""
    weights = torch.tensor([1.0, 3.0, 0.0, 0.0])
    single = [loss(name, mask=torch.eye(4)[k]).each for k in (0, 1)]
    torch.testing.assert_close(loss(name, mask=weights).each, 0.25 * single[0] + 0.75 * single[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(name, mask=torch.full((1, 1, 1), 7.0)).each, loss(name).each, rtol=1e-12, atol=0)


def test_the_offset_of_meanflow_is_of_what_counts():
    x = torch.zeros(2, 8, dtype=torch.float64)
    flat = FlowMap(lambda x, r, t: 0.01 + 0 * x, LINEAR)
    t = torch.full((2,), 0.5)
    found = MeanFlow(flat)(x, noise=x, r=t, t=t, mask=torch.arange(8) < 3)
    torch.testing.assert_close(found.each, torch.full((2,), 3e-4 / (3e-4 + 1e-3), dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.ones(3), r"mask has shape \(3,\): give one that broadcasts to \(6, 2, 4\)"),
        (torch.zeros(4), "leaves nothing of a sample"),
        (torch.tensor([True] * 5 + [False]).view(6, 1, 1), "leaves nothing of a sample"),
        (-torch.ones(4), "negative"),
        (torch.full((4,), float("inf")), "infinite"),
        ([True] * 4, "give a tensor of booleans or weights"),
    ],
)
def test_masks_that_do_not_fit(name, mask, told):
    with pytest.raises(ode.OdesolveError, match=told):
        loss(name, mask=mask)
