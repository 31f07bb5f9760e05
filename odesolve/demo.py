"""The demo: which sampler for handwritten digits?
``python -m odesolve.demo [--out demo-output] [--quick]``.

The network is exact (the posterior mean of a Gaussian on each of scikit-learn's 1797 digits), so
that every error is the sampler's own. Every solver is measured on the grid that is best for it,
which other noise than that of the tables has chosen. The demo writes tables, a work-precision plot
and a picture of digits into the output folder."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path as File

import torch
from torch import Tensor

from odesolve import paths, problems
from odesolve.errors import OdesolveError
from odesolve.pictures import figures, sheets
from odesolve.profile import Candidate, Profile, parse_grid, parse_solver, plotting, profile, report
from odesolve.profile.candidates import default_solvers
from odesolve.profile.result import Row
from odesolve.sample import sample

QUESTION = "Which sampler for handwritten digits?"
PATHS = {
    "VP (diffusion)": paths.VP(),
    "EDM (diffusion)": paths.EDM(),
    "Linear (flow matching)": paths.Linear(),
}
BUDGETS = (5, 8, 10, 15, 20, 50)
SAMPLES = 128
CHOICE = (5, 8, 10, 20)  # budgets that a solver's grid is chosen at,
CHOOSING = 24  # on so many samples of other noise
COLUMNS = 10
LOUDER = 2.0  # what differences in the picture are multiplied by

# "vp_time" is a polynomial grid in the time of a VP path, on any path.
DIFFUSION_GRIDS = (
    "karras",
    "quadratic",
    "vp_time",
    "vp_time(3)",
    "vp_time(merged)",
    "vp_time(3,merged)",
)
FLOW_GRIDS = ("uniform", "shift(0.5)", "shift(3)", "polynomial(1.5)", "quadratic")
# What people take by default, measured as well on the grids that they take it on.
COMMON = {
    "diffusion": ("ddim uniform", "dpmpp_2m karras", "heun_edm karras"),
    "flow": ("euler uniform", "dpmpp_2m uniform", "heun uniform"),
}
KNOWN = ("ddim", "dpmpp_2m", "heun", "heun_edm")  # printed in any case, whatever their rank


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m odesolve.demo", description=QUESTION)
    parser.add_argument(
        "--out", default="demo-output", metavar="DIR", help="output folder (default %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="64 samples and three budgets, in a few seconds"
    )
    given = parser.parse_args(argv)
    try:
        run(File(given.out), given.quick)
    except (OdesolveError, ImportError, OSError) as e:
        print(f"odesolve.demo: error: {e}", file=sys.stderr)
        return 2
    return 0


def run(out: File, quick: bool = False) -> dict[str, Profile]:
    """Measure on the three paths, print, and write everything into ``out``."""
    begin = time.perf_counter()
    figures.matplotlib()  # first, as a missing library should not show after the work
    out.mkdir(parents=True, exist_ok=True)
    digits = problems.digits()
    profiles = {name: measured(digits, path, quick) for name, path in PATHS.items()}
    for name, result in profiles.items():
        print(f"\n=== {name}: the best three solvers at each budget, and what people know ===\n")
        print(report.text(result, 3, also=KNOWN, legend=False))
        print(f"\n{result.advice()}")
        short = name.split()[0].lower()
        result.to_csv(out / f"{short}.csv")
        result.to_json(out / f"{short}.json")
    print(f"\nIn the tables:\n{report.legend(list(profiles.values()))}")
    titles = [f"digits, {name}" for name in profiles]
    for suffix in ("png", "svg"):
        plotting.save(list(profiles.values()), out / f"work-precision.{suffix}", titles=titles)
    first = next(iter(profiles.values()))
    sheets.save_rows(rows_of_digits(digits, first), out / "digits.png", margin=2.7)
    print(f"\n{summary(profiles)}")
    seconds = time.perf_counter() - begin
    print(
        f"\nWrote tables, work-precision.png, .svg and digits.png in {out}/ after {seconds:.0f} s."
    )
    return profiles


def measured(digits: problems.Mixture, path: paths.Path, quick: bool = False) -> Profile:
    """The profile of one path, every solver on its own best grid, in float64 from the same
    normal draws."""
    budgets = (5, 10, 20) if quick else BUDGETS
    noise = _noise(64 if quick else SAMPLES, seed=0)
    model = digits.model(path)
    return profile(model, samplers(digits, path), budgets, noise=noise, timing=1, name="digits")


def samplers(digits: problems.Mixture, path: paths.Path) -> list[Candidate]:
    """What is compared on a path: every solver on the grid that is best for it, and what people
    take."""
    grids = FLOW_GRIDS if path.family == "flow" else DIFFUSION_GRIDS
    noise = _noise(CHOOSING, seed=1)
    tried = profile(digits.model(path), default_solvers(path), CHOICE, grids, noise=noise, timing=0)
    lines = tried.lines().values()
    best = [Candidate(r.solver, parse_grid(r.grid), r.options) for r, *_ in lines]
    known = {(c.label, c.grid_name) for c in best}
    return [*best, *(c for c in common(path) if (c.label, c.grid_name) not in known)]


def common(path: paths.Path) -> list[Candidate]:
    """The samplers that people take on this kind of path."""
    out = []
    for line in COMMON["flow" if path.family == "flow" else "diffusion"]:
        solver, grid = line.split()
        name, options = parse_solver(solver)
        out.append(Candidate(name, parse_grid(grid), options))
    return out


def _noise(samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, 8, 8, dtype=torch.float64, generator=generator)


def rows_of_digits(digits: problems.Mixture, result: Profile) -> list[tuple[str, Tensor]]:
    """Real digits, and from the same noise the exact solution, what common samplers and the best
    one make of it in five evaluations, each with its difference from the exact solution."""
    assert result.noise is not None
    assert result.reference is not None
    model = digits.model(paths.VP())
    noise = result.noise[:COLUMNS]
    exact = result.reference[:COLUMNS]
    shown = [
        ("real digits", digits.sample(COLUMNS, seed=1)),
        ("from noise: the exact solution", exact),
    ]
    for row in (*_as_taken(result, 5), result.best(5), result.best(10)):
        drawn = sample(model, noise, **row.arguments())
        assert isinstance(drawn, Tensor)
        name = row.solver + (" + AFS" if row.options.get("afs") else "")
        says = f"{row.calls} evaluations: {name}\non {row.grid}"
        error = f"error times {LOUDER:g}\n(RMS of the median sample {row.median:.2g})"
        shown += [(says, drawn), (error, LOUDER * (drawn - exact))]
    return shown


def _as_taken(result: Profile, nfe: int) -> list[Row]:
    """The rows of DDIM and DPM-Solver++ as people take them, at a budget."""
    wanted = COMMON["diffusion"][:2]
    rows = {f"{r.label} {r.grid}": r for r in result.good if r.nfe == nfe}
    return [rows[line] for line in wanted if line in rows]


def summary(profiles: dict[str, Profile]) -> str:
    """In words: what to use on each kind of path."""
    lines = ["What to use:"]
    for name, result in profiles.items():
        lines.append(f"- {name}:")
        rows = [result.best(n) for n in result.budgets]
        for (label, grid), same in itertools.groupby(rows, key=lambda r: (r.label, r.grid)):
            budgets = [r.nfe for r in same]
            span = f"{budgets[0]}" if len(budgets) == 1 else f"{budgets[0]} to {budgets[-1]}"
            lines.append(f"    {span} evaluations: {label} on {grid}")
        lines.append(f"  {_compared(result, 10)}")
    return "\n".join(lines)


def _compared(result: Profile, nfe: int) -> str:
    """How much more accurate the recommended sampler is than others on their own best grids."""
    best = result.best(nfe)
    usual = {}
    for row in sorted(result.good, key=lambda r: r.median):
        if row.nfe == nfe and row.solver in ("ddim", "dpmpp_2m"):
            usual.setdefault(row.solver, row)
    gains = " and ".join(
        f"{r.median / best.median:.1f} times that of {r.label} on {r.grid}" for r in usual.values()
    )
    return (
        f"At {nfe} evaluations the accuracy is {gains}, their own best grids (error of the median "
        "sample)."
    )


if __name__ == "__main__":
    sys.exit(main())
