"""Arrays from tampered files: the data of the command line, and the values that it goes on from."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.cli import main
from odesolve.cli.files import read_array
from odesolve.jobs.densities import COLUMNS
from tests.files.tamper import all_refused, cuts, flips, looked_at, none_raw, outcome, things
from tests.products import LONG

X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


def npy(array, **how):
    held = io.BytesIO()
    np.lib.format.write_array(held, np.asarray(array), **how)
    return held.getvalue()


def npz(*arrays, packed=False, **named):
    held = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(held, *arrays, **named)
    return held.getvalue()


def pt(value):
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


def header(text, data=b"", version=1):
    """An .npy file of this header."""
    body = text.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(body))
    return b"\x93NUMPY" + bytes([version, 0]) + size + body + data


def archive(members, method=zipfile.ZIP_STORED):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as made:
        for name, body in members:
            made.writestr(name, body)
    return held.getvalue()


def lying(body, claimed):
    """An archive of one member whose directory claims another size for it."""
    out = bytearray(body)
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = out.index(mark) + place
        out[at : at + 4] = struct.pack("<I", claimed)
    return bytes(out)


TEXT = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"
OBJECTS = np.array([{"a": 1}, None], dtype=object)
HEADERS = {
    "more than there is": TEXT % "(4000, 3)",
    "a terabyte": TEXT % "(1099511627776, 3)",
    "more than numbers go": TEXT % f"({10**400}, 3)",
    "none of it, far too wide": TEXT % f"(0, {10**400})",
    "less than there is": TEXT % "(2, 3)",
    "negative": TEXT % "(-4, -3)",
    "half of a shape": TEXT % "(4.0, 3)",
    "no shape": TEXT % "None",
    "words": TEXT % "('4', '3')",
    "deep": TEXT % ("(" * 5000 + ")" * 5000),
    "a call": TEXT % "(print(3), 3)",
    "other keys": "{'descr': '<f4', 'shape': (4, 3)}\n",
    "another type": TEXT.replace("<f4", "nonsense") % "(4, 3)",
    "objects": TEXT.replace("<f4", "|O") % "(4, 3)",
    "bytes that mean nothing": TEXT.replace("<f4", "|V4") % "(4, 3)",
    "dates": TEXT.replace("<f4", "<M8[s]") % "(4, 3)",
    "no Python": "}{" * 40,
    "long": " " * 60_000 + TEXT % "(4, 3)",
}
ODD = {
    "objects": OBJECTS,
    "texts": np.array([["a", "b"]]),
    "bytes": np.array([[b"a", b"b"]]),
    "complex": X.astype(np.complex64),
    "records": np.zeros((2, 2), [("a", "f4")]),
    "a number": np.float32(3),
    "a row": X[0],
}


def npy_cases():
    body = npy(X)
    yield from cuts(body, 20)
    yield from ((name, header(text, X.tobytes()), None) for name, text in HEADERS.items())
    yield from (
        (f"{name}, version 2", header(text, X.tobytes(), 2), None) for name, text in HEADERS.items()
    )
    yield from ((name, npy(a, allow_pickle=True), None) for name, a in ODD.items())
    yield "a version of tomorrow", body[:6] + b"\x09" + body[7:], None
    yield "a header of 4 GB", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + body[10:], None
    yield "bytes after it", body + b"x", None
    yield "an archive", npz(X), None
    yield from anything()


def anything():
    yield "a text", b"not an array", None
    yield "a pickle", pickle.dumps(X), None
    yield "JSON", b'{"x": [1, 2]}', None
    yield "zeros", bytes(1000), None
    yield "an archive of nothing", archive([]), None
    yield "an archive of a text", archive([("a.txt", "hello")]), None


def npz_cases():
    body, packed = npz(x=X), npz(x=X, packed=True)
    yield from cuts(body, 20)
    yield from ((f"packed, {name}", cut, None) for name, cut, _ in cuts(packed, 12))
    yield from (
        (name, archive([("x.npy", header(text, X.tobytes()))]), None)
        for name, text in HEADERS.items()
    )
    yield from (
        (name, archive([("x.npy", npy(a, allow_pickle=True))]), None) for name, a in ODD.items()
    )
    yield "two arrays", npz(x=X, y=X), None
    yield "two of one name", twice(), None
    yield "bz2", archive([("x.npy", npy(X))], zipfile.ZIP_BZIP2), None
    yield "lzma", archive([("x.npy", npy(X))], zipfile.ZIP_LZMA), None
    for size in (2**20, 2**31, 2**32 - 2):
        yield f"claims {size}", lying(body, size), None
        yield f"packed, claims {size}", lying(packed, size), None
    bomb = npy(np.zeros((1, 1)))[:-8] + bytes(2**22)
    yield "a bomb", archive([("x.npy", bomb)], zipfile.ZIP_DEFLATED), None
    yield "an array", npy(X), None
    yield from anything()


def twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive([("x.npy", npy(X)), ("x.npy", npy(X))])


class Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def pt_cases():
    body = pt(torch.from_numpy(X))
    old = io.BytesIO()
    torch.save(torch.from_numpy(X), old, _use_new_zipfile_serialization=False)
    yield from cuts(body, 24)
    yield from ((f"old, {name}", cut, None) for name, cut, _ in cuts(old.getvalue(), 8))
    odd = {
        "text": "x",
        "nothing": None,
        "a list": [torch.ones(2, 2)],
        "a number": 3.0,
        "no tensors": {},
    }
    odd |= {
        "two": {"a": torch.ones(2, 2), "b": torch.ones(2, 2)},
        "a row": torch.ones(3),
        "one": torch.tensor(3.0),
    }
    odd |= {"sparse": torch.eye(3).to_sparse(), "complex": torch.ones(2, 2, dtype=torch.complex64)}
    odd |= {
        "meta": torch.ones(2, 2, device="meta"),
        "text in it": {"x": "y"},
        "code": Evil(),
        "code in it": {"x": Evil()},
    }
    yield from ((name, pt(value), None) for name, value in odd.items())
    yield (
        "packed and claiming much",
        lying(archive([("a/data.pkl", bytes(1000))], zipfile.ZIP_DEFLATED), 2**31),
        None,
    )
    yield "an array", npy(X), None
    yield "arrays", npz(X), None
    yield from anything()


@pytest.mark.parametrize(
    ("kind", "cases"), [("npy", npy_cases), ("npz", npz_cases), ("pt", pt_cases)]
)
def test_data(kind, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"x.{kind}"

    def read(body):
        file.write_bytes(body)
        before = looked_at(tmp_path)
        try:
            read_array(str(file))
        finally:
            assert looked_at(tmp_path) == before

    all_refused(read, [(name, body, word or f"x.{kind}") for name, body, word in cases()])
    for good in GOOD[kind]():
        none_raw(read, flips(good, 150))


GOOD = {
    "npy": lambda: [npy(X)],
    "npz": lambda: [npz(X), npz(x=X, packed=True)],
    "pt": lambda: [pt(torch.from_numpy(X)), pt({"x": torch.from_numpy(X)})],
}


@pytest.mark.parametrize("kind", GOOD)
def test_data_that_reads(kind, tmp_path):
    file = tmp_path / f"x.{kind}"
    for body in GOOD[kind]():
        file.write_bytes(body)
        found = read_array(str(file))
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), X)
    for other in (
        X.astype(">f8"),
        np.asfortranarray(X),
        (X > 0),
        X.astype(np.int64),
        X[:, :, None],
    ):
        if kind != "pt":
            file.write_bytes(npy(other) if kind == "npy" else npz(other))
            assert np.array_equal(read_array(str(file)).numpy(), other)
    (tmp_path / f"link.{kind}").symlink_to(file)
    read_array(str(tmp_path / f"link.{kind}"))


@pytest.mark.parametrize("kind", GOOD)
def test_what_lies_at_the_name_of_data(kind, tmp_path, capsys):
    for name in things(tmp_path, f"x.{kind}"):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        things(folder, f"x.{kind}")[name](folder / f"x.{kind}")
        before = looked_at(folder)
        assert f"x.{kind}" in (outcome(read_array, str(folder / f"x.{kind}")) or "")
        assert outcome(main, ["loglik", "--data", str(folder / f"x.{kind}")]) is None
        told = capsys.readouterr()
        assert told.err.startswith(f"odesolve: error: {folder}")
        assert told.err.count("\n") == 1
        assert looked_at(folder) == before


def values(tmp_path, monkeypatch):
    """What an interrupted run has left, and the words that go on with it."""
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32))
    words = [
        "loglik",
        "--data",
        "x.npz",
        "--batch",
        "2",
        "--trace",
        "hutchinson",
        "--products",
        "1",
        "--tol",
        "1",
    ]
    words += ["--out", "values.npz"]
    assert main(words) == 0
    return dict(np.load("values.npz").items()), [*words, "--resume"]


def value_cases(held):
    names = [name for name in held if name != "odesolve"]  # the version is a note
    for k, name in enumerate(names):
        others = [
            held[name][:0] if held[name].ndim else held[name].reshape(1)[:0],
            np.zeros((2, 2)),
            OBJECTS,
        ]
        others += [
            np.array(3),
            np.array(["ok"] * 3),
            np.array([b"ok"] * 4),
            np.zeros(4, complex),
            np.zeros(4, np.int64),
        ]
        yield from (
            (f"{name} is {other.dtype} {other.shape}", npz(**held | {name: other}), None)
            for other in (others if LONG else others[k % 8 :: 8])
        )
        yield f"no {name}", npz(**{k: v for k, v in held.items() if k != name}), None
    yield "other words", npz(**held | {"status": np.array(["fine"] * 4)}), None
    yield (
        "more than there are",
        npz(**{k: np.concatenate([v, v]) if v.ndim else v for k, v in held.items()}),
        None,
    )
    yield from cuts(npz(**held), 16 if LONG else 8)
    yield from anything()


def test_values(tmp_path, monkeypatch, capsys):
    held, words = values(tmp_path, monkeypatch)
    capsys.readouterr()
    (tmp_path / "values.npz").unlink()

    def read(body):
        (tmp_path / "values.npz").write_bytes(body)
        before = looked_at(tmp_path)
        capsys.readouterr()
        code = main(words)
        if code == 2:
            assert looked_at(tmp_path) == before
            raise ode.OdesolveError(capsys.readouterr().err.removesuffix("\n"))

    all_refused(
        read,
        [(name, body, "values.npz") for name, body, _ in value_cases(held)],
        least=100 if LONG else 30,
    )
    bits = 24 if LONG else 8
    none_raw(read, flips(npz(**held), bits), least=bits)
    read(npz(**held))
    half = {k: v[:2] if v.ndim else v for k, v in held.items()}
    read(npz(**half))
    for name in COLUMNS:
        assert np.array_equal(np.load("values.npz")[name], held[name], equal_nan=True)
    for name in things(tmp_path, "values.npz"):
        (tmp_path / "values.npz").unlink()
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        things(folder, "values.npz")[name](folder / "values.npz")
        before = looked_at(folder)
        place = words.index("--out") + 1
        if name != "nothing":
            assert (
                outcome(main, [*words[:place], str(folder / "values.npz"), *words[place + 1 :]])
                is None
            )
            assert "values.npz holds no values of loglik" in capsys.readouterr().err
            assert looked_at(folder) == before
        (tmp_path / "values.npz").write_bytes(b"x")
