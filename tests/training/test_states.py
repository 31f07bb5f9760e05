"""Runs that were stopped go on bitwise, whatever their objective remembers and in every precision;
what changed is told."""

import copy
import functools

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve import objectives as obj
from odesolve.objectives import bridges, consistency, couplings, dropped, times
from odesolve.training import EMA, Growing, checkpoint, describe, fit
from tests.products import diagonal
from tests.rows import rows

pytest.importorskip("safetensors")
POINTS = torch.randn(24, 2, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(24) % 3
LINEAR, EDM, STEPS = ode.paths.Linear(), ode.paths.EDM(sigma_max=5.0), 9
LAW, FOLLOWING = None, None  # what functions use from outside, as those of scripts do


class Net(nn.Module):
    """Of a state, one or two times and maybe a label, with dropout."""

    def __init__(self, out=2, times=1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + times, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, out)
        )
        self.label = nn.Embedding(4, out)

    def forward(self, x, *given, label=None, scale=None):
        out = self.layers(
            torch.cat([x, *(torch.sin(t).to(x.dtype).expand(len(x))[:, None] for t in given)], 1)
        )
        out = out if scale is None else out + scale[:, None]
        return out if label is None else out + self.label(label)


class Learned(nn.Module):
    """A weight of times that is trained with the network."""

    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(()))

    def forward(self, path, t):
        return self.log.exp().double().expand(len(t))


def model(net, predicts="velocity", path=LINEAR, **options):
    return ode.Model(net, path, predicts, dtype=torch.float32, **options)


def plain(**options):
    return lambda net, ema: obj.Matching(model(net), **options)


def pairs(make):
    """An objective of two ends as one of the data."""

    def built(net, ema):
        inner = make(net)
        return lambda x, *, generator: inner(x, x.flip(0) + 1.0, generator=generator)

    return built


def consistent(**options):
    def built(net, ema):
        own, kept = (obj.Consistency(model(n, "edm", EDM)) for n in (net, ema.module))
        return obj.ConsistencyTraining(own, lambda k: 4 + k, target=kept, **options)

    return built


def distilled(net, ema):
    teacher = model(Net().requires_grad_(False), "edm", EDM)
    return obj.ConsistencyDistillation(
        obj.Consistency(model(net, "edm", EDM)), teacher, lambda k: 4 + k
    )


def halved(net, ema):
    return obj.ProgressiveDistillation(
        model(net, "v", ode.paths.Trig()), model(Net(), "v", ode.paths.Trig()), "uniform", 4
    )


def remembered(net, ema):
    """Times that follow the losses, as they are remembered within the objective."""
    law = times.Importance(4, 2)
    inner = obj.Matching(model(net), times=law, importance=True)

    def objective(x, *, generator, cond=None):
        terms = inner(x, generator=generator)
        law.update(terms.t, terms.each, LINEAR)
        return terms

    return objective


def masked(net, ema):
    """Numbers that count with each sample."""
    inner = obj.Matching(model(net))
    return lambda x, *, generator, cond: inner(x, mask=cond["mask"], generator=generator)


def two_dropped(net, ema):
    """A label and a number that are left out each by itself."""
    inner, null, shares = (
        obj.Matching(model(net)),
        {"label": 3, "scale": 0.0},
        {"label": 0.3, "scale": 0.5},
    )
    return lambda x, *, generator, cond: inner(
        x, cond=dropped(cond, null, shares, generator), generator=generator
    )


def bound(net, ema):
    """The bound remembers the losses of its own terms; less of it, so that float16 holds its
    gradients."""
    inner = obj.VariationalBound(model(net, "noise", ode.paths.VP()), steps=4, importance=True)
    return lambda x, *, generator: 1e-5 * inner(x, generator=generator).loss


def guided(net, ema):
    teacher = model(Net().requires_grad_(False), "v", ode.paths.Trig())
    inner = obj.GuidedDistillation(
        model(net, "v", ode.paths.Trig()), teacher, {"label": torch.full((10,), 3)}
    )
    return lambda x, *, generator, cond: 1e-3 * inner(x, cond=cond, generator=generator).loss


