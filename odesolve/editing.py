"""Samples that begin with something that is there: edited, filled in, or between two others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odesolve import grids
from odesolve.doors.annotations import samples
from odesolve.doors.keywords import door
from odesolve.doors.values import numbers
from odesolve.doors.words import refuse_others
from odesolve.errors import OdesolveError, once
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.torch_func import unwatched
from odesolve.grids import is_listed
from odesolve.model.model import Model
from odesolve.noise.keys import Ids, fresh_seed
from odesolve.planning.defaults import default_grid
from odesolve.planning.labels import parse_grid, parse_label
from odesolve.planning.planner import GridLike, SolverLike
from odesolve.sample import INVERSION, Sample, invert, sample
from odesolve.sampling.start import draw

# what ode.sample may begin from, where SDEdit begins from its guide
BEGUN_BY = ("noise", "state", "plan")


@door("ode.sdedit")
@unwatched
def sdedit(
    model: Model,
    guide: Tensor,
    t: float | None = None,
    solver: SolverLike = "unipc_2",
    steps: int | None = None,
    grid: GridLike | None = None,
    *,
    seed: int | None = None,
    ids: Ids | None = None,
    **options: Any,
) -> Tensor | Sample:
    """SDEdit: noise a guide up to time t and sample from there (Meng et al. 2022, algorithm 1).

    Args:
        model: an ``ode.Model``.
        guide: data (B, ...) to begin with.
        t: time of the path, by default where signal and noise are alike for unit data; nearer to
            the noise more is changed.
        solver, steps, grid, seed, ids, options: as for ``ode.sample``; the grid's rule begins at t.
            A stochastic solver is the paper's, a deterministic one the probability flow's. Rejected
            as a default: that of ``ode.sample``, whose analytic first step is for the noise end.

    Returns what ``ode.sample`` does. Raises OdesolveError for a time outside the path.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> ode.sdedit(model, torch.zeros(4, 2), t=0.5, steps=10, seed=0).shape
        torch.Size([4, 2])
    """
    refuse_others("ode.sdedit", set(), {k: v for k, v in options.items() if k in BEGUN_BY})
    path = model.path
    expected = "one time of the path"
    at = path.t_of_lam(0.0) if t is None else numbers("t", t, expected)
    if at.numel() != 1:
        raise OdesolveError(f"t has shape {tuple(at.shape)}: give {expected}")
    _check_batches(guide=guide)
    t = float(at) if t is None else grids.inside(path, float(at))
    if t == path.t_data:
        raise OdesolveError(f"t={t}: give a time of the path, and not that of the data")
    seed = fresh_seed() if seed is None else seed
    name = solver
    if isinstance(solver, str):
        label = parse_label(solver, steps)
        name = label.solver
        grid = label.grid if grid is None else grid
    rule = (
        parse_grid(grid)
        if isinstance(grid, str)
        else grids.named(default_grid(path, name) if grid is None else grid)
    )
    if isinstance(rule, grids.Listed):
        raise OdesolveError(
            "the grid is a list of times: give a rule's name such as 'karras', which begins at t"
        )
    z = draw(model, guide.shape, seed, guide.dtype, guide.device, ids)
    p = path.point(t)
    state = p.alpha * guide + p.sigma * z
    return sample(
        model,
        state=state,
        solver=solver,
        steps=steps,
        grid=replace(rule, start=t),
        seed=seed,
        ids=ids,
        **options,
    )


@door("ode.slerp")
def slerp(a: Tensor, b: Tensor, share: float | Sequence[float] | Tensor) -> Tensor:
    """Noise between two noises along a great circle, of each sample (Shoemake 1985): (B, ...) for a
    number, (n, B, ...) for n.

    Args:
        a, b: noises (B, ...).
        share: from 0 (a) to 1 (b), one number or n of them.

    It keeps the norm where both have the same; straight interpolation of independent noises would
    lose 30 % of it. Samples that point the same way are interpolated straight.

    Example:
        >>> import torch
        >>> import odesolve as ode
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> ode.slerp(a, b, 0.5)
        tensor([[0.7071, 0.7071]])
    """
    _check_batches(a=a, b=b)
    if a.shape != b.shape or a.dim() < 2:
        raise OdesolveError(
            f"a is {tuple(a.shape)} and b {tuple(b.shape)}: give two batches (B, ...) of one shape"
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise OdesolveError(
            f"a is {a.dtype} and b {b.dtype}: give real noises, such as torch.view_as_real(a)"
        )
    shares = _shares(share)
    u = a.double().flatten(1)
    v = b.double().flatten(1)
    lengths = (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-300)
    cosine = (u * v).sum(1) / lengths
    angle = torch.acos(cosine.clamp(-1, 1))
    s = shares.reshape(-1, 1).to(a.device)
    straight = angle.sin() < 1e-6
    sine = torch.where(straight, 1.0, angle.sin())
    of_a = torch.where(straight, 1 - s, torch.sin((1 - s) * angle) / sine)
    of_b = torch.where(straight, s, torch.sin(s * angle) / sine)
    between = of_a[..., None] * u + of_b[..., None] * v
    out = between.to(a.dtype).unflatten(2, a.shape[1:])
    return out if shares.dim() else out[0]


@door("ode.interpolate")
@unwatched
@once()
def interpolate(
    model: Model,
    a: Tensor,
    b: Tensor,
    shares: Sequence[float] | Tensor,
    solver: SolverLike = "ddim",
    steps: int | None = None,
    grid: GridLike | None = None,
    **options: Any,
) -> Tensor:
    """Data between two data (B, ...), (n, B, ...) for n shares: both encoded, their noises joined
    by ``slerp``, and decoded.

    Args:
        model: an ``ode.Model``.
        a, b: data (B, ...).
        shares: n numbers, from 0 (a) to 1 (b).
        solver, steps, grid, options: as for ``ode.invert``; deterministic ones.

    Song et al. 2021 (DDIM, section 5.3).

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> a, b = problem.sample(2), problem.sample(2, seed=1)
        >>> ode.interpolate(model, a, b, [0.0, 0.5, 1.0], steps=20).shape
        torch.Size([3, 2, 2])
    """
    _check_batches(a=a, b=b)
    refuse_lost("a or b", (a, b), None)
    shares = _shares(shares).reshape(-1)
    a = a.detach()
    b = b.detach()
    steps = INVERSION if steps is None and not is_listed(grid) else steps
    first, second = (invert(model, x, solver, steps, grid, **options) for x in (a, b))
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    noises = slerp(first, second, shares)
    every = model.rows(torch.arange(len(a)).repeat(len(shares)), len(a))
    state = noises.flatten(0, 1)
    x = sample(every, state=state, solver=solver, steps=steps, grid=grid, **options)
    assert isinstance(x, Tensor)
    return x.view(len(shares), *a.shape)


def _check_batches(**given: object) -> None:
    for name, x in given.items():
        samples(name, x)


def _shares(given: float | Sequence[float] | Tensor) -> Tensor:
    shares = numbers("shares", given, "a number from 0 to 1, or a list of such")
    inside = bool(((shares >= 0.0) & (shares <= 1.0)).all())  # never of NaN
    if shares.dim() > 1 or not inside or isinstance(given, bool) or shares.numel() == 0:
        raise OdesolveError(f"shares are {given!r}: give a number from 0 to 1, or a list of such")
    return shares.detach()
