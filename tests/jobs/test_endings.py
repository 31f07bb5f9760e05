"""The end that others set: what SIGTERM and SIGUSR1 keep, how long it takes, and what a command
says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main
from odesolve.jobs import Job, draws, signals
from odesolve.jobs.leases import Leases
from odesolve.jobs.notes import Notebook
from tests.jobs.ranks import BATCH, SHARD, Calls, N, Slow, draw, start, until

KINDS = [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)]


def interrupted(out, number, code, at=5, **options):
    """A job that a signal ended in its second shard, of two batches in two steps each."""
    calls = Calls(number, at)
    (p,) = start(lambda: draw(out, Slow(before=calls), **options))
    p.join(20.0)
    assert p.exitcode == code
    return calls.value


@pytest.mark.few(2)
@pytest.mark.parametrize(("number", "code"), KINDS)
@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_the_running_batch_is_kept(tmp_path, capfd, number, code, format):
    whole = draw(tmp_path / "whole", Slow(), format=format)
    # the batch that ran was finished, no more
    assert interrupted(tmp_path / "job", number, code, format=format) == 6
    name = signal.Signals(number).name
    assert capfd.readouterr().err.splitlines() == [
        f"odesolve: {name}: {tmp_path}/job keeps 8 of {N} results, and the batches of shards that "
        "were begun: "
        "start the same job again to go on"
    ]
    kept = list((tmp_path / "job" / "begun").iterdir())
    assert [p.name[:8] for p in kept] == ["0000001-"]
    calls = Calls()
    job = draw(tmp_path / "job", Slow(0.0, calls), format=format)
    assert calls.value == 2 * N // BATCH - 6
    assert job.digest == whole.digest
    assert sorted(p.name for p in job.root.iterdir()) == ["job.json", "leases", "shards"]


def test_a_shard_is_written_where_its_last_batch_was_running(tmp_path):
    """Then there is nothing that was begun."""
    assert interrupted(tmp_path, signal.SIGTERM, 143, at=7) == 8
    assert ode.jobs.Job(tmp_path).done() == 2 * SHARD
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    ("owner", "name", "call"), [(Notebook, "close", 1), (Leases, "close", 2), (Job, "write", 6)]
)
def test_no_signal_is_lost_at_the_end(tmp_path, monkeypatch, capsys, owner, name, call):
    """When all is done as well: what comes after the job in a program is not to begin."""
    plain, calls = getattr(owner, name), []

    def signalled(*given):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given)

    monkeypatch.setattr(owner, name, signalled)
    with pytest.raises(SystemExit) as ended:
        draw(tmp_path, Slow(0.0))
    assert ended.value.code == 143
    assert capsys.readouterr().err == f"odesolve: SIGTERM: {tmp_path} keeps {N} of {N} results\n"


@pytest.mark.parametrize("twice", [False, True])
def test_the_grace_is_a_limit(tmp_path, twice):
    """And a second signal ends at once."""
    calls = Calls()
    (p,) = start(lambda: draw(tmp_path, Slow(30.0, calls), grace=60.0 if twice else 0.2))
    until(lambda: calls.value >= 1)
    began = time.monotonic()
    p.terminate()
    if twice:
        time.sleep(0.2)
        p.terminate()
    p.join(10.0)
    assert p.exitcode == 143
    assert time.monotonic() - began < 8.0
    assert draw(tmp_path, Slow()).done() == N


@pytest.mark.few(2)
@pytest.mark.parametrize("harm", ["half", "other", "rows", "flipped"])
def test_what_was_begun_is_taken_up_only_if_it_is_whole(tmp_path, harm):
    interrupted(tmp_path / "job", signal.SIGTERM, 143)
    (path,) = (tmp_path / "job" / "begun").iterdir()
    body = path.read_bytes()
    if harm == "half":
        path.write_bytes(body[:100])
    elif harm == "flipped":
        path.write_bytes(body[:200] + bytes([body[200] ^ 1]) + body[201:])
    elif harm == "other":
        path.rename(path.with_name("0000001-0123456789abcdef.npz"))
    else:
        other = draw(tmp_path / "other", Slow(), shard=2 * SHARD).found()[0]
        path.unlink()
        path.with_name(other.name.replace("0000000-", "0000001-")).write_bytes(other.read_bytes())
    job = draw(tmp_path / "job", Slow())
    assert job.digest == draw(tmp_path / "whole", Slow()).digest
    assert not (tmp_path / "job" / "begun").exists()


def test_what_was_begun_with_other_conditions_is_refused(tmp_path, monkeypatch):
    """Labels of a file that a function of ids reads have changed behind the first batch, in which
    they are as they were."""
    labels, plain, drawn = tmp_path / "labels.npy", draws.solve_batch, []
    np.save(labels, np.ones(SHARD))

    def signalled(*given):
        drawn.append(given)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given)

    def net(x, t, y):
        return x * y[:, None, None]

    def conditioned(ids):
        return ode.Model(
            net,
            ode.paths.VP(),
            predicts="noise",
            cond={"y": torch.from_numpy(np.load(labels))[ids]},
        )

    def job():
        given = {
            "n": SHARD,
            "shard": SHARD,
            "progress": False,
            "out": tmp_path / "job",
            "dtype": torch.float64,
        }
        return ode.jobs.sample(conditioned, (2, 1, 3), "ddim", 2, **given)

    monkeypatch.setattr(draws, "solve_batch", signalled)
    with pytest.raises(SystemExit):
        job()
    assert list((tmp_path / "job" / "begun").iterdir())
    np.save(labels, np.r_[np.ones(2), np.full(SHARD - 2, 2.0)])
    with pytest.raises(ode.OdesolveError, match="conditions of ids 2 to 3 are others"):
        job()
    np.save(labels, np.ones(SHARD))
    assert job().done() == SHARD


@pytest.mark.parametrize("grace", [1e9, 1e300])
def test_a_grace_longer_than_clocks_can_tell(tmp_path, grace):
    sent = []
    net = Slow(0.0, before=lambda: sent or (sent.append(1), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        draw(tmp_path, net, grace=grace)


def test_handlers_of_others_stay(tmp_path):
    """As those of a launcher, or of a framework that asks to be queued again."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
    try:
        net = Slow(before=lambda: os.kill(os.getpid(), signal.SIGTERM) if not seen else None)
        assert draw(tmp_path, net).done() == N
        assert len(seen) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGTERM) == before


