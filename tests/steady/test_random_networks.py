"""Networks that are random, or that change as they are asked: found out, refused or warned of, at
every entry point."""

from __future__ import annotations

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.functions.steadiness import Steady, draws
from odesolve.integrations import k_diffusion as K
from odesolve.integrations import torchdiffeq, torchsde
from tests.products import LONG
from tests.rows import rows

X = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
REFUSED = "answers differently to the same question"
VP = ode.paths.VP()
TIMES = torch.tensor([0.0, 1.0])


class Net(nn.Module):
    """A network of x and t whose middle layer is given; ``calls`` counts rows it was asked
    about."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.calls = (
            nn.Sequential(nn.Linear(3, 16), nn.Tanh(), layer, nn.Linear(16, 2)),
            0,
        )

    def forward(self, x, t):
        self.calls += len(x)
        return self.layers(torch.cat([x, t.reshape(-1, 1).to(x).expand(len(x), 1)], 1))


def dropout(train=True, layer=None):
    return Net(nn.Dropout(0.3) if layer is None else layer).train(train)


def functional(x, t):
    return torch.dropout(x, 0.3, True) + 0 * t.reshape(-1, 1)


def own_generator():
    """Random numbers that no global generator shows."""
    g = torch.Generator().manual_seed(0)
    return lambda x, t: x * torch.rand(x.shape, generator=g) + 0 * t.reshape(-1, 1)


def model(net, predicts="noise", path=VP):
    return ode.Model(net, path, predicts)


DENSITIES = {
    "nodes": {},
    "along": {"divergence": "along"},
    "picard": {"solver": "picard"},
    "steps": {"steps": 8},
    "plan": {"of": "plan", "steps": 5},
    "hutchinson": {"trace": "hutchinson"},
    "forward": {"trace": ode.trace.Exact("forward")},
    "forward along": {"trace": ode.trace.Exact("forward"), "divergence": "along"},
    "forward steps": {"trace": ode.trace.Exact("forward"), "steps": 4},
    "backprop": {"adjoint": "backprop"},
    "continuous": {"adjoint": "continuous"},
    "reversible": {"adjoint": "reversible", "steps": 4, "solver": "midpoint"},
}


@rows("net", [dropout(), functional, own_generator()], ids=["module", "functional", "own"])
@rows("way", DENSITIES)
def test_densities_of_random_networks_are_refused(way, net):
    options = DENSITIES[way]
    if way != "reversible":  # of velocities alone
        with pytest.raises(OdesolveError, match=f"the network {REFUSED}.*call net.eval"):
            ode.log_prob(model(net), X, **options)
    if not {"of", "solver"} & set(options) or way == "reversible":
        with pytest.raises(OdesolveError, match=f"f {REFUSED}"):
            ode.log_prob(
                lambda t, x: net(x, t),
                X,
                **{"solver": "rk4", **options} if way == "steps" else options,
            )


@rows("path", [VP, ode.paths.EDM(), ode.paths.Linear(), VP.flipped()], ids=repr)
@rows("predicts", ["noise", "data", "v", "velocity"])
def test_raw_answers_are_compared_whatever_the_path_makes_of_them(path, predicts):
    """At an end of the path little of the network's answer may be left in the field."""
    for net in (dropout(), own_generator()):
        with pytest.raises(OdesolveError, match=REFUSED):
            ode.log_prob(model(net, predicts, path), X)
        with pytest.raises(OdesolveError, match=REFUSED):
            ode.solve(model(net, predicts, path), X, (0.9 * path.t_max, 0.5 * path.t_max))


@pytest.mark.filterwarnings("ignore:the latents are")  # those of a network that nobody trained
@rows("way", DENSITIES if LONG else ["nodes", "along", "picard", "steps", "plan", "reversible"])
def test_the_repeated_call_is_counted(way):
    net = dropout(False)
    options = dict(DENSITIES[way])
    if way.startswith("forward"):
        options["trace"] = ode.trace.Exact("reverse")  # which evaluates once an evaluation
    if way in ("continuous", "backprop", "reversible") or options.get("of") == "plan":
        options["adjoint"] = None if way != "plan" else options.get("adjoint")
        options = {k: v for k, v in options.items() if v is not None}
    found = ode.log_prob(
        (lambda t, x: net(x, t)) if way == "reversible" else model(net), X, **options
    )
    assert found.ok
    # where DDIM's calls are of all samples
    assert int(found.nfe.sum()) == net.calls or way == "plan"


