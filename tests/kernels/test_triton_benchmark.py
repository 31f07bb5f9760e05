"""benchmarks/gpu.py says that there is no GPU, and its checks of the ops find nothing wrong with
the ops of the CPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark, as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_nothing_is_measured(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out == "not measured: no CUDA or ROCm device\n"


def test_checks_see_a_wrong_sum(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    keys = gpu.philox.keys(7, torch.arange(4))
    assert all(holds for _, holds in gpu._combine_agrees((4, 3, 7, 5), torch.float32, keys))
    right = gpu.dispatch.combine
    monkeypatch.setattr(
        gpu.dispatch,
        "combine",
        lambda outs, *rest: (right(outs, *rest), outs[0].view(-1)[3].mul_(1 + 1e-5)),
    )
    assert not all(holds for _, holds in gpu._combine_agrees((4, 3, 7, 5), torch.float32, keys))


@pytest.mark.long
def test_sampler_checks_run_on_a_cpu(monkeypatch):
    """As far as they can: that they call what there is, and that the contenders agree."""
    monkeypatch.syspath_prepend(FOLDER)
    samplers = importlib.import_module("gpu_samplers")
    monkeypatch.setattr(samplers, "SHAPE", (1, 4, 8, 8))
    monkeypatch.setattr(samplers.ode, "solvers", lambda: ["dpmpp_2m", "dpmpp_2m_sde"])
    monkeypatch.setattr(
        samplers, "_raised", lambda call: "" if call().isfinite().all() else " (not finite)"
    )
    checks = [*samplers.waits("cpu"), *samplers.graph_follows("cpu")]
    # nothing can be captured
    assert [what for what, holds in checks if not holds] == [checks[-1][0]]
    assert all(holds for _, holds in samplers.likelihoods_equal_to_the_cpu("cpu"))
    assert sum(p.numel() for p in samplers.Net().parameters()) < 10e6
    torch.manual_seed(0)
    captured, loop, diffusers = (run() for run in samplers.contenders("cpu").values())
    torch.testing.assert_close(captured, loop)
    torch.testing.assert_close(loop, diffusers, rtol=2e-2, atol=2e-2)
