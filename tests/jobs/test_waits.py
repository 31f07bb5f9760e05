"""Those that wait say for whom, and make a shard themselves whose holder does not move; it may go
on afterwards."""

from __future__ import annotations

import os
import re
import time

import pytest

import odesolve as ode
from odesolve.jobs import folder, lookout, notes, owners
from odesolve.jobs.leases import Leases
from odesolve.process.launch import Launch
from tests.jobs.ranks import FORK, N, Slow, draw, go_on, start, stop, until


class Hangs:
    """Hangs in the third call, where it says so, until it is let go."""

    def __init__(self):
        self.there, self.free, self.calls = FORK.Event(), FORK.Event(), 0

    def __call__(self):
        self.calls += 1
        if self.calls == 3:
            self.there.set()
            self.free.wait(60.0)


@pytest.mark.parametrize("kind", ["stopped", "hung"])
def test_the_shard_of_a_holder_that_does_not_move(tmp_path, capfd, kind):
    """It is told whose it is and since when; made here after a limit; and the other goes on without
    harm."""
    whole, hangs = draw(tmp_path / "whole", Slow()), Hangs()
    (other,) = start(lambda: draw(tmp_path / "job", Slow(before=hangs)))
    assert hangs.there.wait(30.0)
    if kind == "stopped":
        stop(other)
    told = (
        rf"shard 0 of .*job made no progress for 0.3 s \(rank 0 \(pid {other.pid} on .*\) has had "
        rf"it since 20.* UTC"
    )
    with pytest.warns(UserWarning, match=told):
        job = draw(tmp_path / "job", Slow(), patience=0.3, progress=None)
    err = capfd.readouterr().err
    assert (
        len(
            re.findall(
                f"waits for shard 0: rank 0 .pid {other.pid} on "
                f"{re.escape(owners.host())}. has had it since",
                err,
            )
        )
        == 1
    )
    assert (f"which is stopped: kill -CONT {other.pid} lets it go on" in err) == (kind == "stopped")
    assert job.digest == whole.digest
    before = {path: path.stat().st_mtime_ns for path in job.found().values()}
    if kind == "stopped":
        go_on(other)
    hangs.free.set()
    other.join(30.0)
    assert other.exitcode == 0
    assert {path: path.stat().st_mtime_ns for path in job.found().values()} == before
    assert (job.done(), job.verify(), job.strays()) == (N, [], [])
    assert sorted(p.name for p in job.root.iterdir()) == ["job.json", "leases", "shards"]


def test_one_that_is_stopped_in_a_write_goes_on(tmp_path, monkeypatch):
    """With its bytes written under another name, which nobody removes while it lives."""
    whole, at = draw(tmp_path / "whole", Slow()), FORK.Event()

    def work():
        real = folder.Job.has
        seen = []

        def has(self, k):
            found = real(self, k)
            seen.append(k)
            if len(seen) == 2:  # before the write
                at.set()
                time.sleep(0.5)
            return found

        monkeypatch.setattr(folder.Job, "has", has)
        draw(tmp_path / "job", Slow())

    (other,) = start(work)
    assert at.wait(30.0)
    stop(other)
    with pytest.warns(UserWarning, match="made no progress for 0.2 s"):
        job = draw(tmp_path / "job", Slow(), patience=0.2)
    go_on(other)
    other.join(30.0)
    assert other.exitcode == 0
    assert (job.digest, job.twice(), job.verify()) == (whole.digest, [], [])


def test_one_of_those_that_wait_takes_it_over(tmp_path):
    """Not all at once; and another one where that does not move either."""
    clock = [0.0]
    mine = [lookout.Lookout(tmp_path, "job", 10.0, False, lambda: clock[0]) for _ in range(2)]
    first, second = (notes.Notebook(tmp_path, Launch(k, 3)) for k in (0, 1))
    first.begin(4)
    lock = Leases(tmp_path / "leases")
    for clock[0] in (0.0, 5.0, 8.9):
        for one in mine:
            one.look([4])
            assert one.leases(4) == [4]
    clock[0] = 10.0
    for one in mine:
        one.look([4])
    (own,) = {tuple(one.leases(4)) for one in mine}
    assert len(own) == 2
    assert lock.take(own[1])
    second.begin(4)
    for clock[0] in (11.0, 20.0):
        for one in mine:
            one.look([4])
            assert one.leases(4) == [4]
    for clock[0] in (21.0, 31.0):
        mine[0].look([4])
    assert mine[0].leases(4) not in ([4], [*own])
    first.batch()
    first.close()
    second.close()
    lock.close()


