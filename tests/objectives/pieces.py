"""Every objective: how it is made, called for a batch and written out, with the predictions and
paths that it takes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

import odesolve as ode
from odesolve import objectives as obj
from odesolve import trace
from odesolve.objectives import bridges
from odesolve.objectives.draws import keys_for
from tests.objectives import written_out as plain
from tests.objectives.written_out import Batch

PATHS = {
    "vp": ode.paths.VP(),
    "sub_vp": ode.paths.SubVP(),
    "ve": ode.paths.VE(sigma_max=5.0),
    "edm": ode.paths.EDM(sigma_max=5.0),
    "cosine": ode.paths.Cosine(),
    "linear": ode.paths.Linear(),
    "trig": ode.paths.Trig(),
    "flipped": ode.paths.Linear().flipped(),
    "vp flipped": ode.paths.VP().flipped(),
    "table": ode.paths.Discrete.from_betas(torch.linspace(0.01, 0.3, 20, dtype=torch.float64)),
}
ALL = ("data", "noise", "v", "velocity", "score", "edm")
STRAIGHT = ("linear", "flipped")
CHAINED = {
    "vp": {"steps": 4},
    "edm": {"steps": 4},
    "linear": {"grid": [0.95, 0.6, 0.3, 0.0]},
    "flipped": {"grid": [0.05, 0.4, 0.7, 1.0]},
    "table": {},
}


class Drop(nn.Dropout):
    """Dropout that keeps what it drew, or draws no more."""

    def __init__(self, p):
        super().__init__(p)
        self.drawn, self.fixed = [], None

    def forward(self, x):
        if self.fixed is not None:
            return x * self.fixed
        if self.training and self.p:
            self.drawn.append(super().forward(torch.ones(x.shape, dtype=x.dtype)))
            return x * self.drawn[-1]
        return x


class Net(nn.Module):
    """Of a state, one or two times, and maybe labels, a real condition and a scale."""

    def __init__(self, seed, times=1, out=3, drop=0.0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w, self.v = (
            nn.Parameter(0.5 * torch.randn(s, generator=g, dtype=torch.float64))
            for s in ((3, 3), (3, out))
        )
        self.t, self.c = (
            nn.Parameter(0.5 * torch.randn(s, generator=g, dtype=torch.float64))
            for s in ((times, 3), 3)
        )
        self.y = nn.Parameter(torch.randn(4, 3, generator=g, dtype=torch.float64))
        self.drop = Drop(drop)

    def forward(self, x, *given, y=None, c=None, scale=None):
        inner = x @ self.w + sum(
            t.to(x.dtype)[:, None] * w for t, w in zip(given, self.t, strict=True)
        )
        for more in (
            None if y is None else self.y[y],
            *(None if v is None else v[:, None] * self.c for v in (c, scale)),
        ):
            inner = inner if more is None else inner + more.to(x.dtype)
        return self.drop(torch.tanh(inner)) @ self.v


TEACHER, OTHER = Net(7), Net(8)
NULL = torch.full((6,), 3)


def like(other, net):
    """Another network in the precision of this one."""
    return copy.deepcopy(other).to(net.w.dtype)


BRIDGE_NOISE = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def batch(path, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    x, z, source = (torch.randn(6, 3, dtype=torch.float64, generator=g).to(dtype) for _ in range(3))
    # of which each is a time of the table
    shares = torch.tensor([2, 5, 9, 12, 15, 18], dtype=torch.float64) / 20
    t = path.t_data + shares * (path.t_noise - path.t_data)
    r = path.t_data + 0.5 * shares * (path.t_noise - path.t_data)
    cond = {
        "y": torch.tensor([0, 1, 0, 1, 1, 0]),
        "c": torch.linspace(-1, 1, 6, dtype=torch.float64).to(dtype),
    }
    return Batch(
        x,
        z,
        source,
        t,
        r,
        torch.arange(6),
        cond,
        torch.linspace(1, 3, 6, dtype=torch.float64).to(dtype),
    )


@dataclass(frozen=True)
class Piece:
    """How an objective is made, called for a batch, and written out; what it takes, and of what it
    is said to be refused."""

    make: Callable
    call: Callable
    plain: Callable
    predicts: tuple = ALL
    paths: tuple = tuple(PATHS)
    net: Callable = Net
    takes: frozenset = frozenset({"cond", "mask"})
    draws_once: bool = True  # one evaluation of the network, or all with one dropout


def model(net, predicts, path, **options):
    return ode.Model(net, path, predicts, **options)


def at_times(o, b, **k):
    return o(b.x, noise=b.z, t=b.t, cond=b.cond, **k)


def at_steps(count):
    return lambda o, b, **k: o(
        b.x, noise=b.z, index=b.index.clamp(max=count(o) - 1), cond=b.cond, **k
    )


def between(o, b, **k):
    return o(b.x, b.source, noise=b.z, t=b.t, cond=b.cond, **k)


def two_times(o, b, **k):
    return o(b.x, noise=b.z, r=b.r, t=b.t, cond=b.cond, **k)


def clamped(b, most):
    return replace(b, index=b.index.clamp(max=most))


def formula(f):
    return lambda o, net, path, predicts, b, m: f(net, path, predicts, b, m)


def probes(b):
    g = torch.Generator().manual_seed(5)
    return trace.Hutchinson(1).forms(b.x, keys_for(b.x, g)).z[0].to(b.x)


def shortcut_batch(b, path):
    """Sizes 1/2, 1/4 and none, as shares of the path."""
    way = path.t_noise - path.t_data
    size = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.5, 0.25], dtype=torch.float64)
    return replace(b, r=b.t - way * torch.minimum(size, (b.t - path.t_data).abs() / abs(way)))


def chain(net, predicts, path, learned=False, **options):
    steps = next(CHAINED[k] for k, p in PATHS.items() if p is path)
    made = model(net, predicts, path, learned_variance=learned)
    return (
        obj.Hybrid(made, **steps, **options)
        if learned
        else obj.VariationalBound(made, **steps, **options)
    )


def flow(net, predicts, path, **options):
    """Of the middle of a path, where nothing is steep."""
    return obj.MaximumLikelihood(
        model(net, predicts, path), t=middle(path), trace="exact", solver="rk4", steps=4, **options
    )


def middle(path):
    return tuple(path.t_data + s * (path.t_noise - path.t_data) for s in (0.5, 0.55))


def span(path):
    return [path.t_data + s * (path.t_noise - path.t_data) for s in (0.1, 0.5, 0.9)]


def carried(net, predicts, path):
    return obj.Consistency(model(net, predicts, path))


def denoised(predicts_score):
    return lambda net, predicts, path, **k: predicts_score(model(net, predicts, path), **k)


def guided(net, predicts, path, **k):
    null = {"y": NULL, "c": torch.zeros(6, dtype=torch.float64)}
    return obj.GuidedDistillation(
        model(net, predicts, path), model(like(TEACHER, net), predicts, path), null, **k
    )


def guided_plain(o, net, path, predicts, b, m):
    return plain.guided(
        net, path, predicts, b, m, like(TEACHER, net), {"y": NULL, "c": torch.zeros(6).to(b.x)}
    )


def bridge_of(make):
    return {
        "call": between,
        "takes": frozenset({"cond", "mask", "coupling"}),
        "paths": STRAIGHT,
        "make": make,
    }


CARRIED = {"paths": ("edm",)}
PIECES = {
    "Matching": Piece(
        lambda net, predicts, path, **k: obj.Matching(model(net, predicts, path), **k), at_times,
        formula(plain.matching), takes=frozenset({"cond", "mask", "coupling", "importance"}),
    ),
    "DenoisingScoreMatching": Piece(denoised(obj.DenoisingScoreMatching), at_times, formula(plain.denoising)),
    "ExplicitScoreMatching": Piece(
        denoised(lambda m, **k: obj.ExplicitScoreMatching(m, plain.known, **k)), at_times, formula(plain.explicit)
    ),
    "ImplicitScoreMatching": Piece(denoised(obj.ImplicitScoreMatching), at_times, formula(plain.implicit)),
    "SlicedScoreMatching": Piece(
        denoised(obj.SlicedScoreMatching),
        lambda o, b, **k: at_times(o, b, generator=torch.Generator().manual_seed(5), **k),
        lambda o, net, path, predicts, b, m: plain.sliced(net, path, predicts, b, m, probes(b)),
    ),
    "VariationalBound": Piece(
        chain, at_steps(lambda o: o.count),
        lambda o, net, path, predicts, b, m: plain.bound(
            net, path, predicts, clamped(b, o.count - 1), m, o.chain("cpu")
        ),
        paths=tuple(CHAINED), takes=frozenset({"cond", "importance"}),
    ),
    "Hybrid": Piece(
        lambda *a, **k: chain(*a, learned=True, **k), at_steps(lambda o: o.bound.count),
        lambda o, net, path, predicts, b, m: plain.hybrid(
            net, path, predicts, clamped(b, o.bound.count - 1), m, o.bound.chain("cpu")
        ),
        paths=tuple(CHAINED), net=lambda seed, **k: Net(seed, out=6, **k), takes=frozenset({"cond"}),
    ),
    "MaximumLikelihood": Piece(
        flow, lambda o, b, **k: o(b.x, cond=b.cond, **k),
        lambda o, net, path, predicts, b, m: plain.likelihood(net, path, predicts, b, m, *middle(path)),
        paths=("vp", "linear", "edm", "flipped"), takes=frozenset({"cond"}), draws_once=False,
    ),
    "DiffFlow": Piece(
        lambda net, predicts, path, **k: obj.DiffFlow(net, plain.known, 0.8, (0.1, 0.5, 0.9), **k),
        lambda o, b, **k: o(b.x, noise=BRIDGE_NOISE.to(b.x), **k, **({"cond": b.cond} if b.cond else {})),
        lambda o, net, path, predicts, b, m: plain.diffflow(
            net, path, predicts, b, m, BRIDGE_NOISE.to(b.x), (0.1, 0.5, 0.9), 0.8
        ),
        predicts=("velocity",), paths=("linear",), takes=frozenset(), draws_once=False,
    ),
    "Interpolant": Piece(
        plain=formula(plain.interpolant), predicts=("velocity", "data"),
        **bridge_of(lambda net, p, path, **k: obj.Interpolant(model(net, p, path), bridges.sine_squared(0.3), **k))
        | {"paths": (*STRAIGHT, "trig")},
    ),
    "TwoSided": Piece(
        plain=formula(plain.two_sided), predicts=("velocity", "data"),
        **bridge_of(lambda net, p, path, **k: obj.TwoSided(model(net, p, path), 0.2, **k))
        | {"paths": (*STRAIGHT, "trig")},
    ),
    "ScoreAndFlow": Piece(
        plain=lambda o, net, path, predicts, b, m: plain.score_and_flow(net, path, predicts, b, m, OTHER),
        predicts=("velocity", "data"),
        **bridge_of(
            lambda net, p, path, **k: obj.ScoreAndFlow(
                model(net, p, path), model(like(OTHER, net), "score", path), plain.SIGMA, **k
            )
        ),
    ),
    "BridgeMatching": Piece(
        plain=formula(plain.bridge), predicts=("velocity", "data"),
        **bridge_of(lambda net, p, path, **k: obj.BridgeMatching(model(net, p, path), plain.SIGMA, **k)),
    ),
    "MeanFlow": Piece(
        lambda net, p, path, **k: obj.MeanFlow(obj.FlowMap(net, path), **k), two_times, formula(plain.mean_flow),
        predicts=("velocity",), paths=(*STRAIGHT, "trig"), net=lambda seed, **k: Net(seed, 2, **k),
    ),
    "Shortcut": Piece(
        lambda net, p, path, **k: obj.Shortcut(obj.FlowMap(net, path), 8, **k),
        lambda o, b, **k: two_times(o, shortcut_batch(b, o.flow_map.path), **k),
        lambda o, net, path, predicts, b, m: plain.shortcut(net, path, predicts, shortcut_batch(b, path), m),
        predicts=("velocity",), paths=(*STRAIGHT, "trig"), net=lambda seed, **k: Net(seed, 2, **k),
        draws_once=False,
    ),
    "ConsistencyTraining": Piece(
        lambda net, p, path, **k: obj.ConsistencyTraining(carried(net, p, path), 6, **k), at_steps(lambda o: 5),
        lambda o, net, path, predicts, b, m: plain.consistency(net, path, predicts, clamped(b, 4), m), **CARRIED,
    ),
    "ConsistencyDistillation": Piece(
        lambda net, p, path, **k: obj.ConsistencyDistillation(carried(net, p, path), model(like(TEACHER, net), p, path), 6, **k),
        at_steps(lambda o: 5),
        lambda o, net, path, predicts, b, m: plain.consistency(net, path, predicts, clamped(b, 4), m, like(TEACHER, net)),
        **CARRIED,
    ),
    "ContinuousConsistency": Piece(
        lambda net, p, path, **k: obj.ContinuousConsistency(carried(net, p, path), **k), at_times,
        formula(plain.continuous), **CARRIED,
    ),
    "TrigConsistency": Piece(
        lambda net, p, path, **k: obj.TrigConsistency(model(net, p, path), **k), at_times, formula(plain.trig),
        predicts=("v",), paths=("trig",),
    ),
    "ProgressiveDistillation": Piece(
        lambda net, p, path, **k: obj.ProgressiveDistillation(
            model(net, p, path), model(like(TEACHER, net), p, path), span(path)[::-1], **k
        ),
        at_steps(lambda o: len(o.times) // 2),
        lambda o, net, path, predicts, b, m: plain.halved(
            net, path, predicts, clamped(b, len(o.times) // 2 - 1), m, like(TEACHER, net), o.times
        ),
    ),
    "GuidedDistillation": Piece(
        guided, lambda o, b, **k: at_times(o, b, scale=b.scale, **k), guided_plain,
    ),
}  # fmt: skip
