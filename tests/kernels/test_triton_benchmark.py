"""benchmarks/gpu.py says that there is no GPU, and its checks of the ops find nothing wrong with the ops of the CPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured():
    done = subprocess.run([sys.executable, FOLDER / "gpu.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "not measured: no CUDA or ROCm device\n"), done.stderr


def test_checks_see_a_wrong_sum(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "gpu.py")
    gpu = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, gpu)
    spec.loader.exec_module(gpu)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    keys = gpu.philox.keys(7, torch.arange(4))
    assert all(holds for _, holds in gpu._combine_agrees((4, 3, 7, 5), torch.float32, keys))
    right = gpu.dispatch.combine
    monkeypatch.setattr(
        gpu.dispatch, "combine", lambda outs, *rest: (right(outs, *rest), outs[0].view(-1)[3].mul_(1 + 1e-5))
    )
    assert not all(holds for _, holds in gpu._combine_agrees((4, 3, 7, 5), torch.float32, keys))
