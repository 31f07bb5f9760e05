"""Ranks that were given different things, that fail, end or hang: an error on every rank that
waits, never a mixture, no hang."""

from __future__ import annotations

import os
import re
import signal
import time
import types

import numpy as np
import pytest
import torch
import torch.distributed as dist

import odesolve as ode
from odesolve.distributed import ranks
from tests.distributed.ranks import ENDED, FORK, on_ranks, outcomes
from tests.products import diagonal
from tests.run.rational import PATH, model, noise

SHIFT = torch.linspace(-0.3, 0.3, 5, dtype=torch.float64)


class Net(torch.nn.Module):
    """A row of its answer depends on no other."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(3, dtype=torch.float64))
        self.mode = "plain"

    def forward(self, x, t, shift=None):
        said = self.scale * x * (0.3 + x * x) / (0.5 + x * x) + self.offset
        return said if shift is None else said + shift.view(-1, 1, 1)


def weights(rank):
    return {"model": ode.Model(Net(1.0 - 0.1 * rank), PATH, "data")}


def buffers(rank):
    net = Net()
    net.offset += 0.1 * rank
    return {"model": ode.Model(net, PATH, "data")}


def attributes(rank):
    net = Net()
    net.mode = ("plain", "other", "plain")[rank]
    return {"model": ode.Model(net, PATH, "data")}


def functions(rank):
    nets = (lambda x, t: 0.5 * x, lambda x, t: 0.6 * x, lambda x, t: 0.5 * x)
    return {"model": ode.Model(nets[rank], PATH, "data")}


def conditions(rank):
    return {"model": ode.Model(Net(), PATH, "data", cond={"shift": SHIFT * (1 + rank)})}


def scales(rank):
    null = {"shift": torch.zeros(5, dtype=torch.float64)}
    return {"model": ode.Model(Net(), PATH, "data").guided(2.0 + rank, {"shift": SHIFT}, null)}


def predictions(rank):
    return {"model": ode.Model(Net(), PATH, ("data", "noise", "data")[rank])}


# What differs on a rank, and the word by which the error names it.
DIFFERENT = {
    "weights": (weights, "model.net.scale"),
    "buffers": (buffers, "model.net.offset"),
    "attributes": (attributes, "model.net.mode"),
    "functions": (functions, "model.net"),
    "conditions": (conditions, "model.cond.shift"),
    "scales of guidance": (scales, "model"),
    "predictions": (predictions, "model"),
    "noise": (lambda rank: {"noise": noise() + rank}, "noise"),
    "size of the batch": (lambda rank: {"noise": noise(5 - rank)}, "noise"),
    "dtype": (
        lambda rank: {"noise": noise().to((torch.float64, torch.float32, torch.float64)[rank])},
        "noise",
    ),
    "steps": (lambda rank: {"steps": 8 + rank}, "steps"),
    "solver": (lambda rank: {"solver": ("ddim", "dpmpp_2m", "ddim")[rank]}, "solver"),
    "grid": (lambda rank: {"grid": ("uniform", "karras", "uniform")[rank]}, "grid"),
    "seed": (lambda rank: {"solver": "ddpm", "seed": rank}, "seed"),
    "seed on one rank only": (
        lambda rank: {"solver": "ddpm", "seed": (None, 1, None)[rank]},
        "seed",
    ),
    "ids": (lambda rank: {"solver": "ddpm", "ids": [0, 1, 2, 3, 4 + rank]}, "ids"),
    "gather": (lambda rank: {"gather": rank == 1}, "gather"),
    "batch": (lambda rank: {"batch": 2 + rank}, "batch"),
    "an option of the solver": (lambda rank: {"solver": "ddim", "afs": rank == 1}, "afs"),
}
EXECUTORS = {
    "executor": lambda rank: {"executor": (ode.Window(), ode.Parareal(), ode.Window())[rank]},
    "tolerance": lambda rank: {"executor": ode.Window(tolerance=1e-3 / (1 + rank))},
    "size of the window": lambda rank: {"executor": ode.Window(size=4 + rank)},
}


def told(call):
    """What a call raises, and how long it took; a value would be a mixture."""
    began = time.monotonic()
    try:
        call()
    except Exception as e:
        return type(e).__name__, str(e), time.monotonic() - began
    return "value", "", time.monotonic() - began


def sampled(mesh, **given):
    asked = {
        "model": model(),
        "noise": noise(),
        "solver": "ddim",
        "steps": 8,
        "seed": 1,
        "gather": True,
    } | given
    positional = [asked.pop(name) for name in ("model", "noise", "solver", "steps")]
    return ode.distributed.sample(*positional, mesh=mesh, **asked)


@pytest.mark.parametrize("world", [2, 3])
def test_what_differs_is_named_on_every_rank(world, tmp_path):
    def check():
        rank, mesh = dist.get_rank(), ode.distributed.mesh()
        found = {
            name: told(lambda made=made: sampled(mesh, **made(rank)))
            for name, (made, _) in DIFFERENT.items()
        }
        return found, sampled(mesh).tolist()

    for found, after in on_ranks(check, world, tmp_path):
        for name, (_, word) in DIFFERENT.items():
            kind, said, _ = found[name]
            assert kind == "RankError", name
            assert said.startswith(f"distributed.sample: {word}"), said
            assert "rank 1" in said.split("between")[1]
        assert torch.equal(
            torch.tensor(after, dtype=torch.float64), ode.sample(model(), noise(), "ddim", 8)
        )


def test_what_differs_along_time(tmp_path):
    def check():
        rank, mesh = dist.get_rank(), ode.distributed.mesh(data=1, time=2)
        cases = {name: made for name, (made, _) in DIFFERENT.items()} | EXECUTORS
        found = {
            name: told(lambda made=made: sampled(mesh, **made(rank)))
            for name, made in cases.items()
        }
        return found, sampled(mesh, executor=ode.Window(exact=True)).tolist()

    for found, after in on_ranks(check, 2, tmp_path):
        assert {kind for kind, _, _ in found.values()} == {"RankError"}
        assert torch.equal(
            torch.tensor(after, dtype=torch.float64), ode.sample(model(), noise(), "ddim", 8)
        )


def test_log_densities_that_differ(tmp_path):
    cases = {
        "x": lambda rank: {"x": noise() * (1 + rank)},
        "tol": lambda rank: {"tol": 0.1 / (1 + rank)},
        "trace": lambda rank: {"trace": ("exact", "hutchinson")[rank]},
        "base": lambda rank: {"base": "normal" if rank else None},
        "args": lambda rank: {"args": (torch.ones(5) * rank,)},
    }

    def check():
        rank, mesh, found = dist.get_rank(), ode.distributed.mesh(), {}
        for name, made in cases.items():
            given = {"x": noise()} | made(rank)
            found[name] = told(
                lambda given=given: ode.distributed.log_prob(model(), mesh=mesh, seed=1, **given)
            )
        return found

    for found in on_ranks(check, 2, tmp_path):
        for name in cases:
            assert found[name][:2] == ("RankError", found[name][1])
            assert found[name][1].startswith(f"distributed.log_prob: {name}")
            assert "differs between rank 0 and rank 1" in found[name][1]


def test_other_calls_on_ranks(tmp_path):
    def check():
        if dist.get_rank():
            return told(lambda: ode.distributed.log_prob(model(), noise(), gather=True))
        return told(lambda: ode.distributed.sample(model(), noise(), "ddim", 8, gather=True))

    assert [kind for kind, _, _ in on_ranks(check, 2, tmp_path)] == ["RankError"] * 2


def test_a_network_spread_by_hand(tmp_path):
    """Without ode.distributed.sample nothing is compared before the solve: the rows are, before
    every call."""

    def check():
        rank = dist.get_rank()
        one = told(lambda: ode.distributed.spread(weights(rank)["model"]))
        whole = ode.distributed.spread(model())
        other = told(lambda: ode.sample(whole, noise(5 - rank), "ddim", 8, executor=ode.Window()))
        steps = told(lambda: ode.sample(whole, noise(), "ddim", 8 + rank, executor=ode.Window()))
        return (
            one,
            other,
            steps,
            ode.sample(whole, noise(), "ddim", 8, executor=ode.Window()).tolist(),
        )

    alone = ode.sample(model(), noise(), "ddim", 8, executor=ode.Window())
    for *found, x in on_ranks(check, 2, tmp_path):
        assert [kind for kind, _, _ in found] == ["OdesolveError", "RankError", "RankError"]
        assert torch.equal(torch.tensor(x, dtype=torch.float64), alone)


def test_conditions_of_a_part(tmp_path):
    """Three rows for six samples on two ranks would fit each part."""

    def check():
        whose = ode.Model(Net(), PATH, "data", cond={"shift": SHIFT[:3]})
        return told(lambda: ode.distributed.sample(whose, noise(6), "ddim", 8, gather=True))

    for kind, said, _ in on_ranks(check, 2, tmp_path):
        assert (kind, "3 rows for a batch of 6" in said) == ("OdesolveError", True)


class Failing(Net):
    """Fails on one rank, which its weights do not tell."""

    def forward(self, x, t):
        if dist.get_rank() == 1:
            raise MemoryError("no memory is left")
        return super().forward(x, t)


@pytest.mark.parametrize("time_ranks", [1, 2])
def test_a_rank_that_raises_but_lives_ends_the_others(time_ranks, tmp_path):
    def check():
        mesh = ode.distributed.mesh(time=time_ranks, timeout=30.0)
        window = {"executor": ode.Window()} if time_ranks > 1 else {}
        first = told(lambda: sampled(mesh, model=ode.Model(Failing(), PATH, "data"), **window))
        stale = told(lambda: sampled(mesh, **window))
        return (
            first,
            stale[0],
            sampled(ode.distributed.mesh(time=time_ranks, timeout=30.0)).tolist(),
        )

    alone = ode.sample(model(), noise(), "ddim", 8)
    for rank, (first, again, x) in enumerate(on_ranks(check, 2, tmp_path)):
        kind, said, waited = first
        assert kind == ("RankError", "MemoryError")[rank]
        assert rank or "rank 1 failed (MemoryError: no memory is left)" in said
        assert waited < 10.0
        # others may wait on the old mesh
        assert again == ("OdesolveError" if time_ranks > 1 else "value")
        assert torch.equal(torch.tensor(x, dtype=torch.float64), alone)


def test_an_error_at_one_ranks_door(tmp_path):
    def check():
        given = {"noise": None} if dist.get_rank() else {}
        mesh = ode.distributed.mesh()
        return told(lambda: sampled(mesh, **given)), sampled(mesh).tolist()

    (first, x), (second, _) = on_ranks(check, 2, tmp_path)
    assert first[0] == "RankError"
    assert "rank 1 failed (OdesolveError: give either noise=" in first[1]
    assert second[0] == "OdesolveError"
    assert torch.equal(
        torch.tensor(x, dtype=torch.float64), ode.sample(model(), noise(), "ddim", 8)
    )


class Slow(Net):
    """Keeps one rank longer than the others wait."""

    def forward(self, x, t):
        if dist.get_rank() == 1:
            time.sleep(1.2)
        return super().forward(x, t)


@pytest.mark.long
def test_a_rank_that_does_not_come_is_named(tmp_path):
    def check():
        mesh = ode.distributed.mesh(timeout=0.5)
        return told(lambda: sampled(mesh, model=ode.Model(Slow(), PATH, "data"), steps=1))

    kind, said, waited = on_ranks(check, 2, tmp_path)[0]
    assert (kind, "rank 1 did not come in 0.5 s" in said) == ("RankError", True)
    assert waited < 4.0


class Ending(Net):
    """Ends one rank's process in the middle."""

    def forward(self, x, t):
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, t)


