"""Two ranks train as one process with as many batches a step, to rounding, and one file is for any
number of ranks."""

import contextlib
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import odesolve as ode
from odesolve import objectives as obj
from odesolve.objectives import dropped, times
from odesolve.training import EMA, NotFinite, checkpoint, fit
from tests.distributed.ranks import on_ranks
from tests.products import diagonal

pytest.importorskip("safetensors")
POINTS = torch.randn(30, 2, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(30) % 3
LINEAR, EDM = ode.paths.Linear(), ode.paths.EDM(sigma_max=5.0)


class Net(nn.Module):
    """With dropout, a label and a weight that nothing uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))
        self.label, self.idle = nn.Embedding(4, 2), nn.Linear(2, 2)

    def forward(self, x, t, label=None, scale=None):
        out = self.layers(torch.cat([x, torch.sin(t).to(x.dtype)[:, None]], 1))
        out = out if scale is None else out + scale[:, None]
        return out if label is None else out + self.label(label)


def model(net, predicts="velocity", path=LINEAR):
    return ode.Model(net, path, predicts, dtype=torch.float32)


def labelled(net):
    inner = obj.Matching(model(net))
    return lambda x, *, generator, cond: inner(
        x, cond=dropped(cond, {"label": 3}, 0.3, generator), generator=generator
    )


def masked(net):
    inner = obj.Matching(model(net))
    return lambda x, *, generator, cond: inner(x, mask=cond["mask"], generator=generator)


def two_dropped(net):
    inner, null, shares = (
        obj.Matching(model(net)),
        {"label": 3, "scale": 0.0},
        {"label": 0.3, "scale": 0.5},
    )
    return lambda x, *, generator, cond: inner(
        x, cond=dropped(cond, null, shares, generator), generator=generator
    )


def grown(net):
    return obj.ConsistencyTraining(obj.Consistency(model(net, "edm", EDM)), lambda k: 4 + k)


KINDS = {
    "labels": labelled,
    "transport": lambda net: obj.Matching(model(net), coupling="optimal_transport"),
    "stratified": lambda net: obj.Matching(model(net), times=times.Uniform(stratified=True)),
    "bound": lambda net: obj.VariationalBound(model(net, "noise", ode.paths.VP()), steps=4),
    "sliced": lambda net: obj.SlicedScoreMatching(lambda x: net(x, torch.zeros(len(x)))),
    "consistency": grown,
    "importance": lambda net: obj.Matching(model(net), times="logit_normal", importance=True),
    "uncertainty": lambda net: obj.Matching(model(net), uncertainty=obj.Uncertainty(LINEAR, 4)),
    "masks": masked,
    "two conditions dropped": two_dropped,
    "sCM": lambda net: obj.TrigConsistency(model(net, "v", ode.paths.Trig()), warmup=4),
}


CONDITIONS = {
    "labels": {"label": LABELS},
    "masks": {"mask": torch.rand(30, 2, generator=torch.Generator().manual_seed(6)) + 0.1},
    "two conditions dropped": {"label": LABELS, "scale": torch.linspace(-1, 1, 30)},
}


def run(kind="labels", steps=7, folder=None, wrapped=False, data=POINTS, seeded=True, **options):
    """Weights, averages, losses and norms of a training in which every rank begins with weights of
    its own."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(rank)
    net = Net()
    ema = EMA(net, 0.8)
    objective = KINDS[kind](DistributedDataParallel(net) if wrapped else net)
    cond = CONDITIONS.get(kind) if isinstance(data, torch.Tensor) else None
    learned = getattr(objective, "uncertainty", None)
    trained = [*net.parameters(), *([] if learned is None else learned.parameters())]
    generator = torch.Generator().manual_seed(7 + rank) if seeded else None
    history = fit(
        objective, data, steps, optimiser=torch.optim.Adam(trained, 1e-2), ema=ema, batch=8, network=net,
        generator=generator, folder=folder, every=3, cond=cond, warmup=3, clip=2.0, **options,
    )  # fmt: skip
    tensors = (*trained, *ema.module.parameters(), history.losses, history.norms)
    return [v.detach().double().flatten().tolist() for v in tensors]


def close(a, b, atol=1e-6):
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=1e-5, atol=atol)


