"""An interrupted profile goes on where it stopped."""

import pytest

import odesolve as ode
from odesolve.profile import Profile


def test_measured_rows_are_not_measured_again(gaussian, exact, noise, tmp_path):
    path, file = ode.paths.Linear(), tmp_path / "profile.json"
    calls = []

    def net(x, t):
        calls.append(1)
        return gaussian.velocity(x, path, t)

    model = ode.Model(net, path, "velocity")
    args = {
        "noise": noise,
        "grids": ["uniform"],
        "reference": exact(path),
        "timing": 0,
        "resume": file,
    }
    first = ode.profile(model, ["ddim"], (4, 8), **args)
    assert len(calls) == 12
    both = ode.profile(model, ["ddim", "ab2"], (4, 8), **args)
    assert len(calls) == 24
    assert both.rows[:2] == first.rows
    assert [r.solver for r in Profile.from_json(file).rows] == ["ddim", "ddim", "ab2", "ab2"]


def test_a_file_of_another_problem_is_refused(gaussian, exact, noise, tmp_path):
    file = tmp_path / "profile.json"
    args = {"noise": noise, "timing": 0, "resume": file}
    for path in (ode.paths.Linear(), ode.paths.Linear(0.1)):
        model = gaussian.model(path)
        if path.sigma_min:
            with pytest.raises(ode.OdesolveError, match="another problem"):
                ode.profile(model, ["ddim"], 4, ["uniform"], reference=exact(path), **args)
        else:
            ode.profile(model, ["ddim"], 4, ["uniform"], reference=exact(path), **args)


def test_the_batch_can_be_given_apart(gaussian):
    model = gaussian.model(ode.paths.Linear())
    found = ode.profile(model, ["ddim"], 4, ["uniform"], noise=(2,), batch=16, timing=0)
    assert found.problem["shape"] == [16, 2]
    assert found.problem["seed"] == 0
    assert found.reference.shape == found.noise.shape == (16, 2)
