"""An executor from outside of the package: one class."""

from __future__ import annotations

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
