"""Budgets of evaluations: every solve ends, with a status and its last finite state."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

import odesolve as ode
from odesolve.cli import main
from odesolve.errors import OdesolveError
from tests.products import LONG
from tests.rows import rows

X = torch.tensor([[1.0, 0.5], [0.1, 0.2], [2.0, 1.0]])
MODEL = ode.problems.mixture([1.0, 2.0], [[1.0, 0.5], [-1.0, 0.3]], std=0.1).model(
    ode.paths.VP(), "noise"
)


def stiff(t, y):
    return -1e4 * (y - torch.cos(50 * t))


SOLVES = {
    "dopri5": {},
    "dopri8": {"solver": "dopri8"},
    "kvaerno3": {"solver": "kvaerno3", "rtol": 1e-9, "atol": 1e-9},
    "events": {"events": ode.Event(lambda t, y: y[:, 0] - 100.0)},
    "dense": {"dense": True},
    "batch": {"control": "batch"},
    "every eighth": {"sync": 8},
    "backprop": {"adjoint": "backprop"},
    "continuous": {"adjoint": "continuous"},
}


@rows("way", SOLVES)
def test_solves_end_with_a_status(way):
    options = {"t": (0.0, 0.5, 1.0), **SOLVES[way]}
    found = ode.solve(stiff, X.clone(), max_calls=200, **options)
    words = [found.status] if isinstance(found.status, str) else found.status
    assert set(words) == {"max_calls"}
    assert not found.ok
    # Eight attempts between two looks, Newton's steps, a call that looks for parameters.
    late = {"every eighth": 8 * 7, "kvaerno3": 60, "backprop": 1, "continuous": 1}.get(way, 0)
    assert 150 < int(found.nfe.max()) <= 200 + late
    assert bool(found.last.isfinite().all())
    assert bool(found.y[-1].isnan().all())
    assert 0.0 < float(found.t.max()) < 1.0


def test_samples_end_one_by_one():
    """A sample that arrives within the budget is as it would be without."""
    rate = torch.tensor([[1.0], [1.0], [3e3]])
    some = ode.solve(lambda t, y, k: -k * (y - torch.cos(t)), X, args=(rate,), max_calls=500)
    alone = ode.solve(lambda t, y, k: -k * (y - torch.cos(t)), X[:2], args=(rate[:2],))
    assert some.status == ["ok", "ok", "max_calls"]
    assert torch.equal(some.last[:2], alone.last)
    # The last accepted state lies on the solution.
    there = ode.solve(
        lambda t, y: -3e3 * (y - torch.cos(t)),
        X[2:],
        (0.0, float(some.t[2])),
        "kvaerno5",
        rtol=1e-7,
    )
    torch.testing.assert_close(some.last[2:], there.last, rtol=1e-3, atol=1e-3)
    assert "max_calls" in str(some.diagnosis(2))


def test_the_default_ends_too():
    found = ode.solve(stiff, X, (0.0, 1e6), max_steps=300)
    assert found.status == ["max_steps"] * 3


def test_an_own_generator_ends():
    """Random numbers that nothing shows: no tolerance is met, and the budget ends it."""
    g = torch.Generator().manual_seed(0)
    found = ode.solve(
        lambda t, y: torch.randn(y.shape, generator=g), X, max_calls=300, rtol=1e-7, atol=1e-7
    )
    assert set(found.status) <= {"max_calls", "min_step"}
    assert bool(found.last.isfinite().all())


@rows("solver", ["dpm_solver_12", "dpm_solver_23", "dopri5"])
def test_models(solver):
    found = ode.solve(MODEL, X, (1.0, 1e-3), solver, max_calls=12)
    assert found.status == ["max_calls"] * 3
    assert int(found.nfe.max()) <= 13  # and one that asked twice
    assert bool(((found.t < 1.0) & (found.t > 1e-3)).all())


def test_stochastic_equations():
    options = {"noise": "additive", "solver": "sra1", "rtol": 1e-4, "seed": 0}
    found = ode.solve_sde(lambda t, y: -50 * y, 1.0, X, (0.0, 0.5, 1.0), max_calls=100, **options)
    assert found.status == ["max_calls"] * 3
    assert int(found.nfe.max()) <= 100
    assert bool(found.last.isfinite().all())
    assert bool(found.y[-1].isnan().all())


@rows(
    "options",
    [{}, {"solver": "picard"}] + [{"divergence": "along"}, {"adjoint": "backprop"}] * LONG,
    ids=str,
)
def test_densities(options):
    found = ode.log_prob(MODEL, X, tol=1e-6, max_calls=20, **options)
    assert found.status == ["max_calls"] * 3
    assert bool(found.value.isnan().all())
    assert bool(found.latent.isfinite().all())
    assert int(found.nfe.max()) < 110
    assert ode.log_prob(MODEL, X, **options).ok


def test_densities_have_a_limit_by_default():
    """A velocity that no step resolves."""
    calls = []

    def rough(t, x):
        calls.append(len(x))
        return torch.sin(1e7 * (t + x))

    assert inspect.signature(ode.log_prob).parameters["max_calls"].default == 10_000
    found = ode.log_prob(rough, X, tol=1e-6, max_calls=300, check=False)
    assert found.status == ["max_calls"] * 3
    assert len(calls) <= 310


def test_a_density_of_some_samples():
    """The velocity is rough for one sample alone."""
    k = torch.tensor([[0.0], [0.0], [1e6]])
    found = ode.log_prob(
        lambda t, x, k: -x + torch.sin(k * x), X, args=(k,), max_calls=200, check=False
    )
    assert found.status == ["ok", "ok", "max_calls"]
    assert found.value.isnan().tolist() == [False, False, True]


def test_jobs_and_the_command_line_pass_it_on(tmp_path, capsys):
    ode.jobs.log_prob(MODEL, X, out=tmp_path / "job", max_calls=10, progress=False)
    assert bool(torch.tensor(ode.jobs.Job(tmp_path / "job").load()["nats"]).isnan().all())
    assert (
        main(
            [
                "loglik",
                "--path",
                "vp",
                "--limit",
                "2",
                "--trace",
                "hutchinson",
                "--products",
                "1",
                "--max-calls",
                "10",
                "--json",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["failed"]) == (2, 2)


@rows("bad", [0, -1, 2.5, True, "10"])
def test_what_is_no_budget(bad):
    for call in (
        lambda: ode.solve(stiff, X, max_calls=bad),
        lambda: ode.solve_sde(
            stiff, 0.1, X, noise="additive", solver="sra1", rtol=1e-2, max_calls=bad
        ),
        lambda: ode.log_prob(MODEL, X, max_calls=bad),
        lambda: ode.log_prob(MODEL, X, solver="picard", max_calls=bad),
    ):
        with pytest.raises(OdesolveError, match="give how many evaluations a sample may take"):
            call()
    with pytest.raises(OdesolveError, match="with steps=3"):
        ode.solve(stiff, X, solver="rk4", steps=3, max_calls=10)
