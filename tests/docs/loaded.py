"""What every example imports."""

import odesolve as ode

ode.objectives  # noqa: B018  (loaded when it is first asked for)
ode.training  # noqa: B018
