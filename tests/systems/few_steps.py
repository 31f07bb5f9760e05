"""Rows about straightening and few steps."""

from __future__ import annotations

import math

import torch

import odesolve as ode
from odesolve.objectives.consistency import (
    Consistency,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
)
from odesolve.objectives.distillation import halve
from odesolve.objectives.flow_maps import MeanFlow, Shortcut
from odesolve.objectives.rectified import straightness
from tests.objectives import test_consistency as consistent
from tests.objectives import test_distillation as students
from tests.objectives import test_flow_maps as maps
from tests.objectives import test_rectified as straight
from tests.systems.paths import LINEAR
from tests.systems.table import gap, generator, normals, system


@system(
    33,
    "progressive distillation",
    "one step after five exact halvings against DDIM in 32 steps",
    1e-14,
)
def halved() -> float:
    teacher, z = students.problem.model(LINEAR, "data"), normals(20, 1)
    last = list(halve(teacher, "uniform", students.fitted(LINEAR, "data"), steps=32))[-1]
    x = ode.sample(last.model, z, "ddim", grid=last.times)
    return gap(x, ode.sample(teacher, z, "ddim", 32, "uniform"))


@system(
    34,
    "distillation of guided models",
    "a student that is the guided model at every scale: its loss",
    1e-25,
)
def guided() -> float:
    _, _, objective = students.guided()
    scales = torch.linspace(0.0, 7.0, 200, dtype=torch.float64)
    found = objective(
        normals(200, 1), cond={"label": normals(200, seed=2)}, scale=scales, generator=generator()
    )
    return float(found.loss)


@system(
    35,
    "consistency distillation",
    "the minimiser on EDM's grid of 18 is the map of 17 Euler steps (relative)",
    1e-12,
)
def distilled() -> float:
    teacher = consistent.problem.model(consistent.PATH, "noise")
    times = ConsistencyTraining(Consistency(teacher)).times()
    net = consistent.Table(times)
    model = ode.Model(net, consistent.PATH, "edm")
    objective = ConsistencyDistillation(Consistency(model), teacher, solver="euler")
    x, z, weights = consistent.quadrature()
    slope = consistent.minimised(objective, net, weights, x, z)[-1]
    steps = 1 + (times[:-1] - times[1:]) * times[1:] / (consistent.STD**2 + times[1:] ** 2)
    return gap(slope / steps.prod(), 1.0)


@system(36, "consistency training", "the minimiser from data alone is f(x) = .0052879776 x", 5e-11)
def trained() -> float:
    times = ConsistencyTraining(Consistency(consistent.problem.model(consistent.PATH))).times()
    net = consistent.Table(times)
    x, z, weights = consistent.quadrature()
    objective = ConsistencyTraining(Consistency(ode.Model(net, consistent.PATH, "edm")))
    return gap(consistent.minimised(objective, net, weights, x, z)[-1], 0.0052879776)


@system(
    37,
    "continuous-time consistency",
    "E[df/dt given x_t] vanishes at the exact map, by quadrature",
    1e-11,
)
def continuous() -> float:
    objective, worst = ContinuousConsistency(consistent.of_slope(consistent.exact_slope)), 0.0
    x, z, weights = consistent.quadrature()
    for t in (0.01, 0.5, 2.0, 20.0):
        found = objective(x, noise=z, t=torch.full((9,), t, dtype=torch.float64)).derivative[:, 0]
        worst = max(
            worst,
            abs(float((weights * found).sum())),
            abs(float((weights * found * (x + t * z)[:, 0]).sum())),
        )
    return worst


@system(
    38,
    "multistep consistency sampling",
    "variance of a Gaussian's samples after 3 steps, in standard errors",
    4.0,
)
def multistep() -> float:
    f, n = consistent.of_slope(consistent.exact_slope), 40_000
    x = f.sample(normals(n, 1), [80.0, 5.0, 0.5], seed=0)
    exact = consistent.STD**2 + consistent.PATH.sigma_min**2
    return abs(float(x.var()) / exact - 1) / (2 / n) ** 0.5


@system(
    58,
    "rectified flow, straightness",
    "S of a Gaussian is s (2 - pi / 2), of the mixture .5655519",
    2e-7,
)
def rectified() -> float:
    z, w = straight.hermite()
    one = straightness(straight.problem.model(LINEAR, "velocity"), z[:, None], steps=200)
    z, v = straight.panels()
    two = straightness(straight.mixture.model(LINEAR, "velocity"), z, steps=128)
    exact = straight.STD * (2 - math.pi / 2)
    return max(abs(float(w @ one.each) - exact), abs(float(v @ two.each) - 0.5655519))


@system(
    59, "MeanFlow", "the identity's residual at a Gaussian's exact map, root mean square", 1e-14
)
def mean_flow() -> float:
    f, teacher = maps.exact(LINEAR), maps.problem.model(LINEAR, "velocity")
    r, t = maps.uniform(50), maps.uniform(50, seed=1)
    found = MeanFlow(f, teacher=teacher)(normals(50, 2), noise=normals(50, 2, seed=1), r=r, t=t)
    return float(found.error.max().sqrt())


@system(
    60,
    "shortcut models",
    "s(2 d) is the mean of the two s(d) at a Gaussian's exact map, root mean square",
    1e-14,
)
def shortcut() -> float:
    found = Shortcut(maps.exact(LINEAR), 64, share=1.0)(
        normals(200, 2), noise=normals(200, 2, seed=1), generator=generator(2)
    )
    # the others are compared with a velocity, as Euler's steps are
    longer = (found.t - found.r).abs() > 1.5 / 32
    return float(found.error[longer].max().sqrt())
