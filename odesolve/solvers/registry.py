"""The list of solvers: what each is (name, order, source, family), what suits it, and the function
that writes its plan."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from odesolve.doors.annotations import count, meant, text
from odesolve.doors.brief import grid
from odesolve.doors.values import real, switch, whole
from odesolve.errors import OdesolveError, PlanError, UnknownOption, unknown
from odesolve.solvers.families import COLOURS, Family
from odesolve.solvers.outside import PLAIN, Outside

# Options that are numbers of at least 0, and those that may be infinite.
LEVELS = ("eta", "tau", "s_noise", "s_churn", "s_tmin", "s_tmax", "floor", "snr", "step", "r")
BOUNDS = ("s_tmax", "s_churn")
# The grid that suits a solver, on a path of diffusion, unless its registration names another.
SUITS = {"rho": "vp_time(2,merged)"}
OTHERWISE = "karras"
HEAD = ("solver", "order", "evaluations per step", "clock", "source")


@dataclass(frozen=True)
class Solver:
    """One entry of ``ode.solvers()``.

    ``order`` is the order of convergence of a smooth solve in the clock that the method works in,
    ``evaluations`` the network evaluations per step once it is under way, ``starters`` those it
    adds once at the start. ``stochastic`` solvers draw noise, so ``ode.sample`` takes a seed for
    them; their order is the weak one.

    ``family`` is what profiles draw and compare it as, its own name unless it declares one;
    ``grid`` the label of the grid that suits it on paths of diffusion; ``baseline`` above 0 makes
    it one of the well-known solvers that profiles show whatever their rank, in this order.
    ``outside`` says how a loop that calls the network itself drives it."""

    name: str
    write: Callable[..., None] = field(repr=False, compare=False)
    order: int
    evaluations: int
    source: str
    starters: int = 0
    clock: str = "lambda"
    summary: str = ""
    stochastic: bool = False
    family: str = ""
    grid: str = ""
    baseline: int = 0
    outside: Outside = field(default=PLAIN, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)
        if not self.grid:
            object.__setattr__(self, "grid", SUITS.get(self.clock, OTHERWISE))

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Names and default values of the options it takes in ``ode.plan`` and ``ode.sample``."""
        parameters = inspect.signature(self.write).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise OdesolveError for an option that this solver does not take, or a value that is none
        of its kind."""
        for name in options:
            if name not in self.options:
                takes = ", ".join(f"{k}={v!r}" for k, v in self.options.items()) or "no options"
                problem = f"solver {self.name!r} got an option {name!r}; it takes {takes}"
                raise UnknownOption(problem, name, (*self.options, "afs", "tree"))
            check_option(f"{self.name}: {name}", name, options[name], self.options[name])


def check_option(label: str, name: str, given: Any, default: Any) -> None:
    """Raise OdesolveError for a value of another kind than the option's default, or a negative
    level."""
    if isinstance(default, bool):
        switch(label, given)
    elif isinstance(default, int):
        whole(label, given)
    elif isinstance(default, float):
        if name in ("eta", "tau"):
            given = real(label, given, "a noise level, 0 (the ODE), 1 (the reverse SDE) or between")
            if given < 0.0:
                raise PlanError(
                    f"{label}={given} is no noise level: give 0 (the ODE), 1 (the "
                    "reverse SDE) or between"
                )
        elif name in LEVELS:
            real(label, given, "a number of at least 0", 0.0, infinite=name in BOUNDS)
        else:
            real(label, given)
    elif isinstance(default, str) and not isinstance(given, str) and not callable(given):
        raise OdesolveError(f"{label}={given!r}: give a name such as {default!r}")


class Registry(dict[str, Solver]):
    """Solvers by name; prints as a table. ``special`` holds those for networks of a kind, which are
    found by name as well."""

    def __init__(self) -> None:
        super().__init__()
        self.special: dict[str, Solver] = {}

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Name, order, evaluations per step, clock, source: one row per solver, as text."""
        for s in (*self.values(), *self.special.values()):
            extra = f" (+{s.starters})" if s.starters else ""
            yield s.name, str(s.order), f"{s.evaluations}{extra}", s.clock, s.source

    def __repr__(self) -> str:
        families = {s.family for s in self.values()}
        return (
            f"{len(self)} solvers of {len(families)} families: print them, or list(...) their names"
        )

    def _repr_html_(self) -> str:
        return grid(f"{len(self)} solvers", HEAD, self.rows())

    def __str__(self) -> str:
        table = [HEAD, *self.rows()]
        widths = [max(len(r[i]) for r in table) for i in range(4)]
        lines = []
        for *cells, source in table:
            aligned = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join([*aligned, source]))
        return "\n".join(lines)

    def named(self, name: str) -> Solver | None:
        """The solver of this name, in any case, None without one."""
        key = str(name).lower().replace("-", "_").replace("+", "p")
        return self.get(key) or self.special.get(key)

    def find(self, name: str) -> Solver:
        """The solver of this name. Raises OdesolveError with the nearest name otherwise."""
        entry = self.named(name)
        if entry is None:
            raise unknown("solver", name, {**self, **self.special})
        return entry

    def family_of(self, name: str) -> str:
        """The family of the solver of this name; of a name that is not registered, itself."""
        entry = self.get(name) or self.special.get(name)
        return name if entry is None else entry.family

    def baselines(self) -> list[Solver]:
        """The well-known solvers that profiles show whatever their rank, the best known first."""
        known = [s for s in (*self.values(), *self.special.values()) if s.baseline]
        return sorted(known, key=lambda s: s.baseline)