SOLVES = {
    "dopri5": {},
    "kvaerno3": {"solver": "kvaerno3"},
    "steps": {"solver": "rk4", "steps": 4},
    "events": {"events": ode.Event(lambda t, y: y[:, 0] - 100.0)},
    "dense": {"dense": True},
    "backprop": {"adjoint": "backprop"},
    "continuous": {"adjoint": "continuous"},
    "reversible": {"adjoint": "reversible", "steps": 4, "solver": "rk4"},
}
SOURCES = {
    "torch": lambda y: torch.randn_like(y),
    "numpy": lambda y: torch.from_numpy(np.random.rand(*y.shape)).to(y),
    "python": lambda y: y * random.random(),
    "dropout": lambda y: torch.dropout(y + 1, 0.5, True),
    "rrelu": nn.RReLU(0.1, 0.9),
}


@rows("source", SOURCES)
@rows("way", SOLVES)
def test_solves_of_random_functions_are_refused(way, source):
    noise = SOURCES[source]
    with pytest.raises(OdesolveError, match=f"f {REFUSED}.*before the solve"):
        ode.solve(lambda t, y: -y.abs() - noise(-y.abs()), X, **SOLVES[way])


@rows("form", [tuple, dict])
def test_states_of_several_tensors(form):
    y0 = form([("a", X), ("b", X)]) if form is dict else (X, X)
    rate = (lambda t, y: {k: torch.rand_like(v) for k, v in y.items()}) if form is dict else (
        lambda t, y: tuple(torch.rand_like(v) for v in y)
    )  # fmt: skip
    with pytest.raises(OdesolveError, match=REFUSED):
        ode.solve(rate, y0)


@rows("solver", ["dpm_solver_23", "kvaerno3"] + ["dopri5"] * LONG)
def test_adaptive_solves_of_a_model_ask_twice(solver):
    for net in (dropout(), functional, own_generator()):
        with pytest.raises(OdesolveError, match=f"the network {REFUSED}"):
            ode.solve(model(net), X, (1.0, 0.5), solver)
    steady = dropout(False)
    found = ode.solve(model(steady), X, (1.0, 0.5), solver)
    assert found.ok
    assert solver == "kvaerno3" or int(found.nfe.sum()) == steady.calls


def test_a_function_that_draws_and_answers_the_same_is_solved():
    """It costs three evaluations more, which count; one that draws nothing costs none."""

    def drawing(t, y):
        torch.rand(1)
        return -y

    plain, other = (ode.solve(f, X) for f in (lambda t, y: -y, drawing))
    assert torch.equal(plain.y, other.y)
    assert torch.equal(plain.nfe + 3, other.nfe)


def test_functions_in_place_and_on_one_buffer_are_no_random_ones():
    buffer = torch.empty_like(X)

    def reused(t, y):
        torch.rand(1)
        return buffer.copy_(-y)

    asked = Steady(lambda t, y: y.mul_(0.5), always=True)
    assert torch.equal(asked(0.0, X.clone()), 0.5 * X)
    asked = Steady(reused)
    assert torch.equal(asked(0.0, X), -X)
    assert asked.extra == 3


