"""torchsde's sdeint and sdeint_adjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from odesolve.adjoint.memory import holding
from odesolve.doors.values import real, switch
from odesolve.doors.words import fits
from odesolve.errors import OdesolveError, warn
from odesolve.functions.steadiness import warn_of_training
from odesolve.functions.torch_func import explained, unwatched
from odesolve.integrations.torchsde.gradients import Gradients
from odesolve.integrations.torchsde.methods import REVERSIBLE
from odesolve.integrations.torchsde.problem import SdeintProblem

Scalar = float | Tensor
Result = Any  # states, then a log-ratio with logqp and the solver's state with extra


@fits
@explained
def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    dt: Scalar = 1e-3,
    adaptive: bool = False,
    rtol: Scalar = 1e-5,
    atol: Scalar = 1e-4,
    dt_min: Scalar = 1e-5,
    options: dict[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused_kwargs: Any,
) -> Result:
    """Solve the equation of ``sde`` from y0 as ``torchsde.sdeint`` does; autograd records every
    operation.

    Args:
        sde: has ``noise_type``, ``sde_type`` and methods f(t, y), g(t, y), or g_prod(t, y, v),
            f_and_g(t, y), f_and_g_prod(t, y, v); t has no dimensions. g returns (B, ...) for
            diagonal noise, otherwise (B, ..., m).
        y0: the first state (B, ...), of any shape, real or complex.
        ts: rising times of the output states; the first is that of y0.
        bm: the Brownian motion: a ``BrownianInterval`` or any callable bm(ta, tb); by default noise
            from torch's generator, for a complex y0 complex and circularly symmetric.
        method: euler, milstein (``options={"grad_free": True}``: without derivatives), srk for
            Ito's equations; midpoint, heun, euler_heun, milstein, log_ode, reversible_heun for
            Stratonovich's; with additive noise, where both are the same, any of them. By default
            srk (euler for general noise), or midpoint.
        dt: length of a step; in an adaptive solve, of the first step. States between steps are
            interpolated linearly.
        adaptive, rtol, atol, dt_min: choose steps by comparing each with two halves, see
            ``stochastic.unrolled.Doubling``. An f or g that draws random numbers then raises
            OdesolveError (with steps of ``dt``, dropout in train mode gives a warning).
        names: of methods, by "drift", "diffusion", "prior_drift", "diffusion_prod",
            "drift_and_diffusion", "drift_and_diffusion_prod".
        logqp: also return the log-ratio of the law of paths to that with drift h(t, y), over every
            interval of ts.
        extra: also return the solver's own state at the end, which another call takes as
            ``extra_solver_state``.

    Returns states (T, B, ...); with ``logqp`` then the log-ratios (T - 1, B); with ``extra`` then a
    tuple of tensors. Raises OdesolveError for arguments that cannot be used, Diverged for an
    adaptive solve that meets NaN.
    """
    _tell(unused_kwargs)
    _check(options, names, adaptive=adaptive, logqp=logqp, extra=extra)
    numbers = _numbers(dt=dt, rtol=rtol, atol=atol, dt_min=dt_min)
    problem = SdeintProblem(
        sde, y0, ts, bm, method, adaptive, options, names, logqp, extra_solver_state, **numbers
    )
    _doubt(problem)
    warn_of_training(sde, "sde", noise=not adaptive)
    if adaptive:
        problem.must_be_steady(sde)
    return problem.answer(*problem.solve(), extra)


@fits
@unwatched
@holding
def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Tensor | Sequence[float],
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: Scalar = 1e-3,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: Scalar = 1e-5,
    adjoint_rtol: Scalar = 1e-5,
    atol: Scalar = 1e-4,
    adjoint_atol: Scalar = 1e-4,
    dt_min: Scalar = 1e-5,
    options: dict[str, Any] | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    names: Mapping[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Sequence[Tensor] | None = None,
    **unused_kwargs: Any,
) -> Result:
    """Solve as ``sdeint`` does and store no steps for the gradients, as ``torchsde.sdeint_adjoint``
    does.

    With reversible_heun the gradient is that of the discrete steps, which the backward pass
    retraces (Kidger et al. 2021). With other methods it is that of the equation, by its adjoint in
    Stratonovich's calculus, which Heun's method solves backwards on the same path and steps (Li et
    al. 2020). The backward solve takes the steps of the forward one, those of an adaptive solve
    too: ``adjoint_adaptive``, its tolerances and ``adjoint_options`` have no effect but a warning.
    First derivatives only.

    Args:
        adjoint_method: by default adjoint_reversible_heun after reversible_heun. Any other of
            torchsde's adjoint methods gives the gradient of the equation, after reversible_heun
            with a warning.
        adjoint_params: tensors that get gradients; by default those of the module ``sde``, or all
            that a call of f and g uses. A tensor that f uses and that was computed from others
            beforehand belongs here.

    Everything else is as in ``sdeint``. Raises OdesolveError also for a tensor that f or g use and
    that would get no gradient."""
    _tell(unused_kwargs)
    _check(options, names, adaptive=adaptive, logqp=logqp, extra=extra)
    numbers = _numbers(dt=dt, rtol=rtol, atol=atol, dt_min=dt_min)
    _numbers(adjoint_rtol=adjoint_rtol, adjoint_atol=adjoint_atol)
    problem = SdeintProblem(
        sde, y0, ts, bm, method, adaptive, options, names, logqp, extra_solver_state, **numbers
    )
    _doubt(problem)
    warn_of_training(sde, "sde", noise=False)
    problem.must_be_steady(sde)
    if adjoint_adaptive:
        warn("adjoint_adaptive has no effect: the backward solve takes the forward solve's steps")
    if adjoint_options:
        warn(f"adjoint_options={adjoint_options!r} have no effect: leave them out")
    gradients = Gradients(problem, adjoint_method, sde, adjoint_params)
    if problem.name == REVERSIBLE and not gradients.exact:
        warn(
            f"method={REVERSIBLE!r} with adjoint_method={adjoint_method!r} gives the gradient of "
            "the equation: that of the "
            "steps, to rounding, is made without adjoint_method"
        )
    return problem.answer(*gradients.solve(), extra)


def _tell(unused: Mapping[str, Any]) -> None:
    if unused:
        warn(f"arguments without effect: {', '.join(unused)}")


def _check(options: Any, names: Any, **switches: Any) -> None:
    for name, given in (("options", options), ("names", names)):
        if not isinstance(given, Mapping | None):
            raise OdesolveError(f"{name}={given!r}: give a dict, or None")
    for name, given in switches.items():
        switch(name, given)


def _doubt(problem: SdeintProblem) -> None:
    """Warn of what no step can detect: adaptive steps may lead an Euler solve to another limit
    (Gaines and Lyons 1997)."""
    if (
        problem.control is not None
        and problem.name == "euler"
        and problem.form.noise_type != "additive"
    ):
        better = "" if problem.form.noise_type == "general" else "method='milstein' or 'srk', or "
        warn(
            "adaptive steps of the Euler-Maruyama method with non-additive noise need not "
            "converge to the solution: "
            f"give {better}adaptive=False"
        )


def _numbers(**given: Scalar) -> dict[str, float]:
    out = {}
    for name, value in given.items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise OdesolveError(f"{name} requires gradients: give a number, or {name}.detach()")
        least = 0.0 if name in ("dt", "dt_min") else -1.0
        out[name] = real(name, value, "a positive number", 0.0, above=least)
    return out
