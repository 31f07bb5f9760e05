"""k-diffusion's interface over our solvers.

``import odesolve.integrations.k_diffusion as K`` stands where ``import k_diffusion as K`` was.

``sampling`` has its solvers, noise levels, noise samplers and log-likelihood, ``external`` and
``layers`` its denoisers, ``register`` puts our solvers into a host's sampler module, such as
ComfyUI's. The package k-diffusion is not needed."""

from odesolve.integrations.k_diffusion import external, layers, sampling, utils
from odesolve.integrations.k_diffusion.layers import Denoiser
from odesolve.integrations.k_diffusion.registration import register, unregister

__all__ = ["Denoiser", "external", "layers", "register", "sampling", "unregister", "utils"]
