"""The loops over a scheduler, one per thread, and what a scheduler says about the current one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers.conventions import Convention
from odesolve.integrations.diffusers.network import Trained
from odesolve.integrations.diffusers.walk import Generators, Walk


class StepOutput:
    """What ``step`` returns: ``prev_sample``, and ``pred_original_sample``, which is computed when
    it is asked for."""

    def __init__(
        self,
        prev_sample: Tensor,
        walk: Walk,
        index: int,
        output: Tensor,
        sample: Tensor,
    ):
        self.prev_sample = prev_sample
        self._made = (walk, index, output, sample)

    @property
    def pred_original_sample(self) -> Tensor:
        """The data prediction of this call, in the sample's dtype."""
        walk, index, output, sample = self._made
        return walk.data(index, output, sample)

    def __getitem__(self, key: int | str) -> Tensor:
        if isinstance(key, str):
            return getattr(self, key)
        return self.to_tuple()[key]

    def to_tuple(self) -> tuple[Tensor, Tensor]:
        """(prev_sample, pred_original_sample)."""
        return self.prev_sample, self.pred_original_sample


class Loops:
    """The part of a scheduler that knows which loop a caller is in."""

    trained: Trained
    convention: Convention
    config: Mapping[str, Any]

    def __init__(self) -> None:
        self._walks = threading.local()
        self._latest: Walk | None = None

    def _enter(self, walk: Walk) -> None:
        """Make this the loop of the present thread."""
        self._walks.mine = self._latest = walk

    def _walk(self) -> Walk | None:
        """This thread's loop, or the latest one where it has none: a loop may move between
        threads."""
        return getattr(self._walks, "mine", None) or self._latest

    def _going(self) -> Walk:
        walk = self._walk()
        if walk is None:
            raise OdesolveError("there are no timesteps yet: call set_timesteps first")
        return walk

    @property
    def timesteps(self) -> Tensor:
        """Times of the network, one entry per call, on the device given to ``set_timesteps``."""
        walk = self._walk()
        if walk is not None:
            return walk.timesteps
        return torch.arange(self.trained.steps - 1, -1, -1)

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of all calls and of the end, float32 on the CPU: sigma/alpha, of flows from
        0 to 1."""
        walk = self._walk()
        if walk is not None:
            return walk.sigmas
        known = self.trained
        n = self.trained.steps
        table = (
            known.table
            if known.kind == "vp"
            else known.path.t_max * (torch.arange(1, n + 1).numpy() / n)
        )
        return torch.tensor([*table[::-1], 0.0], dtype=torch.float32)

    @property
    def num_inference_steps(self) -> int | None:
        """Number of steps of the present loop."""
        walk = self._walk()
        return None if walk is None else len(walk.schedule.starts)

    @property
    def step_index(self) -> int | None:
        """Number of the next network call; None before the first."""
        walk = self._walk()
        return None if walk is None else walk.index

    @property
    def _step_index(self) -> int | None:
        return self.step_index

    @_step_index.setter
    def _step_index(self, value: int | None) -> None:
        self._going().index = value

    @property
    def begin_index(self) -> int | None:
        """The call that the loop begins with, where the pipeline set it."""
        walk = self._walk()
        return None if walk is None else walk.begin_index

    @property
    def generator(self) -> Generators:
        """This thread's generator. ``step`` draws from it where the caller gives none, as pipelines
        of flow models do.

        One for all samples of a batch, or a list of one per sample; None for torch's own.
        """
        return getattr(self._walks, "generator", None)

    @generator.setter
    def generator(self, value: Generators) -> None:
        self._walks.generator = value
        if (walk := self._walk()) is not None:
            walk.generator = value

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the call that the loop begins with."""
        self._going().begin_index = int(begin_index)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that a loop from its first call begins with."""
        walk = self._walk()
        edges = self.config.get("timestep_spacing", self.convention.spacing) in (
            "linspace",
            "trailing",
        )
        if self.trained.kind == "edm":
            top = self.trained.path.t_max if walk is None else float(walk.schedule.levels[0])
            if edges and not self.convention.unit:
                return top
            return (top * top + 1) ** 0.5
        if self.trained.kind == "flow" or self.convention.unit or not edges:
            return 1.0
        top = float(self.trained.table[-1] if walk is None else walk.schedule.levels[0])
        return top / (top * top + 1) ** 0.5