@pytest.mark.parametrize("time_ranks", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_rank_that_ends_is_named(time_ranks, tmp_path):
    def check():
        mesh = ode.distributed.mesh(time=time_ranks)
        return told(
            lambda: sampled(mesh, model=ode.Model(Ending(), PATH, "data"), executor=ode.Window())
        )

    found = outcomes(check, 3, tmp_path)
    assert found[1] is ENDED
    for rank in (0, 2):
        kind, said, waited = found[rank]
        assert (kind, "ended" in said and "rank 1" in said) == ("RankError", True), said
        assert waited < 15.0


FACTOR = [1.0]


class Held(Net):
    """What it answers hangs on more than its weights."""

    def __init__(self):
        super().__init__()
        self.settings, self.numbers, self.held = {"k": 1.0}, [1.0], types.SimpleNamespace(k=1.0)
        self.tensor, self.array, self.f = (
            torch.ones((), dtype=torch.float64),
            np.ones(1),
            lambda: 1.0,
        )

    def forward(self, x, t):
        factor = (
            self.settings["k"]
            * self.numbers[0]
            * self.held.k
            * self.tensor
            * float(self.array[0])
            * self.f()
        )
        return super().forward(x, t) * factor * FACTOR[0]


class Other(Held):
    def forward(self, x, t):
        return 0.5 * super().forward(x, t)


CHANGES = {
    "settings": lambda net: net.settings.update(k=0.9),
    "numbers": lambda net: net.numbers.__setitem__(0, 0.9),
    "held": lambda net: setattr(net.held, "k", 0.9),
    "tensor": lambda net: net.tensor.mul_(0.9),
    "another tensor": lambda net: setattr(net, "tensor", torch.tensor(0.9, dtype=torch.float64)),
    "array": lambda net: net.array.fill(0.9),
    "f": lambda net: setattr(net, "f", lambda: 0.9),
    "hook": lambda net: net.register_forward_hook(lambda module, given, answer: 0.9 * answer),
    "forward": lambda net: setattr(net, "forward", lambda x, t: 0.9 * x),
    "class": lambda net: setattr(net, "__class__", Other),
    "global": lambda net: FACTOR.__setitem__(0, 0.9),
    "data": lambda net: net.scale.data.mul_(0.9),
}


def test_what_changes_on_a_rank_between_calls(tmp_path):
    """A network is looked at once: what is cheap to see has to show each of these."""

    def check():
        found = {}
        for name, change in CHANGES.items():
            whose = ode.Model(Held(), PATH, "data")
            FACTOR[0] = 1.0
            before = told(lambda whose=whose: sampled(None, model=whose))[0]
            if dist.get_rank() == 1:
                change(whose.net)
            found[name] = before, *told(lambda whose=whose: sampled(None, model=whose))[:2]
        return found

    for found in on_ranks(check, 2, tmp_path):
        for name, (before, after, said) in found.items():
            assert (before, after) == ("value", "RankError"), name
            assert said.startswith("distributed.sample: model.net"), said


# What rank 0 and rank 1 are given that means the same.
SAME = {
    "by place and by name": (
        (model(), noise(), "ddim", 8),
        {},
        (model(),),
        {"noise": noise(), "steps": 8, "solver": "ddim"},
    ),
    "defaults": (
        (model(), noise(), "ddim", 8),
        {},
        (model(), noise(), "ddim", 8, None),
        {"executor": None, "ids": None},
    ),
    "numbers": (
        (model(), noise(), "ddpm", 8),
        {"seed": 1},
        (model(), noise(), "ddpm", np.int64(8)),
        {"seed": np.int64(1)},
    ),
    "ids": (
        (model(), noise(), "ddpm", 8),
        {"seed": 1, "ids": [0, 1, 2, 3, 4]},
        (model(), noise(), "ddpm", 8),
        {"seed": 1, "ids": torch.arange(5)},
    ),
    "shapes": (
        (model(), (5, 2, 3), "ddpm", 8),
        {"seed": 1},
        (model(), torch.Size([5, 2, 3]), "ddpm", 8),
        {"seed": 1},
    ),
    "gather": ((model(), noise(), "ddim", 8), {"gather": False}, (model(), noise(), "ddim", 8), {}),
}


def test_what_means_the_same_is_no_disagreement(tmp_path):
    def check():
        own = dist.get_rank() * 2
        return {
            name: told(lambda c=c: ode.distributed.sample(*c[own], **c[own + 1]))
            for name, c in SAME.items()
        }

    for found in on_ranks(check, 2, tmp_path):
        assert {name: kind for name, (kind, _, _) in found.items()} == dict.fromkeys(
            SAME, "value"
        ), found


def test_an_argument_given_twice():
    with pytest.raises(
        ode.OdesolveError, match="solver given by place and by name: give each once"
    ):
        ode.distributed.sample(model(), noise(), "ddim", solver="heun", mesh=ode.distributed.mesh())
    dist.destroy_process_group()


REFUSED = {
    "an option that there is not": (
        {"trase": "exact"},
        "UnknownOption: distributed.log_prob has no trase=",
    ),
    "a value of another kind": ({"seed": "one"}, "OdesolveError: seed='one'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rank_refused_at_the_door_ends_the_others(name, tmp_path):
    """They do not take its next call for this one."""
    wrong, said = REFUSED[name]

    def check():
        options = wrong if dist.get_rank() else {"seed": 1}
        first = told(lambda: ode.distributed.log_prob(model(), noise(), **options))
        return first, [
            ode.distributed.log_prob(model(), noise() * k, seed=1).nfe.tolist() for k in (1, 2)
        ]

    (waiting, own), (refused, other) = on_ranks(check, 2, tmp_path)
    assert waiting[0] == "RankError"
    assert f"rank 1 failed ({said}" in waiting[1]
    assert said.startswith(refused[0])
    assert len(own[0]) + len(other[0]) == 5


def interrupt():
    raise KeyboardInterrupt


def leave():
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("where", "how"),
    diagonal(["solve", "door"], [interrupt, leave]),
    ids=lambda v: getattr(v, "__name__", v),
)
def test_a_rank_that_is_interrupted_ends_the_others(how, where, tmp_path):
    """All ranks know that the mesh is broken: a rank that went on with it would meet another's next
    mesh."""

    class Interrupted(Net):
        def forward(self, x, t):
            if where == "solve" and dist.get_rank() == 1:
                how()
            return super().forward(x, t)

        def __fingerprint__(self):
            if where == "door" and dist.get_rank() == 1:
                how()
            return "interrupted"

    def check():
        mesh = ode.distributed.mesh(timeout=20.0)
        try:
            first = told(lambda: sampled(mesh, model=ode.Model(Interrupted(), PATH, "data")))
        except BaseException as e:
            first = type(e).__name__, "", 0.0
        again = told(lambda: sampled(mesh))[0]
        return first, again, sampled(ode.distributed.mesh(timeout=20.0)).tolist()

    alone = ode.sample(model(), noise(), "ddim", 8)
    for rank, (first, again, x) in enumerate(on_ranks(check, 2, tmp_path)):
        assert (
            first[0]
            == ("RankError", {interrupt: "KeyboardInterrupt", leave: "SystemExit"}[how])[rank]
        ), first
        assert first[2] < 10.0
        assert again == "OdesolveError"
        assert torch.equal(torch.tensor(x, dtype=torch.float64), alone)


def test_meshes_that_differ(tmp_path):
    def check():
        differ = told(lambda: ode.distributed.mesh(time=1 + dist.get_rank()))
        ode.distributed.mesh()
        late = told(lambda: ode.distributed.mesh(timeout=1.0)) if dist.get_rank() == 0 else None
        dist.barrier()
        return differ, late, sampled(ode.distributed.mesh(time=2)).tolist()

    found = on_ranks(check, 2, tmp_path)
    for (kind, said, _), _, _ in found:
        assert (kind, "rank 0 time=1" in said and "rank 1 time=2" in said) == ("RankError", True), (
            said
        )
    assert "rank 1 did not come in 1 s" in found[0][1][1]


def stop(*args, **options):
    os.kill(os.getpid(), signal.SIGSTOP)


def apart(rank, port, told, where):
    """A rank that torchrun might have started, of which the first holds the store and stops."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    if rank == 0:
        setattr(ranks if where != "sample" else ode.distributed, where, stop)
    try:
        mesh = ode.distributed.mesh(timeout=2.0)
        ode.distributed.sample(model(), noise(), "ddim", 4, mesh=mesh, seed=0, gather=True)
    except ode.OdesolveError as e:
        told.put(str(e))
        told.close()
        told.join_thread()
    os._exit(0)


@pytest.mark.long
@pytest.mark.parametrize("where", ["meet", "_new_mesh", "_group", "sample"])
def test_the_rank_that_keeps_the_others_together_is_stopped(where):
    """Of a store in a stopped process no answer comes, and none has to, whenever it stopped."""
    told, port = FORK.Queue(), 20_000 + os.getpid() % 20_000
    stopped, waiting = (
        FORK.Process(target=apart, args=(rank, port, told, where), daemon=True) for rank in (0, 1)
    )
    stopped.start()
    waiting.start()
    try:
        assert re.search(
            "rank 0 did not come in 2 s|rank 0, which keeps the ranks together, does not answer",
            told.get(timeout=60),
        )
        waiting.join(30)
        assert waiting.exitcode == 0
    finally:
        for p in (stopped, waiting):
            p.kill()
            p.join()
