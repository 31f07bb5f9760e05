"""What makes another model, and what makes the same one: a job that is taken up refuses the first
and takes the second."""

from __future__ import annotations

import copy
import functools
import io
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path as File

import numpy as np
import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.fingerprints.fingerprint import fingerprint
from tests.jobs import nets
from tests.jobs.nets import (
    Callable,
    Net,
    Pair,
    Slotted,
    changed,
    closed,
    cyclic,
    hooked,
    model,
    nested,
    of,
    partial,
)
from tests.rows import rows

SHAPE, N = (2, 1, 3), 6
LABELS = torch.arange(6)
BASE = Net()


def draw(out, given, **options):
    return ode.jobs.sample(
        given, SHAPE, "ddim", 1, n=N, out=out, shard=2, progress=False, **options
    )


def with_value(name, k, value):
    """The network with another number in one of its tensors."""
    net = Net()
    with torch.no_grad():
        dict([*net.named_parameters(), *net.named_buffers()])[name].view(-1)[k] = value
    return net


def scripted(weight):
    net = nn.Linear(3, 3)
    for p in net.parameters():
        nn.init.constant_(p, weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(net)


def in_mode(*path):
    net = Net()
    for part in path:
        getattr(net, part).eval() if part != "all" else net.eval()
    return net


def swapped_class():
    net = Net()
    net.inner[1] = nn.GELU()
    return net


def reordered():
    net = Net()
    net.inner = nn.Sequential(net.inner[2], net.inner[1], net.inner[0])
    return net


def with_forward(scale):
    net = Net()
    net.forward = types.MethodType(lambda self, x, t: self.inner(x) * scale, net)
    return net


def subclass(body):
    made = {}
    exec(f"class Other(Net):\n    {body}\n", {"Net": Net, "torch": torch}, made)
    return made["Other"]()


def by_global(value):
    return of("def net(x, t):\n    return x * BY", BY=value)


def by_module(value):
    mine = types.ModuleType("mine")
    mine.by, mine.other = value, object()
    return of("def net(x, t):\n    return x * mine.by", mine=mine)


def attributed(by):
    def net(x, t):
        return x * net.by

    net.by = by
    return net


def labelled(last):
    labels = LABELS.clone()
    labels[5] = last
    return lambda ids: model(lambda x, t, y: x * y[:, None, None], cond={"y": labels[ids] * 0.1})


def wrapped(by):
    as_torch = functools.wraps(
        torch.nn.functional.silu, ("__module__", "__name__", "__qualname__"), ()
    )
    return as_torch(lambda x, t: x * by)


def named_like(module, by):
    """A class in a file of the user's that is called as one of Python's own is."""
    body = f"class Own:\n    def __call__(self, x, t):\n        return x * {by}\n"
    made = {"__name__": module}
    exec(compile(body, f"/home/user/{module}.py", "exec"), made)
    return made["Own"]()


class Labelled:
    def __init__(self, last):
        self.labels = [0.0, 0.1, 0.2, 0.3, 0.4, last]

    def __call__(self, ids):
        y = torch.tensor([self.labels[i] for i in ids.tolist()])
        return model(lambda x, t, y: x * y[:, None, None], cond={"y": y})


def double(x, t):
    return x * 2


CHANGES = {
    "a weight": (lambda: model(Net()), lambda: model(with_value("inner.0.weight", 3, 0.125))),
    "a weight by one rounding": (
        lambda: model(Net()),
        lambda: model(
            with_value(
                "inner.0.bias", 0, torch.nextafter(Net().inner[0].bias[0], torch.tensor(9.0))
            )
        ),
    ),
    "two weights swapped": (
        lambda: model(closed(torch.tensor([0, 1, 1, 0]))),
        lambda: model(closed(torch.tensor([1, 0, 0, 1]))),
    ),
    "a weight's dtype": (lambda: model(Net()), lambda: model(Net().double())),
    "a buffer": (lambda: model(Net()), lambda: model(with_value("kept", 1, 2.0))),
    "a buffer that is not saved": (lambda: model(Net()), lambda: model(with_value("lost", 1, 2.0))),
    "a number": (lambda: model(Net()), lambda: model(changed(scale=2.0))),
    "an int for a float": (lambda: model(Net()), lambda: model(changed(scale=1))),
    "a flag": (lambda: model(Net()), lambda: model(changed(flag=False))),
    "a private attribute": (lambda: model(Net()), lambda: model(changed(_hidden=3))),
    "an activation": (lambda: model(Net()), lambda: model(changed(act=torch.sigmoid))),
    "an activation by name": (
        lambda: model(changed(act="tanh")),
        lambda: model(changed(act="relu")),
    ),
    "an activation's layer": (lambda: model(Net()), lambda: model(swapped_class())),
    "a layer's option": (
        lambda: model(changed(act=nn.ELU(1.0))),
        lambda: model(changed(act=nn.ELU(2.0))),
    ),
    "a new attribute": (lambda: model(Net()), lambda: model(changed(another=1))),
    "seven levels down": (
        lambda: model(Net()),
        lambda: model(
            changed(
                extra={"by": [0.5, (1, 2)], "deep": {"er": {"a": {"b": {"c": {"d": {"e": 2.0}}}}}}}
            )
        ),
    ),
    "an array": (
        lambda: model(Net()),
        lambda: model(changed(table=np.arange(1.0, 4.0, dtype=np.float32))),
    ),
    "a dataclass": (lambda: model(Net()), lambda: model(changed(config=nets.Config(name="relu")))),
    "an enum": (lambda: model(Net()), lambda: model(changed(mode=nets.Mode.FAST))),
    "a named tuple": (
        lambda: model(changed(pair=Pair(1, 2))),
        lambda: model(changed(pair=Pair(2, 1))),
    ),
    "a set": (lambda: model(changed(names={"a", "b"})), lambda: model(changed(names={"a", "c"}))),
    "the order of layers": (lambda: model(Net()), lambda: model(reordered())),
    "the order of functions": (
        lambda: model(closed({"a": torch.sin, "b": torch.cos})),
        lambda: model(closed({"b": torch.cos, "a": torch.sin})),
    ),
    "the order of an ordered dict": (
        lambda: model(closed(nets.ordered("a", "b"))),
        lambda: model(closed(nets.ordered("b", "a"))),
    ),
    "train mode": (lambda: model(Net()), lambda: model(in_mode("all"))),
    "train mode of a part": (lambda: model(Net()), lambda: model(in_mode("inner"))),
    "a hook": (lambda: model(Net()), lambda: model(hooked(0.5))),
    "a hook's number": (lambda: model(hooked(0.25)), lambda: model(hooked(0.5))),
    "forward, replaced": (lambda: model(with_forward(0.5)), lambda: model(with_forward(0.25))),
    "forward's code": (
        lambda: model(subclass("def forward(self, x, t): return self.inner(x)")),
        lambda: model(subclass("def forward(self, x, t): return -self.inner(x)")),
    ),
    "a method's constant": (
        lambda: model(subclass("def helper(self, x): return x * 0.5")),
        lambda: model(subclass("def helper(self, x): return x * 0.25")),
    ),
    "a class's number": (
        lambda: model(subclass("kind = 1.0")),
        lambda: model(subclass("kind = 2.0")),
    ),
    "a partial's argument": (
        lambda: model(partial(nets.scaled, by=0.5)),
        lambda: model(partial(nets.scaled, by=0.25)),
    ),
    "a partial's function": (lambda: model(partial(nets.half)), lambda: model(partial(double))),
    "a default": (
        lambda: model(of("def net(x, t, by=0.5): return x * by")),
        lambda: model(of("def net(x, t, by=0.25): return x * by")),
    ),
    "a default by keyword": (
        lambda: model(of("def net(x, t, *, by=0.5): return x * by")),
        lambda: model(of("def net(x, t, *, by=0.25): return x * by")),
    ),
    "an operation": (
        lambda: model(of("def net(x, t): return x * 0.5")),
        lambda: model(of("def net(x, t): return x / 0.5")),
    ),
    "a constant": (
        lambda: model(of("def net(x, t): return x * 0.5")),
        lambda: model(of("def net(x, t): return x * 0.25")),
    ),
    "a called name": (
        lambda: model(of("def net(x, t): return torch.sin(x)")),
        lambda: model(of("def net(x, t): return torch.cos(x)")),
    ),
    "a function inside": (
        lambda: model(of("def net(x, t): return (lambda: x + 1)()")),
        lambda: model(of("def net(x, t): return (lambda: x + 2)()")),
    ),
    "a global": (lambda: model(by_global(0.5)), lambda: model(by_global(0.25))),
    "a global tensor": (
        lambda: model(by_global(torch.ones(3))),
        lambda: model(by_global(torch.zeros(3))),
    ),
    "a global function": (lambda: model(by_global(nets.half)), lambda: model(by_global(double))),
    "a constant of a module": (lambda: model(by_module(0.5)), lambda: model(by_module(0.25))),
    "a function's attribute": (lambda: model(attributed(0.5)), lambda: model(attributed(0.25))),
    "a closed-over array": (lambda: model(closed(np.ones(3))), lambda: model(closed(np.zeros(3)))),
    "an array's dtype": (
        lambda: model(closed(np.ones(3, "i4"))),
        lambda: model(closed(np.ones(3, "i8"))),
    ),
    "an array's shape": (
        lambda: model(closed(np.ones((2, 3)))),
        lambda: model(closed(np.ones((3, 2)))),
    ),
    "an array of objects": (
        lambda: model(closed(np.array([1, "a"], object))),
        lambda: model(closed(np.array([1, "b"], object))),
    ),
    "within a cycle": (lambda: model(cyclic(0.5)), lambda: model(cyclic(0.25))),
    "a thousand levels down": (lambda: model(nested(1000, 1)), lambda: model(nested(1000, 2))),
    "in a wrapper": (lambda: model(wrapped(0.5)), lambda: model(wrapped(0.25))),
    "in a file that is called code.py": (
        lambda: model(named_like("code", 1)),
        lambda: model(named_like("code", 2)),
    ),
    "in a file that is called torch.py": (
        lambda: model(named_like("torch", 1)),
        lambda: model(named_like("torch", 2)),
    ),
    "a callable object": (lambda: model(Callable(0.5)), lambda: model(Callable(0.25))),
    "a slot": (lambda: model(Slotted(0.5)), lambda: model(Slotted(0.25))),
    "a private slot": (lambda: model(Slotted(0.5, 1)), lambda: model(Slotted(0.5, 2))),
    "a bound method's object": (
        lambda: model(Callable(0.5).method),
        lambda: model(Callable(0.25).method),
    ),
    "another method": (lambda: model(Callable().method), lambda: model(Callable().__call__)),
    "TorchScript's weights": (lambda: model(scripted(0.5)), lambda: model(scripted(0.25))),
    "compiled, its weights": (
        lambda: model(torch.compile(Net())),
        lambda: model(torch.compile(Net(1))),
    ),
    "what a compiled function calls": (
        lambda: model(torch.compile(closed(None))),
        lambda: model(torch.compile(closed(1))),
    ),
    "a condition": (
        lambda: model(nets.half, cond={"y": 1}),
        lambda: model(nets.half, cond={"y": 2}),
    ),
    "a condition's name": (
        lambda: model(nets.half, cond={"y": 1}),
        lambda: model(nets.half, cond={"z": 1}),
    ),
    "the guidance": (
        lambda: model(nets.half).guided(2.0, {}, {"y": 1}),
        lambda: model(nets.half).guided(2.0, {}, {"y": 2}),
    ),
    "a classifier": (
        lambda: model(nets.half).classifier_guided(nets.half, 1.0),
        lambda: model(nets.half).classifier_guided(double, 1.0),
    ),
    "a classifier's labels": (
        lambda: model(nets.half).classifier_guided(nets.half, 1.0, {"y": 1}),
        lambda: model(nets.half).classifier_guided(nets.half, 1.0, {"y": 2}),
    ),
    "the function of times": (
        lambda: model(nets.half, time=lambda path, t: t),
        lambda: model(nets.half, time=lambda path, t: 2 * t),
    ),
    "the path": (
        lambda: model(nets.half),
        lambda: ode.Model(nets.half, ode.paths.Cosine(), "noise", dtype=torch.float32),
    ),
    "the prediction": (
        lambda: model(nets.half),
        lambda: ode.Model(nets.half, ode.paths.VP(), "data", dtype=torch.float32),
    ),
    "a label after the first batch": (lambda: labelled(5), lambda: labelled(4)),
    "a label of an object": (lambda: Labelled(0.5), lambda: Labelled(0.25)),
    "what labels are for": (
        lambda: lambda ids: model(lambda x, t, y: x * 0.5, cond={"y": ids % 3}),
        lambda: lambda ids: model(lambda x, t, y: x * 0.5, cond={"y": ids % 3 + ids // 4}),
    ),
}


@rows("name", CHANGES)
def test_a_job_of_another_model_is_refused(tmp_path, monkeypatch, name):
    """And nothing is written; the same model, made anew, goes on with it."""

    def drawn(call, shape, ids, model):
        return {"samples": np.zeros(shape, np.float32), "status": np.zeros(len(ids), np.uint8)}

    monkeypatch.setattr("odesolve.jobs.draws.solve_batch", drawn)
    before, after = CHANGES[name]
    job = draw(tmp_path, before())
    job.found()[2].unlink()
    held = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(ode.OdesolveError, match="holds another job") as e:
        draw(tmp_path, after())
    assert "differs" in str(e.value)
    assert sorted(map(str, tmp_path.rglob("*"))) == held
    draw(tmp_path, before())
    assert job.done() == N


class Counting:
    """A network that keeps count, and what it worked out once."""

    def __init__(self):
        self.calls, self._cache = 0, {}

    def __call__(self, x, t):
        self.calls += 1
        return x * self._cache.setdefault("by", 0.5)


class Telling(Counting):
    def __fingerprint__(self):
        return "half"


def loaded():
    net = Net(1)
    net.load_state_dict(Net().state_dict())
    return net


def saved():
    held = io.BytesIO()
    torch.save(Net().state_dict(), held)
    net = Net(2)
    held.seek(0)
    net.load_state_dict(torch.load(held, weights_only=True))
    return net


def used():
    net = Net()
    net(torch.ones(2, 1, 3), torch.ones(2)).sum()
    return net


def told():
    net = Telling()
    net(torch.ones(2), 1.0)
    return net


def with_gradients():
    net = Net()
    net.inner(torch.ones(1, 3)).sum().backward()
    return net.requires_grad_(False)


def ddp_like(net):
    wrapped = nn.DataParallel(net)
    wrapped.eval() if not net.training else None
    return wrapped


LAMBDA = "net = lambda x, t: x * 0.5"
SAME = {
    "made again": (lambda: model(Net()), lambda: model(Net())),
    "weights loaded": (lambda: model(Net()), lambda: model(loaded())),
    "weights saved and loaded": (lambda: model(Net()), lambda: model(saved())),
    "a deep copy": (lambda: model(Net()), lambda: model(copy.deepcopy(Net()))),
    "after use": (lambda: model(Net()), lambda: model(used())),
    "with gradients": (lambda: model(Net()), lambda: model(with_gradients())),
    "other strides": (
        lambda: model(closed(torch.arange(6).view(2, 3))),
        lambda: model(closed(torch.arange(6).view(2, 3).t().contiguous().t())),
    ),
    "other strides of an array": (
        lambda: model(closed(np.arange(6).reshape(2, 3))),
        lambda: model(closed(np.asfortranarray(np.arange(6).reshape(2, 3)))),
    ),
    "another device object": (
        lambda: model(changed(device=torch.device("cpu"))),
        lambda: model(changed(device=torch.device("cpu", 0))),
    ),
    "a lambda again": (lambda: model(of(LAMBDA)), lambda: model(of(LAMBDA))),
    "a lambda elsewhere": (
        lambda: model(of(LAMBDA)),
        lambda: model(of("# a comment\n\n" + LAMBDA)),
    ),
    "other variables": (
        lambda: model(of("def net(x, t):\n    y = x * 2\n    return y")),
        lambda: model(of("def net(x, t):\n    'What it does.'\n    z = x * 2\n    return z")),
    ),
    "globals that it does not name": (
        lambda: model(of("def net(x, t): return x * BY", BY=0.5)),
        lambda: model(of("def net(x, t): return x * BY", BY=0.5, OTHER=object())),
    ),
    "keys in another order": (
        lambda: model(closed({"a": 1, "b": 2.0, "c": {3: 1, 4: 2}})),
        lambda: model(closed({"c": {4: 2, 3: 1}, "b": 2.0, "a": 1})),
    ),
    "conditions in another order": (
        lambda: model(nets.half, cond={"y": torch.ones(2), "z": 1}),
        lambda: model(nets.half, cond={"z": 1, "y": torch.ones(2)}),
    ),
    "attributes in another order": (
        lambda: model(changed(a=1, b=2)),
        lambda: model(changed(b=2, a=1)),
    ),
    "sets in another order": (
        lambda: model(closed({str(i) for i in range(50)})),
        lambda: model(closed({str(i) for i in reversed(range(50))})),
    ),
    "compiled": (lambda: model(Net()), lambda: model(torch.compile(Net()))),
    "a compiled function": (
        lambda: model(closed(None)),
        lambda: model(torch.compile(closed(None))),
    ),
    "on many devices": (lambda: model(Net()), lambda: model(ddp_like(Net()))),
    "TorchScript": (lambda: model(scripted(0.5)), lambda: model(scripted(0.5))),
    "a cycle": (lambda: model(cyclic(0.5)), lambda: model(cyclic(0.5))),
    "a partial": (
        lambda: model(partial(nets.scaled, by=0.5)),
        lambda: model(partial(nets.scaled, by=0.5)),
    ),
    "tensors that share memory or not": (
        lambda: model(closed([BASE.kept, BASE.kept])),
        lambda: model(closed([BASE.kept, BASE.kept.clone()])),
    ),
    "labels again": (lambda: labelled(5), lambda: labelled(5)),
    "an object's word": (lambda: model(Telling()), lambda: model(told())),
}


@rows("name", SAME)
def test_the_same_model_made_anew_is_taken(name):
    before, after = SAME[name]
    assert fingerprint(before()) == fingerprint(after())


MADE = (
    "[nets.Net(), nets.Callable(), nets.Slotted().__call__, nets.partial(nets.scaled, by=0.5), "
    "nets.cyclic(1), {'b', 'a'}]"
)


@pytest.mark.long
def test_another_process_finds_the_same(tmp_path):
    """With other addresses and hashes, from a script in another place."""
    code = (
        "from tests.jobs import nets; from odesolve.fingerprints.fingerprint import "
        f"fingerprint; print(fingerprint({MADE}))"
    )
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(File(__file__).parents[2])!r})\n{code}")
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fingerprint(eval(MADE))


def test_what_calls_change_is_no_other_model_in_this_process(tmp_path):
    net = Counting()
    job = draw(tmp_path, model(net))
    assert net.calls > 0
    job.found()[1].unlink()
    assert draw(tmp_path, model(net)).done() == N
    net.calls = -1
    with pytest.raises(
        ode.OdesolveError,
        match=r"the model differs in net\.calls, "
        r"net\._cache\.by",
    ):
        draw(tmp_path, model(net))


def test_what_cannot_be_seen_is_named(tmp_path):
    with pytest.warns(
        UserWarning,
        match=r"what model\.net\.held \(_thread|what model\.net\.held "
        r"\(builtins.generator\) holds",
    ):
        draw(tmp_path, model(closed(x for x in ())))


def test_labels_from_elsewhere_are_asked_for_again(tmp_path):
    """A function that reads a file shows nothing of it: shards that are there know their
    conditions."""
    np.save(tmp_path / "labels.npy", np.arange(6.0, dtype=np.float32))

    def given(ids, where=str(tmp_path / "labels.npy")):
        y = torch.from_numpy(np.load(where))[ids]
        return model(lambda x, t, y: x * y[:, None, None], cond={"y": y})

    job = draw(tmp_path / "job", given)
    marks = job.load()["condition"]
    assert marks.dtype == np.uint64
    assert marks.tolist() == [v for v in marks[::2].tolist() for _ in range(2)]
    assert len(set(marks.tolist())) == 3
    draw(tmp_path / "job", given)
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 3, 4, 6], np.float32))
    with pytest.raises(
        ode.OdesolveError,
        match="the conditions of ids 4 to 5 are others than their shard was made with",
    ):
        draw(tmp_path / "job", given)
