"""The API reference: which public name stands on which page, and the table of solvers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import odesolve as ode

# Every public name stands on one page; a test compares this table with ``ode.__all__``.
TOPICS: dict[str, tuple[str, ...]] = {
    "Sampling": (
        "sample",
        "Sample",
        "Sampler",
        "iterate",
        "resume",
        "invert",
        "sdedit",
        "interpolate",
        "slerp",
        "Diverged",
    ),
    "Models": ("Model", "from_pipeline", "check", "Check", "paths"),
    "Plans and solvers": (
        "plan",
        "Plan",
        "default_plan",
        "load_plan",
        "solvers",
        "solver",
        "Writer",
        "grids",
        "cite",
        "PlanError",
    ),
    "Executors": ("Window", "Parareal", "Graph", "backend"),
    "Profiling": ("profile", "problems"),
    "Equations": (
        "solve",
        "Solution",
        "Event",
        "tableaus",
        "solve_sde",
        "SDESolution",
        "BrownianPath",
    ),
    "Likelihoods": ("log_prob", "LogProb", "bits_per_dim", "dequantise", "elbo", "Bound", "trace"),
    "Langevin dynamics": ("langevin", "mala", "Chains"),
    "Training, jobs, ranks": ("objectives", "training", "jobs", "distributed"),
    "Errors": ("OdesolveError",),
}


def pages() -> Iterator[tuple[str, str]]:
    """The pages of the reference, their index, and the list of solvers."""
    index = ["# API", "", "| page | names |", "|---|---|"]
    for topic, names in TOPICS.items():
        place = topic.lower().replace(",", "").replace(" ", "-")
        index.append(f"| [{topic}]({place}.md) | {', '.join(f'`{n}`' for n in names)} |")
        yield f"api/{place}.md", "\n\n".join([f"# {topic}", *(f"::: {path(n)}" for n in names)])
    yield "api/index.md", "\n".join(index)
    yield "solvers.md", _solvers()


def path(name: str) -> str:
    """Where a public name is defined."""
    value = getattr(ode, name)
    module = value.__name__ if inspect.ismodule(value) else value.__module__
    # where the source lies: an install puts kernels/ into the package
    module = module.replace("odesolve.kernels", "kernels")
    return module if inspect.ismodule(value) else f"{module}.{value.__qualname__}"


def _solvers() -> str:
    families: dict[str, list] = {}
    for solver in (*ode.solvers().values(), *ode.solvers().special.values()):
        families.setdefault(solver.family, []).append(solver)
    lines = ["# Solvers"]
    for family, members in families.items():
        lines += ["", f"## {family}", "", "| solver | order | evaluations per step | source |"]
        lines.append("|---|---|---|---|")
        lines += [f"| `{s.name}` | {s.order} | {s.evaluations} | {s.source} |" for s in members]
    return "\n".join(lines)
