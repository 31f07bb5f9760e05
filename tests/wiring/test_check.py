"""``ode.check`` on exact networks, whose right reading is known: what is right passes, what is
wrong is named."""

import json
import math

import pytest
import torch

import odesolve as ode
from odesolve.wiring.readings import Wiring
from tests.products import LONG
from tests.rows import rows

PATHS = {
    "vp": ode.paths.VP(),
    "linear": ode.paths.Linear(),
    "flow": ode.paths.Linear().flipped(),
    "edm": ode.paths.EDM(),
}
RING = [[1.5 * math.cos(k * math.pi / 4), 1.5 * math.sin(k * math.pi / 4)] for k in range(8)]
PROBLEM = ode.problems.mixture([1 / 8] * 8, RING, std=0.15)
DATA = PROBLEM.sample(900, seed=5)


def network(path, predicts, scale=1.0):
    told = PROBLEM.model(path, predicts).net
    return lambda x, t: told(x, t / scale)


def aspects(found):
    return {f.about for f in found.findings if f.verdict == "wrong"}


@rows(
    ("path", "predicts", "scale"),
    [
        ("vp", "noise", 1.0),
        ("linear", "velocity", 1000.0),
        ("edm", "edm", 1.0),
        *[("vp", "score", 1000.0), ("flow", "velocity", 1.0), ("flow", "data", 1.0)] * LONG,
    ],
)
def test_what_is_right_passes(path, predicts, scale):
    model = ode.Model(
        network(PATHS[path], predicts, scale), PATHS[path], predicts, time_scale=scale
    )
    found = ode.check(model, DATA)
    assert found.ok, found
    assert found.status == "right", found
    assert found.best.wiring == Wiring.of(model)
    assert found.best is found.declared


OPPOSITE = [  # the mistakes below, the other way round
    (("vp", "noise", 1.0), ("vp", "data", 1.0), {"prediction"}, 'predicts="noise"'),
    (
        ("linear", "velocity", 1.0),
        ("flow", "velocity", 1.0),
        {"direction"},
        "ode.paths.Linear()",
    ),
    (("vp", "noise", 1.0), ("vp", "noise", 1000.0), {"time"}, 'time="t", time_scale=1'),
]


@rows(
    ("true", "declared", "about", "typed"),
    [
        (("vp", "v", 1.0), ("vp", "noise", 1.0), {"prediction"}, 'predicts="v"'),
        (
            ("flow", "velocity", 1.0),
            ("linear", "velocity", 1.0),
            {"direction"},
            "ode.paths.Linear().flipped()",
        ),
        (
            ("linear", "velocity", 1000.0),
            ("linear", "velocity", 1.0),
            {"time"},
            'time="t", time_scale=1000',
        ),
        (("vp", "noise", 1.0), ("linear", "noise", 1.0), {"path"}, "ode.paths.VP()"),
        (
            ("flow", "velocity", 1000.0),
            ("linear", "data", 1000.0),
            {"direction", "prediction"},
            None,
        ),
        *OPPOSITE * LONG,
    ],
)
def test_what_is_wrong_is_named(true, declared, about, typed):
    (path, predicts, scale), (said, as_, by) = true, declared
    model = ode.Model(network(PATHS[path], predicts, scale), PATHS[said], as_, time_scale=by)
    found = ode.check(model, DATA)
    assert found.status == "wrong"
    assert aspects(found) == about | {"model"}, found
    assert found.best.wiring == Wiring(PATHS[path], predicts, "t", scale)
    if typed is not None:
        (one,) = about
        assert found[one].typed == typed
    assert str(found.best.wiring) == found["model"].typed
    t = float(found.model.path.t_of_rho(0.5))
    expected = PROBLEM.data(DATA, PATHS[path], t)
    torch.testing.assert_close(found.model.data(DATA, t), expected, rtol=1e-4, atol=1e-4)


def test_a_negated_network():
    net = network(ode.paths.Linear(), "velocity")
    found = ode.check(ode.Model(lambda x, t: -net(x, t), ode.paths.Linear(), "velocity"), DATA)
    assert aspects(found) == {"sign", "model"}
    assert found["model"].typed.startswith("ode.Model(lambda x, t: -net(x, t)")


@pytest.mark.long
def test_an_odd_time_scale():
    found = ode.check(
        ode.Model(network(ode.paths.VP(), "noise", 100.0), ode.paths.VP(), "noise"), DATA
    )
    assert aspects(found) == {"time", "model"}
    assert found["time"].typed == 'time="t", time_scale=100'


def test_readings_of_one_sampler_are_listed_and_not_wrong():
    table = ode.paths.Discrete.ddpm()
    found = ode.check(ode.Model(network(ode.paths.VP(), "noise"), table, "noise", time="t"), DATA)
    assert found.ok
    assert any(f.wiring.path == ode.paths.VP() for f in found.same)


def test_tables_by_index():
    table = ode.paths.Discrete.stable_diffusion()
    told = PROBLEM.model(table, "noise").net
    asked = []

    def net(x, t):
        asked.append(float(t[0]))
        return told(x, (t + 1) / 1000)

    assert ode.check(ode.Model(net, table, "noise"), DATA).status == "right"
    assert all(t == round(t) for t in asked[:4])
    found = ode.check(ode.Model(net, table, "v"), DATA)
    assert aspects(found) == {"prediction", "model"}


