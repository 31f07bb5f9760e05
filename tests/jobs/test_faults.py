"""Ranks that die: wherever they are killed, the shards come out the same, and none is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

import odesolve as ode
from odesolve.jobs import files
from odesolve.jobs.leases import Leases
from tests.products import LONG

SAMPLES, BATCH, KILLS, LIMIT = 5_000 if LONG else 2_000, 50, 20, 120.0
FORK = multiprocessing.get_context("fork")
problem = ode.problems.digits()


def job(out, n=SAMPLES):
    model = problem.model(ode.paths.VP())
    return ode.jobs.sample(
        model, (BATCH, 1, 8, 8), "dpmpp_2m_sde", 5, n=n, out=out, seed=11, shard=BATCH
    )


def rank(out, n, number, world, before=None):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    if before is not None:
        before()
    job(out, n)


def start(out, world, n=SAMPLES, before=None):
    ranks = [
        FORK.Process(target=rank, args=(out, n, k, world, before), daemon=True)
        for k in range(world)
    ]
    for p in ranks:
        p.start()
    return ranks


def end(ranks):
    for p in ranks:
        p.join(LIMIT)
    assert [p.exitcode for p in ranks] == [0] * len(ranks)


def kill(ranks):
    for p in ranks:
        p.kill()
        p.join()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What one process makes that nobody stops."""
    out = tmp_path_factory.mktemp("unbroken")
    end(start(out, 1))
    return ode.jobs.Job(out)


def shards(out):
    return len(ode.jobs.Job(out).found()) if (out / "job.json").exists() else 0


def held_back(out, most):
    """Let ranks begin a shard only while there are fewer than ``most.value``, however slow the one
    who kills them is."""
    take = Leases.take

    def later(self, k, wait=False):
        while not wait and shards(out) >= most.value:
            time.sleep(0.001)
        return take(self, k, wait)

    def before():
        Leases.take = later

    return before


def test_twenty_kills(unbroken, tmp_path):
    """Kills wait for random counts of shards, so that all of them fall within the job, and then for
    a random moment."""
    choose = random.Random(0)
    whole, most = unbroken.shards, FORK.Value("i", 0)
    marks = sorted(choose.randrange(whole - 20) for _ in range(KILLS))
    before = held_back(tmp_path, most)
    ranks, worlds, limit = start(tmp_path, 3, before=before), [3], time.monotonic() + LIMIT
    for mark in marks:
        most.value = mark + 8
        while shards(tmp_path) < mark:
            assert time.monotonic() < limit
            time.sleep(0.002)
        time.sleep(choose.uniform(0.0, 0.02))
        assert shards(tmp_path) < whole
        struck = ranks.pop(choose.randrange(len(ranks)))
        assert struck.is_alive()
        kill([struck])
        assert struck.exitcode == -signal.SIGKILL
        # the others go on, or all begin anew as torchrun has them
        if not ranks or choose.random() < 0.5:
            kill(ranks)
            worlds.append(choose.choice([1, 2, 3]))
            ranks = start(tmp_path, worlds[-1], before=before)
    most.value = whole + 1
    end(ranks)
    assert set(worlds) == {1, 2, 3}
    found = ode.jobs.Job(tmp_path)
    assert set(found.hashes) == set(unbroken.hashes)
    assert found.hashes == unbroken.hashes
    assert found.verify() == []
    assert list(tmp_path.rglob("*.part")) == []


def stop_at(monkeypatch, name, call):
    """End this process without a word at the second call of a function."""
    seen, real = [], getattr(files.os if name == "fsync" else files.File, name)

    def struck(*args):
        seen.append(args)
        if len(seen) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    monkeypatch.setattr(files.os if name == "fsync" else files.File, name, struck)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("name", "call"), [("fsync", 1), ("replace", 1), ("fsync", 3), ("replace", 2), ("fsync", 4)]
)
def test_a_kill_within_a_write(monkeypatch, tmp_path, name, call):
    """Of the manifest and of a shard: before its bytes are on the disk, before it has its name,
    before the folder knows."""
    n = 3 * BATCH
    (killed,) = start(tmp_path, 1, n, lambda: stop_at(monkeypatch, name, call))
    killed.join(LIMIT)
    assert killed.exitcode == -signal.SIGKILL
    halves = list(tmp_path.rglob("*.part"))
    assert bool(halves) == ((name, call) != ("fsync", 4))
    end(start(tmp_path, 2, n))
    whole = ode.jobs.Job(tmp_path)
    (tmp_path / "other").mkdir()
    end(start(tmp_path / "other", 1, n))
    assert whole.hashes == ode.jobs.Job(tmp_path / "other").hashes
    assert list(whole.root.glob("shards/*/.*")) == []


def test_leases_end_with_their_holder(tmp_path):
    held, ready = FORK.Event(), FORK.Event()

    def hold():
        leases = Leases(tmp_path / "leases")
        assert leases.take(5)
        held.set()
        ready.wait(LIMIT)

    holder = FORK.Process(target=hold, daemon=True)
    holder.start()
    assert held.wait(LIMIT)
    mine = Leases(tmp_path / "leases")
    assert not mine.take(5)
    assert mine.take(6)
    kill([holder])
    assert mine.take(5)
    mine.close()


def test_what_another_holds_is_waited_for(tmp_path):
    """A rank ends when all shards are there, and takes over what a dead one held."""
    n = 2 * BATCH
    held = FORK.Event()

    def hold():
        leases = Leases(tmp_path / "leases")
        leases.take(1)
        held.set()
        time.sleep(LIMIT)

    holder = FORK.Process(target=hold, daemon=True)
    holder.start()
    assert held.wait(LIMIT)
    ranks = start(tmp_path, 1, n)
    limit = time.monotonic() + LIMIT
    while shards(tmp_path) < 1:
        assert time.monotonic() < limit
        time.sleep(0.01)
    ranks[0].join(0.5)
    assert ranks[0].is_alive()
    kill([holder])
    end(ranks)
    assert ode.jobs.Job(tmp_path).done() == n


def test_file_systems_without_locks(monkeypatch, tmp_path, unbroken):
    """Then work may be done twice, with the same result."""

    def refused(*args):
        raise OSError(files.errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr("odesolve.jobs.leases.fcntl.lockf", refused)
    n = 4 * BATCH
    end(start(tmp_path, 2, n))
    assert ode.jobs.Job(tmp_path).hashes == unbroken.hashes[:4]
