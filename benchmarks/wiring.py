"""Whether ``ode.check`` finds what is wired wrong: a confusion table over networks that are known,
and its time.

    python benchmarks/wiring.py [--weights folder] [--steps 2000] [--plot file.png] [--only word]

Exact networks of a mixture in the plane and of 8x8 digits, for every prediction on seven paths,
both directions and two time scales, and networks trained by ``trained.py``. Each is declared as it
is, and wrongly: another prediction, another path, the other direction, another time scale, or two
of these at once, by a generator of a fixed seed. The truth counts as found where it is the best
reading or among those that fit as well. ``--blind``: the same without data, from what the network
draws. Writes ``results/wiring.csv`` or ``wiring_blind.csv``, a row for each declaration."""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timing
import torch
import trained

import odesolve as ode
from odesolve.wiring.readings import Wiring

PATHS = (
    ode.paths.VP(),
    ode.paths.Linear(),
    ode.paths.EDM(),
    ode.paths.Cosine(),
    ode.paths.Trig(),
    ode.paths.SubVP(),
    ode.paths.VE(),
)
PREDICTIONS = ("noise", "data", "v", "velocity", "score", "edm")
KINDS = ("right", "prediction", "path", "direction", "time", "two")
SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """One declaration: what was wrong with it, what the check said, and whether the truth was the
    best that it found."""

    network: str
    data: bool
    true: str
    declared: str
    kind: str
    status: str
    flagged: bool
    found: bool
    rows: int
    calls: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """A network with the way in which it is to be read, and data."""

    name: str
    net: object
    wiring: Wiring
    data: torch.Tensor


def eight() -> ode.problems.Mixture:
    """Eight Gaussians on a ring."""
    angles = [k * math.pi / 4 for k in range(8)]
    return ode.problems.mixture(
        [1 / 8] * 8, [[1.5 * math.cos(a), 1.5 * math.sin(a)] for a in angles], std=0.15
    )


def exact_cases() -> Iterator[Case]:
    """Exact networks: predictions by paths, directions and time scales in turn."""
    problems = {"eight gaussians": (eight(), 1500), "digits": (ode.problems.digits(), 800)}
    for name, (problem, n) in problems.items():
        data = problem.sample(n, seed=7)
        for k, (path, predicts) in enumerate((p, q) for p in PATHS for q in PREDICTIONS):
            way = path.flipped() if k % 2 else path
            scale = (1.0, 1000.0)[k // 2 % 2]
            yield Case(f"exact {name}", *exact(problem, way, predicts, scale), data)


def exact(
    problem: ode.problems.Mixture, path: ode.paths.Path, predicts: str, scale: float
) -> tuple[object, Wiring]:
    """The exact network of a problem, and how to read it."""
    if predicts == "edm":
        return problem.model(path, "edm").net, Wiring(path, "edm", "c_noise", 1.0, "edm")
    told = problem.model(path, predicts).net
    return (lambda x, t: told(x, t / scale)), Wiring(path, predicts, "t", scale)


def trained_cases(folder: Path, steps: int) -> Iterator[Case]:
    """The networks of ``trained.CASES``."""
    for name in trained.CASES:
        model, draw = trained.trained(name, folder, steps)
        yield Case(f"trained {name}", model.net, Wiring.of(model), draw(1500, 7))


def declarations(true: Wiring, rng: random.Random) -> Iterator[tuple[str, Wiring]]:
    """The true reading, and wrong ones of every kind that it has."""
    for kind in KINDS:
        made = true
        for one in {"right": [], "two": rng.sample(KINDS[1:5], 2)}.get(kind, [kind]):
            made = wrong(made, one, rng)
        if kind == "right" or differs(true, made):
            yield kind, made


def wrong(true: Wiring, kind: str, rng: random.Random) -> Wiring:
    """A reading with one thing changed."""
    if kind == "direction":
        return replace(true, path=true.path.flipped())
    if kind == "time":
        return replace(true, time="t", time_scale=1000.0 if true.time_scale == 1.0 else 1.0)
    if kind == "path":
        other = rng.choice([p for p in PATHS if p != true.base])
        return replace(true, path=other.flipped() if true.flipped else other)
    predicts = rng.choice([p for p in PREDICTIONS if p != true.predicts])
    edm = predicts == "edm"
    return replace(
        true, predicts=predicts, input_scale="edm" if edm else None, time="c_noise" if edm else "t"
    )


def row_of(case: Case, kind: str, declared: Wiring, blind: bool, seconds: float) -> Row:
    """One declaration checked."""
    model = declared.applied(ode.Model(case.net, case.wiring.path, "noise"))
    what = {"noise": (256, *case.data.shape[1:])} if blind else {"data": case.data}
    result, took = timing.timed(lambda: ode.check(model, **what, seconds=seconds))
    readings = [f.wiring for f in [result.best, *result.same] if f is not None]
    found = any(not differs(case.wiring, w) for w in readings)
    return Row(
        case.name,
        not blind,
        str(case.wiring),
        str(declared),
        kind,
        result.status,
        any(f.verdict == "wrong" for f in result.findings),
        found,
        len(case.data),
        result.calls,
        round(took, 2),
    )


def differs(one: Wiring, other: Wiring) -> list[str]:
    """In what two readings differ that decides a sampler: EDM's networks go by the noise alone, on
    any path and either way."""
    apart = one.differs(other)
    by_noise = one.predicts == other.predicts == "edm" and one.time == other.time == "c_noise"
    return [a for a in apart if not (by_noise and a in ("direction", "path"))]


def table(rows: list[Row]) -> str:
    """The confusion table: for each kind of declaration how many were flagged, and how often the
    truth was found."""
    lines = [
        f"{'data':6} {'network':8} {'declared':11} {'n':>4} {'flagged':>8} "
        f"{'truth found':>12} {'median s':>9}"
    ]
    for data in (True, False):
        for sort in ("exact", "trained"):
            for kind in KINDS:
                some = [
                    r
                    for r in rows
                    if r.data == data and r.network.startswith(sort) and r.kind == kind
                ]
                if some:
                    seconds = sorted(r.seconds for r in some)[len(some) // 2]
                    counts = (
                        f"{len(some):4} {sum(r.flagged for r in some):8} "
                        f"{sum(r.found for r in some):12}"
                    )
                    lines.append(
                        f"{'given' if data else 'none':6} {sort:8} {kind:11} {counts} "
                        f"{seconds:9.1f}"
                    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path("weights"),
        help="folder of trained weights (default ./weights)",
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", default="", help="networks whose name has this word")
    parser.add_argument(
        "--every", type=int, default=1, help="take only every so many of the networks"
    )
    parser.add_argument("--blind", action="store_true", help="without data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng, rows = random.Random(0), []
    cases = [*exact_cases(), *trained_cases(given.weights, given.steps)]
    for case in [c for c in cases if given.only in c.name][:: given.every]:
        for kind, declared in declarations(case.wiring, rng):
            rows.append(row_of(case, kind, declared, given.blind, SECONDS))
            r = rows[-1]
            if r.flagged != (kind != "right") or not r.found:
                print(
                    f"{kind}: {r.status}, flagged {r.flagged}, truth found {r.found}\n   "
                    f"{r.true}\n   {r.declared}",
                    flush=True,
                )
    print(table(rows))
    file = Path(__file__).parent / "results" / ("wiring_blind.csv" if given.blind else "wiring.csv")
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))


if __name__ == "__main__":
    main()
