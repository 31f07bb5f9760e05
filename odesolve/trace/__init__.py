"""Traces of Jacobians, exact or from a few Jacobian products with a standard error. Likelihoods are
their integrals.

Example:
    >>> import odesolve as ode
    >>> problem = ode.problems.gaussian([1.0, -1.0], std=0.5)
    >>> model = problem.model(ode.paths.VP())
    >>> found = ode.log_prob(model, problem.sample(4), trace=ode.trace.Exact())
    >>> found.trace, found.stderr.tolist()
    ('exact', [0.0, 0.0, 0.0, 0.0])
"""

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
