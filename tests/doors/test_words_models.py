"""The field's words for predictions, laws of times, weights, couplings and optimisers; and the
order that functions take t in."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve import objectives, paths
from odesolve.errors import OdesolveError
from odesolve.integrations.torchdiffeq import odeint
from odesolve.objectives import OptimalTransport, Sinkhorn, times
from odesolve.objectives.weights import of_data
from odesolve.paths import PREDICTIONS
from odesolve.training import fit
from odesolve.training.optimisers import KINDS
from tests.rows import rows

VP, LINEAR, EDM = paths.VP(), paths.Linear(), paths.EDM()
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WORDS = {
    **{word: word for word in PREDICTIONS},
    **dict.fromkeys(
        ("epsilon", "eps", "EPS", "Epsilon", "noise_prediction", "eps_pred", "pred_noise"), "noise"
    ),
    **dict.fromkeys(("x0", "x_0", "x_start", "x-start", "sample", "X0", "pred_x0"), "data"),
    **dict.fromkeys(("v_prediction", "v-prediction", "V Prediction", "v_pred", "pred_v"), "v"),
    **dict.fromkeys(("flow", "flow_prediction", "Velocity", "flow-prediction"), "velocity"),
}
SLIPS = {"epsilom": "epsilon", "velocty": "velocity", "x_strat": "x_start", "nois": "noise"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        return self.scale * x


def net(x, t):
    return 0.5 * x


@rows(("word", "ours"), WORDS.items())
def test_predictions_by_other_words(word, ours):
    a, b = (ode.Model(net, VP, w) for w in (word, ours))
    assert a.predicts == b.predicts == ours
    assert torch.equal(ode.sample(a, X, "ddim", 4), ode.sample(b, X, "ddim", 4))


@rows(("word", "near"), SLIPS.items())
def test_slips_of_predictions(word, near):
    with pytest.raises(OdesolveError, match=f"unknown prediction '{word}': did you mean '{near}'"):
        ode.Model(net, VP, word)


MODEL = ode.Model(Net(), VP, "noise")
LAWS = {
    "uniform": times.Uniform(),
    "Logit_Normal": times.LogitNormal(),
    "logit-normal(mean=0.5)": times.LogitNormal(0.5),
    "lognormal": times.LogNormal(),
    "mode(scale=1.0)": times.Mode(1.0),
    "cosmap": times.CosMap(),
    "log_uniform": times.LogUniform(),
    "uniform(low=0.1,stratified)": times.Uniform(0.1, stratified=True),
}
OBJECTIVES = {
    "Matching": lambda **given: objectives.Matching(MODEL, **given),
    "DenoisingScoreMatching": lambda **given: objectives.DenoisingScoreMatching(MODEL, **given),
    "GuidedDistillation": lambda **given: objectives.GuidedDistillation(MODEL, MODEL, {}, **given),
    "TwoSided": lambda **given: objectives.TwoSided(
        ode.Model(net, LINEAR, "velocity"), 0.1, **given
    ),
    "Shortcut": lambda **given: objectives.Shortcut(objectives.FlowMap(Net(), LINEAR), **given),
    "MeanFlow": lambda **given: objectives.MeanFlow(objectives.FlowMap(Net(), LINEAR), **given),
}


@rows("objective", OBJECTIVES)
@rows("name", LAWS)
def test_laws_of_times_by_name(objective, name):
    assert OBJECTIVES[objective](times=name).times == LAWS[name]


@rows("objective", OBJECTIVES)
@rows(
    ("given", "said"),
    [
        ("logit_normel", "unknown times 'logit_normel': did you mean 'logit_normal'"),
        ("uniform(lo=1)", "uniform takes low, not 'lo'"),
        (3, "times is 3: give a name such as 'uniform', or a law"),
        (times.LogNormal, r"times is the class LogNormal: give an object of it, LogNormal\("),
    ],
)
def test_unknown_laws_are_refused_at_construction(objective, given, said):
    with pytest.raises(OdesolveError, match=said):
        OBJECTIVES[objective](times=given)


def loss(**given):
    return objectives.Matching(MODEL, **given)(
        X, generator=torch.Generator().manual_seed(1)
    ).loss.detach()


WEIGHTS = {
    "snr": "noise",
    "epsilon": "noise",
    "simple": "noise",
    "x0": "data",
    "v-prediction": "v",
    "elbo": "vlb",
}
WEIGHTS |= {"Min_SNR": "min_snr(5)", "truncated_snr": "max_snr", "uniform": None}


@rows(("word", "ours"), WEIGHTS.items())
def test_weights_by_other_words(word, ours):
    assert float(loss(weight=word)) == pytest.approx(float(loss(weight=ours)), rel=1e-6)


def test_the_weight_of_snr_is_the_snr():
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        of_data(VP, t, "snr", 0.5), torch.exp(2 * VP.lam(t)), rtol=1e-13, atol=0
    )
    assert torch.allclose(of_data(VP, t, "noise", 0.5), torch.exp(2 * VP.lam(t)), rtol=1e-12)


LEARNED = ode.Model(net, paths.Discrete.ddpm(), "noise", learned_variance=True)
TAKES_A_NAME = {
    **{
        name: OBJECTIVES[name]
        for name in ("Matching", "DenoisingScoreMatching", "GuidedDistillation")
    },
    "Hybrid": lambda **given: objectives.Hybrid(LEARNED, **given),
    "ProgressiveDistillation": lambda **given: objectives.ProgressiveDistillation(
        MODEL, MODEL, "uniform", 4, **given
    ),
}


@rows("objective", TAKES_A_NAME)
@rows(
    ("given", "said"),
    [
        ("snrr", "unknown weight 'snrr': did you mean 'snr'"),
        ("min_snr(x)", "unknown weight"),
        ("min_snr(5..)", "unknown weight"),
        (3, r"weight is 3: give a function \(path, t\)"),
        (lambda t, path: t, r"weight takes \(t, path\), and is called as weight\(path, t\)"),
    ],
)
def test_unknown_weights_are_refused_at_construction(objective, given, said):
    with pytest.raises(OdesolveError, match=said):
        TAKES_A_NAME[objective](weight=given)


CONSISTENCY = objectives.Consistency(ode.Model(net, EDM, "edm"))
FUNCTIONS_ALONE = [
    OBJECTIVES["TwoSided"],
    lambda **given: objectives.ConsistencyTraining(CONSISTENCY, **given),
    lambda **given: objectives.ContinuousConsistency(CONSISTENCY, **given),
]


@rows("make", FUNCTIONS_ALONE)
def test_weights_that_are_functions_alone(make):
    with pytest.raises(OdesolveError, match="weight is 'snr': give a function"):
        make(weight="snr")


def test_couplings_by_name():
    assert isinstance(
        objectives.Matching(MODEL, coupling="optimal_transport").coupling, OptimalTransport
    )
    assert objectives.Matching(MODEL, coupling="Sinkhorn(reg=0.5)").coupling == Sinkhorn(0.5)
    for given, said in (
        (
            "optimal_transprot",
            "unknown coupling 'optimal_transprot': did you mean 'optimal_transport'",
        ),
        ("sinkhorn", r"give sinkhorn\(reg="),
        (2, "coupling is 2: give a name"),
    ):
        for make in (OBJECTIVES["Matching"], OBJECTIVES["TwoSided"]):
            with pytest.raises(OdesolveError, match=said):
                make(coupling=given)


def trained(**given):
    model = ode.Model(Net(), VP, "noise")
    fit(objectives.Matching(model), X, 3, generator=torch.Generator().manual_seed(0), **given)
    return float(model.net.scale.detach())


def test_optimisers_by_name_and_in_both_spellings():
    model = ode.Model(Net(), VP, "noise")
    adam = torch.optim.AdamW(model.net.parameters(), lr=0.01)
    fit(
        objectives.Matching(model), X, 3, generator=torch.Generator().manual_seed(0), optimiser=adam
    )
    wanted = float(model.net.scale.detach())
    assert (
        trained(optimizer="AdamW(lr=0.01)") == trained(optimiser="adamw(lr=0.01)") == wanted != 0.5
    )
    assert "adam" in KINDS
    for given, said in (
        ({"optimizer": "adma"}, "unknown optimiser 'adma': did you mean 'adam'"),
        ({"optimizer": "adam(lrr=1)"}, "adam takes lr, not 'lrr'"),
        ({}, r"optimiser is None: give one of torch\.optim"),
        ({"optimiser": "adam", "optimizer": "sgd"}, "are one argument"),
    ):
        with pytest.raises(OdesolveError, match=said):
            trained(**given)


Y = torch.ones(2, 3)


def turned(y, t):
    return -y


def still(t, y):
    return -y


SWAPPED = {
    "solve": lambda: ode.solve(turned, Y),
    "solve by steps": lambda: ode.solve(turned, Y, solver="rk4", steps=3),
    "solve_sde f": lambda: ode.solve_sde(turned, still, Y),
    "solve_sde g": lambda: ode.solve_sde(still, turned, Y),
    "log_prob": lambda: ode.log_prob(turned, Y),
    "event": lambda: ode.solve(still, Y, events=ode.Event(lambda y, t: y[:, 0])),
    "odeint": lambda: odeint(turned, Y, torch.tensor([0.0, 1.0])),
    "net": lambda: ode.Model(still, VP, "noise"),
    "time": lambda: ode.Model(net, VP, "noise", time=lambda t, path: t),
    "classifier": lambda: MODEL.classifier_guided(lambda t, x: x.flatten(1).sum(1)),
}


@rows("name", SWAPPED)
def test_functions_the_other_way_round_are_refused(name):
    with pytest.raises(
        OdesolveError,
        match=r"takes \(\w+, \w+\), and is called as \w+\(\w+, \w+\): swap its "
        r"arguments",
    ):
        SWAPPED[name]()


def sampled(f, x=X):
    return ode.sample(ode.Model(f, VP, "v"), x)


def behind(t, y):
    return torch.cat([t, y], 1)


SPAN = torch.tensor([0.0, 1.0])
ONES, FLAT, NONE = "t.view(-1, 1, 1, 1)", "t.flatten()", "t has no dimensions"
FAILING = [
    ("net", lambda: sampled(lambda x, t: x * t, X[..., :7]), "t has one number per sample", ONES),
    (
        "net cat",
        lambda: sampled(lambda x, t: torch.cat([x, t], 1)),
        "x of shape (4, 3, 8, 8) and t of shape (4,)",
        ONES,
    ),
    ("net of x", lambda: sampled(lambda x: x), "called as net(x, t)", "model.given("),
    (
        "net's shape",
        lambda: sampled(lambda x, t: x * t, X[:, :1, :1, :1]),
        "t is of shape (4,)",
        ONES,
    ),
    (
        "solve",
        lambda: ode.solve(behind, X),
        "t of shape (4, 1, 1, 1) and y of shape (4, 3, 8, 8)",
        FLAT,
    ),
    (
        "one system",
        lambda: ode.solve(lambda t, y: y * t[:, None], Y[0]),
        "t of shape () and y of shape (3,)",
        NONE,
    ),
    ("solve of y", lambda: ode.solve(lambda y: -y, Y), "called as f(t, y)", "args="),
    ("steps", lambda: ode.solve(behind, X, solver="rk4", steps=2), "t of shape (4, 1, 1, 1)", FLAT),
    (
        "solve_sde",
        lambda: ode.solve_sde(behind, 1.0, X, noise="additive"),
        "t of shape (4, 1, 1, 1)",
        FLAT,
    ),
    ("solve_sde g", lambda: ode.solve_sde(still, behind, X), "g failed", FLAT),
    (
        "log_prob",
        lambda: ode.log_prob(lambda t, x: torch.cat([t, x]), Y),
        "t of shape (2, 1)",
        FLAT,
    ),
    (
        "shape",
        lambda: ode.solve(lambda t, y: t, Y),
        "f returned (2, 1) for a state (2, 3)",
        "with ones behind it",
    ),
    ("odeint", lambda: odeint(behind, Y, SPAN), "t of shape ()", NONE),
]


@rows(("call", "shapes", "cure"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING])
def test_functions_that_fail_on_the_shape_of_t_are_told_it(call, shapes, cure):
    with pytest.raises(OdesolveError) as told:
        call()
    assert shapes in str(told.value)
    assert cure in str(told.value)


OTHERS = [
    RuntimeError("out of luck"),
    TypeError("mine"),
    KeyError("key"),
    ValueError("no"),
    IndexError("end"),
]


@rows("error", OTHERS, ids=lambda e: type(e).__name__)
def test_other_errors_of_functions_stay_theirs(error):
    def f(t, y):
        raise error

    def network(x, t):
        raise error

    for call in (lambda: ode.solve(f, Y), lambda: sampled(network)):
        with pytest.raises(type(error), match=re.escape(str(error))) as told:
            call()
        assert told.value is error


def test_names_that_say_nothing_of_the_order_are_taken():
    assert ode.solve(lambda a, b: -b, Y).ok
    assert ode.solve(lambda *given: -given[1], Y).ok
    assert ode.solve(lambda t, x: -x, Y).ok
    assert sampled(lambda a, b: a).shape == X.shape
