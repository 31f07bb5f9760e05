"""What a solve starts from: the noise, given or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from odesolve.doors.values import device_of, refuse_loose, short, whole
from odesolve.errors import OdesolveError
from odesolve.kernels.dispatch import normal
from odesolve.model.model import Model
from odesolve.noise import stream_numbers
from odesolve.noise.keys import Ids, check_keys, keys_of

Noise = Tensor | Sequence[int]


def start(
    model: Model,
    given: Noise | None,
    state: Tensor | None,
    t: float,
    key: tuple,
    dtype,
    device,
    check: bool = True,
) -> Tensor:
    """The state at time t from what the user gave: noise of unit variance, its shape, or the state
    itself.

    ``key`` is (seed, ids) of noise that is drawn; ``check`` looks for values that are not finite,
    which waits for the device.
    Raises OdesolveError for what cannot be used.
    """
    if (given is None) == (state is None):
        raise OdesolveError(
            "give either noise= (a tensor or a shape) or state= (a state at the grid's first time)"
        )
    x = state if state is not None else given
    if state is not None and not isinstance(state, Tensor):
        raise OdesolveError(
            f"state is {short(state)}: give a tensor (B, ...), the state at the grid's first time"
        )
    if isinstance(x, Tensor):
        refuse_loose("the start", x)
        check_keys(x.shape[0] if x.dim() else 0, *key)
    else:
        x = draw(model, x, key[0], dtype, device, key[1])
    if not x.is_floating_point() or x.dim() == 0:
        raise OdesolveError(
            f"the start is {x.dtype} of shape {tuple(x.shape)}: give floats of shape (B, ...)"
        )
    wide = dtype or (x.dtype if x.dtype == torch.float64 else torch.float32)
    if wide not in (torch.float32, torch.float64):
        raise OdesolveError(
            f"dtype={wide}: the state is kept in torch.float32 or torch.float64, give one of them"
        )
    x = x.to(wide)
    if check and x.is_meta:
        raise OdesolveError(
            "the start is on the meta device, without numbers: give a tensor that has some"
        )
    if check and not bool(torch.isfinite(x).all()):
        raise OdesolveError("the start holds NaN or infinity: give finite values")
    if state is not None:
        return x
    return x * model.path.start_std(t)


def draw(
    model: Model,
    shape,
    seed: int | None,
    dtype,
    device,
    ids: Ids | None = None,
) -> Tensor:
    """Standard normal noise of this shape on the network's device, every sample from its own (seed,
    id).

    The random bits are the same on every device, the numbers to the last bit or two.
    """
    size = shape_of(shape)
    if device is None:
        parameter = (
            next(iter(model.net.parameters()), None)
            if isinstance(model.net, torch.nn.Module)
            else None
        )
        device = parameter.device if parameter is not None else "cpu"
    device = device_of(device)
    if dtype not in (None, torch.float32, torch.float64):
        raise OdesolveError(
            f"dtype={dtype}: the state is kept in torch.float32 or torch.float64, give one of them"
        )
    out = torch.empty(size, dtype=dtype or torch.float32, device=device)
    normal(out, keys_of(size[0], seed, ids, out.device), stream_numbers.START)
    return out


def shape_of(shape: Any) -> torch.Size:
    """The shape (B, ...) that noise is asked for by. Raises OdesolveError for what is none."""
    try:
        if isinstance(shape, (bytes, bytearray, Set, Mapping)):  # which have no order of sizes
            raise TypeError
        size = torch.Size([whole("noise", n) for n in shape])
    except (TypeError, OdesolveError) as e:
        raise OdesolveError(
            f"noise is {short(shape)}: give a tensor, or a shape such as (16, 3, 32, 32)"
        ) from e
    if not size:
        raise OdesolveError(
            f"noise is {short(shape)}: give a shape with the number of samples first, such as "
            "(16, 3, 32, 32)"
        )
    return size
