"""A model from a diffusers pipeline: its network, read as its scheduler's config describes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path as File
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers.config import check_saved
from odesolve.integrations.diffusers.network import Trained
from odesolve.integrations.diffusers.recorder import (
    BESIDE,
    Recorded,
    axis_of,
    branches,
    nested,
    network_of,
    record,
)
from odesolve.integrations.diffusers.scheduler import OdesolveScheduler
from odesolve.model.model import Model


class PipelineNetwork(nn.Module):
    """A pipeline's network as ``net(x, t, **cond)``; ``shape`` is that of one sample's state."""

    def __init__(self, recorded: Recorded, sign: float):
        super().__init__()
        self.network = recorded.network
        self.names = recorded.names
        self.sign = sign
        self.shape = tuple(recorded.sample.shape[1:])
        self.batch = recorded.sample.shape[0]
        state = recorded.sample.shape
        x = torch.Size([state[0], *recorded.calls[0].x.shape[1:]])
        self.axis = 0 if x == state else axis_of(x, state)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """What the network says, without what it says of a variance."""
        given = {k: self._rows(v, x.shape[0]) for k, v in cond.items()}
        beside = given.pop(BESIDE, None)
        x_in = x if beside is None else torch.cat([x, beside.to(x.dtype)], dim=self.axis)
        out = self.network(
            **{self.names[0]: x_in, self.names[1]: t}, **nested(given), return_dict=False
        )[0]
        return out if self.sign > 0 else -out

    def _rows(self, value: Any, batch: int) -> Any:
        """A condition of one sample, for all of a batch."""
        if (
            self.batch == 1
            and isinstance(value, Tensor)
            and value.dim() > 0
            and value.shape[0] == 1
            and batch > 1
        ):
            return value.expand(batch, *value.shape[1:])
        return value


@fits
def from_pipeline(
    pipe: Any,
    *,
    network: nn.Module | None = None,
    clip: bool = False,
    **call: Any,
) -> Model:
    """A model of a diffusers pipeline's network, with the conditions and guidance of
    ``pipe(**call)``.

    The pipeline is run up to its first step and watched: what its network is called with besides
    the state and the time are the model's conditions, and the guidance scale is read from how it
    mixed its branches. Text is encoded once, here.

    Args:
        pipe: the pipeline, with a scheduler of its own or ours.
        network: the module that denoises; by default ``pipe.unet``, ``pipe.transformer`` or the
            like.
        clip: clip the data prediction as the scheduler's config says; log-likelihoods need it off.
        call: what the pipeline is called with, such as ``prompt=``, ``guidance_scale=``,
            ``generator=``.

    The state is the pipeline's latents in the coordinates of ``OdesolveScheduler``;
    ``model.net.shape`` is the shape of one sample, and the conditions are those of the batch that
    the call made (one condition serves any batch). ``t`` runs from 0 at the data to the path's
    ``t_max``. Raises OdesolveError for pipelines that make no step, or mix more than two branches.
    """
    scheduler = pipe.scheduler
    if not isinstance(scheduler, OdesolveScheduler):
        scheduler = OdesolveScheduler.from_config(scheduler, solver="ddim")
    trained = scheduler.trained
    recorded = record(pipe, network if network is not None else network_of(pipe), call)
    conditions = branches(recorded)
    variance = recorded.calls[0].output.shape[1] == 2 * recorded.sample.shape[1]
    net = PipelineNetwork(recorded, trained.sign)
    model = Model(
        net,
        trained.path,
        trained.reading.prediction,
        input_scale="edm" if trained.scaled is not None else None,
        sigma_data=trained.reading.sigma_data,
        learned_variance=variance,
        cond=conditions.cond,
        **_time(trained, recorded),
    )
    if clip:
        model.functions = {**trained.functions, **model.functions}
        model.reading = trained.reading
    if conditions.uncond is None:
        return model
    return model.guided(conditions.scale, conditions.cond, conditions.uncond)


def _time(trained: Trained, recorded: Recorded) -> dict[str, Any]:
    """How the network is told the time: as the scheduler writes it, times what the pipeline made of
    that."""
    times = (recorded.calls[0].time, recorded.timestep)
    network_time, pipeline_time = (float(torch.as_tensor(v).flatten()[0]) for v in times)
    ratio = network_time / pipeline_time if pipeline_time else 1.0
    if abs(ratio - 1.0) < 1e-2:  # half-precision pipelines round their times
        ratio = 1.0
    if trained.kind == "vp" and ratio == 1.0:
        return {}

    def time(path: Any, t: Tensor) -> Tensor:
        levels = trained.levels_at(t.detach().double().cpu().flatten().tolist())
        network_times = torch.from_numpy(trained.time(levels)).reshape(t.shape)
        return ratio * network_times.to(t.device, t.dtype)

    if trained.kind == "flow" and not trained.inverted:
        return {"time": "t", "time_scale": ratio * trained.steps}
    return {"time": time}


@fits
def load_pipeline(
    folder: str, device: str | None = None, call: Iterable[tuple[str, Any]] = ()
) -> tuple[Model, tuple[int, ...]]:
    """The model of a pipeline that diffusers saved in a folder (nothing is downloaded), and the
    shape of one sample.

    Raises OdesolveError where the folder holds no pipeline, or the pipeline cannot take these
    arguments.
    """
    if not (File(folder) / "model_index.json").is_file():
        raise OdesolveError(
            f"{folder} holds no pipeline (model_index.json): give a folder that "
            "save_pretrained wrote"
        )
    check_saved(File(folder))
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipe = pipe if device is None else pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        model = from_pipeline(pipe, **dict(call))
    except OdesolveError:
        raise
    except Exception as e:  # whatever the pipeline raises is one line here
        raise OdesolveError(f"{folder}: {type(e).__name__}: {e}") from e
    return model, model.net.shape
