"""What goes with samples stays with them: labels, captions and nested conditions of data sets,
loaders and functions."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import odesolve as ode
from odesolve.objectives import Matching, Terms
from odesolve.training import Batches, NotFinite, checkpoint, fit
from tests.rows import rows

N = 12
POINTS = torch.arange(float(N))[:, None].repeat(1, 2)  # the number of a sample is its value


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Column:
    """Indexable, and nothing else."""

    def __len__(self):
        return N

    def __getitem__(self, k):
        if not 0 <= k < N:
            raise IndexError(k)
        return f"row {k}"


class Frame:
    """As columns of other libraries: by labels of its own, and as an array."""

    def __len__(self):
        return N

    def __getitem__(self, k):
        raise KeyError(k)

    def __array__(self, dtype=None, copy=None):
        return np.arange(N)


NUMBERED = {
    "tensor": torch.arange(N),
    "array": np.arange(N),
    "array of floats": np.arange(N, dtype=np.float32),
    "read only": np.broadcast_to(np.arange(N)[:, None], (N, 2))[:, 0],
    "backwards": np.arange(N)[::-1].copy()[::-1],
    "list of numbers": list(range(N)),
    "tuple of numbers": tuple(range(N)),
    "range": range(N),
    "frame": Frame(),
}
WORDS = {
    "captions": [f"row {k}" for k in range(N)],
    "tuple": tuple(f"row {k}" for k in range(N)),
    "array of words": np.array([f"row {k}" for k in range(N)]),
    "column": Column(),
}


def seen_by(data, steps=5, **options):
    """The batches and conditions that an objective of a fit is called with."""
    layer, seen = torch.nn.Linear(2, 1), []

    def objective(x, *, generator, cond):
        seen.append((x, cond))
        return layer(x).square().mean()

    fit(
        objective,
        data,
        steps,
        optimiser=torch.optim.SGD(layer.parameters(), 0.0),
        generator=generator(),
        **options,
    )
    return seen


@rows("kind", NUMBERED)
def test_numbers_come_with_their_samples(kind):
    for x, cond in seen_by(POINTS, cond={"y": NUMBERED[kind]}, batch=4):
        assert isinstance(cond["y"], torch.Tensor)
        assert torch.equal(cond["y"].float(), x[:, 0])


@rows("kind", WORDS)
def test_words_come_with_their_samples(kind):
    batches = seen_by(POINTS, cond={"y": WORDS[kind], "scale": 2.0, "mode": "cat"}, batch=4)
    assert [int(v) for x, _ in batches[:3] for v in x[:, 0]] != list(range(N))  # they are shuffled
    for x, cond in batches:
        assert list(cond["y"]) == [f"row {int(v)}" for v in x[:, 0]]
        assert (cond["scale"], cond["mode"]) == (2.0, "cat")


def test_nested_conditions_come_with_their_samples():
    ragged = [torch.full((1 + k % 3,), float(k)) for k in range(N)]
    nested = {
        "text": {"ids": np.arange(N), "words": WORDS["captions"]},
        "pair": [torch.arange(N), POINTS],
        "each": ragged,
    }
    for x, cond in seen_by(POINTS, cond=nested, batch=5):
        own = x[:, 0]
        assert torch.equal(cond["text"]["ids"].float(), own)
        assert cond["text"]["words"] == [f"row {int(v)}" for v in own]
        assert torch.equal(cond["pair"][0].float(), own)
        assert torch.equal(cond["pair"][1], x)
        assert [float(v[0]) for v in cond["each"]] == own.tolist()


def test_data_sets_of_arrays():
    for x, cond in seen_by(POINTS.numpy(), cond={"y": np.arange(N)}, batch=4):
        assert torch.equal(x[:, 0], cond["y"].float())


@rows(
    ("cond", "told"),
    [
        ({"y": object()}, r"cond\['y'\] is <object"),
        ({"y": {0, 1}}, r"cond\['y'\] is \{0, 1\}"),
        ({"y": iter(range(N))}, r"cond\['y'\] is <"),
        ({"y": torch.tensor(3)}, r"cond\['y'\] is tensor\(3\)"),
        ({"y": np.array([1, 2])}, "has 2 rows and the data 12"),
        ({"y": ["a", "b"]}, "has 2 rows and the data 12"),
        ({"a": {"b": torch.zeros(3)}}, r"cond\['a'\]\['b'\] has 3 rows"),
        ("y", "names parts of batches, and the data are a data set"),
        (3, "cond"),
    ],
)
def test_what_has_no_rows_is_refused(cond, told):
    with pytest.raises(ode.OdesolveError, match=told):
        seen_by(POINTS, cond=cond)


class Dicts(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, k):
        return {"image": POINTS[k], "y": k, "caption": f"row {k}"}


def loader(data):
    return DataLoader(data, 4, shuffle=True, generator=generator(3))


LOADERS = {
    "tuples": (loader(TensorDataset(POINTS, torch.arange(N))), "y"),
    "two conditions": (loader([(POINTS[k], k, f"row {k}") for k in range(N)]), ("y", "caption")),
    "tuples with dicts": (
        loader([(POINTS[k], {"y": k, "caption": f"row {k}"}) for k in range(N)]),
        None,
    ),
    "dicts": (loader(Dicts()), None),
    "dicts by name": (loader(Dicts()), ["y", "caption"]),
    "dicts with x": (loader([{"x": POINTS[k], "y": k, "at": 2.0} for k in range(N)]), None),
    "arrays": ([(POINTS.numpy(), np.arange(N))], "y"),
    "a function": (lambda g: (POINTS, list(range(N))), "y"),
    "a function of dicts": (lambda g: {"x": POINTS, "y": np.arange(N)}, None),
}


@rows("kind", LOADERS)
def test_loaders_and_functions(kind):
    data, names = LOADERS[kind]
    for x, cond in seen_by(data, cond=names):
        assert torch.equal(torch.as_tensor(cond["y"]).float(), x[:, 0])
        if "caption" in cond:
            assert list(cond["caption"]) == [f"row {int(v)}" for v in x[:, 0]]


@rows(
    ("data", "cond", "told"),
    [
        ([(POINTS, "a word")], None, "name those of"),
        ([(POINTS, ["a"] * N)], None, "name those of"),
        ([(POINTS,)], "y", "names its last ones"),
        ([{"a": POINTS, "b": POINTS}], None, "nothing says which of these are the data"),
        ([{"a": POINTS}], "y", "not 'y'"),
        ([{"y": torch.arange(N)}], None, "nothing says which of these are the data"),
        ({"x": POINTS}, None, "the data are dict"),
        ("words", None, "the data are str"),
    ],
)
def test_batches_that_do_not_say_what_they_hold(data, cond, told):
    with pytest.raises(ode.OdesolveError, match=told):
        seen_by(data, cond=cond)


def test_labels_that_are_no_argument_of_the_objective():
    """(x, y) is what two-sided objectives take; an objective of x alone is told which name is
    missing."""
    net = Labelled()
    pairs = [(POINTS, torch.arange(N) % 3)]
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    objective = Matching(ode.Model(net, ode.paths.Linear(), "velocity"))
    with pytest.raises(ode.OdesolveError, match="cond='label'"):
        fit(objective, pairs, 1, optimiser=optimiser)
    before = net.label.weight.clone()
    fit(objective, pairs, 1, optimiser=optimiser, cond="label")
    assert not torch.equal(net.label.weight, before)


class Labelled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.label = torch.nn.Linear(2, 2), torch.nn.Embedding(3, 2)

    def forward(self, x, t, label):
        return self.layer(x) + self.label(label)


def test_array_labels_train_as_tensors_do():
    def weights(labels):
        torch.manual_seed(0)
        net = Labelled()
        objective = Matching(ode.Model(net, ode.paths.Linear(), "velocity"))
        optimiser = torch.optim.SGD(net.parameters(), 0.1)
        fit(
            objective,
            POINTS,
            4,
            optimiser=optimiser,
            cond={"label": labels},
            batch=5,
            generator=generator(),
        )
        return net.label.weight.detach()

    labels = torch.arange(N) % 3
    assert torch.equal(weights(labels), weights(labels.numpy()))
    assert torch.equal(weights(labels), weights(labels.tolist()))


def test_the_batch_of_a_loss_that_is_not_finite_holds_all_its_conditions(tmp_path):
    layer = torch.nn.Linear(2, 1)
    cond = {"text": {"ids": np.arange(N), "words": WORDS["captions"]}, "y": NUMBERED["array"]}

    def objective(x, *, generator, cond):
        each = layer(x).sum(1)
        return Terms(each.mean() * torch.nan, each, each)

    with pytest.raises(NotFinite) as error:
        fit(
            objective, POINTS, 2, optimiser=torch.optim.SGD(layer.parameters(), 0.1), network=layer, cond=cond, batch=4,
            folder=tmp_path, generator=generator(),
        )  # fmt: skip
    facts = checkpoint.read(error.value.file).facts
    own = facts["batch"][0][:, 0]
    assert torch.equal(facts["cond"]["y"].float(), own)
    assert torch.equal(facts["cond"]["text"]["ids"].float(), own)
    assert facts["cond"]["text"]["words"] == [f"row {int(v)}" for v in own]


def test_conditions_go_where_the_weights_are():
    """As far as this can be seen without a second device: wherever they are nested, tensors are
    asked to go."""
    from odesolve.training.batches import moved

    cond = {"a": {"b": [torch.zeros(2), "w"]}, "c": (torch.zeros(2), np.zeros(2)), "d": None}
    (x,), there = moved(((torch.zeros(2, 2),), cond), torch.device("meta"))
    assert x.device.type == there["a"]["b"][0].device.type == there["c"][0].device.type == "meta"
    assert there["c"][1].device.type == "meta"
    assert (there["a"]["b"][1], there["d"]) == ("w", None)


def test_several_data_of_arrays():
    batches = Batches((POINTS, POINTS.numpy() + 1.0), batch=4)
    x, y = batches(2)[0]
    assert torch.equal(x + 1.0, y)
