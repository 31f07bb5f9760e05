"""Where a scheduler's evaluations lie: noise levels, and the times that the network gets there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from odesolve import grids
from odesolve.doors.values import real, row
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers.checks import check_timesteps, check_whole
from odesolve.integrations.diffusers.conventions import Convention, kind_of_levels
from odesolve.integrations.diffusers.network import Trained, alphas_cumprod
from odesolve.names import levels as kinds
from odesolve.names.levels import Levels
from odesolve.planning.labels import parse_grid

# Multistep schedulers begin flows beside t = 1, where the log-SNR is infinite.
NUDGE = 1e-6


class LevelRequest(NamedTuple):
    """The arguments of ``set_timesteps``."""

    n: int
    timesteps: Levels | None = None
    sigmas: Levels | None = None
    mu: float | None = None

    def key(self) -> tuple:
        """The same as plain values."""
        timesteps, sigmas = (
            None if v is None else tuple(v.tolist()) for v in (self.timesteps, self.sigmas)
        )
        return self.n, timesteps, sigmas, self.mu


class Placed(NamedTuple):
    """n + 1 noise levels from noise to data, and the network's times at the first n of them."""

    levels: Levels
    times: Levels


def level_request(
    n: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> LevelRequest:
    """The arguments of ``set_timesteps``, checked. Raises OdesolveError where they contradict each
    other."""
    given = {"timesteps": timesteps, "sigmas": sigmas}
    arrays = {k: _array(k, v) for k, v in given.items() if v is not None}
    ends = "sigmas" in arrays and len(arrays["sigmas"]) > 1 and arrays["sigmas"][-1] == 0.0
    counts = {k: len(v) - (k == "sigmas" and ends) for k, v in arrays.items()}
    if n is not None:
        counts["num_inference_steps"] = grids.count(n, "num_inference_steps")
    if len(set(counts.values())) != 1:
        texts = ", ".join(f"{k}: {v}" for k, v in counts.items()) or "nothing"
        raise OdesolveError(
            f"the number of steps is not clear from {texts}: give num_inference_steps, timesteps "
            "or sigmas"
        )
    steps = next(iter(counts.values()))
    steps = grids.count(steps, "num_inference_steps")
    mu = (
        None
        if mu is None
        else real("mu", mu, "the exponent of the shift, such as 1.15", -50.0, 50.0)
    )
    return LevelRequest(steps, arrays.get("timesteps"), arrays.get("sigmas"), mu)


def placed(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    what: LevelRequest,
) -> Placed:
    """Noise levels and times for a request. Raises OdesolveError where they do not fall from noise
    to data."""
    kind = kind_of_levels(config.get("grid"), config)
    if kind is not None and kind not in kinds.KINDS:
        placement = _by_rule(kind, trained, what)
    elif trained.kind == "flow":
        placement = _flow(trained, convention, config, kind, what)
    elif trained.kind == "edm":
        placement = _edm(trained, config, kind, what)
    else:
        placement = _table(trained, convention, config, kind, what)
    if not bool((np.diff(placement.levels) < 0).all()):
        raise OdesolveError(
            f"the noise levels do not fall: {placement.levels.tolist()[:8]} ...; give timesteps or "
            "sigmas that do"
        )
    return placement


def _array(name: str, values: Sequence[float]) -> Levels:
    out = row(name, values, "a list of numbers").numpy()
    if not np.isfinite(out).all() or out.size == 0:
        raise OdesolveError(f"{name} are {list(values)[:8]}: give at least one finite number")
    return out


def _by_rule(label: str, trained: Trained, what: LevelRequest) -> Placed:
    """One of our own grids, by its label."""
    if what.timesteps is not None or what.sigmas is not None:
        raise OdesolveError(
            f"grid={label!r} places the times itself: give either it or timesteps and sigmas"
        )
    times = grids.make(parse_grid(label), trained.path, what.n)
    levels = trained.levels_at(list(times))
    return Placed(levels, trained.time(levels[:-1]))


def _ended(levels: Levels, last: float) -> Levels:
    """With the level that follows the last evaluation; zero where that would be no step."""
    return np.append(levels, last if last < levels[-1] * (1 - 1e-6) else 0.0)


def _table(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    kind: str | None,
    what: LevelRequest,
) -> Placed:
    if what.timesteps is not None:
        check_timesteps(what.timesteps, len(trained.table))
    if what.sigmas is not None:
        return _of_sigmas(trained, convention, config, what)
    at, levels = _positions(trained, convention, config, what)
    if kind is not None:
        levels = _spaced(trained, convention, config, kind, what.n, levels)
        at = trained.time(levels)
    final = config.get("final_sigmas_type") or convention.final
    if final == "alpha":
        final = "zero" if config.get("set_alpha_to_one", True) else "sigma_min"
    times = _rounded(at, convention, config, kind)
    if kind is None and what.timesteps is not None:
        check_whole(at, times)
    return Placed(_ended(levels, trained.table[0] if final == "sigma_min" else 0.0), times)


def _of_sigmas(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    what: LevelRequest,
) -> Placed:
    """The levels that the user lists, to the data end, and their times unless those are listed,
    too."""
    assert what.sigmas is not None
    levels = what.sigmas if what.sigmas[-1] else what.sigmas[:-1]
    times = what.timesteps
    if times is None:
        times = _rounded(trained.time(levels), convention, config, "karras")
    return Placed(np.append(levels, 0.0), times)


def _positions(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    what: LevelRequest,
) -> tuple[np.ndarray, np.ndarray]:
    """Places in the table of training, and the levels there."""
    table = trained.table
    at = what.timesteps
    if at is None:
        at = kinds.positions(
            config.get("timestep_spacing") or convention.spacing,
            what.n,
            _clipped(trained, config) if convention.inner else len(table),
            int(config.get("steps_offset") or 0),
            convention.inner,
            convention.whole,
        )
    return at, np.interp(at, np.arange(len(table)), table)


def _spaced(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    kind: str,
    n: int,
    levels: np.ndarray,
) -> np.ndarray:
    """n levels spaced by a rule, over the whole table or over the levels themselves."""
    table = trained.table
    span = (table[0], table[-1]) if convention.table else (levels[-1], levels[0])
    low, high = _ends(config, span)
    return kinds.spaced(kind, n, low, high)


def _ends(config: Mapping[str, Any], otherwise: Iterable[float]) -> tuple[float, float]:
    """The lowest and the highest level that a config names, or these."""
    low, high = otherwise
    return float(config.get("sigma_min") or low), float(config.get("sigma_max") or high)


def _clipped(trained: Trained, config: Mapping[str, Any]) -> int:
    """Number of training steps whose half log-SNR is at least ``lambda_min_clipped``."""
    lowest = float(config.get("lambda_min_clipped") or -math.inf)
    return max(1, int((-np.log(trained.table) >= lowest).sum()))


def _rounded(
    at: Levels,
    convention: Convention,
    config: Mapping[str, Any],
    kind: str | None,
) -> Levels:
    """The network's times: the positions, rounded as the class does it (or cut, where it cuts)."""
    if convention.rounds not in ("all", kind) or config.get("exact_timesteps"):
        return at
    cut = kind in ("exponential", "beta") or (
        kind and config.get("beta_schedule") == "squaredcos_cap_v2"
    )
    if cut:
        return np.floor(at)
    return np.round(at)


def _flow(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    kind: str | None,
    what: LevelRequest,
) -> Placed:
    match = convention.flow == "match"
    shift = _shift(config, what.mu)
    # Karras levels of multistep schedulers are those of sigma/alpha over the table that their
    # config describes; their other kinds leave the range of flows in diffusers, and are placed here
    # as its flow schedulers do.
    if kind == "karras" and not match:
        levels = _karras_flow(config, what.n)
    else:
        levels = shift(_unshifted(trained, convention, config, what, shift))
        levels = _ended_at(config, levels)
        if kind is not None:
            levels = kinds.spaced(kind, what.n, levels[-1], levels[0])
    if not match and levels[0] > 1 - NUDGE:
        levels = np.concatenate([[1 - NUDGE], levels[1:]])
    times = what.timesteps if what.timesteps is not None else trained.time(levels)
    if convention.rounds == "all" and not config.get("exact_timesteps"):
        cut = np.floor(times)
        if what.timesteps is not None:
            check_whole(times, cut)
        times = cut
    return Placed(np.append(levels, 0.0), times)


def _karras_flow(config: Mapping[str, Any], n: int) -> np.ndarray:
    """Karras levels of sigma/alpha, as those of a flow."""
    bar = alphas_cumprod(config).numpy().astype(np.float64)
    ratios = (((1 - a) / a) ** 0.5 for a in bar[[0, -1]])
    low, high = _ends(config, ratios)
    ratio = kinds.spaced("karras", n, low, high)
    return ratio / (1 + ratio)


def _ended_at(config: Mapping[str, Any], levels: np.ndarray) -> np.ndarray:
    """The levels of a flow stretched to end where its config says."""
    if not config.get("shift_terminal") or len(levels) <= 1:
        return levels
    left = 1 - levels  # divided as diffusers divides it: times are cut to whole numbers
    return 1 - left / (left[-1] / (1 - float(config["shift_terminal"])))


def _unshifted(
    trained: Trained,
    convention: Convention,
    config: Mapping[str, Any],
    what: LevelRequest,
    shift: Callable[[float], float],
) -> np.ndarray:
    """The levels of a flow before the shift: those that the user lists, or the class's own."""
    n = what.n
    last = 1 / trained.steps
    if what.sigmas is not None:
        return what.sigmas[:n]
    if what.timesteps is not None:
        return trained.level(what.timesteps)
    if convention.flow == "match":
        # The ends of the shifted table, shifted once more afterwards: the published habit.
        ends = (last, 1.0)
        low, high = ends if config.get("use_dynamic_shifting") else map(shift, ends)
        return np.linspace(high, low, n)
    if convention.flow == "unipc":
        return np.linspace(1.0, last, n + 1)[:-1]
    return 1.0 - np.linspace(1.0, last, n + 1)[:0:-1]


def _shift(config: Mapping[str, Any], mu: float | None):
    """The map of flow times that moves them towards the noise: k s / (1 + (k - 1) s)."""
    k = float(config.get("shift") or config.get("flow_shift") or 1.0)
    if config.get("use_dynamic_shifting"):
        if mu is None:
            raise OdesolveError(
                "the config shifts times by the size of the picture: give mu= to set_timesteps"
            )
        k = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    return lambda s: k * s / (1 + (k - 1) * s)


def _edm(
    trained: Trained, config: Mapping[str, Any], kind: str | None, what: LevelRequest
) -> Placed:
    low = trained.path.t_min
    high = trained.path.t_max
    if what.timesteps is not None and what.sigmas is None:
        raise OdesolveError(
            "a network in EDM's scaling takes noise levels: give sigmas=, or num_inference_steps"
        )
    if what.sigmas is not None:
        levels = what.sigmas[: what.n]
    else:
        kind = kind or config.get("sigma_schedule")
        if kind is None:
            raise OdesolveError(
                "the config does not say how noise levels are spaced: give grid='karras' or "
                "'exponential'"
            )
        levels = kinds.spaced(
            kind,
            what.n,
            low,
            high,
            **({"rho": float(config.get("rho", 7.0))} if kind == "karras" else {}),
        )
    times = what.timesteps if what.timesteps is not None else trained.time(levels)
    return Placed(
        _ended(levels, low if config.get("final_sigmas_type") == "sigma_min" else 0.0), times
    )
