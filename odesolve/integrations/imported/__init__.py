"""Samplers of other libraries as plans. Probes with unit vectors read their coefficients, since
between two network calls they are linear.

print(imported(scheduler, 8)); imported(scheduler, 8).diff(ode.plan("dpmpp_2m", path, grid=...))
"""

from odesolve.integrations.imported.function import imported_function
from odesolve.integrations.imported.scheduler import imported

__all__ = ["imported", "imported_function"]
