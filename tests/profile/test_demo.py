"""The demo, on fewer samplers and samples."""

import sys

import pytest

import odesolve as ode
from odesolve import demo


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", 16)
    monkeypatch.setattr(demo, "CHOOSING", 4)
    monkeypatch.setattr(demo, "CHOICE", (5, 10))
    monkeypatch.setattr(demo, "DIFFUSION_GRIDS", ("karras", "vp_time(3)"))
    chosen = ["ddim", "dpmpp_2m", "ipndm_4(afs)"]
    monkeypatch.setattr(demo, "default_solvers", lambda path: chosen)
    monkeypatch.setattr(demo, "PATHS", {"VP (diffusion)": demo.paths.VP()})


def test_the_demo_writes_its_files_and_says_what_to_use(small, capsys, tmp_path):
    assert demo.main(["--quick", "--out", str(tmp_path / "out")]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"vp.csv", "vp.json", "work-precision.png", "work-precision.svg", "digits.png"}
    out = capsys.readouterr().out
    assert "=== VP (diffusion)" in out
    assert "10 evaluations: ipndm_4(afs) on vp_time(3)" in out
    assert "times that of ddim on vp_time(3), their own best grids" in out
    assert "\nmedian: error of the median sample" in out


def test_every_solver_stands_on_its_own_best_grid_and_as_people_take_it(small):
    digits = demo.problems.digits()
    path = demo.paths.VP()
    chosen = {(c.label, c.grid_name) for c in demo.samplers(digits, path)}
    assert {("ddim", "vp_time(3)"), ("ipndm_4(afs)", "vp_time(3)")} <= chosen
    assert {("ddim", "uniform"), ("dpmpp_2m", "karras"), ("heun_edm", "karras")} <= chosen
    assert len(chosen) <= 6
    tried = {demo._noise(4, seed) for seed in (0, 1)}
    assert len(tried) == 2  # grids are chosen on other noise than is reported


def test_what_people_take_has_a_plan_on_every_path():
    for path in demo.PATHS.values():
        for sampler in demo.common(path):
            plan = ode.plan(sampler.solver, path, 5, sampler.grid, **sampler.options)
            assert plan.nfe <= 2 * 5
    for names in (demo.DIFFUSION_GRIDS, demo.FLOW_GRIDS):
        assert len({*map(demo.parse_grid, names)}) == len(names)


@pytest.mark.long
def test_the_picture_shows_errors_that_fall(small):
    digits = demo.problems.digits()
    found = demo.measured(digits, demo.paths.VP(), quick=True)
    rows = dict(demo.rows_of_digits(digits, found))
    errors = [x.square().mean() for name, x in rows.items() if name.startswith("error")]
    assert len(errors) == 4
    assert errors[0] > 4 * errors[2] > 4 * errors[3]
    assert all(len(x) == demo.COLUMNS for x in rows.values())


def test_a_missing_library_is_one_line(small, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("odesolve.demo: error: plots need matplotlib")