def without(net, ema):
    inner = obj.Matching(model(net))

    def objective(x, *, generator, cond):
        return inner(x, cond=dropped(cond, {"label": 3}, 0.3, generator), generator=generator)

    return objective


def flow_map(net):
    return obj.FlowMap(net, LINEAR, dtype=torch.float32)


def score(net):
    return lambda x: net(x, torch.zeros(len(x)))


def followed(net, ema):
    """A target of its own, which is averaged as the training goes."""
    target = copy.deepcopy(net).requires_grad_(False)
    inner = obj.Shortcut(flow_map(net), 4, target=flow_map(target))

    def objective(x, *, generator):
        with torch.no_grad():
            for a, b in zip(target.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 0.1)
        return inner(x, generator=generator)

    return objective


def likely(net, ema):
    net.layers[2].p = 0.0  # a flow is one and the same at every call
    return obj.MaximumLikelihood(
        lambda t, x: net(x, t.reshape(-1)), trace="hutchinson", solver="rk4", steps=2
    )


def learned_process(net, ema):
    net.layers[2].p = 0.0
    return obj.DiffFlow(
        lambda x, t: net(x, t), lambda x, t: net(x, t), 1.0, torch.linspace(0, 1, 4)
    )


def levels(net, ema):
    """Less of it, so that float16 holds its gradients."""
    inner = obj.ncsn(model(net, "score", EDM), obj.Levels.geometric(0.05, 3.0, 4))
    return lambda x, *, generator: 1e-3 * inner(x, generator=generator).loss


KINDS = {
    "matching": plain(),
    "likelihood": likely,
    "process that is learned": learned_process,
    "levels": levels,
    "energy": lambda net, ema: obj.DenoisingScoreMatching(
        obj.energy(lambda x: net(x, torch.zeros(len(x))).sum(1)), 0.3
    ),
    "score and flow": pairs(lambda net: obj.ScoreAndFlow(model(net), model(net, "score"), 0.5)),
    "labels": without,
    "transport": plain(coupling="optimal_transport"),
    "sinkhorn": plain(coupling=couplings.Sinkhorn(0.5)),
    "importance of a law": plain(times="logit_normal", importance=True),
    "times that follow": remembered,
    "uncertainty": lambda net, ema: obj.Matching(
        model(net), uncertainty=obj.Uncertainty(LINEAR, 4)
    ),
    "masks": masked,
    "two conditions dropped": two_dropped,
    "guided mean flow": lambda net, ema: obj.MeanFlow(
        flow_map(net), null={"label": 3}, scale=2.0, mix=0.2
    ),
    "sCM": lambda net, ema: obj.TrigConsistency(model(net, "v", ode.paths.Trig()), warmup=6),
    "learned weight": lambda net, ema: obj.Matching(model(net), weight=Learned()),
    "ddpm": lambda net, ema: obj.Matching(model(net, "noise", ode.paths.Discrete.ddpm())),
    "edm": lambda net, ema: obj.Matching(model(net, "edm", EDM)),
    "bound": bound,
    "hybrid": lambda net, ema: obj.Hybrid(
        model(net, "noise", ode.paths.Discrete.ddpm(), learned_variance=True)
    ),
    "bridge": pairs(lambda net: obj.BridgeMatching(model(net), 0.5)),
    "two-sided": pairs(lambda net: obj.TwoSided(model(net), 0.1)),
    "interpolant": pairs(lambda net: obj.Interpolant(model(net), bridges.sine_squared(0.1))),
    "implicit": lambda net, ema: obj.ImplicitScoreMatching(score(net)),
    "sliced": lambda net, ema: obj.SlicedScoreMatching(score(net)),
    "denoising": lambda net, ema: obj.DenoisingScoreMatching(score(net), 0.3),
    "explicit": lambda net, ema: obj.ExplicitScoreMatching(score(net), lambda x: -x),
    "mean flow": lambda net, ema: obj.MeanFlow(flow_map(net)),
    "shortcut": lambda net, ema: obj.Shortcut(flow_map(net), 4),
    "target of its own": followed,
    "consistency": consistent(
        distance=consistency.pseudo_huber(0.03), weight=consistency.inverse_gap
    ),
    "consistency distillation": distilled,
    "continuous consistency": lambda net, ema: obj.ContinuousConsistency(
        obj.Consistency(model(net, "edm", EDM))
    ),
    "halving": halved,
    "guided": guided,
}
MASK = torch.rand(24, 2, generator=torch.Generator().manual_seed(6)) + 0.1
CONDITIONS = {
    "labels": {"label": LABELS},
    "guided": {"label": LABELS},
    "guided mean flow": {"label": LABELS},
    "masks": {"mask": MASK},
    "two conditions dropped": {"label": LABELS.numpy(), "scale": torch.linspace(-1, 1, 24)},
}
TWO_TIMES = ("mean flow", "guided mean flow", "shortcut", "target of its own")
FORWARD = ("mean flow", "continuous consistency")


