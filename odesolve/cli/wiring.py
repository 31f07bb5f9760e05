"""``odesolve check``: whether a model's network is read as it was trained."""

from __future__ import annotations

import argparse
from pathlib import Path as File
from typing import Any

import torch

from odesolve.cli.conditions import conditions_of
from odesolve.cli.files import check_writable, read_array
from odesolve.cli.values import DIGITS, check_alone, load_model, path_named
from odesolve.errors import OdesolveError
from odesolve.model.model import Model
from odesolve.pictures import figures
from odesolve.problems import digits
from odesolve.wiring import check


def check_command(given: argparse.Namespace) -> int:
    """Say what is wired wrong and what to type instead; exit code 1 where something is wrong."""
    check_alone("check", "check before the others are started")
    if given.plot:
        check_plot(given.plot)
    model, what = _model_and_data(given)
    result = check(model, **what, seed=given.seed, seconds=given.seconds)
    print(result.to_json() if given.json else result)
    if given.plot:
        result.plot(given.plot)
    return int(not result.ok)


def _model_and_data(given: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    if given.data and given.shape:
        raise OdesolveError(
            "--shape is for samples that are drawn where there are no data: give --data or --shape"
        )
    if not (given.data or given.shape or given.model is None):
        raise OdesolveError("there is nothing to check with: give --data x.npz, or --shape B,C,H,W")
    conditions = conditions_of(given)
    if given.model is None:
        model = digits().model(path_named(given.path))
    else:
        model = load_model(given.model)
    what: dict[str, Any] = {"noise": given.shape or DIGITS}
    rows = what["noise"][0]
    if given.data:
        what = {"data": read_array(given.data)}
        rows = len(what["data"])
    conditions.check_rows(rows)
    return conditions.on(model, torch.arange(rows)), what


def check_plot(name: str) -> None:
    """Raise OdesolveError where no plot of this name can be written, ImportError without
    matplotlib."""
    if File(name).suffix.lower() not in figures.SUFFIXES:
        raise OdesolveError(
            f"--plot {name}: give a name that ends in one of {', '.join(figures.SUFFIXES)}"
        )
    figures.matplotlib()
    check_writable(name, "--plot")
