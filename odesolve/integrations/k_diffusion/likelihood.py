"""k-diffusion's log-likelihood of data, by our solver of log-densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.words import fits
from odesolve.integrations.k_diffusion.driver import Extra, path_of
from odesolve.integrations.k_diffusion.fast import ends
from odesolve.log_prob import log_prob
from odesolve.model.model import Model
from odesolve.trace import Estimator


@fits
def log_likelihood(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: Extra = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
    *,
    trace: str | Estimator = "hutchinson",
    products: int = 1,
    seed: int | None = None,
    control: str | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Log-density (B,) in nats of x (B, ...) with noise of sigma_min, under N(0, sigma_max^2) at
    the other end.

    Along the probability flow dx/dsigma = (x - denoised) / sigma (Song et al. 2021, eq. 39), in
    coordinates of our choice, not necessarily those of k-diffusion. The divergence is estimated by
    one Rademacher probe as there, or as ``trace`` and ``products`` say (see ``ode.log_prob``):
    "exact" has no noise. The solver may err by about atol + rtol n for n numbers per sample: these
    tolerances for a density of n nats. Denoisers that read one sigma for the whole batch need
    ``control="batch"``.

    Returns the values in the dtype of x (float32 at least), and a dictionary: "fevals" is the most
    network evaluations of a sample, "log_prob" the ``LogProb`` with the errors of the probes and of
    the solver. Raises OdesolveError as ``ode.log_prob`` does.
    """
    low, high = ends(sigma_min, sigma_max)
    network = Model(
        model, path_of((high, low), False), "data", dtype=x.dtype, cond=dict(extra_args or {})
    )
    tol = atol + rtol * x.shape[1:].numel()
    options = {"trace": trace, "products": products, "seed": seed, "tol": tol, "control": control}
    density = log_prob(network, x, t=(low, high), **options)
    return density.value.to(torch.promote_types(x.dtype, torch.float32)), {
        "fevals": int(density.nfe.max()),
        "log_prob": density,
    }
