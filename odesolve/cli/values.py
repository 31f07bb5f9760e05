"""Models, paths, devices and dtypes from the arguments that were typed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path as File
from typing import Any, NamedTuple

import torch

from odesolve import paths, problems
from odesolve.cli.conditions import setting
from odesolve.errors import OdesolveError, unknown
from odesolve.model.model import Model
from odesolve.paths import Path
from odesolve.process.launch import launched, own_device

# What --path takes, as its help says it.
PATHS = (*paths.TYPED, "package.module:MyPath")
FACTORY = (
    "package.module:factory or file.py:factory, a function without arguments that returns an "
    "ode.Model (or a Model)"
)
PATH = "package.module:MyPath or file.py:MyPath, a path, its class or a function without arguments"
DIGITS = (256, 1, 8, 8)
PICTURES = 4  # samples of a pipeline


def model_of(given: argparse.Namespace) -> tuple[Model, tuple[int, ...]]:
    """The model that the arguments name, and the shape of its noise."""
    own_device()
    shape = given.shape
    if given.call and not given.diffusers:
        raise OdesolveError(
            f"--call {given.call[0]} is an argument of a pipeline: give --diffusers FOLDER, too"
        )
    if given.diffusers:
        if given.model is not None:
            raise OdesolveError("two models: give either a FACTORY or --diffusers FOLDER")
        return _of_pipeline(given, shape)
    if given.model is None:
        return problems.digits().model(path_named(given.path)), shape or DIGITS
    if shape is None:
        raise OdesolveError("the shape of the samples is missing: give --shape B,C,H,W")
    return load_model(given.model), shape


def _of_pipeline(
    given: argparse.Namespace, shape: tuple[int, ...] | None
) -> tuple[Model, tuple[int, ...]]:
    """The model of a pipeline that diffusers saved, called with the arguments of --call."""
    from odesolve.integrations.diffusers import load_pipeline

    example = "prompt='a fox' or --call guidance_scale=5"
    settings = [setting(item, "--call", example) for item in given.call]
    model, event = load_pipeline(given.diffusers, given.device, settings)
    shape = shape or (PICTURES, *event)
    if shape[1:] != event:
        raise OdesolveError(
            f"--shape says {shape[1:]} for samples of shape {event}: leave it out, or give "
            f"--shape B,{event}"
        )
    return model, shape


def first_rank() -> bool:
    """Whether this process is the first of those that were started together, or the only one."""
    return launched().rank == 0


def check_alone(command: str, instead: str) -> None:
    """Raise OdesolveError where several processes were started for a command that one has to
    run."""
    launch = launched()
    if launch.count > 1:
        raise OdesolveError(
            f"{launch.by} started {launch.count} processes, each of which would do all of "
            f"odesolve {command}: "
            f"start one, or {instead}"
        )


def check_device(name: str) -> None:
    """Raise OdesolveError where torch has no device of this name here."""
    try:
        device = torch.empty(0, device=name).device
    # torch raises anything here, from AssertionError to one class per vendor
    except Exception as e:
        raise OdesolveError(f"--device {name} is not here: give {_devices()}") from e
    if device.type == "meta" or (device.type == "cpu" and torch.device(name).index):
        raise OdesolveError(f"--device {name} holds no numbers: give {_devices()}")


def _devices() -> str:
    names = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return " or ".join(names)


def load_model(spec: str) -> Model:
    """The model of ``package.module:factory`` or ``file.py:factory``. Raises OdesolveError if there
    is none.

    Afterwards modules of the file's folder, or of the current one, can still be imported, as
    networks may import when they are called."""
    own_device()
    return _loaded(spec, Expected(Model, "model", "an ode.Model", FACTORY))


class Expected(NamedTuple):
    """What a module should hold: its type, what messages call it, how it is written, and an
    example."""

    kind: type
    noun: str
    written: str
    example: str


def _loaded(spec: str, wanted: Expected) -> Any:
    """What ``package.module:name`` holds, or returns when it is called."""
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise OdesolveError(f"{spec!r} names no {wanted.noun}: give {wanted.example}")
    if where.endswith(".py") and not File(where).is_file():
        raise OdesolveError(f"{spec}: there is no file {where}")
    try:
        value = _value_named(where, name, wanted)
    except OdesolveError as e:
        raise OdesolveError(f"{spec}: {e}") from e
    except SystemExit as e:
        raise OdesolveError(
            f"{spec} ended the program, exit code {e.code}: let it return {wanted.written}"
        ) from e
    except Exception as e:  # whatever the user's code raises is one line here
        raise OdesolveError(f"{spec}: {type(e).__name__}: {e}") from e
    if not isinstance(value, wanted.kind):
        raise OdesolveError(
            f"{spec} returned {type(value).__name__}: let it return {wanted.written}"
        )
    return value


def _value_named(where: str, name: str, wanted: Expected) -> Any:
    """The module's value of this name, or what a function of this name returns."""
    module = _module(where)
    if not hasattr(module, name):
        public = [n for n in dir(module) if not n.startswith("_")]
        raise unknown(f"name in {where}", name, public or [wanted.example])
    value = getattr(module, name)
    if isinstance(value, wanted.kind):
        return value
    if not callable(value):
        raise OdesolveError(
            f"it is {type(value).__name__}: name {wanted.written}, or a function that returns one"
        )
    return value()


def _module(where: str) -> Any:
    folder = os.path.abspath(os.path.dirname(where) if where.endswith(".py") else "")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if not where.endswith(".py"):
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(File(where).stem, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    fresh = sys.modules.setdefault(spec.name, module) is module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if fresh:
            del sys.modules[spec.name]
        raise
    return module


def path_named(name: str) -> Path:
    """The path of this name, or of ``package.module:name``: a path, its class, or a function that
    returns one. Raises OdesolveError otherwise."""
    if "(" in name:
        module = name.partition(":")[0] if ":" in name else "file.py"
        call = name.rpartition(":")[2]
        raise OdesolveError(
            f"{name!r}: parameters of a path are not typed: write mine = {call} into the module, "
            f"and give {module}:mine"
        )
    if ":" in name and name not in paths.TYPED:
        return _loaded(name, Expected(Path, "path", "a path such as ode.paths.VP()", PATH))
    return paths.path_named(name)


def dtype(given: argparse.Namespace) -> torch.dtype:
    """The state's dtype."""
    return torch.float64 if given.double else torch.float32
