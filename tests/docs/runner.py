"""Runs an example in a process that has the libraries already: importing them takes longer than
what most examples do."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch._dynamo",
        "sklearn.datasets",
        "sklearn.linear_model",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "tests.docs.loaded",
    ]
)


def run(file: Path, arguments: list[str], folder: Path) -> tuple[int | None, str]:
    """The exit status, and what was written to standard error."""
    child = SERVER.Process(target=_run, args=(str(file), arguments, str(folder)))
    child.start()
    child.join()
    return child.exitcode, (folder / "stderr").read_text()


def _run(file: str, arguments: list[str], folder: str) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv, sys.path = [file, *arguments], [str(Path(file).parent), *sys.path]
    warnings.simplefilter("error")
    try:
        runpy.run_path(file, run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
