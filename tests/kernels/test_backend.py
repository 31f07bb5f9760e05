"""One backend a device, chosen out loud."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from odesolve.kernels import dispatch, reference

import odesolve as ode


@pytest.fixture
def force(monkeypatch):
    """Chooses a backend as a process does when it first needs one."""
    known = dispatch.backend.__wrapped__.cache_clear

    def choose(name):
        monkeypatch.setenv("ODESOLVE_BACKEND", name)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        known()
        return ode.backend()

    yield choose
    monkeypatch.undo()
    known()


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


def test_unknown_backend_is_refused(force):
    with pytest.raises(RuntimeError, match="'cuda' is not available: choose") as e:
        force("cuda")
    assert all(known in str(e.value) for known in dispatch.BACKENDS)


@pytest.mark.parametrize("name", [k for k in dispatch.BACKENDS if k not in ode.backend().refused])
def test_a_backend_can_be_forced(name, force, caplog):
    found = force(name)
    assert found.name == found.devices[dispatch.BACKENDS[name][1] or "cpu"] == name
    assert caplog.text == ""


def test_a_backend_that_cannot_run_is_refused_with_its_reason(force):
    for name, why in ode.backend().refused.items():
        if not why.startswith("ODESOLVE_BACKEND"):
            with pytest.raises(RuntimeError) as e:
                force(name)
            assert str(e.value) == f"ODESOLVE_BACKEND={name!r} is not available: {why}"


MISSING = """
import os, sys
sys.modules["odesolve._native"] = None
os.environ["ODESOLVE_BACKEND"] = "no such one"
import odesolve, torch  # which do not need one yet
from odesolve.kernels import dispatch
del os.environ["ODESOLVE_BACKEND"]
x, out = torch.ones(2, 3), torch.empty(2, 3)
dispatch.combine([out], [x], [[2.0]], [0])
dispatch.combine([out], [x], [[2.0]], [0])
print(odesolve.backend().devices["cpu"], float(out.sum()))
model = odesolve.Model(lambda x, t: 0.5 * x, odesolve.paths.VP(), "noise")
print(*odesolve.sample(model, (2, 3), "dpmpp_2m_sde", 4, seed=0).flatten().tolist())
"""


def test_without_the_compiled_module_the_reference_runs_and_says_so_once():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", MISSING], env=env, capture_output=True, text=True, check=False
    )
    first, *lines = done.stdout.splitlines()
    assert first == "reference 18.0", done.stderr
    model = ode.Model(lambda x, t: 0.5 * x, ode.paths.VP(), "noise")
    want = ode.sample(model, (2, 3), "dpmpp_2m_sde", 4, seed=0).flatten()
    got = torch.tensor([float(word) for line in lines for word in line.split()])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0)  # a few units in the last place
    assert done.stderr == (
        "the slow reference kernels run on the CPU: the kernels in C++ were not compiled: "
        "install g++ and python3-dev, then odesolve again\n"
    )
