"""How well a network denoises known data under different readings of its output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odesolve.model.model import Model
from odesolve.wiring.attainable import Attainable
from odesolve.wiring.readings import Wiring, answers, levels_inside

LEVELS = (0.4, 1.0, 0.15, 2.5)  # of the data's standard deviation, the most informative first
# excess over the best linear filter, and by how much the outputs must lower the excess
NEAR = 0.05
OWED = 0.1
_LEAST = 1e-12


@dataclass(frozen=True)
class Fit:
    """How well one reading denoises.

    ``excess`` is the mean of ``logs``, log(mean squared error / the least error attainable without
    a network) at each noise level, so 0.1 is ten per cent more; ``rho`` and ``errors`` are the
    noise to signal ratios and the mean squared errors at them."""

    wiring: Wiring
    excess: float
    rho: tuple[float, ...]
    errors: tuple[float, ...]
    logs: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """Inner products of data x, noisy data y and the network's output f at one level: (yy, ff, xx,
    yf, yx, fx).

    They determine the error of any reading that is linear in y and f; ``rows`` has those of each
    row (n,), ``means`` the means."""

    rows: tuple[Tensor, ...]
    means: tuple[float, ...]

    @classmethod
    def of(cls, x: Tensor, y: Tensor, f: Tensor) -> Answer:
        """The products for data, noisy data and outputs (n, D)."""
        rows = tuple((a * b).mean(1) for a, b in ((y, y), (f, f), (x, x), (y, f), (y, x), (f, x)))
        return cls(rows, tuple(torch.stack([r.mean() for r in rows]).tolist()))

    def least(self) -> float:
        """The error of the best mix of noisy rows and outputs."""
        yy, ff, xx, yf, yx, fx = self.means
        det = yy * ff - yf**2
        if det <= 1e-9 * yy * ff:
            return xx - yx**2 / yy
        return max(xx - (ff * yx**2 - 2 * yf * yx * fx + yy * fx**2) / det, _LEAST)


def _error(products: tuple, ky: float, kf: float):
    """Mean squared error of the denoised rows ky y + kf f, from their inner products."""
    yy, ff, xx, yf, yx, fx = products
    return ky**2 * yy + kf**2 * ff + xx + 2 * (ky * kf * yf - ky * yx - kf * fx)


@dataclass(frozen=True)
class DenoisingTask:
    """A question at one level: noise to signal ratio, the network's answer, and the data from it by
    every prediction.

    ``data`` has (ky, kf) of the data prediction ky y + kf f for each prediction.
    """

    rho: float
    data: dict[str, tuple[float, float]]
    answer: Answer | None


class Denoising:
    """A network on data rows (n, ...) under noise of several levels; questions with the same input
    share one call.

    ``rows`` and ``others`` are disjoint parts of the data, ``calls`` counts the calls of the
    network."""

    def __init__(self, model: Model, rows: Tensor, others: Tensor, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.model = model
        self.rows = rows
        self.calls = 0
        self.noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype).to(rows.device)
        self.without = Attainable(rows.flatten(1), others.flatten(1), self.noise.flatten(1))
        deviation = math.sqrt(self.without.variance)
        self.levels = [share * deviation for share in LEVELS]
        self._tasks: dict[tuple[Wiring, float], DenoisingTask] = {}
        self._answers: dict[tuple[str, str, str], Answer | None] = {}

    def fit(self, wiring: Wiring, levels: int | None = None) -> Fit | None:
        """How well a reading denoises at the first ``levels`` levels; None where the network cannot
        take its input."""
        errors = []
        rhos = []
        for level in self.levels[:levels]:
            task = self._at(wiring.same_question(), level)
            if task.answer is None:
                return None
            ky, kf = task.data[wiring.predicts]
            errors.append(max(_error(task.answer.means, ky, kf * wiring.sign), _LEAST))
            rhos.append(task.rho)
        if not all(map(math.isfinite, errors)):
            return None
        logs = [math.log(e / self.without.best(rho)) for e, rho in zip(errors, rhos, strict=True)]
        return Fit(wiring, sum(logs) / len(logs), tuple(rhos), tuple(errors), tuple(logs))

    def behind(self, fit: Fit, other: Fit) -> float:
        """By how many standard errors one reading is worse than another on the same rows."""
        apart = self._each(fit) - self._each(other)
        spread = float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
        return (fit.excess - other.excess) / max(spread, 1e-12)

    def filters(self, fit: Fit) -> bool:
        """Whether a reading denoises as well as the best multiple of the noisy rows, thanks to the
        network's answers."""
        blank = linear = 0.0
        for level in self.levels:
            task = self._at(fit.wiring.same_question(), level)
            assert task.answer is not None, "the fit was made from it"
            least = self.without.best(task.rho)
            unanswered = _error(task.answer.means, task.data[fit.wiring.predicts][0], 0.0)
            blank += math.log(max(unanswered, _LEAST) / least) / len(self.levels)
            linear += math.log(self.without.linear(task.rho) / least) / len(self.levels)
        return fit.excess < linear + NEAR and fit.excess < blank - OWED

    def _each(self, fit: Fit) -> Tensor:
        """Each row's contribution to the excess, (n,), to first order and up to a constant."""
        shares = []
        for level, error in zip(self.levels, fit.errors, strict=True):
            task = self._at(fit.wiring.same_question(), level)
            assert task.answer is not None, "the fit was made from it"
            ky, kf = task.data[fit.wiring.predicts]
            shares.append(_error(task.answer.rows, ky, kf * fit.wiring.sign) / error)
        return torch.stack(shares).mean(0)

    def _at(self, question: Wiring, level: float) -> DenoisingTask:
        """A question at a level, or as near to it as its path goes."""
        key = question, level
        if key not in self._tasks:
            self._tasks[key] = self._placed(question, level)
        return self._tasks[key]

    def _placed(self, question: Wiring, level: float) -> DenoisingTask:
        reader = question.applied(self.model)
        path = question.path
        low, high = levels_inside(path)
        t = path.t_of_rho(min(max(level, low), high))
        steps = path.training_steps
        if steps is not None and question.time == "index":
            first = 0 if question.flipped else 1
            t = (t * steps).round().clamp(first, first + steps - 1) / steps
        rho = float(path.rho(t))
        alpha = float(path.alpha(t))
        scale = alpha * float(reader.reading.c_in(path, t))
        time = float(reader.network_times(t.reshape(1)))
        key = f"{scale:.5g}", f"{time:.6g}", f"{rho:.6g}"
        if key not in self._answers:
            self._answers[key] = self._ask(scale, time, rho)
        return DenoisingTask(rho, _data_from(question, t, alpha), self._answers[key])

    def _ask(self, scale: float, time: float, rho: float) -> Answer | None:
        y = self.rows + rho * self.noise
        dtype = self.model.dtype or torch.float32
        each = (len(y), 2) if self.model.reading.two_times else (len(y),)
        t = torch.full(each, time, dtype=torch.promote_types(dtype, torch.float32), device=y.device)
        self.calls += 1
        try:
            with torch.no_grad():
                (out,) = self.model.evaluate((scale * y).to(dtype), y.to(dtype), t, ("cond",))
        # any error for a time that the network does not know rules this reading out
        except Exception:
            return None
        answer = Answer.of(self.rows.flatten(1), y.flatten(1), out.to(y.dtype).flatten(1))
        if math.isfinite(answer.means[1]):
            return answer
        return None

    def informed(self, wiring: Wiring) -> float | None:
        """The share of the knowable that a network's answers contain, 0 to about 1, whatever they
        mean.

        Compares the error of the best mix of noisy rows and answers with that of the noisy rows
        alone and the least without a network (in logarithms, over the levels where these two
        differ). None where they do not."""
        share = 0.0
        can_be = 0.0
        for level in self.levels:
            task = self._at(wiring.same_question(), level)
            if task.answer is None:
                return 0.0
            alone = self.without.linear(task.rho)
            best = self.without.best(task.rho)
            if best > 0.9 * alone:
                continue
            can_be += math.log(alone / best)
            share += math.log(alone / min(alone, task.answer.least()))
        return share / can_be if can_be else None


def _data_from(question: Wiring, t: Tensor, alpha: float) -> dict[str, tuple[float, float]]:
    kinds = {w.predicts for w in answers(question)}
    read = {k: question.path.convert(t, k, "data", question.sigma_data) for k in kinds}
    return {k: (alpha * float(kx), float(kf)) for k, (kx, kf) in read.items()}
