"""The log-density along samples of the reverse SDE, from the scores that the sampler evaluates
anyway.

In z = x / V with V^2 = alpha^2 c^2 + sigma^2 Gaussian data of standard deviation c stay N(0, I),
and log p_z = -|z|^2 / 2 + l. Towards the data, at the noise level kappa = tau^2 and in the clock m,
dm = d(rho^2) / (c^2 + rho^2) as rho falls, with eta = grad l,
    dz = [(1 + kappa) eta - kappa z] dm / 2 + sqrt(kappa) dW,
    dl = |eta|^2 dm / 2 + eta . sqrt(kappa) dW + (kappa - 1) [div eta + |eta|^2 - eta . z] dm / 2,
by Ito's formula and the Fokker-Planck equation: at kappa = 1, the reverse SDE, no divergence is
left (Karczewski et al. 2025, theorem 1; Skreta et al. 2025, theorem 1). At other levels it is the
covariation of eta and z: the ratio of the two transition densities between z and z', once towards
the data and once towards the noise, has it in the difference of the scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve import run
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import normal_sums
from odesolve.likelihood.carried import default_width
from odesolve.likelihood.flow import normal_log_density
from odesolve.model.model import Model
from odesolve.noise.stream_numbers import CORRECTIONS
from odesolve.paths import Path, Point
from odesolve.plans.instructions import (
    START,
    Apply,
    Combine,
    Evaluate,
    LinearForm,
    each,
    stream_of,
    substitute,
)
from odesolve.plans.plan import Plan
from odesolve.sampling.execute import program_for

REVERSE = 1e-9  # a noise level this close to 1 counts as that of the reverse SDE


@torch.no_grad()
def along(model: Model, plan: Plan, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a stochastic plan from the state x (B, ...): its end, the estimated log-density (B,)
    there, and its standard deviation (B,).

    The state at the plan's first time counts as a sample of the prior, N(0, start_std^2). The
    estimate adds no evaluation. The density is that of the path's marginals if the scores are
    theirs; where the plan ends at sigma = 0, it includes the last, noiseless step up to its
    curvature, of order sigma^2. Exact for Gaussian data of the model's ``sigma_data`` (0.5).
    Otherwise the mean of the error falls with the first power of the step, with the second for
    solvers of the reverse SDE of weak order 2, and its standard deviation with the square root: a
    step's integral of eta . dW lacks (N^T S N - tr S dm) / 2 with S the Jacobian of eta and N the
    noise, of variance |S|^2 dm^2 / 2, and |S|^2 dm is about |the change of eta|^2.

    Raises OdesolveError for plans with a step that draws no noise, runs towards the noise or is not
    linear, or that do not evaluate the network at the step's states.
    """
    steps = _steps(plan, model.path)
    program = program_for(model, plan, x.dtype, None)
    cursor = run.begin(program, x, model.dtype, model.functions, keys=keys)
    times = model.times_for(program.times, x)
    width = default_width(model)
    last = None
    starts = _starts(plan)
    value = normal_log_density(x, model.path.start_std(plan.grid[0]))
    variance = torch.zeros_like(value)
    for call in range(len(program.times)):
        outputs = model.evaluate(cursor.input, cursor.state, times[call], cursor.call.branches)
        number = starts.get(plan.evaluations[call].input)
        if number is not None:
            at = _ItoVisit.of(model, steps[number].start, cursor.state, outputs, width)
            if last is not None:
                gain, missed = steps[number - 1].gain(last, at, keys, width)
                value = value + gain
                variance = variance + missed
            last = at
        cursor = run.advance(cursor, outputs, model.functions)
    assert last is not None
    out = cursor.result
    end = steps[-1].stop
    z = out / math.hypot(end.alpha * width, end.sigma)
    gain, missed = steps[-1].gain(last, _ItoVisit(z, last.eta), keys, width)
    return out, value + gain, (variance + missed).sqrt()


@dataclass(frozen=True)
class _ItoVisit:
    """A state of a step in the coordinates of Gaussian data: z and eta, both (B, ...)."""

    z: Tensor
    eta: Tensor

    @classmethod
    def of(
        cls,
        model: Model,
        p: Point,
        x: Tensor,
        outputs: Sequence[Tensor],
        width: float,
    ) -> _ItoVisit:
        """From the network's outputs at x: eta = F alpha c / sigma, F being EDM's prediction."""
        at = model.at(model.times_of(x, p.t), "edm", x, width)
        eta = model.convert(x, at, outputs) * (p.alpha * width / p.sigma)
        return cls(x / math.hypot(p.alpha * width, p.sigma), eta)


