"""A scheduler object as a plan: every call of ``step`` is probed with unit vectors of its own."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.grids import times_of
from odesolve.integrations.imported.rows import (
    ProbedRows,
    check_linear,
    ends,
    not_finite,
    units,
    without_rounding,
)
from odesolve.paths import Path
from odesolve.plans.instructions import START
from odesolve.plans.plan import Plan


def imported(
    scheduler: Any,
    steps: int | None,
    *,
    path: Path | None = None,
    predicts: str | None = None,
    start: float | None = None,
    told: bool = False,
    dtype: torch.dtype = torch.float64,
    given: Mapping[str, Any] | None = None,
    **step: Any,
) -> Plan:
    """The plan of a scheduler object with ``set_timesteps``, ``step`` and perhaps
    ``scale_model_input``, as in diffusers.

    We run a copy of it on unit vectors in place of states and network outputs. It returns its
    coefficients, in its own arithmetic (float32 in most of diffusers: 1e-7). Linearity is checked,
    not assumed.

    Args:
        scheduler: the object; it is left as it is.
        steps: the number for ``set_timesteps``; None where ``given`` has it.
        path: the path of its networks; by default what its config describes. The plan's states lie
            on it, also those of schedulers that work on x / alpha.
        predicts: what its networks predict, as for ``ode.Model``; by default what its config says.
        start: the path's time of the first state, where it is not that of the first network call
            (inversions).
        told: take the times of evaluations from those that the object passes to the network; by
            default from its noise levels, which some objects round for the network.
        dtype: of the probes.
        given: more arguments of ``set_timesteps``, such as ``sigmas`` or ``mu``.
        step: more arguments of ``step``, such as ``order``.

    Raises OdesolveError for an object that draws noise or is not linear, with the reason, and where
    its config does not say path or predicts.
    """
    who = type(scheduler).__name__
    net = _network(scheduler, path, predicts)
    probe = _SchedulerProbe(scheduler, steps, dict(given or {}), step, dtype)
    matrix = probe.rows(who)
    times, end = _times(probe, net, told, start)
    return _plan(who, net, probe, matrix, times, end)


# Tables and coefficients of schedulers are float32 as a rule, also where they are applied to
# float64 samples.
ROUNDING = 2.0**-23


@dataclass(frozen=True)
class _Network:
    """An object's networks, as its config ``described`` them: each returns ``sign`` times what a
    model with that prediction returns."""

    path: Path
    predicts: str
    sign: float = 1.0
    sigma_data: float = 0.5
    described: Any = None

    @property
    def scaled(self) -> bool:
        """Whether the network's input is divided by its standard deviation, which the network then
        does itself."""
        return self.described is not None and self.described.scaled is not None


def _network(scheduler: Any, path: Path | None, predicts: str | None) -> _Network:
    if path is not None and predicts is not None:
        return _Network(path, predicts)
    name = type(scheduler).__name__
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise OdesolveError(f"{name} has no config to read its path from: give path= and predicts=")
    known = (
        hasattr(scheduler, "alphas_cumprod")
        or "sigma_data" in config
        or name.startswith("FlowMatch")
    )
    if not known and path is None:
        raise OdesolveError(f"the config of {name} describes no path: give path= and predicts=")
    from odesolve.integrations.diffusers.network import trained

    read = trained({**config, "source": name})
    if path is not None:
        return _Network(path, read.reading.prediction, read.sign)
    return _Network(
        read.path, predicts or read.reading.prediction, read.sign, read.reading.sigma_data, read
    )


class _SchedulerProbe:
    """Runs of copies of an object.

    Coordinate 2k stands for the sample that call k gets, 2k + 1 for the network's output there: the
    state between two calls is a unit vector again, so that no coefficient is a sum over steps."""

    def __init__(
        self,
        scheduler: Any,
        steps: int | None,
        given: dict,
        step: dict,
        dtype: torch.dtype,
    ):
        self.scheduler = scheduler
        self.dtype = dtype
        self.step = step
        self.arguments = {**({} if steps is None else {"num_inference_steps": steps}), **given}
        self.fresh = self._copy()
        self.calls = len(self.fresh.timesteps)
        self.scales: list[float] = []

    def _copy(self) -> Any:
        peer = copy.deepcopy(self.scheduler)
        peer.set_timesteps(**self.arguments)
        if hasattr(peer, "set_begin_index"):  # some look their place up by a time that occurs twice
            peer.set_begin_index(0)
        return peer

    def run(self, values: Tensor, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Network inputs and results of all calls for samples and outputs ``values`` (2 calls,
        ...)."""
        peer = self._copy()
        inputs = []
        results = []
        extra = dict(self.step)
        if "return_dict" in inspect.signature(peer.step).parameters:
            extra["return_dict"] = False
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for k, t in enumerate(peer.timesteps):
                sample = values[2 * k].clone()
                inputs.append(
                    peer.scale_model_input(sample, t)
                    if hasattr(peer, "scale_model_input")
                    else sample
                )
                answer = values[2 * k + 1].clone()
                state = values[2 * k].clone()
                result = peer.step(answer, t, state, **extra)
                results.append(result[0] if isinstance(result, tuple) else result.prev_sample)
        return inputs, results

    def rows(self, who: str) -> Tensor:
        """(calls, 2 calls): what each call makes of the samples and network outputs so far."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(2 * self.calls, 1, 3, 4, 4, dtype=self.dtype, generator=generator)
        once, twice = (torch.stack(self.run(values, seed)[1]) for seed in (1, 2))
        if not bool(once.isfinite().all()):
            raise not_finite(who)
        if not torch.equal(once, twice):
            raise OdesolveError(
                f"{who} draws noise of its own, which cannot be told from its result: give one "
                "without (eta=0, no churn), or the "
                "solver that names.from_diffusers finds"
            )
        if bool(torch.stack(self.run(0.0 * values, 1)[1]).any()):
            raise OdesolveError(
                f"{who} adds something to zeros: noise of a fixed seed, or a constant, which "
                "a plan cannot contain"
            )
        inputs, results = self.run(units(2 * self.calls, self.dtype), 1)
        matrix = torch.stack(results).reshape(self.calls, -1).double()
        scales = torch.stack(inputs).reshape(self.calls, -1).double()[:, ::2]
        self.scales = scales.diagonal().tolist()
        check_linear(matrix, values, once, who)
        large = 100.0 * values  # what clips or thresholds lets small values pass
        check_linear(matrix, large, torch.stack(self.run(large, 1)[1]), who)
        return matrix


def _times(
    probe: _SchedulerProbe,
    net: _Network,
    told: bool,
    start: float | None,
) -> tuple[list[float], float | None]:
    """The path's times of all calls, and of the end where the object says it."""
    levels, end = _levels(probe, net)
    times = _times_listed(probe.fresh, net) if levels is None or told else levels
    return times if start is None else [start, *times[1:]], end


