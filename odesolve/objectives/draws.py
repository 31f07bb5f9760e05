"""Random draws and checks that objectives share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from odesolve.doors.values import dense, refuse_loose, short
from odesolve.errors import OdesolveError
from odesolve.grids import ROUNDING
from odesolve.model.model import Model
from odesolve.noise.keys import keys_of


def normal_for(x: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """The user's noise for x (B, ...), or standard normal noise. Raises OdesolveError for another
    shape."""
    if noise is None:
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    check_noise(noise)
    if noise.shape != x.shape:
        raise OdesolveError(
            f"noise has shape {tuple(noise.shape)} for data {tuple(x.shape)}: "
            "give one for each sample"
        )
    return noise


def check_noise(noise: Tensor) -> None:
    """Raise OdesolveError for noise that is no dense tensor of numbers."""
    if not isinstance(noise, Tensor) or not dense(noise) or noise.is_meta:
        raise OdesolveError(
            f"noise is {short(noise)}: give a dense tensor, one row for each sample"
        )


def same_draws(x: Tensor) -> Callable[[], None]:
    """A function that resets torch's own generators, of the host and of the device of x, to their
    present states."""
    if torch.compiler.is_compiling():  # torch.compile knows no states of generators
        return lambda: None
    host = torch.get_rng_state()
    device = torch.cuda.get_rng_state(x.device) if x.is_cuda else None

    def again() -> None:
        torch.set_rng_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device, x.device)

    return again


def keys_for(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Keys (B, 2) of a batch, under a seed from the generator."""
    return keys_of(len(x), seed_for(generator), None, x.device)


def seed_for(generator: torch.Generator | None) -> int | None:
    """A seed from the generator; None, for torch's own, without one."""
    if generator is None:
        return None
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def check_data(x: Tensor) -> None:
    """Raise OdesolveError unless x is a batch (B, ...) of float32 or float64."""
    if isinstance(x, Tensor):
        refuse_loose("the data", x)
        if x.is_meta:
            raise OdesolveError(
                "the data are on the meta device, without numbers: give them on the network's"
            )
    if isinstance(x, Tensor) and x.is_floating_point() and x.itemsize < 4:
        raise OdesolveError(
            f"the data are {x.dtype}: give x.float(), as ode.Model casts what its network is to see"
        )
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point() or not len(x):
        given = (
            f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        )
        raise OdesolveError(f"the data are {given}: give floats of shape (B, ...)")


def can_look(value: Tensor) -> bool:
    """Whether the host can read a tensor without waiting: on the CPU, outside torch.compile. On a
    GPU it would wait."""
    return value.is_cpu and not torch.compiler.is_compiling()


seen = can_look  # its name before 0.2


def check_finite(t: Tensor, finite: Tensor, what: str) -> None:
    """Raise OdesolveError at times (B,) at which something is infinite.

    Where the check would wait (``can_look``), the loss itself is infinite or NaN."""
    if not can_look(finite) or bool(finite.all()):
        return
    at = float(t[~finite.to(t.device)][0])
    raise OdesolveError(
        f"t holds {at:.6g}, where {what} is infinite: give times away from that end of the path"
    )


def checked_times(t: Tensor, x: Tensor, model: Model, teacher: Model | None = None) -> Tensor:
    """Times (B,) as float64 on the device of x. Raises OdesolveError for another shape, for times
    outside the path, and for ends of it where the network's time, or a teacher's, is infinite.

    Under torch.compile, and for times on a GPU, where the host would wait, times outside the path
    become NaN, and so does the loss."""
    low, high = sorted((model.path.t_data, model.path.t_noise))
    if not isinstance(t, Tensor):
        raise OdesolveError(f"t is {short(t)}: give one time per sample, a tensor (B,)")
    if t.is_complex() or not dense(t) or t.is_meta:
        raise OdesolveError(
            f"t is {t.dtype}, {t.layout}, on {t.device}: give real times in a dense tensor (B,)"
        )
    if t.shape != x.shape[:1]:
        raise OdesolveError(
            f"t has shape {tuple(t.shape)} for a batch of {len(x)}: give one time per sample"
        )
    t = t.double()
    if can_look(t):  # times between the ends, as nearly all are, need one check
        first, last = (float(v) for v in torch.aminmax(t))
        if low < first and last < high:
            return t.to(x.device)
    near = t.clamp(low, high)  # rounding may move float32 times beyond an end
    inside = (t - near).abs() <= ROUNDING * (high - low)
    if not can_look(inside):
        near = torch.where(inside, near, math.nan)
    elif not bool(inside.all()):
        raise OdesolveError(
            f"t goes from {float(t.min())} to {float(t.max())}: the path goes from {low} to {high}"
        )
    elif bool((ends := (near == low) | (near == high)).any()):
        for each in (model,) if teacher is None else (model, teacher):
            check_network_times(near[ends], each)
    return near.to(x.device)


def check_network_times(t: Tensor, model: Model) -> None:
    """Raise OdesolveError for times (n,) that are infinite as the network gets them, such as the
    logarithm of no noise."""
    check_finite(
        t, model.network_times(t).isfinite(), f"the network's time (time={short(model.time)})"
    )


def counted(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask or weights of elements as factors (B, ...) in a sum over a sample.

    Raises OdesolveError for another shape, negative weights and samples where nothing counts.
    """
    if mask is None:
        return None
    if (
        not isinstance(mask, Tensor)
        or mask.is_complex()
        or not dense(mask)
        or (mask.is_meta and not x.is_meta)
    ):
        raise OdesolveError(
            f"mask is {short(mask)}: give a tensor of booleans or weights that broadcasts to x"
        )
    try:
        own = mask.to(x.device, x.dtype).expand(x.shape)
    except RuntimeError:
        raise OdesolveError(
            f"mask has shape {tuple(mask.shape)}: give one that broadcasts to {tuple(x.shape)}"
        ) from None
    mean = own.flatten(1).mean(1)
    if can_look(own) and not (
        bool((own >= 0).all()) and bool(((mean > 0) & mean.isfinite()).all())
    ):
        raise OdesolveError(
            "mask holds negative or infinite weights, or leaves nothing of a sample: let "
            "something count"
        )
    return own


def mask_for(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask or weights of elements as factors (B, ...), whose mean over a sample is 1. Errors are
    those of ``counted``."""
    own = counted(mask, x)
    if own is None:
        return None
    return own / column(own.flatten(1).mean(1), x)


def numbers(mask: Tensor | None, x: Tensor) -> float | Tensor:
    """The number of elements of a sample that count, or their total weight, (B,)."""
    if mask is None:
        return x[0].numel()
    return mask.to(x).expand(x.shape).flatten(1).sum(1)


def sum_over(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """The sum (B,) of numbers (B, ...), by the factors of ``counted``."""
    return (values if counts is None else values * counts).flatten(1).sum(1)


def mean_over(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean (B,) of numbers (B, ...), by the factors of ``mask_for``."""
    return (values if mask is None else values * mask).flatten(1).mean(1)


def mean_square(error: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean square (B,) of errors (B, ...), by the factors of ``mask_for``."""
    return mean_over(error.square(), mask)


def column(c: Tensor, x: Tensor) -> Tensor:
    """One number per sample (B,) as a factor of x (B, ...)."""
    return c.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
