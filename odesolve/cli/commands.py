"""The commands; each returns its exit code."""

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
from odesolve.cli.files import check_writable, read_array
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
    """Measure, print the table and the advice, and write files into ``--out``; exit code 1 where no
    run arrived."""
    check_alone("profile", "profile before the others are started")
    conditions = conditions_of(given)
    model, shape = model_of(given)
    conditions.check_rows(shape[0])
    if given.all and given.top is not None:
        raise OdesolveError("--all shows every row, --top some of them: give one of both")
    limit = None if given.all else given.top or report.LIMIT
    data = read_array(given.data) if given.data else None
    out, saved = _output(given)
    result = profile(
        conditions.on(model, torch.arange(shape[0]), given.device),
        given.solvers,
        given.nfe,
        given.grids,
        noise=shape,
        seed=given.seed,
        dtype=dtype(given),
        device=given.device,
        data=data,
        executor=Window() if given.parallel else None,
        resume=saved,
        name=given.model or given.diffusers or "digits",
    )
    if out is not None:
        result.to_csv(out / "table.csv")
        result.plot(out / "plot.png", given.metric)
    if given.json:
        print(result.to_json())
    else:
        _show(
            lambda width: report.rich_table(result, limit, given.metric, width),
            report.text(result, limit, given.metric),
        )
        print(f"\n{result.advice(given.metric)}")
    if out is not None:
        print(f"wrote table.csv, profile.json and plot.png in {out}", file=sys.stderr)
    return int(all(row.status != "ok" for row in result.rows))


def _output(given: argparse.Namespace) -> tuple[File | None, File | None]:
    """The folder to write into and the file that keeps the profile; names that cannot be written
    are refused before the work."""
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
    job = given.n is not None
    if not job:
        check_alone("sample", "make it a job that they share: -n N --out DIR")
        sheets.check_name(out)
        check_writable(out)
    elif out.suffix in sheets.KINDS:
        raise OdesolveError(
            f"--n {given.n} writes many files: give --out the name of a folder, not {given.out}"
        )
    beside(given, "-n", job, {"first": 0, **OF_JOBS})
    model, shape = model_of(given)
    grid = parse_grid(given.grid) if given.grid else None
    solve = {
        "noise": shape,
        "solver": given.solver,
        "steps": given.steps,
        "grid": grid,
        "seed": given.seed,
        "dtype": dtype(given),
        "device": given.device,
    }
    if job:
        _draw_job(given, model, conditions, solve)
    else:
        _draw_file(given, model, conditions, solve)
    return 0


def _draw_job(
    given: argparse.Namespace,
    model: Model,
    conditions: Conditions,
    solve: dict[str, Any],
) -> None:
    """Draw the samples of a job, and say how far it is."""
    conditions.check_ids(given.first + given.n)
    of_ids = _by_id(model, conditions, solve["noise"][0], given.device)
    keeping = {name: getattr(given, name) for name in ("n", "out", "first", *OF_JOBS)}
    _print_job(jobs.sample(of_ids, **solve, **keeping), given)


def _draw_file(
    given: argparse.Namespace,
    model: Model,
    conditions: Conditions,
    solve: dict[str, Any],
) -> None:
    """Draw one batch of samples into a file, and say what was drawn."""
    out = File(given.out)
    shape = solve["noise"]
    conditions.check_rows(shape[0])
    sheets.check_shape(shape, out)
    model = conditions.on(model, torch.arange(shape[0]), given.device)
    drawn: Any = sample(model, **solve, full=True)
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
        "nfe": drawn.nfe,
        "seed": given.seed,
    }
    print(json.dumps(facts) if given.json else ", ".join(f"{k} {v}" for k, v in facts.items()))


def _by_id(model: Model, conditions: Conditions, batch: int, device: str | None) -> Any:
    """What a job calls: one model for all batches, or a function of ids where each id has
    conditions of its own."""
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
    _print_job(job, given)
    return int(bool(moved))


def _print_job(job: jobs.Job, given: argparse.Namespace) -> None:
    """Say how far a job is, once for all processes of torchrun."""
    if not first_rank():
        return
    if not given.json:
        print(f"{job}, digest {job.digest}, in {job.named}")
        return
    facts = {
        "out": job.named,
        "kind": job.kind,
        "first": job.first,
        "n": job.n,
        "done": job.done(),
        "shards": len(job.found()),
        "digest": job.digest,
        "strays": [job.shown(path) for path in job.strays()],
        "twice": [[job.shown(path) for path in paths] for paths in job.twice()],
        "settings": job.settings,
    }
    print(json.dumps(facts))


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
        rows = [{name: getattr(entry, name) for name in names} for entry in entries]
        print(json.dumps(rows, indent=1))
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
    first, *others = (_plan_of(given, s) for s in (given.solver, given.diff) if s)
    if not others:
        print(first.to_json() if given.json else first)
        return 0
    difference = first.diff(others[0])
    if given.json:
        alike = difference.nfe == difference.other_nfe
        facts = {
            "same": difference.same(),
            "nfe": [difference.nfe, difference.other_nfe],
            "largest": difference.largest if alike else None,
            "times": difference.times,
        }
        print(json.dumps(facts))
    else:
        print(difference)
    return 0 if difference.same() else 1


def _plan_of(given: argparse.Namespace, solver: str):
    return plan(solver, path_named(given.path), given.steps, given.grid)


def _show(table: Callable[[int], Any], plain: str) -> None:
    """Print a rich table of the terminal's width on a terminal, plain text elsewhere."""
    if sys.stdout is None or not sys.stdout.isatty():  # None where it was closed
        print(plain)
        return
    from rich.console import Console

    console = Console()
    console.print(table(console.width))