# Of what ranks share in other ways: labels, couplings, strata, weights beside the network's.
FEW = ("labels", "transport", "stratified", "uncertainty", "consistency")


@pytest.mark.parametrize(
    "kind", [*FEW, *(pytest.param(k, marks=pytest.mark.long) for k in KINDS if k not in FEW)]
)
def test_two_ranks_are_one_process_with_two_batches_a_step(tmp_path, kind):
    found = on_ranks(lambda: (run(kind), run(kind, wrapped=True)), 2, tmp_path)
    alone = run(kind, accumulate=2)
    for plain, wrapped in found:
        close(plain, alone)
        close(wrapped, alone)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("dtype", "seeded"), diagonal([torch.bfloat16, torch.float16], [True, False])
)
def test_in_half_precision(tmp_path, dtype, seeded):
    found = on_ranks(lambda: run(dtype=dtype, seeded=seeded), 2, tmp_path)
    assert found[0] == found[1]
    if seeded:
        close(found[0], run(dtype=dtype, accumulate=2), 1e-4)


def test_numbers_that_do_not_divide(tmp_path):
    """Three batches on two ranks; two on three ranks, of which the last repeats one that does not
    count."""
    three = on_ranks(lambda: run(accumulate=3, wrapped=True), 2, tmp_path)
    close(three[1], run(accumulate=3))

    def fewer():
        with (
            pytest.warns(UserWarning, match="1 of them add nothing")
            if dist.get_rank() == 0
            else contextlib.nullcontext()
        ):
            return run(accumulate=2)

    (tmp_path / "a").mkdir()
    for found in on_ranks(fewer, 3, tmp_path / "a"):
        close(found, run(accumulate=2))


# three: ranks come out of turn
LOADER = [(POINTS[k : k + 8], {"label": LABELS[k : k + 8]}) for k in range(0, 24, 8)]
SOURCES = {
    "iterable": lambda: LOADER,
    "function": lambda: lambda g: (torch.randn(8, 2, generator=g), {"label": LABELS[:8]}),
}


@pytest.mark.parametrize("source", SOURCES)
def test_loaders_and_functions(tmp_path, source):
    alone = run(data=SOURCES[source](), accumulate=2)
    for found in on_ranks(lambda: run(data=SOURCES[source]()), 2, tmp_path):
        close(found, alone)


def test_batches_of_ranks_have_no_sample_in_common(tmp_path):
    """15 steps of two batches of 1 are the 30 samples, once each; loaders with shares of their own
    are left theirs."""

    def check():
        layer, seen, own = nn.Linear(2, 1), [], []
        objective = lambda x, *, generator: (seen.append(x.tolist()), layer(x).square().mean())[1]
        optimiser = torch.optim.SGD(layer.parameters(), 0.0)
        fit(objective, POINTS, 15, optimiser=optimiser, batch=1)
        data = TensorDataset(POINTS)
        sampler = DistributedSampler(data, dist.get_world_size(), dist.get_rank())
        other = lambda x, *, generator: (own.append(x.tolist()), layer(x).square().mean())[1]
        fit(other, DataLoader(data, 5, sampler=sampler), 3, optimiser=optimiser)
        return [row for batch in seen for row in batch], [row for batch in own for row in batch]

    first, second = on_ranks(check, 2, tmp_path)
    for mine, theirs in zip(first, second, strict=True):
        assert sorted(mine + theirs) == sorted(POINTS.tolist())


