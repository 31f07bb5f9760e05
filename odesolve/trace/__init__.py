"""Traces of Jacobians, exactly or from a few Jacobian products with a standard error, which likelihoods are integrals of."""

from odesolve.trace.choice import named
from odesolve.trace.exact import Exact
from odesolve.trace.hutchinson import Hutchinson
from odesolve.trace.hutchpp import HutchPP
from odesolve.trace.linearised import Field
from odesolve.trace.protocol import Estimator, Probes
from odesolve.trace.xtrace import XTrace

__all__ = ["Estimator", "Exact", "Field", "HutchPP", "Hutchinson", "Probes", "XTrace", "named"]
