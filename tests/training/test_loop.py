"""The loop: what it computes, that a resumed run is bitwise the whole one, and how it stops."""

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import odesolve as ode
from odesolve.objectives import DiffFlow, Interpolant, Matching, bridges, dropped
from odesolve.objectives.flow_maps import FlowMap, MeanFlow
from odesolve.objectives.matching import Terms
from odesolve.training import EMA, Batches, Exponential, NotFinite, checkpoint, fit, warm_up
from tests.products import diagonal
from tests.rows import rows

safetensors = pytest.importorskip("safetensors")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(torch.nn.Module):
    """With dropout, which draws from torch's own generator, and a buffer that counts its calls."""

    def __init__(self, drop=0.2, classes=3):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Dropout(drop), torch.nn.Linear(16, 2)
        )
        self.label = torch.nn.Embedding(classes, 2)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x, t, label=None):
        if self.training:
            self.calls += 1
        out = self.layers(torch.cat([x, t[:, None]], 1))
        return out if label is None else out + self.label(label)


POINTS = torch.randn(50, 2, generator=generator(5))
LABELS = torch.arange(50) % 3


def built(rate=1e-2, decay=0.9, optimiser=torch.optim.Adam):
    torch.manual_seed(1)
    net = Net()
    objective = Matching(ode.Model(net, ode.paths.Linear(), "velocity"))
    return net, objective, optimiser(net.parameters(), rate), EMA(net, Exponential(decay))


def run(steps, folder=None, data=POINTS, seed=2, **options):
    net, objective, optimiser, ema = built()
    own = {"cond": {"label": LABELS}, "batch": 16} if isinstance(data, torch.Tensor) else {}
    own |= {
        "warmup": 10,
        "clip": 0.5,
        "generator": None if seed is None else generator(seed),
        **options,
    }
    history = fit(
        objective, data, steps, optimiser=optimiser, ema=ema, folder=folder, every=7, **own
    )
    return net, optimiser, ema, history


def equal(a, b):
    """Everything of two runs, bit by bit."""
    states = ((x[0].state_dict(), x[2].state_dict()) for x in (a, b))
    for mine, theirs in zip(*states, strict=True):
        assert list(mine) == list(theirs)
        assert all(torch.equal(v, theirs[k]) for k, v in mine.items())
    mine, theirs = (x[1].state_dict() for x in (a, b))
    assert mine["param_groups"] == theirs["param_groups"]
    for k, held in mine["state"].items():
        assert all(torch.equal(v, theirs["state"][k][name]) for name, v in held.items())
    assert torch.equal(a[3].losses, b[3].losses)
    assert torch.equal(a[3].norms, b[3].norms)


def loader():
    data = TensorDataset(POINTS, LABELS)
    return [
        (x, {"label": y}) for x, y in DataLoader(data, 16, shuffle=True, generator=generator(4))
    ]


KINDS = {
    "tensor": {},
    "torch's own generator": {"seed": None},
    "iterable": {"data": loader()},
    "function": {"data": lambda g: torch.randn(16, 2, generator=g)},
    "autocast": {"dtype": torch.bfloat16},
    "schedule": {"schedule": lambda k: 0.99**k},
}


@pytest.mark.few(3)
@pytest.mark.parametrize(("kind", "stop"), diagonal(list(KINDS), [8, 12]))
def test_resumed_is_bitwise_the_whole_run(tmp_path, kind, stop):
    """Interrupted between checkpoints too: after 12 steps of 24 the last checkpoint is that of step
    7."""
    options = KINDS[kind]
    whole = run(24, **options)
    assert float(whole[0].calls) == 24
    with pytest.raises(KeyboardInterrupt):
        run(24, tmp_path, after=lambda done, terms: interrupt(done == stop), **options)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors").step == 7
    torch.randn(100)  # whatever the process did in between
    # what it would have begun with does not matter
    resumed = run(24, tmp_path, **{"seed": 9, **options})
    equal(whole, resumed)
    longer = run(30, tmp_path, **options)
    equal(run(30, **options), longer)