def run(kind, steps, folder=None, dtype=None, **options):
    """A training, and everything that it leaves: weights, average, moments, losses, and what the
    objective holds."""
    torch.manual_seed(1)
    net = Net(4 if kind == "hybrid" else 2, 2 if kind in TWO_TIMES else 1)
    ema = EMA(net, Growing(lambda k: 4 + k))
    objective = KINDS[kind](net, ema)
    learned = (getattr(objective, name, None) for name in ("weight", "uncertainty"))
    own = [p for m in (net, *learned) if isinstance(m, nn.Module) for p in m.parameters()]
    options = {"cond": CONDITIONS[kind], **options} if kind in CONDITIONS else options
    history = fit(
        objective, POINTS, steps, optimiser=torch.optim.Adam(own, 1e-2), network=net, ema=ema, batch=10, folder=folder,
        every=4, dtype=dtype, generator=torch.Generator().manual_seed(2), schedule=lambda k: 0.9**k, **options,
    )  # fmt: skip
    return {
        "net": net.state_dict(),
        "ema": ema.state_dict(),
        "losses": history.losses,
        "norms": history.norms,
    }


def same(a, b):
    if isinstance(a, dict):
        assert list(a) == list(b)
        for k in a:
            same(a[k], b[k])
    else:
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))  # norms that overflowed float16


HALVES = [torch.bfloat16, torch.float16]
# every kind in one of three precisions, and the one that bfloat16 refuses
REFUSED = [("likelihood", torch.bfloat16), ("likelihood", None)]
PRECISIONS = diagonal(list(KINDS), [None, *HALVES], hard=REFUSED)


@pytest.mark.few(4)
@pytest.mark.parametrize(("kind", "dtype"), PRECISIONS)
def test_every_objective_goes_on_bitwise(tmp_path, kind, dtype):
    """Stopped three times: before the first checkpoint of its own, at one, and between two."""
    # its differences are no derivative, which is told
    if kind == "likelihood" and dtype is torch.bfloat16:
        with pytest.raises(ode.OdesolveError, match="autograd does not see"):
            run(kind, STEPS, dtype=dtype)
        return
    whole = run(kind, STEPS, dtype=dtype)
    assert whole["losses"].isfinite().all()
    for stop in (2, 4, 7, STEPS):
        found = run(kind, stop, tmp_path, dtype)
        assert torch.equal(found["losses"], whole["losses"][:stop])
        torch.randn(10)
    same(whole, found)


def test_what_is_remembered_is_in_the_file_by_name(tmp_path):
    for kind, name in (
        ("times that follow", "objective.inner.times"),
        ("bound", "objective.inner.importance"),
        ("learned weight", "objective.weight"),
        ("target of its own", "objective.inner.target.model.net"),
    ):
        run(kind, 2, tmp_path / name)
        held = checkpoint.read(tmp_path / name / "checkpoint.safetensors").states
        assert [k for k in held if k.startswith("objective")] == [name]
    # neither the teacher nor the average, which is there once
    run("consistency distillation", 2, tmp_path / "a")
    assert not [
        k
        for k in checkpoint.read(tmp_path / "a" / "checkpoint.safetensors").states
        if "objective" in k
    ]


