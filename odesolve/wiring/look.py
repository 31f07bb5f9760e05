"""``ode.check``: whether a network is read as it was trained."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import count, number
from odesolve.doors.convention import parameters
from odesolve.doors.keywords import door
from odesolve.errors import OdesolveError, warn
from odesolve.functions.steadiness import modules_of
from odesolve.model.model import Model
from odesolve.process.progress import Bar
from odesolve.sampling.start import shape_of
from odesolve.wiring import behaviour, layout, unseen, verdicts
from odesolve.wiring.readings import Wiring
from odesolve.wiring.result import Check, Finding
from odesolve.wiring.search import ReadingSearch

# rows per level, for samples of up to this many numbers
ROWS = ((64, 512), (1024, 128), (math.inf, 32))
OTHERS = 2048
FEW = 16
# excess above which data in another scale are tried, and by how much they must fit better
DOUBTFUL = 0.1
FAR_BETTER = 0.3
# samples and excess of the check that warns without a call of ``check``
ENOUGH = 32
MOST = 64
CLEAR = 0.2


@door("ode.check", seed=count(0, 2**64 - 1), seconds=number(above=0.0))
def check(
    model: Model,
    data: Any = None,
    *,
    noise: Sequence[int] | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    progress: bool | None = None,
) -> Check:
    """Whether a network is read as it was trained: path and direction of time, prediction, time
    scale, layout and scale of data.

    The check denoises known data under known noise with all common readings of the network
    (``odesolve.paths`` both ways, predictions, times), at four noise levels: the reading that the
    network was trained with leaves the least mean squared error. It also checks that the network is
    reproducible, in eval mode, of one dtype and on one device, and that the rows of a batch are
    independent.

    Args:
        model: an ``ode.Model``, with the conditions of the data (one row per sample, or one for
            all). The check leaves out guidance and transforms of x0.
        data: samples (N, ...) as the network was trained on, 4 at least; some hundred are better.
            Without data the network's own samples take their place: each reading has to denoise its
            own samples. That test is weaker, and the report says so.
        noise: without data, the shape of samples (B, ...) to draw.
        seed: of the noise.
        seconds: about how long the check may take; with less time it tries fewer readings, those
            near the declared one first.
        progress: show a bar; by default on work longer than a second, on a terminal (in a log,
            lines).

    Returns a ``Check``: ``print`` it, or look at ``ok``, ``findings``, ``best``, ``model``. The
    network's mode is left as it was.
    Raises OdesolveError for data or shapes that cannot be used, and where the network cannot be
    called at all.

    The criterion is that the posterior mean has the least mean squared error (Robbins 1956,
    Miyasawa 1961).

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], std=0.2)
        >>> net = problem.model(ode.paths.VP(), "noise").net
        >>> model = ode.Model(net, ode.paths.VP(), predicts="velocity")
        >>> found = ode.check(model, problem.sample(512))
        >>> found.status, found["prediction"].typed
        ('wrong', 'predicts="noise"')
    """
    begun = time.monotonic()
    if (data is None) == (noise is None):
        raise OdesolveError(
            "give data=samples (N, ...) to check with, or without any the shape "
            "noise=(64, 3, 32, 32)"
        )
    noise = None if noise is None else shape_of(noise)
    report = Check([behaviour.mode(model.net)], data=data is not None)
    expected = _expected(Wiring.of(model), data is not None)
    with _evaluated(model.net), Bar(expected, progress, " readings") as bar:
        _look(report, model, data, noise, seed, (begun, begun + seconds), bar)
    report.seconds = time.monotonic() - begun
    return report


def _expected(declared: Wiring, data: bool) -> int:
    """The largest number of readings that the check tries."""
    return ReadingSearch.most(declared) + (0 if data else unseen.most(declared))


def warn_of_wiring(model: Model, shape: Sequence[int], seed: int = 0) -> None:
    """Warn where another reading on the declared path draws samples of clearly more structure, and
    denoises them better.

    The light form of ``check`` without data: some hundred calls, on samples of this shape, (B, ...)
    with the batch first."""
    changed = (
        model.reading.guidance is not None or model.reading.classifier or model.reading.applies
    )
    if changed or shape[0] < ENOUGH:
        return
    declared = Wiring.of(model)
    few = torch.arange(min(MOST, shape[0]))
    model = model.rows(few, shape[0])
    with _evaluated(model.net):
        draws, _ = unseen.draw_own(model, declared, (len(few), *shape[1:]), seed, math.inf, paths=1)
        if not draws or draws[0].structure > unseen.CLOUD or draws[0].wiring == declared:
            return
        search = ReadingSearch(unseen.halves(model, draws[0].x, seed), declared)
        search.narrow()
        own, (best, _) = search.own(), search.best()
    if own is None or (own.excess - best.excess > CLEAR and search.beaten(own, best)):
        apart = " and ".join(best.wiring.differs(declared))
        advice = f"the network draws and denoises better with another {apart}: {best.wiring}"
        warn(f"{advice}; ode.check(model, data) says more")


def _look(
    report: Check,
    model: Model,
    data: Any,
    noise: Sequence[int] | None,
    seed: int,
    span: tuple[float, float],
    bar: Callable[[float], None] | None,
) -> None:
    tick = None if bar is None else _counted(bar, _expected(Wiring.of(model), data is not None))
    if data is not None:
        x = _looked_at(report, model, data)
    else:
        x = _draw_data(report, model, noise, seed, span, tick)
    network = _answer_probe(model, x)
    report.findings += behaviour.of_network(network)
    search = _searched(model, x, seed, span[1], tick)
    report.calls += network.calls + search.denoising.calls
    if data is not None and search.fits and search.fits[0].excess > DOUBTFUL:
        search = _rescaled(report, model, x, search, seed, span[1], tick)
    verdicts.conclude(report, search)
    if search.left_out:
        says = f"{search.left_out} readings were left out for want of time"
        more = f"seconds={2 * (span[1] - span[0]):g}"
        report.findings.append(Finding("time spent", "doubt", says, more))


def _counted(bar: Callable[[float], None], expected: int) -> Callable[[], None]:
    """A callback that shows one more reading at each call; data in another scale add further
    readings."""
    ticks = itertools.count(1)
    return lambda: bar(min(next(ticks), expected))


def _looked_at(report: Check, model: Model, data: Any) -> Tensor:
    """The data as a batch that the network takes; findings about them go into the report."""
    x = layout.rows_of(data, layout.device_of(model, data))
    x, moved = _answering(model, x)
    report.findings += [*moved, layout.scale(x, model)]
    return x


def _draw_data(
    report: Check,
    model: Model,
    noise: Sequence[int] | None,
    seed: int,
    span: tuple[float, float],
    tick: Callable[[], None] | None,
) -> Tensor:
    """Samples that a reading of the network draws, in place of data. Raises OdesolveError where no
    reading draws any."""
    middle = (span[0] + span[1]) / 2
    own, report.calls = unseen.draw_own(model, Wiring.of(model), noise or (), seed, middle, tick)
    if not own:
        raise OdesolveError(
            f"no reading of the network draws samples of shape {tuple(noise or ())}: give data="
        )
    says = (
        "none were given: the readings are judged by what they draw, and the data's scale "
        "is not known"
    )
    report.findings.append(Finding("data", "unknown", says, "ode.check(model, data)"))
    return own[0].x


def _rescaled(
    report: Check,
    model: Model,
    x: Tensor,
    search: ReadingSearch,
    seed: int,
    until: float,
    tick: Callable[[], None] | None,
) -> ReadingSearch:
    """The search among readings of the data in another scale, where the network denoises these far
    better."""
    typed, scaled, calls = _scaled(model, x, search, seed)
    report.calls += calls
    if not typed:
        return search
    says = f"{report['data'].says}: read as {typed} the network denoises them far better"
    others = [f for f in report.findings if f.about != "data"]
    report.findings = [*others, Finding("data", "wrong", says, typed)]
    search = _searched(model, scaled, seed, until, tick)
    report.calls += search.denoising.calls
    return search


def _searched(
    model: Model,
    x: Tensor,
    seed: int,
    deadline: float,
    tick: Callable[[], None] | None,
) -> ReadingSearch:
    search = ReadingSearch(
        unseen.halves(model, x, seed, *_sizes(x)), Wiring.of(model), deadline, tick
    )
    search.run()
    return search


def _scaled(model: Model, x: Tensor, search: ReadingSearch, seed: int) -> tuple[str, Tensor, int]:
    """The expression that rescales the data, "" where no usual one helps; the rescaled data; the
    number of calls."""
    tried: list[tuple[float, str]] = []
    calls = 0
    for typed, scale in layout.SCALINGS.items():
        denoising = unseen.halves(model, scale(x), seed, *_sizes(x))
        fits = [denoising.fit(w) for w in (search.declared, search.fits[0].wiring)]
        tried += [(fit.excess, typed) for fit in fits if fit is not None]
        calls += denoising.calls
    excess, typed = min(tried, default=(math.inf, ""))
    if excess > search.fits[0].excess - FAR_BETTER:
        return "", x, calls
    return typed, layout.SCALINGS[typed](x), calls


def _sizes(x: Tensor) -> tuple[int, int]:
    numbers = x[0].numel()
    return next(rows for limit, rows in ROWS if numbers <= limit), OTHERS


def _answering(model: Model, x: Tensor) -> tuple[Tensor, list[Finding]]:
    """Data in the order of axes that the network takes. Raises OdesolveError with the network's own
    message where it takes none."""
    first = _refusal(model, x)
    if first is None:
        return x, [
            Finding("layout", "right", f"the network takes samples of shape {tuple(x.shape[1:])}")
        ]
    for typed, other in layout.other_layouts(x):
        if _refusal(model, other) is None:
            says = (
                f"the network takes samples of shape {tuple(other.shape[1:])}, not "
                f"{tuple(x.shape[1:])}"
            )
            return other, [Finding("layout", "wrong", says, typed)]
    for name, value in model.cond.items():
        if isinstance(value, Tensor) and value.dim() and len(value) not in (1, len(x)):
            raise OdesolveError(
                f"the condition {name!r} holds {len(value)} for {len(x)} samples of data: give one "
                "per sample"
            )
    given = f"data of shape {tuple(x.shape)}, as net(x, t) with t of shape ({len(x)},)"
    raise OdesolveError(f"the network cannot be called with {given}: {first}{_unasked(model)}")


def _answer_probe(model: Model, x: Tensor) -> behaviour.AnswerProbe:
    """The network with the first rows of the data and their conditions."""
    few = torch.arange(min(FEW, len(x)), device=x.device)
    return behaviour.AnswerProbe(model.rows(few, len(x)), x[few])


def _refusal(model: Model, x: Tensor) -> str | None:
    try:
        _answer_probe(model, x)()
    except Exception as e:  # the network's own words say best what it wants
        message = str(e).split("\n")[0]
        return message if isinstance(e, OdesolveError) else f"{type(e).__name__}: {message}"
    return None


def _unasked(model: Model) -> str:
    """The network's missing arguments besides x and t, with the call that passes them."""
    others = [name for name in parameters(model.net)[2:] if name not in model.cond]
    if not others:
        return ""
    typed = ", ".join(f"{name}=..." for name in others)
    return (
        f"; it takes {' and '.join(others)} too: give ode.check(model.given({typed}), data), "
        "one for each sample"
    )


@contextlib.contextmanager
def _evaluated(net: Any) -> Iterator[None]:
    """The network's layers in eval mode and nothing recorded; each layer's mode is put back."""
    layers = [m for m in modules_of(net) if m.training]
    for layer in layers:
        layer.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.training = True
