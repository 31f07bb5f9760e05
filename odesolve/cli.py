"""The command line: ``odesolve profile | sample | solvers | plan``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import torch

from odesolve import paths, problems
from odesolve.errors import Diverged, OdesolveError, unknown
from odesolve.models import Model
from odesolve.paths import Path
from odesolve.planning import plan, solvers
from odesolve.profile import parse_grid, parse_solver, pictures, profile, report
from odesolve.sample import sample

PATHS = {
    "vp": paths.VP,
    "edm": paths.EDM,
    "linear": paths.Linear,
    "cosine": paths.Cosine,
    "ve": paths.VE,
    "subvp": paths.SubVP,
    "trig": paths.Trig,
    "ddpm": paths.Discrete.ddpm,
    "sd": paths.Discrete.stable_diffusion,
}
FACTORY = (
    "package.module:factory or file.py:factory, a function without arguments that returns an ode.Model (or a Model)"
)
DIGITS = (256, 1, 8, 8)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where --diff finds a difference, 2 after an error (one line)."""
    given = _parser().parse_args(argv)
    try:
        return given.run(given) or 0
    except (OdesolveError, Diverged, ImportError, OSError) as e:
        print(f"odesolve: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("odesolve: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="odesolve", description="Samplers for diffusion, score and flow-matching models."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _profile_arguments(
        _command(commands, "profile", _profile, "measure which sampler is best for a model at each budget")
    )
    _sample_arguments(_command(commands, "sample", _sample, "draw samples from a model"))
    _command(commands, "solvers", _solvers, "list the solvers: order, evaluations a step, source")
    _plan_arguments(_command(commands, "plan", _plan, "print the coefficients of a sampler, or compare two samplers"))
    return top


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.set_defaults(run=run)
    made.add_argument("--json", action="store_true", help="print JSON for machines")
    return made


def _model_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)")
    p.add_argument("--shape", metavar="B,C,H,W", help="shape of the noise, with the batch first; needed with a FACTORY")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default 0)")
    p.add_argument("--double", action="store_true", help="keep the state in float64")


def _profile_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p)
    p.add_argument("--solvers", metavar="A,B", help="solvers, with options in brackets: 'ipndm_3(afs),dpmpp_2m'")
    p.add_argument("--grids", metavar="X,Y", help="grids, with their number in brackets: 'karras,vp_time(3)'")
    p.add_argument(
        "--nfe", default="5,8,10,15,20,50", metavar="N,M", help="budgets of network evaluations (%(default)s)"
    )
    p.add_argument(
        "--metric", default="median", help="error to rank by: median, trimmed, rmse, sliced (default median)"
    )
    p.add_argument("--top", type=int, metavar="K", help="show only the best K solvers at each budget")
    p.add_argument("--out", metavar="DIR", help="write table.csv, profile.json and plot.png into this folder")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted profile in --out")


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p)
    p.add_argument(
        "--solver", metavar="NAME", help="solver, with options in brackets; by default the one for this path"
    )
    p.add_argument("--steps", type=int, default=10, metavar="N", help="number of steps (default 10)")
    p.add_argument("--grid", metavar="NAME", help="time grid, such as karras, uniform, 'shift(3)'")
    p.add_argument("--out", required=True, metavar="FILE", help="samples.npz, samples.safetensors or grid.png")


def _plan_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("solver", metavar="SOLVER", help="solver, with options in brackets: 'ab3(start=ramp)'")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"{', '.join(PATHS)} (default vp)")
    p.add_argument("--steps", type=int, default=10, metavar="N", help="number of steps (default 10)")
    p.add_argument("--grid", default="uniform", metavar="NAME", help="time grid (default uniform)")
    p.add_argument("--diff", metavar="OTHER", help="compare with this solver; exit code 1 if they differ")


def _profile(given: argparse.Namespace) -> int:
    model, shape = _model(given)
    out = File(given.out) if given.out else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    saved = out / "profile.json" if out is not None else None
    if saved is not None and not given.resume:
        saved.unlink(missing_ok=True)
    found = profile(
        model,
        _items(given.solvers),
        [_whole(n, "--nfe") for n in _items(given.nfe) or []],
        _items(given.grids),
        noise=shape,
        seed=given.seed,
        dtype=_dtype(given),
        resume=saved,
    )
    if out is not None:
        found.to_csv(out / "table.csv")
        found.plot(out / "plot.png", given.metric)
    if given.json:
        print(found.to_json())
    else:
        _show(report.rich_table(found, given.top, given.metric), report.text(found, given.top, given.metric))
        print(f"\n{found.advice(given.metric)}")
    if out is not None:
        print(f"wrote table.csv, profile.json and plot.png in {out}", file=sys.stderr)
    return 0