def law_of_a_global(x, *, generator):
    terms = FOLLOWING(x, generator=generator)
    LAW.update(terms.t, terms.raw, LINEAR)
    return terms.loss


class Following:
    """An objective of the user's that uses globals."""

    def __call__(self, x, *, generator):
        return law_of_a_global(x, generator=generator)

    def loss(self, x, *, generator):
        return law_of_a_global(x, generator=generator)


BY_GLOBALS = {
    "function": lambda: law_of_a_global,
    "lambda": lambda: lambda x, *, generator: law_of_a_global(x, generator=generator),
    "partial": lambda: functools.partial(law_of_a_global),
    "instance": Following,
    "method": lambda: Following().loss,
}


@rows("kind", BY_GLOBALS)
def test_functions_of_globals_go_on_bitwise(tmp_path, kind, monkeypatch):
    def run(steps, folder):
        torch.manual_seed(0)
        net, law = Net(), times.Importance(bins=4, history=2)
        following = obj.Matching(model(net), times=law, importance=True)
        monkeypatch.setitem(globals(), "LAW", law)
        monkeypatch.setitem(globals(), "FOLLOWING", following)
        optimiser, drawn = torch.optim.SGD(net.parameters(), 0.1), torch.Generator().manual_seed(1)
        fit(
            BY_GLOBALS[kind](),
            POINTS,
            steps,
            optimiser=optimiser,
            network=net,
            batch=16,
            generator=drawn,
            folder=folder,
        )
        return law.losses.tolist(), [w.tolist() for w in net.parameters()]

    whole = run(24, tmp_path / "whole")
    run(13, tmp_path / "parts")
    assert run(24, tmp_path / "parts") == whole


def test_weights_that_an_objective_learns_are_trained_by_an_optimiser_by_name():
    net, weight = Net(), Learned()
    fit(obj.Matching(model(net), weight=weight), POINTS, 2, optimiser="sgd(lr=0.1)", batch=8)
    assert float(weight.log.detach()) != 0.0


@rows("name", ["uncertainty", "weight"])
def test_weights_that_an_optimiser_does_not_know_are_refused(name):
    net = Net()
    learned = obj.Uncertainty(LINEAR, 4) if name == "uncertainty" else Learned()
    objective = obj.Matching(model(net), **{name: learned})
    with pytest.raises(ode.OdesolveError, match=f"trains no weight of {name}="):
        fit(objective, POINTS, 2, optimiser=torch.optim.SGD(net.parameters(), 0.1), batch=8)
    learned.requires_grad_(False)
    fit(objective, POINTS, 2, optimiser=torch.optim.SGD(net.parameters(), 0.1), batch=8)


NETWORKS = {
    "consistency": lambda net: obj.ConsistencyTraining(obj.Consistency(model(net, "edm", EDM))),
    "flow map": lambda net: obj.Shortcut(obj.FlowMap(net, LINEAR, dtype=torch.float32)),
    "student": lambda net: obj.ProgressiveDistillation(model(net), model(Net()), "uniform", 4),
}


class Carrying(Net):
    """Of one time, or two."""

    def forward(self, x, *times):
        return super().forward(x, sum(times))


@rows("kind", NETWORKS)
def test_the_network_of_every_objective_is_known(tmp_path, kind):
    net = Carrying()
    before = [w.clone() for w in net.parameters()]
    fit(NETWORKS[kind](net), POINTS, 2, optimiser="sgd(lr=0.1)", batch=8, folder=tmp_path)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    held = checkpoint.read(tmp_path / "checkpoint.safetensors").states["network"]
    assert held.keys() == net.state_dict().keys()


def test_steps_are_told_to_those_that_ask():
    layer, told = nn.Linear(2, 1), []

    def objective(x, *, generator, step):
        told.append(step)
        return layer(x).square().mean()

    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    fit(objective, POINTS, 3, optimiser=optimiser, batch=8)
    fit(objective, POINTS, 2, optimiser=optimiser, batch=8, accumulate=2)
    assert told == [0, 1, 2, 0, 0, 1, 1]