def test_one_rank_writes_and_any_number_goes_on(tmp_path, monkeypatch):
    """From two ranks on with one, and two again; from one on with two."""
    whole = run(accumulate=2)

    def first():
        written = []
        plain = checkpoint.save
        checkpoint.save = lambda *a, **k: (written.append(1), plain(*a, **k))[1]
        run(steps=4, folder=tmp_path / "two")
        return len(written)

    (tmp_path / "a").mkdir()
    assert on_ranks(first, 2, tmp_path / "a") == [2, 0]
    assert [f.name for f in (tmp_path / "two").iterdir()] == ["checkpoint.safetensors"]
    assert checkpoint.read(tmp_path / "two" / "checkpoint.safetensors").step == 4
    close(run(steps=5, folder=tmp_path / "two"), run(steps=5, accumulate=2))
    (tmp_path / "b").mkdir()
    for found in on_ranks(lambda: run(folder=tmp_path / "two", wrapped=True), 2, tmp_path / "b"):
        close(found, whole)
    run(steps=4, folder=tmp_path / "one", accumulate=2)
    (tmp_path / "c").mkdir()
    for found in on_ranks(lambda: run(folder=tmp_path / "one"), 2, tmp_path / "c"):
        close(found, whole)
    with pytest.raises(ode.OdesolveError, match=r"training\.batches is 2 in the file, 3 here"):
        run(folder=tmp_path / "one", accumulate=3)


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path):
    """The file holds the batch of the rank that had it."""

    def check():
        layer, seen = nn.Linear(2, 1), []

        def objective(x, *, generator):
            seen.append(x)
            loss = layer(x).square().mean()
            return loss * math.nan if len(seen) == 3 and dist.get_rank() == 1 else loss

        optimiser = torch.optim.SGD(layer.parameters(), 0.1)
        with pytest.raises(NotFinite, match="after 2 steps") as error:
            fit(
                objective,
                POINTS,
                9,
                optimiser=optimiser,
                network=layer,
                batch=4,
                folder=tmp_path / "run",
            )
        held = checkpoint.read(error.value.file).facts["batch"][0]
        assert torch.equal(held, seen[2])
        return error.value.file.name, layer.weight.tolist()

    found = on_ranks(check, 2, tmp_path)
    assert [name for name, _ in found] == [
        "not-finite-2.safetensors",
        "not-finite-2-rank-1.safetensors",
    ]
    assert found[0][1] == found[1][1]


def test_stopping_is_for_all(tmp_path):
    def check():
        return len(run(after=lambda done, _: done == 2 and dist.get_rank() == 1)[-1])

    assert on_ranks(check, 2, tmp_path) == [2, 2]


def test_ranks_that_see_other_files_are_told(tmp_path):
    run(steps=3, folder=tmp_path / "run", accumulate=2)

    def check():
        folder = tmp_path / ("run" if dist.get_rank() == 0 else "elsewhere")
        with pytest.raises(ode.OdesolveError, match="give a folder that all ranks share"):
            run(folder=folder)

    on_ranks(check, 2, tmp_path)


def test_the_gradient_of_several_batches_is_their_mean():
    """By hand, with one batch that is twice as many samples: losses are means, so both have the
    same gradient."""
    layer = nn.Linear(2, 2, dtype=torch.float64)
    data = [POINTS[:8].double(), POINTS[8:16].double()]
    start = layer.weight.detach().clone()
    objective = lambda x, *, generator: layer(x).square().mean()
    loss = layer(torch.cat(data)).square().mean()
    (exact,) = torch.autograd.grad(loss, layer.weight)
    history = fit(
        objective, data, 1, optimiser=torch.optim.SGD(layer.parameters(), 0.5), accumulate=2
    )
    torch.testing.assert_close(layer.weight.detach(), start - 0.5 * exact, rtol=1e-12, atol=1e-12)
    assert abs(float(history.losses[0]) - float(loss.detach())) < 1e-12


