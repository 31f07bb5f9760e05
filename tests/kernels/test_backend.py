"""One backend a device, chosen out loud."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from odesolve.kernels import dispatch, reference

import odesolve as ode


def run(code, backend=None):
    env = {k: v for k, v in os.environ.items() if k not in ("ODESOLVE_BACKEND", "TRITON_INTERPRET")}
    if backend is not None:
        env["ODESOLVE_BACKEND"] = backend
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )


def test_report():
    active = ode.backend()
    assert active.name in dispatch.BACKENDS
    assert active.ops == dispatch.OPS
    assert str(active).startswith(
        f"{active.name} ({active.devices['cpu']} on cpu, {active.devices['cuda']} on cuda)"
    )
    used = {active.name, *active.devices.values(), "reference"}
    assert active.refused.keys() | used == dispatch.BACKENDS.keys()
    assert all(active.refused.values())
    assert ode.backend() is active


def test_the_specification_has_every_op():
    assert all(
        callable(getattr(reference, name)) and callable(getattr(dispatch, name))
        for name in dispatch.OPS
    )


def test_unknown_backend_is_refused_when_it_is_needed():
    done = run("import odesolve; print('imported'); odesolve.backend()", "cuda")
    assert done.returncode != 0
    assert done.stdout.strip() == "imported"
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: ODESOLVE_BACKEND='cuda' is not available: choose from")
    assert all(known in last for known in dispatch.BACKENDS)


@pytest.mark.parametrize("name", [k for k in dispatch.BACKENDS if k not in ode.backend().refused])
def test_a_backend_can_be_forced(name):
    done = run(
        "import odesolve; print(odesolve.backend().name, odesolve.backend().devices['cpu'])", name
    )
    assert done.stdout.split() == [
        name,
        name if name != "triton" else ode.backend().devices["cpu"],
    ], done.stderr
    assert done.stderr == ""


def test_a_backend_that_cannot_run_is_refused_with_its_reason():
    for name, why in ode.backend().refused.items():
        if not why.startswith("ODESOLVE_BACKEND"):
            done = run("import odesolve; odesolve.backend()", name)
            assert done.stderr.strip().endswith(
                f"RuntimeError: ODESOLVE_BACKEND={name!r} is not available: {why}"
            )


MISSING = """
import sys, logging
sys.modules["odesolve._native"] = None
import odesolve, torch
from odesolve.kernels import dispatch
x, out = torch.ones(2, 3), torch.empty(2, 3)
dispatch.combine([out], [x], [[2.0]], [0])
dispatch.combine([out], [x], [[2.0]], [0])
print(odesolve.backend().devices["cpu"], float(out.sum()))
"""


def test_without_the_compiled_module_the_reference_runs_and_says_so_once():
    done = run(MISSING)
    assert done.stdout.split() == ["reference", "18.0"], done.stderr
    assert done.stderr.count("\n") == 1
    assert "the slow reference kernels run on the CPU: " in done.stderr
