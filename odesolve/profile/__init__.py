"""Work-precision profiles: each sampler's error at each budget of network evaluations, on a user's
own model."""

from odesolve.planning.labels import parse_grid, parse_solver
from odesolve.profile.candidates import Candidate
from odesolve.profile.measure import profile
from odesolve.profile.reference import Certificate, Reference, certified
from odesolve.profile.result import Parallel, Profile, Row

__all__ = [
    "Candidate",
    "Certificate",
    "Parallel",
    "Profile",
    "Reference",
    "Row",
    "certified",
    "parse_grid",
    "parse_solver",
    "profile",
]
