"""What cannot be printed, compared or held is refused by its argument's name as anything else
is."""

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.errors import short
from tests.rows import rows

VP = ode.paths.VP()
Z = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)
MODEL = ode.Model(lambda x, t: 0.3 * x, VP, "noise")


class Mute:
    def __repr__(self):
        raise RuntimeError("no text")


def nested():
    out = []
    for _ in range(3000):
        out = [out]
    return out


VALUES = {"10**5000": 10**5000, "mute": Mute(), "deep": nested()}
SAMPLE = [
    "solver",
    "steps",
    "grid",
    "seed",
    "ids",
    "state",
    "plan",
    "dtype",
    "device",
    "executor",
    "batch",
    "callback",
]
SAMPLE += ["full", "log_prob", "adjoint", "params", "eta", "progress", "noise"]
SOLVE = [
    "f",
    "y0",
    "t",
    "solver",
    "steps",
    "rtol",
    "atol",
    "control",
    "first_step",
    "max_step",
    "max_steps",
    "max_calls",
]
SOLVE += ["controller", "events", "stops", "dense", "linear", "adjoint", "params"]
DENSITY = [
    "x",
    "t",
    "base",
    "trace",
    "products",
    "tol",
    "divergence",
    "solver",
    "max_calls",
    "steps",
    "of",
    "control",
]


def sample(**given):
    start = None if "state" in given else given.pop("noise", Z)
    given = given if "plan" in given else {"solver": "ddim", "steps": 3, **given}
    return ode.sample(MODEL, start, **given)


def solve(**given):
    return ode.solve(**{"f": lambda t, y: -y, "y0": Z, **given})


def density(**given):
    return ode.log_prob(MODEL, **{"x": Z, "trace": "exact", **given})


CASES = [
    (call, name)
    for call, names in ((sample, SAMPLE), (solve, SOLVE), (density, DENSITY))
    for name in names
]


@rows("value", VALUES)
@rows(("call", "name"), CASES, ids=[f"{c.__name__}-{n}" for c, n in CASES])
def test_the_argument_is_named(call, name, value):
    with pytest.raises(ode.OdesolveError) as told:
        call(**{name: VALUES[value]})
    assert name in str(told.value)
    assert len(str(told.value)) < 600


WORDS = [
    (sample, ["adjoint", "log_prob", "trace"]),
    (solve, ["adjoint", "control", "solver", "linear"]),
]
WORDS += [(density, ["adjoint", "control", "of", "divergence", "solver", "trace"])]
ARRAYS = {
    "array": np.ones((4, 2)),
    "objects": np.array([None, 1], dtype=object),
    "tensor": torch.ones(2),
}


@rows("value", ARRAYS)
@rows(("call", "name"), [(c, n) for c, names in WORDS for n in names])
def test_an_array_is_no_name(call, name, value):
    with pytest.raises(ode.OdesolveError, match=name):
        call(**{name: ARRAYS[value]})


@rows("name", ["time", "input_scale", "predicts"])
@rows("value", ARRAYS)
def test_nor_in_a_model(name, value):
    with pytest.raises(ode.OdesolveError, match=name.removesuffix("s")[:7]):
        ode.Model(lambda x, t: x, VP, **{"predicts": "noise", name: ARRAYS[value]})


def test_short_is_short():
    assert short(10**5000) == "<int>"
    assert short(Mute()) == "<Mute>"
    assert len(short(list(range(10**5)))) == 60


LOOSE = {
    "sparse": lambda: torch.tensor([1.0, 0.0]).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]),
}
TIMED = [
    (sample, ["grid", "eta"]),
    (solve, ["t", "rtol", "atol", "first_step", "max_step"]),
    (density, ["t", "tol"]),
]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@rows("value", LOOSE)
@rows(("call", "name"), [(c, n) for c, names in TIMED for n in names])
def test_numbers_lie_in_memory_one_by_one(call, name, value):
    with pytest.raises(ode.OdesolveError, match=name):
        call(**{name: LOOSE[value]()})


@rows("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_of_every_whole_type(dtype):
    drawn = ode.sample(MODEL, (3, 2), "ddim", 2, seed=0, ids=np.array([2, 0, 1], dtype=dtype))
    assert torch.equal(drawn, ode.sample(MODEL, (3, 2), "ddim", 2, seed=0)[[2, 0, 1]])


def test_no_ids_for_no_samples():
    assert ode.sample(MODEL, (0, 2), "ddim", 2, seed=0, ids=[]).shape == (0, 2)