def test_an_order_from_torchs_own_generator(tmp_path):
    """A loader draws its order from what dropout draws from: a resumed run leaves batches out
    before it sets that generator."""

    def batches():
        data = torch.randn(400, 2, generator=generator(6))
        return DataLoader(list(data), 16, shuffle=True)

    whole = run(24, data=batches())
    run(10, tmp_path, data=batches())
    equal(whole, run(24, tmp_path, data=batches()))


def interrupt(now):
    if now:
        raise KeyboardInterrupt


def test_a_folder_changes_nothing_and_a_finished_run_is_read(tmp_path):
    whole, kept = run(14), run(14, tmp_path / "a" / "b")
    equal(whole, kept)
    again = run(14, tmp_path / "a" / "b", after=lambda *_: pytest.fail("nothing is left to do"))
    equal(whole, again)
    assert len(again[3]) == 14


def test_another_configuration_is_refused(tmp_path):
    run(3, tmp_path)
    for options, told in (
        ({"clip": 1.0}, r"training\.clip is 0\.5 in the file, 1\.0 here"),
        ({"warmup": 11}, r"training\.warmup is 10 in the file, 11 here"),
        ({"batch": 17}, r"training\.batch is 16 in the file, 17 here"),
        ({"configuration": {"data": "b"}}, r"configuration\.data is absent in the file, 'b' here"),
        ({"seed": None}, "generator is True in the file, False here"),
    ):
        with pytest.raises(ode.OdesolveError, match=told):
            run(6, tmp_path, **options)
    net, _, _, ema = built(decay=0.8)
    objective = Matching(ode.Model(net, ode.paths.Trig(), "velocity"))
    with pytest.raises(ode.OdesolveError) as error:
        fit(
            objective,
            POINTS,
            6,
            optimiser=torch.optim.SGD(net.parameters(), 1e-2),
            ema=ema,
            folder=tmp_path,
        )
    for name in (
        "objective.model.path.name",
        "optimiser.kind",
        "ema.decay",
        "training.warmup",
        "training.batch",
    ):
        assert f"{name} is " in str(error.value)


def test_what_a_step_is():
    """By hand: the same draws, warm-up, clipping, Adam and average."""
    net, objective, optimiser, ema = built()
    by_hand, theirs = copy.deepcopy(net), generator(2)
    history = fit(
        objective, lambda g: torch.randn(8, 2, generator=g), 5,
        optimiser=optimiser, ema=ema, warmup=4, clip=0.3, generator=generator(2),
    )  # fmt: skip
    torch.randint(2**62, (), generator=theirs)  # the order of a data set, which this is not
    plain = Matching(ode.Model(by_hand, ode.paths.Linear(), "velocity"))
    adam = torch.optim.Adam(by_hand.parameters(), 1.0)
    average = [p.detach().clone() for p in by_hand.parameters()]
    torch.manual_seed(1)
    Net()
    for k in range(5):
        loss = plain(torch.randn(8, 2, generator=theirs), generator=theirs).loss
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.3)
        adam.param_groups[0]["lr"] = 1e-2 * min(1.0, (k + 1) / 4)
        adam.step()
        average = [
            torch.lerp(a, p.detach(), 1 - 0.9)
            for a, p in zip(average, by_hand.parameters(), strict=True)
        ]
        assert float(loss.detach()) == float(history.losses[k])
        assert float(norm) == float(history.norms[k])
    for a, b, c, d in zip(
        net.parameters(), by_hand.parameters(), ema.module.parameters(), average, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(c, d, rtol=1e-6, atol=1e-7)


def test_warm_up_and_a_decay():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], 2.0)
    rates = warm_up(optimiser, 4, lambda k: 0.5**k)
    found = []
    for _ in range(6):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        rates.step()
    assert found == [2.0 * min(1.0, (k + 1) / 4) * 0.5**k for k in range(6)]
    assert warm_up(torch.optim.SGD([weight], 2.0), 0).get_last_lr() == [2.0]


