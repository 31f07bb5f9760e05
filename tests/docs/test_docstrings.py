"""Every public name has an example in its docstring, and each of them runs."""

from __future__ import annotations

import doctest

import pytest

import odesolve as ode
from tests.registries import registries_as_they_were

FINDER = doctest.DocTestFinder(recurse=False)


def examples(name: str) -> list[doctest.DocTest]:
    """The sessions in the docstring of a public name."""
    return FINDER.find(getattr(ode, name), f"ode.{name}", module=False, globs={})


@pytest.mark.parametrize("name", ode.__all__)
def test_the_example_of_a_name_runs(name):
    (found,) = examples(name) or [None]
    assert found is not None, f"ode.{name} has no example: add 'Example:' with >>> lines"
    # a session that a reader can paste
    assert found.examples[0].source.startswith(("import ", "from "))
    with registries_as_they_were():
        told = []
        doctest.DocTestRunner(verbose=False).run(found, out=told.append)
    assert not told, "".join(told)
