"""What stands between main and a release: versions agree, the changelog is dated, the README's
example is found; what is built where there is no C++ compiler, and what where it does not work."""

from __future__ import annotations

import datetime
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import odesolve as ode
from odesolve import cli

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


def test_the_model_in_another_folder_can_be_profiled(release, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(release["MODEL"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", None)
    del sys.modules["mine"]
    assert cli.main(release["PROFILE"].split()) == 0
    assert "dpmpp_2m" in capsys.readouterr().out


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


def test_the_workflow_builds_the_wheel_without_kernels_as_the_script_does(release):
    assert " ".join(release["PURE"]) in (ROOT / ".github" / "workflows" / "wheels.yml").read_text()


@pytest.fixture
def configured(tmp_path):
    """The status of configuring the kernels, and what was said."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("what CMakeLists.txt decides is asked of cmake: pip install cmake")

    def configure(native, **env):
        told = [f"-DODESOLVE_NATIVE={native}", "-S", str(ROOT), "-B", str(tmp_path / "build")]
        done = subprocess.run(
            [cmake, *told], env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return configure


def test_without_a_compiler_the_reference_kernels_are_installed(configured, tmp_path):
    for name in ("make", "ninja"):
        if found := shutil.which(name):
            (tmp_path / name).symlink_to(found)
    nowhere = {"PATH": str(tmp_path), "CXX": str(tmp_path / "nonexistent")}
    status, told = configured("AUTO", **nowhere)
    assert status == 0, told
    assert told.count("no C++ compiler: install g++, then install again; the slow reference") == 1
    status, told = configured("ON", **nowhere)
    assert status != 0
    assert "no C++ compiler: install g++" in told


def test_a_compiler_that_does_not_work_is_no_missing_one(configured, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'out of licences' >&2\nexit 1\n")
    broken.chmod(0o755)
    status, told = configured("AUTO", CXX=str(broken))
    assert status != 0
    assert "out of licences" in told
    assert "no C++ compiler" not in told


def test_the_package_says_that_it_is_typed():
    assert (Path(ode.__file__).parent / "py.typed").exists()
