"""Without data: samples that the network itself draws, read in each way, and how sure each reading
is of its own."""

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
# deviations of samples that can be meant
NARROWEST = 0.1
WIDEST = 4.0
CLOUD = -0.1  # structure of a Gaussian cloud, by chance
AS_WELL = 0.05  # excess of a reading that denoises as well as can be
UNSURE = 2.0  # what one of excess costs beside one of structure


@dataclass(frozen=True)
class Own:
    """Samples (B, ...) that one reading draws, and how it denoises them.

    ``structure`` is the mean over levels of log(error / that of the best affine filter): below 0 by
    as much as the samples are more than a Gaussian cloud and the reading knows it.
    """

    wiring: Wiring
    x: Tensor
    fit: Fit
    structure: float

    @property
    def holds(self) -> bool:
        """Whether the samples have structure, which the reading that drew them denoises as well as
        can be."""
        return self.structure < CLOUD and self.fit.excess < AS_WELL

    @property
    def cost(self) -> float:
        """Low where samples have structure and the reading that drew them denoises them as well as
        can be."""
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
    """What the declared reading and then the others draw until the deadline, the likeliest first,
    and the calls made."""
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
    )  # as others may that draw other data: none is likelier
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
    """How many readings ``draw_own`` looks at, at most."""
    return sum(1 for _ in _readings(declared))


def of_reading(
    model: Model,
    wiring: Wiring,
    shape: Sequence[int],
    seed: int,
) -> tuple[Own | None, int]:
    """What one reading draws, None where that cannot be meant, and the calls made."""
    try:
        samples: Any = sample(
            wiring.applied(model), tuple(shape), steps=STEPS, seed=seed, progress=False
        )
    # whatever a network raises for a time that it does not know, this is not how it was meant
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
