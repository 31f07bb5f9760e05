"""What networks are trained by: thin losses on the paths and models that are sampled, profiled and scored here."""

from odesolve.objectives import couplings, times
from odesolve.objectives.ddpm import Hybrid, VariationalBound
from odesolve.objectives.diffflow import DiffFlow
from odesolve.objectives.guidance import dropped
from odesolve.objectives.matching import Matching, Terms
from odesolve.objectives.score_matching import (
    DenoisingScoreMatching,
    Energy,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    Levels,
    SlicedScoreMatching,
    energy,
    ncsn,
)

__all__ = [
    "DenoisingScoreMatching",
    "DiffFlow",
    "Energy",
    "ExplicitScoreMatching",
    "Hybrid",
    "ImplicitScoreMatching",
    "Levels",
    "Matching",
    "SlicedScoreMatching",
    "Terms",
    "VariationalBound",
    "couplings",
    "dropped",
    "energy",
    "ncsn",
    "times",
]
