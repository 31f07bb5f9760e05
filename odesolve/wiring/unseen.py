"""Without data: samples that the network itself draws under each reading, and how well each reading
denoises its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odesolve.model.model import Model
from odesolve.sample import sample
from odesolve.wiring.denoising import Denoising, Fit
from odesolve.wiring.readings import Wiring, answers, questions

STEPS = 16
# plausible standard deviations of samples
NARROWEST = 0.1
WIDEST = 4.0
CLOUD = -0.1  # structure of a Gaussian cloud, by chance
AS_WELL = 0.05  # excess of a reading that denoises as well as possible
UNSURE = 2.0  # the weight of excess relative to structure


@dataclass(frozen=True)
class Own:
    """Samples (B, ...) that one reading draws, and how it denoises them.

    ``structure`` is the mean over levels of log(error / that of the best affine filter): it is
    below 0 as far as the samples have more structure than a Gaussian cloud and the reading uses it.
    """

    wiring: Wiring
    x: Tensor
    fit: Fit
    structure: float

    @property
    def holds(self) -> bool:
        """Whether the samples have structure and their own reading denoises them as well as
        possible."""
        return self.structure < CLOUD and self.fit.excess < AS_WELL

    @property
    def cost(self) -> float:
        """Low where samples have structure and their own reading denoises them as well as
        possible."""
        return self.structure + UNSURE * max(0.0, self.fit.excess)


def draw_own(
    model: Model,
    declared: Wiring,
    shape: Sequence[int],
    seed: int,
    deadline: float,
    tick: Callable[[], None] | None = None,
    paths: int | None = None,
) -> tuple[list[Own], int]:
    """The samples of the declared reading and then of the others, the likeliest first, until the
    deadline, and the number of calls."""
    readings = []
    calls = 0
    for wiring in _readings(declared, paths):
        if readings and time.monotonic() > deadline:
            break
        own, used = of_reading(model, wiring, shape, seed)
        calls += used
        if own is not None:
            readings.append(own)
        if tick is not None:
            tick()
    readings.sort(key=lambda own: own.cost)
    holds = any(
        own.wiring == declared and own.holds for own in readings
    )  # other readings that draw other data may too: none is likelier
    # and a linear network draws clouds in every reading
    if holds or (readings and readings[0].structure > CLOUD):
        readings.sort(key=lambda own: own.wiring != declared)
    return readings, calls


def _readings(declared: Wiring, paths: int | None = None) -> Iterator[Wiring]:
    """The declared reading, that of the negated network, and the usual ones: no sign, and no input
    scale but the declared one and that of EDM's networks."""
    yield declared
    yield replace(declared, sign=-declared.sign)
    for question in questions(declared, paths):
        for w in answers(question):
            own = w.input_scale == declared.input_scale and w.sigma_data == declared.sigma_data
            usual = own or w.input_scale is None or w.predicts == "edm"
            if usual and w.sign > 0 and w != declared:
                yield w


def most(declared: Wiring) -> int:
    """The largest number of readings that ``draw_own`` tries."""
    return sum(1 for _ in _readings(declared))


def of_reading(
    model: Model,
    wiring: Wiring,
    shape: Sequence[int],
    seed: int,
) -> tuple[Own | None, int]:
    """The samples of one reading, None where they are implausible, and the number of calls."""
    try:
        samples: Any = sample(
            wiring.applied(model), tuple(shape), steps=STEPS, seed=seed, progress=False
        )
    # any error for a time that the network does not know rules this reading out
    except Exception:
        return None, STEPS
    x = samples.double()
    if not NARROWEST < float((x - x.mean(0)).square().mean().sqrt()) < WIDEST:
        return None, STEPS
    denoising = halves(model, x, seed)
    fit = denoising.fit(wiring)
    if fit is None:
        return None, STEPS + denoising.calls
    affine = [denoising.without.affine(rho) for rho in fit.rho]
    structure = sum(math.log(e / least) for e, least in zip(fit.errors, affine, strict=True)) / len(
        affine
    )
    return Own(wiring, x, fit, structure), STEPS + denoising.calls


def halves(
    model: Model,
    x: Tensor,
    seed: int,
    rows: int | None = None,
    others: int | None = None,
) -> Denoising:
    """Some of the data (N, ...) to denoise, and others to compare with, in an order that the seed
    decides."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    cut = min(len(x) // 2, len(x) if rows is None else rows)
    first = order[:cut]
    rest = order[cut:][:others]
    return Denoising(model.rows(first, len(x)), x[first], x[rest], seed)
