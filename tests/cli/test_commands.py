"""Every command does what its help says, for people and for machines."""

import json

import numpy as np
import pytest

import odesolve as ode
from odesolve.cli import main


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_profile_of_a_factory(capsys, module, tmp_path):
    words = [
        "profile",
        f"{module}:factory",
        "--shape",
        "16,1,4,4",
        "--solvers",
        "ddim,ab3(start=ramp,afs)",
        "--nfe",
        "4,8",
    ]
    code, out, err = run(
        capsys, *words, "--grids", "karras,vp_time(3)", "--out", str(tmp_path / "out")
    )
    assert code == 0
    assert "ab3(start=ramp,afs)" in out
    assert "8 evaluations: " in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table.csv",
        "profile.json",
        "plot.png",
    }
    assert "wrote table.csv" in err


def test_profile_as_json(capsys, module):
    words = [
        "--shape",
        "8,1,4,4",
        "--solvers",
        "ddim",
        "--grids",
        "uniform",
        "--nfe",
        "4",
        "--json",
    ]
    code, out, _ = run(capsys, "profile", f"{module}.py:model", *words)
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["solver"], row["steps"], row["counted"]) == ("ddim", 4, 4)


def test_profile_of_the_digits(capsys):
    words = [
        "--path",
        "linear",
        "--shape",
        "4,1,8,8",
        "--solvers",
        "euler",
        "--grids",
        "uniform",
        "--nfe",
        "3",
        "--top",
        "1",
    ]
    code, out, _ = run(capsys, "profile", *words)
    assert code == 0
    assert "3 evaluations: euler on uniform" in out


SMALL = ("--path", "linear", "--shape", "4,1,8,8", "--grids", "uniform", "--nfe", "2,4")


def test_profile_shows_few_rows_or_all(capsys):
    words = (*SMALL, "--solvers", "euler,heun,ddim,rk4")
    _, few, _ = run(capsys, "profile", *words, "--top", "1")
    _, every, _ = run(capsys, "profile", *words, "--all")
    assert "of 8 rows are shown: table(limit=None), or --all, has all" in few
    assert "skipped: one step takes more than 2 evaluations" in every
    assert every.count("euler = ddim") == 2
    assert "\nNFE: evaluations that the network really saw per sample" in few
    code, _, err = run(capsys, "profile", *words, "--top", "1", "--all")
    assert code == 2
    assert "give one of both" in err


def test_profile_against_data(capsys, tmp_path):
    data = ode.problems.digits().sample(20, seed=1)
    np.savez(tmp_path / "x.npz", x=data.numpy())
    words = (*SMALL, "--solvers", "euler", "--data", str(tmp_path / "x.npz"))
    code, out, _ = run(capsys, "profile", *words)
    assert code == 0
    assert "samples are" in out
    assert "from the data (sliced 2-Wasserstein distance, 4 samples, 16 data)" in out
    code, _, err = run(capsys, "profile", *words, "--shape", "4,2,8,8")
    assert code == 2
    assert "--shape" in err or "data of shape" in err


def test_profile_can_be_resumed(capsys, module, tmp_path):
    words = [
        "profile",
        f"{module}:factory",
        "--shape",
        "4,1,4,4",
        "--nfe",
        "4",
        "--grids",
        "karras",
        "--out",
        str(tmp_path),
    ]
    run(capsys, *words, "--solvers", "ddim")
    before = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert run(capsys, *words, "--solvers", "ddim,dpmpp_2m", "--resume")[0] == 0
    after = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert after[0]["network_seconds"] == before[0]["network_seconds"]
    assert len(after) == 2


@pytest.mark.parametrize("suffix", [".npz", ".png"])
def test_sample_writes_files(capsys, module, tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    words = [
        "--shape",
        "9,1,4,4",
        "--solver",
        "dpmpp_3m(start=ramp)",
        "--steps",
        "6",
        "--grid",
        "vp_time(3)",
    ]
    code, out, _ = run(capsys, "sample", f"{module}:factory", *words, "--out", str(file), "--json")
    assert code == 0
    assert json.loads(out)["nfe"] == 6
    if suffix == ".npz":
        assert np.load(file)["samples"].shape == (9, 1, 4, 4)
    else:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_sample_repeats_with_its_seed(capsys, module, tmp_path):
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        run(
            capsys,
            "sample",
            f"{module}:model",
            "--shape",
            "2,1,4,4",
            "--seed",
            "5",
            "--out",
            str(file),
            "--double",
        )
    a, b = (np.load(f)["samples"] for f in files)
    assert a.dtype == np.float64
    assert (a == b).all()


def test_sample_to_safetensors(capsys, module, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "x.safetensors"
    assert (
        run(capsys, "sample", f"{module}:model", "--shape", "2,1,4,4", "--out", str(file))[0] == 0
    )
    assert safetensors.load_file(file)["samples"].shape == (2, 1, 4, 4)


def test_solvers(capsys):
    code, out, _ = run(capsys, "solvers")
    assert code == 0
    assert "dpmpp_2m" in out
    assert "flow_map" in out
    code, out, _ = run(capsys, "solvers", "--json")
    assert {"name": "ddim", "order": 1}.items() <= next(
        s for s in json.loads(out) if s["name"] == "ddim"
    ).items()


def test_plan_prints_coefficients_or_json(capsys):
    code, out, _ = run(
        capsys, "plan", "dpmpp_2m", "--path", "vp", "--steps", "4", "--grid", "karras"
    )
    assert code == 0
    assert out.startswith("dpmpp_2m: 4 steps, 4 evaluations")
    code, out, _ = run(
        capsys,
        "plan",
        "ab3(start=ramp)",
        "--path",
        "linear",
        "--steps",
        "4",
        "--grid",
        "shift(3)",
        "--json",
    )
    assert json.loads(out)["solver"] == "ab3(start=ramp)"


def test_plan_compares_two_solvers(capsys):
    code, out, _ = run(capsys, "plan", "ddim", "--path", "edm", "--diff", "euler(clock=rho)")
    assert (code, "the same sampler" in out) == (0, True)
    code, out, _ = run(capsys, "plan", "ddim", "--diff", "dpmpp_2m", "--json")
    assert (code, json.loads(out)["same"]) == (1, False)
    code, out, _ = run(capsys, "plan", "ddim", "--diff", "heun_edm", "--json")
    assert (code, json.loads(out)["largest"]) == (1, None)


@pytest.mark.parametrize(
    ("columns", "there", "gone"), [("70", "median", "trimmed"), ("200", "trimmed", "…")]
)
def test_a_terminal_gets_the_columns_that_fit(capsys, module, monkeypatch, columns, there, gone):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    words = [
        "--shape",
        "8,1,4,4",
        "--solvers",
        "ddim,dpmpp_2m",
        "--grids",
        "uniform,shift(2)",
        "--nfe",
        "4,8",
        "--all",
    ]
    code, out, _ = run(capsys, "profile", f"{module}:model", *words)
    assert code == 0
    assert there in out
    assert "shift(2)" in out
    assert gone not in out.split("evaluations:")[0]
    code, out, _ = run(capsys, "solvers")
    assert "dpmpp_3m_published" in out


def test_profile_parallel(capsys, module):
    words = [
        "profile",
        f"{module}:factory",
        "--shape",
        "4,1,4,4",
        "--nfe",
        "10",
        "--solvers",
        "ddim",
        "--grids",
        "uniform",
    ]
    assert main([*words, "--parallel"]) == 0
    assert "ddim on uniform, 10 calls, 4 samples: in parallel" in capsys.readouterr().out
