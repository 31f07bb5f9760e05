"""Numbers out of range, of another type or with nothing to say, at the doors of everything that
takes one."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import paths, problems, trace
from odesolve.errors import OdesolveError
from odesolve.integrations.torchdiffeq import odeint
from tests.rows import rows

VP, NAN, INF = paths.VP(), math.nan, math.inf
Z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def net(x, t):
    return 0.5 * x


def minus(t, y):
    return -y


MODEL = ode.Model(net, VP, "noise")
PIXELS = torch.tensor([[1, 2, 3], [4, 5, 6]])
BAD = (NAN, "a", True, 1j, [0.5, 0.6])  # of no number
SOLVE = {
    "rtol": [-1, INF, None, torch.tensor([1.0, -1.0]), torch.tensor([NAN, 1.0]), *BAD],
    "atol": [-1, INF, None, torch.tensor([-1.0, 1.0]), *BAD],
    "first_step": [0, -1, INF, *BAD],
    "min_step": [-1, INF, None, *BAD],
    "max_step": [0, -1, *BAD],
    "max_steps": [0, -1, 1.5, None, *BAD],
    "max_calls": [0, -1, 1.5, *BAD],
    "sync": [0, -1, 1.5, *BAD],
    "dense": ["a", 3],
    "compact": ["a", None][:1],
    "args": [3, "a", None, Z],
    "controller": [3, "a", None],
    "t": [
        (0, NAN),
        (0, INF),
        (0,),
        3,
        (0, 0),
        (0, 1j),
        (1e15, 1e15 + 1),
        (1e17, 1e17 + 16),
        (1e300, 2e300),
    ],
}
LOG_PROB = {
    "t": [
        (2.0, 3.0),
        (0.0, 5.0),
        (-1.0, 1.0),
        (NAN, 1.0),
        (0.0, 0.0),
        (0.1, 1.5),
        (0.1, 1e15),
        (0.5, 1.0001),
        3,
    ],
    "tol": [0, -1, INF, *BAD],
    "products": [0, -1, 1.5, *BAD],
    "max_calls": [0, -1, 1.5, *BAD],
    "grid": ["karras", "nope", 3],
    "params": [[torch.ones(1, requires_grad=True)]],
    "args": [3, (1,)],
}
CHAINS = {
    "step": [0, -1, INF, torch.tensor([1.0, -1.0]), *BAD],
    "n": [-1, 1.5, None, *BAD],
    "keep": [0, -1, 1.5, *BAD],
}
BROWNIAN = {
    "shape": [(2, -1), (2, 1.5), "a", 3, (), None, (True, 2), (NAN,), [[2]]],
    "t": [(0, 0), (0, NAN), (0, INF), 3, "a", (0, 1, 2)],
    "depth": [0, 49, 1.5, *BAD],
    "area": ["a", 3],
    "device": ["nope"],
}
DISCRETE = {
    "levels": [0, 1, -1, 1.5, 2**70, *BAD],
    "low": [NAN, INF, 1.0, 2.0, "a", None],
    "high": [NAN, -1.0, "a"],
}
WINDOW = {
    "size": [0, -1, 1.5, *BAD],
    "tolerance": [0, -1, INF, None, *BAD],
    "stride": [0, -1, 1.5, *BAD],
    "spread": [-1, INF, None, *BAD],
    "acceleration": ["a", 3],
    "coarse": ["ddim", 3],
    "exact": ["a", 3],
}
PARAREAL = {
    "blocks": [0, 1, -1, 1.5, *BAD],
    "tolerance": [0, -1, INF, None, *BAD],
    "coarse": ["nope", 3],
    "exact": ["a"],
}
GRAPH = {
    "steps": [0, -1, 1.5, "a", True],
    "states": [0, 1.5, "a"],
    "streams": [-1, 1.5, "a"],
    "like": [3, None, Z.long()],
}
MODELS = {
    "time_scale": [0, -1, INF, None, *BAD],
    "sigma_data": [0, -1, INF, None, *BAD],
    "clip": [0, -1, INF, *BAD],
    "threshold": [0, -1, 2, *BAD],
    "dtype": ["float32", torch.int64, torch.complex64, 3],
    "snap": ["a", 3],
    "learned_variance": ["a", None],
    "cond": [3, "a", [1], {1: 2}],
}
INTERVALS = [
    (0.8, 0.2),
    (2.0, 3.0),
    (-2, -1),
    (NAN, 1),
    (0.2,),
    0.5,
    "ab",
    (0.2, 0.2),
    (None, 1.0),
    (0, 1, 2),
]
GUIDED = {"interval": INTERVALS, "scale": [INF, None, *BAD[:4]], "rescale": [2.0, -1, None, *BAD]}
ELBO = {
    "draws": [0, -1, 1.5, *BAD],
    "terms": [0, -1, 1.5, 10**6, *BAD],
    "levels": [0, 1, 1.5, *BAD],
    "evaluations": [0, 1.5, "a"],
}
SDE = {
    "rtol": [-1, INF, NAN, "a"],
    "first_step": [0, -1, NAN, "a"],
    "max_steps": [0, 1.5, "a"],
    "tree": ["a", 3, None],
    "dtype": ["a", torch.int32, torch.float16],
    "args": [3],
    "t": [(0, NAN), (0,), (0, 0), (1e17, 1e17 + 16)],
}


def shown(value):
    """A value in the name of a test: no addresses, which differ between processes."""
    return getattr(value, "__name__", None) or str(value).partition(" at 0x")[0][:24]


def swept(door, call, table):
    return [
        pytest.param(call, name, value, id=f"{door}-{name}-{shown(value)}")
        for name in table
        for value in table[name]
    ]


def guided(**given):
    return MODEL.guided(**{"scale": 2.0, "uncond": {}, **given})


def noisy(**given):
    return ode.solve_sde(
        minus,
        1.0,
        Z,
        **{"noise": "additive", "solver": "sra1", **given, "rtol": given.get("rtol", 0.1)},
    )


CASES = [
    *swept("solve", lambda **k: ode.solve(minus, Z, **k), SOLVE),
    *swept("solve_sde", noisy, SDE),
    *swept("log_prob", lambda **k: ode.log_prob(MODEL, Z, **k), LOG_PROB),
    *swept("elbo", lambda **k: ode.elbo(MODEL, Z, **k), ELBO),
    *swept(
        "langevin", lambda **k: ode.langevin(lambda x: -x, Z, **{"step": 0.1, "n": 2, **k}), CHAINS
    ),
    *swept(
        "mala",
        lambda **k: ode.mala(lambda x: -(x * x).sum(1), Z, **{"step": 0.1, "n": 2, **k}),
        CHAINS,
    ),
    *swept(
        "langevin", lambda **k: ode.langevin(lambda x: -x, Z, n=2, **k), {"snr": [0, -1, INF, *BAD]}
    ),
    *swept("BrownianPath", lambda **k: ode.BrownianPath(**{"shape": (2, 3), **k}), BROWNIAN),
    *swept(
        "dequantise", lambda **k: ode.dequantise(PIXELS, **k), {**DISCRETE, "draw": [-1, 1.5, *BAD]}
    ),
    *swept(
        "bits_per_dim",
        lambda **k: ode.bits_per_dim(MODEL, PIXELS, **k),
        {**DISCRETE, "draws": [0, 1.5, *BAD]},
    ),
    *swept("Window", lambda **k: ode.Window(**k), WINDOW),
    *swept("Parareal", lambda **k: ode.Parareal(**k), PARAREAL),
    *swept(
        "Graph",
        lambda **k: ode.Graph(**{"model": MODEL, "like": Z, **k}),
        {**GRAPH, "model": [3, net]},
    ),
    *swept("Model", lambda **k: ode.Model(net, VP, "noise", **k), MODELS),
    *swept("guided", guided, GUIDED),
    *swept(
        "classifier_guided",
        lambda **k: MODEL.classifier_guided(lambda x, t: x.sum(1), **k),
        {"scale": [INF, *BAD[:4]]},
    ),
    *swept(
        "sample",
        lambda **k: ode.sample(MODEL, Z, "ddim", 2, **k),
        {"executor": ["graph", ode.Window, 3]},
    ),
    *swept(
        "slerp",
        lambda **k: ode.slerp(Z, Z, **k),
        {"share": [NAN, INF, "a", 2.0, -1.0, [[0.5]], 1j, True, []]},
    ),
    *swept(
        "sdedit",
        lambda **k: ode.sdedit(MODEL, Z, steps=2, **k),
        {"t": [NAN, INF, "a", 0.0, 2.0, -1.0, 1e15]},
    ),
    *swept("Exact", trace.Exact, {"block": [0, -1, 1.5, 2**70, *BAD]}),
    *swept("Hutchinson", trace.Hutchinson, {"probes": [0, -1, 1.5, None, *BAD]}),
    *swept("Fourier", trace.Fourier, {"products": [0, -1, 1, 1.5, None, *BAD]}),
    *swept("HutchPP", trace.HutchPP, {"products": [0, -1, 4, 1.5, None, *BAD]}),
    *swept("XTrace", trace.XTrace, {"products": [0, -1, 3, 1.5, None, *BAD]}),
    *swept(
        "named",
        lambda **k: trace.named("hutchinson", 9, **k),
        {"products": [0, -1, 1.5, None, True, *BAD]},
    ),
    *swept("Auto", trace.Auto, {"products": [0, -1, 3, 1.5, None, *BAD]}),
    *swept(
        "Mixture",
        lambda **k: problems.gaussian(**{"std": 1.0, **k}),
        {"mean": [NAN, "a", 1j], "std": [NAN, -1, "a", 1j]},
    ),
]
PATHS = {
    "VP": ("beta_min", "beta_max"),
    "SubVP": ("beta_min", "beta_max"),
    "Cosine": ("offset",),
    "Linear": ("sigma_min",),
}
PATHS |= {"VE": ("sigma_min", "sigma_max"), "EDM": ("sigma_min", "sigma_max")}
CASES += [
    case
    for kind, names in PATHS.items()
    for case in swept(
        kind, getattr(paths, kind), {name: [-1, INF, None, 10**400, *BAD] for name in names}
    )
]
TABLES = [
    [0.9, -0.1],
    [0.9, -1e-9],
    [0.9, NAN],
    [1.5, 0.5],
    [0.5, 0.9],
    [0.9, 0.9],
    [1.0, 0.5],
    [],
    "a",
    3,
    [INF],
    [[0.9]],
    [1j],
]
CASES += swept(
    "Discrete",
    paths.Discrete,
    {"alphas_cumprod": [*TABLES, torch.tensor([0.9, 0.5], requires_grad=True)]},
)
CASES += swept(
    "Discrete",
    lambda **k: paths.Discrete([0.9, 0.5], **k),
    {"floor": [-1, 0, 1, None, *BAD], "label": [3, None]},
)
NAMED = {"progress", "snr", "share", "mean"}


@rows(("call", "name", "value"), CASES)
def test_one_wrong_number(refused, call, name, value):
    assert refused(lambda: call(**{name: value}))


TELLING = (
    "rtol",
    "atol",
    "first_step",
    "max_steps",
    "tol",
    "products",
    "n",
    "keep",
    "levels",
    "size",
    "stride",
    "blocks",
)


@rows(
    ("call", "name", "value"),
    [c for c in CASES if c.values[1] in (*TELLING, "time_scale", "interval")],
)
def test_the_message_names_the_argument(refused, call, name, value):
    refused(lambda: call(**{name: value}), name)


@rows("model", [None, MODEL], ids=["function", "model"])
def test_no_tolerance_at_all(refused, model):
    zeros = (
        {"rtol": 0, "atol": 0},
        {"rtol": torch.zeros(2), "atol": 0.0},
        {"rtol": torch.tensor([0.0, 1.0]), "atol": 0},
    )
    for given in zeros:
        refused(lambda k=given: ode.solve(model or minus, Z, (1.0, 0.1), **k), "rtol=0 and atol=0")
    refused(
        lambda: ode.solve_sde(minus, 1.0, Z, noise="additive", solver="sra1", rtol=0, atol=0),
        "rtol=0 and atol=0",
    )
    refused(lambda: odeint(minus, Z, torch.tensor([0.0, 1.0]), rtol=0, atol=0), "rtol=0 and atol=0")


def test_times_that_float64_does_not_cut_into_steps(refused):
    for t in ((1e15, 1e15 + 1), (1e15 + 1, 1e15), (1e17, 1e17 + 16)):
        for given in ({}, {"steps": 4, "solver": "rk4"}):
            refused(
                lambda k=given, t=t: ode.solve(minus, Z, t, **k), "where float64 resolves steps of"
            )
        refused(
            lambda t=t: odeint(minus, Z, torch.tensor(t, dtype=torch.float64)),
            "where float64 resolves steps of",
        )
    assert ode.solve(minus, Z.double(), (1e9, 1e9 + 1), rtol=1e-6).ok


MODEL_TIMES = {
    "vp": VP,
    "cosine": paths.Cosine(),
    "ve": paths.VE(),
    "edm": paths.EDM(),
    "flipped": VP.flipped(),
}


@rows("path", MODEL_TIMES.values(), ids=MODEL_TIMES)
@rows("t", [-1.0, -0.01, 1.01, 2.0, 1e15, NAN])
def test_times_outside_the_path(refused, path, t):
    model, at = ode.Model(net, path, "noise"), t * path.t_max
    inside = 0.5 * path.t_max
    if t not in (1.01, 2.0) or path.family != "exploding":
        for name in ("data", "noise", "score", "velocity", "v", "edm"):
            refused(lambda n=name: getattr(model, n)(Z, at), "t=")
        for given in (torch.tensor(at), torch.tensor([inside, at])):
            refused(lambda g=given: model.data(Z, g), "t=")
    refused(lambda: ode.log_prob(model, Z, t=(inside, at)), "t=")
    for solver in ("dopri5", "dpm_solver_23"):
        refused(lambda s=solver: ode.solve(model, Z, (inside, at), s), "t")


def test_times_a_rounding_outside_are_the_ends():
    for t in (1.0, 1.0 + 1e-7, torch.tensor(1.0000001), torch.tensor([1.0, 1.0])):
        assert bool(MODEL.noise(Z, t).isfinite().all())


@rows(
    "interval",
    [(0.2, 0.8), [0.2, 0.8], torch.tensor([0.2, 0.8]), (-1.0, 0.5), (0.5, INF), None],
    ids=repr,
)
def test_intervals_that_meet_the_path(interval):
    assert ode.sample(guided(interval=interval), Z, "ddim", 2).shape == Z.shape


MODULE = [
    "to",
    "half",
    "float",
    "double",
    "cuda",
    "cpu",
    "eval",
    "train",
    "parameters",
    "named_parameters",
    "state_dict",
]
MODULE += [
    "load_state_dict",
    "requires_grad_",
    "zero_grad",
    "modules",
    "children",
    "buffers",
    "forward",
    "training",
    "compile",
]


@rows("name", MODULE)
def test_what_a_network_has_and_a_model_has_not(name):
    model = ode.Model(torch.nn.Linear(3, 3), VP, "noise")
    with pytest.raises(AttributeError, match=rf"take model\.net\.{name}") as caught:
        getattr(model, name)
    assert isinstance(caught.value, OdesolveError)
    assert not hasattr(model, name)


def test_a_model_is_not_called(refused):
    refused(lambda: MODEL(Z, 0.5), "model.data(x, t)", ".net(x, t)")
    refused(lambda: ode.Model(MODEL, VP, "noise"), "net is an ode.Model already")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        MODEL.nonsense  # noqa: B018


@rows(
    "spec",
    [
        "nope",
        3,
        None,
        {},
        {"name": "VP", "beta_min": "a"},
        {"name": "VP", "x": 1},
        {"name": "Flipped"},
        {"name": "Discrete"},
    ],
    ids=repr,
)
def test_texts_of_no_path(refused, spec):
    refused(lambda: paths.from_spec(spec))


@rows(
    "call",
    [
        lambda: ode.sample(net, Z, "ddim"),
        lambda: ode.Sampler(net),
        lambda: ode.invert(net, Z),
        lambda: ode.resume(net, {}),
    ],
)
def test_a_network_alone_is_no_model(refused, call):
    refused(call, "give an ode.Model(net, path, predicts=...)")
