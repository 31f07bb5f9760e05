"""The page of solvers, made from the registry."""

from __future__ import annotations

from collections.abc import Iterator

import odesolve as ode
from odesolve.methods.pairs import PAIRS
from odesolve.methods.tableaus import EXPLICIT
from odesolve.ode.implicit import ESDIRKS
from odesolve.solvers.families import KNOWN
from odesolve.stochastic.steps import SOLVERS

INTRODUCTION = """# Solvers

Every sampler by family: `ode.sample(model, noise, solver="name")`. The evaluations are calls of
the network per step, of one sample and before guidance. `(eta=...)` and other options stand
behind a name in brackets; `ode.solvers()["name"].options` lists them, and [choosing](choosing.md)
has figures. Stochastic are those that draw noise as they stand; others do so with an option, such
as `ddim(eta=1)`.
"""
EQUATIONS = """
## Equations of your own

`ode.solve(f, y0, t, solver="name")` chooses the steps of every sample by a tolerance: take
`dopri5` for most, `tsit5` as an equal of it, `dopri8` for small tolerances, and an implicit
solver where the equation is stiff. With `steps=` any explicit solver takes steps of one size.
"""
SDES = """
## Stochastic equations of your own

`ode.solve_sde(f, g, y0, t, solver="name")`: take `srid2` or `sra1` (additive noise) for accurate
paths, `euler_maruyama` as the reference. [SDE solvers](sde-solvers.md) says which noise each
takes.
"""


def pages() -> Iterator[tuple[str, str]]:
    """The one page."""
    yield (
        "solvers.md",
        "\n".join([INTRODUCTION, *_samplers(), EQUATIONS, *_equations(), SDES, *_sdes()]),
    )


def _samplers() -> Iterator[str]:
    registry = ode.solvers()
    families: dict[str, list] = {}
    for solver in (*registry.values(), *registry.special.values()):
        families.setdefault(solver.family, []).append(solver)
    for family, members in families.items():
        yield f"\n## {family}\n\n{KNOWN[family].advice}\n"
        yield from _table("solver", "order", "evaluations per step", "noise", "source")
        for s in members:
            noise = "stochastic" if s.stochastic else ""
            yield f"| `{s.name}` | {s.order} | {s.evaluations} | {noise} | {s.source} |"


def _equations() -> Iterator[str]:
    yield from _table("solver", "order", "stages", "steps", "source")
    kinds = ((PAIRS, "by tolerance"), (ESDIRKS, "by tolerance, implicit"))
    for pairs, steps in kinds:
        for pair in pairs.values():
            yield f"| `{pair.name}` | {pair.order} | {len(pair.c)} | {steps} | {pair.source} |"
    for t in EXPLICIT:
        yield f"| `{t.name}` | {t.order} | {len(t.c)} | of one size | {t.source} |"


def _sdes() -> Iterator[str]:
    yield from _table(
        "solver", "noise: calculus, strong order", "calls of the drift per step", "source"
    )
    for name, solver in SOLVERS.items():
        kinds = (
            f"{noise}: {' and '.join(calculi)}, {solver.strong[noise]:g}"
            for noise, calculi in solver.calculi.items()
        )
        yield f"| `{name}` | {'; '.join(kinds)} | {solver.drifts} | {solver.source} |"


def _table(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