def test_every_sample_comes_once_an_epoch():
    batches = Batches(
        torch.arange(10.0)[:, None], {"label": torch.arange(10), "scale": 2.0}, batch=4, seed=3
    )
    drawn = [batches(k) for k in range(5)]  # 20 samples: two epochs
    seen = torch.cat([x[:, 0] for (x,), _ in drawn])
    assert torch.equal(seen[:10].sort().values, torch.arange(10.0))
    assert torch.equal(seen[10:].sort().values, torch.arange(10.0))
    assert not torch.equal(seen[:10], seen[10:])
    assert all(
        torch.equal(x[:, 0].long(), cond["label"]) and cond["scale"] == 2.0 for (x,), cond in drawn
    )
    again = Batches(torch.arange(10.0)[:, None], batch=4, seed=3)
    assert torch.equal(again(4)[0][0], drawn[4][0][0])
    assert not torch.equal(
        Batches(torch.arange(10.0)[:, None], batch=4, seed=4)(0)[0][0], drawn[0][0][0]
    )
    (big,), _ = Batches(torch.arange(3.0)[:, None], batch=8)(0)
    assert torch.bincount(big[:, 0].long()).tolist() == [3, 3, 2] or sorted(
        torch.bincount(big[:, 0].long())
    ) == [
        2,
        3,
        3,
    ]


def test_pairs_and_other_objectives():
    """A batch may be several tensors; networks of two times and conditions left out train the same
    way."""
    net = Net(0.0)
    objective = Interpolant(
        ode.Model(net, ode.paths.Linear(), "velocity"), bridges.sine_squared(0.1)
    )
    pairs = Batches((POINTS, POINTS + 1.0), batch=8)
    history = fit(
        objective, pairs, 3, optimiser=torch.optim.Adam(net.parameters()), generator=generator()
    )
    assert len(history) == 3

    two = torch.nn.Linear(4, 2)
    flow_map = FlowMap(
        lambda x, r, t: two(torch.cat([x, r[:, None], t[:, None]], 1)), ode.paths.Linear()
    )
    history = fit(
        MeanFlow(flow_map),
        POINTS,
        3,
        optimiser=torch.optim.Adam(two.parameters()),
        generator=generator(),
    )
    assert bool(torch.isfinite(history.losses).all())

    plain = Matching(ode.Model(net, ode.paths.Linear(), "velocity"))

    def some(x, *, generator, cond=None):
        return plain(x, generator=generator, cond=dropped(cond, {"label": 0}, 0.5, generator))

    fit(
        some,
        POINTS,
        3,
        optimiser=torch.optim.Adam(net.parameters()),
        cond={"label": LABELS},
        generator=generator(),
    )


class Spoilt:
    """An objective that is not finite in one step."""

    def __init__(self, objective, step, value=math.nan, gradient=False):
        self.objective, self.step, self.value, self.gradient, self.done = (
            objective,
            step,
            value,
            gradient,
            0,
        )

    def __call__(self, x, **given):
        terms = self.objective(x, **given)
        self.done += 1
        if self.done <= self.step:
            return terms
        if self.gradient:  # finite itself: sqrt has an infinite slope at 0
            return Terms((terms.loss * 0.0).sqrt(), terms.each, terms.t)
        return Terms(terms.loss * self.value, terms.each, terms.t)


