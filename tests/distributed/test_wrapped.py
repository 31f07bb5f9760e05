"""Networks in wrappers that wait for other ranks, networks cut over ranks, and groups: right or
refused, and nothing leaks."""

from __future__ import annotations

import os
import threading

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import odesolve as ode
from tests.distributed.ranks import on_ranks
from tests.run.rational import model, noise

PATH = ode.paths.VP()


class Inner(torch.nn.Module):
    """With a buffer, which DistributedDataParallel hands to all ranks before a forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, t):
        return self.second(torch.tanh(self.first(x))) * (1.0 - 0.5 * t[:, None])


class Holder(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x, t)


def outermost(net):
    return DistributedDataParallel(net)


def nested(net):
    return Holder(DistributedDataParallel(net))


def in_lambda(net):
    wrapped = DistributedDataParallel(net)
    return lambda x, t: wrapped(x, t)


def compiled_name(net):
    return Holder(Holder(DistributedDataParallel(net)))


# Of the others the short suite has the first two in tests of jobs and of training.
WRAPPED = [
    *(pytest.param(f, marks=pytest.mark.long) for f in (outermost, nested, compiled_name)),
    in_lambda,
]


def base(z):
    """Of which nothing is known."""
    return -z.square().sum(1)


def hard():
    torch.manual_seed(1)
    return torch.cat([0.01 * torch.ones(1, 4), torch.randn(2, 4)])


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrappers_are_off_wherever_they_sit(wrapped, tmp_path):
    """Adaptive solves take other numbers of calls on every rank: with the wrapper on, this would
    wait for ever."""

    def check():
        whole = ode.Model(wrapped(Inner()), PATH, "data")
        found = ode.distributed.log_prob(
            whole, hard(), trace="exact", gather=True, tol=1e-3, base=base
        )
        along = ode.distributed.log_prob(
            whole, hard(), trace="hutchinson", divergence="along", seed=0, base=base, gather=True
        )
        x = ode.distributed.sample(whole, hard(), "ddim", 6, gather=True)
        time = ode.distributed.mesh(time=2)
        window = ode.distributed.sample(
            whole, hard(), "ddim", 6, mesh=time, executor=ode.Window(exact=True)
        )
        return [v.tolist() for v in (found.value, along.value, x, window)], found.nfe.tolist()

    plain = ode.Model(Inner(), PATH, "data")
    value = ode.log_prob(plain, hard(), trace="exact", tol=1e-3, base=base).value
    along = ode.log_prob(
        plain, hard(), trace="hutchinson", divergence="along", seed=0, base=base
    ).value
    x = ode.sample(plain, hard(), "ddim", 6)
    for found, nfe in on_ranks(check, 2, tmp_path):
        assert len(set(nfe)) > 1
        for own, expected in zip(found, (value, along, x, x), strict=True):
            torch.testing.assert_close(
                torch.tensor(own, dtype=expected.dtype), expected, rtol=1e-5, atol=1e-5
            )


def test_a_wrapper_is_on_again_afterwards(tmp_path):
    def check():
        wrapped = DistributedDataParallel(Inner())
        ode.distributed.sample(ode.Model(wrapped, PATH, "data"), hard(), "ddim", 2)
        wrapped(hard(), torch.ones(3)).sum().backward()
        return "forward" in vars(wrapped), wrapped.module.first.weight.grad.tolist()

    found = on_ranks(check, 2, tmp_path)
    assert not any(held for held, _ in found)
    assert found[0][1] == found[1][1]


def test_fully_sharded(tmp_path):
    def check():
        net = Inner()
        fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
        whole, time = ode.Model(net, PATH, "data"), ode.distributed.mesh(time=2)
        said = []
        for call in (
            lambda: ode.distributed.sample(whole, hard(), "ddim", 6),
            lambda: ode.distributed.log_prob(whole, hard(), trace="exact"),
        ):
            with pytest.raises(
                ode.OdesolveError,
                match=r"fully sharded over ranks: give "
                r"mesh\(time=\)",
            ):
                call()
        for executor in (None, ode.Window(exact=True)):
            said.append(
                ode.distributed.sample(
                    whole, hard(), "ddim", 6, mesh=time, executor=executor
                ).tolist()
            )
        return said

    x = ode.sample(ode.Model(Inner(), PATH, "data"), hard(), "ddim", 6)
    for found in on_ranks(check, 2, tmp_path):
        for own in found:
            torch.testing.assert_close(torch.tensor(own), x)


@pytest.mark.parametrize(
    "trace",
    ["hutchinson", *(pytest.param(t, marks=pytest.mark.long) for t in ("exact", "auto"))],
)
def test_fully_sharded_log_densities(trace, tmp_path):
    """The steps are those of one state that all ranks have."""

    def check():
        net = Inner()
        fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
        found = ode.distributed.log_prob(
            ode.Model(net, PATH, "data"),
            hard(),
            mesh=ode.distributed.mesh(time=2),
            trace="hutchinson",
            seed=0,
            base=base,
        )
        return found.value.tolist()

    value = ode.log_prob(
        ode.Model(Inner(), PATH, "data"), hard(), trace=trace, seed=0, base=base
    ).value
    for own in on_ranks(check, 2, tmp_path):
        torch.testing.assert_close(
            torch.tensor(own, dtype=torch.float64), value, rtol=1e-6, atol=1e-5
        )


def test_copies_of_sharded_weights(tmp_path):
    def check():
        net = Inner()
        fully_shard(net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards")))
        time = ode.distributed.mesh(time=4)
        return ode.distributed.sample(
            ode.Model(net, PATH, "data"), hard(), "ddim", 6, mesh=time
        ).tolist()

    x = ode.sample(ode.Model(Inner(), PATH, "data"), hard(), "ddim", 6)
    for own in on_ranks(check, 4, tmp_path):
        torch.testing.assert_close(torch.tensor(own), x)


def test_tensor_parallel(tmp_path):
    def check():
        net = Inner()
        parallelize_module(
            net,
            init_device_mesh("cpu", (2,)),
            {"first": ColwiseParallel(), "second": RowwiseParallel()},
        )
        whole = ode.Model(net, PATH, "data")
        for mesh in (ode.distributed.mesh(), ode.distributed.mesh(time=2)):
            with pytest.raises(
                ode.OdesolveError,
                match=r"tensor parallel over ranks.*call ode.sample itself on "
                r"every rank",
            ):
                ode.distributed.sample(whole, hard(), "ddim", 6, mesh=mesh)
            with pytest.raises(
                ode.OdesolveError,
                match=r"tensor parallel over ranks.*call "
                r"ode.log_prob itself",
            ):
                ode.distributed.log_prob(whole, hard(), mesh=mesh)
        return ode.sample(whole, hard(), "ddim", 6).tolist()

    x = ode.sample(ode.Model(Inner(), PATH, "data"), hard(), "ddim", 6)
    for own in on_ranks(check, 2, tmp_path):
        torch.testing.assert_close(torch.tensor(own), x)


def test_batch_norms_over_ranks(tmp_path):
    """In train mode a call of one rank waits for a call of every other."""

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.SyncBatchNorm(4)

        def forward(self, x, t):
            return self.norm(x)

    def check():
        whole = ode.Model(Normed(), PATH, "data")
        for call in (
            lambda: ode.distributed.sample(whole, hard(), "ddim", 3),
            lambda: ode.distributed.log_prob(whole, hard()),
        ):
            with pytest.raises(
                ode.OdesolveError,
                match=r"SyncBatchNorm takes means over all "
                r"ranks.*call \.eval\(\)",
            ):
                call()
        whole.net.eval()
        return ode.distributed.sample(whole, hard(), "ddim", 3, gather=True).tolist()

    x = ode.sample(ode.Model(Normed().eval(), PATH, "data"), hard(), "ddim", 3)
    for own in on_ranks(check, 2, tmp_path):
        torch.testing.assert_close(torch.tensor(own), x)


def test_calls_keep_no_threads_and_files(tmp_path):
    def check():
        def held():
            with open("/proc/self/status") as f:
                threads = next(int(line.split()[1]) for line in f if line.startswith("Threads"))
            return threads, len(os.listdir("/proc/self/fd")), threading.active_count()

        def call():
            ode.distributed.sample(model(), noise(), "ddim", 1)
            ode.distributed.sample(model(), noise(), "ddim", 1, mesh=ode.distributed.mesh(time=2))

        call()
        before = held()
        for _ in range(30):
            call()
        return before, held()

    # what the first call still held may have gone by the end
    for before, after in on_ranks(check, 2, tmp_path):
        assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def test_meshes_of_some_of_the_ranks(tmp_path):
    """Ranks 0 and 1 of 3, and two replicas with seeds of their own: everything goes by the mesh's
    groups."""

    def check():
        rank = dist.get_rank()
        pair = DeviceMesh("cpu", torch.tensor([[0], [1]]), mesh_dim_names=("data", "time"))
        if rank == 2:
            with pytest.raises(
                ode.OdesolveError, match=r"rank 2 is not one of the mesh's, \[0, 1\]"
            ):
                ode.distributed.sample(model(), (4, 2, 3), "ddpm", 5, mesh=pair, seed=1)
            return "refused"
        return ode.distributed.sample(
            model(), (4, 2, 3), "ddpm", 5, mesh=pair, seed=1, gather=True
        ).tolist()

    alone = ode.sample(model(), (4, 2, 3), "ddpm", 5, seed=1)
    *found, nothing = on_ranks(check, 3, tmp_path)
    assert nothing == "refused"
    for x in found:
        assert torch.equal(torch.tensor(x, dtype=alone.dtype), alone)


def test_replicas_have_their_own_seeds(tmp_path):
    def check():
        replica = dist.get_rank() // 2
        whole = init_device_mesh("cpu", (2, 2, 1), mesh_dim_names=("replica", "data", "time"))
        return ode.distributed.sample(
            model(), (4, 2, 3), "ddpm", 5, mesh=whole["data", "time"], seed=replica, gather=True
        ).tolist()

    for rank, x in enumerate(on_ranks(check, 4, tmp_path)):
        alone = ode.sample(model(), (4, 2, 3), "ddpm", 5, seed=rank // 2)
        assert torch.equal(torch.tensor(x, dtype=alone.dtype), alone)


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fewest = None

    def __fingerprint__(self):
        return "counting"

    def forward(self, x, t):
        self.fewest = len(x) if self.fewest is None else min(self.fewest, len(x))
        return 0.5 * x


def test_no_network_is_called_on_no_rows(tmp_path):
    def check():
        net = Counting()
        whole = ode.Model(net, PATH, "data")
        x = ode.distributed.sample(whole, hard()[:1], "ddim", 3, gather=True)
        own = ode.distributed.sample(whole, hard()[:1], "ddim", 3, full=True)
        return x.tolist(), list(own.x.shape), own.status, net.fewest

    x = ode.sample(ode.Model(Counting(), PATH, "data"), hard()[:1], "ddim", 3)
    for rank, (whole, shape, status, fewest) in enumerate(on_ranks(check, 3, tmp_path)):
        assert torch.equal(torch.tensor(whole), x)
        assert (shape, status, fewest) == ([int(rank == 0), 4], "ok", 1)


class Judge(torch.nn.Module):
    """A classifier, with a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, t):
        return -(self.weight * x * x).flatten(1).sum(1)


def judged(judge):
    return model().classifier_guided(judge), torch.cat([0.01 * noise(1), 3.0 * noise(1)])


def test_a_classifier_is_looked_at_as_the_network_is(tmp_path):
    """Windows take other numbers of rounds on every rank, so that a wrapped classifier would wait
    for ever."""
    window = {"tolerance": 1e-3, "size": 4}

    def check():
        mesh = ode.distributed.mesh(timeout=20.0)
        whose, x = judged(DistributedDataParallel(Judge()))
        found = ode.distributed.sample(
            whose, x, "ddim", 24, mesh=mesh, gather=True, executor=ode.Window(**window)
        )
        cut = fully_shard(Judge(), mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(
            ode.OdesolveError,
            match=r"fully sharded over ranks: give "
            r"mesh\(time=\)",
        ):
            ode.distributed.sample(judged(cut)[0], x, "ddim", 24, mesh=mesh)
        return found.tolist()

    whose, x = judged(Judge())
    alone = [
        ode.sample(whose, row, "ddim", 24, executor=ode.Window(**window)) for row in x.split(1)
    ]
    for found in on_ranks(check, 2, tmp_path):
        assert torch.equal(torch.tensor(found, dtype=x.dtype), torch.cat(alone))
