"""``callback=``: every step is shown, nothing changes bitwise, and what cannot be meant is
refused."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from tests.products import LONG
from tests.rows import rows

B, D = 5, 6
DRAWN = torch.Generator().manual_seed(0)
W = torch.randn(D, D, generator=DRAWN) / D**0.5
X = torch.randn(B, D, generator=DRAWN)
Y = torch.linspace(0.0, 1.0, B)


def net(x, t, y):
    return torch.tanh((x[:, :, None] * W).sum(1) + t[:, None] + y[:, None])


def model(path=None, **options):
    return ode.Model(net, path or ode.paths.VP(), "v", cond={"y": Y}, time="t", **options)


NAMES = [s if isinstance(s, str) else s.name for s in ode.solvers()]


@rows("solver", [None, *NAMES])
def test_steps_are_those_of_iterate_and_nothing_changes(solver):
    for m in (
        model(),
        model(ode.paths.Linear(), clip=1.0).guided(2.0, uncond={"y": 0 * Y}, interval=(0.2, 0.7)),
    ):
        for steps in (2, 5) if LONG else (3,):
            try:
                plain = ode.sample(m, (B, D), solver, steps, seed=1, full=True)
            except OdesolveError:  # a solver that this path, or so few steps, have no use for
                continue
            seen = []
            found = ode.sample(m, (B, D), solver, steps, seed=1, full=True, callback=seen.append)
            shown = list(ode.iterate(m, (B, D), solver, steps, seed=1))
            assert torch.equal(found.x, plain.x)
            assert (found.nfe, found.status, found.t) == (plain.nfe, plain.status, plain.t)
            if found.status != "ok":
                continue
            assert [(s.index, s.t) for s in seen] == [(s.index, s.t) for s in shown]
            for mine, theirs in zip(seen, shown, strict=True):
                assert torch.equal(mine.x, theirs.x)
                assert (mine.data is None) == (theirs.data is None)
                assert mine.data is None or torch.equal(mine.data, theirs.data)
            assert torch.equal(seen[-1].x, found.x)


def test_steps_of_chunks_come_in_turn():
    seen = []
    found = ode.sample(
        model(), X, "ddim", 3, batch=2, callback=lambda s: seen.append((s.index, len(s.x)))
    )
    assert torch.equal(found, ode.sample(model(), X, "ddim", 3))
    assert seen == [(i, n) for n in (2, 2, 1) for i in (1, 2, 3)]


@rows("inference", [False, True])
def test_what_it_is_shown_is_a_copy_and_may_be_kept(inference):
    kept = []
    with torch.inference_mode(inference):
        ode.sample(
            model(),
            X,
            "dpmpp_2m",
            4,
            callback=lambda s: kept.append((s.x, s.x.clone(), s.cursor.state_dict())),
        )
    assert all(torch.equal(x, at_once) for x, at_once, _ in kept)
    assert torch.equal(ode.resume(model(), kept[1][2]), ode.sample(model(), X, "dpmpp_2m", 4))


@rows("answer", [True, False, {}, 0, "stop"], ids=repr)
def test_what_returns_something_is_refused(answer):
    with pytest.raises(
        OdesolveError,
        match=r"callback returned .*let it return "
        r"nothing.*ode.iterate",
    ):
        ode.sample(model(), X, "ddim", 3, callback=lambda step: answer)


@rows("name", ["x", "data"])
@rows("inference", [False, True])
def test_what_writes_is_refused(name, inference):
    def writes(step):
        getattr(step, name).mul_(0.5)

    with (
        pytest.raises(OdesolveError, match=r"callback wrote to step 1.*ode.iterate"),
        torch.inference_mode(inference),
    ):
        ode.sample(model(), X, "ddim", 3, callback=writes)


@rows(
    ("name", "options"),
    [
        ("executor", {"executor": ode.Window()}),
        ("executor", {"executor": ode.Parareal()}),
        ("log_prob", {"log_prob": True}),
        ("log_prob", {"log_prob": "plan"}),
        ("adjoint", {"adjoint": "backprop"}),
    ],
    ids=["window", "parareal", "flow", "plan", "adjoint"],
)
@rows("batch", [None, 2])
def test_beside_what_shows_no_steps_it_is_refused(name, options, batch):
    with pytest.raises(OdesolveError, match=f"callback= beside {name}=.*ode.iterate"):
        ode.sample(model(), X, "ddim", 3, callback=lambda step: None, batch=batch, **options)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(OdesolveError, match=r"callback is \[\]: give a function"):
        ode.sample(model(), X, "ddim", 3, callback=[])


@rows(
    "callback",
    [lambda i, t, x: None, lambda: None, lambda *, step: None],
    ids=["three", "none", "named"],
)
def test_those_of_other_programs_are_refused_before_the_first_step(callback):
    with pytest.raises(OdesolveError, match=r"give a function that is called as callback\(step\)"):
        ode.sample(model(), X, "ddim", 3, callback=callback)


def test_errors_of_its_own_come_through():
    def stops(step):
        if step.index == 2:
            raise StopIteration("enough")

    with pytest.raises((StopIteration, RuntimeError), match="enough"):
        ode.sample(model(), X, "ddim", 3, callback=stops)
