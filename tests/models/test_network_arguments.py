"""What the network is called with: its time, its dtype, its keyword arguments."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import OdesolveError
from tests.rows import rows


class Spy:
    """Remembers every call and answers with zeros."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, **cond):
        self.calls.append((x, t, cond))
        return torch.zeros_like(x)

    @property
    def times(self):
        return [t for _, t, _ in self.calls]


DDPM = paths.Discrete.ddpm()
TIMES = [
    ("t", paths.VP(), {}, 0.25, 0.25),
    ("t scaled", paths.Linear(), {"time_scale": 1000.0}, 0.25, 250.0),
    ("t of a flipped path", paths.Linear().flipped(), {}, 0.25, 0.25),
    ("index by default on a table", DDPM, {}, 0.25, 249.0),
    ("index of a flipped table", DDPM, {"time": "index"}, 1.0, 999.0),
    ("t on a table", DDPM, {"time": "t", "time_scale": 1000.0}, 0.25, 250.0),
    ("sigma", paths.EDM(), {"time": "sigma"}, 40.0, 40.0),
    ("sigma/alpha", paths.Linear(), {"time": "sigma"}, 0.25, 1 / 3),
    ("c_noise", paths.Linear(), {"time": "c_noise"}, 0.5, 0.0),
    ("function", paths.VP(), {"time": lambda path, t: 7 * path.alpha(t) ** 0 + t}, 0.25, 7.25),
]


@rows(("path", "options", "t", "want"), [c[1:] for c in TIMES], ids=[c[0] for c in TIMES])
def test_time(path, options, t, want):
    net = Spy()
    model = ode.Model(net, path, "v", **options)
    model.data(torch.zeros(3, 2), t)
    model.data(torch.zeros(3, 2), torch.full((3,), t))
    model.data(torch.zeros(3, 2, dtype=torch.float64), torch.full((3,), t, dtype=torch.float64))
    ode.sample(model, state=torch.zeros(3, 2), solver="ddim", grid=[t, path.t_data], progress=False)
    assert [tuple(v.shape) for v in net.times] == [(3,)] * 4
    assert [v.dtype for v in net.times] == [
        torch.float32,
        torch.float32,
        torch.float64,
        torch.float32,
    ]
    for got in net.times:
        assert got.tolist() == pytest.approx([want] * 3, rel=1e-6, abs=1e-7)


@rows("dtype", [torch.float32, torch.float64])
@rows("length", [7, 100, 999, 1000])
def test_indices_are_whole_numbers(length, dtype):
    """29/100 * 100 is not 29 in floating point, and the network may look its embedding up with
    t.long()."""
    path = paths.Discrete([1 - (i + 1) / (length + 1) for i in range(length)])
    net = Spy()
    model = ode.Model(net, path, "noise")
    t = torch.arange(1, length + 1, dtype=torch.float64) / length
    model.data(torch.zeros(length, 1, dtype=dtype), t.to(dtype))
    assert net.times[0].long().tolist() == list(range(length))
    steps = min(length, 10)
    ode.sample(model, torch.zeros(1, 1, dtype=dtype), "ddim", steps, "trailing", progress=False)
    assert all(v.item() == round(v.item()) for v in net.times[1:])
    half = model.network_times(torch.tensor([0.5 / length], dtype=dtype))
    assert half.item() == pytest.approx(-0.5, abs=1e-4)


def test_snapping_is_the_default_on_a_table_and_can_be_turned_off():
    for snap, whole in ((None, True), (True, True), (False, False)):
        net = Spy()
        ode.sample(
            ode.Model(net, DDPM, "v", snap=snap),
            torch.zeros(1, 1),
            "ddim",
            7,
            "lambda",
            progress=False,
        )
        assert all(t.item() == round(t.item()) for t in net.times) == whole


