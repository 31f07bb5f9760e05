"""Jobs that are interrupted and taken up: with another model in between, by threads, on disks
without locks or writes."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from pathlib import Path as File

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.jobs import files, leases, marks
from tests.jobs.nets import Net, changed, model
from tests.products import LONG
from tests.rows import rows

SHAPE = (2, 1, 3)
KILLS = 100 if LONG else 30


class Killed(BaseException):
    """The end of a process, where the test says so."""


class Clock:
    """Counts the steps of writing, and ends the process at one of them."""

    def __init__(self, monkeypatch):
        self.left, self.struck = -1, 0
        for holder, name in (
            (files.os, "fsync"),
            (files.os, "link"),
            (files.File, "replace"),
            (files.File, "mkdir"),
        ):
            monkeypatch.setattr(holder, name, self.watched(getattr(holder, name)))

    def watched(self, real):
        def call(*args, **named):
            if self.left == 0:
                self.left, self.struck = -1, self.struck + 1
                raise Killed
            self.left -= self.left > 0
            return real(*args, **named)

        return call


def draw(out, net=None, n=64, **options):
    given = {"seed": 3, "shard": 2, "progress": False, **options}
    return ode.jobs.sample(
        given.pop("model", None) or model(net or Net()),
        SHAPE,
        "ddim(eta=1)",
        2,
        n=n,
        out=out,
        **given,
    )


def listed(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


OTHERS = (
    lambda: changed(scale=2.0),
    lambda: changed(act=torch.sigmoid),
    lambda: changed(lost=torch.zeros(3)),
    lambda: Net().eval(),
    lambda: Net(1),
)


@pytest.mark.long
def test_kills_with_another_model_in_between(monkeypatch, tmp_path):
    """Wherever a write is cut off, the other model is refused and the right one ends with the same
    bits."""
    whole = draw(tmp_path / "whole")
    clock, out, n = Clock(monkeypatch), tmp_path / "job", 0
    while clock.struck < KILLS:
        out = tmp_path / f"job{n}"
        for at in range(200):
            clock.left = at % 7
            try:
                job = draw(out)
                break
            except Killed:
                pass
            if not (out / "job.json").exists():
                continue
            before = listed(out)
            with pytest.raises(ode.OdesolveError, match="the model differs in net"):
                draw(out, OTHERS[at % len(OTHERS)]())
            assert listed(out) == before
        clock.left = -1
        assert job.hashes == whole.hashes
        assert not [name for name in listed(out) if name.endswith(".part") and "shards" in name]
        n += 1
    assert clock.struck >= KILLS


def four(out, **options):
    """The same job in four threads of this process; what each returned or raised."""
    done: list = [None] * 4
    start = threading.Barrier(4)

    def run(k):
        start.wait()
        try:
            done[k] = draw(out, **options)
        except BaseException as e:
            done[k] = e

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return done


@pytest.mark.parametrize("shared", [True, False])
def test_four_threads_share_a_job(monkeypatch, tmp_path, shared):
    """And no shard is made twice, whether they have one network or one each."""
    whole, made = draw(tmp_path / "whole"), []
    real = ode.jobs.Job.write
    monkeypatch.setattr(
        ode.jobs.Job, "write", lambda self, k, arrays: (made.append(k), real(self, k, arrays))
    )
    done = four(tmp_path / "job", model=model(Net()) if shared else None)
    assert [type(job) for job in done] == [ode.jobs.Job] * 4, done
    assert {job.digest for job in done} == {whole.digest}
    assert sorted(made) == list(range(whole.shards))


def test_a_network_that_counts_is_one_to_all_threads(tmp_path):
    calls = []

    def net(x, t):
        calls.append(len(x))
        return 0.5 * x

    done = four(tmp_path, model=model(net))
    assert [type(job) for job in done] == [ode.jobs.Job] * 4, done
    assert calls == [2] * (2 * 32)
    assert not marks._RUNNING
    calls.append("of another's")
    with pytest.raises(ode.OdesolveError, match=r"the model differs in net\.calls"):
        draw(tmp_path, model=model(net))


def test_threads_do_not_give_up_each_others_locks(tmp_path):
    """The kernel forgets all of a process's locks on a file when any handle of it is closed."""
    first = leases.Leases(tmp_path / "leases")
    assert first.take(5)
    second = leases.Leases(tmp_path / "leases")
    assert not second.take(5)
    second.close()
    child = os.fork()
    if not child:
        other = leases.Leases(tmp_path / "leases")
        os._exit(int(other.take(5)) + 2 * int(other.take(6)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    first.give(5)
    third = leases.Leases(tmp_path / "leases")
    assert third.take(5)
    first.close()
    third.close()


@rows("code", [errno.ENOLCK, None] + [errno.EOPNOTSUPP, errno.EIO, errno.EPERM] * LONG)
def test_without_locks(monkeypatch, tmp_path, code):
    whole = draw(tmp_path / "whole")
    if code is None:
        monkeypatch.setattr(leases, "fcntl", None)
    else:
        monkeypatch.setattr(
            leases.fcntl, "lockf", lambda *args: (_ for _ in ()).throw(OSError(code, "no locks"))
        )
    done = four(tmp_path / "job")
    assert {job.digest for job in done} == {whole.digest}


def test_of_two_jobs_begun_at_once_without_locks_one_is_refused(monkeypatch, tmp_path):
    """The second to write its manifest finds the first's, with hard links or without."""
    monkeypatch.setattr(leases, "fcntl", None)
    theirs, real = draw(tmp_path / "theirs", seed=4, n=4), files.os.link

    def late(part, path):
        path.write_bytes((theirs.root / "job.json").read_bytes())
        return real(part, path)

    monkeypatch.setattr(files.os, "link", late)
    with pytest.raises(ode.OdesolveError, match="seed is 4 there and 3 here"):
        draw(tmp_path / "job", n=4)
    assert ode.jobs.Job(tmp_path / "job").facts == theirs.facts


def test_a_file_system_without_hard_links(monkeypatch, tmp_path):
    monkeypatch.setattr(
        files.os, "link", lambda *args: (_ for _ in ()).throw(PermissionError(errno.EPERM, "none"))
    )
    assert draw(tmp_path / "job").done() == 64


def read_only(monkeypatch):
    def refused(*args, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    opened, reading = os.open, File.open
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    monkeypatch.setattr(
        os, "open", lambda p, f, *m, **d: refused() if f & writes else opened(p, f, *m, **d)
    )
    monkeypatch.setattr(
        File,
        "open",
        lambda p, mode="r", *a, **d: reading(p, mode, *a, **d) if "r" in mode else refused(),
    )
    for name in ("mkdir", "unlink", "replace", "rename", "touch"):
        monkeypatch.setattr(File, name, refused)
    monkeypatch.setattr(os, "link", refused)


def test_a_finished_job_on_a_disk_that_cannot_be_written(monkeypatch, tmp_path):
    whole = draw(tmp_path / "job")
    half = draw(tmp_path / "half")
    half.found()[3].unlink()
    (tmp_path / "job" / "shards" / "0000" / ".x.part").write_bytes(b"")
    read_only(monkeypatch)
    again = draw(tmp_path / "job")
    assert again.left() == []
    np.testing.assert_array_equal(again.load()["samples"], whole.load()["samples"])
    assert sum(len(ids) for ids, _ in again) == 64
    with pytest.raises(
        ode.OdesolveError,
        match=r"half cannot be written .*; it keeps 62 of 64 "
        r"results: give a folder",
    ):
        draw(tmp_path / "half")


def test_a_seed_that_is_drawn_is_kept(tmp_path):
    job = draw(tmp_path / "job", seed=None)
    seed = job.settings["seed"]
    assert isinstance(seed, int)
    job.found()[3].unlink()
    assert draw(tmp_path / "job", seed=None).hashes == draw(tmp_path / "same", seed=seed).hashes
    assert draw(tmp_path / "job", seed=seed).done() == 64
    assert draw(tmp_path / "another", seed=None).settings["seed"] != seed
    with pytest.raises(ode.OdesolveError, match=f"seed is {seed} there and {seed + 1} here"):
        draw(tmp_path / "job", seed=seed + 1)


def test_a_drawn_seed_of_densities(tmp_path):
    given, x = model(Net()), torch.randn(4, 1, 3)
    call = lambda name, seed: ode.jobs.log_prob(
        given, x, out=tmp_path / name, seed=seed, steps=4, trace="hutchinson", products=1
    )
    job = call("job", None)
    values = job.load()["nats"]
    job.found()[0].unlink()
    np.testing.assert_array_equal(call("job", None).load()["nats"], values)
    np.testing.assert_array_equal(call("same", job.settings["seed"]).load()["nats"], values)


def standard(x):
    return -0.5 * (x**2).flatten(1).sum(1)


def test_densities_over_a_base_that_is_a_function(tmp_path):
    given, x = model(Net()), torch.randn(4, 1, 3)

    def call(base):
        return ode.jobs.log_prob(
            given, x, out=tmp_path, base=base, steps=4, trace="exact", progress=False
        )

    for by in (0.5, 0.5):
        assert call(lambda z, by=by: -by * (z**2).flatten(1).sum(1)).done() == 4
    ode.jobs.Job(tmp_path).found()[0].unlink()
    assert call(lambda z, by=0.5: -by * (z**2).flatten(1).sum(1)).done() == 4
    with pytest.raises(ode.OdesolveError, match=r"base is function .* there and function .* here"):
        call(lambda z, by=0.25: -by * (z**2).flatten(1).sum(1))
    normal = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(1, 3), torch.ones(1, 3)), 2
    )
    with pytest.raises(
        ode.OdesolveError,
        match=r"base is function .* there and Independent .* "
        r"here",
    ):
        call(normal)


STRAYS = (
    "shards/0000/0000002-{hash}.npz.bak",
    "shards/0000/0000002-{hash}.npz~",
    "shards/0000/0000002-{hash}.safetensors",
    "shards/0000/0000002-{hash}.NPZ",
    "shards/0000/0000002-{hash}0.npz",
    "shards/0000/0000002-XYZ{hash}.npz",
    "shards/0000/0000002-0123.npz",
    "shards/0000/0000002-.npz",
    "shards/0000/000002-{hash}.npz",
    "shards/0000/0000002 (copy)-{hash}.npz",
    "shards/0000/x0000002-{hash}.npz",
    "shards/0000/0000002-{hash}.npz/inside",
    "shards/0001/0000002-{hash}.npz",
    "shards/0/0000002-{hash}.npz",
    "shards/0000-old/0000002-{hash}.npz",
    "shards/0000/deep/0000002-{hash}.npz",
    "shards/0000002-{hash}.npz",
    "shards/0000/0000099-{hash}.npz",
    "shards/0000/\N{ARABIC-INDIC DIGIT ZERO}000002-{hash}.npz",
)


@rows("name", STRAYS)
def test_one_rule_for_names(tmp_path, name):
    """What is not exactly a shard's name in its place stands for nothing, is left alone and is told
    of."""
    job = draw(tmp_path, n=10)
    path = job.found()[2]
    whole, stray = job.hashes, tmp_path / name.format(hash=path.name[8:24])
    body = path.read_bytes()
    path.unlink()
    if stray.suffix != ".npz" or stray.parent != path.parent or stray.name != path.name:
        stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(body)
    assert (job.done(), job.left(), job.has(2)) == (8, [2], False)
    if "inside" in name:  # a folder of the very name of the shard
        with pytest.raises(ode.OdesolveError, match="cannot be written"):
            draw(tmp_path, n=10)
        return
    assert draw(tmp_path, n=10).hashes == whole
    assert stray.read_bytes() == body
    assert job.verify() == []
    told = job.strays()
    assert any(stray == p or p in stray.parents for p in told)


def test_a_dangling_link_is_no_shard(tmp_path):
    job = draw(tmp_path, n=10)
    whole, path = job.hashes, job.found()[2]
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert job.left() == [2]
    assert draw(tmp_path, n=10).hashes == whole


def test_two_files_of_one_shard_are_told_of(tmp_path, capsys):
    from odesolve.cli import main

    job, other = draw(tmp_path / "job", n=10), draw(tmp_path / "other", n=10, seed=4)
    path = job.found()[2]
    second = path.parent / other.found()[2].name
    second.write_bytes(other.found()[2].read_bytes())
    assert job.done() == 10
    assert job.twice() == [sorted([path, second])]
    with pytest.warns(UserWarning, match="are one shard with different contents"):
        job.load()
    with pytest.warns(UserWarning, match="are one shard with different contents"):
        draw(tmp_path / "job", n=10)
    (path.parent / "notes.txt").write_text("x")
    assert main(["job", str(tmp_path / "job"), "--verify"]) == 0
    err = capsys.readouterr().err
    assert "one shard with different contents" in err
    assert f"no shard of this job, left alone: {tmp_path}/job/shards/0000/notes.txt" in err


VERSIONS = {"odesolve": "0.0.1", "torch": "1.13.1+cu117", "python": "3.2.1"}


def edited(root, change):
    facts = json.loads((root / "job.json").read_text())
    change(facts)
    (root / "job.json").write_text(json.dumps(facts))


@rows("name", VERSIONS)
def test_other_versions_are_told_of(tmp_path, name):
    job = draw(tmp_path, n=4)
    now, then = job.facts["made_with"][name], VERSIONS[name]
    told = re.escape(f"was begun with {name} {then} and goes on with {now}")
    edited(tmp_path, lambda facts: facts["made_with"].update({name: then}))
    with pytest.warns(UserWarning, match=told):
        draw(tmp_path, n=4)


def test_another_build_of_a_version_is_the_same(tmp_path):
    draw(tmp_path, n=4)
    edited(
        tmp_path,
        lambda facts: facts["made_with"].update(
            torch=torch.__version__.partition("+")[0] + "+rocm9"
        ),
    )
    draw(tmp_path, n=4)


def test_code_of_another_python_is_compared_without_its_instructions(tmp_path):
    job = draw(tmp_path, n=4)

    def older(facts):
        facts["made_with"]["python"] = "3.2.1"
        facts["settings"]["model"] = "0" * 32

    edited(job.root, older)
    with pytest.warns(
        UserWarning,
        match=r"python 3\.2\.1 and goes on with .*of code, only arguments, closures and globals "
        r"were compared",
    ):
        draw(tmp_path, n=4)
    with pytest.raises(ode.OdesolveError, match=r"the model differs in net\.scale"):
        draw(tmp_path, changed(scale=2.0), n=4)


def old(facts):
    """As versions wrote it whose fingerprints saw less."""
    for name in ("fingerprint", "portable", "parts"):
        del facts[name]
    facts["settings"]["model"] = "0123456789abcdef"


def test_jobs_of_older_versions_are_read_but_not_gone_on_with(tmp_path):
    job = draw(tmp_path, n=4)
    samples = job.load()["samples"]
    edited(tmp_path, old)
    with pytest.raises(
        ode.OdesolveError,
        match=r"saw less of a model, .* load it with ode\.jobs\.Job\(.*another "
        r"folder to go on",
    ):
        draw(tmp_path, n=4)
    np.testing.assert_array_equal(ode.jobs.Job(tmp_path).load()["samples"], samples)


def test_differences_are_told_as_they_were_typed(tmp_path):
    call = lambda name, *args, **named: ode.jobs.sample(
        model(Net()), SHAPE, *args, n=2, out=tmp_path / name, **named
    )
    call("a", "ddim", 10)
    call("a", "ddim", 10, "karras")  # which is the default: the same plan
    for told, args in (
        ("steps is 10 there and 20 here", ("ddim", 20)),
        ("solver is ddim there and dpmpp_2m here", ("dpmpp_2m", 10)),
        ("grid is None there and uniform here", ("ddim", 10, "uniform")),
        (r"grid is None there and karras\(5\) here", ("ddim", 10, ode.grids.Karras(rho=5.0))),
        (r"solver is ddim there and ddim\(eta=0.5\) here", ("ddim(eta=0.5)", 10)),
    ):
        with pytest.raises(ode.OdesolveError, match=rf"holds another job \({told}\): give"):
            call("a", *args)
    call("b", None, 10)
    with pytest.raises(ode.OdesolveError, match=r"\(steps is 10 there and 12 here\)"):
        call("b", None, 12)
    with pytest.raises(
        ode.OdesolveError,
        match=r"\(noise is \[2, 1, 3\] there and \[3, 1, 3\] "
        r"here\)",
    ):
        ode.jobs.sample(model(Net()), (3, 1, 3), "ddim", 10, n=2, out=tmp_path / "a")


def test_fewer_ids_than_a_batch(tmp_path):
    labels = torch.linspace(0.1, 0.3, 3)
    given = lambda ids: model(lambda x, t, y: x * y[:, None, None], cond={"y": labels[ids]})
    for k, kind in enumerate((model(Net()), given)):
        job = ode.jobs.sample(kind, (8, 1, 3), "ddim", 2, n=3, out=tmp_path / str(k), seed=1)
        whole = ode.sample(kind if k == 0 else given(torch.arange(3)), (3, 1, 3), "ddim", 2, seed=1)
        np.testing.assert_array_equal(job.load()["samples"], whole.numpy())


def test_a_job_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    class Leaving(torch.nn.Module):
        def forward(self, x, t):
            os.chdir(tmp_path / "elsewhere")
            return x

    job = draw("job", Leaving(), n=8)
    assert job.load()["samples"].shape == (8, 1, 3)
    assert ode.jobs.Job(tmp_path / "job").done() == 8
    assert list((tmp_path / "elsewhere").iterdir()) == []


@rows(
    ("change", "told"),
    [
        *(({"n": n}, "n=") for n in (0, -5, True, 1.5, "3", None, float("nan"), 2**32 + 1)),
        *(({"first": n}, "first=") for n in (-1, 2**32, True, 0.5, None)),
        *(({"shard": n}, "shard=") for n in (0, -2, 3, True, 2.0, "2")),
        *(({"seed": n}, "seed=") for n in (-1, 1.5, True, 2**64, "3", torch.tensor(1.0))),
        *(({"format": n}, "format=") for n in ("csv", None, 3, ["npz"], ".npz")),
        *(({"out": n}, "out=") for n in (None, 3, "", b"", "a\0b")),
        ({"model": 3}, "model is int: give an ode.Model, or a function of ids"),
        ({"model": lambda ids: 3}, "model returned int for ids 0 to 1: let it return an ode.Model"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(tmp_path, change, told):
    with pytest.raises(ode.OdesolveError) as e:
        draw(change.pop("out", tmp_path / "job"), **change)
    assert told in str(e.value)
    assert (
        ": give" in str(e.value) or "choose from" in str(e.value) or "let it return" in str(e.value)
    )
    assert not (tmp_path / "job").exists()


@rows("noise", [(4,), (0, 3), (2, True), (2.0, 3), "23", 3, None, torch.zeros(2, 3), (2, -1)])
def test_shapes_that_are_none(tmp_path, noise):
    with pytest.raises(
        ode.OdesolveError,
        match=r"noise.*: give the shape of a batch, such as "
        r"\(64, 3, 32, 32\)",
    ):
        ode.jobs.sample(model(Net()), noise, "ddim", 2, n=2, out=tmp_path / "job")


@rows(
    ("change", "told"),
    [
        ({"batch": 0}, "batch=0"),
        ({"batch": True}, "batch=True"),
        ({"batch": 1.5}, "batch=1.5"),
        ({"x": [[1.0]]}, "x list"),
        ({"x": torch.zeros(4)}, r"x of shape \(4,\)"),
        ({"model": 3}, "model is int"),
        ({"shard": 3, "batch": 2}, "shard=3 is no multiple"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_densities_that_cannot_be_meant(tmp_path, change, told):
    given = {"model": model(Net()), "x": torch.zeros(4, 1, 3), **change}
    with pytest.raises(ode.OdesolveError, match=told):
        ode.jobs.log_prob(given.pop("model"), given.pop("x"), out=tmp_path / "job", **given)
    assert not (tmp_path / "job").exists()


def test_numbers_of_other_kinds_are_numbers(tmp_path):
    job = draw(tmp_path, n=np.int64(4), first=torch.tensor(2), shard=np.int32(2), seed=np.uint64(3))
    assert (job.n, job.first, job.shard, job.settings["seed"]) == (4, 2, 2, 3)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ode.OdesolveError, match="file is a file: give a folder"):
        draw(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
