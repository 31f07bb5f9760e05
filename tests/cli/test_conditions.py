"""``--cond`` and ``--guidance``: from files, lists and numbers to what the network gets."""

import json

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main

FACTORY = """
import torch

import odesolve as ode

CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])  # the last of no class
path = ode.paths.VP()
seen = []


def net(x, t, y, shift=torch.zeros(1), kind="plain"):
    seen.append((y, shift, kind))
    alpha, sigma = (f(t)[:, None] for f in (path.alpha, path.sigma))
    mean = CENTRES.to(x.dtype)[y] + shift[:, None]
    return sigma * (x - alpha * mean) / (alpha**2 * 0.01 + sigma**2)


model = ode.Model(net, path, predicts="noise")
"""
CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
LABELS = np.array([0, 1, 2, 1, 0, 2], np.uint8)
SAMPLE = ("sample", "classes.py:model", "--shape", "6,2", "--steps", "20", "--seed", "3")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.py").write_text(FACTORY)
    np.save("labels.npy", LABELS)
    np.savez("labels.npz", y=LABELS)
    torch.save(torch.from_numpy(LABELS), "labels.pt")
    return tmp_path


def model():
    """The factory's own, made here."""
    names: dict = {}
    exec(FACTORY, names)
    return names["model"]


def drawn(*words):
    assert main([*SAMPLE, *words, "--out", "made.npz"]) == 0
    return torch.from_numpy(np.load("made.npz")["samples"])


def ours(made, n=6, **options):
    return ode.sample(made, (n, 2), steps=20, seed=3, **options)


@pytest.mark.parametrize(
    "typed", ["labels.npy", "labels.npz", "labels.pt", "[0,1,2,1,0,2]", "(0,1,2,1,0,2)"]
)
def test_a_row_for_each_sample(here, typed):
    x = drawn("--cond", f"y={typed}")
    assert torch.equal(x, ours(model().given(y=torch.from_numpy(LABELS).long())))
    assert torch.equal(torch.cdist(x, CENTRES).argmin(1), torch.from_numpy(LABELS).long())


def test_numbers_hold_for_all_and_texts_are_passed(here):
    x = drawn("--cond", "y=2", "--cond", "shift=0.5", "--cond", "kind=a text")
    assert torch.equal(x, ours(model().given(y=torch.full((6,), 2), shift=torch.full((6,), 0.5))))


def test_what_the_network_is_given():
    from odesolve.cli.conditions import conditions_of
    from odesolve.cli.parser import parse

    words = [
        "--cond",
        "y=2",
        "--cond",
        "s=0.5",
        "--cond",
        "a=null",
        "--cond",
        "b=True",
        "--cond",
        "c='3'",
        "--cond",
        "d=x y",
    ]
    conditions = conditions_of(parse([*SAMPLE, "--out", "x.npz", *words]))
    held = conditions.on(
        ode.Model(lambda x, t, **more: x, ode.paths.VP(), predicts="noise"), torch.arange(3)
    ).cond
    assert torch.equal(held["y"], torch.tensor([2, 2, 2]))
    assert torch.equal(held["s"], torch.tensor([0.5, 0.5, 0.5]))
    assert (held["a"], held["b"], held["c"], held["d"]) == (None, True, "3", "x y")


@pytest.mark.parametrize("uncond", ["y=3", "y=[3,3,3,3,3,3]"])
def test_guidance(here, uncond):
    x = drawn("--cond", "y=labels.npy", "--guidance", "2.5", "--uncond", uncond)
    labels = torch.from_numpy(LABELS).long()
    assert torch.equal(x, ours(model().guided(2.5, {"y": labels}, {"y": torch.full((6,), 3)})))
    assert (x.norm(dim=1) > 1.5 * CENTRES[labels].norm(dim=1)).all()


def test_guidance_keeps_the_other_conditions(here):
    x = drawn(
        "--cond", "y=1", "--cond", "shift=0.5", "--guidance", "2", "--uncond", "y=3", "--double"
    )
    shift, (one, none) = (
        torch.full((6,), 0.5, dtype=torch.float64),
        (torch.full((6,), k) for k in (1, 3)),
    )
    guided = model().guided(2.0, {"y": one, "shift": shift}, {"y": none, "shift": shift})
    assert torch.equal(x, ours(guided, dtype=torch.float64))