@rows("how", [{}, {"value": math.inf}, {"gradient": True}], ids=["nan", "infinite", "gradient"])
def test_a_loss_that_is_not_finite_stops(tmp_path, how):
    net, objective, optimiser, ema = built()
    data = Batches(POINTS, {"label": LABELS}, 16)
    weights = []

    def after(done, terms):
        weights.append(copy.deepcopy(net.state_dict()))

    options = {
        "optimiser": optimiser,
        "ema": ema,
        "generator": generator(),
        "network": net,
        "folder": tmp_path,
    }
    with pytest.raises(NotFinite, match="after 4 steps the loss is") as error:
        fit(Spoilt(objective, 4, **how), data, 9, after=after, every=2, **options)
    found = error.value
    assert found.step == 4
    (x,), cond = data(4)
    assert torch.equal(found.batch[0], x)
    assert torch.equal(found.cond["label"], cond["label"])
    assert torch.equal(found.t, found.terms.t)
    assert all(torch.equal(v, weights[-1][k]) for k, v in net.state_dict().items() if k != "calls")
    assert ema.updates == 4
    facts = checkpoint.read(found.file).facts
    assert found.file.parent == tmp_path
    assert torch.equal(facts["batch"][0], x)
    assert torch.equal(facts["cond"]["label"], cond["label"])
    assert torch.equal(facts["t"], found.t)
    assert torch.equal(facts["each"], found.terms.each.detach())
    again = generator()
    again.set_state(facts["generator"])
    assert torch.equal(objective(x, cond=cond, generator=again).t, found.t)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors").step == 4


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, objective, optimiser, _ = built()
    with pytest.raises(NotFinite) as error:
        fit(Spoilt(objective, 0), POINTS, 2, optimiser=optimiser)
    assert error.value.file is error.value.state is None
    assert not list(tmp_path.iterdir())


