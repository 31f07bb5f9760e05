"""A schema for schedulers' configs: the keys that we read, each with its type. Other keys pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct, structs
from torch import Tensor

from odesolve.files import Door, Number, Real, contents, parsed, regular, shaped

SAVED = Door("this", "is no file of a pipeline", "give a folder that save_pretrained wrote")
DOOR = Door(
    "the scheduler's config",
    "cannot be read",
    "give pipe.scheduler.config, or a config that diffusers saved",
)
Share = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0.0, le=1.0)]
Above = Annotated[int, Meta(gt=0, le=10**9)] | Annotated[float, Meta(gt=0.0, le=1e9)]
Steps = Annotated[int, Meta(ge=1, le=10**6)]
Flag = bool | None
Word = str | None


class Config(Struct):
    """The keys of a config that we read. An absent key has its reader's default."""

    num_train_timesteps: Steps = 1000
    beta_start: Share | None = None
    beta_end: Share | None = None
    trained_betas: Annotated[tuple[Share, ...], Meta(min_length=2)] | None = None
    beta_schedule: Word = None
    prediction_type: Word = None
    timestep_type: Word = None
    timestep_spacing: Word = None
    interpolation_type: Word = None
    final_sigmas_type: Word = None
    sigma_schedule: Word = None
    time_shift_type: Word = None
    algorithm_type: Word = None
    solver_type: Word = None
    variance_type: Word = None
    solver: Word = None
    grid: Word = None
    like: Word = None
    source: Word = None
    steps_offset: Annotated[int, Meta(ge=0, le=10**6)] | None = None
    solver_order: Annotated[int, Meta(ge=1, le=100)] | None = None
    sigma_data: Above | None = None
    sigma_min: Number | Flag = None
    sigma_max: Number | Flag = None
    rho: Number | None = None
    shift: Above | None = None
    flow_shift: Above | None = None
    shift_terminal: Number | Flag = None
    base_shift: Number | None = None
    max_shift: Number | None = None
    snr_shift_scale: Number | None = None
    s_noise: Number | None = None
    eta: Number | None = None
    lambda_min_clipped: Real | None = None
    dynamic_thresholding_ratio: Share | None = None
    sample_max_value: Number | None = None
    clip_sample_range: Number | None = None
    use_flow_sigmas: Flag = None
    use_karras_sigmas: Flag = None
    use_exponential_sigmas: Flag = None
    use_beta_sigmas: Flag = None
    use_lu_lambdas: Flag = None
    use_dynamic_shifting: Flag = None
    thresholding: Flag = None
    clip_sample: Flag = None
    invert_sigmas: Flag = None
    rescale_betas_zero_snr: Flag = None
    set_alpha_to_one: Flag = None
    lower_order_final: Flag = None
    euler_at_final: Flag = None
    skip_prk_steps: Flag = None
    stochastic_sampling: Flag = None
    exact_timesteps: Flag = None


READ = frozenset(f.name for f in structs.fields(Config))


def check_config(config: Mapping[str, Any], door: Door = DOOR) -> None:
    """Raise OdesolveError, which names the key, where a value that we read has the wrong type."""
    shaped({k: _plain(v) for k, v in config.items() if k in READ}, Config, door)


def check_saved(folder: File) -> None:
    """Raise OdesolveError where a saved pipeline has a file that is not regular, such as a pipe
    that a reader would wait for, or a scheduler config that does not fit the schema."""
    for file in folder.rglob("*"):
        if not file.is_dir() and not file.is_file():
            regular(file, replace(SAVED, name=str(file)))
    for file in folder.glob("*/scheduler_config.json"):
        door = replace(DOOR, name=str(file))
        check_config(
            shaped(parsed(contents(file, door), door, finite=False), dict[str, Any], door), door
        )


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's."""
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    return value
