"""Jobs on ranks, however these were started, whatever their networks are wrapped in."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import odesolve as ode
from odesolve.distributed.wrappers import bare
from odesolve.fingerprints.fingerprint import checksum, fingerprint
from odesolve.jobs import lines, work
from tests.distributed.ranks import on_ranks
from tests.jobs.nets import model
from tests.jobs.ranks import SHARD, Holder, N, Net, Slow, draw, in_lambda
from tests.products import diagonal

STARTED = {
    "torchrun": {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
    "srun": {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"},
    "mpirun": {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    },
    "mpiexec": {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"},
}


@pytest.fixture(params=STARTED)
def started(request, monkeypatch):
    for name, value in STARTED[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


def outermost(net):
    return DistributedDataParallel(net)


def nested(net):
    return Holder(Holder(DistributedDataParallel(net)))


def lambdas(net):
    return in_lambda(DistributedDataParallel(net))


BARE = {outermost: lambda net: net, nested: lambda net: Holder(Holder(net)), lambdas: in_lambda}


def base(z):
    return -z.square().flatten(1).sum(1)


def data():
    torch.manual_seed(1)
    return torch.cat([0.01 * torch.ones(1, 1, 3), torch.randn(6, 1, 3)])


def densities(out, net):
    options = {"batch": 1, "shard": 1, "base": base, "trace": "exact", "tol": 0.1}
    return ode.jobs.log_prob(model(net), data(), out=out, progress=False, **options)


@pytest.mark.parametrize(
    "wrapped",
    [nested, *(pytest.param(f, marks=pytest.mark.long) for f in (outermost, lambdas))],
    ids=lambda f: f.__name__,
)
def test_wrapped_networks(tmp_path, wrapped):
    """Two ranks that take other numbers of calls; taken up bare, and begun bare before: one job."""

    def check():
        rank = dist.get_rank()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        net = wrapped(Slow())
        given = ode.Model(net, ode.paths.VP(), "noise")
        byid = ode.jobs.sample(
            lambda ids: given, (4, 1, 3), "ddim", 2, n=8, out=tmp_path / "ids", progress=False
        )
        found = draw(tmp_path / "half", net), densities(tmp_path / "job", net), byid
        return [job.digest for job in found]

    alone = densities(tmp_path / "alone", BARE[wrapped](Slow()))
    assert len(set(alone.load()["nfe"])) > 1
    half = draw(tmp_path / "half", BARE[wrapped](Slow()))
    digests = half.digest, alone.digest
    half.found()[1].unlink()
    for found in on_ranks(check, 2, tmp_path):
        assert tuple(found[:2]) == digests
    ode.jobs.Job(tmp_path / "job").found()[2].unlink()
    again = densities(tmp_path / "job", BARE[wrapped](Slow()))
    assert again.digest == alone.digest


def test_networks_of_many_ranks_are_refused(tmp_path):
    """By name, with what to do: weights that are cut, rows that are spread, means over all
    ranks."""

    def check():
        mesh = init_device_mesh("cpu", (2,))
        full, cut, normed = Slow(), Slow(), torch.nn.Sequential(torch.nn.SyncBatchNorm(3))
        fully_shard(full, mesh=mesh)
        parallelize_module(cut, mesh, {"inner": ColwiseParallel()})
        spread = ode.distributed.spread(
            model(Slow()), ode.distributed.mesh(time=2).get_group("time")
        )
        kinds = (
            ("fully sharded over ranks", model(full)),
            ("fully sharded over ranks", model(in_lambda(Holder(full)))),
            ("tensor parallel over ranks", model(cut)),
            ("spread over ranks", spread),
            ("SyncBatchNorm", model(normed)),
        )
        for told, given in kinds:
            for model_or_function in (given, lambda ids, given=given: given):
                with pytest.raises(ode.OdesolveError, match=f"jobs.sample: .*{told}"):
                    ode.jobs.sample(
                        model_or_function, (4, 1, 3), "ddim", 2, n=8, out=tmp_path / "job"
                    )
            with pytest.raises(ode.OdesolveError, match=f"jobs.log_prob: .*{told}"):
                ode.jobs.log_prob(given, data(), out=tmp_path / "job")
        assert len(checksum(full.inner.weight)) == len(fingerprint(full)) == 32
        assert checksum(full.inner.weight) != checksum(full.inner.weight.to_local())
        return (tmp_path / "job").exists()

    assert on_ranks(check, 2, tmp_path) == [False, False]


class Doubled(DistributedDataParallel):
    """A wrapper that answers otherwise than what it holds."""

    def forward(self, *given):
        return 2.0 * super().forward(*given)


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_wrappers_are_off_as_long_as_a_thread_needs_it(group):
    """However calls of threads begin and end."""
    wrapper, errors = DistributedDataParallel(Slow()), []

    def call():
        for _ in range(300):
            with bare(wrapper):
                if "forward" not in vars(wrapper):
                    errors.append("on")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert (errors, "forward" in vars(wrapper)) == ([], False)


def test_a_wrapper_with_a_forward_of_its_own_keeps_it(group, tmp_path):
    wrapper = Doubled(Slow())
    before = wrapper.require_forward_param_sync, wrapper.require_backward_grad_sync
    job = draw(tmp_path / "job", wrapper)
    assert (wrapper.require_forward_param_sync, wrapper.require_backward_grad_sync) == before
    x, t = torch.ones(2, 1, 3), torch.ones(2)
    with bare(wrapper):
        torch.testing.assert_close(wrapper(x, t), 2.0 * wrapper.module(x, t))
    assert job.digest != draw(tmp_path / "other", Slow()).digest


class Forwarding(DistributedDataParallel):
    """As many have it: attributes of the network are those of the wrapper."""

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


WRAPPERS = {
    "ddp": DistributedDataParallel,
    "forwarding": Forwarding,
    "dp": torch.nn.DataParallel,
    "compiled": torch.compile,
    "compiled ddp": lambda net: torch.compile(DistributedDataParallel(net)),
    "ddp compiled": lambda net: DistributedDataParallel(torch.compile(net)),
}
HOLDERS = {
    "outermost": lambda net: net,
    "nested": Holder,
    "lambda": in_lambda,
    "method": lambda net: net.__call__,
    "list": lambda net: [net, 3],
    "weights": lambda net: net.state_dict(),
    "inner weights": lambda net: {f"inner.{k}": v for k, v in net.state_dict().items()},
}


@pytest.mark.few(14)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_wrappers_make_no_other_fingerprint(group, wrapper, holder):
    held = HOLDERS[holder]
    assert fingerprint(held(WRAPPERS[wrapper](Net()))) == fingerprint(held(Net()))


def twice(module, given, out):
    return 2.0 * out


@pytest.mark.parametrize("wrapper", ["ddp", "dp", "compiled"])
def test_what_a_wrapper_adds_makes_another(group, wrapper):
    """A hook on it, as on the network; a forward of the user's."""
    wrapped, net = WRAPPERS[wrapper](Net()), Net()
    for module in (wrapped, net):
        module.register_forward_hook(twice)
    assert fingerprint(wrapped) == fingerprint(net) != fingerprint(Net())
    assert fingerprint(Doubled(Net())) not in (fingerprint(Net()), fingerprint(net))
    own = DistributedDataParallel(Net())
    own.forward = lambda x, t: 3.0 * x
    assert fingerprint(own) != fingerprint(Net())


