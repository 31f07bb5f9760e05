"""Kills, stops and restarts at random, on other numbers of processes, of wrapped and bare networks:
equal digests.

Six rounds, twenty in the long suite; ODESOLVE_STRESS=100 in the environment makes them a hundred
kills and thirty stops.
"""

from __future__ import annotations

import os
import random
import signal
import time

import odesolve as ode
from tests.jobs.ranks import OUTSIDE, Slow, draw, go_on, left, start, stop, until
from tests.products import LONG

ROUNDS = int(os.environ.get("ODESOLVE_STRESS", "20" if LONG else "6"))
STOPS = 3  # one round of so many has one


def worker(out, outside):
    return lambda: draw(out, OUTSIDE[outside](Slow(1e-3)), patience=0.1)


def alive(ranks):
    return [p for p in ranks if p.is_alive()]


def one_round(out, choose, stops):
    """A kill somewhere in the job, a process that is stopped until the others have done all; what
    they found in the end."""
    ranks = start(worker(out, choose.choice([*OUTSIDE])), choose.choice([1, 2, 3]))
    mark = choose.randrange(1, 5)
    until(lambda: left(out) <= 6 - mark or not alive(ranks))
    stopped = None
    if stops and (there := alive(ranks)):
        stopped = choose.choice(there)
        stop(stopped)
    time.sleep(choose.uniform(0.0, 0.01))
    others = [p for p in alive(ranks) if p is not stopped]
    killed = choose.choice(others) if others else None
    if killed is not None:
        killed.kill()
        killed.join()
    ranks += start(worker(out, choose.choice([*OUTSIDE])), choose.choice([1, 2]))
    until(lambda: left(out) == 0, 20.0)
    if stopped is not None:
        go_on(stopped)
    for p in ranks:
        p.join(30.0)
    struck = killed is not None and killed.exitcode == -signal.SIGKILL
    assert [p.exitcode for p in ranks if p is not killed] == [0] * (
        len(ranks) - (killed is not None)
    )
    return struck, stopped is not None


def test_random_rounds(tmp_path, capsys):
    whole, choose = draw(tmp_path / "whole", Slow()), random.Random(0)
    kills, stopped, began, longest, k = 0, 0, time.monotonic(), 0.0, 0
    while k < ROUNDS or kills < ROUNDS:
        out, at = tmp_path / str(k), time.monotonic()
        struck, halted = one_round(out, choose, k % STOPS == 0)
        kills, stopped, k, longest = (
            kills + struck,
            stopped + halted,
            k + 1,
            max(longest, time.monotonic() - at),
        )
        job = ode.jobs.Job(out)
        assert job.digest == whole.digest
        assert job.done() == whole.n
        assert (job.verify(), job.twice(), job.strays(), list(out.rglob("*.part"))) == (
            [],
            [],
            [],
            [],
        )
    with capsys.disabled():
        took = time.monotonic() - began
        print(
            f" {k} rounds, {kills} kills, {stopped} stops in {took:.1f} s, the longest "
            f"{longest:.2f} s ",
            end="",
        )
    assert stopped >= ROUNDS // STOPS - 1
