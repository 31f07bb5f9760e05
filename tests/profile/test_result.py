"""What follows from rows: best, front, lines, table, advice; and files."""

import csv
import dataclasses
import json
import math

import pytest

import odesolve as ode
from odesolve.profile import Certificate, Profile, Row
from odesolve.profile.report import family
from tests.rows import rows


def row(solver, nfe, median, grid="karras", **more):
    return Row(
        solver,
        grid,
        nfe,
        steps=nfe,
        calls=more.pop("calls", nfe),
        counted=nfe,
        median=median,
        **{"rmse": 2 * median, "trimmed": median, "sliced": median, "worst": 4 * median, **more},
    )


@pytest.fixture
def found():
    rows = [
        row("ddim", 5, 0.3),
        row("ddim", 10, 0.1),
        row("ddim", 20, 0.05),
        row("unipc_2", 5, 0.4),
        row("unipc_2", 10, 0.04, rmse=0.041),
        row("unipc_2", 20, 2e-4),
        row(
            "dpmpp_2m",
            10,
            0.02,
            grid="vp_time(3)",
            options={"afs": True},
            network_seconds=0.99,
            rest_seconds=0.01,
        ),
        row("dpmpp_2m", 20, 1e-4, grid="vp_time(3)", options={"afs": True}),
        Row("rk4", "karras", 5, status="error", message="it broke"),
    ]
    return Profile(
        rows, Certificate(1e-4, 1e-4, 1e-3, 512, True, "two solves"), None, {"path": {"name": "VP"}}
    )


def test_best_is_the_lowest_error_within_the_budget(found):
    assert found.best(5).solver == "ddim"
    assert found.best(10).label == "dpmpp_2m(afs)"
    assert found.best(10, metric="rmse").solver == "dpmpp_2m"
    assert found.best(19) == found.best(10)


def test_below_the_floor_the_cheaper_row_is_best(found):
    found.rows.append(row("euler", 20, 2.9e-4, calls=18))
    assert found.best(20).solver == "euler"


def test_best_names_the_cheapest_where_nothing_fits(found):
    with pytest.raises(ode.OdesolveError, match="the cheapest takes 5"):
        found.best(3)
    with pytest.raises(ode.OdesolveError, match="unknown metric"):
        found.best(10, metric="medain")


def test_the_front_holds_rows_that_no_cheaper_row_beats(found):
    assert [(r.solver, r.nfe) for r in found.front()] == [
        ("ddim", 5),
        ("dpmpp_2m", 10),
        ("dpmpp_2m", 20),
    ]


def test_lines_take_the_best_grid_of_each_solver(found):
    found.rows += [row("ddim", n, e, grid="lambda") for n, e in ((5, 0.2), (10, 0.09), (20, 0.01))]
    lines = found.lines()
    assert list(lines) == ["dpmpp_2m(afs)", "unipc_2", "ddim"]
    assert {r.grid for r in lines["ddim"]} == {"lambda"}


def test_a_row_gives_the_arguments_of_its_sampler(found):
    assert found.best(10).arguments() == {
        "solver": "dpmpp_2m",
        "grid": ode.grids.VPTime(exponent=3.0),
        "steps": 10,
        "afs": True,
    }


def test_the_recommended_sampler_repeats_the_measured_run(gaussian, noise, exact):
    path = ode.paths.EDM()
    model = gaussian.model(path)
    found = ode.profile(
        model,
        ["ipndm_3(afs)", "ddim"],
        8,
        ["vp_time(3)"],
        noise=noise,
        reference=exact(path),
        timing=0,
    )
    best = found.best(8)
    x = ode.sample(model, noise, **best.arguments())
    assert best.rmse == pytest.approx(float((x - exact(path)).square().mean().sqrt()))


def test_the_table_is_sorted_and_marks_the_front(found):
    lines = [line.split() for line in found.table().splitlines() if line.strip()]
    assert lines[1][:3] == ["*", "5", "ddim"]
    assert lines[2][:2] == ["5", "unipc_2"]
    assert "error: it broke" in found.table(limit=None)
    assert "rk4" not in found.table()
    first = found.table(limit=1)
    assert first.count("unipc_2") == 1
    assert "within 10 %: dpmpp_2m(afs) on vp_time(3), unipc_2 on karras" in first


def test_the_advice_names_the_best_and_its_margin(found):
    text = found.advice()
    assert "10 evaluations: dpmpp_2m(afs) on vp_time(3) (10 steps), median error 0.02" in text
    assert "UniPC 2.0 times that (unipc_2 on karras), DDIM 5.0 times that" in text
    assert (
        "1.0% of the CPU wall time is spent outside the network: a faster solver does not "
        "matter here."
    ) in text
    assert "1 of 9 runs failed (rk4 on karras)" in text
    assert "they differ by rms 1.0e-04" in text


def test_the_advice_says_when_the_solver_does_cost_time(found):
    found.rows = [dataclasses.replace(r, network_seconds=1.0, rest_seconds=1.0) for r in found.rows]
    assert "50% of the CPU wall time" in found.advice()


def test_json_holds_everything(found, tmp_path):
    found.to_json(tmp_path / "p.json")
    again = Profile.from_json(tmp_path / "p.json")
    assert again.to_json() == found.to_json()
    assert again.rows[:-1] == found.rows[:-1]
    assert again.rows[-1].status == "error"
    assert math.isnan(again.rows[-1].rmse)
    assert Profile.from_json(found.to_json()).best(10) == found.best(10)


def test_json_of_something_else_is_refused(tmp_path):
    with pytest.raises(ode.OdesolveError, match="profile"):
        Profile.from_json(json.dumps({"rows": [{"solvr": 1}]}))


def test_csv_has_a_column_a_field(found, tmp_path):
    found.to_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows)
    assert rows[6]["options"] == '{"afs": true}'
    assert float(rows[6]["median"]) == 0.02


@rows(
    ("solver", "name"),
    [
        ("ddim", "DDIM"),
        ("dpm_solver_2m", "DPM-Solver"),
        ("dpmpp_3m_published", "DPM-Solver++"),
        ("ipndm_v4", "iPNDM"),
        ("ab3", "Adams-Bashforth"),
        ("deis_tab2", "DEIS"),
        ("unipc_3", "UniPC"),
        ("rk4_38", "Runge-Kutta"),
        ("heun_edm", "Heun (EDM)"),
    ],
)
def test_families(solver, name):
    assert family(solver) == name
