"""python release check [PYTHON ...] | prepare VERSION: what stands between main and a release.

``check`` builds the source distribution, from it the wheel with compiled kernels, and the one
without. It makes an environment of each interpreter, of this one unless some are named, without
optional packages, installs the wheels there one after the other, and runs with each the README's
example and ``odesolve profile`` on a model in another folder. ``prepare`` writes the new version
where it stands and dates the changelog's Unreleased section.
"""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "release"
# Where the version stands, and what stands before it there.
VERSIONS = {
    "pyproject.toml": r'(?m)^(version = ")([^"]+)',
    "odesolve/version.py": r'(?m)^(__version__ = ")([^"]+)',
    "CITATION.cff": r"(?m)^(version: )(\S+)",
    "conda/meta.yaml": r'(version = ")([^"]+)',
}
UNRELEASED = "## [Unreleased]\n"
# No CMake, no compiler: the same package on its reference kernels.
PURE = ("-C", "wheel.cmake=false", "-C", "wheel.py-api=py3")
MODEL = """import odesolve as ode

def load():
    return ode.problems.gaussian(std=0.5, shape=(2,)).model(ode.paths.VP())
"""
WHAT_RUNS = """import platform, odesolve
print(platform.python_version(), odesolve.backend().devices["cpu"], flush=True)"""
PROFILE = "profile mine:load --shape 16,2 --nfe 4,6 --solvers ddim,dpmpp_2m"


def main(given: list[str]) -> None:
    """Run one verb."""
    if given[:1] == ["check"]:
        check(given[1:] or [sys.executable])
    elif len(given) == 2 and given[0] == "prepare":
        prepare(given[1], datetime.date.today())
    else:
        raise SystemExit(__doc__)


def check(pythons: list[str]) -> None:
    """Raise SystemExit with what is wrong; print what was done, with each of the interpreters."""
    problems = list(faults())
    if problems:
        raise SystemExit("\n".join(problems))
    shutil.rmtree(OUT, ignore_errors=True)
    native = _built("-C", "cmake.define.ODESOLVE_NATIVE=ON", "--outdir", str(OUT))
    pure = _built("--wheel", *PURE, "--outdir", str(OUT / "pure"))
    for python in pythons:
        with tempfile.TemporaryDirectory() as name:
            _run(python, "-m", "venv", f"{name}/venv")
            for wheel, backend in ((native, "native"), (pure, "reference")):
                _try_out(wheel, backend, Path(name))


def faults() -> Iterator[str]:
    """What of the repository is not ready, in words."""
    said = {name: versions(name) for name in VERSIONS}
    if len(set(said.values())) != 1:
        yield f"versions differ: {said}"
    body = _unreleased((ROOT / "CHANGELOG.md").read_text())
    if not body.strip():
        yield "CHANGELOG.md says nothing under Unreleased"


def versions(name: str) -> str:
    """The version that stands in this file."""
    match = re.search(VERSIONS[name], (ROOT / name).read_text())
    if match is None:
        raise SystemExit(f"no version in {name}")
    return match[2]


def prepare(version: str, day: datetime.date) -> None:
    """Write the version and the date into the files."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit(f"{version} is no version: give numbers such as 0.2.0")
    for name, pattern in VERSIONS.items():
        path = ROOT / name
        path.write_text(re.sub(pattern, rf"\g<1>{version}", path.read_text(), count=1))
    path = ROOT / "CHANGELOG.md"
    path.write_text(dated(path.read_text(), version, day))


def dated(changelog: str, version: str, day: datetime.date) -> str:
    """The changelog with its Unreleased section under this version and day, and an empty one."""
    if not _unreleased(changelog).strip():
        raise SystemExit("CHANGELOG.md says nothing under Unreleased")
    head = f"{UNRELEASED}\n## [{version}] - {day.isoformat()}\n"
    return changelog.replace(UNRELEASED, head, 1)


def _unreleased(changelog: str) -> str:
    _, found, rest = changelog.partition(UNRELEASED)
    if not found:
        raise SystemExit(f"CHANGELOG.md has no section {UNRELEASED.strip()}")
    return rest.partition("\n## ")[0]


def _built(*options: str) -> Path:
    """The wheel that ``python -m build`` makes with these options."""
    _run(sys.executable, "-m", "build", *options, str(ROOT))
    return next(Path(options[-1]).glob("*.whl"))


def _try_out(wheel: Path, backend: str, folder: Path) -> None:
    """Install a wheel in the environment of this folder, in place of another, and use it there."""
    begin = time.perf_counter()
    python = f"{folder}/venv/bin/python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(*pip, "uninstall", "--yes", "odesolve")
    _run(*pip, "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
    installed = time.perf_counter()
    (folder / "mine.py").write_text(MODEL)
    (folder / "example.py").write_text(example())
    print(_run(python, "example.py", cwd=folder))
    print(_run(python, "-m", "odesolve", *PROFILE.split(), cwd=folder), flush=True)
    end = time.perf_counter()
    found = _run(python, "-c", WHAT_RUNS, cwd=folder).splitlines()[0]
    version, kernels = found.split()
    if kernels != backend:
        raise SystemExit(f"{wheel.name} runs {kernels} kernels where {backend} were due")
    print(
        f"{wheel.name} on Python {version}: installed in {installed - begin:.0f} s, "
        f"used in {end - installed:.0f} s, {backend} kernels\n",
        flush=True,
    )


def example() -> str:
    """The README's first example."""
    match = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if match is None:
        raise SystemExit("README.md has no example")
    return match[1]


def _run(*command: str, cwd: Path | None = None) -> str:
    """What a command printed. Raises SystemExit, with it, where the command fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main(sys.argv[1:])
