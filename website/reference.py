"""The API reference: which public name stands on which page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import odesolve as ode

# needs diffusers, which the site does without
FROM_PIPELINE = {"from_pipeline": "odesolve.integrations.diffusers.pipeline.from_pipeline"}
WORDS = (
    "Every public name, by what it is for. `import odesolve as ode`; the examples are run by the "
    "tests."
)
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
    "Objectives": ("objectives",),
    "Training": ("training",),
    "Jobs and ranks": ("jobs", "distributed"),
    "Errors": ("OdesolveError",),
}


def pages() -> Iterator[tuple[str, str]]:
    """The pages of the reference and their index."""
    index = ["# API", "", WORDS, "", "| page | names |", "|---|---|"]
    for topic, names in TOPICS.items():
        place = topic.lower().replace(",", "").replace(" ", "-")
        linked = ", ".join(f"[`{name}`]({place}.md#{path(name)})" for name in names)
        index.append(f"| [{topic}]({place}.md) | {linked} |")
        blocks = [f"# {topic}", *(block for name in names for block in _blocks(name))]
        yield f"api/{place}.md", "\n\n".join(blocks)
    yield "api/index.md", "\n".join(index)


def path(name: str) -> str:
    """Where a public name is defined."""
    if name in FROM_PIPELINE:
        return FROM_PIPELINE[name]
    value = getattr(ode, name)
    module = value.__name__ if inspect.ismodule(value) else value.__module__
    # where the source lies: an install puts kernels/ into the package
    module = module.replace("odesolve.kernels", "kernels")
    return module if inspect.ismodule(value) else f"{module}.{value.__qualname__}"


def members(name: str) -> Iterator[str]:
    """The public members of a public module that are its own or that it exports, by where they are
    defined."""
    module = getattr(ode, name)
    for member in getattr(module, "__all__", vars(module)):
        value = getattr(module, member)
        if member.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if hasattr(module, "__all__") or value.__module__ == module.__name__:
            yield f"{value.__module__}.{value.__qualname__}"


def _blocks(name: str) -> Iterator[str]:
    """What mkdocstrings is asked for, for one name: a module without its members, then these."""
    if name in FROM_PIPELINE or not inspect.ismodule(getattr(ode, name)):
        yield _block(path(name), f"ode.{name}")
        return
    yield _block(path(name), f"ode.{name}", members=False)
    for place in members(name):
        yield _block(place, f"ode.{name}.{place.rpartition('.')[2]}", heading_level=3)


def _block(place: str, heading: str, **options: object) -> str:
    settings = {"heading": heading, "toc_label": heading.removeprefix("ode."), **options}
    lines = [
        f"        {key}: {str(value).lower() if value is False else value}"
        for key, value in settings.items()
    ]
    return "\n".join([f"::: {place}", "    options:", *lines])