def test_a_holder_that_moves_keeps_its_shard(tmp_path):
    clock = [0.0]
    mine = lookout.Lookout(tmp_path, "job", 10.0, False, lambda: clock[0])
    book = notes.Notebook(tmp_path, Launch())
    book.begin(4)
    for step in range(20):
        clock[0] = 6.0 * step
        book.at = float("-inf")
        book.batch()
        mine.look([4])
        assert mine.leases(4) == [4]
    book.close()


def test_a_holder_without_a_note(tmp_path, capsys):
    """Such as one of an earlier version, or one whose note could not be written."""
    draw(tmp_path, Slow(), n=8)
    job = ode.jobs.Job(tmp_path)
    job.found()[0].unlink()
    at, free = FORK.Event(), FORK.Event()

    def hold():
        lock = Leases(tmp_path / "leases")
        lock.take(0)
        lock.take(folder.MOST)
        at.set()
        free.wait(60.0)

    (other,) = start(hold)
    assert at.wait(30.0)
    with pytest.warns(
        UserWarning, match="shard 0 .* made no progress .*a process that left no note has it"
    ):
        assert draw(tmp_path, Slow(), n=8, patience=0.2, progress=True).done() == 8
    assert "waits for shard 0: a process that left no note has it" in capsys.readouterr().err
    free.set()
    other.join(30.0)


def test_a_job_that_was_stopped_while_it_began(tmp_path, monkeypatch):
    """The lock of the manifest is waited for, not for ever."""
    monkeypatch.setattr(folder, "MANIFEST_WAIT", 0.1)
    held = Leases(tmp_path / "leases")
    assert held.take(folder.MOST)
    (other,) = start(lambda: draw(tmp_path, Slow()))
    other.join(30.0)
    held.close()
    assert other.exitcode == 0
    assert ode.jobs.Job(tmp_path).done() == N


NO_NOTES = [b"", b"{", b"[]", b"\0" * 400, b'{"host": 3}', b'{"host":"a","pid":"b"}']
NO_TIMES = [
    f'{{"host":"a","pid":1,"rank":0,"shard":1,"since":{since}}}'.encode()
    for since in ("1e300", "-1e300", "1e12")
]


@pytest.mark.few(3)
@pytest.mark.parametrize("body", [*NO_NOTES, *NO_TIMES])
def test_notes_that_are_none(tmp_path, body):
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / f"{owners.fresh_name()}.json").write_bytes(body)
    (tmp_path / "workers" / "notes.txt").write_text("mine")
    assert notes.notes(tmp_path) == []
    assert draw(tmp_path / "job", Slow()).done() == N


def test_names_are_nobody_elses(monkeypatch):
    """In containers whose hosts, processes and threads have the same names and numbers."""
    mine = owners.fresh_name()
    assert owners.fresh_name() != mine
    owner = owners.owner_of(f".0000003-0123456789abcdef.npz.node-1.dom.{mine}.part")
    assert owner == owners.owner_of(f"{mine}.json")
    assert (owner.pid, owner.ended(), owner.halted()) == (os.getpid(), False, False)
    elsewhere = owner._replace(place="12345678")
    assert elsewhere.ended() is None
    # another process has its number now
    assert owner._replace(began=owner.began + 1).ended() is True
    monkeypatch.setattr(owners, "_place", lambda: "0" * 8)  # a system that tells nothing
    assert owners.owner_of(owners.fresh_name()).ended() is None


@pytest.mark.parametrize("locks", [True, False])
def test_what_another_is_writing_stays(tmp_path, monkeypatch, locks):
    """Where there are locks and where there are none; what those have left who ended goes."""
    if not locks:
        monkeypatch.setattr("odesolve.jobs.leases.fcntl", None)
    job = draw(tmp_path, Slow(), n=8)
    (ended,) = start(lambda: None)
    dead = owners.owner_of(owners.fresh_name())._replace(pid=ended.pid)
    ended.join()
    shards, start_of = tmp_path / "shards" / "0000", ".0000000-0123456789abcdef.npz.host."
    named = lambda owner: f"{start_of}{owner.place}-{owner.pid}-{owner.began}-01234567.part"
    alive = shards / f"{start_of}{owners.fresh_name()}.part"
    away = shards / named(dead._replace(place="12345678"))
    old = shards / named(dead._replace(place="12345679"))
    gone, earlier = shards / named(dead), shards / f"{start_of}77.140.part"
    for path in (alive, away, old, gone, earlier):
        path.write_bytes(b"half")
    os.utime(old, (0.0, 0.0))
    job.sweep()
    # of an earlier version nothing is known but its lease
    kept = {alive, away} | (set() if locks else {earlier})
    assert set(shards.glob(".*.part")) == kept
    assert job.strays() == []
    until(lambda: job.done() == 8)
