"""Adaptive steps: error norms, control, dense output and events, with a step of its own for every
sample."""

from odesolve.ode.controller import Controller as Controller
