"""A job's folder: what it holds, what it refuses, and that nothing in it is overwritten."""

import json
import os
import resource
import shutil
import subprocess

import numpy as np
import pytest
import torch

import odesolve as ode
from tests.rows import rows
from tests.run.rational import model

SHAPE = (4, 2, 3)


def draw(out, n=22, **options):
    given = {"seed": 3, "shard": 8, "dtype": torch.float64, **options}
    return ode.jobs.sample(given.pop("model", model()), SHAPE, "ddim", 4, n=n, out=out, **given)


def files(root):
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


@rows("format", ["npz", "safetensors"])
def test_results_are_those_of_one_call(tmp_path, format):
    job = draw(tmp_path / "job", format=format, first=5)
    whole = ode.sample(
        model(), (22, 2, 3), "ddim", 4, seed=3, ids=range(5, 27), dtype=torch.float64
    )
    np.testing.assert_array_equal(job.load()["samples"], whole.numpy())
    np.testing.assert_array_equal(job.load(12, 15)["samples"], whole.numpy()[7:10])
    assert [ids for ids, _ in job] == [range(5, 13), range(13, 21), range(21, 27)]
    assert not job.load()["status"].any()
    assert (job.n, job.done(), job.left(), job.shards) == (22, 22, [], 3)
    assert "done" in str(job)
    with pytest.raises(ode.OdesolveError, match="ids 3 to 9: the job has 5 to 27"):
        job.load(3, 9)


def test_names_are_hashes_of_contents(tmp_path):
    job = draw(tmp_path / "job")
    for path in job.found().values():
        told = subprocess.run(
            ["sha256sum", path], capture_output=True, text=True, check=True
        ).stdout
        assert path.name[8:24] == told[:16]
    again = draw(tmp_path / "again")
    assert again.hashes == job.hashes
    assert again.digest == job.digest
    assert draw(tmp_path / "other", seed=4).digest != job.digest


def test_a_job_goes_on_where_it_was(tmp_path):
    job = draw(tmp_path / "job")
    whole = files(job.root)
    path = job.found()[1]
    path.unlink()
    # of a process that ended in a write
    (path.parent / f".{path.name}.host.1.part").write_bytes(b"half")
    assert job.left() == [1]
    assert job.done() == 14
    assert "14 of 22 done" in str(job)
    with pytest.raises(ode.OdesolveError, match=r"shard 1 of .* is not there yet"):
        job.load()
    assert draw(job.root).done() == 22
    assert files(job.root) == whole


def test_shards_that_are_there_are_not_made_again(tmp_path):
    calls = []

    def net(x, t):
        calls.append(len(x))
        return x

    given = ode.Model(net, ode.paths.VP(), "noise")
    job = draw(tmp_path / "job", model=given)
    calls.clear()
    draw(tmp_path / "job", model=given)
    assert calls == []
    job.found()[2].unlink()
    draw(tmp_path / "job", model=given)
    assert sum(calls) == 4 * 6


@rows(
    ("change", "told"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"n": 23}, "n is 22 there and 23 here"),
        ({"first": 1}, "first is 0 there and 1 here"),
        ({"shard": 4}, "shard is 8 there and 4 here"),
        ({"dtype": torch.float32}, "dtype is float64 there and float32 here"),
        ({"format": "safetensors"}, "format is npz there"),
        ({"model": model(clip=2.0)}, "the model differs in reading.applies, functions.clip"),
        ({"eta": 1.0}, "solver is ddim there and ddim(eta=1.0) here"),
        ({"executor": ode.Window()}, "executor is None there"),
        ({"executor": ode.Window(coarse=ode.plan("ddim", ode.paths.VP(), 2))}, "'coarse': '"),
    ],
)
def test_another_job_is_refused(tmp_path, change, told):
    job = draw(tmp_path / "job")
    before = files(job.root)
    with pytest.raises(ode.OdesolveError, match="holds another job") as e:
        draw(job.root, **change)
    assert told in str(e.value)
    assert files(job.root) == before


def test_weights_belong_to_a_job(tmp_path):
    net = torch.nn.Linear(3, 3, dtype=torch.float64)
    wrapped = ode.Model(lambda x, t: net(x), ode.paths.VP(), "noise", dtype=torch.float64)
    draw(tmp_path / "job", model=wrapped)
    with torch.no_grad():
        net.weight[1, 2] += 1e-9
    with pytest.raises(ode.OdesolveError, match="the model differs in"):
        draw(tmp_path / "job", model=wrapped)


