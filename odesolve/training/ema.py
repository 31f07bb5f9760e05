"""Averages of a network's weights along its training, which sample better than the last weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from odesolve.doors.annotations import count, meant, number, takes
from odesolve.doors.convention import check_call
from odesolve.doors.values import real
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError
from odesolve.files import Door, shaped, short

Profile = Callable[[int], float]
_DOOR = Door(
    "this", "is no state of an average of this module", "give what ema.state_dict() returned"
)


@meant(decay=number(0.0, 1.0))
@dataclass(frozen=True)
class Exponential:
    """The decay of an exponential average: mean <- decay mean + (1 - decay) weights.

    Without correction the weights at the beginning keep the share decay^k after k updates (Ho et
    al. 2020, appendix B: 0.9999). ``corrected`` leaves them out, as Adam does with its moments
    (Kingma and Ba 2015, section 3): after k updates the weights of the j-th have the share
    decay^(k - j) (1 - decay) / (1 - decay^k). Raises OdesolveError for a decay outside of 0 to
    1."""

    decay: float = 0.999
    corrected: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise OdesolveError(f"decay={self.decay}: give a number from 0 up to, not including, 1")

    def __call__(self, k: int) -> float:
        """The share that the average keeps in update k = 1, 2, ..."""
        if not self.corrected or self.decay == 0.0:
            return self.decay
        log = math.log(self.decay)
        return self.decay * math.expm1((k - 1) * log) / math.expm1(k * log)


@meant(gamma=number(0.0))
@dataclass(frozen=True)
class Power:
    """A power-function average: weights at the share u of the training so far count as u^gamma
    (Karras et al. 2024, section 3.1).

    Its width is a share of the training, however long that is: its mean lies at the share
    (gamma + 1) / (gamma + 2), with the relative deviation ``sigma_rel``. Raises OdesolveError for a
    gamma below 0."""

    gamma: float = 6.94

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < math.inf:
            raise OdesolveError(
                f"gamma={self.gamma}: give a number of at least 0, or use Power.of_width(0.1)"
            )

    @classmethod
    def of_width(cls, sigma_rel: float) -> Power:
        """The profile of a relative deviation such as 0.05 or 0.1, at most 12^-1/2 (Karras et al.
        2024, section 3.1).

        gamma is the largest root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / sigma_rel^2.
        """
        if not 0.0 < sigma_rel <= 12**-0.5:
            raise OdesolveError(
                f"sigma_rel={sigma_rel}: give a number above 0, up to 12^-1/2 = 0.2887"
            )
        precision = sigma_rel**-2
        roots = np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision])
        return cls(max(0.0, float(roots.real.max())))

    @property
    def sigma_rel(self) -> float:
        """Standard deviation of the profile, in shares of the training."""
        return math.sqrt((self.gamma + 1) / (self.gamma + 3)) / (self.gamma + 2)

    def __call__(self, k: int) -> float:
        """The share that the average keeps in update k = 1, 2, ...: none in the first."""
        return (1 - 1 / k) ** (self.gamma + 1)


@meant(points=takes("step"), decay=number(0.0, 1.0, above=0.0), first=count())
@dataclass(frozen=True)
class Growing:
    """The decay of the target of a consistency model whose grid grows: exp(s_0 log mu_0 / N(k))
    (Song et al. 2023, appendix C).

    ``points`` is N, a function of the step 0, 1, ... such as that of ``ConsistencyTraining``;
    ``decay`` is mu_0, the decay for s_0 points, and ``first`` is s_0.
    """

    points: Callable[[int], int]
    decay: float = 0.95
    first: int = 2

    def __call__(self, k: int) -> float:
        """The share that the average keeps in update k = 1, 2, ..., which follows step k - 1."""
        points = real(
            f"points of step {k - 1}", self.points(k - 1), "a number of points above 0", above=0.0
        )
        return math.exp(self.first * math.log(self.decay) / points)


@fits
class EMA:
    """A running average of a module's weights, updated after every step of an optimiser.

    ``module`` is the averaged copy, in evaluation mode: sample
    ``ode.Model(ema.module, path, ...)``, or the model that is trained inside
    ``with ema.applied():``, which is in evaluation mode there, too. Buffers are copied as they are,
    and so are weights that are no floats; see ``recalibrated`` for those of batch norms.

    Args:
        source: the module that is trained; of one in ``DistributedDataParallel``, the module
            inside, as one rank samples alone.
        profile: a decay, ``Exponential``, ``Power``, or a function from the number k = 1, 2, ... of
            an update to the share that the average keeps. The average begins as the weights that
            the source has now.
        dtype: float32 or float64 for the average, where the source has half precision or will have
            it; by default the source's.

    Raises OdesolveError for a decay outside of 0 to 1, and for weights of half precision without a
    ``dtype``: there the small steps of an average round to nothing.
    """

    def __init__(
        self,
        source: nn.Module,
        profile: float | Profile = 0.999,
        dtype: torch.dtype | None = None,
    ):
        _check_source(source, dtype)
        if callable(profile):
            check_call(profile, "profile", "k")
        _check_precision(source, dtype)
        source = source.module if isinstance(source, DistributedDataParallel) else source
        self.source = source
        self._wide = dtype is not None
        self.profile: Profile = profile if callable(profile) else _exponential(profile)
        self._averaged = AveragedModel(source, multi_avg_fn=self._mix)
        if dtype is not None:
            self.module.to(dtype)
        # its first call copies: the average of no update is the source
        self._averaged.update_parameters(source)
        self.module.requires_grad_(False).eval()

    @property
    def module(self) -> nn.Module:
        """The averaged copy."""
        return self._averaged.module

    @property
    def updates(self) -> int:
        """The number of updates so far."""
        return int(self._averaged.n_averaged) - 1

    def update(self) -> None:
        """Take in the weights that the source has now."""
        other = self._wide or _dtype_of(self.module) is not _dtype_of(self.source)
        source = _Widened(self.source, self.module) if other else self.source
        self._averaged.update_parameters(source)

    def _mix(self, average, weights, _) -> None:
        keep = self.profile(self.updates + 1)
        if isinstance(keep, (str, bytes, type(None))) or not 0.0 <= keep <= 1.0:
            raise OdesolveError(
                f"the profile returned {keep} for update {self.updates + 1}: return a share from "
                "0 to 1"
            )
        if average[0].is_floating_point() or average[0].is_complex():
            get_ema_multi_avg_fn(keep)(average, weights, None)
            return
        for held, given in zip(average, weights, strict=True):
            held.copy_(given)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average over the weights and buffers of a module of the same make. Raises
        OdesolveError for a module of another make."""
        mine = tensors_of(self.module)
        theirs = tensors_of(module)
        for name in [*mine, *theirs]:
            a = mine.get(name)
            b = theirs.get(name)
            if a is None or b is None or a.shape != b.shape:
                raise OdesolveError(
                    f"{name} differs: give a module of the same make as the one that was averaged"
                )
        for name, value in mine.items():
            theirs[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Within, the source has the averaged weights and is in evaluation mode.

        Afterwards it has its own weights again, and each of its modules is in its mode of before,
        also after an error."""
        kept = {name: value.detach().clone() for name, value in tensors_of(self.source).items()}
        modes = [(module, module.training) for module in self.source.modules()]
        try:
            self.copy_to(self.source)
            self.source.eval()
            yield self.source
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for name, value in tensors_of(self.source).items():
                    value.copy_(kept[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The average and the number of its updates, without the profile."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises OdesolveError for the state of another module, and keeps its
        own."""
        given = shaped(state, dict[str, Any], _DOOR)
        mine = self.state_dict()
        for name in (*mine, *given):
            a = given.get(name)
            b = mine.get(name)
            if not _alike(a, b):
                raise _DOOR.refuse(f"{name} is {short(a)}: expected {short(b)}")
        with _DOOR.reading():
            self._averaged.load_state_dict(state)


def _check_source(source: Any, dtype: Any) -> None:
    """Raise OdesolveError for anything but a module whose weights can be averaged."""
    if not isinstance(source, nn.Module):
        raise OdesolveError(
            f"the source is {type(source).__name__}: give the nn.Module that is trained"
        )
    if dtype not in (None, torch.float32, torch.float64):
        raise OdesolveError(
            f"dtype={dtype}: give torch.float32 or torch.float64, or None for that of the weights"
        )
    if any(is_lazy(p) for p in source.parameters()):
        raise OdesolveError(
            "the source has weights without a shape: call it once on a batch of data before "
            "EMA(source)"
        )


def _check_precision(source: nn.Module, dtype: torch.dtype | None) -> None:
    """Raise OdesolveError for weights of half precision, unless the average has more."""
    halves = (torch.float16, torch.bfloat16)
    narrow = [name for name, p in source.named_parameters() if p.dtype in halves]
    if narrow and dtype is None:
        raise OdesolveError(
            f"{narrow[0]} is of half precision: give dtype=torch.float32 for the average, or keep "
            "weights in float32 and compute with autocast"
        )


def _exponential(decay: Any) -> Exponential:
    return Exponential(real("profile", decay, "a decay from 0 to 1, or a function", 0.0, 1.0))


class _Widened(nn.Module):
    """A module that shows its weights in the dtypes of its average, as torch groups the two by
    dtype."""

    def __init__(self, source: nn.Module, average: nn.Module):
        super().__init__()
        self.tensors = [
            (p, a.dtype) for p, a in zip(source.parameters(), average.parameters(), strict=True)
        ]
        self.copied = list(source.buffers())

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        for p, dtype in self.tensors:
            yield nn.Parameter(p.detach().to(dtype), requires_grad=False)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        yield from self.copied


def _alike(a: Any, b: Any) -> bool:
    """Whether one value of a state can take the place of the other."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b)
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _dtype_of(module: nn.Module) -> torch.dtype | None:
    """The dtype of the first weight."""
    return next((p.dtype for p in module.parameters()), None)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also the buffers that a state_dict leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
