"""Without the libraries that adapters adapt to, their import says what to install and everything
else works."""

import importlib.abc
import importlib.machinery
import subprocess
import sys
import types

import pytest

from odesolve.integrations.missing import needed

PEERS = ("diffusers", "transformers", "k_diffusion", "torchdiffeq", "torchsde")
BLOCK = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {PEERS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False
    )


ADAPTERS = ("k_diffusion", "torchdiffeq", "torchsde", "names", "imported")


WHOLE = """
from odesolve import *
import odesolve as ode
model = ode.problems.gaussian(shape=(2,)).model(ode.paths.VP(), "noise")
assert ode.sample(model, (3, 2), steps=3, seed=0).shape == (3, 2)
try:
    ode.from_pipeline
except ImportError as e:
    assert "odesolve[diffusers]" in str(e)
else:
    raise AssertionError
print("whole")
"""


def test_nothing_else_breaks_and_the_one_adapter_says_what_to_install():
    """In one process, which takes seconds to start."""
    needless = "\n".join(f"import odesolve.integrations.{name}" for name in ADAPTERS)
    done = run(f"{WHOLE}\n{needless}\nprint('so far')\nimport odesolve.integrations.diffusers")
    assert done.stdout == "whole\nso far\n", done.stderr
    assert done.returncode != 0
    assert "pip install 'odesolve[diffusers]'" in done.stderr


class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one library, which fails as it is imported."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "broken_library" else None

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        importlib.import_module("a_module_that_is_not_there")


def test_an_installed_library_that_fails_is_not_called_missing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there") as told:
        needed("broken_library", "broken")
    assert "pip install" not in str(told.value)
