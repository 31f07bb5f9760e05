"""``odesolve loglik``: values as ``ode.log_prob`` has them, for any batch, interrupted or not."""

import json

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import loglik, main


@pytest.fixture
def data(module):
    """File of five samples of the module's Gaussian."""
    x = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).sample(5)
    np.savez("x.npz", x=x.numpy())
    torch.save(x, "x.pt")
    return x


def run(capsys, *words):
    code = main(["loglik", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_values_are_those_of_log_prob(capsys, module, data):
    words = [
        f"{module}:factory",
        "--double",
        "--trace",
        "hutchinson",
        "--products",
        "4",
        "--json",
        "--batch",
        "2",
    ]
    code, out, _ = run(capsys, *words, "--data", "x.npz", "--out", "values.npz")
    assert code == 0
    problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4))
    whole = ode.log_prob(
        problem.model(ode.paths.EDM()), data, trace="hutchinson", products=4, seed=0
    )
    found = np.load("values.npz")
    # a batch decides steps, within the tolerance
    np.testing.assert_allclose(found["nats"], whole.value, atol=2e-2)
    facts = json.loads(out)
    assert (facts["samples"], facts["failed"], facts["dim"]) == (5, 0, 16)
    assert facts["nats"] == pytest.approx(found["nats"].mean())
    assert facts["stderr"] == pytest.approx(found["nats"].std(ddof=1) / 5**0.5)
    assert facts["stderr_trace"] == pytest.approx((found["stderr"] ** 2).sum() ** 0.5 / 5)
    assert facts["nfe"] == found["nfe"].mean()
    reach = 1.96 * facts["stderr_trace"] + found["solver_error"].mean()
    assert (facts["low"], facts["high"]) == pytest.approx(
        (facts["nats"] - reach, facts["nats"] + reach)
    )


def test_torch_files_and_text(capsys, module, data):
    code, out, err = run(
        capsys, f"{module}:factory", "--data", "x.pt", "--limit", "3", "--out", "values.csv"
    )
    assert code == 0
    assert "3 samples of 16 numbers, trace auto" in out
    assert "over the data" in out
    assert "by numerical errors, at 95 %" in out
    assert "values.csv" in err
    table = np.loadtxt("values.csv", delimiter=",", skiprows=1)
    assert table.shape == (3, 8)
    assert (table[:, 1] == 0).all()  # 16 numbers are exact
    _, other, _ = run(capsys, f"{module}:factory", "--data", "x.npz", "--limit", "3", "--json")
    assert json.loads(other)["nats"] == pytest.approx(table[:, 0].mean(), abs=1e-9)


def test_intervals_hold_the_exact_densities(capsys, module, data):
    """On the straight path, whose prior is exact; the noise of the first time leaves out less than
    1e-4 nats."""
    exact = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).log_prob(data).numpy()
    assert (
        run(capsys, f"{module}:model", "--data", "x.npz", "--double", "--out", "values.npz")[0] == 0
    )
    found = np.load("values.npz")
    assert ((found["low"] - 1e-4 <= exact) & (exact <= found["high"] + 1e-4)).all()
    assert (found["high"] - found["low"] < 1e-3).all()


def test_intervals_are_those_of_log_prob(capsys, module):
    """Of a mixture, as probes do not err on an isotropic Gaussian."""
    pair = ode.problems.mixture([0.4, 0.6], [[[[-0.7] * 4] * 4], [[[0.5] * 4] * 4]], std=0.5)
    x = pair.sample(24, seed=1)
    torch.save(x, "pair.pt")
    words = [
        "--data",
        "pair.pt",
        "--double",
        "--trace",
        "hutchinson",
        "--products",
        "12",
        "--seed",
        "3",
    ]
    assert run(capsys, f"{module}:pair_model", *words, "--out", "values.npz")[0] == 0
    found, model = np.load("values.npz"), pair.model(ode.paths.Linear(), "velocity")
    low, high = ode.log_prob(model, x, trace="hutchinson", products=12, seed=3).interval(0.95)
    np.testing.assert_allclose(found["low"], low, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["high"], high, rtol=0, atol=1e-9)
    assert np.median(found["high"] - found["low"]) > 0.1
    exact = pair.log_prob(x).numpy()
    # fewer has a chance of 0.6 %
    assert ((found["low"] <= exact) & (exact <= found["high"])).sum() >= 20


def test_bits_of_discrete_data(capsys, module):
    k = torch.randint(3, 6, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    torch.save(k, "k.pt")
    words = ["--levels", "8", "--low", "-2", "--high", "2", "--draws", "2", "--json"]
    code, out, _ = run(capsys, f"{module}:factory", "--data", "k.pt", *words)
    assert code == 0
    model = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).model(ode.paths.EDM())
    direct = ode.bits_per_dim(model, k, levels=8, low=-2.0, high=2.0, draws=2, seed=0)
    facts = json.loads(out)
    assert facts["bits_per_dim"] == pytest.approx(direct.value.mean().item(), abs=1e-9)
    assert facts["bits_stderr_trace"] == 0
    assert facts["bits_low"] < facts["bits_per_dim"] < facts["bits_high"] < facts["bits_low"] + 0.01


def test_an_interrupted_run_goes_on(capsys, module, data, monkeypatch):
    words = [f"{module}:factory", "--data", "x.npz", "--batch", "2", "--out", "values.npz"]
    whole = run(capsys, *words, "--json")[1]
    expected = np.load("values.npz")["nats"]
    values, calls = loglik.values, []

    def interrupted(model, x, ids, width, options):
        calls.append(list(ids))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return values(model, x, ids, width, options)

    monkeypatch.setattr(loglik, "values", interrupted)
    assert run(capsys, *words)[0] == 130
    assert len(np.load("values.npz")["nats"]) == 2
    code, out, _ = run(capsys, *words, "--resume", "--json")
    assert code == 0
    assert calls == [[0, 1], [2, 3], [2, 3], [4]]
    assert out == whole
    assert np.array_equal(np.load("values.npz")["nats"], expected)


def test_other_settings_do_not_mix(capsys, module, data):
    words = [f"{module}:factory", "--data", "x.npz", "--out", "values.npz", "--resume"]
    assert run(capsys, *words)[0] == 0
    code, _, err = run(capsys, *words, "--seed", "1")
    assert code == 2
    assert "give the same options" in err
