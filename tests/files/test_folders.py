"""Jobs from tampered manifests and shards: refused before anything is made, moved or removed."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import odesolve as ode
from odesolve.cli import main
from odesolve.jobs import Job
from odesolve.jobs.files import content
from tests.files.tamper import (
    all_refused,
    cuts,
    deletions,
    dumped,
    flips,
    looked_at,
    none_raw,
    other_bytes,
    outcome,
    swaps,
    texts,
    things,
)

MODEL = ode.problems.mixture([1.0], [[0.5, 0.1, 0.2]], std=(0.3,)).model(ode.paths.VP(), "noise")
FORMATS = ("npz", "safetensors")


def draw(out, format="npz"):
    return ode.jobs.sample(
        MODEL, (4, 3), "ddim", 2, n=10, out=out, shard=4, format=format, progress=False
    )


@pytest.fixture(params=FORMATS)
def job(request, tmp_path):
    return draw(tmp_path / "job", request.param)


FIELDS = {
    ("kind",): "text",
    ("first",): "whole",
    ("n",): "whole",
    ("shard",): "whole",
    ("format",): "text",
    ("arrays",): "object",
    ("arrays", "samples"): "list",
    ("arrays", "samples", 0): "text",
    ("arrays", "samples", 1): "list",
    ("arrays", "samples", 1, 0): "whole",
    ("settings",): "object",
    ("made_with",): "object",
    ("made_with", "odesolve"): "text",
}
OPTIONAL = ("made_with", "fingerprint", "portable", "parts")  # of versions that did not say
OTHER = [
    {"n": 0},
    {"n": 2**32 + 1},
    {"n": 2**32, "first": 1},
    {"first": 2**40},
    {"shard": 0},
    {"format": "pt"},
    {"format": ""},
    {"arrays": {}},
    {"arrays": {"samples": ["float33", [3]]}},
    {"arrays": {"samples": ["object", [3]]}},
    {"arrays": {"samples": ["float32", [2**50]]}},
    {"arrays": {"samples": ["float32", [2**20, 2**20, 2**20]]}},
    {"arrays": {"samples": ["float32", [3], 1]}},
    {"arrays": {"": ["float32", [3]]}},
    {"meaning": 3},
    {"statuses": "ok"},
    {"kind": ""},
]


def manifests(body):
    text = json.dumps(body, indent=1)
    yield from dumped(swaps(body, FIELDS))
    yield from dumped(deletions(body, [(key,) for key in body if key not in OPTIONAL]))
    yield from dumped((f"{other}", {**body, **other}, next(iter(other))) for other in OTHER)
    yield from texts(text)
    yield from other_bytes(text.encode())


SETTINGS = {
    "steps": [[], {}, "3", 0, -1, 1.5, True, 2**63, 10**6, 10**400],
    "solver": [[], {}, "", 3, True, 2**63],
    "grid": [[], {}, "", 3, True],
    "plan": [[], {}, "", 3],
    "seed": [[], {}, "3", -1, 2**64, 1.5, True, 10**400],
    "batch": [[], {}, "3", 0, -1, 1.5, 2**63],
    "executor": [[], "graph", 3],
}


@pytest.mark.few(5)
@pytest.mark.parametrize("key", SETTINGS)
def test_settings(job, key):
    file = job.root / "job.json"
    body = json.loads(file.read_text())

    def read(given):
        file.write_text(given)
        Job(job.root)

    cases = [
        (f"{v}", {**body, "settings": {**body["settings"], key: v}}, f"settings.{key}")
        for v in SETTINGS[key]
    ]
    all_refused(read, dumped(cases), least=3)
    file.write_text(json.dumps(body))
    assert Job(job.root).settings == body["settings"]


@pytest.mark.parametrize(
    "job", ["npz", pytest.param("safetensors", marks=pytest.mark.long)], indirect=True
)
def test_manifests(job, capsys):
    """By the library, by the same job again, and by ``--verify``, with every file where it was."""
    file = job.root / "job.json"
    body = json.loads(file.read_text())
    readers = {
        "Job": lambda: Job(job.root),
        "verify": lambda: Job(job.root).verify(False),
        "again": lambda: draw(job.root, job.format),
        "command": lambda: command(capsys, job.root),
    }

    def reading(act):
        def read(given):
            file.write_bytes(
                given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
            )
            before = looked_at(job.root)
            try:
                act()
            finally:
                assert looked_at(job.root) == before

        return read

    cases = [(name, given, word or "job.json") for name, given, word in manifests(body)]
    for act in readers.values():
        all_refused(reading(act), cases, least=120)
    none_raw(reading(readers["verify"]), flips(json.dumps(body).encode(), 200))


def command(capsys, root):
    capsys.readouterr()
    if main(["job", str(root), "--verify"]) == 2:
        raise ode.OdesolveError(capsys.readouterr().err.removesuffix("\n"))


@pytest.mark.parametrize(
    "change", [{"n": 5}, {"n": 4, "shard": 4}, {"shard": 100}, {"n": 1, "first": 7}]
)
def test_a_manifest_of_fewer_shards_moves_none_aside(job, change):
    """Shards that it does not know of are left where they are, and told of."""
    file = job.root / "job.json"
    good = file.read_bytes()
    file.write_text(json.dumps(json.loads(good) | change))
    before = looked_at(job.root)
    assert Job(job.root).verify(False) == []
    assert Job(job.root).strays() or change == {"shard": 100}
    assert looked_at(job.root) == before
    file.write_bytes(good)
    assert Job(job.root).verify(False) == []


def test_what_lies_at_a_manifests_name(tmp_path, capsys):
    for name in things(tmp_path, "job.json"):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        things(folder, "job.json")[name](folder / "job.json")
        before = looked_at(folder)
        for act in (Job, lambda root: command(capsys, root), draw):
            if name != "nothing":
                assert str(folder) in (outcome(act, folder) or ""), name
            assert {k: v for k, v in looked_at(folder).items() if k != "leases"} == before


def packed(arrays, format):
    if format == "safetensors":
        return save(arrays)
    held = io.BytesIO()
    np.savez(held, **arrays)
    return held.getvalue()


def shards(good, format):
    """Bodies of a shard that is none, though its name may be right."""
    x, status = good["samples"], good["status"]
    others = [
        x[:3],
        x[:, :2],
        x.astype(np.float64),
        x.astype(np.int32),
        x.reshape(-1),
        x[..., None],
        x[:0],
        x.T.copy(),
    ]
    yield from (
        (f"samples {a.dtype} {a.shape}", packed({"samples": a, "status": status}, format))
        for a in others
    )
    others = [
        status[:3],
        status.astype(np.int64),
        status.astype(np.float32),
        status[:, None],
        status.astype(bool),
    ]
    yield from (
        (f"status {a.dtype} {a.shape}", packed({"samples": x, "status": a}, format)) for a in others
    )
    yield "no status", packed({"samples": x}, format)
    yield "other names", packed({"sample": x, "status": status}, format)
    yield "one more", packed({"samples": x, "status": status, "more": x}, format)
    yield "nothing in it", packed({}, format)
    yield "the other format", packed(good, "npz" if format == "safetensors" else "safetensors")
    body = packed(good, format)
    yield from ((name, cut) for name, cut, _ in cuts(body, 24))
    yield "a text", b"not an array"
    yield "zeros", bytes(400)
    if format == "safetensors":
        for name, told in HEADERS.items():
            text = told if isinstance(told, bytes) else json.dumps(told).encode()
            yield name, len(text).to_bytes(8, "little") + text + bytes(60)
        yield "a header of an exabyte", (2**60).to_bytes(8, "little") + body[8:]
        yield "a header of 99 MB", (99 * 2**20).to_bytes(8, "little") + body[8:]


WHOLE = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}
HEADERS = {
    "no header": b"not JSON",
    "a list": [],
    "a deep one": b"[" * 100_000,
    "another type": {"samples": {**WHOLE, "dtype": "F33"}},
    "bfloat16": {"samples": {"dtype": "BF16", "shape": [30], "data_offsets": [0, 60]}},
    "places beyond": {"samples": {**WHOLE, "data_offsets": [0, 4800]}},
    "places backwards": {"samples": {**WHOLE, "data_offsets": [48, 0]}},
    "places below": {"samples": {**WHOLE, "data_offsets": [-48, 0]}},
    "a shape of more": {"samples": {**WHOLE, "shape": [400, 3]}},
    "a shape of words": {"samples": {**WHOLE, "shape": ["4", 3]}},
    "a shape of much": {"samples": {**WHOLE, "shape": [2**40, 2**40]}},
    "no type": {"samples": {"shape": [4, 3], "data_offsets": [0, 48]}},
    "a number": {"samples": 3},
}


def test_shards(job):
    """Of a right name, as a crafted one has, and of a wrong one."""
    file = job.found()[0]
    good = Job(job.root).read(0)
    whole = file.read_bytes()
    cases = [(name, body, None) for name, body in shards(good, job.format) if body != whole]
    others = {p: p.read_bytes() for p in job.root.rglob("*") if p.is_file() and p != file}

    def read(given):
        body, right = given
        name = f"0000000-{content(body)}.{job.format}" if right else file.name
        made = file.with_name(name)
        file.unlink(missing_ok=True)
        made.write_bytes(body)
        try:
            job.load()
        finally:
            made.unlink()
            assert all(path.read_bytes() == held for path, held in others.items())

    for right in (True, False):
        all_refused(read, [(name, (body, right), "0000000-") for name, body, _ in cases])
    assert none_raw(read, [(name, (body, True)) for name, body in flips(whole, 100)]) > 0
    assert none_raw(read, [(name, (body, False)) for name, body in flips(whole, 100)]) == 100
    file.write_bytes(whole)
    assert np.array_equal(job.load()["samples"][:4], good["samples"])


def test_what_lies_at_a_shards_name(tmp_path):
    """A pipe or a link to nothing is no shard: told, moved aside as such, and nothing waits for
    it."""
    for name in things(tmp_path, "x"):
        job = draw(tmp_path / name.replace(" ", "-"))
        file, other = list(job.found().values())[:2]
        kept = other.read_bytes()
        file.unlink()
        things(job.root, file.name)[name](job.root / file.name)
        (job.root / file.name).rename(file) if name != "nothing" else None
        before = looked_at(job.root)
        assert outcome(job.read, 0) is not None, name
        assert looked_at(job.root) == before
        outcome(job.verify, False)
        assert other.read_bytes() == kept


def test_old_manifests_read(job):
    """Facts that the schema does not know are kept; those of a job are what they were."""
    file = job.root / "job.json"
    body = json.loads(file.read_text())
    file.write_text(
        json.dumps(body | {"more": [1, 2], "settings": body["settings"] | {"tol": float("inf")}})
    )
    again = Job(job.root)
    assert again.facts == json.loads(file.read_text())
    assert again.settings["tol"] == float("inf")
    assert torch.equal(
        torch.from_numpy(again.load()["samples"]), torch.from_numpy(job.load()["samples"])
    )
    body.pop("made_with")
    file.write_text(json.dumps(body))
    assert Job(job.root).n == 10
