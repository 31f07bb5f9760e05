"""The pipelines that ask a scheduler for more than the protocol are those that the document
lists."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

diffusers = pytest.importorskip("diffusers", reason="pip install 'odesolve[diffusers]'")

DOCUMENT = Path(__file__).parents[3] / "docs" / "from-diffusers.md"
STEP = {"model_output", "timestep", "sample", "generator", "eta", "return_dict"}
STEP |= {"variance_noise", "use_clipped_model_output"}
PROTOCOL = {
    "set_timesteps",
    "timesteps",
    "sigmas",
    "step",
    "scale_model_input",
    "add_noise",
    "scale_noise",
}
PROTOCOL |= {
    "order",
    "config",
    "init_noise_sigma",
    "set_begin_index",
    "step_index",
    "begin_index",
    "_step_index",
}
PROTOCOL |= {
    "num_inference_steps",
    "alphas_cumprod",
    "betas",
    "register_to_config",
    "_internal_dict",
    "__class__",
}


def asked(tree: ast.AST):
    """What a module asks of schedulers beyond the protocol."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("isinstance"), args=[what, kind]) if is_scheduler(what):
                yield ast.unparse(kind)
            case ast.Call(
                func=ast.Attribute(value=what, attr="step"), args=args, keywords=keywords
            ):
                if is_scheduler(what):
                    yield from (k.arg for k in keywords if k.arg and k.arg not in STEP)
                    yield from [f"{len(args)} arguments"] if len(args) > 3 else []
            case ast.Call(
                func=ast.Attribute(value=kind, attr="from_config"), args=[ast.Attribute(value=what)]
            ):
                if is_scheduler(what) and "__class__" not in ast.unparse(kind):
                    yield ast.unparse(kind)
            case ast.Attribute(value=what, attr=name) if (
                is_scheduler(what) and name not in PROTOCOL
            ):
                yield name


def is_scheduler(node: ast.AST) -> bool:
    name = (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else ""
    )
    return name.endswith("scheduler")


def installed() -> dict[str, set[str]]:
    """What the installed pipelines ask, by folder; those that diffusers has deprecated are left
    out."""
    root, found = Path(diffusers.__file__).parent / "pipelines", defaultdict(set)
    for file in root.glob("*/*.py"):
        if file.parent.name != "deprecated" and file.name != "convert_from_ckpt.py":
            found[file.parent.name] |= set(asked(ast.parse(file.read_text())))
    return {folder: names for folder, names in found.items() if names}


def documented() -> dict[str, set[str]]:
    """The rows of the document's table: folders, and what they ask."""
    table = DOCUMENT.read_text().split("## Pipelines that ask for more")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    names = [[set(re.findall(r"`([^`]+)`", cell)) for cell in row] for row in rows]
    return {folder: asked for folders, asked in names for folder in folders}


@pytest.mark.long  # it parses every pipeline that diffusers has
@pytest.mark.skipif(
    not diffusers.__version__.startswith("0.42."), reason="the document lists diffusers 0.42"
)
def test_the_list_is_that_of_the_installed_version():
    assert documented() == installed()
