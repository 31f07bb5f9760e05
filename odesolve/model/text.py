"""A model as one types it: how its network is read, its conditions by name, and what was put on
it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from odesolve.lowering.scales import Planned, Schedule
from odesolve.model.predictions import parameter_dtype
from odesolve.model.reading_text import names_of, typed_reading


def typed_model(model: Any) -> str:
    """``ode.Model(net, ode.paths.VP(), predicts="noise")``, with all that is no default, and what
    was put on it."""
    read = model.reading
    arguments = typed_reading(
        model.path, read.prediction, model.time, model.time_scale, read.input_scale, read.sigma_data
    )
    if model.dtype != parameter_dtype(model.net):
        arguments.append(f"dtype={model.dtype}")
    if model.snap != (model.path.training_steps is not None):
        arguments.append(f"snap={model.snap}")
    arguments += [*_limits(model), *(["learned_variance=True"] if read.variance else [])]
    return "".join([f"ode.Model(net, {', '.join(arguments)})", *_put_on(model)])


def facts_of_model(model: Any) -> dict[str, str]:
    """How a model is read, by name, and the model as one types it."""
    net = model.net
    parts = net.parameters() if isinstance(net, nn.Module) else ()
    weights = f" of {sum(p.numel() for p in parts if not is_lazy(p)):,} parameters" if parts else ""
    called = getattr(net, "__qualname__", type(net).__qualname__)
    return {
        "network": f"{called.rpartition('<locals>.')[2]}{weights}",
        "path": repr(model.path),
        "predicts": model.predicts,
        "time": model.time if isinstance(model.time, str) else "a function of the path and t",
        "evaluations per call": str(model.evaluations_per_call),
        "typed": typed_model(model),
    }


def _limits(model: Any) -> list[str]:
    """What clamps x0."""
    clip, threshold = (model.functions.get(name) for name in ("clip", "threshold"))
    floor = clip.limit if clip is not None else threshold.floor if threshold is not None else 1.0
    arguments = [f"clip={floor:g}"] if clip is not None or floor != 1.0 else []
    return arguments if threshold is None else [*arguments, f"threshold={threshold.quantile:g}"]


def _put_on(model: Any) -> list[str]:
    """The calls that make the model of one without conditions, guidance or what is known."""
    read = model.reading
    out = []
    if model.cond:
        out.append(f".given({names_of(model.cond)})")
    if read.guidance is not None:
        out.append(f".guided({', '.join(_guided(model))})")
    if model.network.classifier is not None:
        out.append(f".classifier_guided(log_prob, {_scale(model, 'classifier', read.classifier)})")
    return [*out, ".inpainted(known, mask)"] if "known" in model.functions else out


def _guided(model: Any) -> list[str]:
    """The arguments of guidance, its conditions beside the scale."""
    guidance = model.reading.guidance
    rescaled = model.functions.get("cfg_rescale")
    out = [_scale(model, "guidance", guidance.scale if rescaled is None else rescaled.scale)]
    if model.network.uncond:
        out.append(f"uncond=dict({names_of(model.network.uncond)})")
    if rescaled is not None:
        out.append(f"rescale={rescaled.strength:g}")
    if guidance.interval is not None:
        out.append("interval=({:g}, {:g})".format(*guidance.interval))
    return out


def _scale(model: Any, name: str, scale: Any) -> str:
    """A scale: its number, or the name of what gives one for each sample or time."""
    if isinstance(scale, Schedule | Planned):
        return "scale_of_t"
    if name in model.network.strengths or not isinstance(scale, (int, float)):
        return "scales"
    return f"{scale:g}"