def test_half_precision_scales_its_losses():
    """In float16 the scale of 65536 overflows at first: those steps are left out, of the schedule
    and the average too."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2)
    ema, rates = EMA(net, 0.5), []
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)

    def objective(x, *, generator, cond=None):
        out = net(x)
        assert out.dtype == torch.float16
        return Terms(3e4 * out.float().square().mean(), out, torch.zeros(len(x)))

    before = copy.deepcopy(net.state_dict())
    moved = []

    def after(done, terms):
        rates.append(optimiser.param_groups[0]["lr"])
        moved.append(not torch.equal(net.weight, before["weight"]))

    history = fit(objective, POINTS, 40, optimiser=optimiser, ema=ema, warmup=100, dtype=torch.float16, after=after,
                  generator=generator(), clip=1.0)  # fmt: skip
    assert not moved[0]
    assert moved[-1]
    skipped = 40 - ema.updates
    assert 0 < skipped < 40
    assert skipped == int((~torch.isfinite(history.norms)).sum())
    assert abs(rates[-1] - 1e-3 * (ema.updates + 1) / 100) < 1e-12
    assert bool(torch.isfinite(net.weight).all())


def test_bfloat16_is_seen_by_the_network_alone():
    seen = []

    def net(x, t):
        out = layer(x)
        seen.append(out.dtype)
        return out

    layer = torch.nn.Linear(2, 2)
    objective = Matching(ode.Model(net, ode.paths.Linear(), "velocity", dtype=torch.float32))
    optimiser = torch.optim.SGD(layer.parameters(), 1e-3)
    terms = []
    fit(
        objective,
        POINTS,
        1,
        optimiser=optimiser,
        dtype=torch.bfloat16,
        after=lambda _, t: terms.append(t),
    )
    assert seen == [torch.bfloat16]
    assert terms[0].loss.dtype == layer.weight.dtype == torch.float32


def test_after_ends_the_training(tmp_path):
    history = run(50, tmp_path, after=lambda done, terms: done == 5)[3]
    assert len(history) == 5
    assert checkpoint.read(tmp_path / "checkpoint.safetensors").step == 5
    assert history.mean(0.4) == float(history.losses[-2:].mean())


def test_further_parts_are_saved(tmp_path):
    layer = torch.nn.Linear(1, 1)
    run(3, tmp_path, parts={"critic": layer})
    other = torch.nn.Linear(1, 1)
    run(3, tmp_path, parts={"critic": other})
    assert torch.equal(other.weight, layer.weight)


def test_conditions_are_passed_where_there_are_some():
    """An objective of its own needs no more arguments than it has a use for; a loss may be a
    number."""
    layer, seen = torch.nn.Linear(2, 1), []
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    numbers = lambda x, generator: layer(x).square().mean()
    fit(numbers, POINTS, 2, optimiser=optimiser, batch=8, generator=generator())
    labelled = lambda x, generator, cond: (
        seen.append(cond["label"].shape) or layer(x).square().mean()
    )
    fit(
        labelled,
        POINTS,
        1,
        optimiser=optimiser,
        batch=8,
        cond={"label": LABELS},
        generator=generator(),
    )
    assert seen == [(8,)]
    drift, score = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    flow = DiffFlow(lambda x, t: drift(x), lambda x, t: score(x), 1.0, torch.linspace(0, 1, 4))
    before = drift.weight.detach().clone()
    both = torch.optim.SGD([*drift.parameters(), *score.parameters()], 0.1)
    fit(flow, POINTS, 1, optimiser=both, batch=8, generator=generator())
    assert not torch.equal(drift.weight, before)


def test_it_learns():
    """The velocity of N(0, s^2) is linear in x at each time: with t fixed, Adam finds the factor
    that least squares does."""
    path, s, t = ode.paths.Linear(), 0.6, 0.4
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    # the schedule's steps sum to 2: a start below -0.7 would end on the way
    torch.nn.init.zeros_(layer.weight)
    plain = Matching(ode.Model(lambda x, t: layer(x), path, "velocity", dtype=torch.float64))
    x = s * torch.randn(200_000, 1, dtype=torch.float64, generator=generator())

    def objective(x, *, generator, cond=None):
        return plain(
            x, t=torch.full((len(x),), t, dtype=torch.float64), generator=generator, cond=cond
        )

    ema = EMA(layer, Exponential(0.99, corrected=True))
    fit(objective, x, 600, optimiser=torch.optim.Adam(layer.parameters(), 2e-2), batch=2000, ema=ema,
        generator=generator(1), schedule=lambda k: 0.99**k)  # fmt: skip
    exact = (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2)
    assert abs(float(ema.module.weight) - exact) < 1e-2


@rows(
    ("options", "told"),
    [
        ({"dtype": torch.float64}, "torch.bfloat16 or torch.float16"),
        ({"warmup": -1}, "warmup=-1"),
        ({"every": 0}, "every=0"),
        ({"data": 3}, "the data are int"),
        ({"data": torch.utils.data.TensorDataset(POINTS)}, r"give DataLoader\(data, "),
        ({"data": []}, "the data ended after 0 batches"),
        ({"data": iter([torch.zeros(4, 2)])}, "the data ended after 1 batches"),
        ({"data": [{"x": 1}]}, "a batch is dict"),
        ({"data": [torch.zeros(4, 2)], "cond": {"label": LABELS}}, "cond= goes with a data set"),
        ({"cond": {"label": LABELS[:3]}}, "one row for each sample"),
        ({"data": POINTS[:0]}, "one row for each sample"),
        ({"batch": 0}, "batch=0"),
        ({"objective": lambda x, **_: x}, r"the objective returned numbers of shape \(256, 2\)"),
        ({"objective": lambda x, **_: "x"}, "the objective returned str"),
        ({"objective": lambda x, **_: Terms(x, x, x)}, "whose loss is one number"),
        ({"objective": lambda x, **_: None, "folder": "."}, "give network="),
        (
            {"network": torch.nn.Linear(2, 2), "folder": "."},
            "weights that the network does not hold",
        ),
    ],
)
def test_at_the_door(options, told):
    _, objective, optimiser, _ = built()
    given = {"objective": objective, "data": POINTS, "steps": 2, "optimiser": optimiser, **options}
    with pytest.raises(ode.OdesolveError, match=told):
        fit(**given)
