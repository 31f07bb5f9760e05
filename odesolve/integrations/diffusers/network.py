"""What a scheduler's config says of the network: the path it was trained on, what it predicts and
how it is told the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odesolve.errors import OdesolveError, unknown
from odesolve.grids import HALF, times_of
from odesolve.lowering.lower import Reading
from odesolve.model.transforms import Clip, Threshold
from odesolve.names.betas import LOWEST, alphas_cumprod
from odesolve.names.levels import Levels
from odesolve.paths import EDM, Discrete, Linear, Path

FLOOR = 1e-12  # the cosine table ends at 2e-9
PREDICTIONS = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}


@dataclass(frozen=True)
class Trained:
    """A network as its scheduler's config describes it.

    ``levels`` are noise levels as diffusers writes them: sigma/alpha, for flows the time from 0 to
    1. ``table`` (N,) holds those that a discrete network was trained on, rising. ``sign`` is -1
    where the network predicts the negative of what ``reading`` says.
    """

    kind: str  # "vp", "flow" or "edm"
    path: Path
    reading: Reading
    steps: int
    sign: float = 1.0
    inverted: bool = False
    # sigma_data, where the network's input is divided by its standard deviation
    scaled: float | None = None
    table: Levels = field(default_factory=lambda: np.empty(0), compare=False)
    # what the network is told at noise levels, not rounded
    time: Callable[[Levels], Levels] = np.asarray
    level: Callable[[Levels], Levels] = np.asarray  # its inverse
    functions: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict, compare=False)

    def path_times(self, levels: Levels) -> list[float]:
        """The path's times at noise levels. Raises OdesolveError for levels beyond the table by
        more than half precision."""
        if self.kind != "vp":
            return levels.tolist()
        top = self.table[-1]
        near = levels <= top * (1.0 + HALF["float16"])
        return times_of(
            self.path, torch.from_numpy(np.where(near, np.minimum(levels, top), levels))
        )

    def levels_at(self, times: list[float]) -> Levels:
        """Noise levels at times of the path."""
        t = torch.tensor(times, dtype=torch.float64)
        return (self.path.rho(t) if self.kind == "vp" else t).numpy()

    def input_scale(self, level: float) -> float:
        """Factor from the state at a noise level to the network's input."""
        if self.scaled is None:
            return 1.0
        return 1.0 / math.hypot(level, self.scaled)


def trained(config: Mapping[str, Any], lowest: float = LOWEST) -> Trained:
    """Read a config; ``lowest`` stands for a terminal cumulative alpha of zero. Raises
    OdesolveError for what it cannot be."""
    prediction = config.get("prediction_type", "epsilon")
    source = config.get("source") or ""
    functions = _functions(config)
    if (
        source.startswith("FlowMatch")
        or config.get("use_flow_sigmas")
        or prediction == "flow_prediction"
    ):
        return _flow(config, source, prediction, functions)
    if "sigma_data" in config or config.get("timestep_type") == "continuous":
        return _edm(config, prediction, functions)
    if config.get("interpolation_type", "linear") != "linear":
        raise OdesolveError(
            "interpolation_type of the config has no place here: give grid='exponential', which "
            "it means"
        )
    alphas = alphas_cumprod(config, lowest)
    path = Discrete(alphas, floor=FLOOR)
    rounded = ((1 - alphas) / alphas).sqrt().numpy()
    # Logarithms in float32 too: they decide which side of a whole number a time falls on.
    table, logs = rounded.astype(np.float64), np.log(rounded).astype(np.float64)
    at = np.arange(len(alphas), dtype=np.float64)

    def time(levels: Levels) -> Levels:
        return np.interp(np.log(np.maximum(levels, 1e-10)), logs, at)

    def level(times: Levels) -> Levels:
        return np.interp(times, at, table)

    variance = str(config.get("variance_type")) in ("learned", "learned_range")
    reading = Reading(_known(prediction), applies=tuple(functions), variance=variance)
    return Trained(
        "vp", path, reading, len(table), table=table, time=time, level=level, functions=functions
    )


def _flow(config: Mapping[str, Any], source: str, prediction: str, functions) -> Trained:
    steps = int(config.get("num_train_timesteps", 1000))
    if source.startswith("FlowMatch"):
        prediction = "flow_prediction"  # those schedulers know no other
    inverted = bool(config.get("invert_sigmas"))

    def time(levels: Levels) -> Levels:
        return (1.0 - levels if inverted else levels) * steps

    def level(times: Levels) -> Levels:
        return 1.0 - times / steps if inverted else times / steps

    reading = Reading(_known(prediction), applies=tuple(functions))
    sign = -1.0 if inverted else 1.0
    return Trained(
        "flow",
        Linear(),
        reading,
        steps,
        sign,
        inverted,
        time=time,
        level=level,
        functions=functions,
    )


def _edm(config: Mapping[str, Any], prediction: str, functions) -> Trained:
    data = float(config.get("sigma_data") or 1.0)
    low = float(config.get("sigma_min") or 0.002)
    high = float(config.get("sigma_max") or 80.0)
    if prediction not in ("epsilon", "v_prediction"):
        raise OdesolveError(
            f"prediction_type={prediction!r} for a network in EDM's scaling: give epsilon or "
            "v_prediction"
        )
    angle = str(config.get("source")).startswith("Cosine")

    def time(levels: Levels) -> Levels:
        if angle:
            return np.arctan(levels) * (2 / math.pi)
        return 0.25 * np.log(levels)

    def level(times: Levels) -> Levels:
        if angle:
            return np.tan(times * (math.pi / 2))
        return np.exp(4.0 * times)

    sign = 1.0 if prediction == "epsilon" else -1.0
    reading = Reading("edm", sigma_data=data, applies=tuple(functions))
    steps = int(config.get("num_train_timesteps", 1000))
    return Trained(
        "edm",
        EDM(high, low),
        reading,
        steps,
        sign,
        scaled=data,
        time=time,
        level=level,
        functions=functions,
    )


def _known(prediction: str) -> str:
    if prediction not in PREDICTIONS:
        raise unknown("prediction_type", prediction, PREDICTIONS)
    return PREDICTIONS[prediction]


def _functions(config: Mapping[str, Any]) -> dict[str, Callable[..., Tensor]]:
    if config.get("thresholding"):
        q = config.get("dynamic_thresholding_ratio", 0.995)
        top = config.get("sample_max_value", 1.0)
        return {"threshold": Threshold(float(q), 1.0, float(top))}
    if config.get("clip_sample"):
        return {"clip": Clip(float(config.get("clip_sample_range", 1.0)))}
    return {}
