"""The house in numbers: ``python -m tests.architecture.house [FOLDER]`` counts its rooms, floors,
arrows and circles.

A room is a file or a folder directly under ``odesolve``. An arrow leads from a room to another one
that it imports from, wherever in its files it does so, but not for types alone. A room stands one
floor above the highest room that it imports from; rooms of one circle share a floor. An arrow runs
back up where a room imports from ``odesolve/__init__.py``, above it.

The way of a value is measured on this installation: ``ode.log_prob`` is called, and until the first
trace is estimated, every pair of rooms is counted of which one calls the other and hands it a
tensor as large as the data. A climb is such a pair whose second room stands on a higher floor; a
return is one in which the call came back before that."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = "__init__"


def sources(root: Path = ROOT) -> list[Path]:
    """The files of the library, kernels among them."""
    files = [*sorted((root / "odesolve").rglob("*.py")), *sorted((root / "kernels").rglob("*.py"))]
    return [f for f in files if "__pycache__" not in f.parts]


def room_of(file: Path, root: Path = ROOT) -> str:
    """The room that a file belongs to."""
    folder, *rest = file.relative_to(root).parts
    return "kernels" if folder == "kernels" else rest[0].removesuffix(".py")


@cache
def tree_of(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text())


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's tree."""
    return tuple(ast.walk(tree_of(file)))


@cache
def imports(file: Path) -> tuple[str, ...]:
    """The room of everything of ours that a file imports, wherever in the file it does, but not for
    types alone."""
    return tuple(_rooms(file))


def _rooms(file: Path) -> Iterator[str]:
    for_types = {
        id(inner)
        for node in nodes_of(file)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in nodes_of(file):
        if id(node) in for_types:
            continue
        for name in _imported(node, file):
            first, *rest = name.split(".")
            assert first != "kernels", f"{file}: kernels is imported as odesolve.kernels"
            if first == "odesolve":
                yield rest[0] if rest else TOP


def _imported(node: ast.AST, file: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, f"{file}: relative import"
    assert node.module is not None
    return (
        [f"{node.module}.{a.name}" for a in node.names]
        if node.module == "odesolve"
        else [node.module]
    )


@cache
def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """For every room the rooms that it imports from."""
    found = defaultdict(set)
    for file in sources(root):
        room = room_of(file, root)
        found[room] |= set(imports(file)) - {room}
    for room in [other for others in found.values() for other in others]:
        found.setdefault(room, set())
    return dict(found)


def circles(house: dict[str, set[str]]) -> list[set[str]]:
    """Sets of two rooms or more, each of which can be reached from every other one."""
    reach = {room: _reached(house, room) for room in house}
    together = {frozenset(other for other in reach[room] if room in reach[other]) for room in house}
    return [set(rooms) for rooms in together if len(rooms) > 1]


def _reached(house: dict[str, set[str]], room: str) -> set[str]:
    seen, waiting = set(), [room]
    while waiting:
        here = waiting.pop()
        new = house[here] - seen
        seen |= new
        waiting += new
    return seen


def floors(house: dict[str, set[str]]) -> dict[str, int]:
    """The floor on which each room stands, from 0."""
    circle_of = {room: circle for circle in circles(house) for room in circle}

    @cache
    def floor(room: str) -> int:
        circle = circle_of.get(room, {room})
        below = {other for here in circle for other in house[here]} - circle
        return max((floor(other) + 1 for other in below), default=0)

    return {room: floor(room) for room in house}


class Way:
    """The calls between rooms on the way of a value: which rooms it enters, how often it climbs,
    how often it returns."""

    def __init__(self, numbers: int, end: str):
        self.numbers = numbers
        self.end = end
        self.floors = floors(arrows())
        self.rooms: list[str] = []
        self.climbs: set[tuple[str, str]] = set()
        self.returns: set[tuple[str, str]] = set()

    def __call__(self, frame, event: str, argument) -> None:
        """A hook for ``sys.setprofile``."""
        if event not in ("call", "return"):
            return
        here, caller = self._room(frame), self._caller(frame)
        if here is None or caller is None or here == caller or not self._carries(frame):
            return
        if event == "return":
            self.returns.add((here, caller))
            return
        if here not in self.rooms:
            self.rooms.append(here)
        if self.floors[here] > self.floors[caller]:
            self.climbs.add((caller, here))
        if frame.f_code.co_filename.endswith(self.end):
            sys.setprofile(None)

    def _caller(self, frame) -> str | None:
        frame = frame.f_back
        while frame is not None and self._room(frame) is None:
            frame = frame.f_back
        return None if frame is None else self._room(frame)

    @staticmethod
    @cache
    def _room_of_file(name: str) -> str | None:
        file = Path(name)
        inside = any(file.is_relative_to(ROOT / folder) for folder in ("odesolve", "kernels"))
        return room_of(file) if inside else None

    def _room(self, frame) -> str | None:
        return self._room_of_file(frame.f_code.co_filename)

    def _carries(self, frame) -> bool:
        import torch

        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = (frame.f_locals.get(name) for name in names)
        return any(
            isinstance(value, torch.Tensor) and value.numel() == self.numbers for value in values
        )


def way_of_log_prob() -> Way:
    """The way of x from ``ode.log_prob`` to the first trace."""
    import torch

    import odesolve as ode

    model = ode.Model(lambda x, t: x.tanh(), path=ode.paths.Linear(), predicts="velocity")
    way = Way(numbers=7 * 5, end="trace/hutchinson.py")
    x = torch.linspace(-1, 1, 7 * 5).reshape(7, 5)
    sys.setprofile(way)
    try:
        ode.log_prob(model, x, trace="hutchinson", seed=0)
    finally:
        sys.setprofile(None)
    return way


def main() -> None:
    """Print the measures."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    house = arrows(root)
    by_floor = defaultdict(list)
    for room, floor in floors(house).items():
        by_floor[floor].append(room)
    back = sorted(room for room, others in house.items() if TOP in others)
    folders = sum((root / "odesolve" / room).is_dir() or room == "kernels" for room in house)
    print(
        f"rooms {len(house)} (folders {folders}), floors {len(by_floor)}, arrows "
        f"{sum(map(len, house.values()))}"
    )
    print(f"circles {[sorted(c) for c in circles(house)]}, arrows back up {back}")
    for floor in sorted(by_floor):
        print(f"{floor:3} {' '.join(sorted(by_floor[floor]))}")
    if root == ROOT:
        way = way_of_log_prob()
        print(
            f"x in ode.log_prob: enters {len(way.rooms)} rooms, climbs {len(way.climbs)}, "
            f"returns {len(way.returns)}"
        )
        print("    " + ", ".join(f"{caller} -> {room}" for caller, room in sorted(way.climbs)))


if __name__ == "__main__":
    main()
