"""The order of a DataLoader is that of the run: the same when it goes on, the same on all ranks,
another in each epoch."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from odesolve.training import fit
from tests.distributed.ranks import on_ranks

pytest.importorskip("safetensors")
N = 16
ROWS = TensorDataset(torch.arange(float(N))[:, None])
LOADERS = {
    "shuffled": lambda: DataLoader(ROWS, 4, shuffle=True),
    "sampler": lambda: DataLoader(ROWS, 4, sampler=RandomSampler(ROWS)),
    "batches": lambda: DataLoader(
        ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 4, drop_last=False)
    ),
    "generator": lambda: DataLoader(
        ROWS, 4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
}
SHARES = {
    "sampler": lambda sampler: DataLoader(ROWS, 4, sampler=sampler),
    "batches": lambda sampler: DataLoader(
        ROWS, batch_sampler=BatchSampler(sampler, 4, drop_last=False)
    ),
}


def flat(batches):
    return [row for batch in batches for row in batch]


def seen_by(data, steps, folder=None):
    """The rows of each batch."""
    layer, seen = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), []

    def objective(x, *, generator):
        seen.append([int(v) for v in x[:, 0]])
        return layer(x).square().mean()

    optimiser = torch.optim.SGD(layer.parameters(), 1e-4)
    fit(objective, data, steps, optimiser=optimiser, network=layer, folder=folder)
    return seen, layer[0].weight.tolist()


@pytest.mark.parametrize("stop", [2, 4, 7])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_run_that_goes_on_takes_the_batches_that_were_left(tmp_path, kind, stop):
    torch.manual_seed(0)
    whole, weight = seen_by(LOADERS[kind](), 12, tmp_path / "whole")
    epochs = [flat(whole[k : k + 4]) for k in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    torch.manual_seed(0)
    first, _ = seen_by(LOADERS[kind](), stop, tmp_path / "parts")
    torch.manual_seed(99)  # of another process
    second, again = seen_by(LOADERS[kind](), 12, tmp_path / "parts")
    assert first + second == whole
    assert again == weight


def test_orders_leave_torchs_own_generator_alone():
    torch.manual_seed(0)
    drawn = []
    plain = lambda x, *, generator: (drawn.append(float(torch.rand(()))), layer(x).square().mean())[
        1
    ]
    layer = nn.Linear(1, 1)
    fit(plain, DataLoader(ROWS, 4, shuffle=True), 3, optimiser="sgd", network=layer)
    torch.manual_seed(0)
    nn.Linear(1, 1)
    torch.randint(2**62, ())  # the seed of the run
    assert drawn == [float(torch.rand(())) for _ in range(3)]


def epochs_of(make, steps):
    """Which rows all ranks saw in each of two epochs, by rank."""
    torch.manual_seed(dist.get_rank())
    seen, _ = seen_by(make(), steps)
    half = steps // 2
    return [flat(seen[:half]), flat(seen[half:])]


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", LOADERS)
def test_ranks_go_through_a_loader_together(tmp_path, kind):
    first, second = on_ranks(lambda: epochs_of(LOADERS[kind], 4), 2, tmp_path)
    for mine, theirs in zip(first, second, strict=True):
        assert sorted(mine + theirs) == list(range(N))
    assert first[0] != first[1]


@pytest.mark.parametrize("kind", SHARES)
def test_shares_of_ranks_are_drawn_anew_in_each_epoch(tmp_path, kind):
    make = lambda: SHARES[kind](DistributedSampler(ROWS, seed=3))
    first, second = on_ranks(lambda: epochs_of(make, 4), 2, tmp_path)
    for mine, theirs in zip(first, second, strict=True):
        assert sorted(mine + theirs) == list(range(N))
    assert first[0] != first[1]
