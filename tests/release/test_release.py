"""What stands between main and a release: versions agree, the changelog is dated, the README's
example is found."""

from __future__ import annotations

import datetime
import runpy
from pathlib import Path

import pytest

import odesolve as ode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release():
    return runpy.run_path(str(ROOT / "release" / "__main__.py"), run_name="release")


def test_the_repository_is_ready(release):
    assert list(release["faults"]()) == []
    assert {release["versions"](name) for name in release["VERSIONS"]} == {ode.__version__}


def test_the_example_is_the_first_of_the_readme(release):
    example = release["example"]()
    assert example.startswith("import odesolve as ode")
    assert "ode.sample(" in example
    compile(example, "example", "exec")


def test_the_changelog_is_dated(release):
    before = "# Changelog\n\n## [Unreleased]\n\n- One.\n\n## [0.1.0] - 2026-01-01\n\n- Old.\n"
    after = release["dated"](before, "0.2.0", datetime.date(2026, 12, 1))
    assert after.startswith("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- One.")
    with pytest.raises(SystemExit, match="nothing under Unreleased"):
        release["dated"](after, "0.3.0", datetime.date(2026, 12, 2))
    with pytest.raises(SystemExit, match="no section"):
        release["dated"]("# Changelog\n", "0.3.0", datetime.date(2026, 12, 2))


@pytest.mark.parametrize("given", [[], ["publish"], ["prepare"], ["prepare", "v2"]])
def test_other_words_are_refused(release, given):
    with pytest.raises(SystemExit):
        release["main"](given)


def test_the_package_says_that_it_is_typed():
    assert (Path(ode.__file__).parent / "py.typed").exists()
