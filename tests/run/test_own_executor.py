"""An executor from outside of the package: one class."""

from __future__ import annotations

import dataclasses
import gc
import threading

import pytest
import torch

import odesolve as ode
from odesolve import run
from odesolve.run.executor import REPORTS, settings_of

MODEL = ode.Model(lambda x, t: 0.5 * x, ode.paths.VP(), "data")
SHAPE = (5, 3)


class Halves:
    """The loop on each half of a batch."""

    cast = False

    def __init__(self, share=0.5):
        self.share = share
        self.used = 0  # not an argument, and so no setting

    def run(self, program, x, keys=None, model=None, tick=None):
        self.used += 1
        first = round(self.share * len(x))
        out = []
        for rows in torch.arange(len(x)).split([first, len(x) - first]):
            mine = None if keys is None else keys[rows]
            out.append(run.run(program, x[rows], mine, model.rows(rows, len(x)), tick))
        return torch.cat(out)


class Described(Halves):
    def settings(self):
        return {"share": self.share, "kind": "halves"}


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp_2m_sde"])
@pytest.mark.parametrize("executor", [Halves(), Described(0.2)], ids=["bare", "described"])
def test_every_entry_takes_it(solver, executor):
    given = {"solver": solver, "steps": 6, "seed": 1}
    want = ode.sample(MODEL, SHAPE, **given)
    assert torch.equal(ode.sample(MODEL, SHAPE, executor=executor, **given), want)
    sampler = ode.Sampler(MODEL, solver, 6, executor=executor)
    assert torch.equal(sampler(SHAPE, seed=1), want)
    assert executor.used


def test_what_it_was_made_with():
    used = Halves(0.4)
    used.run(run_program(), torch.zeros(2, 3), None, MODEL)
    assert settings_of(used) == {"share": 0.4}
    assert settings_of(Described(0.4)) == {"share": 0.4, "kind": "halves"}
    window = ode.Window(7)
    ode.sample(MODEL, SHAPE, "ddim", 4, executor=window)
    assert settings_of(window) == {
        "size": 7,
        "tolerance": 1e-3,
        "exact": False,
        "acceleration": "secant",
        "coarse": None,
        "stride": None,
        "spread": 0.5,
    }


def run_program():
    from odesolve.sampling.execute import program_for

    return program_for(MODEL, ode.plan("ddim", MODEL.path, 3), torch.float32, None)


@pytest.mark.parametrize("executor", [ode.Window(), ode.Parareal()])
def test_a_report_belongs_to_the_thread_that_asked(executor):
    """Before, a solve in another thread overwrote the report before it was read."""
    ode.sample(MODEL, (5, 3), "ddim", 6, executor=executor)
    mine = executor.report
    assert isinstance(executor, run.Reporting)
    others = []

    def other():
        assert executor.report is None
        ode.sample(MODEL, (2, 3), "ddim", 9, executor=executor)
        others.append(executor.report)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(others[0].evaluations) == 2
    assert executor.report is mine
    assert len(mine.evaluations) == 5
    assert REPORTS.get(Halves()) is None


class Half:
    """Gives the first sample alone."""

    cast = False

    def run(self, program, x, keys=None, model=None, tick=None):
        return run.run(program, x, keys, model, tick)[:1]


class Nothing(Half):
    def run(self, program, x, keys=None, model=None, tick=None):
        return None


class Narrow(Half):
    def run(self, program, x):
        return run.run(program, x)


class Undecided(Half):
    cast = None


class Idle:
    cast = False


@pytest.mark.parametrize(
    ("executor", "told"),
    [
        (Half(), r"Half.run returned float32 \(1, 2\) for a start state float32 \(2, 2\)"),
        (Nothing(), "Nothing.run returned NoneType"),
        (Narrow(), r"let it take \(program, x, keys=None, model=None, tick=None\)"),
        (Undecided(), "give its class cast = False"),
        (Idle(), "give an object with run and cast"),
        (Half, "give an object with run and cast"),
        ("window", "give an object with run and cast"),
    ],
)
def test_executors_that_do_not_fit_are_refused(executor, told):
    with pytest.raises(ode.OdesolveError, match=told):
        ode.sample(MODEL, (2, 2), solver="ddim", steps=2, seed=0, executor=executor)


def test_reports_are_those_of_one_executor():
    """Of executors that compare equal, too, and of those without a hash."""

    @dataclasses.dataclass
    class Counted:
        size: int = 1
        cast = False

        def run(self, program, x, keys=None, model=None, tick=None):
            REPORTS.put(self, len(program.calls))
            return run.run(program, x, keys, model, tick)

    first = Counted()
    second = Counted()
    for executor, steps in ((first, 2), (second, 3)):
        ode.sample(MODEL, (2, 2), solver="ddim", steps=steps, seed=0, executor=executor)
    assert (REPORTS.get(first), REPORTS.get(second), REPORTS.get(Counted())) == (2, 3, None)
    place = id(first)
    del first, executor
    gc.collect()
    assert place not in REPORTS._local.values