@dataclass(frozen=True)
class _ItoStep:
    """A step of a plan: its ends, and the noise it adds, over streams."""

    start: Point
    stop: Point
    noise: LinearForm

    def gain(self, a: _ItoVisit, b: _ItoVisit, keys: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """log p(x_stop) - log p(x_start), (B,), and the variance of its error."""
        s = self.start
        t = self.stop
        before = math.hypot(s.alpha * width, s.sigma)
        after = math.hypot(t.alpha * width, t.sigma)
        length = math.inf
        if s.alpha > 0:
            length = 2.0 * (math.log(before / after) - math.log(s.alpha / t.alpha))
        draws = sum(w * w for w in self.noise.values())
        # the variance that the reverse SDE adds
        whole = -(t.sigma**2) * math.expm1(2.0 * (s.lam - t.lam))
        level = draws / whole if whole else 1.0
        e = math.exp(-0.5 * level * length)
        turned = b.eta - a.eta
        dim = a.z.shape[1:].numel()
        fall = _inner(a.z, a.z) - _inner(b.z, b.z)
        value = 0.5 * fall + dim * math.log(before / after)
        variance = 0.5 * draws / (level * after) ** 2 * _inner(turned, turned)
        if abs(level - 1.0) >= REVERSE:
            return _at_level(value, level, e, a, b), variance
        squares = _inner(a.eta, a.eta) + _inner(b.eta, b.eta)
        value = value + (1 - e) / (1 + e) * squares
        if self.noise:
            product = _inner(a.eta, self._step_noise(a.z, keys))
            value = value + 2.0 / (1 + e) * product / after
        return value, variance

    def _step_noise(self, like: Tensor, keys: Tensor) -> Tensor:
        """The noise (B, ...) that the step added."""
        out = torch.empty_like(like)
        streams = [k for name in self.noise if (k := stream_of(name)) is not None]
        normal_sums((out,), keys, streams, (list(self.noise.values()),))
        return out


def _at_level(
    value: Tensor,
    level: float,
    e: float,
    a: _ItoVisit,
    b: _ItoVisit,
) -> Tensor:
    """The gain at a noise level other than that of the reverse SDE; ``e`` is the share of z that
    the step leaves."""
    on = (level + 1.0) / level
    back = (level - 1.0) / level
    forward = on * _inner(a.eta, b.z - e * a.z)
    backward = back * _inner(b.eta, a.z - e * b.z)
    moves = forward - backward
    squares = back**2 * _inner(b.eta, b.eta) - on**2 * _inner(a.eta, a.eta)
    return value + moves / (1 + e) + 0.5 * (1 - e) / (1 + e) * squares


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)


def _starts(plan: Plan) -> dict[str, int]:
    """The step that starts at each of these states."""
    return {START: 0, **plan.step_of}


def _noise(plan: Plan) -> dict[int, LinearForm]:
    """The draws that each step of a linear plan adds, by its number."""
    noise: dict[int, LinearForm] = {}
    values: dict[str, LinearForm] = {START: LinearForm()}

    def evaluate(_: int, i: Evaluate) -> None:
        values[i.output] = LinearForm()

    def combine(_: int, i: Combine) -> None:
        for output, terms in i.rows:
            value = substitute(terms, values)
            step = plan.step_of.get(output.name)
            if step is not None:
                noise[step] = value
                value = LinearForm()
            values[output.name] = value

    def apply(_: int, i: Apply) -> None:
        raise AssertionError(f"{i.fn!r} is not linear, and was refused before")

    each(plan.instructions, evaluate, combine, apply)
    return noise


def _steps(plan: Plan, path: Path) -> list[_ItoStep]:
    starts = _starts(plan)
    visited = {starts.get(i.input) for i in plan.evaluations}
    if plan.places:
        raise OdesolveError(
            f"{plan.solver} applies {plan.places[0]!r}, whose noise is no known Gaussian: take a "
            "solver of the SDE"
        )
    if any(k >= CORRECTIONS for k in plan.streams):
        raise OdesolveError(
            f"{plan.solver} moves at fixed noise levels, which no SDE describes: take a solver of "
            "the SDE"
        )
    noise = _noise(plan)
    steps = []
    for k, (s, t) in enumerate(itertools.pairwise(path.points(plan.grid))):
        draws = LinearForm({n: w for n, w in noise[k + 1].items() if w})
        if not s.lam < t.lam:
            raise OdesolveError(
                f"the step from t={s.t:.4g} to {t.t:.4g} does not run to the data: take a grid "
                "that does"
            )
        if not draws and t.sigma > 0.0:
            raise OdesolveError(
                f"{plan.solver} draws no noise from t={s.t:.4g} to {t.t:.4g}: the estimate is of "
                "stochastic samples; for a "
                'deterministic solver give log_prob="flow"'
            )
        if k not in visited:
            raise OdesolveError(
                f"{plan.solver} does not evaluate the state at t={s.t:.4g}: take a solver that "
                "evaluates every one"
            )
        steps.append(_ItoStep(s, t, draws))
    return steps