def _times_listed(peer: Any, net: _Network) -> list[float]:
    at = [float(t) for t in peer.timesteps]
    read = net.described
    if read is None:
        if net.path.training_steps is None:
            return at
        return [(t + 1) / net.path.training_steps for t in at]
    if read.kind == "vp":
        return [(t + 1) / read.steps for t in at]
    return read.level(np.array(at)).tolist()


def _levels(probe: _SchedulerProbe, net: _Network) -> tuple[list[float] | None, float | None]:
    """The path's times of an object's noise levels: None for one that counts training times
    alone."""
    sigmas = getattr(probe.fresh, "sigmas", None)
    if sigmas is None:
        return None, None
    listed = [float(s) for s in sigmas]
    levels = listed[:-1]
    if not net.scaled and any(abs(c - 1.0) > 1e-6 for c in probe.scales):
        # Works on x / alpha and divides by sqrt(1 + sigma^2) for the network: that tells which of
        # its levels it means.
        levels = _nearest(
            [*listed, *map(float, getattr(probe.fresh, "sigmas_interpol", []))], probe.scales
        )
    if len(levels) != probe.calls:
        return None, None
    *times, end = _on_path([*levels, listed[-1]], net)
    return times, end


def _nearest(listed: list[float], scales: list[float]) -> list[float]:
    targets = [math.sqrt(max(1.0 / c**2 - 1.0, 0.0)) for c in scales]
    return [min(listed, key=lambda s: abs(s - w)) for w in targets]


