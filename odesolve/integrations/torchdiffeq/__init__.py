"""torchdiffeq 0.2.5's functions, answered by this library: change the import, keep the calls
(docs/from-torchdiffeq.md)."""

from odesolve.integrations.torchdiffeq.adjoint import odeint_adjoint as odeint_adjoint
from odesolve.integrations.torchdiffeq.errors import Failed as Failed
from odesolve.integrations.torchdiffeq.errors import Refused as Refused
from odesolve.integrations.torchdiffeq.event import odeint_event as odeint_event
from odesolve.integrations.torchdiffeq.odeint import odeint as odeint
from odesolve.integrations.torchdiffeq.odeint import odeint_dense as odeint_dense