def test_conditions_belong_to_a_job(tmp_path):
    made = lambda shift: ode.Model(
        lambda x, t, shift: x * shift, ode.paths.VP(), "noise", cond={"shift": torch.tensor(shift)}
    )
    draw(tmp_path / "job", model=made(0.5))
    draw(tmp_path / "job", model=made(0.5))
    with pytest.raises(ode.OdesolveError, match="the model differs in"):
        draw(tmp_path / "job", model=made(0.25))


def test_folders_of_other_things_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ode.OdesolveError, match=r"holds 'thesis.tex' and no job"):
        draw(tmp_path)
    assert list(files(tmp_path)) == ["thesis.tex"]
    with pytest.raises(ode.OdesolveError, match="holds no job"):
        ode.jobs.Job(tmp_path)
    for text in ("no json", "{}", "[1]"):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ode.OdesolveError, match="is no manifest of a job"):
            draw(tmp_path)


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ode.OdesolveError, match="give a folder that you may write to"):
        draw(tmp_path / "file" / "job")
    with pytest.raises(ode.OdesolveError, match="give a folder that you may write to"):
        draw(tmp_path / "file")
    with pytest.raises(ode.OdesolveError, match="cannot be read"):
        ode.jobs.Job(tmp_path / "file")


def test_unwritable_folders(tmp_path):
    """Permissions do not stop root, /proc does."""
    root = "/proc/job"
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        root = tmp_path / "locked" / "job"
    with pytest.raises(
        ode.OdesolveError,
        match=r"cannot be written .*: give a folder that you "
        r"may write to",
    ):
        draw(root)


def test_a_full_disk(tmp_path):
    """A limit on file sizes is met as a full disk is, in the middle of a write."""
    job = draw(tmp_path / "job")
    kept = job.found().pop(0)
    job.found()[1].unlink()
    before = files(job.root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(
            ode.OdesolveError,
            match=r"no room left \(.*\); it keeps 14 of 22 "
            r"results: make room",
        ):
            draw(job.root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(job.root) == before  # and no half a file
    assert kept.exists()
    assert draw(job.root).done() == 22


def test_corrupt_shards_are_told_moved_aside_and_made_again(tmp_path):
    job = draw(tmp_path / "job")
    whole = files(job.root)
    path = job.found()[1]
    body = bytearray(path.read_bytes())
    body[-100] ^= 1
    path.write_bytes(body)
    with pytest.raises(
        ode.OdesolveError,
        match=r"0000001-.*npz is corrupt: `odesolve job .* "
        r"--verify`",
    ):
        job.load()
    assert job.load(0, 8)["samples"].shape == (8, 2, 3)
    moved = job.verify()
    assert [p.read_bytes() for p in moved] == [bytes(body)]
    assert draw(job.root).verify() == []
    shutil.rmtree(job.root / "corrupt")
    assert files(job.root) == whole


def test_a_shard_cut_short_stops_the_job_before_it_works(tmp_path):
    job = draw(tmp_path / "job")
    path = job.found()[0]
    job.found()[1].unlink()
    path.write_bytes(path.read_bytes()[:-7])
    before = files(job.root)
    with pytest.raises(ode.OdesolveError, match="is corrupt"):
        draw(job.root)
    assert files(job.root) == before
    first = job.verify()
    draw(job.root)
    path.write_bytes(b"")
    assert job.verify() != first  # neither is lost
    assert len(list((job.root / "corrupt").iterdir())) == 2


@rows(
    ("change", "told"),
    [
        ({"n": 0}, "n=0"),
        ({"first": -1}, "first=-1"),
        ({"first": 2**32}, "from 0 to 2"),
        ({"shard": 6}, "shard=6 is no multiple of the batch, 4: give 4"),
        ({"format": "csv"}, "choose from npz, safetensors"),
    ],
)
def test_arguments(tmp_path, change, told):
    with pytest.raises(ode.OdesolveError, match=told):
        draw(tmp_path / "job", **change)
    assert not (tmp_path / "job").exists()


def test_the_manifest_is_readable(tmp_path):
    facts = json.loads((draw(tmp_path / "job").root / "job.json").read_text())
    assert facts["arrays"] == {"samples": ["float64", [2, 3]], "status": ["uint8", []]}
    assert facts["settings"]["solver"] == "ddim"
    assert facts["made_with"]["odesolve"] == ode.__version__
