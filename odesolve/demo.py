"""The demo: which sampler for handwritten digits?
``python -m odesolve.demo [--out demo-output] [--quick]``.

The network is exact (the posterior mean of a Gaussian on each of scikit-learn's 1797 digits), so
that every error is the sampler's own. The demo writes tables, a work-precision plot and a picture
of digits into the output folder."""

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
from odesolve.sample import sample

QUESTION = "Which sampler for handwritten digits?"
PATHS = {
    "VP (diffusion)": paths.VP(),
    "EDM (diffusion)": paths.EDM(),
    "Linear (flow matching)": paths.Linear(),
}
BUDGETS = (5, 8, 10, 15, 20, 50)
SAMPLES = 256
COLUMNS = 16

# Each solver on the grids that were best for it among many, beside what people use by default
# ("vp_time" is a polynomial grid in the time of a VP path, on any path).
COMMON = ("dpmpp_2m karras", "heun_edm karras")
SAMPLERS = {
    "VP": (
        *COMMON,
        "euler quadratic",
        "ddim quadratic",
        "heun_edm quadratic",
        "dpm_solver_2m vp_time",
        "dpmpp_2m quadratic",
        "dpmpp_3m(start=ramp) quadratic",
        "unipc_2 quadratic",
        "unipc_3(start=ramp) quadratic",
        "deis_tab2(start=ramp) quadratic",
        "ab3(start=ramp) vp_time(3)",
        "ipndm_3 quadratic",
        "ipndm_3 vp_time",
        "ipndm_3(afs) vp_time(3,merged)",
        "ipndm_3(afs) vp_time(2.375,merged)",
        "ipndm_3(afs) vp_time(merged)",
        "ipndm_4(afs) vp_time(3)",
        "unipc_2(afs) vp_time(2.375,merged)",
        "unipc_2 vp_time(merged)",
    ),
    "EDM": (
        *COMMON,
        "ddim vp_time",
        "heun_edm vp_time",
        "rk4 vp_time",
        "dpm_solver_2m vp_time(3)",
        "dpmpp_2m vp_time(3)",
        "dpmpp_3m(start=ramp) vp_time(3)",
        "unipc_2 vp_time(3)",
        "unipc_3(start=ramp) vp_time(3)",
        "deis_tab2(start=ramp) vp_time",
        "ab3(start=ramp) vp_time",
        "ipndm_3 vp_time",
        "ipndm_3(afs) vp_time(2.375,merged)",
        "ipndm_3(afs) vp_time(merged)",
        "ipndm_4(afs) vp_time(3,merged)",
        "ipndm_4 vp_time(3,merged)",
        "unipc_2(afs) vp_time(2.375,merged)",
        "unipc_2 vp_time(merged)",
    ),
    "Linear": (
        "euler uniform",
        "dpmpp_2m uniform",
        "ddim polynomial(1.5)",
        "heun polynomial(1.5)",
        "rk4 shift(0.5)",
        "dpm_solver_2m polynomial(1.5)",
        "dpmpp_2m polynomial(1.5)",
        "dpmpp_3m(start=ramp) polynomial(1.5)",
        "unipc_2 polynomial(1.5)",
        "unipc_3(start=ramp) polynomial(1.5)",
        "deis_tab2(start=ramp) polynomial(1.5)",
        "ab3(start=ramp) polynomial(1.5)",
        "ipndm_3 shift(0.5)",
        "ipndm_3 polynomial(1.5)",
        "ipndm_3(afs) polynomial(1.5)",
        "ipndm_3 uniform",
        "ipndm_4 shift(0.5)",
        "ab4(start=ramp) uniform",
    ),
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
        print(report.text(result, 3, also=KNOWN))
        print(f"\n{result.advice()}")
        short = name.split()[0].lower()
        result.to_csv(out / f"{short}.csv")
        result.to_json(out / f"{short}.json")
    for suffix in ("png", "svg"):
        plotting.save(
            list(profiles.values()), out / f"work-precision.{suffix}", titles=list(profiles)
        )
    first = next(iter(profiles.values()))
    sheets.save_rows(rows_of_digits(digits, first), out / "digits.png")
    print(f"\n{summary(profiles)}")
    seconds = time.perf_counter() - begin
    print(
        f"\nWrote tables, work-precision.png, .svg and digits.png in {out}/ after {seconds:.0f} s."
    )
    return profiles


def measured(digits: problems.Mixture, path: paths.Path, quick: bool = False) -> Profile:
    """The profile of one path, in float64 from the same 256 normal draws."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SAMPLES, 1, 8, 8, dtype=torch.float64, generator=generator)
    budgets = BUDGETS
    if quick:
        noise = noise[:64]
        budgets = (5, 10, 20)
    return profile(digits.model(path), samplers(path), budgets, noise=noise, timing=1)


def samplers(path: paths.Path) -> list[Candidate]:
    """The samplers that are compared on a path."""
    out = []
    for line in SAMPLERS[path.spec()["name"]]:
        solver, grid = line.split()
        name, options = parse_solver(solver)
        out.append(Candidate(name, parse_grid(grid), options))
    return out


def rows_of_digits(digits: problems.Mixture, result: Profile) -> list[tuple[str, Tensor]]:
    """Real digits, and digits from the same noise by more and more evaluations, up to the exact
    solution."""
    assert result.noise is not None
    assert result.reference is not None
    model = digits.model(paths.VP())
    noise = result.noise[:COLUMNS]
    ddim = [row for row in result.good if row.solver == "ddim" and row.nfe == 5]
    plain = min(ddim, key=lambda row: row.median)
    shown = [("real digits", digits.sample(COLUMNS, seed=1))]
    for row in (plain, *(result.best(n) for n in (5, 10, 20))):
        drawn = sample(model, noise, **row.arguments())
        assert isinstance(drawn, Tensor)
        name = row.solver + (" + AFS" if row.options.get("afs") else "")
        shown.append((f"{row.calls} evaluations: {name}\nmedian error {row.median:.2g}", drawn))
    return [*shown, ("the exact solution", result.reference[:COLUMNS])]


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
    """How much more accurate the recommended sampler is than what people use."""
    best = result.best(nfe)
    good = [row for row in result.good if row.nfe == nfe]
    usual = [next(row for row in good if row.solver == s) for s in ("ddim", "dpmpp_2m")]
    gains = " and ".join(
        f"{r.median / best.median:.0f} times that of {r.label} on {r.grid}" for r in usual
    )
    return f"At {nfe} evaluations the accuracy is {gains} (error of the median sample)."


if __name__ == "__main__":
    sys.exit(main())
