"""Masks and weights of numbers: every loss of squares is that of the numbers that count."""

import pytest
import torch

import odesolve as ode
from odesolve import trace
from odesolve.objectives import (
    BridgeMatching,
    Consistency,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    DenoisingScoreMatching,
    DiffFlow,
    ExplicitScoreMatching,
    FlowMap,
    GuidedDistillation,
    Hybrid,
    ImplicitScoreMatching,
    Interpolant,
    Matching,
    MaximumLikelihood,
    MeanFlow,
    ProgressiveDistillation,
    ScoreAndFlow,
    Shortcut,
    SlicedScoreMatching,
    TrigConsistency,
    TwoSided,
    VariationalBound,
    bridges,
)
from odesolve.objectives.consistency import pseudo_huber
from odesolve.objectives.draws import keys_for
from tests.rows import rows

LINEAR = ode.paths.Linear()
X = torch.randn(6, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def model(predicts="velocity", path=LINEAR):
    return ode.Model(lambda x, t, **cond: 0.4 * x, path, predicts)


CARRIED = Consistency(model("edm", ode.paths.EDM()))
MAP = FlowMap(lambda x, r, t, **cond: 0.4 * x * torch.cos(t - r).view(-1, 1, 1), LINEAR)
# What is done with each number by itself, so that a mask leaves the loss of those it keeps.
LOSSES = {
    "Matching": Matching(model("noise", ode.paths.VP()), "data"),
    "Matching by importance": Matching(model("v"), times="logit_normal", importance=True),
    "TwoSided": lambda x, **k: TwoSided(model(), 0.1)(x, x + 1, **k),
    "Interpolant": lambda x, **k: Interpolant(
        model(), bridges.sine_squared(1.0), model("noise"), antithetic=True
    )(x, x + 1, **k),
    "BridgeMatching": lambda x, **k: BridgeMatching(model("data"), 1.0)(x, x + 1, **k),
    "ScoreAndFlow": lambda x, **k: ScoreAndFlow(model(), model("score"), 1.0)(x, x + 1, **k),
    "MeanFlow": MeanFlow(MAP),
    "MeanFlow of the mean": MeanFlow(MAP, power=0.5, of="mean"),
    "Shortcut": Shortcut(MAP, share=0.5),
    "ProgressiveDistillation": ProgressiveDistillation(model(), model("v"), "uniform", 4),
    "ConsistencyTraining": ConsistencyTraining(CARRIED),
    "ConsistencyTraining by pseudo-Huber": ConsistencyTraining(CARRIED, distance=pseudo_huber()),
    "ConsistencyTraining by pseudo-Huber of .1": ConsistencyTraining(
        CARRIED, distance=pseudo_huber(0.1)
    ),
    "ConsistencyDistillation": ConsistencyDistillation(CARRIED, model("data", ode.paths.EDM())),
    "ContinuousConsistency": ContinuousConsistency(CARRIED),
    "TrigConsistency": TrigConsistency(model("v", ode.paths.Trig())),
    "DenoisingScoreMatching": DenoisingScoreMatching(model("noise", ode.paths.VP())),
    "ExplicitScoreMatching": ExplicitScoreMatching(model("v"), lambda x, t: -x),
    "ImplicitScoreMatching": ImplicitScoreMatching(model("v"), weight="noise"),
    "SlicedScoreMatching": SlicedScoreMatching(model("v")),
    "GuidedDistillation": lambda x, **k: GuidedDistillation(model(), model("v"), {"y": 0})(
        x, cond={"y": 1}, **k
    ),
}


def loss(name, x=X, noise=None, **options):
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(X.shape, dtype=torch.float64, generator=g) if noise is None else noise
    return LOSSES[name](x, noise=noise, generator=g, **options)


@rows("name", LOSSES)
def test_what_is_masked_does_not_count(name):
    """The loss of the first numbers alone, and gradients of the rest are 0."""
    mask = torch.arange(4) < 3
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(X.shape, dtype=torch.float64, generator=g)
    masked = loss(name, noise=noise, mask=mask)
    torch.testing.assert_close(
        masked.each, loss(name, X[..., :3], noise[..., :3]).each, rtol=1e-12, atol=0
    )
    other = torch.where(mask, X, 100.0)
    torch.testing.assert_close(
        loss(name, other, noise, mask=mask).each, masked.each, rtol=1e-12, atol=0
    )


SUMS = [name for name in LOSSES if "Score" in name and name != "ScoreAndFlow"]
OTHERS = ("MeanFlow", "Huber", "Trig")  # no means of squares


@rows("name", SUMS)
def test_sums_are_weighed(name):
    """Losses that are sums over the numbers: of weights 1 and 3 one part and three."""
    single = [loss(name, mask=torch.eye(4)[k]).each for k in (0, 1)]
    found = loss(name, mask=torch.tensor([1.0, 3.0, 0.0, 0.0])).each
    torch.testing.assert_close(found, single[0] + 3 * single[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        loss(name, mask=torch.full((1, 1, 1), 7.0)).each, 7 * loss(name).each, rtol=1e-12, atol=0
    )


def test_a_score_without_a_model():
    """s(x) of x itself: the weighted sum of s^2 / 2 and its own derivatives, projected or not."""
    x, weights = X.flatten(1), torch.linspace(0, 2, 8, dtype=torch.float64)
    score = lambda x: torch.sin(x) * x.cumsum(1)
    slopes = torch.func.vmap(torch.func.jacrev(lambda x: torch.sin(x) * x.cumsum(0)))(x)
    half = 0.5 * (weights * score(x).square()).sum(1)
    found = ImplicitScoreMatching(score)(x, mask=weights).each
    torch.testing.assert_close(
        found, half + (weights * slopes.diagonal(dim1=1, dim2=2)).sum(1), rtol=1e-12, atol=1e-12
    )
    g = lambda: torch.Generator().manual_seed(2)
    v = trace.Hutchinson(3).forms(x, keys_for(x, g())).z
    pushed = torch.einsum("kbi,i,bij,kbj->kb", v, weights, slopes, v).mean(0)
    reduced = SlicedScoreMatching(score, 3)(x, mask=weights, generator=g()).each
    torch.testing.assert_close(reduced, half + pushed, rtol=1e-12, atol=1e-12)
    whole = SlicedScoreMatching(score, 3, reduced=False)(x, mask=weights, generator=g()).each
    along = (v * weights.sqrt() * score(x)).sum(2).square().mean(0)
    torch.testing.assert_close(whole, 0.5 * along + pushed, rtol=1e-12, atol=1e-12)
    noise = torch.ones_like(x)
    denoised = DenoisingScoreMatching(score, 0.5)(x, noise=noise, mask=weights).each
    square = (score(x + 0.5 * noise) + noise / 0.5).square()
    torch.testing.assert_close(denoised, 0.5 * (weights * square).sum(1), rtol=1e-12, atol=1e-12)


def learned(x, t):
    return torch.cat([x, x], 1)


@rows("make", [
    lambda: VariationalBound(model("noise", ode.paths.VP()), steps=4), lambda: MaximumLikelihood(model()),
    lambda: Hybrid(ode.Model(learned, ode.paths.VP(), "noise", learned_variance=True), steps=4),
    lambda: DiffFlow(lambda x, t: x, lambda x, t: -x, 1.0, [0.0, 1.0]),
])  # fmt: skip
def test_bounds_and_densities_are_of_all_numbers(make):
    with pytest.raises(
        ode.OdesolveError,
        match=r"has no mask=: a bound or "
        r"density.*Matching\(model\)\(x, mask=...\)",
    ):
        make()(X, mask=torch.ones(4))


def test_distances_without_a_mask():
    objective = ConsistencyTraining(CARRIED, distance=lambda a, b: (a - b).abs().flatten(1).sum(1))
    assert torch.isfinite(objective(X).loss)
    with pytest.raises(ode.OdesolveError, match=r"give distance= a function \(a, b, mask\)"):
        objective(X, mask=torch.ones(4))


@rows("name", [k for k in LOSSES if k not in SUMS and not any(word in k for word in OTHERS)])
def test_weights_are_of_the_squares(name):
    """Of weights 1 and 3 the loss is the mean of the halves, one and three parts of four; that of
    equal weights the plain one."""
    weights = torch.tensor([1.0, 3.0, 0.0, 0.0])
    single = [loss(name, mask=torch.eye(4)[k]).each for k in (0, 1)]
    torch.testing.assert_close(
        loss(name, mask=weights).each, 0.25 * single[0] + 0.75 * single[1], rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        loss(name, mask=torch.full((1, 1, 1), 7.0)).each, loss(name).each, rtol=1e-12, atol=0
    )


def test_the_offset_of_meanflow_is_of_what_counts():
    x = torch.zeros(2, 8, dtype=torch.float64)
    flat = FlowMap(lambda x, r, t: 0.01 + 0 * x, LINEAR)
    t = torch.full((2,), 0.5)
    found = MeanFlow(flat)(x, noise=x, r=t, t=t, mask=torch.arange(8) < 3)
    torch.testing.assert_close(
        found.each, torch.full((2,), 3e-4 / (3e-4 + 1e-3), dtype=torch.float64)
    )


@rows("name", LOSSES)
@rows(
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
