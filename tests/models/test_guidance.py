"""Classifier-free and classifier guidance: the mix is exact in every prediction, and no call is
wasted."""

from __future__ import annotations

import torch

import odesolve as ode
from odesolve import paths
from odesolve.paths import PREDICTIONS
from odesolve.problems import Mixture
from tests.rows import rows

DTYPE = torch.float64
WEIGHTS, MEANS, STD = [0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], (0.3, 0.5)
ALL = ode.problems.mixture(WEIGHTS, MEANS, std=STD)
CLASSES = [ode.problems.mixture([1.0], MEANS[k : k + 1], std=STD[k]) for k in (0, 1)]
PATHS = [paths.VP(), paths.EDM(), paths.Linear(), paths.Trig(), paths.VP().flipped()]
WANTED = ("data", "noise", "score", "velocity", "v")


def noise(n=4, seed=0):
    return torch.randn(n, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


class Labelled:
    """The exact network of each class, of their mixture for label -1; counts its calls."""

    def __init__(self, path, predicts):
        self.nets = [p.model(path, predicts).net for p in (*CLASSES, ALL)]
        self.calls = 0

    def __call__(self, x, t, label):
        self.calls += 1
        labels = label if isinstance(label, torch.Tensor) else torch.full((x.shape[0],), label)
        rows = [self.nets[int(k)](x[i : i + 1], t[i : i + 1]) for i, k in enumerate(labels)]
        return torch.cat(rows)


def labelled(path, predicts, **options):
    net = Labelled(path, predicts)
    return net, ode.Model(
        net, path, predicts, time="c_noise" if predicts == "edm" else "t", **options
    )


def tensors(n=4):
    return {"label": torch.zeros(n, dtype=torch.long)}, {"label": torch.full((n,), 2)}


@rows("predicts", PREDICTIONS)
@rows("path", PATHS, ids=str)
def test_mix_is_the_same_in_every_prediction(path, predicts):
    """uncond + w (cond - uncond) of the exact quantities, whatever the network predicts."""
    _, model = labelled(path, predicts)
    guided = model.guided(3.0, *tensors())
    x, t = noise(), 0.5 * path.t_max
    for wanted in WANTED:
        cond = getattr(CLASSES[0].model(path, "v"), wanted)(x, t)
        uncond = getattr(ALL.model(path, "v"), wanted)(x, t)
        torch.testing.assert_close(
            getattr(guided, wanted)(x, t), uncond + 3 * (cond - uncond), rtol=1e-11, atol=1e-11
        )


def test_one_stacked_call_equals_two():
    """Tensors of the batch go through the network together, other arguments apart; the answer is
    the same."""
    path = paths.VP()
    net, model = labelled(path, "noise")
    stacked, apart = model.guided(3.0, *tensors()), model.guided(3.0, {"label": 0}, {"label": 2})
    for run, calls in ((stacked, 1), (apart, 2)):
        net.calls = 0
        run.data(noise(), 0.5)
        assert net.calls == calls
        net.calls = 0
        ode.sample(run, noise(), "dpmpp_2m", 5)
        assert net.calls == 5 * calls
    torch.testing.assert_close(
        stacked.data(noise(), 0.5), apart.data(noise(), 0.5), rtol=0, atol=1e-14
    )
    a, b = (ode.sample(m, noise(), "dpmpp_2m", 5) for m in (stacked, apart))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@rows(
    ("cond", "uncond", "calls"),
    [
        ({"label": torch.zeros(4)}, {"label": torch.ones(4)}, 1),
        ({"label": torch.zeros(4, 7)}, {"label": torch.ones(4, 7)}, 1),
        ({"label": torch.zeros(4)}, {"label": torch.ones(4), "extra": None}, 2),
        ({"label": torch.zeros(4, 7)}, {"label": torch.ones(4, 5)}, 2),
        ({"label": torch.zeros(4)}, {"label": torch.ones(4, dtype=DTYPE)}, 2),
        ({"label": torch.zeros(7)}, {"label": torch.ones(7)}, 2),  # no batch of 4
        ({"label": torch.tensor(0)}, {"label": torch.tensor(1)}, 2),
        ({"label": 0}, {"label": 1}, 2),
        ({"label": None}, {"label": None}, 1),
        ({}, {}, 1),
    ],
)
def test_what_can_be_stacked(cond, uncond, calls):
    seen = []

    def net(x, t, **given):
        seen.append(given)
        return x * 0

    ode.Model(net, paths.VP(), "v").guided(2.0, cond, uncond).data(noise(), 0.5)
    assert len(seen) == calls
    if calls == 2:
        assert seen == [cond, uncond]


def test_arguments_of_every_call_go_to_both_branches():
    seen = []

    def net(x, t, **given):
        seen.append(given)
        return x * 0

    model = ode.Model(net, paths.VP(), "v", cond={"size": 8, "label": -1})
    model.guided(2.0, {"label": 0}, {"label": 1}).data(noise(), 0.5)
    assert seen == [{"size": 8, "label": 0}, {"size": 8, "label": 1}]


def test_scale_one_is_the_conditional_model_and_calls_once():
    net, model = labelled(paths.VP(), "v")
    guided = model.guided(1.0, {"label": 0}, {"label": 2})
    assert guided.evaluations_per_call == 1
    want = CLASSES[0].data(noise(), paths.VP(), 0.5)
    torch.testing.assert_close(guided.data(noise(), 0.5), want, rtol=0, atol=1e-12)
    assert net.calls == 1
    assert model.guided(1.0, {"label": 0}).predicts == "v"
    assert model.guided(2.0, {"label": 0}, {"label": 2}).evaluations_per_call == 2


def test_guiding_leaves_the_model_alone():
    _, model = labelled(paths.VP(), "v", cond={"label": 2})
    model.guided(4.0, {"label": 0}, {"label": 2}, rescale=0.5).classifier_guided(
        lambda x, t: x.sum(1)
    )
    torch.testing.assert_close(
        model.data(noise(), 0.5), ALL.data(noise(), paths.VP(), 0.5), rtol=0, atol=1e-12
    )
    assert "cfg_rescale" not in model.functions


@rows("solver", ["ddim", "dpmpp_2m", "heun", "unipc_2", "ab3"])
@rows("path", [paths.VP(), paths.Linear()], ids=str)
def test_guidance_in_a_solve_equals_a_network_mixed_by_hand(solver, path):
    _, model = labelled(path, "velocity")
    guided = model.guided(3.0, {"label": 0}, {"label": 2})

    def mixed(x, t):
        return model.net(x, t, label=2) + 3 * (model.net(x, t, label=0) - model.net(x, t, label=2))

    got = ode.sample(guided, noise(), solver, 6, "uniform")
    want = ode.sample(ode.Model(mixed, path, "velocity"), noise(), solver, 6, "uniform")
    torch.testing.assert_close(got, want, rtol=0, atol=2e-12)


def test_interval():
    """Guided only where t_low <= t <= t_high; elsewhere one conditional call."""
    path = paths.VP()
    net, model = labelled(path, "noise")
    plain, guided = model.guided(1.0, {"label": 0}), model.guided(3.0, {"label": 0}, {"label": 2})
    inside = model.guided(3.0, {"label": 0}, {"label": 2}, interval=(0.3, 0.6))
    for t, want in ((0.29, plain), (0.3, guided), (0.5, guided), (0.6, guided), (0.61, plain)):
        torch.testing.assert_close(
            inside.data(noise(), t), want.data(noise(), t), rtol=0, atol=1e-13
        )
    net.calls = 0
    ode.sample(inside, noise(), "ddim", 10, "uniform")  # t = 1, 0.9, ..., 0.1: four of them inside
    assert net.calls == 14


@rows("rescale", [0.0, 0.7])
def test_interval_with_a_time_for_each_sample(rescale):
    path = paths.VP()
    _, model = labelled(path, "noise")
    inside = model.guided(3.0, {"label": 0}, {"label": 2}, interval=(0.3, 0.6), rescale=rescale)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=DTYPE)
    apart = torch.cat([inside.data(noise()[k : k + 1], float(t[k])) for k in range(4)])
    torch.testing.assert_close(inside.data(noise(), t), apart, rtol=0, atol=1e-13)


