"""Log-densities of data: from a model, or a velocity and a base, to a value with its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from odesolve import trace as traces
from odesolve.adjoint.memory import holding
from odesolve.doors.keywords import door
from odesolve.functions.graphs import refuse_lost
from odesolve.functions.torch_func import unwatched
from odesolve.likelihood.density import DensityOptions, density
from odesolve.likelihood.result import LogProb
from odesolve.methods.pairs import Pair
from odesolve.model.model import Model
from odesolve.noise.keys import Ids
from odesolve.planning.planner import GridLike
from odesolve.plans.plan import Plan


@door("ode.log_prob")
@unwatched
@holding
def log_prob(
    model: Model | Callable[..., Tensor],
    x: Tensor,
    *,
    t: tuple[float, float] | None = None,
    base: Any = None,
    trace: str | traces.Estimator = "auto",
    products: int = 16,
    seed: int | None = None,
    ids: Ids | None = None,
    tol: float | None = None,
    divergence: str | None = None,
    solver: str | Pair | None = None,
    max_calls: int | None = 10_000,
    steps: int | None = None,
    grid: GridLike | None = None,
    of: str = "flow",
    plan: Plan | None = None,
    check: bool | None = None,
    control: str | None = None,
    adjoint: str | None = None,
    params: Sequence[Tensor] | None = None,
    args: Sequence[Any] = (),
    progress: bool | None = None,
    batch: int | None = None,
) -> LogProb:
    """Log-density of data under a model's probability-flow ODE, or under a velocity that carries
    the data to a base density.

    log p(x) = log base(x(T)) + integral of div v along dx/dt = v from the data to T (Chen et al.
    2018; Song et al. 2021, eq. 39).

    Args:
        model: an ``ode.Model``: the density is that of x0 + rho eps, the data with the small noise
            of the first time. Or a function f(t, x, *args) as ``ode.solve`` takes it (t of shape
            (B, 1, ..., 1)), together with ``t`` and ``base``.
        x: data (B, ...).
        t: the times of the data and of the base. A model's are those of its path: by default
            ``t_min``, or the data's end where the path has noise there, to the noise end.
        base: for a model, a prior other than N(0, prior_std^2 I); for a velocity, the density at
            t[1]: "normal" (the default), an object with ``log_prob``, or a function of the latent
            (B, ...) to (B,).
        trace: "auto", "exact", "hutchinson", "gaussian", "orthogonal", "fourier", "hutchpp",
            "xtrace", or an ``odesolve.trace`` estimator. "auto" is exact for up to 4 numbers per
            product; otherwise a pilot at two states of a crude flow chooses for every sample the
            one of "fourier" and "xtrace" with the smaller error (``trace.Auto``). With as many
            products as numbers, all of them are exact.
        products: Jacobian products per evaluation that an estimator may take.
        seed, ids: of the probes, as for ``ode.sample``; the probes of a sample stay the same along
            its trajectory.
        tol: the approximate error of the solver in nats; by default 1e-3 where the trace is exact,
            1e-2 otherwise.
        divergence: "nodes" evaluates it at quadrature nodes, separately from the solve of the state
            (models; the default), "along" integrates it with the state (the default for velocities
            and gradients).
        solver: an adaptive solver of ``ode.solve``, dopri5 by default; "picard" solves a model's
            state at all nodes at once, in some ten rounds of batched calls (``likelihood.picard``);
            with ``steps`` a sampler of ``ode.solvers()`` for a model, an explicit Runge-Kutta
            method for a velocity.
        max_calls: network evaluations that the solve of a sample's state may take before it ends
            with the status "max_calls" (a value of NaN, and the last state as the latent). The
            divergence is evaluated at most 513 times more, at its nodes.
        steps, grid: a fixed grid instead of a tolerance.
        of: "flow", or "plan": the exact density of the map that a sampler of a few steps defines,
            for ``solver``, ``steps`` and ``grid``, or ``plan``.
        plan: a ready plan of this model: from data to noise for the flow, in either direction for
            of="plan".
        check: estimate the error of a divergence "along" by a second, coarser solve; by default,
            except with gradients or ``steps``.
        control: "sample", every sample's own steps, the default; or "batch", one step and one time
            for all, for functions and networks that read one time for the whole batch, as t[0] (a
            function that wants a number gets one). Nodes are then evaluated one per call.
        adjoint: "backprop", "continuous" or "reversible": gradients of the value, see
            ``ode.solve``; ``params`` as there. For a model on a fixed grid, "backprop" is
            autograd's own: gradients by everything that requires them, with memory for every step.
        args: further arguments of f.
        progress: show a bar on long solves.
        batch: solve at most this many samples at once, chunk after chunk, for memory; conditions
            and tensors in ``args`` with one value per sample are divided in the same way. At nodes
            and on fixed grids the densities are bitwise those of one batch, if a row of the
            network's output does not depend on the others; otherwise they agree within their
            errors, as steps are chosen anew.

    log_prob makes the first network call twice, which counts in ``nfe``, and raises OdesolveError
    for different results, as from dropout in train mode. Where calls hold several times, it also
    raises for a network whose output for a sample depends on the times of others: three evaluations
    per sample test that, unless ``control="batch"`` or ``steps`` give all samples one time.

    Where the latents cannot come from the base (a wrong base, data in another scale), it warns, and
    says so in ``notes``; but not for a base that is a function, and not with gradients, as for a
    flow in training.

    Returns a ``LogProb``, in nats; of="plan" a ``PlanDensity``, with the smallest singular value of
    the map's Jacobian. Raises OdesolveError for arguments that cannot be used.

    Example:
        >>> import odesolve as ode
        >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
        >>> model = problem.model(ode.paths.VP())
        >>> x = problem.sample(4)
        >>> found = ode.log_prob(model, x)
        >>> bool((found.value - problem.log_prob(x)).abs().max() < 1e-2)
        True
    """
    options = DensityOptions(
        t=t,
        base=base,
        trace=trace,
        products=products,
        seed=seed,
        ids=ids,
        tol=tol,
        divergence=divergence,
        solver=solver,
        max_calls=max_calls,
        steps=steps,
        grid=grid,
        of=of,
        plan=plan,
        check=check,
        control=control,
        adjoint=adjoint,
        params=params,
        args=args,
        progress=progress,
    )
    refuse_lost("x", x, adjoint)
    return density(model, x, options, batch)
