"""The demo, on fewer samplers and samples."""

import sys

import pytest

import odesolve as ode
from odesolve import demo


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SAMPLES", 16)
    monkeypatch.setattr(
        demo, "SAMPLERS", {"VP": ("dpmpp_2m karras", "ddim quadratic", "ipndm_4(afs) vp_time(3)")}
    )
    monkeypatch.setattr(demo, "PATHS", {"VP (diffusion)": demo.paths.VP()})


def test_the_demo_writes_its_files_and_says_what_to_use(small, capsys, tmp_path):
    assert demo.main(["--quick", "--out", str(tmp_path / "out")]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"vp.csv", "vp.json", "work-precision.png", "work-precision.svg", "digits.png"}
    out = capsys.readouterr().out
    assert "=== VP (diffusion)" in out
    assert "10 evaluations: ipndm_4(afs) on vp_time(3)" in out
    assert "times that of ddim on quadratic" in out


def test_every_sampler_of_the_demo_has_a_plan():
    for path in demo.PATHS.values():
        chosen = demo.samplers(path)
        assert len({c.name for c in chosen}) >= 10
        for sampler in chosen:
            plan = ode.plan(sampler.solver, path, 5, sampler.grid, **sampler.options)
            assert plan.nfe <= 4 * 5


def test_a_missing_library_is_one_line(small, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("odesolve.demo: error: plots need matplotlib")