def test_rescale():
    """Lin et al. 2024, eq. 15 and 16, one sample at a time, on what the network predicts."""
    path = paths.VP()
    _, model = labelled(path, "v")
    x = noise()
    cond, uncond = (model.net(x, torch.full((4,), 0.5, dtype=DTYPE), label=k) for k in (0, 2))
    want = []
    for c, u in zip(cond, uncond, strict=True):
        mixed = u + 5 * (c - u)
        want.append(0.7 * mixed * (c.std() / mixed.std()) + 0.3 * mixed)
    guided = model.guided(5.0, {"label": 0}, {"label": 2}, rescale=0.7)
    torch.testing.assert_close(guided.v(x, 0.5), torch.stack(want), rtol=0, atol=1e-13)

    def by_hand(x, t):
        c, u = model.net(x, t, label=0), model.net(x, t, label=2)
        mixed = u + 5 * (c - u)
        return mixed * (0.7 * c.std(1, keepdim=True) / mixed.std(1, keepdim=True) + 0.3)

    got = ode.sample(guided, x, "dpmpp_2m", 5)
    torch.testing.assert_close(
        got, ode.sample(ode.Model(by_hand, path, "v"), x, "dpmpp_2m", 5), rtol=0, atol=1e-12
    )


def log_class(path, label):
    """log p(label | x_t), exactly, by Bayes' rule."""
    weight = torch.log(torch.tensor(WEIGHTS[label], dtype=DTYPE))
    return lambda x, t: CLASSES[label].log_prob(x, path, t) + weight - ALL.log_prob(x, path, t)


