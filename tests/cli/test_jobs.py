"""``sample --n``, ``loglik --out DIR`` and ``job``: jobs in folders, alone and under torchrun."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main


def run(capsys, *words):
    code = main([*words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def sample(capsys, module, *words):
    command = [
        "sample",
        f"{module}:factory",
        "--shape",
        "4,1,4,4",
        "--solver",
        "ddim(eta=1)",
        "--steps",
        "5",
    ]
    return run(capsys, *command, "--shard", "8", "--out", "job", *words)


def test_samples(capsys, module):
    code, out, _ = sample(capsys, module, "--n", "22", "--seed", "3", "--double", "--first", "2")
    assert code == 0
    assert "sample of ids 2 to 23: done, 3 shards" in out
    given = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).model(ode.paths.EDM())
    whole = ode.sample(
        given, (22, 1, 4, 4), "ddim(eta=1)", 5, seed=3, ids=range(2, 24), dtype=torch.float64
    )
    np.testing.assert_allclose(ode.jobs.Job("job").load()["samples"], whole.numpy(), rtol=1e-12)
    code, _, err = sample(capsys, module, "--n", "22", "--seed", "4", "--double", "--first", "2")
    assert code == 2
    assert "holds another job (seed is 3 there and 4 here)" in err


def test_how_far_it_is(capsys, module):
    sample(capsys, module, "--n", "22", "--format", "safetensors")
    job = ode.jobs.Job("job")
    job.found()[2].unlink()
    code, out, _ = run(capsys, "job", "job", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["n"], facts["done"], facts["shards"], facts["digest"]) == (22, 16, 2, job.digest)
    assert facts["settings"]["solver"] == "ddim(eta=1)"
    job.found()[0].write_bytes(b"")
    code, _, err = run(capsys, "job", "job")
    assert code == 0  # a look at names only
    code, out, err = run(capsys, "job", "job", "--verify")
    assert code == 1
    assert "corrupt, moved to job/corrupt/0000000-" in err
    assert "8 of 22 done" in out
    assert sample(capsys, module, "--n", "22", "--format", "safetensors")[0] == 0
    assert run(capsys, "job", "job", "--verify")[0] == 0
    code, _, err = run(capsys, "job", ".")
    assert code == 2
    assert "holds no job" in err


def test_log_densities(capsys, module):
    x = ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4)).sample(11)
    torch.save(x, "x.pt")
    words = [
        "loglik",
        f"{module}:factory",
        "--data",
        "x.pt",
        "--batch",
        "4",
        "--json",
        "--trace",
        "hutchinson",
    ]
    code, out, err = run(capsys, *words, "--out", "job", "--shard", "8")
    assert code == 0
    assert (
        "wrote nats, stderr, solver_error, low, high, reach, nfe, products of every sample in job"
    ) in err
    code, alone, _ = run(capsys, *words, "--out", "values.npz")
    assert json.loads(out) == json.loads(alone)
    np.testing.assert_array_equal(ode.jobs.Job("job").load()["nats"], np.load("values.npz")["nats"])
    code, _, err = run(capsys, *words, "--out", "job", "--tol", "0.1")
    assert code == 2
    assert "tol is" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--n", "4", "--out", "x.npz"], "give --out the name of a folder"),
        (["--out", "folder"], "give a name that ends in .npz"),
        (["--n", "0"], "give a whole number, at least 1"),
        (["--n", "10", "--shard", "6"], "shard=6 is no multiple of the batch, 4"),
    ],
)
def test_errors(capsys, module, words, told):
    code, _, err = sample(capsys, module, *words)
    assert code == 2
    assert told in err


@pytest.mark.long
def test_torchrun(capsys, module):
    """Two ranks share a folder, and one of them tells of it."""
    options = [
        "--shape",
        "4,1,4,4",
        "--solver",
        "ddim(eta=1)",
        "--steps",
        "5",
        "-n",
        "64",
        "--shard",
        "8",
    ]
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "odesolve.cli",
    ]
    done = subprocess.run(
        [sys.executable, *command, "sample", f"{module}:factory", *options, "--out", "spread"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sample of ids 0 to 63: done, 8 shards") == 1
    assert sample(capsys, module, "--n", "64")[0] == 0
    assert ode.jobs.Job("spread").hashes == ode.jobs.Job("job").hashes
