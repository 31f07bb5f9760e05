"""Schemes for dx = f(x, t) dt + g(t) dW with additive noise, over anything that has + and * by a
number.

One step of length h from x at t. ``w`` is the increment of the Brownian motion over the step
(variance h), ``a`` its space-time Levy area: the mean of the path minus its chord, of variance h/12
and independent of w. ``f(x, t)`` gives the drift, ``g(t)`` the diffusion; both may be called inside
the step. t may run in either direction: h carries the sign, w does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Drift = Callable[[Any, Any], Any]
Diffusion = Callable[[Any], Any]


def euler_maruyama(
    x: Any,
    f: Drift,
    g: Diffusion,
    t: Any,
    h: Any,
    w: Any,
) -> Any:
    """The state after an Euler-Maruyama step: strong order 1 for additive noise, weak order 1
    (Maruyama 1955)."""
    return x + h * f(x, t) + g(t) * w


def stochastic_heun(
    x: Any,
    f: Drift,
    g: Diffusion,
    t: Any,
    h: Any,
    w: Any,
) -> Any:
    """The state after a step of Heun's method, drift and diffusion averaged over both ends: strong
    order 1, weak order 2.

    With additive noise the Ito and the Stratonovich equation are the same, so it needs no
    correction (Rumelin 1982)."""
    g0 = g(t)
    g1 = g(t + h)
    f0 = f(x, t)
    f1 = f(x + h * f0 + g0 * w, t + h)
    return x + (0.5 * h) * (f0 + f1) + (0.5 * (g0 + g1)) * w


def sra1(
    x: Any,
    f: Drift,
    g: Diffusion,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Any:
    """The state after a step of SRA1: strong order 1.5, weak order 2, two drifts (Rossler 2010).

    Its integral of s dW over the step is h (w/2 + a); a time-dependent diffusion adds the last
    term."""
    g0 = g(t)
    g1 = g(t + h)
    j = 0.5 * w + a
    f0 = f(x, t)
    f1 = f(x + (0.75 * h) * f0 + (1.5 * g1) * j, t + 0.75 * h)
    return x + h * ((1 / 3) * f0 + (2 / 3) * f1) + g1 * w + (g0 - g1) * j


def shark(
    x: Any,
    f: Drift,
    g: Diffusion,
    t: Any,
    h: Any,
    w: Any,
    a: Any,
) -> Any:
    """The state after a step of ShARK: strong order 1.5, weak order 2, two drifts (Foster, dos
    Reis, Strange 2023, eq. 6.1).

    Its first stage lies at t, moved by the area.
    """
    g0 = g(t)
    g1 = g(t + h)
    start = x + g0 * a
    f0 = f(start, t)
    f1 = f(start + (5 / 6) * (h * f0 + g0 * w), t + (5 / 6) * h)
    return x + h * (0.4 * f0 + 0.6 * f1) + (0.5 * (g0 + g1)) * w + (g0 - g1) * a
