"""What cannot be used is refused before the first step: one line that says what was given and what
to type."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode
from odesolve import paths
from odesolve.errors import Diverged, OdesolveError, PlanError, unknown
from tests.rows import rows

VP, LINEAR = paths.VP(), paths.Linear()


def net(x, t):
    return 0.3 * x


def model(path=VP, predicts="v", f=net, **options):
    return ode.Model(f, path, predicts, **options)


def noise(*shape):
    return torch.randn(*(shape or (2, 3)), generator=torch.Generator().manual_seed(0))


def solve(m=None, *args, **options):
    return lambda: ode.sample(m or model(), *(args or (noise(),)), **options)


def holding(value):
    x = noise()
    x[1, 2] = value
    return x


MODELS = [
    (
        lambda: ode.Model(None, VP, "v"),
        r"net is NoneType, not callable: give a function or module "
        r"net\(x, t",
    ),
    (lambda: ode.Model(net, "vp", "v"), r"path is 'vp': give odesolve\.paths\.VP\(\)"),
    (
        lambda: ode.Model(net, "rectified_flow", "v"),
        r"path is 'rectified_flow': give "
        r"odesolve\.paths\.Linear\(\)",
    ),
    (lambda: ode.Model(net, type(VP), "v"), r"path is .*: give odesolve\.paths\.VP\(\)"),
    (
        lambda: ode.Model(net, ode.paths.Discrete.ddpm, "v"),
        r"path is .*: give odesolve\.paths\.Discrete\.ddpm\(\)",
    ),
    (
        lambda: ode.Model(net, torch.ones(1000), "v"),
        r"path is of shape \(1000,\): give "
        r".*Discrete\(alphas_cumprod\)",
    ),
    (lambda: ode.plan("ddim", "edm"), r"path is 'edm': give odesolve\.paths\.EDM\(\)"),
    (
        lambda: ode.Model(net, "nowhere", "v"),
        r"path is 'nowhere': give one of odesolve\.paths, such as odesolve\.paths\.VP\(\)",
    ),
    (lambda: ode.Model(net, VP, "F"), "unknown prediction 'F': did you mean 'edm'"),
    (
        lambda: ode.Model(net, VP),
        "what the network predicts is missing: give predicts= one of data, noise, v, velocity",
    ),
    (lambda: ode.Model(net, VP, "energy"), "unknown prediction 'energy': choose from"),
    (lambda: ode.Model(net, VP, "nois"), "unknown prediction 'nois': did you mean 'noise'"),
    (lambda: ode.Model(net, VP, "v", time="indx"), "unknown time 'indx': did you mean 'index'"),
    (
        lambda: ode.Model(net, VP, "v", input_scale="emd"),
        "unknown input_scale 'emd': did you mean 'edm'",
    ),
    (lambda: ode.Model(net, VP, "v", clip=0), "clip=0: give the largest"),
    (
        lambda: model().guided(2.0, {"label": 1}),
        r"guidance needs the unconditional arguments: "
        r"give uncond=\{\.\.\.\}",
    ),
    (
        lambda: model().guided(2.0, {}, {}, rescale=1.5),
        r"rescale=1\.5: give a number from 0 "
        r"\(off\) to 1",
    ),
    (
        lambda: model().data(noise(), torch.zeros(3)),
        r"t has shape \(3,\) for a batch of 2: give a number or shape \(B,\)",
    ),
    (
        lambda: model(time="index").data(noise(), 0.5),
        r"time='index' needs a path with a table .*: "
        r"use paths\.Discrete",
    ),
]

STARTS = [
    (solve(None, None), r"give either noise= \(a tensor or a shape\) or state="),
    (solve(state=noise()), r"give either noise= \(a tensor or a shape\) or state="),
    (solve(None, holding(float("nan"))), "the start holds NaN or infinity: give finite values"),
    (solve(None, holding(float("inf"))), "the start holds NaN or infinity: give finite values"),
    (
        solve(None, torch.ones(2, 3, dtype=torch.long)),
        r"the start is torch\.int64 of shape \(2, "
        r"3\): give floats",
    ),
    (
        solve(None, torch.tensor(1.0)),
        r"the start is torch\.float32 of shape \(\): give floats of "
        r"shape \(B, \.\.\.\)",
    ),
    (solve(None, "noise"), r"noise is 'noise': give a tensor, or a shape such as"),
    (solve(None, 5), r"noise is 5: give a tensor, or a shape such as"),
    (solve(None, (2.5, 3)), r"noise is \(2\.5, 3\): give a tensor, or a shape such as"),
    (solve(None, (-1, 3)), r"noise is \(-1, 3\): give a tensor, or a shape such as"),
    (solve(None, (2, None)), r"noise is \(2, None\): give a tensor, or a shape such as"),
    (
        solve(dtype=torch.float16),
        r"dtype=torch\.float16: the state is kept in torch\.float32 or "
        r"torch\.float64",
    ),
]

SAMPLERS = [
    (solve(solver="dpmpp2m"), "unknown solver 'dpmpp2m': did you mean 'dpmpp_2m'"),
    (solve(solver="hun"), "unknown solver 'hun': did you mean 'heun'"),
    (
        solve(solver=3),
        r"solver is 3: give a name from ode\.solvers\(\), a Tableau or a function "
        r"of a Writer",
    ),
    (solve(solver="heun", eta=1.0), "solver 'heun' got an option 'eta'; it takes clock='t'"),
    (
        solve(solver="dpm_solver_2", q=0.5),
        r"solver 'dpm_solver_2' got an option 'q'; it takes "
        r"r=0\.5",
    ),
    (solve(solver="ab2", start="ramps"), "start='ramps': choose 'single'"),
    (solve(solver="unipc_2", variant="b"), "variant='b': choose 'bh1' or 'bh2'"),
    (solve(solver="euler", clock="tau"), "unknown clock 'tau'"),
    (solve(grid="karas"), "unknown grid 'karas': did you mean 'karras'"),
    (
        solve(solver="ddim", grid="trailing"),
        r"needs a path with training times: use "
        r"paths\.Discrete",
    ),
    *[
        (solve(solver="ddim", steps=n), f"steps={n}: give a whole number of at least 1")
        for n in (0, -1, 2.5, True)
    ],
    *[(solve(steps=n), f"steps={n}: give") for n in (0, -1, 2.5, True)],
    (
        solve(solver="ddim", grid=[1.5, 0.5]),
        r"the grid leaves the path's range: t=1\.5 is not in "
        r"\[0, 1\]",
    ),
    (
        solve(solver="ddim", grid=[1.0, 0.2, 0.4]),
        "not strictly monotone at t=0.2, 0.4: give increasing or decreasing",
    ),
    (solve(solver="ddim", grid=[1.0]), r"grid is \[1.0\]: give two or more times"),
    (
        solve(model(paths.Discrete.ddpm()), solver="ddim", steps=1001),
        "1001 steps on a table of 1000 training times",
    ),
    (solve(eta=1.0), r"options \['eta'\] need a solver: give solver= a name from ode\.solvers\(\)"),
    (
        solve(model(LINEAR, "noise"), solver="ddim", grid=[1.0, 0.0]),
        "does not determine the data: give a grid",
    ),
    (
        solve(
            model(LINEAR, "data"),
            plan=ode.plan("euler", LINEAR, grid=[0.5, 0.0], reverse=True, closed=True),
        ),
        "goes from the data at t=0 to the noise: give data as state=",
    ),
]


def answers(f):
    return solve(model(f=f), solver="ddim", steps=2)


NETWORKS = [
    (answers(lambda x, t: (x, x)), "the network returned tuple: wrap it so that it returns the "
                                   "tensor alone"),
    (answers(lambda x, t: None), "the network returned NoneType: wrap it"),
    (answers(lambda x, t: {"sample": x}), "the network returned dict: wrap it"),
    (answers(lambda x, t: torch.cat([x, x], 1)), r"returned shape \(2, 6\) for a state of shape "
                                                 r"\(2, 3\): wrap it"),
    (answers(lambda x, t: x[:1]), r"returned shape \(1, 3\) for a state of shape \(2, 3\): wrap "
                                  r"it"),
    (answers(lambda x, t: x.sum()), r"returned shape \(\) for a state"),
    (answers(lambda x, t: x > 0), r"the network returned torch\.bool: wrap it so that it returns "
                                  r"a floating-point tensor"),
    (answers(lambda x, t: x.long()), r"the network returned torch\.int64: wrap it"),
    (answers(lambda x, t: x.double()), "the network returned float64 for a float32 state: give "
                                       "float64 noise"),
    (lambda: model(f=lambda x, t: x[:1]).data(noise(), 0.5), r"returned shape \(1, 3\)"),
    (lambda: model(f=lambda x, t: (x,)).guided(2.0, {}, {}).data(noise(), 0.5), "returned tuple"),
    (
        lambda: model().classifier_guided(lambda x, t: x.detach().sum(1)).data(noise(), 0.5),
        "the classifier must depend on x: give log p",
    ),
]  # fmt: skip


@rows(("make", "what"), [*MODELS, *STARTS, *SAMPLERS, *NETWORKS])
def test_refused(make, what):
    with pytest.raises(OdesolveError, match=what) as error:
        make()
    message = str(error.value)
    assert "\n" not in message
    assert any(
        word in message
        for word in ("give", "did you mean", "choose", "wrap", "use", "takes", "kept in")
    )


@rows(("make", "what"), [*STARTS[:3], *SAMPLERS[:1]])
def test_iteration_refuses_before_the_first_step(make, what, monkeypatch):
    monkeypatch.setattr(ode, "sample", ode.iterate)
    with pytest.raises(OdesolveError, match=what):
        make()


def test_network_that_says_nothing_at_the_noise_end_begins_inside():
    """Where the grid is ours to choose it starts at t_clip; only a grid of the user's is
    refused."""
    seen = []

    def remember(x, t):
        seen.append(float(t[0]))
        return 0 * x

    for grid in (None, "uniform", "karras", "quadratic", "shift"):
        ode.sample(model(LINEAR, "noise", remember), noise(), "ddim", 4, grid)
        assert seen[0] == pytest.approx(LINEAR.t_clip)
        seen.clear()


def test_transform_that_is_missing():
    from odesolve.plans.instructions import Apply, Combine, Evaluate, Output
    from odesolve.plans.plan import Plan

    a, b = VP.points([1.0, 0.5])
    row = Combine(
        (Output("x1", 0.5),),
        ("x0", "D2"),
        ((b.sigma / a.sigma, b.alpha - b.sigma / a.sigma * a.alpha),),
    )
    steps = (Evaluate("x0", "D1", 1.0), Apply("sharpen", "D1", "D2", 1.0), row)
    with pytest.raises(
        OdesolveError,
        match=r"the plan applies 'sharpen': give it as "
        r"model\.functions",
    ):
        ode.sample(model(), noise(), plan=Plan("mine", (1.0, 0.5), steps, "x1", "", VP))


def test_errors_are_value_errors():
    assert issubclass(OdesolveError, ValueError)
    assert issubclass(PlanError, OdesolveError)
    assert issubclass(Diverged, ArithmeticError)


def test_unknown_names_the_nearest_or_lists_all():
    assert str(unknown("cat", "tabbi", ["tabby", "manx"])) == (
        "unknown cat 'tabbi': did you mean 'tabby'?"
    )
    assert str(unknown("cat", "xyz", ["tabby", "manx"])) == (
        "unknown cat 'xyz': choose from manx, tabby"
    )
