"""Denoisers: networks that predict noise or v, wrapped so that model(x, sigma) is the denoised x.

Scalings are taken in float32 at least, whatever the dtype of x; the network's input is in the dtype
of x."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from odesolve.errors import OdesolveError
from odesolve.integrations.k_diffusion.utils import append_dims, append_zero


class _Denoiser(nn.Module):
    """c_skip x + c_out net(c_in x, time) for x = x0 + sigma eps; every kind of network brings its
    own scalings and times."""

    sigma_data = 1.0
    inner_model: Any

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """What the network gets as its time at these levels."""
        raise NotImplementedError

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """The denoised x (B, ...) at levels (B,); keyword arguments go to the network."""
        skip, out, scale = self._weights(sigma, input)
        return (self._output(input, scale, sigma, kwargs) * out + input * skip).to(input.dtype)

    def loss(self, input: Tensor, noise: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        """Mean squared error (B,) of what the network predicts for data ``input`` with ``noise`` at
        levels (B,)."""
        skip, out, scale = self._weights(sigma, input)
        noised = input + noise * append_dims(sigma, input.dim())
        target = self._target(input, noise, (input - skip * noised) / out)
        error = self._output(noised, scale, sigma, kwargs) - target
        return error.pow(2).flatten(1).mean(1)

    def _target(self, data: Tensor, noise: Tensor, scaled: Tensor) -> Tensor:
        return scaled

    def _weights(self, sigma: Tensor, like: Tensor) -> list[Tensor]:
        """c_skip, c_out, c_in as factors of x."""
        given = self.get_scalings(sigma.to(torch.promote_types(sigma.dtype, torch.float32)))
        skip = () if len(given) == 3 else (torch.ones_like(given[0]),)
        return [append_dims(c, like.dim()) for c in (*skip, *given)]

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """c_skip (1 where it is left out), c_out, c_in at levels (B,)."""
        raise NotImplementedError

    def _output(self, x: Tensor, scale: Tensor, sigma: Tensor, kwargs: dict[str, Any]) -> Tensor:
        return self._network((x * scale).to(x.dtype), self.sigma_to_t(sigma), **kwargs)

    def _network(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner_model(*args, **kwargs)


def _v_scalings(sigma: Tensor, data: float) -> tuple[Tensor, Tensor, Tensor]:
    width = sigma**2 + data**2
    return data**2 / width, -sigma * data / width.sqrt(), 1 / width.sqrt()


class VDenoiser(_Denoiser):
    """A network of v-prediction on the trigonometric path, its time atan(sigma) in units of a
    quarter turn."""

    def __init__(self, inner_model: Any):
        super().__init__()
        self.inner_model = inner_model

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _v_scalings(sigma, self.sigma_data)

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        return torch.atan(sigma) / math.pi * 2

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """The level at a time of the network."""
        return torch.tan(t * math.pi / 2)


class DiscreteSchedule(nn.Module):
    """Levels sigmas (n,), rising, of the training steps 0 to n - 1, interpolated in log sigma
    between them.

    ``quantize`` gives the network whole numbers, the nearest steps.
    """

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, sigmas: Tensor, quantize: bool):
        super().__init__()
        if sigmas.dim() != 1 or len(sigmas) < 2:
            raise OdesolveError(
                f"sigmas have shape {tuple(sigmas.shape)}: give the levels of two training steps "
                "or more"
            )
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = quantize

    @property
    def sigma_min(self) -> Tensor:
        """The lowest level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The highest level."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """n levels uniform in the training steps from the highest to the lowest, then 0; by default
        all of them."""
        if n is None:
            return append_zero(self.sigmas.flip(0))
        return append_zero(
            self.t_to_sigma(torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device))
        )

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """The training step of these levels, of any shape: a number between whole ones, or int64
        where they are quantized."""
        logs = self.log_sigmas.to(torch.promote_types(sigma.dtype, self.log_sigmas.dtype))
        at = sigma.to(logs.dtype).log()
        below = (torch.searchsorted(logs, at, right=True) - 1).clamp(0, len(logs) - 2)
        low = logs[below]
        high = logs[below + 1]
        if self.quantize if quantize is None else quantize:
            return torch.where(at - low > high - at, below + 1, below)
        return below + ((at - low) / (high - low)).clamp(0, 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """The level at training steps of any shape, between whole ones too."""
        t = (
            t.to(torch.promote_types(t.dtype, torch.float32))
            if t.is_floating_point()
            else t.float()
        )
        part = t.frac()
        below = self.log_sigmas[t.floor().long()]
        above = self.log_sigmas[t.ceil().long()]
        return ((1 - part) * below + part * above).exp()


class _Discrete(DiscreteSchedule, _Denoiser):
    """A network trained on a table of alphas_cumprod, its time the training step."""

    def __init__(self, model: Any, alphas_cumprod: Tensor, quantize: bool):
        super().__init__(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, quantize)
        self.inner_model = model


class DiscreteEpsDDPMDenoiser(_Discrete):
    """A network that predicts the noise of a DDPM table."""

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, 1 / (sigma**2 + self.sigma_data**2).sqrt()

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's noise; the method to replace for another form of network."""
        return self.inner_model(*args, **kwargs)

    def _network(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.get_eps(*args, **kwargs)

    def _target(self, data: Tensor, noise: Tensor, scaled: Tensor) -> Tensor:
        return noise


class OpenAIDenoiser(DiscreteEpsDDPMDenoiser):
    """A network of OpenAI's diffusion repositories, which may have learned variances in its second
    half of channels.

    ``diffusion`` is the object that has ``alphas_cumprod``.
    """

    def __init__(
        self,
        model: Any,
        diffusion: Any,
        quantize: bool = False,
        has_learned_sigmas: bool = True,
        device: Any = "cpu",
    ):
        alphas = torch.as_tensor(diffusion.alphas_cumprod, dtype=torch.float32, device=device)
        super().__init__(model, alphas, quantize)
        self.has_learned_sigmas = has_learned_sigmas

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self.inner_model(*args, **kwargs)
        if self.has_learned_sigmas:
            return out.chunk(2, dim=1)[0]
        return out


class CompVisDenoiser(DiscreteEpsDDPMDenoiser):
    """A latent diffusion model of CompVis that predicts noise: it has ``apply_model`` and
    ``alphas_cumprod``."""

    def __init__(self, model: Any, quantize: bool = False, device: Any = "cpu"):
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_eps(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner_model.apply_model(*args, **kwargs)


class DiscreteVDDPMDenoiser(_Discrete):
    """A network that predicts v on a DDPM table."""

    def get_scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _v_scalings(sigma, self.sigma_data)

    def get_v(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's v; the method to replace for another form of network."""
        return self.inner_model(*args, **kwargs)

    def _network(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.get_v(*args, **kwargs)


class CompVisVDenoiser(DiscreteVDDPMDenoiser):
    """A latent diffusion model of CompVis that predicts v."""

    def __init__(self, model: Any, quantize: bool = False, device: Any = "cpu"):
        super().__init__(model, model.alphas_cumprod, quantize)

    def get_v(self, x: Tensor, t: Tensor, cond: Any, **kwargs: Any) -> Tensor:
        return self.inner_model.apply_model(x, t, cond)
