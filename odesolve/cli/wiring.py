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
    """Say what is wired wrong and what to type; exit code 1 where something is."""
    check_alone("check", "check before the others are started")
    if given.plot:
        check_plot(given.plot)
    model, what = _model_and_data(given)
    found = check(model, **what, seed=given.seed, seconds=given.seconds)
    print(found.to_json() if given.json else found)
    if given.plot:
        found.plot(given.plot)
    return int(not found.ok)


def _model_and_data(given: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    if given.data and given.shape:
        raise OdesolveError(
            "--shape is of samples that are drawn where there are no data: give --data or --shape"
        )
    if not (given.data or given.shape or given.model is None):
        raise OdesolveError("there is nothing to check with: give --data x.npz, or --shape B,C,H,W")
    conditions = conditions_of(given)
    model = (
        digits().model(path_named(given.path)) if given.model is None else load_model(given.model)
    )
    what: dict[str, Any] = (
        {"data": read_array(given.data)} if given.data else {"noise": given.shape or DIGITS}
    )
    rows = len(what["data"]) if given.data else what["noise"][0]
    conditions.check_rows(rows)
    return conditions.on(model, torch.arange(rows)), what


def check_plot(name: str) -> None:
    """Raise OdesolveError where no plot of this name could be written, ImportError without
    matplotlib."""
    if File(name).suffix.lower() not in figures.SUFFIXES:
        raise OdesolveError(
            f"--plot {name}: give a name that ends in one of {', '.join(figures.SUFFIXES)}"
        )
    figures.matplotlib()
    check_writable(name, "--plot")
