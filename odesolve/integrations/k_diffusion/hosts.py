"""What a host program says about its model: whether it is a flow, and in which units."""

from __future__ import annotations

from typing import Any


def model_sampling(model: Any) -> Any:
    """ComfyUI's description of the noise levels of the model that a sampler is called with; None
    elsewhere."""
    inner = getattr(model, "inner_model", None)
    patcher = getattr(inner, "model_patcher", None)
    if patcher is not None:
        return patcher.get_model_object("model_sampling")
    return getattr(getattr(inner, "inner_model", None), "model_sampling", None)


def is_flow(model: Any) -> bool:
    """Whether levels are times of x_t = (1 - t) x0 + t eps, which ComfyUI calls CONST, instead of
    x0 + sigma eps."""
    return any(kind.__name__ == "CONST" for kind in type(model_sampling(model)).__mro__)


def noise_scale(model: Any) -> float:
    """Deviation of the noise that a flow was trained with, where it is not 1."""
    return float(getattr(model_sampling(model), "noise_scale", 1.0))
