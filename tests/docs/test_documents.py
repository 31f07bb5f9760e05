"""Every Python block of the documents runs, in order, and so does every example."""

from __future__ import annotations

import re
import sys
import types
import warnings
from pathlib import Path

import pytest

from tests.docs import runner
from tests.registries import registries_as_they_were

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRESS = re.compile(r"^odesolve: .* after [0-9:]+.*\n", re.MULTILINE)  # of a slow machine
DOCUMENTS = [f for f in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if f.exists()]
APART = {"train_digits.py"}  # which test_trained_digits.py runs
EXAMPLES = sorted(f for f in (ROOT / "examples").glob("*.py") if f.name not in APART)
NEEDS = {  # whose own warnings are theirs
    "deployment.md": (),  # torch.export's
    "training-elsewhere.md": ("lightning", "accelerate"),
}
SHORTER = {  # arguments of examples that take long
    "annealed_langevin.py": ["--samples", "16", "--each", "10", "--steps", "100"],
    "bridge.py": ["--steps", "4"],
    "cnf.py": ["--steps", "4"],
    "consistency.py": ["--steps", "4"],
    "diffflow.py": ["--steps", "4", "--times", "3"],
    "edit_digits.py": ["--digits", "64"],
    "few_steps.py": ["--steps", "4"],
    "flow_matching.py": ["--steps", "4"],
    "guided_digits.py": ["--steps", "4"],
    "guided_distillation.py": ["--steps", "4"],
    "latent.py": ["--steps", "4"],
    "ncsn.py": ["--steps", "4"],
    "own_network.py": ["--steps", "40"],
    "progressive_distillation.py": ["--steps", "4"],
    "schroedinger.py": ["--steps", "4"],
    "score_matching.py": ["--steps", "4"],
    "score_sde.py": ["--steps", "4"],
    "time_parallel.py": ["--steps", "20"],
}


def blocks(file):
    """(first line, code) of every block."""
    text = file.read_text()
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda f: f.name)
def test_document(file, tmp_path, monkeypatch):
    """One namespace a document: a block may use what the ones before it defined. Files land in a
    scratch folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    # the compiler looks up where a function is from, and keeps what it found under the name
    name = f"document_{file.stem.replace('-', '_')}"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    with warnings.catch_warnings(), registries_as_they_were():
        if file.name in NEEDS:
            warnings.simplefilter("ignore")
        for name in NEEDS.get(file.name, ()):
            pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")
        for line, code in blocks(file):
            exec(compile("\n" * line + code, str(file), "exec"), module.__dict__)


@pytest.mark.few(8)
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.name)
def test_example(file, tmp_path):
    status, told = runner.run(file, SHORTER.get(file.name, []), tmp_path)
    assert status == 0, told
    assert not PROGRESS.sub("", told)


@pytest.mark.parametrize(
    ("line", "code"), [pytest.param(*b, id=str(b[0])) for b in blocks(ROOT / "docs/extending.md")]
)
def test_what_one_extends_is_a_block_to_copy(line, code):
    """Each block of the page stands alone: it imports what it uses of the library."""
    for name in ("ode", "torch"):
        assert (re.search(rf"\b{name}\.", code) is None) or re.search(
            rf"^import (.* as )?{name}$", code, re.M
        )