def test_several_batches_a_step_go_on_bitwise(tmp_path):
    """After stops at and between checkpoints; the file says how many they are."""
    for seeded in (True, False):
        whole = run(accumulate=3, seeded=seeded)
        for stop in (2, 3, 5):
            folder = tmp_path / f"{stop}{seeded}"
            run(steps=stop, folder=folder, accumulate=3, seeded=seeded)
            assert run(folder=folder, seeded=seeded) == whole


def test_files_do_not_know_what_was_wrapped_around_a_network(tmp_path):
    """Trained within DistributedDataParallel, or compiled, a network goes on plain, and the other
    way."""

    def trained(steps, folder, wrap=lambda net: net):
        torch.manual_seed(0)
        net = Net()
        objective = obj.Matching(model(wrap(net)))
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        fit(objective, POINTS, steps, optimiser=optimiser, batch=8, folder=folder, accumulate=2)
        return [p.flatten().tolist() for p in net.parameters()]

    compiled = lambda net: torch.compile(net, backend="eager")
    whole = trained(4, tmp_path / "whole")
    (tmp_path / "a").mkdir()
    on_ranks(lambda: trained(2, tmp_path / "wrapped", DistributedDataParallel), 2, tmp_path / "a")
    close(trained(4, tmp_path / "wrapped"), whole)
    trained(2, tmp_path / "compiled", compiled)
    close(trained(4, tmp_path / "compiled"), whole)
    trained(2, tmp_path / "plain")
    close(trained(4, tmp_path / "plain", compiled), whole)


def test_the_average_of_a_wrapped_network_is_that_of_what_is_inside(tmp_path):
    """So one rank may sample it while the others are elsewhere, as buffers are not shared by its
    forward."""

    def check():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        ema = EMA(DistributedDataParallel(net), 0.8)
        assert ema.source is net
        assert ema.state_dict().keys() == EMA(net, 0.8).state_dict().keys()
        return type(ema.module) is nn.Sequential

    assert on_ranks(check, 2, tmp_path) == [True, True]


OTHERS = {
    "steps": lambda rank: {"steps": 2 + rank},
    "every": lambda rank: {"every": 1 + rank},
    "batch": lambda rank: {"batch": 4 + rank},
    "accumulate": lambda rank: {"accumulate": 2 + rank},
    "warmup": lambda rank: {"warmup": rank},
    "clip": lambda rank: {"clip": 1.0 if rank else None},
    "dtype": lambda rank: {"dtype": torch.bfloat16 if rank else None},
    "optimiser": lambda rank: {"optimiser": f"sgd(lr={0.1 * (1 + rank)})"},
    "schedule": lambda rank: {"schedule": (lambda k: 0.5) if rank else None},
}


def differing():
    rank, told = dist.get_rank(), {}
    for name, other in OTHERS.items():
        options = {"steps": 2, "batch": 4, "optimiser": "sgd(lr=0.1)", **other(rank)}
        try:
            fit(obj.Matching(model(Net())), POINTS, progress=False, **options)
        except ode.OdesolveError as error:
            told[name] = str(error)
    return told


def test_settings_that_differ_among_ranks_are_refused_on_all(tmp_path):
    for rank, told in enumerate(on_ranks(differing, 2, tmp_path)):
        assert told.keys() == OTHERS.keys()
        assert all(
            f"{name} is" in text and f"on rank {rank} and differs" in text
            for name, text in told.items()
        )


def watched_by_one():
    rank, net, seen = dist.get_rank(), Net(), []
    after = (lambda k, terms: seen.append(k) or k == 2) if rank == 0 else None
    done = fit(
        obj.Matching(model(net)),
        POINTS,
        5,
        batch=4,
        optimiser="sgd(lr=0.1)",
        progress=False,
        after=after,
    )
    return len(done), seen


def test_one_rank_may_watch_and_stop(tmp_path):
    assert on_ranks(watched_by_one, 2, tmp_path) == [(2, [1, 2]), (2, [])]
