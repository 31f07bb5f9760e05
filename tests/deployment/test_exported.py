"""Samplers as programs of torch's ops alone: saved, loaded and run elsewhere with the same result."""

from __future__ import annotations

import copy

import pytest
import torch
from odesolve.kernels import philox, plain, reference

import odesolve as ode

BATCH = torch.export.Dim("batch", min=2, max=64)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 8)
        self.label = torch.nn.Embedding(11, 8)
        self.outer = torch.nn.Linear(8, 4)

    def forward(self, x, t, y):
        return self.outer(torch.tanh(self.inner(x) + self.label(y) + t[:, None]))


class Program(torch.nn.Module):
    """A sampler whose labels are an input."""

    def __init__(self, sampler):
        super().__init__()
        self.net = sampler.model.net
        self.sampler = sampler

    def forward(self, noise, y):
        sampler = copy.copy(self.sampler)
        sampler.model = self.sampler.model.given(y=y)
        return sampler(noise, seed=3)


def labels(n: int) -> torch.Tensor:
    return torch.arange(n) % 10


def program_of(solver, guided: bool = False, steps: int = 2):
    """A sampler and its exported program, with a batch that is left free."""
    torch.manual_seed(0)
    model = ode.Model(Net().eval(), ode.paths.VP(), predicts="noise", cond={"y": labels(3)})
    if guided:
        model = model.guided(3.0, uncond={"y": torch.tensor([10])})
    sampler = ode.Sampler(model, solver, steps)
    shapes = {"noise": {0: BATCH}, "y": {0: BATCH}}
    given = torch.randn(3, 4), labels(3)
    with torch.no_grad():
        program = torch.export.export(Program(sampler), given, dynamic_shapes=shapes)
        return sampler, program.run_decompositions(plain.decompositions())


def expected(sampler, noise):
    return Program(sampler)(noise, labels(len(noise)))


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(("solver", "guided"), [("heun_edm", True), ("dpmpp_2m_sde", False)])
def test_a_saved_program_is_the_sampler(solver, guided, tmp_path):
    """Bitwise, for other numbers of samples than it was exported with; and no op of ours is left."""
    sampler, program = program_of(solver, guided)
    torch.export.save(program, tmp_path / "sampler.pt2")
    loaded = torch.export.load(tmp_path / "sampler.pt2")
    assert not [n for n in loaded.graph.nodes if "odesolve" in str(n.target)]
    assert {"net.inner.weight", "net.label.weight"} <= set(loaded.state_dict)
    for n in (3, 5):
        noise = torch.randn(n, 4)
        assert torch.equal(loaded.module()(noise, labels(n)), expected(sampler, noise))


def test_the_op_in_torchs_own_words():
    """Weights of each sample, a base, two streams, and an output of another type."""
    keys = philox.keys(5, torch.arange(3))
    ins = [torch.randn(3, 4, 2), torch.randn(3, 4, 2).bfloat16()]
    weights = torch.randn(3, 2, 4, dtype=torch.float64)
    given = weights, (1, -1), keys, (2, 2**63 - 1), (torch.float32, torch.float64)
    mine, theirs = plain.combined(ins, *given), reference.combined(ins, *given)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_onnx(tmp_path):
    """A guided sampler without noise, run by onnxruntime on another number of samples."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime"
    )
    sampler, program = program_of("dpmpp_2m", guided=True, steps=3)
    given = torch.randn(3, 4), labels(3)
    torch.onnx.export(program, given, dynamo=True, verbose=False).save(tmp_path / "sampler.onnx")
    session = runtime.InferenceSession(tmp_path / "sampler.onnx")
    noise = torch.randn(5, 4)
    names = [i.name for i in session.get_inputs()]
    found = session.run(None, dict(zip(names, (noise.numpy(), labels(5).numpy()), strict=True)))
    torch.testing.assert_close(
        torch.from_numpy(found[0]), expected(sampler, noise), rtol=1e-4, atol=1e-4
    )
