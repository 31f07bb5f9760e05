"""Random rounds on 2 to 4 ranks: agreement, disagreement, failures, slow, stopped and killed ranks.
No mixture, no hang.

Twenty rounds in the long suite, ``ODESOLVE_RANK_ROUNDS=300`` makes more; the longest wait is printed
with ``-s``.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch
import torch.distributed as dist

import odesolve as ode
from tests.distributed.ranks import ENDED, outcomes
from tests.distributed.test_disagreement import DIFFERENT, Net, sampled, told
from tests.products import LONG
from tests.run.rational import PATH, noise

ROUNDS = int(os.environ.get("ODESOLVE_RANK_ROUNDS", 20))
# In the short suite: each of the troubles but a kill, which test_disagreement.py has, on 2, 3 and 4
# ranks, along the time and beside it.
FEW = (4, 5, 9, 10, 11, 15)
SEEDS = range(ROUNDS) if LONG or "ODESOLVE_RANK_ROUNDS" in os.environ else FEW
WORLDS = (2, 3, 4)
KINDS = ("agree", "agree", "differ", "fail", "slow", "stop", "kill")
LIMIT = 5.0  # seconds of the mesh
SOLVERS = ("ddim", "dpmpp_2m_sde", "ddpm", "heun")


class Troubled(Net):
    """One rank fails, sleeps, stops or ends in a call of its own."""

    def __init__(self, kind, rank, call):
        super().__init__()
        self.kind, self.at, self.call, self.calls = kind, rank, call, 0

    def __fingerprint__(self):
        return "troubled"

    def forward(self, x, t):
        self.calls += 1
        if dist.get_rank() == self.at and self.calls == self.call:
            TROUBLES.get(self.kind, bool)()
        return super().forward(x, t)


def fail():
    raise MemoryError("no memory is left")


def stop():
    """Stopped by a signal, and gone on with a little later."""
    own = os.getpid()
    if not os.fork():
        time.sleep(0.4)
        os.kill(own, signal.SIGCONT)
        os._exit(0)
    os.kill(own, signal.SIGSTOP)


TROUBLES = {
    "fail": fail,
    "slow": lambda: time.sleep(0.4),
    "stop": stop,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def drawn(seed):
    """A round: its ranks, its mesh, what happens, where."""
    pick = random.Random(seed)
    world = pick.choice(WORLDS)
    along = pick.choice([n for n in (1, 2, 3, 4) if world % n == 0])
    case = {
        "kind": pick.choice(KINDS),
        "rank": pick.randrange(world),
        "call": pick.randrange(1, 4),
        "time": along,
    }
    case |= {
        "solver": pick.choice(SOLVERS),
        "name": pick.choice(sorted(DIFFERENT)),
        "window": pick.random() < 0.5,
    }
    return world, case


def one_round(case):
    kind, own = case["kind"], dist.get_rank() == case["rank"]
    mesh = ode.distributed.mesh(time=case["time"], timeout=LIMIT)
    given = {
        "model": ode.Model(Troubled(kind, case["rank"], case["call"]), PATH, "data"),
        "solver": case["solver"],
    }
    if case["window"]:
        given["executor"] = ode.Window(exact=True)
    if kind == "differ":
        made = DIFFERENT[case["name"]][0]
        given |= made(0) if not own else made(1)
    found = []
    outcome = told(lambda: found.append(sampled(mesh, **given).tolist()))
    return (*outcome, found)


def alone(case):
    return ode.sample(ode.Model(Net(), PATH, "data"), noise(), case["solver"], 8, seed=1)


def expected(case, rank, world):
    """What a rank ends with: the samples, or an error."""
    kind = case["kind"]
    if kind in ("agree", "slow", "stop"):
        return {"value"}
    if kind == "differ":
        return {"RankError"}
    if kind == "fail" and rank == case["rank"]:
        return {"MemoryError"}
    return {"RankError"}


@pytest.mark.few(3)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_round(seed, tmp_path):
    world, case = drawn(seed)
    began = time.monotonic()
    found = outcomes(lambda: one_round(case), world, tmp_path)
    for rank, value in enumerate(found):
        if case["kind"] == "kill" and rank == case["rank"]:
            assert value is ENDED, case
            continue
        kind, said, waited, x = value
        assert kind in expected(case, rank, world), (case, rank, kind, said)
        assert waited < LIMIT + 10.0, (case, rank, said)
        if kind == "value":
            assert torch.equal(torch.tensor(x[0], dtype=torch.float64), alone(case)), case
    print(f"round {seed}, {world} ranks, {case['kind']}: {time.monotonic() - began:.1f} s")
