"""A model's hash: the same for the same model, another for anything that changes its answers."""

import hashlib
import importlib
import itertools
import subprocess
import sys

import pytest
import torch

import odesolve as ode
from odesolve.fingerprints.fingerprint import checksum, fingerprint
from tests.rows import rows


class Scaled:
    def __init__(self, by):
        self.by, self._calls = by, 0

    def __call__(self, x, t):
        self._calls += 1
        return self.by * x


def closed(by):
    return lambda x, t: x * by


def linear(value=0.5):
    net = torch.nn.Linear(3, 3)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.linspace(-value, value, p.numel()).view(p.shape))
    return net


def unet(x, t, **cond):
    return x


PATH = ode.paths.VP()
ONE, TWO = {"y": torch.ones(2)}, {"y": torch.zeros(2)}
MODELS = [
    lambda: ode.Model(closed(0.5), PATH, "noise"),
    lambda: ode.Model(closed(0.25), PATH, "noise"),
    lambda: ode.Model(closed(torch.tensor([0.5])), PATH, "noise"),
    lambda: ode.Model(Scaled(0.5), PATH, "noise"),
    lambda: ode.Model(Scaled(0.25), PATH, "noise"),
    lambda: ode.Model(Scaled(0.5).__call__, PATH, "noise"),
    lambda: ode.Model(linear(), PATH, "noise"),
    lambda: ode.Model(linear(0.25), PATH, "noise"),
    lambda: ode.Model(linear(), PATH, "data"),
    lambda: ode.Model(linear(), ode.paths.VP(beta_max=10.0), "noise"),
    lambda: ode.Model(linear(), PATH, "noise", clip=1.0),
    lambda: ode.Model(linear(), PATH, "noise", clip=2.0),
    lambda: ode.Model(linear(), PATH, "noise", time_scale=1000.0),
    lambda: ode.Model(unet, PATH, "noise", cond=ONE),
    lambda: ode.Model(unet, PATH, "noise", cond=TWO),
    lambda: ode.Model(unet, PATH, "noise").guided(2.0, ONE, TWO),
    lambda: ode.Model(unet, PATH, "noise").guided(3.0, ONE, TWO),
    lambda: ode.Model(unet, PATH, "noise").guided(2.0, TWO, ONE),
    lambda: ode.problems.digits().model(PATH),
]


def test_equal_models_are_equal_and_others_are_not():
    assert [fingerprint(m()) for m in MODELS] == [fingerprint(m()) for m in MODELS]
    for a, b in itertools.combinations(range(len(MODELS)), 2):
        assert fingerprint(MODELS[a]()) != fingerprint(MODELS[b]()), (a, b)


@rows("k", [0, 2, 18])
def test_using_a_model_does_not_change_it(k):
    model = MODELS[k]()
    before = fingerprint(model)
    ode.sample(model, (2, 1, 8, 8), "ddim", 2, seed=0)
    assert fingerprint(model) == before


@pytest.mark.long  # test_changes.py asks another process, too
def test_it_is_the_same_in_another_process():
    code = "import odesolve as ode; from odesolve.fingerprints.fingerprint import fingerprint;"
    code += "print(fingerprint(ode.problems.digits().model(ode.paths.VP())))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == fingerprint(MODELS[18]())


@rows("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_checksums_see_values_and_places(dtype):
    x = torch.arange(24).reshape(4, 6).to(dtype)
    assert checksum(x) == checksum(x.clone())
    assert checksum(x) == checksum(x.t().contiguous().t())
    assert checksum(x) != checksum(x.flip(0)) or dtype is torch.bool
    y = x.clone()
    y[2, 3] = 0
    assert checksum(x) != checksum(y)
    assert checksum(torch.tensor(3).to(dtype))
    assert checksum(x[:0]) == checksum(x[:0])


def test_checksums_are_sha256():
    """Of the dtype, the shape and the bytes."""
    x = torch.tensor([0, 1, 1, 0])
    told = hashlib.sha256(b"torch.int64 (4,);" + x.numpy().tobytes()).hexdigest()
    assert checksum(x) == told[:32]
    assert checksum(x) != checksum(torch.tensor([1, 0, 0, 1]))
    assert checksum(x) != checksum(x.view(2, 2))
    assert checksum(x) != checksum(x.int())
    assert checksum(x) != checksum(x.double())


SOURCE = "def net(x, t):\n    return {} * x\n"


def test_a_wheel_is_a_library_in_a_folder_of_any_name(tmp_path, monkeypatch):
    """pip install --target: its version stands for it, and not its code; the user's code beside it
    does, with or without the metadata of a project that is being written."""
    for name in ("wheel_a", "project_a", "user_a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(SOURCE.format(0.5))
    for kind, file in (("wheel_a-1.0.dist-info", "METADATA"), ("project_a.egg-info", "PKG-INFO")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / file).write_text("Metadata-Version: 2.1\nName: a\nVersion: 1.0\n")
    record = "wheel_a/__init__.py,sha256=a,9\nwheel_a-1.0.dist-info/RECORD,,\n"
    (tmp_path / "wheel_a-1.0.dist-info" / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("wheel_a", "project_a", "user_a"):
        module = importlib.import_module(name)
        marks = []
        for by in (0.5, 0.25):
            monkeypatch.setattr(module.net, "__code__", coded(module.__file__, by))
            marks.append(fingerprint(ode.Model(module.net, PATH, "noise")))
        assert (marks[0] == marks[1]) == (name == "wheel_a"), name


def coded(file, by):
    """The code of the function, as if it stood in this file."""
    names = {}
    exec(compile(SOURCE.format(by), file, "exec"), names)
    return names["net"].__code__
