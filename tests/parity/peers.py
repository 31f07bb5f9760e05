"""The peers' samplers made ready for comparison: loaded, lifted to float64 and called with an exact network."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types

import pytest
import torch
from torch import Tensor

import odesolve as ode
from odesolve import problems

TOLERANCE = 1e-12
PREDICTS = {"epsilon": "noise", "sample": "data", "v_prediction": "v", "flow_prediction": "velocity"}

# Narrow enough that the flow map contracts: a difference between two samplers is theirs, not amplified by the problem.
PROBLEM = problems.mixture(
    [0.5, 0.3, 0.2], [[[0.8, -0.3], [0.1, 0.4]], [[-0.7, 0.5], [0.2, -0.6]], [[0.1, 0.9], [-0.8, 0.3]]], std=0.3
)


def start(batch: int = 6) -> Tensor:
    """The same unit noise for every comparison, float64."""
    return torch.randn(batch, *PROBLEM.event, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest entry; infinite where either is not finite."""
    worst = float((a - b).abs().max() / b.abs().max())
    return worst if worst == worst else float("inf")


def ours(model: ode.Model, x: Tensor, solver, grid, **options) -> Tensor:
    """Our plan of a solver on these times, run on the model from the state x."""
    return ode.sample(model, state=x, plan=ode.plan(solver, model.path, grid=grid, **options))


@contextlib.contextmanager
def float64():
    """Make float64 the default dtype: peers build their grids and constants in the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Wide(torch.Tensor):
    """A tensor that keeps its dtype where a scheduler rounds the state to float32."""

    def to(self, *args, **kwargs):
        return self


@functools.cache
def k_diffusion():
    """(sampling, external) of k-diffusion, loaded around its __init__, which imports what no sampler needs."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed: pip install --no-deps -r peers.txt", allow_module_level=True)
    sys.modules["k_diffusion"] = importlib.util.module_from_spec(spec)  # made, not executed
    stubs = {n: types.ModuleType(n) for n in ("torchvision", "torchvision.transforms")}
    stubs["torchvision.transforms"].functional = None
    sys.modules.update(stubs)
    try:
        return importlib.import_module("k_diffusion.sampling"), importlib.import_module("k_diffusion.external")
    finally:
        for name in stubs:
            sys.modules.pop(name)
