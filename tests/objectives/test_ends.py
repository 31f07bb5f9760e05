"""Ends of paths: weighted losses have their limits there, or are refused; means are finite, or are
refused."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.objectives import (
    BridgeMatching,
    Consistency,
    ContinuousConsistency,
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    FlowMap,
    GuidedDistillation,
    Hybrid,
    ImplicitScoreMatching,
    Independent,
    Matching,
    MeanFlow,
    OptimalTransport,
    ProgressiveDistillation,
    Shortcut,
    Sinkhorn,
    SlicedScoreMatching,
    TrigConsistency,
    VariationalBound,
    bridges,
    times,
)
from odesolve.objectives.consistency import ConsistencyTraining
from odesolve.objectives.weights import weights
from tests.products import product
from tests.rows import rows

PATHS = {
    "vp": ode.paths.VP(),
    "sub_vp": ode.paths.SubVP(),
    "ve": ode.paths.VE(),
    "edm": ode.paths.EDM(),
    "cosine": ode.paths.Cosine(),
    "linear": ode.paths.Linear(),
    "blurred": ode.paths.Linear(0.1),
    "trig": ode.paths.Trig(),
    "flipped": ode.paths.Linear().flipped(),
    "vp flipped": ode.paths.VP().flipped(),
    "table": ode.paths.Discrete.ddpm(),
}
PREDICTIONS = ("data", "noise", "v", "velocity", "score", "edm")
WEIGHTS = (None, *PREDICTIONS, "vlb", "snr", "max_snr", "snr_plus_1", "min_snr(5)", "min_snr(0.3)")
X, NOISE = (
    torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    for k in (0, 1)
)


def silent(path, predicts):
    """A network that does not look at its time, which is finite at both ends."""
    return ode.Model(lambda x, t, **cond: 0.3 * x, path, predicts, time="t")


def at(path, end, away):
    """A time this share of the path away from an end."""
    ends = (path.t_data, path.t_noise) if end == "data" else (path.t_noise, path.t_data)
    return ends[0] + away * (ends[1] - ends[0])


def written_out(path, predicts, weight, t, x=X, noise=NOISE):
    """The loss in plain formulas, whose quotients have no limits: for times inside of the path."""
    a, s, da, ds = (f(t) for f in (path.alpha, path.sigma, path.dalpha, path.dsigma))
    r = torch.hypot(s, 0.5 * a)
    state = a * x + s * noise
    target = {
        "data": x,
        "noise": noise,
        "v": a * noise - s * x,
        "velocity": da * x + ds * noise,
        "score": -noise / s,
        "edm": (x - 0.25 * a / r**2 * state) * r / (0.5 * s),
    }
    # The error of each in that of the data: at one state the noise moves by -a/s of what the data
    # do.
    moves = {
        "data": 1,
        "noise": a / s,
        "v": a * a / s + s,
        "velocity": ds * a / s - da,
        "score": a / s**2,
    }
    moves["edm"] = r / (0.5 * s)
    snr = (a / s) ** 2
    g2 = 2 * s * (ds - da / a * s)
    others = {
        "vlb": 0.5 * g2.abs() * snr / s**2,
        "snr": snr,
        "max_snr": snr.clamp_min(1),
        "snr_plus_1": snr + 1,
    }
    others |= {"min_snr(5)": snr.clamp_max(5.0), "min_snr(0.3)": snr.clamp_max(0.3)}
    model = silent(path, predicts)
    said = 0.3 * state * model.reading.c_in(path, t)
    error = (said - target[predicts]).square().mean(1)
    if weight is None:
        return error
    of_data = others[weight] if weight in others else torch.as_tensor(moves[weight]) ** 2
    return error * of_data / torch.as_tensor(moves[predicts]) ** 2


def loss(path, predicts, weight, t):
    return Matching(silent(path, predicts), weight, times=times.LogUniform())(X, noise=NOISE, t=t)


@rows(("path", "predicts", "weight"), product(list(PATHS), PREDICTIONS, WEIGHTS))
def test_losses_inside_are_those_written_out(path, predicts, weight):
    path = PATHS[path]
    for share in (0.07, 0.4, 0.93):
        t = torch.tensor([at(path, "data", share)], dtype=torch.float64)
        torch.testing.assert_close(
            loss(path, predicts, weight, t).each,
            written_out(path, predicts, weight, t),
            rtol=1e-9,
            atol=1e-13,
        )


@rows("path", PATHS)
@rows("predicts", PREDICTIONS)
def test_conditions_couplings_weights_and_importance_together(predicts, path):
    """The written-out loss of the noise that goes with each sample within its label, over the
    density of its time."""
    path, law = PATHS[path], times.LogUniform(0.2, 20.0)
    g = torch.Generator().manual_seed(4)
    x, noise = (
        torch.randn(8, 5, dtype=torch.float64, generator=g),
        torch.randn(8, 5, dtype=torch.float64, generator=g),
    )
    y, t = torch.arange(8) % 2, times.draw_times(law, 8, path, g)
    model = silent(path, predicts)
    found = Matching(model, "v", times=law, coupling="ot", importance=True)(
        x, noise=noise, t=t, cond={"y": y}
    )
    moved = noise.clone()
    for label in (0, 1):
        moved[y == label] = OptimalTransport()(x[y == label], noise[y == label])
    assert not torch.equal(moved, OptimalTransport()(x, noise))
    for k in range(8):
        raw = written_out(path, predicts, "v", t[k : k + 1], x[k : k + 1], moved[k : k + 1])
        torch.testing.assert_close(found.raw[k : k + 1], raw, rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(
        found.each, found.raw / times.relative(law, t, path), rtol=1e-12, atol=0
    )
    if path.training_steps is None:
        slope = (path.rho(t + 1e-6).log() - path.rho(t - 1e-6).log()).abs() / 2e-6 / math.log(100.0)
        torch.testing.assert_close(
            found.each * slope * abs(path.t_noise - path.t_data), found.raw, rtol=1e-5, atol=0
        )


@rows(
    ("path", "predicts", "weight", "end"),
    product(list(PATHS), PREDICTIONS, WEIGHTS, ["data", "noise"]),
)
def test_losses_at_the_ends_are_their_limits(path, predicts, weight, end):
    """Near the end the written-out loss settles at what it is there; where it grows without end the
    time is refused. In float32, as torch.rand gives times, too."""
    path = PATHS[path]
    times_near = torch.tensor([[at(path, end, h)] for h in (1e-6, 1e-8)], dtype=torch.float64)
    near, nearer = (float(written_out(path, predicts, weight, t)) for t in times_near)
    for dtype in (torch.float64, torch.float32):
        t = torch.tensor([at(path, end, 0.0)], dtype=dtype)
        if nearer > 9 * near:
            with pytest.raises(
                ode.OdesolveError, match=r"t holds .* is infinite: give times away from that end"
            ):
                loss(path, predicts, weight, t)
            continue
        found = loss(path, predicts, weight, t)
        # sigma goes like a root of the time on some paths: 1e-4 where h is 1e-8
        assert float(found.loss) == pytest.approx(nearer, rel=2e-2, abs=1e-6)


@rows(("path", "predicts", "weight", "value"), [
    ("linear", "v", "noise", None), ("linear", "velocity", "noise", None), ("vp", "score", "noise", None),
    ("vp", "velocity", "noise", None), ("flipped", "v", "noise", None),
])  # fmt: skip
def test_whole_batches_at_the_data_end(path, predicts, weight, value):
    """At the data end the noise network's loss of a v or velocity network is its own error: exact
    values."""
    path = PATHS[path]
    found = loss(path, predicts, weight, torch.tensor([path.t_data]))
    said = 0.3 * X
    exact = {
        ("linear", "v"): said - NOISE,
        ("flipped", "v"): said - NOISE,
        ("linear", "velocity"): said - (NOISE - X),
        ("vp", "score"): NOISE,  # sigma times the score, whose network's part is gone
        ("vp", "velocity"): NOISE,
    }
    key = next(k for k, p in PATHS.items() if p is path)
    torch.testing.assert_close(found.loss, exact[key, predicts].square().mean(), rtol=1e-12, atol=0)


@rows(("path", "predicts", "weight"), product(list(PATHS), PREDICTIONS, WEIGHTS))
def test_gradients_at_the_ends_are_numbers(path, predicts, weight):
    path = PATHS[path]
    layer = torch.nn.Linear(5, 5).double()
    model = ode.Model(lambda x, t: layer(x), path, predicts, time="t")
    for end in (path.t_data, path.t_noise):
        layer.zero_grad()
        try:
            found = Matching(model, weight, times=times.LogUniform())(
                X, noise=NOISE, t=torch.tensor([end])
            )
        except ode.OdesolveError:
            continue
        found.loss.backward()
        assert torch.isfinite(layer.weight.grad).all()


@rows(("path", "weight", "predicts"), product(list(PATHS), WEIGHTS[1:], PREDICTIONS))
def test_means_are_finite_under_the_default_law(path, weight, predicts):
    """The mean of the weighted error does not grow as shares of the law nearer to its ends are
    added."""
    path = PATHS[path]
    model = silent(path, predicts)
    law = Matching(model, weight).times
    if path.training_steps is not None:
        assert law == times.Table()
        return
    shares = torch.logspace(-14, math.log10(0.5), 20_000, dtype=torch.float64)
    near = shares > 1e-9
    x = torch.ones(20_000, 1, dtype=torch.float64)
    for t in (law.quantile(shares, path), law.quantile(1 - shares, path)):
        size = Matching(model, weight)(x, noise=x, t=t).each
        every, most = torch.trapezoid(size, shares), torch.trapezoid(size[near], shares[near])
        assert math.isfinite(every)
        assert float(every) < 1.01 * float(most) + 1e-9


@rows(
    ("path", "predicts", "weight", "ends"),
    [
        ("linear", "data", "vlb", "data"),
        ("linear", "velocity", "vlb", "data"),
        ("vp", "noise", "vlb", "data"),
        ("linear", "noise", "data", "noise"),
        ("trig", "noise", "max_snr", "noise"),
        ("linear", "data", "noise", "data"),
        ("flipped", "data", "vlb", "data"),
    ],
)
def test_laws_with_an_infinite_mean_are_refused(path, predicts, weight, ends):
    model = silent(PATHS[path], predicts)
    for law in (times.Uniform(), "uniform", "cosmap", times.Mode(), times.Importance()):
        with pytest.raises(
            ode.OdesolveError,
            match=rf"infinite mean under times=.*reach the {ends} end: give "
            rf"times=Unif",
        ):
            Matching(model, weight, times=law)
    for law in (
        times.LogUniform(0.01, 50.0),
        times.Uniform(0.01, 0.99),
        "logit_normal",
        times.LogNormal(),
    ):
        Matching(model, weight, times=law)
    Matching(model, lambda path, t: t, times="uniform")


@rows(
    ("path", "predicts", "weight"),
    [("vp", "noise", "data"), ("linear", "velocity", "v"), ("linear", "edm", "noise"), ("ve", "score", "noise"),
     ("vp", "score", "noise"), ("trig", "v", "data"), ("edm", "edm", "data"), ("linear", "v", "min_snr(5)")],
)  # fmt: skip
def test_laws_with_a_finite_mean_are_not(path, predicts, weight):
    model = silent(PATHS[path], predicts)
    for law in ("uniform", "cosmap", "mode", "importance", "logit_normal", "log_normal"):
        Matching(model, weight, times=law)
    assert Matching(model, weight).times == times.default(PATHS[path], predicts)


def test_importance_has_the_mean_of_uniform_times():
    """Whatever the law: dividing by its density brings the infinite mean back."""
    model = silent(PATHS["linear"], "data")
    with pytest.raises(ode.OdesolveError, match="infinite mean"):
        Matching(model, "vlb", times=times.LogNormal(), importance=True)
    Matching(model, "vlb", times=times.Uniform(0.01, 1.0), importance=True)


ZERO = ode.paths.Discrete(torch.linspace(0.99, 0.0, 20, dtype=torch.float64))


@rows("predicts", ["noise", "score"])
def test_tables_without_a_signal_at_their_end(predicts):
    """Zero terminal SNR, which the table holds as 2^-24: what says nothing of the data there is
    refused."""
    teacher = silent(ZERO, "v")
    with pytest.raises(ode.OdesolveError, match="there is no signal at t=1"):
        ProgressiveDistillation(silent(ZERO, predicts), teacher, "uniform", 10)
    for weight in ("data", "max_snr", "v", "edm"):
        with pytest.raises(
            ode.OdesolveError, match="infinite mean: the table has no signal at its noise end"
        ):
            Matching(silent(ZERO, predicts), weight)
        with pytest.raises(
            ode.OdesolveError, match="infinite mean: the table has no signal at its noise end"
        ):
            GuidedDistillation(silent(ZERO, predicts), teacher, {}, weight=weight)
    for weight in (None, "noise", "min_snr(5)"):
        Matching(silent(ZERO, predicts), weight)
    for other in ("v", "data"):
        Matching(silent(ZERO, other), "max_snr")
        ProgressiveDistillation(silent(ZERO, other), teacher, "uniform", 10)


@rows("t", [0.0, 1.0])
@rows("predicts", PREDICTIONS)
def test_distillation_of_guidance_at_the_ends(predicts, t):
    """max_snr times the error of the data's: refused where either is infinite, a number
    elsewhere."""
    path = ode.paths.Linear()
    found = GuidedDistillation(
        silent(path, predicts), silent(path, "v"), {"y": 0}, times="logit_normal", weight="data"
    )
    try:
        value = found(X, cond={"y": 1}, scale=torch.ones(1), noise=NOISE, t=torch.tensor([t])).loss
    except ode.OdesolveError as error:
        assert "is infinite: give times" in str(error)  # noqa: PT017
        assert predicts != "data"
    else:
        assert math.isfinite(value)


@rows("make", [
    lambda m: DenoisingScoreMatching(m, weight="noise"), lambda m: DenoisingScoreMatching(m),
    lambda m: ImplicitScoreMatching(m), lambda m: SlicedScoreMatching(m, weight="noise"),
    lambda m: ExplicitScoreMatching(m, m, weight="noise"),
])  # fmt: skip
@rows("predicts", PREDICTIONS)
@rows("path", ["vp", "linear", "flipped", "ve"])
def test_scores_at_the_data_end(make, predicts, path):
    model = silent(PATHS[path], predicts)
    try:
        found = make(model)(X, noise=NOISE, t=float(model.path.t_data))
    except ode.OdesolveError as error:
        assert "is infinite: give times" in str(error)  # noqa: PT017
        assert path != "ve"
    else:
        assert math.isfinite(found.loss)


def told(path, predicts="edm", time=None):
    return ode.Model(lambda x, t, **cond: torch.tanh(x + t[:, None]), path, predicts, time=time)


@rows("make", [
    lambda m: Matching(m, times="uniform"), lambda m: DenoisingScoreMatching(m), lambda m: ImplicitScoreMatching(m),
    lambda m: GuidedDistillation(m, m, {}, times="logit_normal", weight="noise"),
])  # fmt: skip
@rows("time", ["c_noise", "sigma", lambda path, t: 1 / (1 - t)])
def test_times_that_are_infinite_to_the_network_are_refused(make, time):
    """The logarithm of no signal: what a network makes of it is no number, or has gradients that
    are none."""
    path, extra = ode.paths.Linear(), {}
    objective = make(told(path, "v", time))
    if isinstance(objective, GuidedDistillation):
        extra = {"cond": {}}
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(
            ode.OdesolveError,
            match=r"t holds 1, where the network's time .* is infinite: give "
            r"times away",
        ):
            objective(torch.cat([X, X]), t=torch.tensor([0.3, 1.0], dtype=dtype), **extra)
        assert math.isfinite(objective(X, t=torch.tensor([0.999], dtype=dtype), **extra).loss)


def test_teachers_whose_time_is_infinite_are_refused():
    linear, trig = ode.paths.Linear(), ode.paths.Trig()
    for loss, t in (
        (
            lambda t: GuidedDistillation(told(linear, "v"), told(linear), {}, weight="noise")(
                X, cond={}, t=t
            ),
            1.0,
        ),
        (lambda t: MeanFlow(MAP, teacher=told(linear))(X, r=t, t=t), 1.0),
        (lambda t: TrigConsistency(told(trig, "v"), teacher=told(trig))(X, t=t), 0.0),
        (lambda t: TrigConsistency(told(trig, "v"), teacher=told(trig))(X, t=t), 1.0),
    ):
        with pytest.raises(ode.OdesolveError, match=r"where the network's time .* is infinite"):
            loss(torch.tensor([t]))
        assert math.isfinite(loss(torch.tensor([0.5])).loss.detach())


def test_chains_and_steps_that_begin_where_the_networks_time_is_infinite_are_refused():
    model, straight = told(ode.paths.Linear()), told(ode.paths.Linear(), "v")
    for make in (
        lambda: VariationalBound(model, steps=4),
        lambda: ProgressiveDistillation(model, straight, "uniform", 4),
        lambda: ProgressiveDistillation(straight, model, "uniform", 4),
    ):
        with pytest.raises(
            ode.OdesolveError,
            match=r"t holds 1, where the network's time \(time='c_noise'\) is "
            r"infinite",
        ):
            make()
    for begin in (
        VariationalBound(model, grid=[0.9, 0.5, 0.1, 0.0]),
        VariationalBound(straight, steps=4),
    ):
        assert math.isfinite(begin(X).loss)


@rows("grid", [[0.9, 0.5, 0.2, 0.0], (0.9, 0.5, 0.2, 0.0), torch.tensor([0.9, 0.5, 0.2, 0.0])])
def test_bounds_on_a_list_of_times(grid):
    found = VariationalBound(silent(ode.paths.VP(), "noise"), grid=grid)
    assert found.count == 3
    torch.testing.assert_close(
        found.chain("cpu").t, torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64), rtol=0, atol=1e-7
    )


def two_times(x, r, t, **cond):
    return 0.1 * x


MODEL, STRAIGHT = silent(ode.paths.VP(), "noise"), silent(ode.paths.Linear(), "velocity")
CONSISTENCY = Consistency(silent(ode.paths.EDM(), "edm"))
MAP = FlowMap(two_times, ode.paths.Linear())
ENTRIES = {
    "Matching": lambda x: Matching(MODEL)(x),
    "Matching score": lambda x: Matching(silent(ode.paths.VE(), "score"), "noise")(x),
    "BridgeMatching": lambda x: BridgeMatching(STRAIGHT, 1.0)(x, x),
    "BridgeMatching source": lambda x: BridgeMatching(STRAIGHT, 1.0)(x.float(), x),
    "Interpolant": lambda x: bridges.Interpolant(STRAIGHT, bridges.constant(0.1))(x, x),
    "MeanFlow": lambda x: MeanFlow(MAP)(x),
    "Shortcut": lambda x: Shortcut(MAP)(x),
    "ConsistencyTraining": lambda x: ConsistencyTraining(CONSISTENCY)(x),
    "ContinuousConsistency": lambda x: ContinuousConsistency(CONSISTENCY)(x),
    "ProgressiveDistillation": lambda x: ProgressiveDistillation(STRAIGHT, STRAIGHT, "uniform", 4)(
        x
    ),
    "GuidedDistillation": lambda x: GuidedDistillation(STRAIGHT, STRAIGHT, {})(x, cond={}),
    "DenoisingScoreMatching": lambda x: DenoisingScoreMatching(MODEL)(x),
    "ImplicitScoreMatching": lambda x: ImplicitScoreMatching(MODEL)(x),
    "SlicedScoreMatching": lambda x: SlicedScoreMatching(MODEL)(x),
    "VariationalBound": lambda x: VariationalBound(MODEL)(x),
    "Hybrid": lambda x: Hybrid(
        ode.Model(lambda x, t: torch.cat([x, x], 1), ode.paths.VP(), "noise", learned_variance=True)
    )(x[:, :, None, None]),
    "OptimalTransport": lambda x: OptimalTransport()(x, x),
    "Sinkhorn": lambda x: Sinkhorn(0.1)(x, x),
    "Independent": lambda x: Independent()(x, x),
}


@rows("dtype", [torch.float16, torch.bfloat16])
@rows("name", ENTRIES)
def test_data_of_half_precision_are_refused(name, dtype):
    with pytest.raises(ode.OdesolveError, match=rf"the data are {dtype}: give x.float\(\)"):
        ENTRIES[name](torch.ones(4, 2, dtype=dtype))


def test_min_snr_holds_its_number_in_double():
    t = torch.tensor([1e-3], dtype=torch.float64)
    assert float(weights(ode.paths.VP(), t, "min_snr(5.3)", "data", 0.5)) == pytest.approx(
        5.3, rel=1e-15
    )
