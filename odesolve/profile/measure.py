"""The measurement itself: every sampler at every budget, run, counted, timed and compared with the
reference."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from odesolve import run
from odesolve.doors.annotations import count, number, samples, text
from odesolve.doors.keywords import door
from odesolve.doors.values import named
from odesolve.errors import Diverged, OdesolveError
from odesolve.functions.steadiness import warn_of_training
from odesolve.lowering.lower import Program, lower
from odesolve.lowering.scales import scale_for_report
from odesolve.model.model import Model
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.process.progress import Bar, Forecast
from odesolve.profile import gap, parallel
from odesolve.profile import reference as references
from odesolve.profile.candidates import Candidate, candidates, default_solvers, fit, numbers
from odesolve.profile.counting import Counter, clock
from odesolve.profile.flags import flagged
from odesolve.profile.metrics import Comparison
from odesolve.profile.reference import EXACT, Reference
from odesolve.profile.result import Profile, Row
from odesolve.sampling.start import draw
from odesolve.wiring.look import warn_of_wiring

Noise = Tensor | Sequence[int]


@door(
    "ode.profile",
    batch=count(),
    timing=count(0),
    limit=count(),
    tolerance=number(above=0.0),
    seed=count(0, 2**64 - 1),
    name=text("my network"),
)
def profile(
    model: Model,
    solvers: Iterable[str | SolverLike | Candidate] | None = None,
    nfe: int | Sequence[int] = (5, 8, 10, 15, 20, 50),
    grids: Iterable[GridLike] | None = None,
    *,
    noise: Noise | None = None,
    batch: int | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reference: Tensor | Reference | None = None,
    data: Tensor | None = None,
    tolerance: float = 3e-5,
    limit: int = 4096,
    timing: int = 2,
    executor: run.Executor | None = None,
    progress: bool | None = None,
    resume: str | File | None = None,
    name: str | None = None,
) -> Profile:
    """Measure samplers on a model: the error of their end points at each budget of network
    evaluations.

    Args:
        model: an ``ode.Model``; guidance counts twice.
        solvers: names, with options in brackets such as "ab3(start=ramp,afs)"; or tableaus,
            functions of a ``Writer``, and ``Candidate``s, which bring their own grid. By default a
            set that suits the path.
        nfe: budgets; each sampler takes as many steps as stay at or under it.
        grids: names, with their number in brackets such as "shift(0.5)"; or rules, or lists of
            times.
        noise: standard normal noise of shape (B, ...), or a shape to draw it.
        batch: number of samples; then ``noise`` is the shape of one sample, or a tensor of which
            the first are taken.
        seed: seed of the noise that is drawn.
        dtype: dtype of the state in the measured runs: float32 by default, float64 for float64
            noise.
        device: where to put noise that is given as a shape; by default the network's.
        reference: exact end points of shape (B, ...) for this noise, or a ``Reference``; by default
            two solves that agree.
        data: data (N, ...) of the kind that the model was trained on, best twice as many as samples
            and more: ``advice`` then says beyond how many evaluations a sampler's error is small
            beside the model's own distance from them (``Profile.gap``).
        tolerance, limit: of the reference, see ``reference.certified``.
        timing: timed runs of which the fastest counts; 0 takes no times.
        executor: an ``ode.Window`` or ``ode.Parareal`` to measure beside the loop, on the best plan
            of every budget, for one sample and for all: see ``Profile.parallel`` and what
            ``advice`` says of it.
        progress: show a bar; by default on work longer than a second, on a terminal (in a log or a
            pipe, lines). Long work says at its start about how long it will take.
        resume: a JSON file that is written after each sampler; rows in it are not measured again.
        name: what plots call the model; by default the network's class or function.

    Returns a ``Profile``. A sampler that fails is a row with its status and message.
    Raises OdesolveError for arguments that cannot be used, Diverged if no reference can be found.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> report = ode.profile(model, ["ddim", "heun"], [10, 20], noise=(32, 2), timing=0)
        >>> best = report.best(20)
        >>> best.solver, best.nfe, best.ok
        ('heun', 20, True)
    """
    warn_of_training(model.net)
    file = None if resume is None else named("resume", resume)
    chosen = _chosen(model, solvers, grids)
    budgets = numbers(nfe)
    z = _noise(model, noise, batch, seed, dtype, device)
    _check_data(data, z)
    problem = _problem(model, z, None if isinstance(noise, Tensor) else seed, name)
    known = _known(file, problem)
    first = 2 * references.FIRST if reference is None else 0
    left = sum(key[2] for key in _keys(chosen, budgets) if key not in known)
    calls = first + left * max(1, timing)
    with Bar(calls, progress, " calls") as bar:
        bar = bar and Forecast(bar, calls, "network calls")
        exact = _reference(model, z, reference, tolerance, limit, _counted(bar, 0, first))
        if reference is None:
            warn_of_wiring(model, z.shape)
        bench = Bench(model, z, exact, timing, _counted(bar, first, calls))
        problem["rms"] = bench.compare.size
        out = Profile([], exact.certificate, None, problem, z, exact.x)
        out.gap = None if data is None else gap.measured(bench.compare, data)
        _measure(out, bench, (chosen, budgets), known, file)
        out.rounding = bench.rounding()
    out.rows = flagged(out)
    if executor is not None:
        out.parallel = parallel.measured(out, model, z, executor, "median", timing)
    if file is not None:
        out.to_json(file)
    return out


def _chosen(model: Model, solvers: Any, grids: Any) -> list[Candidate]:
    """The samplers to measure; a network of two times has one more by default."""
    if solvers is None and model.reading.two_times:
        solvers = ["flow_map", *default_solvers(model.path)]
    return candidates(model.path, solvers, grids)


def _measure(
    out: Profile,
    bench: Bench,
    wanted: tuple[Sequence[Candidate], Sequence[int]],
    known: Mapping[tuple, Row],
    file: str | File | None,
) -> None:
    """Add a row for each sampler and budget, but for those that are known; the file is written
    after each sampler."""
    chosen, budgets = wanted
    for candidate in chosen:
        for key in _keys([candidate], budgets):
            out.rows.append(known[key] if key in known else bench.row(candidate, key[2]))
        if file is not None:
            out.to_json(file)


def _keys(chosen: Iterable[Candidate], budgets: Iterable[int]) -> Iterator[tuple[str, str, int]]:
    """What names a row, of every sampler at every budget."""
    return ((c.label, c.grid_name, n) for c, n in itertools.product(chosen, budgets))


def _named(net: Any) -> str:
    """The class of a network, or the function that it is, without where it was written."""
    kind = net if hasattr(net, "__qualname__") else type(net)
    return kind.__qualname__.rpartition("<locals>.")[2]


def _check_data(data: Tensor | None, z: Tensor) -> None:
    if data is None:
        return
    samples("data", data)
    if data.shape[1:] != z.shape[1:] or len(data) == 0:
        raise OdesolveError(
            f"data of shape {tuple(data.shape)} for samples of shape {tuple(z.shape)}: give data "
            f"(N, {', '.join(map(str, z.shape[1:]))})"
        )


class Bench:
    """Runs samplers from one batch of noise (standard normal, in the state's dtype) and compares
    their end points."""

    def __init__(
        self,
        model: Model,
        noise: Tensor,
        reference: Reference,
        timing: int = 2,
        tick=None,
    ):
        self.model = model
        self.noise = noise
        self.timing = timing
        self.tick = tick
        self.compare = Comparison(reference.x)
        self.counter = Counter(noise.shape[0], timing > 0)
        self.watched = self.counter.watch(model)
        self.measured: dict[str, Row] = {}
        self.closest: tuple[float, Program, Tensor] | None = None

    def row(self, candidate: Candidate, budget: int) -> Row:
        """The row of one sampler at one budget; never raises for what the sampler does."""
        row = Row(candidate.name, candidate.grid_name, budget, dict(candidate.options))
        try:
            program = fit(self.model, candidate, budget, self.noise.dtype)
        except OdesolveError as e:
            return replace(row, status="error", message=str(e))
        if program is None:
            return replace(
                row, status="skipped", message=f"one step takes more than {budget} evaluations"
            )
        digest = program.plan.digest
        if digest not in self.measured:
            try:
                self.measured[digest] = self._measured(program, row)
            # the user's network or solver: its failure is a result, and the others go on
            except Exception as e:
                status = "diverged" if isinstance(e, Diverged) else "error"
                self.measured[digest] = replace(row, status=status, message=str(e).split("\n")[0])
        same = self.measured[digest]
        return replace(same, solver=row.solver, grid=row.grid, nfe=budget, options=row.options)

    def _measured(self, program: Program, row: Row) -> Row:
        x, counted, times = self._fastest(program)
        row = replace(row, steps=program.plan.steps, calls=program.network_calls, counted=counted)
        if self.timing:
            row = replace(row, network_seconds=times[0], rest_seconds=times[1])
        if not bool(torch.isfinite(x).all()):
            return replace(row, status="diverged", message="the end point is not finite")
        row = replace(row, **asdict(self.compare(x)))
        if self.closest is None or row.rmse < self.closest[0]:
            self.closest = row.rmse, program, x
        return row

    def _fastest(self, program: Program) -> tuple[Tensor, float, tuple[float, float]]:
        """End points, counted evaluations, and the seconds inside and outside the network of the
        fastest run."""
        start = self.noise * self.model.path.start_std(program.plan.grid[0])
        times = []
        for _ in range(max(1, self.timing)):
            self.counter.rows = 0
            self.counter.seconds = 0.0
            begin = clock(start.device) if self.timing else 0.0
            x = run.run(program, start, None, self.watched, self.tick)
            total = clock(start.device) - begin if self.timing else 0.0
            times.append((total, self.counter.seconds))
        total, inside = min(times)
        return x, self.counter.calls, (inside, total - inside)

    def rounding(self) -> float | None:
        """RMS difference between the most accurate run and the same plan with a float64 state; None
        if unknown."""
        if self.closest is None or self.noise.dtype == torch.float64:
            return None
        _, program, x = self.closest
        plan = program.plan
        path = self.model.path
        wide = torch.float64
        try:
            start = self.noise.to(wide) * path.start_std(plan.grid[0])
            program = lower(plan, path, self.model.reading_for(wide))
            exact = run.run(program, start, None, self.model)
        except Exception:  # the network does not run on float64, whatever it raises
            return None
        return float((exact - x).square().mean().sqrt())


def _noise(
    model: Model,
    noise: Noise | None,
    batch: int | None,
    seed: int,
    dtype,
    device,
) -> Tensor:
    if noise is None:
        raise OdesolveError(
            "the shape of the samples is missing: give noise=(64, 3, 32, 32), or a tensor of noise"
        )
    if isinstance(noise, Tensor):
        given = noise if batch is None else noise[:batch]
    else:
        given = draw(model, noise if batch is None else (batch, *noise), seed, dtype, device)
    if given.dim() == 0 or not given.is_floating_point() or given.shape[0] == 0:
        raise OdesolveError(
            f"noise is {given.dtype} of shape {tuple(given.shape)}: give floats of shape (B, ...)"
        )
    samples("noise", given)
    return given.to(dtype or torch.promote_types(given.dtype, torch.float32))


def _reference(
    model: Model,
    z: Tensor,
    given,
    tolerance: float,
    limit: int,
    tick,
) -> Reference:
    if given is None:
        return references.certified(model, z, tolerance, limit, tick)
    reference = given if isinstance(given, Reference) else Reference(given, EXACT)
    samples("reference", reference.x)
    if reference.x.shape != z.shape:
        raise OdesolveError(
            f"the reference has shape {tuple(reference.x.shape)} "
            f"for noise of shape {tuple(z.shape)}: "
            "give end points of it"
        )
    return reference


def _problem(model: Model, z: Tensor, seed: int | None, name: str | None) -> dict[str, Any]:
    """What is measured, and on what."""
    device = (
        torch.cuda.get_device_name(z.device)
        if z.device.type == "cuda"
        else platform.processor() or "cpu"
    )
    return {
        "path": model.path.spec(),
        "predicts": model.predicts,
        "guidance": scale_for_report(model.reading.guidance.scale)
        if model.reading.guidance
        else None,
        "shape": list(z.shape),
        "dtype": str(z.dtype).removeprefix("torch."),
        "device": f"{z.device.type} ({device}, {torch.get_num_threads()} threads)",
        "torch": torch.__version__,
        "seed": seed,
        "name": name or _named(model.net),
    }


# Of what is stored of a problem, this depends on the machine, or is a name.
UNCOMPARED = ("rms", "name")


def _known(resume: str | File | None, problem: dict[str, Any]) -> dict[tuple, Row]:
    """Rows of an earlier, unfinished measurement of the same problem. Raises OdesolveError if it is
    another problem."""
    if resume is None or not os.path.lexists(resume):
        return {}
    earlier = Profile.from_json(File(resume))
    if _compared(earlier.problem) != _compared(problem):
        raise OdesolveError(
            f"{resume} holds a profile of another problem: give another file, or remove it"
        )
    return {(r.label, r.grid, r.nfe): replace(r, flags=(), order=None) for r in earlier.rows}


def _compared(problem: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in problem.items() if k not in UNCOMPARED}


def _counted(bar, done: int, most: int) -> Callable[[int], None] | None:
    """A tick for many runs, each of which numbers its own calls, from the bar's, which is told how
    many there were.

    The bar goes from ``done`` to ``most`` and waits there: how many calls a reference takes is not
    known before."""
    calls = itertools.count(done + 1)
    if bar is None:
        return None
    return lambda _: bar(min(next(calls), most))