def test_names_that_only_look_like_a_wrappers(group):
    one, two = torch.ones(2), torch.zeros(2)
    assert fingerprint({"module.a": one, "a": two}) != fingerprint({"module.a": two, "a": one})
    assert fingerprint({"module.a": one}) != fingerprint({"module.a": two})
    assert fingerprint({"module.a": 1}) != fingerprint({"a": 1})
    assert fingerprint({"mymodule.a": one}) != fingerprint({"a": one})


def test_every_rank_begins_at_its_share(started, tmp_path, monkeypatch):
    made = []
    real = work._Worker.make
    monkeypatch.setattr(work._Worker, "make", lambda self, k: (made.append(k), real(self, k))[1])
    shown = []
    monkeypatch.setattr(
        work, "shown", lambda job, show: (shown.append(show), lines.Bar(1, False, ""))[1]
    )
    draw(tmp_path, Slow(), progress=None)
    shards = N // SHARD
    first = shards * 3 // 4
    assert made == [*range(first, shards), *range(first)]
    assert shown == [False]  # the first of a machine shows it


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("started", "seen", "chosen"),
    [(name, *counts) for name, counts in diagonal(list(STARTED), [(4, 1), (1, 0), (0, 1)])],
    indirect=["started"],
)
def test_the_device_of_the_local_rank(started, tmp_path, monkeypatch, seen, chosen):
    """Of jobs from Python as of the command; the only one, where a scheduler shows a process no
    other."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    draw(tmp_path / "a", Slow(), device="cpu")
    ode.jobs.log_prob(model(Slow()), data()[:1], out=tmp_path / "b", trace="exact", progress=False)
    assert calls == [chosen, chosen]


def test_alone_no_device_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda k: pytest.fail("chosen"))
    draw(tmp_path, Slow(), device="cpu")


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    job = draw(tmp_path / "job", Slow())
    path = job.found()[5]
    path.unlink()
    clock = [0.0]
    with lines.Lines(job, lambda: clock[0]) as tick:
        for clock[0], n in ((0.0, 8), (9.0, 16), (10.0, 20), (30.0, 24), (69.0, 32), (70.0, 38)):
            tick(n)
    told = [line.partition(f"{job.named}: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "5 of 6 shards, 20 of 48 results, 1.2 per second, about 0:00:23 left",
        "5 of 6 shards, 38 of 48 results, 0.429 per second, about 0:00:23 left",
        "5 of 6 shards, 48 of 48 results, 0.571 per second",
    ]


@pytest.mark.parametrize(
    ("progress", "kind"), [(None, lines.Lines), (True, lines.Bar), (False, lines.Bar)]
)
def test_where_lines_are_shown(tmp_path, monkeypatch, progress, kind):
    job = draw(tmp_path, Slow())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert type(lines.shown(job, progress)) is kind
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert type(lines.shown(job, None)) is lines.Bar


COMMANDS = (
    ["sample", "--shape", "4,1,8,8", "--out", "x.npz"],
    ["loglik", "--limit", "2"],
    ["loglik", "--limit", "2", "--out", "x.npz"],
    ["profile", "--nfe", "5", "--shape", "4,1,8,8"],
    ["check", "--shape", "4,1,8,8"],
    ["job", "job", "--verify"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_that_one_process_makes_are_refused_to_many(
    started, tmp_path, monkeypatch, capsys, words
):
    from odesolve.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert (
        f"{started} started 4 processes, each of which would do all of odesolve {words[0]}" in err
    )
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_rank_prints(started, tmp_path, monkeypatch, capsys):
    from odesolve.cli import main

    monkeypatch.chdir(tmp_path)
    words = [
        "sample",
        "--shape",
        "4,1,8,8",
        "--steps",
        "2",
        "-n",
        "8",
        "--out",
        "job",
        "--patience",
        "9",
        "--grace",
        "0",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    for name in STARTED[started]:
        monkeypatch.delenv(name)
    assert main(words) == 0
    assert "sample of ids 0 to 7: done" in capsys.readouterr().out
    assert np.isfinite(ode.jobs.Job("job").load()["samples"]).all()