REGISTRY = Registry()


def _family(label: str, given: Any) -> None:
    if not isinstance(given, Family) and not (isinstance(given, str) and given.strip()):
        raise OdesolveError(f"{label}={given!r}: give the name of a family, such as 'UniPC'")


def _outside(label: str, given: Any) -> None:
    if not isinstance(given, Outside):
        raise OdesolveError(f"{label}={given!r}: give a solvers.Outside, such as Outside()")


@meant(
    order=count(0),
    evaluations=count(),
    starters=count(0),
    name=text("mine"),
    source=text("Song et al. 2021"),
    family=_family,
    grid=text("karras"),
    baseline=count(0),
    outside=_outside,
)
def solver(
    name: str,
    order: int,
    evaluations: int,
    source: str,
    starters: int = 0,
    clock: str = "lambda",
    stochastic: bool = False,
    special: bool = False,
    family: Family | str = "",
    grid: str = "",
    baseline: int = 0,
    outside: Outside = PLAIN,
    **fixed,
):
    """Decorator that registers a plan-writing function; keyword arguments beyond the metadata are
    fixed options.

    Args:
        name: what ``ode.plan`` and ``ode.sample`` know it by.
        order: its order of convergence.
        evaluations: network evaluations per step.
        source: where it was published.
        starters: evaluations that it adds once, at the start.
        clock: what it works in: "t", "lambda" or "rho".
        stochastic: whether it draws noise.
        special: whether it is for networks that were trained for it; it does not converge on
            others.
        family: what profiles draw and compare it as; by default a family of its own.
        grid: the label of the grid that suits it on paths of diffusion, where the user names none.
        baseline: above 0 for one of the well-known solvers that profiles show whatever their rank,
            in this order.
        outside: how a loop that calls the network itself drives it.

    Example:
        >>> import odesolve as ode
        >>> @ode.solver("my_ddim", order=1, evaluations=1, source="Song et al. 2021a")
        ... def my_ddim(w):
        ...     x = w.start
        ...     for s, t in w.steps:
        ...         a = t.sigma / s.sigma
        ...         x = w.step(t, a * x + (t.alpha - a * s.alpha) * w.data(x, s))
        >>> model = ode.problems.gaussian([1.0, -1.0], std=0.5).model(ode.paths.VP())
        >>> ode.sample(model, (4, 2), "my_ddim", steps=10, seed=0).shape
        torch.Size([4, 2])
    """
    if isinstance(family, Family):
        COLOURS.setdefault(family.name, family.colour)
        family = family.name

    def register(write):
        bound = _bind(write, fixed)
        entry = Solver(
            name,
            bound,
            order,
            evaluations,
            source,
            starters,
            clock,
            summary=(inspect.getdoc(write) or "").split("\n", 1)[0],
            stochastic=stochastic,
            family=family,
            grid=grid,
            baseline=baseline,
            outside=outside,
        )
        (REGISTRY.special if special else REGISTRY)[name] = entry
        return write

    return register


def _bind(write, fixed):
    if not fixed:
        return write
    bound = functools.partial(write, **fixed)
    signature = inspect.signature(write)
    bound.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p for n, p in signature.parameters.items() if n not in fixed]
    )
    return bound