def test_a_grid_that_grows():
    """Each step has the times of its own N; without a step there is none."""
    objective = obj.ConsistencyTraining(obj.Consistency(model(Net(), "edm", EDM)), lambda k: 3 + k)
    fixed = obj.ConsistencyTraining(objective.consistency, 5)
    draws = lambda: torch.Generator().manual_seed(0)
    assert torch.equal(
        objective(POINTS, step=2, generator=draws()).t, fixed(POINTS, generator=draws()).t
    )
    assert torch.equal(
        objective(POINTS, step=2, points=9, generator=draws()).t,
        fixed(POINTS, points=9, generator=draws()).t,
    )
    with pytest.raises(ode.OdesolveError, match="give step="):
        objective(POINTS)
    for points, told in (
        (1, "points=1"),
        (lambda: 3, "points"),
        (lambda k: 1, "points=1"),
        (lambda k: 2.5, "points=2.5"),
    ):
        with pytest.raises(ode.OdesolveError, match=told):
            obj.ConsistencyTraining(objective.consistency, points)


def other(x):
    return x


SCALE, FACTOR = 2.0, 0.5
CHANGED = {
    "lambda": (lambda path, t: t, lambda path, t: t * t),
    "operator": (lambda path, t: t + 2, lambda path, t: t * 2),
    "constant": (lambda path, t: 2 * t, lambda path, t: 3 * t),
    "global": (lambda path, t: SCALE * t, lambda path, t: FACTOR * t),
    "default": (lambda path, t, s=2: s * t, lambda path, t, s=3: s * t),
    "inside": (lambda path, t: (lambda u: u + 1)(t), lambda path, t: (lambda u: u + 2)(t)),
}


@rows("kind", CHANGED)
@rows("where", ["weight", "schedule"])
def test_changed_functions_are_refused(tmp_path, kind, where):
    def trained(f):
        net = torch.manual_seed(0) and Net()
        weight = f if where == "weight" else None
        schedule = (lambda k: float(f(None, 1.0 + k))) if where == "schedule" else None
        optimiser = torch.optim.SGD(net.parameters(), 1e-4)
        fit(obj.Matching(model(net), weight=weight), POINTS, 2, optimiser=optimiser, batch=8, folder=tmp_path,
            schedule=schedule)  # fmt: skip

    first, second = CHANGED[kind]
    trained(first)
    trained(first)
    with pytest.raises(ode.OdesolveError, match=f"{where}.* in the file"):
        trained(second)


def closing(c):
    return lambda path, t: c * t


@rows(
    ("first", "second"),
    [
        (closing(2.0), closing(3.0)),
        (functools.partial(other, x=1), functools.partial(other, x=2)),
        (consistency.pseudo_huber(0.03), consistency.pseudo_huber(0.1)),
        (consistency.log_normal(-1.1), consistency.log_normal(-1.2)),
        (times.LogitNormal(1.0).density, times.LogitNormal(2.0).density),
        ({"a", "b", "c"}, {"a", "b", "d"}),
        (torch.tensor(1.0).numpy()[()], torch.tensor(2.0).numpy()[()]),
    ],
)
def test_descriptions_tell_what_functions_hold(first, second):
    assert describe(first) == describe(first)
    assert describe(first) != describe(second)


def test_code_of_another_python_is_not_compared():
    told = describe(closing(2.0))
    assert checkpoint.differences(told, {**told, "code": "0", "python": "cpython-99"}) == []
    assert checkpoint.differences(told, {**told, "code": "0"})
    assert checkpoint.differences({"python": "3"}, {"python": "4"})  # a setting of one's own


def test_logs_that_functions_fill_are_no_settings(tmp_path):
    layer, seen, calls = nn.Linear(2, 1), [], 0

    def objective(x, *, generator):
        nonlocal calls
        calls += 1
        seen.append(calls)
        return layer(x).square().mean()

    for steps in (2, 4):
        optimiser = torch.optim.SGD(layer.parameters(), 0.1)
        fit(objective, POINTS, steps, optimiser=optimiser, network=layer, batch=8, folder=tmp_path)
    assert seen == [1, 2, 3, 4]


