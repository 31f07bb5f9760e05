"""Guidance scales that are tensors of one number a sample, or functions of time: each equal to a
network that mixes by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.fingerprints.fingerprint import fingerprint
from odesolve.lowering.lower import lower
from odesolve.run import Graph
from odesolve.run import run as run_plan
from tests.rows import rows

B, D = 5, 6
DRAWN = torch.Generator().manual_seed(0)
W = torch.randn(D, D, generator=DRAWN, dtype=torch.float64) / D**0.5
X = torch.randn(B, D, generator=DRAWN, dtype=torch.float64)
Y, NONE = torch.linspace(0.3, 2.0, B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
EACH = torch.tensor([1.0, 2.5, 0.0, -1.0, 7.5], dtype=torch.float64)
VP = ode.paths.VP()


def check(found, expected, tolerance=1e-12):
    """Equal but for rounding, relative to the largest number."""
    assert found.shape == expected.shape
    gap, size = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
    assert gap <= tolerance * size


def net(x, t, y):
    """Linear in x, so that rounding does not grow; rows do not depend on each other, bitwise."""
    return 0.5 * (x[:, :, None] * W.to(x)).sum(1) + torch.sin(t[:, None] + y[:, None].to(x)) * (
        1 + 0.1 * x
    )


def rising(t):
    return 1.0 + 3.0 * t


SCALES = {
    "each": (EACH, lambda t, w: w[:, None]),
    "time": (rising, lambda t, w: rising(t)[:, None]),
}


def by_hand(strength, interval=None, rescale=0.0):
    """A network that mixes its own branches."""

    def mixed(x, t, y, w=None):
        cond, uncond = net(x, t, y), net(x, t, torch.zeros_like(y))
        guided = uncond + strength(t, w) * (cond - uncond)
        if rescale:
            ratio = cond.std(1, keepdim=True) / guided.std(1, keepdim=True)
            guided = guided * (rescale * ratio + 1 - rescale)
        if interval is None:
            return guided
        return torch.where(((interval[0] <= t) & (t <= interval[1]))[:, None], guided, cond)

    return mixed


def pair(kind, path=VP, predicts="noise", interval=None, rescale=0.0, **reading):
    """A guided model, and one whose network mixes by hand."""
    given, strength = SCALES[kind]
    options = {"time": "t", "cond": {"y": Y}, **reading}
    guided = ode.Model(net, path, predicts, **options)
    guided = guided.guided(given, uncond={"y": NONE}, interval=interval, rescale=rescale)
    return guided, ode.Model(by_hand(strength, interval, rescale), path, predicts, **options).given(
        w=EACH
    )


@rows("predicts", ode.paths.PREDICTIONS)
@rows("path", [VP, ode.paths.Linear(), ode.paths.EDM(), VP.flipped()], ids=repr)
@rows("kind", SCALES)
def test_every_prediction_and_path(kind, path, predicts):
    guided, mixed = pair(kind, path, predicts)
    for solver in ("dpmpp_2m", "heun"):
        try:
            expected = ode.sample(mixed, X, solver, 5)
        except OdesolveError:  # what such a network does not determine
            with pytest.raises(OdesolveError):
                ode.sample(guided, X, solver, 5)
            continue
        check(ode.sample(guided, X, solver, 5), expected)


SOLVERS = [
    "ddim",
    "unipc_2",
    "dpmpp_2m_sde",
    "ddpm",
    "sde_dpmpp_1",
    "rk4",
    "deis_tab3",
    "restart",
    "sa_solver",
]


@rows("solver", SOLVERS)
@rows("rescale", [0.0, 0.7])
@rows("interval", [None, (0.2, 0.7)], ids=["always", "inside"])
@rows("kind", SCALES)
def test_every_solver_with_interval_and_rescale(kind, interval, rescale, solver):
    guided, mixed = pair(kind, interval=interval, rescale=rescale)
    found, expected = (ode.sample(m, X, solver, 6, seed=0) for m in (guided, mixed))
    check(found, expected, 1e-11 if rescale else 1e-12)


EXECUTORS = {
    "window": ode.Window(tolerance=1e-13),
    "exact window": ode.Window(exact=True),
    "parareal": ode.Parareal(exact=True),
    "parareal ddim": ode.Parareal(exact=True, coarse="ddim"),
    "graph": "graph",
}


@rows("executor", EXECUTORS)
@rows("interval", [None, (0.2, 0.7)], ids=["always", "inside"])
@rows("kind", SCALES)
def test_every_executor(kind, interval, executor):
    guided, _ = pair(kind, interval=interval)
    way = Graph(guided, X) if executor == "graph" else EXECUTORS[executor]
    found = ode.sample(guided, X, "dpmpp_2m", 12, executor=way)
    check(found, ode.sample(guided, X, "dpmpp_2m", 12), 1e-9)


@rows("kind", SCALES)
def test_a_graphs_step_reads_scales_where_they_were_settled(kind):
    """The step that is captured, taken without a device: it reads its own copy, into which those of
    later models are copied."""
    guided, _ = pair(kind)
    graph = Graph(guided, X)
    reading = guided.reading_for(X.dtype)
    program = lower(ode.plan("dpmpp_2m", VP, 6), VP, reading)
    other, _ = pair(kind)
    strengths = {k: v + 1.0 for k, v in other.network.strengths.items()}
    other = other.with_network(other.network.replaced(strengths=strengths))
    for model in (guided, other, guided):
        assert graph.model.settle(model) is None
        separate = lower(ode.plan("dpmpp_2m", VP, 6), VP, _cast(reading))
        found = graph.replay(separate, X, None, graph.step, model)
        check(found, run_plan(program, X, None, model))
    assert graph.model.settle(guided.rows(torch.arange(2), B)) is not None


def _cast(reading):
    from dataclasses import replace

    return replace(reading, cast=True)


@rows("want", ["data", "noise", "score", "velocity", "v", "edm"])
@rows("rescale", [0.0, 0.7])
@rows("interval", [None, (0.2, 0.7)], ids=["always", "inside"])
@rows("kind", SCALES)
def test_predictions_at_times_of_their_own(kind, interval, rescale, want):
    guided, mixed = pair(kind, interval=interval, rescale=rescale)
    for t in (torch.tensor([0.1, 0.25, 0.5, 0.6, 0.9], dtype=torch.float64), 0.4, 0.9):
        found, expected = (getattr(m, want)(X, t) for m in (guided, mixed))
        check(found, expected, 1e-10)


@pytest.mark.filterwarnings("ignore:the latents are")  # those of a network that nobody trained
@rows("kind", SCALES)
def test_solve_and_log_prob_of_models(kind):
    guided, mixed = pair(kind)
    found, expected = (
        ode.solve(m, X, (0.9, 0.1), rtol=1e-8, atol=1e-8).last for m in (guided, mixed)
    )
    check(found, expected, 1e-9)
    found, expected = (ode.log_prob(m, X, steps=4).value for m in (guided, mixed))
    check(found, expected, 1e-10)
    for density in ("flow", "plan"):
        found, expected = (
            ode.sample(m, X, "ddim", 4, log_prob=density, seed=0) for m in (guided, mixed)
        )
        check(found.x, expected.x)
        check(found.log_prob.value, expected.log_prob.value, 1e-10)


@rows("rescale", [0.0, 0.7])
@rows("solver", ["dpmpp_2m", "dpmpp_2m_sde", "heun"])
def test_equal_numbers_are_the_plain_scale(solver, rescale):
    plain = ode.Model(net, VP, "v", cond={"y": Y})
    expected = ode.sample(
        plain.guided(2.5, uncond={"y": NONE}, rescale=rescale), X, solver, 6, seed=0
    )
    for given in (
        torch.full((B,), 2.5),
        torch.full((B,), 2.5, dtype=torch.float64),
        [2.5] * B,
        np.full(B, 2.5),
        lambda t: 2.5,
        lambda t: torch.tensor([2.5]).squeeze(),
        torch.tensor(2.5),
        np.float32(2.5),
    ):
        found = ode.sample(
            plain.guided(given, uncond={"y": NONE}, rescale=rescale), X, solver, 6, seed=0
        )
        check(found, expected)


def test_functions_of_time_that_users_write():
    """One time each, as comparisons, ``math`` and torch take it; asked at the times of the plan
    alone."""
    asked = []

    def noted(t):
        asked.append(float(t))
        return 2.0

    guided, _ = pair("time")
    plan = ode.plan("dpmpp_2m", VP, 6)
    for function in (
        lambda t: 7.5 if t > 0.5 else 1.0,
        lambda t: 1 + math.cos(t),
        lambda t: torch.where(t > 0.5, 3.0, 1.0),
        lambda t: np.interp(t, [0, 1], [1, 5]),
        lambda t: [1.0, 2.0, 3.0][min(2, int(3 * t))],
    ):
        model = guided.guided(function, uncond={"y": NONE})
        mixed = ode.Model(
            by_hand(
                lambda t, w, f=function: torch.tensor(
                    [[float(f(v))] for v in t.double()], dtype=torch.float64
                )
            ),
            VP,
            "noise",
            time="t",
            cond={"y": Y},
        )
        check(ode.sample(model, X, plan=plan), ode.sample(mixed, X, plan=plan))
    ode.sample(guided.guided(noted, uncond={"y": NONE}, interval=(0.3, 0.6)), X, plan=plan)
    assert asked == sorted(i.t for i in plan.evaluations if 0.3 <= i.t <= 0.6)


def test_a_function_that_says_something_else_tomorrow_is_asked_again():
    strength = [2.0]
    model, _ = pair("time")
    model = model.guided(lambda t: strength[0], uncond={"y": NONE})
    first = ode.sample(model, X, "ddim", 4)
    strength[0] = 5.0
    expected = ode.sample(model.guided(5.0, uncond={"y": NONE}), X, "ddim", 4)
    assert not torch.equal(first, expected)
    check(ode.sample(model, X, "ddim", 4), expected, 0.0)


def counted():
    calls = [0]

    def f(x, t, y):
        calls[0] += len(x)
        return net(x, t, y)

    return f, calls


def test_evaluations_are_counted_and_saved_where_the_scale_is_one():
    f, calls = counted()
    model = ode.Model(f, VP, "noise", time="t", cond={"y": Y})
    for scale, branches, nfe in (
        (EACH, 2, 12),
        (rising, 2, 12),
        (1.0, 1, 6),
        (lambda t: 1.0, 2, 6),
        (lambda t: 2.0 if t > 0.5 else 1.0, 2, None),
    ):
        guided, calls[0] = model.guided(scale, uncond={"y": NONE}), 0
        found = ode.sample(guided, X, "ddim", 6, full=True)
        assert guided.evaluations_per_call == branches
        assert found.nfe * B == calls[0]
        assert nfe is None or found.nfe == nfe
    assert 6 < found.nfe < 12


def test_rows_cut_one_number_a_sample():
    for rescale in (0.0, 0.7):
        guided, _ = pair("each", rescale=rescale)
        some = torch.tensor([3, 1])
        found = ode.sample(guided.rows(some, B), X[some], "heun", 5)
        check(found, ode.sample(guided, X, "heun", 5)[some])
        fewer = ode.Model(net, VP, "noise", cond={"y": Y[:4]}).guided(
            EACH, uncond={"y": NONE[:4]}, rescale=rescale
        )
        for call in (
            lambda fewer=fewer: fewer.rows(torch.arange(2), 4),
            lambda fewer=fewer: ode.sample(fewer, X[:4], "heun", 5),
            lambda fewer=fewer: ode.sample(fewer, X[:4], "heun", 5, batch=2),
            lambda fewer=fewer: ode.sample(fewer, X[:4], "heun", 5, executor=ode.Window()),
            lambda fewer=fewer: fewer.velocity(X[:4], 0.5),
        ):
            with pytest.raises(
                OdesolveError, match="has 5 numbers for a batch of 4: give one per sample"
            ):
                call()


@rows("kind", SCALES)
def test_learned_variances_and_half_precision(kind):
    given, strength = SCALES[kind]

    def twice(x, t, y):
        return torch.cat([net(x, t, y), torch.tanh(net(x, t, 0 * y))], 1)

    def mixed(x, t, y):
        return torch.cat([by_hand(strength)(x, t, y, EACH), torch.tanh(net(x, t, 0 * y))], 1)

    options = {"time": "t", "cond": {"y": Y}, "learned_variance": True}
    for solver in ("ddpm(variance=learned)", "dpmpp_2m"):
        path = ode.paths.Discrete(torch.linspace(0.999, 0.01, 50)) if "learned" in solver else VP
        found = ode.sample(
            ode.Model(twice, path, "noise", **options).guided(given, uncond={"y": NONE}),
            X,
            solver,
            6,
            seed=0,
        )
        expected = ode.sample(ode.Model(mixed, path, "noise", **options), X, solver, 6, seed=0)
        check(found, expected)
    half = ode.Model(
        lambda x, t, y: net(x.float(), t, y).to(x.dtype),
        VP,
        "noise",
        cond={"y": Y},
        dtype=torch.bfloat16,
    )
    out = ode.sample(half.guided(given, uncond={"y": NONE}), X.float(), "ddim", 4)
    assert out.dtype == torch.float32
    assert bool(out.isfinite().all())


def judge(x, t, y):
    return -((x - y[:, None].to(x)) ** 2).sum(1)


@rows("solver", ["ddim", "heun", "dpmpp_2m_sde"])
def test_classifiers_scales(solver):
    model = ode.Model(net, VP, "noise", time="t", cond={"y": Y})
    each = torch.linspace(0.1, 0.5, B, dtype=torch.float64)
    by_each = lambda x, t, y: each[: len(x)].to(x) * judge(x, t, y)
    by_time = lambda x, t, y: 0.3 * (1 - t) * judge(x, t, y)
    for given, by_hand_ in ((each, by_each), (lambda t: 0.3 * (1 - t), by_time)):
        guided, mixed = (
            model.classifier_guided(judge, given, {"y": Y}),
            model.classifier_guided(by_hand_, 1.0, {"y": Y}),
        )
        for call in (
            lambda m: ode.sample(m, X, solver, 5, seed=0),
            lambda m: m.velocity(X, torch.linspace(0.2, 0.8, B, dtype=torch.float64)),
        ):
            check(call(guided), call(mixed))
    both = model.guided(EACH, uncond={"y": NONE}).classifier_guided(judge, each, {"y": Y})
    assert set(both.network.strengths) == {"guidance", "classifier"}
    assert set(both.guided(2.0, uncond={"y": NONE}).network.strengths) == {"classifier"}


def test_gradients_reach_scales():
    def loss(each, rescale):
        model = ode.Model(net, VP, "noise", time="t", cond={"y": Y}).guided(
            each, uncond={"y": NONE}, rescale=rescale
        )
        return ode.sample(model, X, "ddim", 3, adjoint="backprop").square().sum()

    for rescale in (0.0, 0.5):
        each = EACH.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(each, rescale), each)
        ahead, back = (
            float(loss(EACH + s * torch.eye(B, dtype=torch.float64)[1], rescale))
            for s in (1e-5, -1e-5)
        )
        assert float(slope[1]) == pytest.approx((ahead - back) / 2e-5, rel=1e-6)
    with pytest.raises(OdesolveError, match="asks for gradients"):
        ode.sample(
            pair("time")[0].guided(lambda t: t * each.sum(), uncond={"y": NONE}), X, "ddim", 3
        )


BAD = {
    "nan": float("nan"),
    "inf": float("inf"),
    "text": "7.5",
    "none": None,
    "bool": True,
    "complex": 1 + 2j,
    "huge": 10**400,
    "matrix": torch.ones(B, 1),
    "picture": torch.ones(B, 1, 1, 1),
    "empty": torch.ones(0),
    "nan in one": torch.tensor([1.0, float("nan")]),
    "truths": torch.tensor([True, False]),
    "complex each": torch.ones(B, dtype=torch.complex64),
    "texts": ["a", "b"],
    "dict": {"scale": 2.0},
}


@rows("bad", BAD)
@rows("door", ["guided", "classifier_guided"])
def test_scales_that_are_none_are_refused(door, bad):
    model = ode.Model(net, VP, "noise", cond={"y": Y})
    calls = {
        "guided": lambda: model.guided(BAD[bad], uncond={"y": NONE}),
        "classifier_guided": lambda: model.classifier_guided(judge, BAD[bad], {"y": Y}),
    }
    told = r"scale.*give .*a finite number, one number per sample \(B,\), or a function"
    with pytest.raises(OdesolveError, match=told):
        calls[door]()


NONSENSE = {
    "nan": lambda t: float("nan"),
    "text": lambda t: "3",
    "none": lambda t: None,
    "two": lambda t: torch.ones(2),
    "bool": lambda t: t > 0.5,
    "each": lambda t: EACH,
}


@rows("bad", NONSENSE)
def test_functions_that_return_no_number_are_refused(bad):
    model = ode.Model(net, VP, "noise", cond={"y": Y}).guided(NONSENSE[bad], uncond={"y": NONE})
    for call in (
        lambda: ode.sample(model, X, "ddim", 3),
        lambda: model.data(X, 0.5),
        lambda: ode.Sampler(model, "ddim", 3),
    ):
        with pytest.raises(
            OdesolveError,
            match=r"scale\(t\) at t=.*return one finite number for "
            r"one time",
        ):
            call()


def test_a_jobs_fingerprint_sees_scales():
    model = ode.Model(net, VP, "noise", cond={"y": Y})
    options = {"uncond": {"y": NONE}}
    given = [2.0, 3.0, EACH, EACH + 1, EACH.flip(0), rising, lambda t: 2.0]
    told = [fingerprint(model.guided(scale, **options)) for scale in given]
    told += [fingerprint(model.guided(scale, rescale=0.5, **options)) for scale in given]
    told += [fingerprint(model.classifier_guided(judge, scale, {"y": Y})) for scale in given]
    assert len(set(told)) == len(told)


def test_reports_say_what_a_scale_is():
    for scale, word in ((2.0, 2.0), (EACH, "one per sample"), (rising, "a function of t")):
        model = ode.Model(net, VP, "noise", cond={"y": Y}).guided(scale, uncond={"y": NONE})
        found = ode.profile(model, ["ddim"], nfe=[4], noise=X, timing=0, progress=False)
        assert f'"guidance": {word!r}'.replace("'", '"') in found.to_json()


class Average:
    """A network of two times."""

    two_times = True

    def __init__(self, strength=None):
        self.strength = strength

    def __call__(self, x, t, y):
        cond, uncond = (
            0.3 * x + torch.sin(2 * t[:, :1] + t[:, 1:] + v[:, None]) for v in (y, 0 * y)
        )
        return cond if self.strength is None else uncond + self.strength(t) * (cond - uncond)


@rows("kind", SCALES)
def test_networks_of_two_times(kind):
    given, strength = SCALES[kind]
    models = [
        ode.Model(f, ode.paths.Linear(), "velocity", time="t", cond={"y": Y})
        for f in (Average(), Average(lambda t: strength(t[:, 0], EACH).view(-1, 1)))
    ]
    guided = models[0].guided(given, uncond={"y": NONE})
    found = ode.sample(guided, X, "flow_map", 4, "uniform")
    check(found, ode.sample(models[1], X, "flow_map", 4, "uniform"))
    assert torch.equal(ode.sample(guided, X, "flow_map", 4, "uniform", batch=2), found)


@pytest.mark.long
@rows("kind", SCALES)
def test_a_sampler_is_compiled_whole(kind):
    guided, _ = pair(kind)
    sampler = ode.Sampler(guided, "dpmpp_2m", 3, dtype=torch.float64)
    check(torch.compile(sampler, fullgraph=True, backend="eager")(X), sampler(X))
