"""What each command does; each returns its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import torch

from odesolve import jobs
from odesolve.cli.conditions import Conditions, conditions_of
from odesolve.cli.files import check_writable
from odesolve.cli.options import OF_JOBS, beside
from odesolve.cli.values import check_alone, dtype, first_rank, model_of, path_named
from odesolve.errors import Diverged, OdesolveError
from odesolve.model.model import Model
from odesolve.pictures import figures, sheets
from odesolve.planning.planner import plan, solvers
from odesolve.profile import parse_grid, profile, report
from odesolve.run import Window
from odesolve.sample import sample


def profile_command(given: argparse.Namespace) -> int:
    """Measure, print the table and the advice, and write files where ``--out`` says; exit code 1
    where no run arrived."""
    check_alone("profile", "profile before the others are started")
    conditions = conditions_of(given)
    model, shape = model_of(given)
    conditions.check_rows(shape[0])
    out, saved = _output(given)
    found = profile(
        conditions.on(model, torch.arange(shape[0]), given.device),
        given.solvers,
        given.nfe,
        given.grids,
        noise=shape,
        seed=given.seed,
        dtype=dtype(given),
        device=given.device,
        executor=Window() if given.parallel else None,
        resume=saved,
    )
    if out is not None:
        found.to_csv(out / "table.csv")
        found.plot(out / "plot.png", given.metric)
    if given.json:
        print(found.to_json())
    else:
        _show(
            lambda width: report.rich_table(found, given.top, given.metric, width),
            report.text(found, given.top, given.metric),
        )
        print(f"\n{found.advice(given.metric)}")
    if out is not None:
        print(f"wrote table.csv, profile.json and plot.png in {out}", file=sys.stderr)
    return int(all(row.status != "ok" for row in found.rows))


def _output(given: argparse.Namespace) -> tuple[File | None, File | None]:
    """The folder to write into and the file that a profile is kept in; what cannot work is found
    before the work."""
    if not given.out:
        if given.resume:
            raise OdesolveError("--resume goes on with the profile in a folder: give --out DIR")
        return None, None
    figures.matplotlib()
    out = File(given.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OdesolveError(
            f"--out {out} is no folder and cannot be made one ({e.strerror}): give another"
        ) from e
    for name in ("table.csv", "plot.png", "profile.json"):
        check_writable(out / name)
    if not given.resume:
        (out / "profile.json").unlink(missing_ok=True)
    return out, out / "profile.json"


def sample_command(given: argparse.Namespace) -> int:
    """Draw samples and write them: in one file, or with ``--n`` as a job in a folder."""
    out = File(given.out)
    conditions = conditions_of(given)
    if given.n is None:
        check_alone("sample", "make it a job that they share: -n N --out DIR")
        sheets.check_name(out)
        check_writable(out)
    elif out.suffix in sheets.KINDS:
        raise OdesolveError(
            f"--n {given.n} writes many files: give --out the name of a folder, not {given.out}"
        )
    beside(given, "-n", given.n is not None, {"first": 0, **OF_JOBS})
    model, shape = model_of(given)
    grid = parse_grid(given.grid) if given.grid else None
    options = {"seed": given.seed, "dtype": dtype(given), "device": given.device}
    if given.n is not None:
        conditions.check_ids(given.first + given.n)
        names = ("n", "out", "first", *OF_JOBS)
        options |= {k: getattr(given, k) for k in names}
        model = _by_id(model, conditions, shape[0], given.device)
        return _told(jobs.sample(model, shape, given.solver, given.steps, grid, **options), given)
    conditions.check_rows(shape[0])
    sheets.check_shape(shape, out)
    model = conditions.on(model, torch.arange(shape[0]), given.device)
    drawn: Any = sample(model, shape, given.solver, given.steps, grid, full=True, **options)
    if drawn.status != "ok":
        raise Diverged(
            f"the solve diverged after step {drawn.steps}", drawn.x, drawn.t, drawn.steps
        )
    sheets.write(drawn.x, out)
    facts = {
        "out": str(out),
        "shape": list(drawn.x.shape),
        "solver": drawn.plan.solver,
        "steps": drawn.steps,
    }
    facts |= {"nfe": drawn.nfe, "seed": given.seed}
    print(json.dumps(facts) if given.json else ", ".join(f"{k} {v}" for k, v in facts.items()))
    return 0


def _by_id(model: Model, conditions: Conditions, batch: int, device: str | None) -> Any:
    """What a job asks: one model for all batches, or a function of ids where these have conditions
    of their own."""
    if not conditions.arrays:
        return conditions.on(model, torch.arange(batch), device)
    return lambda ids: conditions.on(model, ids, device)


def job_command(given: argparse.Namespace) -> int:
    """Say how far a job is; with ``--verify`` exit code 1 if a shard was corrupt."""
    if given.verify:
        check_alone("job --verify", "leave out --verify")
    job = jobs.Job(given.folder)
    moved = job.verify() if given.verify else []
    for path in moved:
        print(f"corrupt, moved to {job.shown(path)}", file=sys.stderr)
    for path in job.strays():
        print(f"no shard of this job, left alone: {job.shown(path)}", file=sys.stderr)
    for paths in job.twice():
        names = " and ".join(map(job.shown, paths))
        print(
            f"one shard with different contents: {names}; the first is read, remove one",
            file=sys.stderr,
        )
    _told(job, given)
    return int(bool(moved))


def _told(job: jobs.Job, given: argparse.Namespace) -> int:
    if first_rank():
        facts = {
            "out": job.named,
            "kind": job.kind,
            "first": job.first,
            "n": job.n,
            "done": job.done(),
        }
        facts |= {"shards": len(job.found()), "digest": job.digest}
        facts |= {
            "strays": list(map(job.shown, job.strays())),
            "twice": [list(map(job.shown, p)) for p in job.twice()],
        }
        print(
            json.dumps(facts | {"settings": job.settings})
            if given.json
            else f"{job}, digest {job.digest}, in {job.named}"
        )
    return 0


def solvers_command(given: argparse.Namespace) -> int:
    """List the solvers."""
    entries = [*solvers().values(), *solvers().special.values()]
    if given.json:
        names = (
            "name",
            "order",
            "evaluations",
            "starters",
            "clock",
            "source",
            "summary",
            "options",
        )
        print(json.dumps([{n: getattr(s, n) for n in names} for s in entries], indent=1))
        return 0
    _show(_solver_table, str(solvers()))
    return 0


def _solver_table(width: int) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("solver", "order", "evaluations", "clock", "source"):
        table.add_column(head, no_wrap=head == "solver")
    for row in solvers().rows():
        table.add_row(*row)
    return table


def plan_command(given: argparse.Namespace) -> int:
    """Print a plan, or what differs between two."""
    first, *others = (_made_plan(given, s) for s in (given.solver, given.diff) if s)
    if not others:
        print(first.to_json() if given.json else first)
        return 0
    found = first.diff(others[0])
    facts = {
        "same": found.same(),
        "nfe": [found.nfe, found.other_nfe],
        "largest": found.largest,
        "times": found.times,
    }
    print(
        json.dumps(facts | {"largest": None} if found.nfe != found.other_nfe else facts)
        if given.json
        else found
    )
    return 0 if found.same() else 1


def _made_plan(given: argparse.Namespace, solver: str):
    return plan(solver, path_named(given.path), given.steps, given.grid)


def _show(table: Callable[[int], Any], plain: str) -> None:
    """A rich table (made for the terminal's width) on a terminal, plain text elsewhere."""
    if sys.stdout is None or not sys.stdout.isatty():  # None where it was closed
        print(plain)
        return
    from rich.console import Console

    console = Console()
    console.print(table(console.width))
