"""Networks trained to carry a state far in one step: flow maps and consistency functions."""

from __future__ import annotations

import math

from odesolve.solvers.families import CONSISTENCY, FLOW_MAP
from odesolve.solvers.registry import solver
from odesolve.solvers.writer import Writer


@solver(
    "flow_map",
    0,
    1,
    "Boffi et al. 2024; Geng et al. 2025, eq. 12",
    clock="t",
    special=True,
    family=FLOW_MAP,
)
def flow_map(w: Writer) -> None:
    """x + (r - t) u(x, r, t), u the network's average velocity from t to r: MeanFlow, shortcut
    models, flow maps."""
    x = w.start
    for s, t in w.steps:
        x = w.step(t, x + w.average(x, s, t) * (t.t - s.t))


@solver(
    "consistency",
    0,
    1,
    "Song et al. 2023, Algorithm 1; Luo et al. 2023, Algorithm 3",
    stochastic=True,
    special=True,
    family=CONSISTENCY,
)
def consistency(w: Writer, *, floor: float = 0.0) -> None:
    """The data prediction, then new noise up to the next time: multistep sampling of consistency
    models, LCM's too.

    ``floor`` is the noise-to-signal ratio that a prediction still has (a consistency model's at its
    start), so much less is added.
    """
    x = w.start
    for s, t in w.steps:
        data = w.data(x, s)
        added = math.sqrt(max(t.sigma**2 - (t.alpha * floor) ** 2, 0.0))
        row = data * t.alpha
        if added:
            row = row + w.noise(s, t) * added
        x = w.step(t, row, exact=floor == 0.0)