def groups(net, first=1e-2, second=1e-3, decay=0.0):
    layers = (
        {"params": net.layers.parameters()},
        {"params": net.label.parameters(), "lr": second, "weight_decay": decay},
    )
    return torch.optim.AdamW(layers, first)


@rows("changed", [{"first": 2e-2}, {"second": 2e-3}, {"decay": 0.1}])
def test_changed_rates_in_groups_are_refused(tmp_path, changed):
    def trained(steps, **rates):
        torch.manual_seed(0)
        net = Net()
        optimiser = groups(net, **rates)
        fit(obj.Matching(model(net)), POINTS, steps, optimiser=optimiser, batch=8, folder=tmp_path, warmup=5,
            generator=torch.Generator().manual_seed(0), schedule=lambda k: 0.5**k)  # fmt: skip
        return optimiser

    trained(3)
    rates = [group["lr"] for group in trained(4).param_groups]
    assert rates == [rate * min(1.0, 5 / 5) * 0.5**4 for rate in (1e-2, 1e-3)]
    with pytest.raises(ode.OdesolveError, match=r"optimiser\.(groups|lr)"):
        trained(5, **changed)


def test_a_rate_that_was_set_by_hand_is_refused(tmp_path):
    def trained(rate):
        net = Net()
        optimiser = torch.optim.SGD(net.parameters(), 1e-2)
        optimiser.param_groups[0]["lr"] = rate
        fit(obj.Matching(model(net)), POINTS, 2, optimiser=optimiser, batch=8, folder=tmp_path)

    trained(1e-2)
    with pytest.raises(ode.OdesolveError, match=r"optimiser\.groups"):
        trained(1e-3)


SCHEDULES = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=30, cycle_momentum=False
    ),
    "steps": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 6]),
    "in turn": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.ConstantLR(o, 0.1, 4),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        ],
        [4],
    ),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_of_torch_go_on(tmp_path, kind):
    def trained(steps, folder=None):
        torch.manual_seed(0)
        net = Net()
        optimiser = torch.optim.SGD(net.parameters(), 1e-2)
        schedule, rates = SCHEDULES[kind](optimiser), []
        options = {
            "generator": torch.Generator().manual_seed(0),
            "schedule": schedule,
            "folder": folder,
            "batch": 8,
        }
        options["after"] = lambda *_: rates.append(optimiser.param_groups[0]["lr"])
        fit(obj.Matching(model(net)), POINTS, steps, optimiser=optimiser, **options)
        return rates, net.layers[0].weight

    whole = trained(9)
    by_hand = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1e-2)
    schedule, rates = SCHEDULES[kind](by_hand), []
    for _ in range(9):
        by_hand.step()
        schedule.step()
        rates.append(by_hand.param_groups[0]["lr"])
    assert whole[0] == rates
    for stop in (2, 4, 7):
        trained(stop, tmp_path / str(stop))
        rates, weight = trained(9, tmp_path / str(stop))
        assert rates == whole[0][stop:]
        assert torch.equal(weight, whole[1])


def test_schedules_that_cannot_be_used():
    net = Net()
    mine, others = (torch.optim.SGD(net.parameters(), 1e-2) for _ in range(2))
    rate = torch.optim.lr_scheduler
    for options in (
        {"schedule": rate.StepLR(others, 2)},
        {"schedule": rate.StepLR(mine, 2), "warmup": 3},
        {"schedule": rate.ReduceLROnPlateau(mine)},
    ):
        with pytest.raises(ode.OdesolveError, match="give a schedule of this optimiser"):
            fit(obj.Matching(model(net)), POINTS, 1, optimiser=mine, **options)


@rows("word", ["optimiser", "optimizer"])
def test_both_spellings(word):
    net = Net()
    assert len(fit(obj.Matching(model(net)), POINTS, 1, batch=8, **{word: "adamw(lr=1e-3)"})) == 1