@pytest.mark.long
def test_right_without_data():
    net = network(ode.paths.Linear().flipped(), "velocity")
    right = ode.check(
        ode.Model(net, ode.paths.Linear().flipped(), "velocity"), noise=(128, 2), seconds=20
    )
    assert right.ok
    assert right.status == "unknown"
    assert right["data"].verdict == "unknown"


@pytest.mark.long
def test_wrong_without_data():
    net = network(ode.paths.Linear().flipped(), "velocity")
    wrong = ode.check(ode.Model(net, ode.paths.Linear(), "velocity"), noise=(128, 2), seconds=20)
    assert wrong["direction"].typed == "ode.paths.Linear().flipped()"
    assert wrong["data"].verdict == "unknown"


def test_a_negated_network_without_data():
    net = network(ode.paths.VP(), "noise")
    found = ode.check(
        ode.Model(lambda x, t: -net(x, t), ode.paths.VP(), "noise"), noise=(128, 2), seconds=5
    )
    assert found["sign"].verdict == "wrong", found
    assert found["prediction"].verdict == "right"
    assert found["data"].verdict == "unknown"


def test_a_gaussian_cloud_does_not_show_training():
    cloud = ode.problems.gaussian([0.0, 0.0], std=1.0)
    found = ode.check(cloud.model(ode.paths.VP(), "v"), cloud.sample(400))
    assert found["training"].verdict == "unknown"
    assert found.ok


# The command line's tests have a right network without data in the short suite.
CLOUDS = [("linear", "data"), ("edm", "edm"), ("vp", "noise"), ("flow", "velocity")]


@pytest.mark.long
@pytest.mark.parametrize(("path", "predicts"), CLOUDS)
def test_gaussian_clouds_without_data(path, predicts):
    cloud = ode.problems.gaussian([0.3, -0.2], std=0.5)
    found = ode.check(cloud.model(PATHS[path], predicts), noise=(128, 2))
    assert found.ok, found
    assert found.status == "unknown"
    assert found["training"].verdict == "unknown"


def test_conditions_are_those_of_the_rows():
    """Two classes that a network tells apart by its label alone: labels of other rows would not
    fit."""
    parts = [ode.problems.gaussian([c, c], std=0.3) for c in (-1.0, 1.0)]
    labels = torch.arange(400) % 2
    drawn = torch.stack([p.sample(400, seed=3) for p in parts])
    data = drawn[labels, torch.arange(400)]
    path = ode.paths.VP()

    def net(x, t, y):
        says = [p.noise(x, path, t) for p in parts]
        return torch.where(y[:, None] == 0, *says)

    model = ode.Model(net, path, "noise").given(y=labels)
    found = ode.check(model, data)
    assert found.ok
    mixed = ode.check(ode.Model(net, path, "noise").given(y=1 - labels), data)
    assert mixed.best.excess > found.best.excess + 0.5


def test_guidance_is_left_out():
    net = network(ode.paths.VP(), "noise")
    model = ode.Model(lambda x, t, y=None: net(x, t), ode.paths.VP(), "noise").guided(
        7.0, {"y": 1}, {"y": 0}
    )
    assert ode.check(model, DATA).ok


def test_result_as_json_table_and_picture(tmp_path):
    found = ode.check(ode.Model(network(ode.paths.VP(), "noise"), ode.paths.VP(), "v"), DATA)
    told = json.loads(found.to_json(tmp_path / "check.json"))
    assert told == json.loads((tmp_path / "check.json").read_text())
    assert told["status"] == "wrong"
    assert told["best"][0]["reading"] == 'ode.Model(net, ode.paths.VP(), predicts="noise")'
    assert told["calls"] == found.calls > 0
    assert 'predicts="noise"' in found.table(1)
    found.plot(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 5000
    with pytest.raises(ode.OdesolveError, match="give a file name"):
        found.plot("check.txt")


def test_what_time_is_short_for_is_said():
    found = ode.check(
        ode.Model(network(ode.paths.VP(), "noise"), ode.paths.VP(), "noise"), DATA, seconds=1e-3
    )
    assert "left out" in found["time spent"].says
    assert found.best is not None


@rows(
    ("arguments", "message"),
    [
        ({}, "give data="),
        ({"data": DATA, "noise": (4, 2)}, "give data="),
        ({"data": DATA[0]}, "shape"),
        ({"data": DATA[:2]}, "at least 4"),
        ({"data": DATA.to(torch.complex64)}, "complex"),
        ({"data": DATA * math.nan}, "NaN"),
        ({"data": torch.ones(8, 2)}, "the same"),
        ({"data": "x.npz"}, "data is str"),
        ({"data": DATA, "seconds": 0}, "seconds=0"),
        ({"data": DATA, "seconds": True}, "seconds=True"),
        ({"data": torch.zeros(8, 2, 3).normal_()}, "cannot be called with data of shape"),
    ],
)
def test_errors_at_the_door(arguments, message):
    layer = torch.nn.Linear(2, 2)
    model = ode.Model(
        lambda x, t: x + layer(x) + torch.zeros(2) * x.reshape(len(x), 2), ode.paths.VP(), "noise"
    )
    with pytest.raises(ode.OdesolveError, match=message):
        ode.check(model, **arguments)
    with pytest.raises(ode.OdesolveError, match="give an ode"):
        ode.check(layer, DATA)