def _on_path(levels: list[float], net: _Network) -> list[float]:
    if net.described is not None:
        return net.described.path_times(np.array(levels))
    return times_of(net.path, torch.tensor(levels, dtype=torch.float64))


def _plan(
    who: str,
    net: _Network,
    probe: _SchedulerProbe,
    matrix: Tensor,
    times: list[float],
    end: float | None,
) -> Plan:
    if end is None:
        end = _end(net, matrix, times)
    scales = [1.0] * probe.calls if net.scaled else list(probe.scales)
    scales.append(float(net.path.alpha(end)) if any(s != 1.0 for s in scales) else 1.0)
    shares = _shares(who, net, times)
    after = [*times[1:], end]
    finished = _finished(probe, after)
    rows = ProbedRows(who, net.path, [times[0], *itertools.compress(after, finished)])
    states = [START]
    data = []
    for k, done in enumerate(finished):
        data.append(rows.evaluate(states[k], times[k]))
        row = matrix[k, : 2 * (k + 1)]
        weights = (scales[k + 1] * row).view(-1, 2).tolist()
        total: dict[str, float] = {}
        size: dict[str, float] = {}
        for (of_state, of_output), scale, (kx, kf), state, pred in zip(
            weights, scales, shares, states, data, strict=False
        ):
            own = of_state / scale
            share = of_output * net.sign / kf
            total |= {state: own - share * kx, pred: share}
            size |= {state: abs(own) + abs(share * kx), pred: abs(share)}
        states.append(rows.state(without_rounding(total, size, ROUNDING), done))
    return rows.plan(states[-1])


def _finished(probe: _SchedulerProbe, after: list[float]) -> list[bool]:
    """Whether each call finishes a step, given the time after it."""
    order = int(getattr(probe.scheduler, "order", 1))
    last = probe.calls - 1
    return ends(after, [(k + 1) % order == 0 or k == last for k in range(probe.calls)])


def _shares(who: str, net: _Network, times: list[float]) -> list[tuple[float, float]]:
    """(k_x, k_F) of every call: the data prediction is k_x x + k_F F for the network's output F.

    Raises OdesolveError where the output does not determine the data."""
    at = torch.tensor(times, dtype=torch.float64)
    kx, kf = net.path.convert(at, net.predicts, "data", net.sigma_data)
    pairs = list(zip(kx.tolist(), kf.tolist(), strict=True))
    if not all(math.isfinite(a) and math.isfinite(b) and b != 0.0 for a, b in pairs):
        raise OdesolveError(
            f"{who} asks the network where {net.predicts!r} does not determine the data: give "
            "predicts="
        )
    return pairs


def _end(net: _Network, matrix: Tensor, times: list[float]) -> float:
    """The path's time where a solve ends, by what its last row makes of data at one point."""
    points = net.path.points(times)
    rows = net.path.rows(torch.tensor(times, dtype=torch.float64), net.predicts)
    c0, c1, scale = (c.tolist() for c in rows)
    signal = noise = size = 0.0
    for j, p in enumerate(points):
        a = float(matrix[-1, 2 * j])
        b = float(matrix[-1, 2 * j + 1]) * net.sign / scale[j]
        signal += a * p.alpha + b * c0[j]
        noise += a * p.sigma + b * c1[j]
        size += abs(a * p.sigma) + abs(b * c1[j])
    if noise <= 64 * ROUNDING * size:
        return net.path.t_data
    return float(net.path.t_of_rho(noise / signal))
