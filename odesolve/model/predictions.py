"""From what a network says at states and times to the prediction that is asked for: numbers that
depend on the times alone, and the few operations on tensors that are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.functions.callee import Callee
from odesolve.functions.ownership import owned
from odesolve.lowering.program import Reading
from odesolve.lowering.scales import Schedule
from odesolve.paths import Path

Pair = tuple[Tensor, Tensor]
GUIDED = {"uncond", "excess"}  # branches that are asked inside a guidance's interval alone


class Network(Protocol):
    """What is needed of an ``ode.Model``."""

    path: Path
    reading: Reading
    dtype: torch.dtype | None

    @property
    def functions(self) -> Mapping[str, Callable[..., Tensor]]: ...
    @property
    def predicts(self) -> str: ...
    def network_times(self, t: Tensor) -> Tensor: ...
    def mixed(self, guided: bool) -> dict[str, float]: ...
    def evaluate(
        self,
        x_in: Tensor,
        state: Tensor,
        t: Tensor,
        branches: Sequence[str],
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class Coefficients:
    """All that a model's prediction of one kind takes from n times, each (n,) in the state's dtype;
    ``[index]`` cuts to some.

    ``t`` are the path's times, ``network`` those that the network gets, ``scale`` is the factor to
    its input, ``inside`` whether a time is guided, ``data`` and ``out`` are factors of state and
    output for the data prediction, where something is done to it, and for the one that is asked
    for; ``shift`` is that of a classifier's gradient, ``guide`` a guidance scale that is a function
    of time."""

    t: Tensor
    network: Tensor
    scale: Tensor | None = None
    inside: Tensor | None = None
    data: Pair | None = None
    shift: Tensor | None = None
    out: Pair | None = None
    guide: Tensor | None = None

    def __getitem__(self, index: Tensor) -> Coefficients:
        held = (getattr(self, f.name) for f in fields(self))
        return Coefficients(*(_cut(v, index) for v in held))  # type: ignore[arg-type]


def _cut(value: Tensor | Pair | None, index: Tensor) -> Tensor | Pair | None:
    if isinstance(value, tuple):
        return value[0][index], value[1][index]
    return None if value is None else value[index]


def coefficients(
    model: Network,
    t: Tensor,
    want: str,
    like: Tensor,
    sigma_data: float,
) -> Coefficients:
    """Those of a model at times (n,) for states like this one; ``want`` is one of
    ``paths.PREDICTIONS``.

    Raises OdesolveError for complex states.
    """
    path = model.path
    reading = model.reading
    given = model.predicts
    if like.is_complex():
        raise OdesolveError(
            f"x is {like.dtype}: give a model real numbers, such as torch.view_as_real(x)"
        )

    def held(c: object) -> Tensor:
        return torch.as_tensor(c, device=like.device).to(like.dtype).expand(len(t))

    def pair(t: Tensor, a: str, b: str) -> Pair:
        kx, kf = path.convert(t, a, b, sigma_data)
        return held(kx), held(kf)

    data = pair(t, given, "data") if reading.applies else None
    given = "data" if reading.applies else given
    # score <- score + scale grad, carried to whatever the output is: linear, so exact in every
    # prediction.
    shift = None
    if reading.classifier:
        strength: Any = (
            reading.classifier.of(t)
            if isinstance(reading.classifier, Schedule)
            else reading.classifier
        )
        shift = held(strength * path.convert(t, "score", given, sigma_data)[1])
    return Coefficients(
        t=t,
        network=model.network_times(t).to(
            torch.promote_types(model.dtype or like.dtype, torch.float32)
        ),
        scale=None if reading.input_scale is None else held(reading.c_in(path, t)),
        inside=torch.as_tensor(reading.guidance.inside(t), device=t.device).expand(len(t))
        if reading.guidance
        else None,
        data=data,
        shift=shift,
        out=pair(t, given, want) if given != want else None,
        guide=_guide(reading, t, held),
    )


def _guide(reading: Reading, t: Tensor, held: Callable[[object], Tensor]) -> Tensor | None:
    """A guidance scale that is a function of time at the times (n,), 1 where they lie outside of
    its interval."""
    if reading.guidance is None or not isinstance(reading.guidance.scale, Schedule):
        return None
    inside = torch.as_tensor(reading.guidance.inside(t), device=t.device).expand(len(t))
    out = torch.ones(len(t), dtype=torch.float64, device=t.device)
    out[inside] = reading.guidance.scale.of(t[inside])
    return held(out)


def predicted(model: Network, x: Tensor, at: Coefficients) -> Tensor:
    """The prediction (n, ...) of a model at states x (n, ...), by coefficients for their times."""
    column = (-1, *[1] * (x.dim() - 1))
    x_in = (x if at.scale is None else x * at.scale.view(column)).to(model.dtype or x.dtype)
    guided = at.inside is None or bool(at.inside.any())
    branches = model.mixed(guided)
    raw = [r.to(x.dtype) for r in model.evaluate(x_in, x, at.network, list(branches))]
    weights: list[Any] = list(branches.values())
    if at.guide is not None and "uncond" in branches:
        weights[:2] = at.guide.view(column), 1 - at.guide.view(column)
    if model.reading.mix and "uncond" in branches:
        output = model.functions[model.reading.mix](raw[0], raw[1], at.t, at.guide)
    else:
        output = sum(w * r for w, r in zip(weights, raw, strict=False))
    if at.inside is not None and branches.keys() & GUIDED and not bool(at.inside.all()):
        # samples whose time lies outside
        output = torch.where(at.inside.view(column), output, raw[0])
    assert isinstance(output, Tensor)
    if at.data is not None:
        output = at.data[0].view(column) * x + at.data[1].view(column) * output
    if at.shift is not None:
        output = output + at.shift.view(column) * raw[-1]
    for name in model.reading.applies:
        output = model.functions[name](output, at.t.clone())
        output = owned(output)
    if at.out is None:
        return output
    return at.out[0].view(column) * x + at.out[1].view(column) * output


def gradient_of(log_prob: Callee, x: Tensor, t: Tensor, labels: Mapping[str, Any]) -> Tensor:
    """The gradient at states x (B, ...) of a classifier's log p(y | x), (B,); recorded where
    gradients by x are.

    Raises OdesolveError for a classifier that does not depend on x.
    """
    recording = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        leaf = x.view_as(x) if recording else x.detach().requires_grad_(True)
        value = log_prob(leaf, t, named=labels)
        found = None
        if (
            isinstance(value, Tensor)
            and value.shape == x.shape[:1]
            and value.is_floating_point()
            and value.requires_grad
        ):
            (found,) = torch.autograd.grad(
                value.sum(), leaf, create_graph=recording, allow_unused=True
            )
    if found is None:
        raise OdesolveError(
            "the classifier must depend on x: give log p(y | x) of shape (B,), computed from x"
        )
    return found


def parameter_dtype(net: Any) -> torch.dtype | None:
    """That of a module's first parameter, None without one."""
    found = net.parameters() if isinstance(net, torch.nn.Module) else ()
    return next((p.dtype for p in found if p.is_floating_point()), None)
