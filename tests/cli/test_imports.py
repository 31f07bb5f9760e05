"""Importing odesolve stays light."""

import subprocess
import sys


def test_optional_libraries_are_not_imported_with_the_package():
    names = "('matplotlib', 'rich', 'scipy', 'sklearn')"  # torch itself imports tqdm
    code = f"import sys, odesolve, odesolve.cli; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
