"""Traces of Jacobians, exact or from a few Jacobian products with a standard error. Likelihoods are
their integrals."""

from odesolve.trace.auto import Auto, AutoProbes
from odesolve.trace.choice import named
from odesolve.trace.exact import Exact
from odesolve.trace.fourier import Fourier
from odesolve.trace.hutchinson import Hutchinson
from odesolve.trace.hutchpp import HutchPP
from odesolve.trace.linearised import Field
from odesolve.trace.protocol import Estimator, Probes, name_of
from odesolve.trace.xtrace import XTrace

__all__ = [
    "Auto",
    "AutoProbes",
    "Estimator",
    "Exact",
    "Field",
    "Fourier",
    "HutchPP",
    "Hutchinson",
    "Probes",
    "XTrace",
    "name_of",
    "named",
]