@rows("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_in_another_order_are_no_randomness(dtype):
    """An answer that moves by an ulp in some of its numbers; one that moves by a hundredth in all
    of them."""
    eps, flip = (
        torch.finfo(dtype).eps,
        torch.rand(64, generator=torch.Generator().manual_seed(0)) > 0.5,
    )
    answers = iter([torch.ones(64), torch.ones(64) + eps * flip, torch.ones(64), 1.0 + 0.2 * flip])
    f = lambda: next(answers).to(dtype)
    Steady(f, always=True)()
    with pytest.raises(OdesolveError, match=REFUSED):
        Steady(f, always=True)()


def test_nan_is_left_to_the_solve():
    assert ode.solve(lambda t, y: torch.rand(1) * 0 + torch.nan * y, X).status == ["diverged"] * 3


@rows("which", ["f", "g"])
@rows("way", ["steps", "adaptive", "backprop", "milstein"])
def test_stochastic_equations(which, way):
    f, g = (lambda t, y: -y), (lambda t, y: 0.1 + 0 * y)
    noisy = {"f": lambda t, y: -torch.rand_like(y), "g": lambda t, y: torch.rand_like(y)}
    pair = noisy["f"] if which == "f" else f, noisy["g"] if which == "g" else g
    options = {
        "steps": {"steps": 4},
        "adaptive": {"solver": "sra1", "noise": "additive", "rtol": 1e-2},
        "backprop": {"steps": 4, "adjoint": "backprop"},
        "milstein": {"steps": 4, "solver": "milstein"},
    }[way]
    with pytest.raises(OdesolveError, match=f"{which} {REFUSED}"):
        ode.solve_sde(*pair, X, seed=0, **options)
    assert ode.solve_sde(f, g, X, seed=0, **options).ok


@rows("method", ["dopri5", "bosh3", "adaptive_heun"])
@rows("grad", [False, True])
def test_torchdiffeq_adaptive(method, grad):
    net = dropout()
    for f in (lambda t, y: net(y, t), lambda t, y: torch.rand_like(y)):
        with torch.set_grad_enabled(grad), pytest.raises(OdesolveError, match=REFUSED):
            torchdiffeq.odeint(f, X.clone().requires_grad_(grad), TIMES, method=method)
    with pytest.raises(OdesolveError, match=REFUSED):
        torchdiffeq.odeint_adjoint(functional_ode(), X, TIMES, method=method)


def functional_ode():
    class F(nn.Module):
        def forward(self, t, y):
            return torch.dropout(y, 0.3, True)

    return F()


def test_torchdiffeq_steps_of_one_size_run_with_a_warning():
    class F(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.3)

        def forward(self, t, y):
            return -self.drop(y)

    with pytest.warns(UserWarning, match="func has dropout in train mode"):
        found = torchdiffeq.odeint(F(), X, TIMES, method="rk4")
    assert bool(found.isfinite().all())


class Sde(nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def f(self, t, y):
        return -self.drop(y)

    def g(self, t, y):
        return 0.1 + 0 * y


def test_torchsde():
    sde, ts = Sde(), [0.0, 0.5]
    with pytest.raises(OdesolveError, match=REFUSED):
        torchsde.sdeint(sde, X, ts, adaptive=True, dt=0.1)
    with pytest.raises(OdesolveError, match=REFUSED):
        torchsde.sdeint_adjoint(sde, X, ts, dt=0.1)
    with pytest.warns(UserWarning, match="sde has dropout in train mode"):
        torchsde.sdeint(sde, X, ts, dt=0.1)
    assert torchsde.sdeint(sde.eval(), X, ts, adaptive=True, dt=0.1).shape == (2, 3, 2)


SAMPLED = {
    "sample": lambda m: ode.sample(m, X, "ddim", 3),
    "iterate": lambda m: list(ode.iterate(m, X, "ddim", 3)),
    "invert": lambda m: ode.invert(m, X, "ddim", 3),
    "sdedit": lambda m: ode.sdedit(m, X, 0.5, "ddim", 3, seed=0),
    "profile": lambda m: ode.profile(
        m, ["ddim"], nfe=[2], noise=X, reference=X, timing=0, progress=False
    ),
    "elbo": lambda m: ode.elbo(m, X, steps=3, seed=0),
    "sampler": lambda m: ode.sample(m, (2, 2), "sde_dpmpp_1", 3, seed=0),
}


@rows("entry", SAMPLED)
def test_sampling_warns_of_layers_in_train_mode(entry):
    call = SAMPLED[entry]
    for layer, told in (
        (nn.Dropout(0.3), "dropout in train mode"),
        (nn.BatchNorm1d(16), "BatchNorm in train mode"),
    ):
        with pytest.warns(UserWarning, match=told) as seen:
            call(model(dropout(layer=layer)))
        assert len([w for w in seen if told in str(w.message)]) == 1
    for quiet in (
        dropout(False),
        dropout(layer=nn.Dropout(0.0)),
        dropout(layer=nn.LayerNorm(16)),
        Net(nn.Tanh()),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(model(quiet))


OTHERS = {
    "log_prob": lambda net: ode.log_prob(model(net), X, steps=3),
    "solve": lambda net: ode.solve(model(net), X, (1.0, 0.9), rtol=1e-2),
    "log_prob f": lambda net: ode.log_prob(Flow(net), X, steps=3, solver="rk4"),
    "solve f": lambda net: ode.solve(Flow(net), X, steps=2, solver="rk4"),
    "solve_sde": lambda net: ode.solve_sde(Flow(net), 0.1, X, steps=2, noise="additive", seed=0),
    "odeint": lambda net: torchdiffeq.odeint(Flow(net), X, TIMES, method="euler"),
    "langevin": lambda net: ode.langevin(Still(net), X, 0.1, 2, seed=0),
    "k-diffusion": lambda net: K.sampling.sample_euler(
        net, X, torch.tensor([1.0, 0.5, 0.0]), disable=True
    ),
}


class Flow(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, x):
        return self.net(x, t)


class Still(Flow):
    def forward(self, x):
        return self.net(x, x[:, :1])


@pytest.mark.filterwarnings("ignore:the latents are")  # those of a network that nobody trained
@rows("entry", OTHERS)
def test_statistics_that_change_are_warned_of_everywhere(entry):
    # Samples that see each other have no densities of their own, which is an error besides.
    refused = entry.startswith("log_prob")
    fails = (
        pytest.raises(OdesolveError, match=r"net\.eval\(\)")
        if refused
        else contextlib.nullcontext()
    )
    with (
        fails,
        pytest.warns(
            UserWarning, match="BatchNorm in train mode, whose statistics every evaluation changes"
        ),
    ):
        OTHERS[entry](dropout(layer=nn.BatchNorm1d(16)))
    OTHERS[entry](dropout(False, layer=nn.BatchNorm1d(16)))


@rows(
    "options",
    [
        {"log_prob": "flow"},
        {"log_prob": "plan"},
        {"log_prob": "ito", "solver": "sde_dpmpp_1"},
        {"adjoint": "backprop"},
        {"executor": ode.Window(size=4)},
    ],
    ids=lambda options: "-".join(options),
)
def test_samples_that_need_the_same_answers_again(options):
    options = {"solver": "ddim", **options}
    for net in (dropout(), functional):
        with pytest.raises(OdesolveError, match=REFUSED):
            ode.sample(model(net), X, steps=4, seed=0, **options)
    ode.sample(model(dropout(False)), X, steps=4, seed=0, **options)


def test_k_diffusion_adaptive():
    def noisy(x, sigma):
        return x * torch.rand_like(x)

    with pytest.raises(OdesolveError, match=f"the model {REFUSED}"):
        K.sampling.sample_dpm_adaptive(noisy, X, 0.1, 10.0, disable=True)
    quiet = lambda x, sigma: torch.tanh(x)
    out, info = K.sampling.sample_dpm_adaptive(quiet, X, 0.1, 10.0, disable=True, return_info=True)
    assert "status" not in info
    with pytest.warns(UserWarning, match="ended at max_calls=7"):
        out, info = K.sampling.sample_dpm_adaptive(
            quiet, X, 0.1, 10.0, disable=True, return_info=True, max_calls=7
        )
    assert (info["status"], info["nfe"]) == ("max_calls", 6)
    assert bool(out.isfinite().all())


@rows(
    ("layer", "drawn"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout2d(0.1), True),
        (nn.AlphaDropout(0.1), True),
        (nn.RReLU(), True),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.GRU(4, 4, 2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2), True),
        (nn.Dropout(0.0), False),
        (nn.MultiheadAttention(4, 2), False),
        (nn.LSTM(4, 4), False),
        (nn.BatchNorm1d(4), False),
    ],
    ids=str,
)
def test_layers_that_draw(layer, drawn):
    assert draws(nn.Sequential(layer)) == drawn
    assert draws(layer.forward) == drawn
    assert not draws(layer.eval())
