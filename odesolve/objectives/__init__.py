"""What networks are trained by: thin losses on the paths and models that are sampled, profiled and scored here."""

from odesolve.objectives import times
from odesolve.objectives.matching import Matching, Terms

__all__ = ["Matching", "Terms", "times"]
