"""The benchmark of couplings: what it trains with, what it measures, and its table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import odesolve as ode
from odesolve.objectives.conditions import coupled

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """The module, which lies where scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("couplings")
    for name in ("couplings", "timing"):
        sys.modules.pop(name, None)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_only_transport_across_labels_tells_the_label(bench):
    """Of data that lie 4 apart the mean noise of a label is that of all, but for the transport that
    sees no labels."""
    y = torch.arange(4000) % 2
    x, noise = (4.0 * y - 2.0)[:, None] + 0.3 * normal(4000, 1), normal(4000, 1, seed=1)
    found = {}
    for name, coupling in bench.couplings(0.05).items():
        g = torch.Generator().manual_seed(2)
        parts = [
            coupled(coupling, x[k], noise[k], {"label": y[k]}, g)
            for k in torch.arange(4000).split(200)
        ]
        found[name] = float(torch.cat(parts)[y == 1].mean())
    assert found.pop("across labels") == pytest.approx((2 / torch.pi) ** 0.5, abs=0.03)
    assert len(found) == 3
    for name, mean in found.items():
        assert abs(mean) < 4 / 2000**0.5, name


def test_frechet_distance_has_its_closed_form(bench):
    """Of the same samples shifted the square of the shift, and scaled by 2 from the centre the
    trace of their covariance."""
    data = normal(500, 30).double() * torch.linspace(2, 0.1, 30, dtype=torch.float64)
    data = data - data.mean(0)
    frechet = bench.Frechet(data)
    shift = frechet.axes @ torch.linspace(-1, 1, bench.FEATURES, dtype=torch.float64)
    assert frechet(data, data) == pytest.approx(0, abs=1e-9)
    assert frechet(data, data + shift) == pytest.approx(float(shift.square().sum()), abs=1e-9)
    assert frechet(data, 2 * data) == pytest.approx(
        float(torch.cov((data @ frechet.axes).T).trace()), rel=1e-9
    )


def test_measures_of_an_exact_flow(bench):
    """Each label arrives, and its trajectories bend as those of independent noise."""

    def exact(x, t, label):
        t = t[:, None].to(x.dtype)
        mean, var = 4.0 * label[:, None] - 2.0, (0.3 * (1 - t)) ** 2 + t**2
        return -mean + (t - 0.09 * (1 - t)) / var * (x - (1 - t) * mean)

    found = bench.two_labels().measure(ode.Model(exact, bench.PATH, "velocity"), 0)
    assert found["distance, label 0"] < 1e-3
    assert found["distance, label 1"] < 1e-3
    assert found["straightness, label 1"] == pytest.approx(found["straightness, label 0"], rel=1e-5)
    assert 0.1 < found["straightness, label 0"] < 0.2


def test_the_table_has_medians_and_ratios(bench):
    """Ratios are of one seed each: 0.5, 0.75 and 1.75."""
    rows = [
        {"problem": "p", "coupling": name, "seed": seed, "measure": "m", "value": value}
        for name, values in ((bench.PLAIN, (1.0, 4.0, 2.0)), (bench.TRANSPORT, (0.5, 3.0, 3.5)))
        for seed, value in enumerate(values)
    ]
    _, plain, transport = bench.table(rows).splitlines()
    assert plain.split()[-4:] == ["2.0000", "1.0000", "4.0000", "1.000"]
    assert transport.split()[-4:] == ["3.0000", "0.5000", "3.5000", "0.750"]


def test_the_benchmark_runs(bench, monkeypatch, capsys, tmp_path):
    out, threads = tmp_path / "couplings.csv", torch.get_num_threads()
    for name, value in {"COPIES": 1, "NFE": (1, 2), "POINTS": 50, "FINE": 4}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(sys, "argv", ["couplings.py", "--quick", "--out", str(out)])
    try:
        bench.main()
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    for name in bench.couplings(1.0):
        for problem, measures in (("two labels", 5), ("digits", 8)):
            rows = [
                line
                for line in printed.splitlines()
                if line.startswith(problem) and name + "  " in line
            ]
            assert len(rows) == measures, name
    assert "nan" not in printed
    assert not out.exists()
