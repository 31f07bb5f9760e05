"""Conditions, times, noise, masks and functions of unusual kinds: the right value, or one sentence
on what to give."""

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve import objectives as obj
from odesolve.errors import OdesolveError
from odesolve.objectives import bridges, dropped, times
from tests.rows import rows

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
LINEAR = ode.paths.Linear()
LABELS = torch.tensor([0, 1, 0, 1])


def net(x, t, **cond):
    return 0.5 * x


def drawn():
    return torch.Generator().manual_seed(0)


def model(path=LINEAR, predicts="velocity"):
    return ode.Model(net, path, predicts)


def transported(cond, x=X):
    return obj.Matching(model(), coupling="ot")(x, cond={"y": cond}, generator=drawn()).loss


@rows("rows", [("a", "b") * 8, (7, 8) * 8, np.array([0, 1] * 8, np.uint16), [b"", b"x"] * 8])
def test_labels_in_tuples_and_arrays_are_labels(rows):
    x = torch.cat([X, -X, 2 * X, 0.1 - X])
    assert transported(rows, x) == transported(LABELS.repeat(4), x)
    assert transported(rows, x) != transported(3, x)  # of all samples


def test_ranges_are_a_label_for_each():
    assert transported(range(4)) == transported(torch.arange(4))


@rows("empty", [torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, 0), np.zeros((4, 0), bool)])
def test_conditions_without_numbers_part_nothing(empty):
    assert transported(empty) == transported(3)


@rows(
    ("cond", "told"),
    [
        ([torch.tensor(k) for k in (0, 1, 0, 1)], "torch.stack"),
        ([torch.zeros(2)] * 4, "torch.stack"),
        ([torch.zeros(k) for k in (1, 2, 3, 1)], "torch.stack"),
        ([[1], [1, 2], [1], [1, 2]], "several lengths"),
        (torch.eye(4).to_sparse(), "dense"),
        (torch.eye(4, dtype=torch.long).to_sparse(), "dense"),
        (torch.arange(4, device="meta"), "meta device"),
        ({"inner": [torch.tensor(1)] * 4}, "'y.inner' is a list"),
    ],
)
def test_conditions_that_transport_cannot_read(cond, told):
    with pytest.raises(OdesolveError, match=told):
        transported(cond)


def test_several_conditions_in_a_list_stay_several():
    assert transported([LABELS, LABELS]) == transported(LABELS)


@rows("answer", [lambda z: z[:1], lambda z: None, lambda z: z.double(), lambda z: z[:, :2]])
@rows("cond", [None, {"y": LABELS}])
def test_couplings_that_answer_something_else(answer, cond):
    loss = obj.Matching(model(), coupling=lambda x, noise, generator=None: answer(noise))
    with pytest.raises(OdesolveError, match="coupling returned"):
        loss(X, cond=cond)


@rows(
    ("law", "t"),
    [
        (times.Uniform(0.2, 0.7), 0.1),
        (times.LogitNormal(), 0.0),
        (times.LogitNormal(), 1.0),
        (times.LogNormal(), 1.0),
    ],
)
def test_importance_where_a_law_has_no_density(law, t):
    loss = obj.Matching(model(), times=law, importance=True)
    with pytest.raises(OdesolveError, match=f"t holds {t:g}, where the factor of importance"):
        loss(X, t=torch.full((4,), t))


def test_importance_inside_of_its_law():
    loss = obj.Matching(model(), times=times.Uniform(0.2, 0.7), importance=True)
    terms = loss(X, t=torch.full((4,), 0.5))
    assert torch.allclose(terms.each, terms.raw * 0.5, rtol=1e-6)


STRANGE = [
    torch.zeros(4, 3, device="meta"),
    torch.zeros(4, 3).to_sparse(),
    np.zeros((4, 3)),
    [[0.0] * 3] * 4,
    0.0,
]


@rows("noise", STRANGE)
@rows(
    "call",
    [
        lambda z: obj.Matching(model())(X, noise=z),
        lambda z: obj.TwoSided(model(), 0.1)(X, X, noise=z),
        lambda z: obj.DenoisingScoreMatching(model(ode.paths.VP(), "score"))(X, noise=z),
        lambda z: obj.TrigConsistency(model(ode.paths.Trig(), "v"))(X, noise=z),
        lambda z: bridges.BridgeMatching(model(), 1.0)(X, z),
    ],
)
def test_noise_that_is_no_dense_tensor(noise, call):
    with pytest.raises(OdesolveError, match=r"noise is|the data are|layout"):
        call(noise)


@rows(
    "t",
    [
        torch.full((4,), 0.5 + 0j),
        torch.rand(4, device="meta"),
        torch.rand(4).to_sparse(),
        np.full(4, 0.5),
        [0.5] * 4,
    ],
)
@rows("loss", [obj.Matching(model()), obj.DenoisingScoreMatching(model(ode.paths.VP(), "score"))])
def test_times_that_are_no_dense_real_tensor(t, loss):
    with pytest.raises(OdesolveError, match=r"^t(=| is)"):
        loss(X, t=t)


@rows(
    "x",
    [
        torch.zeros(4, 3, device="meta"),
        X.to_sparse(),
        X.to(torch.float8_e4m3fn),
        X.half(),
        X.bfloat16(),
    ],
)
@rows("coupling", [None, "ot"])
def test_data_that_are_no_dense_floats(x, coupling):
    with pytest.raises(OdesolveError, match="the data"):
        obj.Matching(model(), coupling=coupling)(x)


@rows("cond", [[1], "cat", torch.ones(4), {0: torch.ones(4)}])
def test_conditions_without_names(cond):
    with pytest.raises(OdesolveError, match="cond is"):
        obj.Matching(model())(X, cond=cond)


def test_generators_of_numpy():
    with pytest.raises(OdesolveError, match=r"give a torch\.Generator"):
        obj.Matching(model())(X, generator=np.random.default_rng(0))


def test_complex_weights_and_uncertainties():
    with pytest.raises(OdesolveError, match=r"the weight returned torch\.complex128"):
        obj.Matching(model(), weight=lambda path, t: t * 1j)(X)
    with pytest.raises(OdesolveError, match=r"uncertainty returned torch\.complex128"):
        obj.Matching(model(), uncertainty=lambda t: t * 1j)(X)


@rows("mask", [torch.ones(4, 3, device="meta"), torch.ones(4, 3).to_sparse()])
def test_masks_without_numbers_in_a_row(mask):
    with pytest.raises(OdesolveError, match="mask is"):
        obj.Matching(model())(X, mask=mask)


@rows(
    ("value", "null"),
    [
        (torch.randn(4, 3), 1j),
        (torch.randn(4, 3).half(), 1e6),
        (torch.randn(4, 3), torch.tensor(1e300, dtype=torch.float64)),
        (torch.eye(4).to_sparse(), 0.0),
        (torch.arange(4, device="meta"), 9),
    ],
)
def test_nulls_that_a_condition_cannot_hold(value, null):
    with pytest.raises(OdesolveError, match=r"cannot hold its null|dense tensor"):
        dropped({"y": value}, {"y": null}, 0.5)


@rows(
    ("value", "null"),
    [(torch.randn(4).half(), 0.1), (torch.randn(4), float("inf")), (torch.randn(4) + 0j, 1j)],
)
def test_nulls_to_rounding_and_infinite_on_purpose(value, null):
    assert torch.equal(dropped({"y": value}, {"y": null}, 1.0)["y"], torch.full_like(value, null))