def test_fractions_are_as_wide_as_the_state(here):
    x = drawn("--cond", "y=1", "--cond", "shift=0.1", "--double")
    shift = torch.full((6,), 0.1, dtype=torch.float64)
    assert torch.equal(
        x, ours(model().given(y=torch.full((6,), 1), shift=shift), dtype=torch.float64)
    )


def test_profile(here, capsys):
    words = ("--solvers", "ddim", "--grids", "uniform", "--nfe", "4", "--json")
    assert (
        main(
            [
                "profile",
                *SAMPLE[1:4],
                *words,
                "--cond",
                "y=labels.npy",
                "--guidance",
                "2",
                "--uncond",
                "y=3",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["rows"][0]["status"] == "ok"


@pytest.mark.parametrize("out", ["values.npz", "folder"])
def test_loglik(here, capsys, out):
    x = CENTRES[torch.from_numpy(LABELS).long()] + 0.05
    np.save("x.npy", x.numpy())
    words = [
        "loglik",
        "classes.py:model",
        "--data",
        "x.npy",
        "--trace",
        "exact",
        "--batch",
        "4",
        "--json",
        "--out",
        out,
    ]
    assert main([*words, "--cond", "y=labels.npy"]) == 0
    found = json.loads(capsys.readouterr().out)["nats"]
    # Of a Gaussian of deviation 0.1 about each centre.
    assert found == pytest.approx(-np.log(2 * np.pi * 0.01) - 0.25, abs=0.02)
    assert main([*words[:-1], "other.npz", "--cond", "y=labels.npy", "--limit", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["nats"] == pytest.approx(found, abs=0.02)


def test_a_file_of_values_knows_its_conditions(here, capsys):
    np.save("x.npy", CENTRES[torch.from_numpy(LABELS).long()].numpy())
    words = [
        "loglik",
        "classes.py:model",
        "--data",
        "x.npy",
        "--trace",
        "exact",
        "--out",
        "v.npz",
        "--resume",
    ]
    assert main([*words, "--cond", "y=labels.npy"]) == 0
    np.save("labels.npy", LABELS[::-1].copy())
    capsys.readouterr()
    assert main([*words, "--cond", "y=labels.npy"]) == 2
    assert "was made with" in capsys.readouterr().err


def test_check(here, capsys):
    labels = np.random.default_rng(0).integers(0, 3, 256)
    np.save("labels.npy", labels)
    x = CENTRES[labels] + 0.1 * torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    np.save("x.npy", x.numpy())
    words = ["check", "classes.py:model", "--data", "x.npy", "--seconds", "10", "--json"]
    assert main([*words, "--cond", "y=labels.npy"]) == 0
    words[words.index("10")] = "0.01"
    assert main([*words, "--cond", "y=0"]) in (0, 1)


def test_a_job_cuts_labels_by_id(here, capsys):
    labels = np.arange(20) % 3
    np.save("labels.npy", labels)
    words = [
        "sample",
        "classes.py:model",
        "--shape",
        "4,2",
        "--steps",
        "20",
        "--seed",
        "3",
        "--out",
        "job",
    ]
    more = [
        "-n",
        "10",
        "--first",
        "5",
        "--shard",
        "4",
        "--cond",
        "y=labels.npy",
        "--guidance",
        "2",
        "--uncond",
        "y=3",
    ]
    assert main([*words, *more]) == 0
    found = torch.from_numpy(ode.jobs.Job("job").load()["samples"])
    y = torch.from_numpy(labels[5:15])
    whole = ours(model().guided(2.0, {"y": y}, {"y": torch.full((10,), 3)}), 10, ids=range(5, 15))
    assert torch.allclose(found, whole, atol=1e-5)
    assert main([*words, *more]) == 0
    np.save("labels.npy", labels[::-1].copy())
    capsys.readouterr()
    assert main([*words, *more]) == 2
    assert "another job" in capsys.readouterr().err


def test_a_job_under_one_condition(here, capsys):
    words = [
        "sample",
        "classes.py:model",
        "--shape",
        "4,2",
        "--steps",
        "20",
        "--seed",
        "3",
        "--out",
        "job",
        "-n",
        "10",
    ]
    assert main([*words, "--cond", "y=1"]) == 0
    found = torch.from_numpy(ode.jobs.Job("job").load()["samples"])
    assert torch.allclose(found, ours(model().given(y=torch.full((10,), 1)), 10), atol=1e-5)
    assert main([*words, "--cond", "y=1"]) == 0
    assert main([*words, "--cond", "y=2"]) == 2
    assert "another job" in capsys.readouterr().err
