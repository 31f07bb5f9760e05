"""From what was typed to models, paths, labels and numbers."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path as File
from typing import Any

import torch

from odesolve import paths, problems
from odesolve.errors import OdesolveError, unknown
from odesolve.models import Model
from odesolve.paths import Path

PATHS = {
    "vp": paths.VP,
    "edm": paths.EDM,
    "linear": paths.Linear,
    "cosine": paths.Cosine,
    "ve": paths.VE,
    "subvp": paths.SubVP,
    "trig": paths.Trig,
    "ddpm": paths.Discrete.ddpm,
    "sd": paths.Discrete.stable_diffusion,
}
FACTORY = (
    "package.module:factory or file.py:factory, a function without arguments that returns an ode.Model (or a Model)"
)
DIGITS = (256, 1, 8, 8)
PICTURES = 4  # samples of a pipeline


def model_of(given: argparse.Namespace) -> tuple[Model, tuple[int, ...]]:
    """The model that the arguments name, and the shape of its noise."""
    shape = tuple(whole(n, "--shape") for n in items(given.shape)) if given.shape else None  # type: ignore[union-attr]
    if given.diffusers:
        if given.model is not None:
            raise OdesolveError("two models: give either a FACTORY or --diffusers FOLDER")
        return _of_pipeline(given, shape)
    if given.model is None:
        return problems.digits().model(path_named(given.path)), shape or DIGITS
    if shape is None:
        raise OdesolveError("the shape of the samples is missing: give --shape B,C,H,W")
    return load_model(given.model), shape


def _of_pipeline(given: argparse.Namespace, shape: tuple[int, ...] | None) -> tuple[Model, tuple[int, ...]]:
    """The model of a pipeline saved by diffusers, called as --call says."""
    from odesolve.integrations.diffusers import load_pipeline

    model, event = load_pipeline(given.diffusers, given.device, [_setting(item) for item in given.call])
    shape = shape or (PICTURES, *event)
    if shape[1:] != event:
        raise OdesolveError(
            f"--shape says {shape[1:]} for samples of shape {event}: leave it out, or give --shape B,{event}"
        )
    return model, shape


def _setting(item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        raise OdesolveError(
            f"--call {item!r}: give NAME=VALUE, such as --call prompt='a fox' or --call guidance_scale=5"
        )
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a text without quotes, such as a prompt
        return key, value


def first_rank() -> bool:
    """Whether this process is the first of torchrun's, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def own_device() -> None:
    """Under torchrun every process of a machine has a GPU of its own, before a factory puts its network on "cuda"."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def load_model(spec: str) -> Model:
    """The model of ``package.module:factory`` or ``file.py:factory``. Raises OdesolveError if there is none."""
    own_device()
    where, colon, name = spec.rpartition(":")
    if not colon:
        raise OdesolveError(f"{spec!r} names no model: give {FACTORY}")
    try:
        made = getattr(_module(where), name)
        made = made if isinstance(made, Model) else made()
    except Exception as e:  # whatever the user's code raises is one line here
        raise OdesolveError(f"{spec}: {type(e).__name__}: {e}") from e
    if not isinstance(made, Model):
        raise OdesolveError(f"{spec} returned {type(made).__name__}: let it return an ode.Model")
    return made


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(where)
        finally:
            sys.path.remove("")
    spec = importlib.util.spec_from_file_location(File(where).stem, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path_named(name: str) -> Path:
    """The path of this name. Raises OdesolveError otherwise."""
    if name.lower() not in PATHS:
        raise unknown("path", name, PATHS)
    return PATHS[name.lower()]()


def items(text: str | None) -> list[str] | None:
    """The parts between commas, except those inside brackets."""
    if text is None:
        return None
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


def whole(text: str, option: str) -> int:
    """The number in a text. Raises OdesolveError if it holds none."""
    try:
        return int(text)
    except ValueError:
        raise OdesolveError(f"{option} holds {text!r}: give whole numbers with commas between them") from None


def dtype(given: argparse.Namespace) -> torch.dtype:
    """The state's dtype."""
    return torch.float64 if given.double else torch.float32
