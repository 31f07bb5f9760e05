"""What image-to-image pipelines and training loops ask of a scheduler: data with noise, velocities,
tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odesolve.doors.annotations import meant, samples
from odesolve.errors import OdesolveError
from odesolve.integrations.diffusers.checks import check_timesteps, numbers_at
from odesolve.integrations.diffusers.loops import Loops
from odesolve.paths import Discrete


class Noising(Loops):
    """The part of a scheduler that needs no solver."""

    def __len__(self) -> int:
        return self.trained.steps

    @meant(original_samples=samples, noise=samples)
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Data with noise at these times (B,): alpha x0 + sigma eps, in the dtype of the data.

        In a loop whose first call the pipeline set, the level is that of the next call, whatever
        the times are: pipelines rely on this."""
        alpha, sigma = self._mix(original_samples, timesteps)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``add_noise`` with the arguments of flow schedulers."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a network that predicts v (of a flow: the velocity) should say at these times
        (B,)."""
        if self.trained.kind == "flow":
            return noise - sample
        alpha, sigma = self._mix(sample, timesteps)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def _mix(self, like: Tensor, timesteps: Any) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), float32, shaped to multiply samples like these."""
        given = numbers_at(timesteps)
        if given.dim() > 1 or given.numel() not in (1, len(like)):
            raise OdesolveError(
                f"timesteps have shape {tuple(given.shape)}: give a number, or one per sample "
                f"({len(like)},)"
            )
        if given.is_cpu and self.trained.kind == "vp":
            check_timesteps(given.double().numpy(), self.trained.steps)
        levels = self._levels(given.reshape(-1))
        if self.trained.kind == "vp":
            alpha = (1 + levels**2) ** -0.5
            sigma = levels * (1 + levels**2) ** -0.5
        else:
            alpha = 1 - levels if self.trained.kind == "flow" else torch.ones_like(levels)
            sigma = levels
        shape = (-1, *[1] * (like.dim() - 1))
        return tuple(v.to(like.device, torch.float32).reshape(shape) for v in (alpha, sigma))  # type: ignore[return-value]

    def _levels(self, t: Tensor) -> Tensor:
        """Noise levels at times (B,), float64: of the loop's own times where there is a loop, else
        of training."""
        walk = self._walk()
        if walk is None:
            return self._trained_levels(t)
        if walk.begin_index is not None:
            index = walk.index if walk.index is not None else walk.begin_index
            level = float(walk.schedule.levels[index])
            return torch.full((t.numel(),), level, dtype=torch.float64)
        walked = list(zip(walk.host, walk.schedule.levels.tolist(), strict=False))
        known = dict(reversed(walked))
        trained = self._trained_levels(t.cpu()).tolist()
        places = zip(t.tolist(), trained, strict=True)
        levels = [known.get(time, level) for time, level in places]
        return torch.tensor(levels, dtype=torch.float64)

    def _trained_levels(self, t: Tensor) -> Tensor:
        """Noise levels at times of training, float64, on the device of t."""
        # training loops do not wait for their device
        if self.trained.kind == "vp" and not t.is_floating_point():
            return torch.from_numpy(self.trained.table).to(t.device, non_blocking=True)[t]
        levels = self.trained.level(t.double().cpu().numpy())
        return torch.from_numpy(levels).to(t.device)

    def previous_timestep(self, timestep: Any) -> Tensor:
        """The time of the call after that of ``timestep``, -1 after the last; before
        ``set_timesteps`` one less."""
        walk = self._walk()
        t = float(timestep)
        if walk is None:
            return torch.as_tensor(timestep) - 1
        lower = next((time for time in walk.host if time < t), -1)
        return torch.as_tensor(lower).to(walk.timesteps.dtype)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The table of cumulative alphas, float32 (N,), of VP-like configs."""
        path = self.trained.path
        if not isinstance(path, Discrete):
            raise AttributeError("a flow or EDM config has no table of alphas")
        return path.alphas_cumprod.float()

    @property
    def alphas(self) -> Tensor:
        """1 - ``betas``."""
        table = self.alphas_cumprod.double()
        return (table / torch.cat([table.new_ones(1), table[:-1]])).float()

    @property
    def betas(self) -> Tensor:
        """Noise rates of the training steps, float32 (N,), of VP-like configs."""
        return 1 - self.alphas

    @property
    def final_alpha_cumprod(self) -> Tensor:
        """Cumulative alpha of the last level."""
        if self.config.get("set_alpha_to_one", True):
            return torch.tensor(1.0)
        return self.alphas_cumprod[0]
