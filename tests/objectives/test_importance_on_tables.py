"""Laws of times on tables: times of the table, their probabilities, and importance that follows the
loss itself."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import (
    DenoisingScoreMatching,
    GuidedDistillation,
    Levels,
    Matching,
    VariationalBound,
    times,
)
from odesolve.objectives.times import draw_times, relative
from tests.rows import rows

DDPM = ode.paths.Discrete.ddpm()
SHORT = ode.paths.Discrete(torch.linspace(0.95, 0.05, 10, dtype=torch.float64))
LAWS = {
    "table": times.Table(),
    "uniform": times.Uniform(),
    "part": times.Uniform(0.25, 0.75),
    "logit_normal": times.LogitNormal(0.5, 0.8),
    "mode": times.Mode(),
    "cosmap": times.CosMap(),
    "log_normal": times.LogNormal(),
    "log_uniform": times.LogUniform(0.3, 3.0),
    "levels": Levels.geometric(0.3, 3.0, 7),
    "importance": times.Importance(4, 2),
}
LAWS["importance"].update(
    (torch.arange(8, dtype=torch.float64) % 4 + 0.5) / 4,
    torch.tensor([1.0, 2.0, 3.0, 10.0]).repeat(2),
    ode.paths.VP(),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def net(x, t, **cond):
    return 0.1 * x


def objectives(path, law):
    model = ode.Model(net, path, "noise")
    return {
        "Matching": lambda x, **k: Matching(model, times=law)(x, **k),
        "DenoisingScoreMatching": lambda x, **k: DenoisingScoreMatching(model, times=law)(x, **k),
        "GuidedDistillation": lambda x, **k: GuidedDistillation(
            model, model, {"y": 0}, weight=None, times=law
        )(x, cond={"y": 1}, **k),
    }


@rows("path", [SHORT, SHORT.flipped()], ids=["table", "flipped"])
@rows("law", LAWS)
@rows("name", ["Matching", "DenoisingScoreMatching", "GuidedDistillation"])
def test_times_are_those_of_the_table(name, law, path):
    """Indices 0 to N - 1 as the network sees them, whole numbers."""
    t = objectives(path, LAWS[law])[name](torch.zeros(500, 2), generator=generator()).t
    index = (t if path is SHORT else 1 - t) * 10
    assert float((index - index.round()).abs().max()) < 1e-9
    assert index.round().min() >= 1
    assert index.round().max() <= 10


@rows("path", [SHORT, SHORT.flipped()], ids=["table", "flipped"])
@rows("law", LAWS)
def test_probabilities_are_those_of_the_draws(law, path):
    """Relative to equal ones: chi squared of 20000 draws, and a sum of 1 to rounding."""
    every = torch.arange(1, 11, dtype=torch.float64) / 10
    every = every if path is SHORT else 1 - every
    p = relative(LAWS[law], every, path) / 10
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    t = draw_times(LAWS[law], 20_000, path, generator(3))
    index = ((t if path is SHORT else 1 - t) * 10).round().long() - 1
    counts, there = torch.bincount(index, minlength=10).double(), p > 1e-12
    assert not counts[~there].any()
    chi = ((counts - 20_000 * p) ** 2 / (20_000 * p))[there].sum()
    assert float(chi) < there.sum() - 1 + 5 * math.sqrt(2 * int(there.sum()))


def test_uniform_times_on_a_table_are_the_table():
    torch.testing.assert_close(
        draw_times(times.Uniform(), 100, DDPM, generator(1)),
        times.Table()(100, DDPM, generator(1)),
        rtol=0,
        atol=1e-12,
    )


@rows("law", [k for k in LAWS if k not in ("part", "log_uniform", "levels", "log_normal")])
def test_importance_keeps_the_objective_of_the_table(law):
    """The mean over equally likely times of the exact losses of a network that says nothing: 1 for
    noise, whatever the law."""
    model = ode.Model(lambda x, t: 0 * x, SHORT, "noise")
    x = torch.zeros(40_000, 1, dtype=torch.float64)
    exact = float((SHORT.alpha(torch.arange(1, 11, dtype=torch.float64) / 10) ** 2).mean())
    found = Matching(
        model, weight=lambda path, t: path.alpha(t) ** 2, times=LAWS[law], importance=True
    )(x, generator=generator(2))
    assert abs(float(found.loss) - exact) < 4 * float(found.each.std()) / 200.0


def test_importance_by_default_changes_nothing():
    """Equal probabilities: the loss is that without, where it was a thousand times it."""
    model, x = ode.Model(net, DDPM, "noise"), torch.ones(50, 2, dtype=torch.float64)
    plain, weighed = (
        Matching(model, importance=on)(x, generator=generator(1)) for on in (False, True)
    )
    torch.testing.assert_close(weighed.each, plain.each, rtol=1e-12, atol=0)


@rows("path", [ode.paths.VP(), SHORT, ode.paths.Linear().flipped()], ids=["vp", "table", "flipped"])
def test_importance_settles_where_the_loss_is(path):
    """Losses .0099 and .9901 on the halves: probabilities are as they; by each, which was divided
    by them, .091 and .909."""
    law = times.Importance(2, 10, floor=0.0)

    def size(path, t):
        return torch.where(
            path.rho(t) > float(path.rho(torch.tensor(0.5, dtype=torch.float64))) + 1e-9,
            0.9901,
            0.0099,
        )

    objective = Matching(
        ode.Model(lambda x, t: 0 * x, path, "noise"), weight=size, times=law, importance=True
    )
    noise = torch.ones(200, 1, dtype=torch.float64)
    for step in range(30):
        terms = objective(torch.zeros_like(noise), noise=noise, generator=generator(step))
        law.update(terms.t, terms.raw, path)
    torch.testing.assert_close(
        law.probabilities, torch.tensor([0.0099, 0.9901], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_the_raw_loss_of_every_objective():
    """Beside each: without the factor of importance, and the same where there is none."""
    x = torch.ones(40, 2, dtype=torch.float64)
    law = times.LogitNormal(0.5, 1.0)
    model = ode.Model(net, ode.paths.VP(), "noise")
    terms = Matching(model, times=law, importance=True)(x, generator=generator(1))
    plain = Matching(model, times=law)(x, generator=generator(1))
    torch.testing.assert_close(terms.raw, plain.each, rtol=0, atol=0)
    torch.testing.assert_close(
        terms.each, plain.each / law.density(terms.t, ode.paths.VP()), rtol=1e-12, atol=0
    )
    assert plain.raw is plain.each
    bound = VariationalBound(ode.Model(net, SHORT, "noise"), importance=True)(
        x, generator=generator(1)
    )
    assert bound.raw is bound.term


def test_what_importance_cannot_divide_by():
    vp = ode.Model(net, ode.paths.VP(), "noise")
    with pytest.raises(ode.OdesolveError, match="has single times"):
        Matching(vp, times=Levels((0.1, 1.0)), importance=True)

    class Mine:
        density = staticmethod(lambda t, path: torch.ones_like(t))

        def __call__(self, n, path, generator=None):
            return torch.rand(n, generator=generator, dtype=torch.float64)

    Matching(vp, times=Mine(), importance=True)
    with pytest.raises(ode.OdesolveError, match="quantile"):
        Matching(ode.Model(net, SHORT, "noise"), times=Mine(), importance=True)
    Mine.quantile = staticmethod(lambda u, path: u)
    found = Matching(ode.Model(net, SHORT, "noise"), times=Mine(), importance=True)(
        torch.zeros(9, 2)
    )
    torch.testing.assert_close(found.raw, found.each, rtol=1e-9, atol=0)


@rows("law", [k for k in LAWS if k not in ("table", "levels", "importance")])
@rows(
    "path",
    [ode.paths.VP(), ode.paths.EDM(), ode.paths.Linear().flipped()],
    ids=lambda p: str(p)[:8],
)
def test_shares_are_integrals_of_densities(law, path):
    u = torch.tensor([0.1, 0.35, 0.8], dtype=torch.float64)
    t = LAWS[law].quantile(u, path)
    torch.testing.assert_close(LAWS[law].share(t, path), u, rtol=0, atol=1e-9)


def test_shares_of_importance():
    law, path = LAWS["importance"], ode.paths.VP()
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    middle = law.density(0.5 * (t[1:] + t[:-1]), path) / 40
    torch.testing.assert_close(
        law.share(t, path), torch.cat([t[:1], middle.cumsum(0)]), rtol=1e-12, atol=1e-12
    )


@rows("path", [ode.paths.VP(), ode.paths.Linear(0.1), ode.paths.Cosine(), ode.paths.VE().flipped()])
@rows("law", [times.LogUniform(0.2, 20.0), times.Uniform(0.1, 0.7)])
def test_ends_of_laws_have_a_density(law, path):
    """What is drawn there may lie beyond them by its rounding, and was divided by 0."""
    t = law.quantile(torch.tensor([0.0, 1e-17, 1 - 1e-16, 1.0], dtype=torch.float64), path)
    assert (law.density(t, path) > 0).all()
