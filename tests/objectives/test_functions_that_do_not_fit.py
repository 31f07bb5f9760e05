"""Functions of the wrong number of arguments are refused where an objective is made, not where it
is first called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve import objectives, training
from odesolve.errors import OdesolveError
from odesolve.objectives import bridges, rectified, schroedinger
from tests.rows import rows

NET = nn.Linear(2, 2)
X = torch.ones(4, 2)
VP, LINEAR, EDM = (
    ode.Model(lambda x, t: NET(x), path, predicts)
    for path, predicts in (
        (ode.paths.VP(), "noise"),
        (ode.paths.Linear(), "velocity"),
        (ode.paths.EDM(), "edm"),
    )
)
CONSISTENCY = objectives.Consistency(EDM)
OPTIMISER = torch.optim.SGD(NET.parameters(), 0.1)


def wrong(*anything, of_many_names, that_are_needed):
    """A function that nobody here calls."""


def one(a):
    return a


def none():
    return 1


MADE = {
    "times of Matching": ("times", lambda f: objectives.Matching(VP, times=f)),
    "coupling of Matching": ("coupling", lambda f: objectives.Matching(VP, coupling=f)),
    "weight of Matching": ("weight", lambda f: objectives.Matching(VP, weight=f)),
    "times of Interpolant": (
        "times",
        lambda f: objectives.Interpolant(LINEAR, bridges.brownian(1.0), times=f),
    ),
    "weight of Interpolant": (
        "weight",
        lambda f: objectives.Interpolant(LINEAR, bridges.brownian(1.0), weight=f),
    ),
    "coupling of Interpolant": (
        "coupling",
        lambda f: objectives.Interpolant(LINEAR, bridges.brownian(1.0), coupling=f),
    ),
    "times of ContinuousConsistency": (
        "times",
        lambda f: objectives.ContinuousConsistency(CONSISTENCY, times=f),
    ),
    "weight of ContinuousConsistency": (
        "weight",
        lambda f: objectives.ContinuousConsistency(CONSISTENCY, weight=f),
    ),
    **{
        f"{name} of ConsistencyTraining": (
            name,
            lambda f, name=name: objectives.ConsistencyTraining(CONSISTENCY, **{name: f}),
        )
        for name in ("target", "distance", "weight", "chances")
    },
    "fit of halve": ("fit", lambda f: objectives.halve(VP, "uniform", f, steps=4)),
    "fit of reflow": ("fit", lambda f: rectified.reflow(LINEAR, f, X)),
    "noise of reflow": ("noise", lambda f: rectified.reflow(LINEAR, lambda model, x, z: model, f)),
    "fit of imf": ("fit", lambda f: schroedinger.imf(f, X, X, 1)),
    "fit of ipf": ("fit", lambda f: schroedinger.ipf(f, one, X, X, 1)),
    "reference of ipf": (
        "reference",
        lambda f: schroedinger.ipf(lambda states, end: one, f, X, X, 1),
    ),
    "mean of chain": ("mean", lambda f: schroedinger.chain(f, X, torch.ones(2))),
    "mean of mean_matching": ("mean", lambda f: schroedinger.mean_matching(torch.ones(3, 4, 2), f)),
    "drift of DiffFlow": (
        "drift",
        lambda f: objectives.DiffFlow(f, lambda x, t: x, 1.0, [0.0, 1.0]),
    ),
    "score of DiffFlow": (
        "score",
        lambda f: objectives.DiffFlow(lambda x, t: x, f, 1.0, [0.0, 1.0]),
    ),
    "g of DiffFlow": (
        "g",
        lambda f: objectives.DiffFlow(lambda x, t: x, lambda x, t: x, f, [0.0, 1.0]),
    ),
    "value of Gamma": ("value", lambda f: bridges.Gamma(f, one)),
    "slope of Gamma": ("slope", lambda f: bridges.Gamma(one, f)),
    "sigma of sde": ("sigma", lambda f: bridges.sde(LINEAR, f)),
    "then of warm_up": ("then", lambda f: training.warm_up(OPTIMISER, 2, f)),
    "schedule of fit": (
        "schedule",
        lambda f: training.fit(objectives.Matching(VP), X, 1, network=NET, schedule=f),
    ),
    "after of fit": (
        "after",
        lambda f: training.fit(objectives.Matching(VP), X, 1, network=NET, after=f),
    ),
}


@rows("function", [none, wrong, lambda: 1, lambda a, b, c, d, e: a])
@rows("what", MADE)
def test_it_is_refused_at_once(what, function):
    argument, make = MADE[what]
    with pytest.raises(
        OdesolveError,
        match=rf"^{argument} is .*: give a function that is called "
        rf"as {argument}\(",
    ):
        make(function)


def test_importance_needs_a_density():
    with pytest.raises(
        OdesolveError,
        match=r"importance=True divides by the density of times.* give a law with "
        r"density",
    ):
        objectives.Matching(VP, times=lambda n, path, generator: torch.rand(n), importance=True)


def test_functions_that_fit_are_called():
    """Laws, couplings and weights of a user's own, with what else their signatures have."""
    found = objectives.Matching(
        VP,
        times=lambda n, path, generator=None: torch.full((n,), 0.5),
        coupling=lambda x, noise, *more: noise.flip(0),
        weight=lambda path, t, scale=2.0: scale * torch.ones_like(t),
    )(X)
    assert bool((found.t == 0.5).all())
    assert torch.isfinite(found.loss)


@rows(("word", "told"), [
    ("gradient_accumulation_steps", "give accumulate="), ("accumulate_grad_batches", "give accumulate="),
    ("ema_decay", r"give ema=training.EMA\(network, decay\)"), ("max_grad_norm", "give clip="),
    ("checkpoint_dir", "give folder="), ("mixed_precision", "give dtype=torch.bfloat16"),
    ("seed", r"give generator=torch.Generator\(\).manual_seed"), ("mask", r"give cond=\{'mask': "
                                                                          r"mask\}.*mask=cond\['mask'\]"),
    ("lr", "give optimiser='adamw"), ("epochs", "give steps="),
])  # fmt: skip
def test_words_of_other_trainers(word, told):
    with pytest.raises(OdesolveError, match=rf"training.fit has no {word}=: .*{told}"):
        training.fit(objectives.Matching(LINEAR), X, 1, optimiser=OPTIMISER, **{word: 1})


def test_a_mask_goes_along_as_it_is_said():
    """Each sample has its own row."""
    seen, inner, mask = [], objectives.Matching(LINEAR), torch.arange(1.0, 9.0).view(4, 2)

    def objective(x, *, generator, cond):
        seen.append((x, cond["mask"]))
        return inner(x, mask=cond["mask"], generator=generator)

    x = torch.arange(8.0).view(4, 2)
    training.fit(objective, x, 3, optimiser=OPTIMISER, batch=4, cond={"mask": mask})
    assert all(torch.equal(given + 1, weights) for given, weights in seen)
