"""The progress bar counts network calls over all runs."""

import tqdm.auto

import odesolve as ode


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
