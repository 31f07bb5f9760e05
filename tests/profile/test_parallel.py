"""A parallel executor beside the loop: what is measured, and what is said of it."""

import dataclasses

import pytest
import torch

import odesolve as ode
from odesolve.profile import Certificate, Parallel, Profile, Row
from odesolve.profile.parallel import advice


def measured(**options):
    digits = ode.problems.digits()
    return ode.profile(
        digits.model(ode.paths.VP()),
        ["ddim"],
        (4, 20),
        ["uniform"],
        noise=(3, 1, 8, 8),
        timing=1,
        **options,
    )


def test_what_is_measured():
    window = ode.Window()
    found = measured(executor=window)
    assert [(p.nfe, p.batch) for p in found.parallel] == [(4, 1), (4, 3), (20, 1), (20, 3)]
    for p in found.parallel:
        assert p.calls == p.nfe
        assert 1 <= p.rounds <= p.calls
        assert p.evaluations >= p.calls
        assert p.difference < 1e-2
        assert min(p.seconds, p.loop_seconds, p.rows) > 0
    last = found.parallel[-1]
    assert (last.rounds, last.evaluations) == (
        window.report.rounds,
        float(window.report.evaluations.double().mean()),
    )
    text = found.advice()
    assert f"ddim on uniform, 20 calls, 3 samples: in parallel {last.rounds} rounds" in text
    assert Profile.from_json(found.to_json()).parallel == found.parallel


def test_without_an_executor_nothing_is_said():
    found = measured()
    assert found.parallel == []
    assert "parallel" not in found.advice()


def test_other_executors():
    found = measured(executor=ode.Parareal())
    assert len(found.parallel) == 4
    with pytest.raises(ode.OdesolveError, match=r"which keeps no report: give an ode\.Window"):
        measured(executor=object())


def test_conditions_go_with_their_samples():
    net = lambda x, t, shift: x * shift.view(-1, 1)
    cond = {"shift": torch.tensor([0.1, 0.2, 0.3])}
    model = ode.Model(net, ode.paths.VP(), "noise", cond=cond)
    found = ode.profile(
        model, ["ddim"], 10, ["uniform"], noise=(3, 2), timing=1, executor=ode.Window()
    )
    assert [p.batch for p in found.parallel] == [1, 3]
    assert all(p.difference < 1e-2 for p in found.parallel)


@pytest.fixture
def found():
    kinds = [("ddim", 50, 0.02), ("dpmpp_2m", 8, 0.03), ("euler", 10, 0.5)]
    rows = [
        Row(
            s,
            "karras",
            n,
            steps=n,
            calls=n,
            counted=n,
            median=e,
            rmse=e,
            trimmed=e,
            sliced=e,
            worst=e,
        )
        for s, n, e in kinds
    ]
    part = Parallel("ddim", "karras", 50, 1, 50, 9, 150.0, 0.010, 0.050, 1e-4, 0.05)
    return Profile(rows, Certificate(1e-4, 1e-4, 1e-3, 512, True, "two solves"), parallel=[part])


def with_part(found, **changes):
    found.parallel = [dataclasses.replace(found.parallel[0], **changes)]
    return " ".join(advice(found))


def test_it_pays(found):
    text = with_part(found)
    assert (
        "in parallel 9 rounds, 150 evaluations, 10.0 ms; one after another 50.0 ms: 5.0 times "
        "faster"
    ) in text
    assert "but a plan of 8 calls is as good: dpmpp_2m on karras, error 0.03" in text
    assert "does not pay" not in text


def test_a_large_network(found):
    text = with_part(found, seconds=0.2, rows=0.9)
    assert (
        "it does not pay, the network is busy: a call on 50 states takes 45.0 times as long as "
        "on one"
    ) in text
    assert text.endswith("a plan of 8 calls is as good: dpmpp_2m on karras, error 0.03.")


def test_a_network_with_some_room(found):
    assert (
        "150 evaluations are too many for a network whose calls on 50 states take 20.0 times"
        in with_part(found, seconds=0.06, rows=0.4)
    )


def test_costs_outside_the_network(found):
    assert "9 rounds cost more outside the network than 50 calls" in with_part(found, seconds=0.06)


def test_only_plans_that_are_as_good_count(found):
    found.rows[1] = dataclasses.replace(found.rows[1], median=0.2)
    assert "is as good" not in with_part(found)
    found.rows[1] = dataclasses.replace(found.rows[1], median=0.03, calls=10)
    assert "is as good" not in with_part(found, rounds=9)


def test_several_devices(found, monkeypatch):
    assert "devices" not in with_part(found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert "There are 4 devices" in with_part(found)
    assert "rounds take up to 3.0 times as many" in with_part(found)
