"""What tracing makes of ``traced.combined``: ``graph``, which test_triton_traced.py has printed as
JSON, pretends that there is an H100: fake tensors, and a driver that only says so. ``values``, for
triton_checks.py, runs the op under Triton's interpreter."""

from __future__ import annotations

import json

import torch
import triton
from odesolve.kernels import philox, reference
from odesolve.kernels.triton import traced
from torch._functorch.aot_autograd import aot_function
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

TYPES = [torch.float32, torch.bfloat16]


def block(a, b, weights, keys):
    return traced.combined([a, b], weights, [0, -1], keys, [7], TYPES)


class Pretence:
    """The driver of a machine with one H100, as far as tracing asks."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0


def graph():
    triton.runtime.driver.set_active(Pretence())
    seen = []

    def keep(module, _):
        seen.append(module)
        return module.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        a, b = (torch.empty(3, 4, 16, device="cuda") for _ in range(2))
        weights = torch.empty(2, 3, dtype=torch.float64, device="cuda")
        outs = aot_function(block, keep)(
            a, b, weights, torch.empty(3, 2, dtype=torch.int64, device="cuda")
        )
    nodes = [n for n in seen[0].graph.nodes if n.op == "call_function"]
    kernels = [n for n in nodes if "triton_kernel_wrapper" in str(n.target)]
    written = [sorted(n.kwargs["tensors_to_clone"]) for n in kernels]
    return {
        "others": sorted({str(n.target) for n in nodes if n not in kernels}),
        "written": written,
        "grids": [[int(g) for g in n.kwargs["grid"][0]] for n in kernels],
        "outs": [[str(o.dtype), list(o.shape), o.device.type] for o in outs],
    }


def values():
    torch.manual_seed(0)
    keys, gaps = philox.keys(5, torch.arange(3)), []
    for shape, each in (((3, 5, 7), False), ((3, 4, 16), True), ((3,), False), ((0, 4), False)):
        ins = [torch.randn(shape) for _ in range(2)]
        weights = torch.randn(2, 3, dtype=torch.float64)
        weights = weights.expand(shape[0], 2, 3) if each else weights
        got = block(*ins, weights, keys[: shape[0]])
        want = [torch.empty(shape, dtype=d) for d in TYPES]
        reference.combine(want, ins, weights, [0, -1], keys[: shape[0]], [7])
        for g, w in zip(got, want, strict=True):
            assert (g.dtype, g.shape) == (w.dtype, w.shape)
            # The interpreter truncates where a GPU rounds to bfloat16.
            allowed = 8e-6 if g.dtype == torch.float32 else 2.0**-7
            gaps.append(bool(((g - w).abs() <= allowed * w.abs().clamp(min=1)).all()))
    images = [
        x.contiguous(memory_format=torch.channels_last)
        for x in (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    ]
    (got,) = traced.combined(images, torch.tensor([[0.5, 0.25]]).double(), [0], None, [], TYPES[:1])
    gaps.append(got.stride() == images[0].stride())
    gaps.append(bool(torch.allclose(got, 1.5 * images[0] + 0.25 * images[1])))
    return gaps


if __name__ == "__main__":
    print(json.dumps(graph()))