@rows("predicts", ["data", "noise", "v", "velocity", "score"])
@rows("path", PATHS, ids=str)
def test_classifier_guidance_at_scale_one_is_the_conditional_model(path, predicts):
    model = ALL.model(path, predicts).classifier_guided(log_class(path, 1))
    for u in (0.2, 0.5, 0.8):
        x, t = noise(), u * path.t_max
        for wanted in WANTED:
            want = getattr(CLASSES[1].model(path, "v"), wanted)(x, t)
            torch.testing.assert_close(getattr(model, wanted)(x, t), want, rtol=1e-10, atol=1e-10)


@rows("predicts", ["data", "noise", "velocity"])
@rows("solver", ["ddim", "dpmpp_2m", "heun", "ab2"])
@rows("path", [paths.VP(), paths.Linear()], ids=str)
def test_classifier_guidance_in_a_solve(path, solver, predicts):
    grid = [0.9, 0.7, 0.4, 0.2, 0.1]
    model = ALL.model(path, predicts).classifier_guided(log_class(path, 1))
    got = ode.sample(model, state=noise(), solver=solver, grid=grid)
    want = ode.sample(CLASSES[1].model(path, predicts), state=noise(), solver=solver, grid=grid)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_the_classifier_gets_its_conditions():
    """One label a sample, cut with the batch."""
    path, label = paths.VP(), torch.arange(len(noise())) % 2
    each = [log_class(path, k) for k in (0, 1)]
    by_label = lambda x, t, label: torch.where(label == 1, each[1](x, t), each[0](x, t))
    model = ALL.model(path, "noise").classifier_guided(by_label, 0.7, {"label": label})
    found = model.score(noise(), 0.5)
    for k in (0, 1):
        want = ALL.model(path, "noise").classifier_guided(each[k], 0.7).score(noise(), 0.5)
        torch.testing.assert_close(found[label == k], want[label == k], rtol=0, atol=1e-12)
    rows = torch.tensor([3, 0])
    torch.testing.assert_close(
        model.rows(rows, len(label)).score(noise()[rows], 0.5), found[rows], rtol=0, atol=1e-12
    )


def test_classifier_guidance_begins_inside_where_alpha_is_zero():
    """At alpha = 0 the shift of the data prediction is sigma^2/alpha times nothing: the grid starts
    at t_clip."""
    model = ALL.model(paths.Linear(), "velocity").classifier_guided(log_class(paths.Linear(), 0))
    x = ode.sample(model, noise(200), "heun", 60)
    assert float((x - torch.tensor(MEANS[0], dtype=DTYPE)).abs().max()) < 5 * STD[0]


def test_classifier_with_classifier_free_guidance():
    path = paths.VP()
    _, model = labelled(path, "noise")
    both = model.guided(3.0, {"label": 0}, {"label": 2}).classifier_guided(log_class(path, 1), 0.5)
    grad = CLASSES[1].score(noise(), path, 0.5) - ALL.score(noise(), path, 0.5)
    want = model.guided(3.0, {"label": 0}, {"label": 2}).score(noise(), 0.5) + 0.5 * grad
    torch.testing.assert_close(both.score(noise(), 0.5), want, rtol=0, atol=1e-11)
    final = ode.sample(both, noise(), "dpmpp_2m", 8)

    def score(x, t):
        return both.score(x, t)

    by_hand = ode.Model(score, path, "score")
    torch.testing.assert_close(
        final, ode.sample(by_hand, noise(), "dpmpp_2m", 8), rtol=0, atol=1e-9
    )


def test_limit_of_guided_gaussians():
    """cond N(m, s^2), uncond N(0, s^2): guided with w the ODE goes to N(w m, s^2)."""
    cond, uncond = (Mixture([1.0], [[m]], std=0.5) for m in (0.8, 0.0))
    path, w = paths.VP(), 2.5

    def net(x, t, which):
        return which.data(x, path, t)

    model = ode.Model(net, path, "data").guided(w, {"which": cond}, {"which": uncond})
    grid = ode.grids.Lambda(stop=1e-5, final=False)
    x = torch.linspace(-2, 2, 9, dtype=DTYPE)[:, None]
    alpha = float(path.alpha(1.0))
    start = w * alpha * 0.8 + x  # the guided marginal at t = 1 has mean w alpha m
    spread = (alpha**2 * 0.25 + float(path.sigma(1.0)) ** 2) ** 0.5
    out = ode.sample(model, state=start, solver="unipc_3", steps=200, grid=grid)
    torch.testing.assert_close(out, w * 0.8 + 0.5 * x / spread, rtol=0, atol=1e-4)
