"""The progress bar counts network calls over all runs."""

import tqdm.auto

import odesolve as ode
from odesolve.process.progress import Bar
from odesolve.profile import measure


def test_bar_goes_on_from_run_to_run(gaussian, exact, noise, capsys, monkeypatch):
    seen = []

    class Bar(tqdm.auto.tqdm):
        def close(self):
            seen.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    path = ode.paths.Linear()
    args = {"noise": noise, "grids": ["uniform"], "reference": exact(path), "timing": 2}
    ode.profile(gaussian.model(path), ["ddim"], (4, 8), progress=True, **args)
    assert seen[0] == (24, 24)
    assert "/24 " in capsys.readouterr().err
    for quiet in (None, False):
        ode.profile(gaussian.model(path), ["ddim"], (4, 8), progress=quiet, **args)
        assert capsys.readouterr().err == ""


def test_a_reference_of_many_solves_does_not_overrun_the_bar(gaussian, noise, monkeypatch):
    told = []

    class Counted(Bar):
        def __enter__(self):
            told.append(self.total)
            return told.append

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(measure, "Bar", Counted)
    ode.profile(gaussian.model(ode.paths.Linear()), ["ddim"], [4], noise=noise, tolerance=1e-9)
    total, *counts = told
    assert len(counts) > total  # the reference took more calls than its first solves
    assert counts == sorted(counts)
    assert counts[-1] == total
