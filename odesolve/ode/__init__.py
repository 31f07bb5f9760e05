"""Initial-value problems. Steps by a tolerance, of every sample's own: error norms, control, dense
output and events; and steps of one size."""

from odesolve.ode.controller import Controller as Controller
