"""Many small cases in one test: a case of pytest's own costs some five milliseconds, a row of a table
next to nothing.

``make test-long`` makes each row a case again.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from odesolve.errors import short
from tests.products import LONG

FAILURES = (Exception, pytest.fail.Exception)


def rows(names: str | Sequence[str], values: Iterable, ids: Any = None) -> Callable:
    """Like ``pytest.mark.parametrize``, of one test that runs every row and names those that
    fail."""
    if LONG:
        return pytest.mark.parametrize(names, values, ids=ids)
    columns = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    single = isinstance(names, str) and "," not in names
    table = _table(columns, single, list(values), ids)
    return functools.partial(_over, columns, table)


def _table(columns: list[str], single: bool, values: list, ids: Any) -> dict[str, dict]:
    """The rows by what a failure calls them."""
    known = list(ids) if isinstance(ids, Iterable) else [None] * len(values)
    table = {}
    for number, (value, known_as) in enumerate(zip(values, known, strict=True)):
        if hasattr(value, "marks"):  # a pytest.param
            assert not value.marks, "a row has no marks: give pytest.mark.parametrize"
            known_as = known_as or value.id
            value = value.values[0] if single else value.values
        row = dict(zip(columns, [value] if single else value, strict=True))
        called = known_as or ", ".join(map(ids if callable(ids) else _short, row.values()))
        table[f"row {number} ({called})"] = row
    return table


def _short(value: Any) -> str:
    return getattr(value, "__name__", None) or short(value)


@contextlib.contextmanager
def _fresh(fixtures: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """The fixtures as a row of its own would find them: an empty folder, nothing patched, nothing
    printed."""
    own = dict(fixtures)
    if "tmp_path" in own:
        own["tmp_path"] = own["tmp_path"] / str(number)
        own["tmp_path"].mkdir()
    if "capsys" in own:
        own["capsys"].readouterr()
    with contextlib.ExitStack() as patches:
        if "monkeypatch" in own:
            own["monkeypatch"] = patches.enter_context(own["monkeypatch"].context())
        yield own


def _over(columns: list[str], table: Mapping[str, dict], test: Callable) -> Callable:
    """The test over all rows, of which pytest sees the other arguments alone."""
    signature = inspect.signature(test)
    others = [p for p in signature.parameters.values() if p.name not in columns]
    assert len(others) + len(columns) == len(signature.parameters), f"{test} takes no {columns}"

    @functools.wraps(test)
    def over(*args: Any, **fixtures: Any) -> None:
        failed = {}
        skipped = []
        for number, (name, row) in enumerate(table.items()):
            torch.manual_seed(0)
            try:
                with _fresh(fixtures, number) as own:
                    test(*args, **own, **row)
            except pytest.skip.Exception as reason:
                skipped.append(reason)
            except FAILURES as error:
                failed[name] = error
        if failed:
            said = "".join(f"\n{name}: {error!r:.400}" for name, error in failed.items())
            raise AssertionError(f"{len(failed)} of {len(table)} rows fail:{said}") from next(
                iter(failed.values())
            )
        if skipped and len(skipped) == len(table):
            raise skipped[0]

    del over.__wrapped__  # pytest would ask for the columns as fixtures
    over.__signature__ = signature.replace(parameters=others)
    return over
