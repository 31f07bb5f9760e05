"""``odesolve check``: whether a model's network is read as it was trained."""

from __future__ import annotations

import argparse
from typing import Any

from odesolve.cli.given import DIGITS, items, load_model, path_named, whole
from odesolve.cli.loglik import _load
from odesolve.errors import OdesolveError
from odesolve.models import Model
from odesolve.problems import digits
from odesolve.wiring import check


def check_command(given: argparse.Namespace) -> int:
    """Say what is wired wrong and what to type; exit code 1 where something is."""
    model, what = _model_and_data(given)
    found = check(model, **what, seed=given.seed, seconds=given.seconds)
    print(found.to_json() if given.json else found)
    if given.plot:
        found.plot(given.plot)
    return int(not found.ok)


def _model_and_data(given: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    if given.data and given.shape:
        raise OdesolveError("--shape is of samples that are drawn where there are no data: give --data or --shape")
    if given.model is None:
        model, what = digits().model(path_named(given.path)), {"noise": DIGITS}
    else:
        model, what = load_model(given.model), {}
    if given.data:
        what = {"data": _load(given.data)}
    elif given.shape:
        what = {"noise": tuple(whole(n, "--shape") for n in items(given.shape) or [])}
    if not what:
        raise OdesolveError("there is nothing to check with: give --data x.npz, or --shape B,C,H,W")
    return model, what