def _sample(given: argparse.Namespace) -> int:
    model, shape = _model(given)
    out = File(given.out)
    pictures.check_name(out)
    name, options = parse_solver(given.solver) if given.solver else (None, {})
    grid = parse_grid(given.grid) if given.grid else None
    drawn: Any = sample(
        model, shape, name, given.steps, grid, seed=given.seed, dtype=_dtype(given), full=True, **options
    )
    if drawn.status != "ok":
        raise Diverged(f"the solve diverged after step {drawn.steps}", drawn.x, drawn.t, drawn.steps)
    pictures.write(drawn.x, out)
    facts = {"out": str(out), "shape": list(drawn.x.shape), "solver": drawn.plan.solver, "steps": drawn.steps}
    facts |= {"nfe": drawn.nfe, "seed": given.seed}
    print(json.dumps(facts) if given.json else ", ".join(f"{k} {v}" for k, v in facts.items()))
    return 0


def _solvers(given: argparse.Namespace) -> int:
    entries = solvers().values()
    if given.json:
        names = ("name", "order", "evaluations", "starters", "clock", "source", "summary", "options")
        print(json.dumps([{n: getattr(s, n) for n in names} for s in entries], indent=1))
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("solver", "order", "evaluations a step", "clock", "source"):
        table.add_column(head, no_wrap=head == "solver")
    for row in solvers().rows():
        table.add_row(*row)
    _show(table, str(solvers()))
    return 0


def _plan(given: argparse.Namespace) -> int:
    first, *others = (_made_plan(given, s) for s in (given.solver, given.diff) if s)
    if not others:
        print(first.to_json() if given.json else first)
        return 0
    found = first.diff(others[0])
    facts = {"same": found.same(), "nfe": [found.nfe, found.other_nfe], "largest": found.largest, "times": found.times}
    print(json.dumps(facts | {"largest": None} if found.nfe != found.other_nfe else facts) if given.json else found)
    return 0 if found.same() else 1


def _made_plan(given: argparse.Namespace, solver: str):
    name, options = parse_solver(solver)
    return plan(name, _path(given.path), given.steps, parse_grid(given.grid), **options)


def _model(given: argparse.Namespace) -> tuple[Model, tuple[int, ...]]:
    """The model that the arguments name, and the shape of its noise."""
    shape = tuple(_whole(n, "--shape") for n in _items(given.shape)) if given.shape else None  # type: ignore[union-attr]
    if given.model is None:
        return problems.digits().model(_path(given.path)), shape or DIGITS
    if shape is None:
        raise OdesolveError("the shape of the samples is missing: give --shape B,C,H,W")
    return _load(given.model), shape


def _load(spec: str) -> Model:
    """The model of ``package.module:factory`` or ``file.py:factory``. Raises OdesolveError if there is none."""
    where, colon, name = spec.rpartition(":")
    if not colon:
        raise OdesolveError(f"{spec!r} names no model: give {FACTORY}")
    try:
        made = getattr(_module(where), name)
        made = made if isinstance(made, Model) else made()
    except Exception as e:  # whatever the user's code raises is one line here
        raise OdesolveError(f"{spec}: {type(e).__name__}: {e}") from e
    if not isinstance(made, Model):
        raise OdesolveError(f"{spec} returned {type(made).__name__}: let it return an ode.Model")
    return made


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(where)
        finally:
            sys.path.remove("")
    spec = importlib.util.spec_from_file_location(File(where).stem, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(name: str) -> Path:
    if name not in PATHS:
        raise unknown("path", name, PATHS)
    return PATHS[name]()


def _items(text: str | None) -> list[str] | None:
    """The parts between commas, except those inside brackets."""
    if text is None:
        return None
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


def _whole(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OdesolveError(f"{option} holds {text!r}: give whole numbers with commas between them") from None


def _dtype(given: argparse.Namespace) -> torch.dtype:
    return torch.float64 if given.double else torch.float32


def _show(table: Any, plain: str) -> None:
    """A rich table on a terminal, plain text elsewhere."""
    if not sys.stdout.isatty():
        print(plain)
        return
    from rich.console import Console

    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
