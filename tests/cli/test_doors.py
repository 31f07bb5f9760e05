"""No input ends in a traceback: whatever is typed wrong is one line on stderr that names it, and
exit code 2."""

import pickle

import numpy as np
import pytest
import torch

from odesolve.cli import main
from tests.rows import rows

FACTORIES = """
import sys

import odesolve as ode

model = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,)).model(ode.paths.VP(), "noise")
number = 3


def asked(x, t, y):
    return 0 * x + y[:, None]


conditional = ode.Model(asked, ode.paths.VP(), predicts="noise")


def returns_a_number():
    return 3


def takes_arguments(name):
    return model


def raises():
    raise RuntimeError("no weights\\nat all")


def leaves():
    sys.exit("good bye")


def stops(x, t):
    sys.exit(7)


def breaks(x, t):
    raise TypeError("in the network\\nof the user")


def _answers(answer):
    return ode.Model(answer, ode.paths.VP(), predicts="noise")


leaving, breaking = _answers(stops), _answers(breaks)
narrow, words, wide = _answers(lambda x, t: x[:, :1]), _answers(lambda x, t: "x"), _answers(lambda x, t: x.double())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with factories, good data and bad files, in which no command may change anything."""
    root = tmp_path_factory.mktemp("doors")
    texts = {
        "nets.py": FACTORIES,
        "broken.py": "def model(:\n",
        "exits.py": "import sys\nsys.exit(3)\n",
    }
    texts |= {"needs.py": "import a_module_that_nobody_has\n", "file": "a file"}
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "binary.py").write_bytes(b"\x00\xff\xfe")
    (root / "folder").mkdir()
    np.savez(
        root / "x.npz", x=torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).numpy()
    )
    whole = (root / "x.npz").read_bytes()
    (root / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for kind in ("npz", "npy", "pt"):
        (root / f"empty.{kind}").write_bytes(b"")
        (root / f"text.{kind}").write_text("these are no numbers")
        (root / f"folder.{kind}").mkdir()
    np.savez(root / "two.npz", x=np.zeros((2, 2)), y=np.zeros((2, 2)))
    np.savez(root / "none.npz")
    arrays = {
        "row": np.zeros(4),
        "short": np.arange(3),
        "labels": np.arange(4),
        "nan": np.full(4, np.nan),
    }
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    np.save(root / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    (root / "code.pt").write_bytes(pickle.dumps(print))
    torch.save({"x": [1, 2]}, root / "list.pt")
    return root


def files(folder):
    """All names under a folder, but for what Python keeps of modules."""
    return sorted(str(p) for p in folder.rglob("*") if "__pycache__" not in str(p))


NET, DATA, SHAPE, OUT = (
    "nets.py:model",
    ("--data", "x.npz"),
    ("--shape", "4,2"),
    ("--out", "made.npz"),
)
SAMPLE, PROFILE = (
    ("sample", NET, *SHAPE, *OUT),
    ("profile", NET, *SHAPE, "--solvers", "ddim", "--nfe", "4"),
)
CHECK, LOGLIK = ("check", NET, *DATA), ("loglik", NET, *DATA)
JOB = ("sample", NET, *SHAPE, "-n", "8", "--out", "made")
PLAN = ("plan", "ddim")


def crossed(option, values, *commands):
    return [((*words, option, value), value) for words in commands for value in values]


WORDS = ("ten", "1.5", "nan", "1e3", "9" * 5000)
NUMBERS = [
    *crossed("--seed", ("-1", str(2**64), *WORDS), SAMPLE, PROFILE, CHECK, LOGLIK, JOB),
    *crossed("--steps", ("0", "-1", *WORDS), SAMPLE, PLAN, JOB),
    *crossed("--seconds", ("0", "-1", "nan", "inf", "-inf", "soon"), CHECK),
    *crossed("--tol", ("0", "-1", "nan", "inf", "small"), LOGLIK),
    *[
        case
        for option in (
            "--batch",
            "--limit",
            "--products",
            "--draws",
            "--levels",
            "--max-calls",
            "--shard",
        )
        for case in crossed(option, ("0", "-1", *WORDS), LOGLIK)
    ],
    *crossed("--low", ("nan", "inf", "dark"), LOGLIK),
    *crossed("--high", ("nan", "inf", "bright"), LOGLIK),
    *crossed("--top", ("0", "-1", *WORDS), PROFILE),
    *crossed("--nfe", ("0", "-1", "5,ten", "5,,8", ",", "5,-8", "5;8"), PROFILE),
    *crossed("--shard", ("0", "-4", "3", *WORDS), JOB),
    *crossed("--first", ("-1", str(2**32), "nan"), JOB),
    *crossed("--guidance", ("strong", "nan", "inf"), SAMPLE, PROFILE, JOB),
    *[((*SAMPLE[:4], *OUT, "-n", n), n) for n in ("0", "-1", *WORDS)],
]
SHAPES = (
    "0,2",
    "-1,2",
    "4,,2",
    "4,x",
    ",",
    "4x2",
    "(4,2)",
    "4.0,2",
    "4,2,",
    "nan",
    f"{2**40},{2**40}",
    "9" * 5000,
)
NAMES = [
    *crossed("--shape", SHAPES, SAMPLE, PROFILE, JOB, ("check", NET)),
    *crossed(
        "--device",
        ("banana", "cuda:99", "meta", "cpu:7", "cuda:-1", "0"),
        SAMPLE,
        PROFILE,
        LOGLIK,
        JOB,
    ),
    *crossed("--solver", ("ddimm", "ddim(", "ddim)"), SAMPLE, JOB),
    ((*SAMPLE, "--solver", "ddim(y=1)"), "option 'y'"),
    ((*SAMPLE, "--solver", "()"), "unknown solver"),
    *crossed("--solvers", ("ddimm", "ddim(", "ddim,,ab3", ","), PROFILE),
    *crossed("--grid", ("karas", "shift(", "shift(x)", "karras(1,2,3,z=4)"), SAMPLE, PLAN, JOB),
    *crossed("--grids", ("karas", "shift(", "uniform,,karras", ","), PROFILE),
    *crossed(
        "--path",
        ("vpp", "VP2", "()"),
        PLAN,
        ("check",),
        ("sample", *OUT),
        ("profile",),
        ("loglik",),
    ),
    *crossed("--path", ("edm",), SAMPLE, PROFILE, CHECK, LOGLIK, JOB),
    *crossed("--diff", ("ddimm", "ddim("), PLAN),
    *crossed("--format", ("hdf5",), JOB),
    *crossed("--metric", ("best",), PROFILE),
    *crossed("--trace", ("xtrac", "()"), LOGLIK),
    *crossed("--control", ("all",), LOGLIK),
    ((*SAMPLE, "--stepz", "3"), "--stepz"),
    *crossed("--call", ("a=1",), SAMPLE, PROFILE),
    (("plan", "nothing like it"), "nothing like it"),
    (("names", "nothing like it"), "nothing like it"),
    (("smaple",), "smaple"),
    ((*PLAN, "extra"), "extra"),
]
FACTORY = [
    ((*command, spec, *more), named)
    for command, more in (
        (("sample",), (*SHAPE, *OUT)),
        (("profile",), (*SHAPE, "--nfe", "4")),
        (("check",), DATA),
        (("loglik",), DATA),
    )
    for spec, named in (
        ("nets.py", "nets.py"),
        ("nets.py:", "nets.py:"),
        (":model", ":model"),
        (":", ":"),
        ("nets.py:modl", "did you mean 'model'"),
        ("nets.py:number", "nets.py:number"),
        ("nets.py:returns_a_number", "returned int"),
        ("nets.py:takes_arguments", "takes_arguments"),
        ("nets.py:raises", "no weights at all"),
        ("nets.py:leaves", "good bye"),
        ("nets.py:sys", "module"),
        ("missing.py:model", "missing.py"),
        ("folder/missing.py:model", "folder/missing.py"),
        ("broken.py:model", "SyntaxError"),
        ("exits.py:model", "exit code 3"),
        ("needs.py:model", "a_module_that_nobody_has"),
        ("binary.py:model", "binary.py"),
        ("folder:model", "folder"),
        ("not.a.module:model", "not.a.module"),
        ("..:model", "..:model"),
    )
]
NETWORKS = [
    ((*command, f"nets.py:{name}", *more), told)
    for command, more in (
        (("sample",), (*SHAPE, *OUT)),
        (("loglik",), DATA),
        (("check",), DATA),
    )
    for name, told in (
        ("leaving", "exit code 7"),
        ("breaking", "in the network"),
        ("narrow", "(8, 1)" if command[0] == "loglik" else "1)"),
        ("words", "str"),
        ("conditional", "give --cond y="),
    )
]
BAD_DATA = [
    "missing.npz",
    "missing/x.npz",
    "file/x.npz",
    "cut.npz",
    *(f"{what}.{kind}" for what in ("empty", "text", "folder") for kind in ("npz", "npy", "pt")),
    *(
        "two.npz",
        "none.npz",
        "row.npy",
        "objects.npy",
        "code.pt",
        "list.pt",
        "file",
        "folder",
        "x.jpg",
        "nets.py",
    ),
]
FILES = [
    *crossed("--data", BAD_DATA, ("loglik", NET), ("check", NET)),
    *[
        ((*PROFILE, "--cond", f"y={name}"), name)
        for name in BAD_DATA
        if name != "row.npy" and name[-3:] in ("npz", "npy", ".pt")
    ],
    *crossed(
        "--out",
        (
            "missing/x.npz",
            "file/x.npz",
            "folder.npz",
            "x.jpg",
            "x",
            "x" * 300 + ".npz",
            "/proc/x.npz",
        ),
        SAMPLE[:-2],
    ),
    *crossed(
        "--out", ("missing/x.npz", "file/x.csv", "folder.npz", "x.jpg", "/proc/x.npz"), LOGLIK
    ),
    *crossed("--out", ("file", "file/x", "/proc/x"), LOGLIK, JOB[:-2], PROFILE),
    *crossed("--plot", ("missing/x.png", "file/x.png", "x.jpg", "folder", "/proc/x.png"), CHECK),
    *crossed("--diffusers", ("missing", "file", "folder"), ("sample", *OUT), ("profile",)),
    *[
        (("job", name, *more), name)
        for name in ("missing", "file", "folder")
        for more in ((), ("--verify",))
    ],
    *[
        ((*words, "--out", "a\0b.npz"), "a\\x00b.npz")
        for words in (SAMPLE[:-2], LOGLIK, PROFILE, JOB[:-2])
    ],
    *[
        ((*words, "--out", "\ud800"), "\\ud800")
        for words in (SAMPLE[:-2], LOGLIK, PROFILE, JOB[:-2])
    ],
    ((*SAMPLE[:-2], "--out", "x.png"), "no pictures"),
    ((*SAMPLE[:-2], "--out", "x.png", "--shape", "50000000,1,8,8"), "too many"),
]
EMPTY = [
    *[
        ((*SAMPLE, option, ""), option[2:])
        for option in ("--solver", "--grid", "--device", "--path", "--out")
    ],
    *[
        ((*PROFILE, option, ""), option[2:])
        for option in ("--solvers", "--grids", "--nfe", "--shape", "--out")
    ],
    *[
        ((*LOGLIK, option, ""), option[2:])
        for option in ("--data", "--trace", "--control", "--out")
    ],
    *[(("plan", "", *more), "solver") for more in ((), ("--json",))],
    (("sample", "", *SHAPE, *OUT), "model"),
    (("names", ""), "label"),
    (("job", ""), "folder"),
    ((), "COMMAND"),
    (("",), "command"),
    (("sample", NET, *SHAPE), "--out"),
    (("plan",), "SOLVER"),
    (("sample", NET, *OUT), "--shape"),
    (("loglik", NET), "--data"),
    (("check", NET), "--data"),
]
ALONE = [
    ((*SAMPLE, "--first", "5"), "--first 5"),
    ((*SAMPLE, "--shard", "8"), "--shard 8"),
    ((*SAMPLE, "--format", "npz"), "--format npz"),
    ((*SAMPLE, "--uncond", "y=1"), "y=1"),
    ((*LOGLIK, "--draws", "4"), "--draws 4"),
    ((*LOGLIK, "--low", "0"), "--low 0"),
    ((*LOGLIK, "--shard", "64"), "--shard 64"),
    ((*LOGLIK, "--resume"), "--resume"),
    ((*PROFILE, "--resume"), "--resume"),
    ((*CHECK, "--shape", "4,2"), "--shape"),
]
ASKED = ("sample", "nets.py:conditional", *SHAPE, *OUT)
CONDITIONS = [
    *crossed(
        "--cond",
        ("y", "=3", "y=", "1y=3", "y y=3", "y=short.npy", "y=nan.npy", "y=1e999", "y=[1,'a']"),
        ASKED,
    ),
    *crossed(
        "--cond",
        ("y=[]", "y=[[1],[1,2]]", "y=[1j,1,1,1]", "y=[1,2]", f"y={10**30}", "self=1"),
        ASKED,
    ),
    *[
        ((*command, "--cond", f"{k}=1"), f"--cond {k}=")
        for k in ("x", "t", "z")
        for command in (ASKED, SAMPLE)
    ],
    ((*ASKED, "--cond", "y=missing.npy"), "missing.npy"),
    *crossed("--cond", ("y=1",), ("sample", *OUT), ("profile",), ("loglik",), ("check",)),
    ((*ASKED, "--cond", "y=1", "--cond", "y=2"), "twice"),
    ((*ASKED, "--cond", "y=1", "--guidance", "4"), "--uncond"),
    ((*ASKED, "--cond", "y=1", "--guidance", "4", "--uncond", "z=1"), "--uncond z"),
    ((*ASKED, "--cond", "y=1", "--guidance", "4", "--uncond", "y=short.npy"), "3 rows for 4"),
    ((*ASKED, "-n", "8", "--out", "made", "--cond", "y=labels.npy"), "4 rows for ids up to 7"),
    (("loglik", "nets.py:conditional", *DATA, "--cond", "y=labels.npy"), "4 rows for 8"),
    (("check", "nets.py:conditional", *DATA, "--cond", "y=labels.npy"), "4 rows for 8"),
    (("sample", "--guidance", "2", "--uncond", "y=1", *OUT), "--guidance 2"),
]
CASES = [*NUMBERS, *NAMES, *FACTORY, *NETWORKS, *FILES, *EMPTY, *ALONE, *CONDITIONS]


def named(words):
    """A short name of a case."""
    return (
        " ".join(w if len(w) < 30 else f"{w[:6]}..." for w in words)
        .replace("\0", "0")
        .replace("/", "|")
        or "nothing"
    )


def test_a_profile_of_nothing_is_no_success(capsys, monkeypatch, folder):
    monkeypatch.chdir(folder)
    assert main([*PROFILE, "--grids", "karras(rho=nan)"]) == 1
    assert "1 of 1 runs failed" in capsys.readouterr().out


@rows(("words", "told"), CASES, ids=[named(words) for words, _ in CASES])
def test_one_line(capsys, monkeypatch, folder, words, told):
    monkeypatch.chdir(folder)
    before = files(folder)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("odesolve: error: ")
    assert (told if len(told) < 100 else told[:5]) in err
    assert len(err) < 1500
    assert files(folder) == before