class Half(torch.nn.Module):
    """A bfloat16 network that refuses anything else, and remembers its times."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4, dtype=dtype)
        self.seen = []

    def forward(self, x, t):
        self.seen.append((x.dtype, t.dtype))
        assert x.dtype == self.layer.weight.dtype
        return self.layer(x)


@rows("dtype", [torch.bfloat16, torch.float16])
@rows("path", [paths.VP(), paths.EDM()], ids=str)
@rows("solver", ["dpmpp_2m", "heun", "unipc_2"])
def test_half_network_under_a_float32_state(dtype, path, solver):
    net = Half(dtype)
    model = ode.Model(net, path, "v")
    assert model.dtype == dtype
    out = ode.sample(model, torch.randn(3, 4), solver, 4)
    assert out.dtype == torch.float32
    assert set(net.seen) == {(dtype, torch.float32)}
    assert model.data(torch.randn(3, 4), 0.5).dtype == torch.float32
    assert (
        model.data(torch.randn(3, 4, dtype=dtype), torch.full((3,), 0.5, dtype=dtype)).dtype
        == dtype
    )
    assert set(net.seen) == {(dtype, torch.float32)}
    assert ode.sample(model, torch.randn(3, 4, dtype=dtype), solver, 4).dtype == torch.float32


def test_dtype_can_be_given():
    seen = []

    def net(x, t):
        seen.append(x.dtype)
        return x

    model = ode.Model(net, paths.VP(), "v", dtype=torch.bfloat16)
    ode.sample(model, torch.randn(2, 3), "ddim", 2, progress=False)
    assert set(seen) == {torch.bfloat16}


def test_float64_noise_keeps_a_float64_solve():
    seen = []

    def net(x, t):
        seen.append((x.dtype, t.dtype))
        return x

    out = ode.sample(
        ode.Model(net, paths.VP(), "v"), torch.randn(2, 3, dtype=torch.float64), "ddim", 2
    )
    assert out.dtype == torch.float64
    assert set(seen) == {(torch.float64, torch.float64)}


def test_keyword_arguments():
    net = Spy()
    label = torch.arange(2)
    model = ode.Model(net, paths.VP(), "v", cond={"label": label, "strength": 3})
    model.data(torch.zeros(2, 1), 0.5)
    ode.sample(model, torch.zeros(2, 1), "ddim", 2, progress=False)
    assert all(c == {"label": label, "strength": 3} for _, _, c in net.calls)


def test_a_time_function_is_asked_at_every_solve():
    """Unlike the named times, which are kept for a grid: what a function says may depend on more
    than its arguments."""
    factor, seen = [1.0], []

    def net(x, t):
        seen.append(float(t[0]))
        return 0.3 * x

    model = ode.Model(net, paths.VP(), "v", time=lambda path, t: factor[0] * t)
    for factor[0] in (1.0, 2.0):
        ode.sample(model, torch.zeros(2, 3), "ddim", 3)
    assert seen[3:] == pytest.approx([2.0 * t for t in seen[:3]])


def test_a_network_may_change_its_time_in_place():
    model = ode.Model(lambda x, t: 0.3 * x + t.mul_(2.0)[:, None], paths.VP(), "v")
    x = torch.ones(2, 3)
    assert torch.equal(ode.sample(model, x, "ddim", 3), ode.sample(model, x, "ddim", 3))


@rows(
    ("state", "network"), [("float32", "float32"), ("float64", "float32"), ("float64", "float64")]
)
def test_the_time_comes_in_the_dtype_of_the_network(state, network):
    """An embedding t[:, None] * frequencies of another dtype would not fit the network's own
    layers."""
    state, network = getattr(torch, state), getattr(torch, network)
    seen = []
    layer = torch.nn.Linear(2, 2).to(network)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, t):
            seen.append(t.dtype)
            return self.layer(x) * t[:, None]

    model = ode.Model(Net(), ode.paths.VP(), "noise")
    x = torch.zeros(3, 2, dtype=state)
    model.data(x, 0.5), model.score(x, torch.full((3,), 0.5)), ode.sample(model, x, steps=2)
    assert set(seen) == {network}


@rows(
    ("label", "said"),
    [
        (torch.zeros(3, dtype=torch.long), "y has 3 rows for 2 samples: give one for each sample"),
        (1, "y: give a tensor with one number for each sample"),
        (None, r"conditions come from model\.given\(\.\.\.\)"),
    ],
)
def test_conditions_that_do_not_fit_are_named(label, said):
    """The network's own error speaks of its layers, and t is not what is wrong."""
    table = torch.zeros(4, 2)
    net = lambda x, t, y=None: x + torch.nn.functional.embedding(y, table)
    model = ode.Model(net, paths.VP(), "noise", cond={} if label is None else {"y": label})
    with pytest.raises(OdesolveError, match=said):
        ode.sample(model, torch.zeros(2, 2), "ddim", 2)


@rows("label", [1, [1, 1], (1, 1)])
@rows("where", ["cond", "uncond"])
def test_labels_of_guidance_that_are_no_tensors_are_named(label, where):
    table = torch.zeros(4, 2)
    model = ode.Model(
        lambda x, t, y: x + torch.nn.functional.embedding(y, table), paths.VP(), "noise"
    )
    labels = {
        "cond": torch.ones(2, dtype=torch.long),
        "uncond": torch.ones(2, dtype=torch.long),
        where: label,
    }
    guided = model.guided(2.0, *({"y": labels[k]} for k in ("cond", "uncond")))
    with pytest.raises(OdesolveError, match="y: give a tensor with one number for each sample"):
        ode.sample(guided, torch.zeros(2, 2), "ddim", 2)
