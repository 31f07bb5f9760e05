"""From what a network says at states and times to the prediction that is asked for: numbers that
depend on the times alone, and the few operations on tensors that are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from odesolve.doors.brief import brief
from odesolve.errors import OdesolveError
from odesolve.functions.callee import Callee
from odesolve.functions.ownership import owned
from odesolve.lowering.program import Reading
from odesolve.lowering.scales import Schedule
from odesolve.paths import Path

Pair = tuple[Tensor, Tensor]
Functions = Mapping[str, Callable[..., Tensor]]
GUIDED = {"uncond", "excess"}  # branches that are asked inside a guidance's interval alone


class Called(Protocol):
    """What is needed of an ``ode.Model`` to make coefficients and to ask it."""

    @property
    def path(self) -> Path: ...
    @property
    def dtype(self) -> torch.dtype | None: ...
    @property
    def reading(self) -> Reading: ...
    @property
    def functions(self) -> Functions: ...
    @property
    def predicts(self) -> str: ...
    @property
    def evaluate(self) -> Callable[[Tensor, Tensor, Tensor, Sequence[str]], list[Tensor]]: ...
    def network_times(self, t: Tensor) -> Tensor: ...


@brief
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

    @property
    def any_guided(self) -> bool:
        """Whether a time is guided; of a device's tensor this waits for the device."""
        return self.inside is None or bool(self.inside.any())

    def input(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        """What a network of this dtype gets for states x."""
        scaled = x if self.scale is None else x * column(self.scale, x)
        return scaled.to(dtype or x.dtype)

    def __getitem__(self, index: Tensor) -> Coefficients:
        values = (getattr(self, f.name) for f in fields(self))
        return Coefficients(*(_cut(v, index) for v in values))  # type: ignore[arg-type]


def column(c: Tensor, x: Tensor) -> Tensor:
    """Numbers (n,) beside states x (n, ...)."""
    return c.view(-1, *[1] * (x.dim() - 1))


def _cut(value: Tensor | Pair | None, index: Tensor) -> Tensor | Pair | None:
    if isinstance(value, tuple):
        return value[0][index], value[1][index]
    return None if value is None else value[index]


def coefficients(
    model: Called,
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

    def per_sample(c: object) -> Tensor:
        return torch.as_tensor(c, device=like.device).to(like.dtype).expand(len(t))

    def pair(t: Tensor, a: str, b: str) -> Pair:
        kx, kf = path.convert(t, a, b, sigma_data)
        return per_sample(kx), per_sample(kf)

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
        shift = per_sample(strength * path.convert(t, "score", given, sigma_data)[1])
    guidance = reading.guidance
    inside = None
    if guidance:
        inside = torch.as_tensor(guidance.inside(t), device=t.device).expand(len(t))
    time_dtype = torch.promote_types(model.dtype or like.dtype, torch.float32)
    return Coefficients(
        t=t,
        network=model.network_times(t).to(time_dtype),
        scale=None if reading.input_scale is None else per_sample(reading.c_in(path, t)),
        inside=inside,
        data=data,
        shift=shift,
        out=pair(t, given, want) if given != want else None,
        guide=_guide(reading, t, per_sample),
    )


def _guide(reading: Reading, t: Tensor, per_sample: Callable[[object], Tensor]) -> Tensor | None:
    """A guidance scale that is a function of time at the times (n,), 1 where they lie outside of
    its interval."""
    if reading.guidance is None or not isinstance(reading.guidance.scale, Schedule):
        return None
    inside = torch.as_tensor(reading.guidance.inside(t), device=t.device).expand(len(t))
    out = torch.ones(len(t), dtype=torch.float64, device=t.device)
    out[inside] = reading.guidance.scale.of(t[inside])
    return per_sample(out)


def mixed(reading: Reading, guided: bool) -> dict[str, float]:
    """The branches of an evaluation and their weights, inside the guidance's interval or
    outside."""
    branches = reading.guidance.mixed() if reading.guidance and guided else {"cond": 1.0}
    return {**branches, "classifier": 0.0} if reading.classifier else branches


def answers(model: Called, x: Tensor, at: Coefficients, branches: Sequence[str]) -> list[Tensor]:
    """What the network answers at states x (n, ...), one tensor per branch."""
    return model.evaluate(at.input(x, model.dtype), x, at.network, list(branches))


def predicted(model: Called, x: Tensor, at: Coefficients) -> Tensor:
    """The prediction (n, ...) of a model at states x (n, ...), by coefficients for their times."""
    branches = mixed(model.reading, at.any_guided)
    raw = answers(model, x, at, list(branches))
    return _converted(model.reading, model.functions, x, at, raw, branches)


def converted(
    reading: Reading,
    functions: Functions,
    x: Tensor,
    at: Coefficients,
    raw: Sequence[Tensor],
) -> Tensor:
    """The prediction (n, ...) at states x from what a network answered there, one tensor per
    branch; what is answered besides the branches is left out."""
    branches = mixed(reading, at.any_guided)
    return _converted(reading, functions, x, at, raw, branches)


def _converted(
    reading: Reading,
    functions: Functions,
    x: Tensor,
    at: Coefficients,
    raw: Sequence[Tensor],
    branches: Mapping[str, float],
) -> Tensor:
    raw = [r.to(x.dtype) for r in raw[: len(branches)]]
    output = _guided(reading, functions, at, raw, branches)
    if at.data is not None:
        output = _linear(at.data, x, output)
    if at.shift is not None:
        output = output + column(at.shift, x) * raw[-1]
    for name in reading.applies:
        output = owned(functions[name](output, at.t.clone()))
    if at.out is None:
        return output
    return _linear(at.out, x, output)


def _linear(factors: Pair, x: Tensor, output: Tensor) -> Tensor:
    of_state, of_output = factors
    return column(of_state, x) * x + column(of_output, x) * output


def _guided(
    reading: Reading,
    functions: Functions,
    at: Coefficients,
    raw: Sequence[Tensor],
    branches: Mapping[str, float],
) -> Tensor:
    """The branches mixed into one output."""
    if reading.mix and "uncond" in branches:
        output = functions[reading.mix](raw[0], raw[1], at.t, at.guide)
    else:
        weights: list[Any] = list(branches.values())
        if at.guide is not None and "uncond" in branches:
            scale = column(at.guide, raw[0])
            weights[:2] = scale, 1 - scale
        output = sum(w * r for w, r in zip(weights, raw, strict=False))
    if at.inside is not None and branches.keys() & GUIDED and not bool(at.inside.all()):
        # samples whose time lies outside
        output = torch.where(column(at.inside, raw[0]), output, raw[0])
    assert isinstance(output, Tensor)
    return output


def gradient_of(log_prob: Callee, x: Tensor, t: Tensor, labels: Mapping[str, Any]) -> Tensor:
    """The gradient at states x (B, ...) of a classifier's log p(y | x), (B,); recorded where
    gradients by x are.

    Raises OdesolveError for a classifier that does not depend on x.
    """
    recording = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        leaf = x.view_as(x) if recording else x.detach().requires_grad_(True)
        value = log_prob(leaf, t, named=labels)
        gradient = None
        if (
            isinstance(value, Tensor)
            and value.shape == x.shape[:1]
            and value.is_floating_point()
            and value.requires_grad
        ):
            (gradient,) = torch.autograd.grad(
                value.sum(), leaf, create_graph=recording, allow_unused=True
            )
    if gradient is None:
        raise OdesolveError(
            "the classifier must depend on x: give log p(y | x) of shape (B,), computed from x"
        )
    return gradient


def parameter_dtype(net: Any) -> torch.dtype | None:
    """That of a module's first parameter, None without one."""
    parameters = net.parameters() if isinstance(net, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), None)
