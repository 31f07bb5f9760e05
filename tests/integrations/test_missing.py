"""Without the libraries that adapters adapt to, their import says what to install and everything
else works."""

import subprocess
import sys

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


def test_adapters_that_need_no_peer_and_the_one_that_says_what_to_install():
    """In one process, which takes seconds to start."""
    needless = "\n".join(f"import odesolve.integrations.{name}" for name in ADAPTERS)
    done = run(f"{needless}\nprint('so far')\nimport odesolve.integrations.diffusers")
    assert done.stdout == "so far\n", done.stderr
    assert done.returncode != 0
    assert "pip install 'odesolve[diffusers]'" in done.stderr


def test_nothing_else_breaks():
    code = """
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
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_an_installed_library_that_fails_is_not_called_missing():
    code = """
import types
from odesolve.integrations.missing import needed
sys.meta_path.pop(0)
import importlib.abc, importlib.machinery
class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "broken_library" else None
    def create_module(self, spec):
        return types.ModuleType(spec.name)
    def exec_module(self, module):
        import a_module_that_is_not_there
sys.meta_path.insert(0, Broken())
needed("broken_library", "broken")
"""
    done = run(code)
    assert "a_module_that_is_not_there" in done.stderr
    assert "pip install" not in done.stderr
