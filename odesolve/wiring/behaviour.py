"""How a network behaves, whatever its outputs mean: shape, dtype, device, reproducibility, and
whether rows are independent."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from odesolve.functions.steadiness import counting, draws, modules_of
from odesolve.model.model import Model
from odesolve.wiring.result import Finding

# of an answer's size: rounding of other shapes of matrix products is less, in half precision too
APART = 1e-3
ROWS = 4


class AnswerProbe:
    """A model's network, called as the model calls it, at one time of its path: outputs in float64,
    calls counted."""

    def __init__(self, model: Model, x: Tensor):
        self.model = model
        self.x = x
        self.calls = 0
        path = model.path
        middle = path.t_of_rho(min(max(1.0, float(path.rho(path.t_min))), 1e3))
        if path.training_steps is not None:
            middle = (middle * path.training_steps).round().clamp(
                1, path.training_steps - 1
            ) / path.training_steps
        self.t = float(middle)

    def __call__(self, rows: slice | Tensor = slice(None), t: float | None = None) -> Tensor:
        """The raw outputs for some of the rows."""
        index = torch.arange(len(self.x), device=self.x.device)[rows]
        model = self.model.rows(index, len(self.x))
        x = self.x[index].to(self.model.dtype or torch.float32)
        (times,) = model.times_for([self.t if t is None else t], x)
        self.calls += 1
        with torch.no_grad():
            return model.evaluate(x, x, times, ("cond",))[0].double()


def of_network(probe: AnswerProbe) -> Iterator[Finding]:
    """Findings about a network in eval mode that returns anything at all."""
    first = probe()
    yield _finite(first)
    yield _steady(first, probe())
    yield from _independent(probe, first)
    yield _placed(probe.model, probe.x)


def mode(net: object) -> Finding:
    """Whether the network is in train mode, and whether that matters."""
    layers = [m for m in modules_of(net) if m.training]
    norms = sorted({type(m).__name__ for m in layers if counting(m)})
    if norms:
        says = (
            f"{norms[0]} in train mode mixes the rows of a batch, and every call changes its "
            "statistics"
        )
        return Finding("mode", "wrong", says, "net.eval()")
    if draws(net):
        return Finding(
            "mode", "wrong", "dropout in train mode: every answer is random", "net.eval()"
        )
    if not modules_of(net):
        return Finding("mode", "right", "a function, which has no train mode to be seen")
    message = (
        "train mode, in which no layer of this network behaves otherwise" if layers else "eval mode"
    )
    return Finding("mode", "right", message)


def _finite(out: Tensor) -> Finding:
    if not bool(torch.isfinite(out).all()):
        return Finding(
            "answers",
            "wrong",
            "the network answers noisy data with NaN or infinity",
            "check its weights",
        )
    return Finding(
        "answers", "right", f"finite, of root mean square {float(out.square().mean().sqrt()):.3g}"
    )


def _steady(one: Tensor, other: Tensor) -> Finding:
    gap = _gap(one, other)
    if gap > APART:
        says = f"the same question is answered differently, by {gap:.2g} of the answer's size"
        return Finding(
            "repeated", "wrong", says, "net.eval(), or take the random numbers out of the network"
        )
    return Finding("repeated", "right", "the same question gets the same answer")


def _independent(probe: AnswerProbe, whole: Tensor) -> Iterator[Finding]:
    """Whether a row's output depends on the other rows: it is evaluated alone and among others."""
    n = min(ROWS, len(probe.x) - 1)
    if n < 1:
        return
    try:
        gap = _gap(whole[:n], probe(slice(0, n)))
    except Exception as e:  # a network of one batch size says so in its own words
        says = f"a part of the batch cannot be asked alone ({type(e).__name__}: {_short(e)})"
        yield Finding(
            "rows", "doubt", says, "give batches of the size that the network was made for"
        )
        return
    if gap > APART:
        says = f"a row's answer changes by {gap:.2g} of its size with the other rows of its batch"
        cure = (
            "net.eval(); with a batch statistic of the network's own, a batch is solved as one "
            "system"
        )
        yield Finding("rows", "doubt", says, cure)
    else:
        yield Finding("rows", "right", "a row's answer does not depend on the others")


def _placed(model: Model, x: Tensor) -> Finding:
    tensors = _tensors(model.net)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in tensors if p.is_floating_point()})
    devices = sorted({str(p.device) for p in tensors})
    if len(devices) > 1:
        return Finding(
            "device", "wrong", f"weights lie on {' and '.join(devices)}", f'net.to("{devices[0]}")'
        )
    if devices and torch.device(devices[0]) != x.device:
        return Finding(
            "device",
            "wrong",
            f"weights on {devices[0]}, data on {x.device}",
            f'net.to("{x.device}")',
        )
    where = (
        f"weights in {' and '.join(dtypes)} on {devices[0]}"
        if dtypes
        else f"a function without weights, on {x.device}"
    )
    if len(dtypes) > 1:
        return Finding(
            "device", "doubt", f"{where}: autocast, or a part of it was cast", "net.float()"
        )
    return Finding("device", "right", where)


def _tensors(net: object) -> list[Tensor]:
    owner = net if isinstance(net, nn.Module) else getattr(net, "__self__", None)
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    return []


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm().clamp_min(1e-12))


def _short(e: Exception) -> str:
    return str(e).split("\n")[0][:120]
