"""Fixtures that several folders use: seeds, every path, and memory that is NaN until something is
written to it."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.trace_rules import get_torch_obj_rule_map

import odesolve as ode
from odesolve import paths
from tests.products import LONG, spread

torch.set_num_threads(1)  # for tensors of this size more threads only cost
torch.manual_seed(0)  # for networks that test modules make as they are imported


# Without kernels in C++ the reference runs. The header says so, and why; every process that a test
# starts would say it again where its errors are read.
if importlib.util.find_spec("odesolve._native") is None and not torch.cuda.is_available():
    os.environ.setdefault("ODESOLVE_BACKEND", "reference")


def pytest_report_header():
    return f"kernels: {ode.backend()}"


def pytest_collection_modifyitems(config, items):
    """The short suite leaves out what is marked ``long``, and of a test that is marked ``few(n)``
    all but n cases; ``make test-long`` runs all."""
    if LONG:
        return
    left_out = {item for item in items if item.get_closest_marker("long")}
    tests = {}
    for item in items:
        if item.get_closest_marker("few"):
            tests.setdefault((item.parent.nodeid, item.originalname), []).append(item)
    for cases in tests.values():
        count = cases[0].get_closest_marker("few").args[0]
        left_out.update(cases[k] for k in spread(len(cases))[count:])
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _seeded():
    """Every test draws the same initial weights and noise, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _alone():
    """A test that joins a process group leaves it: ranks that a later one forks would find
    themselves in it."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def cxx():
    """A C++ compiler as torch.compile looks for it: tests that compile skip where there is none."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler, and none was found: install g++")


PATHS = {
    "vp": paths.VP(),
    "cosine": paths.Cosine(),
    "ve": paths.VE(),
    "subvp": paths.SubVP(),
    "edm": paths.EDM(),
    "linear": paths.Linear(),
    "linear_smoothed": paths.Linear(0.1),
    "trig": paths.Trig(),
    "ddpm": paths.Discrete.ddpm(),
    "stable_diffusion": paths.Discrete.stable_diffusion(),
}
FLIPPED = {f"{name}_flipped": path.flipped() for name, path in PATHS.items()}


def _path_fixture(table):
    return pytest.fixture(params=list(table.values()), ids=list(table))(
        lambda request: request.param
    )


path = _path_fixture({**PATHS, **FLIPPED})  # every path in both time directions
base_path = _path_fixture(PATHS)


# the compiler's table of torch functions: made on first use, it must not hold the poisoned ones
get_torch_obj_rule_map()


@pytest.fixture
def nan_memory(monkeypatch):
    """torch.empty and torch.empty_like give NaN, so that an element nobody writes is seen."""

    def poisoned(original):
        def make(*args, **kwargs):
            out = original(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return make

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
