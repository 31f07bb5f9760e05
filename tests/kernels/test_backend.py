"""One backend a process, chosen out loud."""

from __future__ import annotations

import os
import subprocess
import sys

from odesolve.kernels import dispatch

import odesolve as ode


def run(code, backend=None):
    env = {k: v for k, v in os.environ.items() if k != "ODESOLVE_BACKEND"}
    if backend is not None:
        env["ODESOLVE_BACKEND"] = backend
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_report():
    active = ode.backend()
    assert active.name in dispatch.BACKENDS
    assert active.ops == tuple(dispatch.SCHEMA)
    assert str(active).startswith(f"{active.name} (")
    assert active.refused.keys() == dispatch.BACKENDS.keys() - {active.name}
    assert ode.backend() is active


def test_every_backend_has_every_op():
    for backend in dispatch.BACKENDS.values():
        for name in dispatch.SCHEMA:
            assert callable(getattr(backend, name))


def test_schema_says_what_is_written():
    assert dispatch.SCHEMA["combine"].startswith("combine(Tensor(a!)[] outs, Tensor[] ins, ")


def test_unknown_backend_is_refused_when_it_is_needed():
    done = run("import odesolve; print('imported'); odesolve.backend()", "cuda")
    assert done.returncode != 0
    assert done.stdout.strip() == "imported"
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: ODESOLVE_BACKEND='cuda' is not available: choose from")
    assert all(known in last for known in dispatch.BACKENDS)


def test_reference_can_be_forced():
    done = run("import odesolve; print(odesolve.backend().name)", "reference")
    assert done.stdout.strip() == "reference", done.stderr
