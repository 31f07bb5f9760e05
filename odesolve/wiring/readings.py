"""The possible readings of a network: path and direction, prediction, time and input scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.model.model import Model
from odesolve.model.reading_text import KNOWN, Time, typed_reading
from odesolve.paths import EDM, PREDICTIONS, VE, Discrete, Flipped, Path

SCALES = (1.0, 1000.0)
DEVIATIONS = (0.5, 1.0)
HIGHEST = 1e4  # sigma/alpha, where a path has no signal left at its noise end


@dataclass(frozen=True)
class Wiring:
    """One way to read a network: the arguments of ``ode.Model`` that decide what its answers mean.

    ``sign`` is -1 where the reading negates the network's output.
    """

    path: Path
    predicts: str
    time: Time
    time_scale: float = 1.0
    input_scale: str | None = None
    sigma_data: float = 0.5
    sign: int = 1

    @classmethod
    def of(cls, model: Model) -> Wiring:
        """The reading of a model."""
        read = model.reading
        return cls(
            model.path,
            read.prediction,
            model.time,
            model.time_scale,
            read.input_scale,
            read.sigma_data,
        )

    def applied(self, model: Model) -> Model:
        """A model's network under this reading, with its conditions and nothing else: no guidance,
        no transform of x0."""
        net = model.net if self.sign > 0 else Negated(model.net)
        return Model(
            net,
            self.path,
            self.predicts,
            time=self.time,
            time_scale=self.time_scale,
            input_scale=self.input_scale,
            sigma_data=self.sigma_data,
            dtype=model.dtype,
            learned_variance=model.reading.variance,
            cond=model.cond,
        )

    @property
    def base(self) -> Path:
        """The path with data at t = 0."""
        if isinstance(self.path, Flipped):
            return self.path.base
        return self.path

    @property
    def flipped(self) -> bool:
        """Whether time runs from noise to data."""
        return isinstance(self.path, Flipped)

    def same_question(self) -> Wiring:
        """A key for readings that call the network in the same way: predictions and signs only
        change how its output is read."""
        return replace(self, predicts="noise", sign=1)

    def __str__(self) -> str:
        net = "net" if self.sign > 0 else "lambda x, t: -net(x, t)"
        return f"ode.Model({net}, {', '.join(self.arguments())})"

    def arguments(self) -> list[str]:
        """The arguments as a user types them, without defaults."""
        return typed_reading(
            self.path, self.predicts, self.time, self.time_scale, self.input_scale, self.sigma_data
        )

    def differs(self, other: Wiring) -> list[str]:
        """Which of path, direction, prediction, time, input and sign differ from the other's."""
        mine, theirs = (w.time_scale if w.time == "t" else 1.0 for w in (self, other))
        apart = {
            "path": self.base != other.base,
            "direction": self.flipped != other.flipped,
            "prediction": self.predicts != other.predicts,
            "time": self.time != other.time or mine != theirs,
            "input": self.input_scale != other.input_scale
            or self._deviation() != other._deviation(),
            "sign": self.sign != other.sign,
        }
        return [name for name, is_so in apart.items() if is_so]

    def _deviation(self) -> float | None:
        if "edm" in (self.predicts, self.input_scale):
            return self.sigma_data
        return None


class Negated:
    """A network with negated output."""

    def __init__(self, net: Callable[..., Tensor]):
        self.net = net
        self.two_times = getattr(net, "two_times", False)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return -self.net(*args, **kwargs)


def cosine_table() -> Discrete:
    """The table of 1000 steps of improved DDPM (Nichol and Dhariwal 2021, eq. 17), no beta above
    0.999."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / 1000) / level(i / 1000), 0.999) for i in range(1000)]
    return Discrete.from_betas(betas, "cosine")


def known_paths(declared: Path) -> list[Path]:
    """Paths to try, data at t = 0: the declared one, those of the library, and the tables that most
    networks were trained on."""
    own = declared.base if isinstance(declared, Flipped) else declared
    others = [*KNOWN, Discrete.ddpm(), Discrete.stable_diffusion(), cosine_table()]
    return [own, *(p for p in others if p != own)]


def questions(declared: Wiring, paths: int | None = None) -> Iterator[Wiring]:
    """Readings with different inputs of the network, the declared one first, then those of its own
    path.

    ``paths`` limits them to that many paths, by default all.
    """
    first = declared.same_question()
    known = {first}
    yield first
    for path in known_paths(declared.path)[:paths]:
        for question in _of_path(path, declared):
            if question not in known:
                known.add(question)
                yield question


def _of_path(path: Path, declared: Wiring) -> Iterator[Wiring]:
    own = path == declared.base
    inputs = _inputs(declared) if own or isinstance(path, EDM | VE) else [(None, 0.5)]
    scales = dict.fromkeys((*SCALES, declared.time_scale))
    rules: list[tuple[Time, float]] = [("t", s) for s in scales]
    rules += [("index", 1.0)] if path.training_steps else []
    rules += [(declared.time, declared.time_scale)] if callable(declared.time) else []
    for (rule, scale), (scaled, deviation) in itertools.product(rules, inputs):
        for way in (path, path.flipped()):
            yield Wiring(way, "noise", rule, scale, scaled, deviation)
    for rule, (scaled, deviation) in itertools.product(("sigma", "c_noise"), inputs):
        yield Wiring(path, "noise", rule, 1.0, scaled, deviation)


def _inputs(declared: Wiring) -> list[tuple[str | None, float]]:
    deviations = dict.fromkeys((declared.sigma_data, *DEVIATIONS))
    return [(None, declared.sigma_data), *(("edm", d) for d in deviations)]


def answers(question: Wiring) -> Iterator[Wiring]:
    """All readings of the answers to one question; only a network with EDM's input scaling predicts
    "edm"."""
    kinds = PREDICTIONS if question.input_scale == "edm" else [p for p in PREDICTIONS if p != "edm"]
    for predicts, sign in itertools.product(kinds, (1, -1)):
        yield replace(question, predicts=predicts, sign=sign)


def levels_inside(path: Path) -> tuple[float, float]:
    """The least and the largest noise to signal ratio at which a path is checked."""
    ends = path.rho(torch.tensor([path.t_min, path.t_noise], dtype=torch.float64)).tolist()
    highest = ends[1] if math.isfinite(ends[1]) else HIGHEST
    return 1.01 * ends[0], 0.99 * highest