def test_handlers_are_there_again_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    draw(tmp_path, Slow())
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    # where no handler can be set
    thread = threading.Thread(target=draw, args=(tmp_path / "thread", Slow()))
    thread.start()
    thread.join(30.0)
    assert ode.jobs.Job(tmp_path / "thread").done() == N


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), "3", True, None])
def test_what_is_no_time(tmp_path, wrong):
    with pytest.raises(ode.OdesolveError, match="grace"):
        draw(tmp_path / "job", Slow(), grace=wrong)
    with pytest.raises(ode.OdesolveError, match="patience"):
        draw(tmp_path / "job", Slow(), patience=wrong)
    assert not (tmp_path / "job").exists()


SOURCE = """
import time
import odesolve as ode

def net(x, t):
    time.sleep(0.02)
    return x

def model():
    return ode.Model(net, ode.paths.VP(), "noise")

def endless():
    open("loading", "w").close()
    time.sleep(60.0)
"""


def command(words, folder):
    """The program in a process that has imported it."""
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["odesolve", *words]
    sys.exit(main())


def words_of(folder, job):
    """A job of many samples, or a network that takes long to load."""
    (folder / "nets.py").write_text(SOURCE)
    factory = "nets.py:model" if job else "nets.py:endless"
    return ["sample", factory, "--shape", "4,3", "--steps", "4", "-n", "4000", "--out", "job"]


def check_ending(number, job, out, err):
    name = signal.Signals(number).name
    said = (
        f"odesolve: {name}: job keeps "
        if job
        else (f"odesolve: ended by {name}: the same command goes on")
    )
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(said)


ENDED = [(*KINDS[0], True), (*KINDS[1], False)]


@pytest.mark.parametrize(("number", "code", "job"), ENDED)
def test_the_program_ends_in_a_line_and_the_code_of_a_shell(tmp_path, number, code, job):
    """Within a job, and while a network is loaded."""
    words = words_of(tmp_path, job)
    (p,) = start(lambda: command(words, tmp_path))
    until(lambda: (tmp_path / ("job/workers" if job else "loading")).exists())
    time.sleep(0.1)
    os.kill(p.pid, number)
    p.join(30.0)
    assert p.exitcode == code
    check_ending(number, job, (tmp_path / "out").read_text(), (tmp_path / "err").read_text())


@pytest.mark.long
@pytest.mark.parametrize(("number", "code", "job"), ENDED)
def test_commands_end_in_a_line_and_the_code_of_a_shell(tmp_path, number, code, job):
    """The same in a process of its own."""
    line = [sys.executable, "-m", "odesolve", *words_of(tmp_path, job)]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        until(lambda: (tmp_path / ("job/workers" if job else "loading")).exists())
        time.sleep(0.1)
        p.send_signal(number)
        out, err = p.communicate(timeout=30)
    assert p.returncode == code
    check_ending(number, job, out, err)
