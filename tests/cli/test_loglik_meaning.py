"""What stored values mean, which samples failed and how, and what is to be noted: said by
``odesolve loglik`` and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main


def run(capsys, *words):
    code = main(["loglik", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def given(module):
    torch.save(ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).sample(5), "x.pt")
    return [f"{module}:factory", "--data", "x.pt", "--batch", "2"]


@pytest.mark.parametrize("levels", [None, 8])
def test_stored_values_say_what_they_mean(capsys, given, levels):
    torch.save(torch.randint(0, 8, (5, 1, 4, 4)), "k.pt")
    words = (
        given
        if levels is None
        else [
            given[0],
            "--data",
            "k.pt",
            "--batch",
            "2",
            "--levels",
            "8",
            "--low",
            "-2",
            "--high",
            "2",
        ]
    )
    code, out, _ = run(capsys, *words, "--out", "values.npz", "--json")
    assert code == 0
    assert run(capsys, *words, "--out", "job")[0] == 0
    facts, found, job = json.loads(out), np.load("values.npz"), ode.jobs.Job("job").facts
    for meaning in (facts["meaning"], str(found["meaning"]), job["meaning"]):
        assert ode.LogProb.MEANING in meaning
        assert ("8 levels" in meaning) == (levels is not None)
    assert (
        str(found["odesolve"])
        == facts["odesolve"]
        == job["made_with"]["odesolve"]
        == ode.__version__
    )
    assert found["status"].tolist() == ["ok"] * 5
    assert ode.jobs.Job("job").load()["status"].tolist() == [0] * 5


def test_the_meaning_is_that_of_the_value():
    """The density of the base at the latent and the divergence's integral, and no estimate besides:
    of a Gaussian on the straight path of its own, whose flow ends in the prior exactly, the exact
    density."""
    problem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(3,))
    model, x = problem.model(ode.paths.EDM()), problem.sample(4).double()
    found = ode.log_prob(model, x, tol=1e-6)
    mean, std = 0.3, (0.25 + 0.002**2) ** 0.5
    exact = torch.distributions.Normal(mean, std).log_prob(x.double()).sum(1)
    latent = torch.distributions.Normal(mean, (0.25 + 80.0**2) ** 0.5).log_prob(found.latent).sum(1)
    prior = torch.distributions.Normal(0.0, 80.0).log_prob(found.latent).sum(1)
    torch.testing.assert_close(found.value, exact - latent + prior, atol=1e-5, rtol=0)
    assert float((found.value - exact).abs().max()) > 1e-4  # which leaves the mismatch out


@pytest.mark.parametrize("stored", ["nothing", "another"])
def test_values_of_another_meaning_are_not_gone_on_with(capsys, given, stored):
    assert run(capsys, *given, "--out", "values.npz", "--resume")[0] == 0
    assert run(capsys, *given, "--out", "job")[0] == 0
    whole, manifest = dict(np.load("values.npz")), json.loads(Path("job/job.json").read_text())
    if stored == "nothing":
        for name in ("meaning", "odesolve", "status"):
            whole.pop(name)
        manifest.pop("meaning")
        manifest.pop("statuses")
    else:
        whole["meaning"] = np.array("log-density with its corrections")
        manifest["meaning"] = "log-density with its corrections"
    np.savez("values.npz", **whole)
    Path("job/job.json").write_text(json.dumps(manifest))
    for words in (["--out", "values.npz", "--resume"], ["--out", "job"]):
        code, _, err = run(capsys, *given, *words)
        assert code == 2
        assert (
            "do not say what they mean" if stored == "nothing" else "mean something else"
        ) in err
        assert len(err.strip().splitlines()) == 1
    assert len(ode.jobs.Job("job").load()["nats"]) == 5  # which can be read all the same


def test_failed_samples_are_named(capsys, module):
    """Two that take too many calls, and one whose network is not finite."""
    Path("failing.py").write_text(
        "import torch\nimport odesolve as ode\n\nproblem = ode.problems.gaussian(mean=0.3, "
        "std=0.5, shape=(1, 4, 4))\n"
        "inner = problem.model(ode.paths.VP(), 'noise')\n\n\n"
        "def far(x, t):\n    out = inner.net(x, t)\n"
        "    return torch.where(x.flatten(1).amax(1).view(-1, 1, 1, 1) > 30, torch.nan, out)\n\n\n"
        "def factory():\n    return ode.Model(far, ode.paths.VP(), 'noise')\n"
    )
    x = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).sample(5)
    x[3] = 50.0
    torch.save(x, "x.pt")
    words = ["failing.py:factory", "--data", "x.pt"]
    code, out, err = run(capsys, *words, "--out", "values.npz")
    assert code == 0, err
    assert "1 samples failed, their solve did not arrive: 1 diverged" in out
    assert np.load("values.npz")["status"].tolist() == ["ok", "ok", "ok", "diverged", "ok"]
    facts = json.loads(run(capsys, *words, "--json", "--out", "job")[1])
    assert (facts["failed"], facts["statuses"]) == (1, {"diverged": 1})
    assert ode.jobs.Job("job").load()["status"].tolist() == [0, 0, 0, 1, 0]
    code, out, _ = run(capsys, *words, "--max-calls", "8")
    assert "5 samples failed, their solve did not arrive: " in out
    assert "max_calls" in out


def test_notes_of_one_probe(capsys, given):
    words = [*given, "--trace", "hutchinson", "--products", "1", "--tol", "1"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "note: one probe has no error bar" in out
    assert "an unknown error from the trace" in out
    facts = json.loads(run(capsys, *words, "--json")[1])
    assert facts["stderr_trace"] is None
    assert len(facts["notes"]) == 1


def test_notes_of_data_in_another_scale(capsys, given):
    """Once, however many batches said it."""
    torch.save(torch.load("x.pt") * 255, "x.pt")
    for out in ([], ["--out", "job"]):
        code, text, err = run(capsys, *given, *out, "--tol", "1")
        assert code == 0
        assert text.count("note: the latents are") == 1
        assert err.count("odesolve: note: the latents are") == 1
    assert len(json.loads(run(capsys, *given, "--json", "--tol", "1")[1])["notes"]) == 1


def test_one_clock(capsys, module):
    """A network that reads one time for the batch: refused in a sentence, which names an option
    that is there."""
    Path("clocked.py").write_text(
        "import odesolve as ode\n\nproblem = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, "
        "4, 4))\n"
        "inner = problem.model(ode.paths.VP(), 'noise')\n\n\n"
        "def factory():\n"
        "    return ode.Model(lambda x, t: inner.net(x, t[0].expand(len(x))), ode.paths.VP(), "
        "'noise')\n"
    )
    torch.save(ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).sample(5), "x.pt")
    words = ["clocked.py:factory", "--data", "x.pt"]
    for out in ([], ["--out", "job"]):
        code, _, err = run(capsys, *words, *out)
        assert code == 2
        assert 'control="batch"' in err
    code, out, _ = run(capsys, *words, "--control", "batch", "--json")
    assert code == 0
    assert json.loads(out)["failed"] == 0
