"""What networks are trained by: thin losses on the paths and models that are sampled, profiled and scored here."""

from odesolve.objectives import bridges, couplings, schroedinger, times
from odesolve.objectives.bridges import BridgeMatching, Interpolant, ScoreAndFlow, TwoSided
from odesolve.objectives.couplings import Independent, OptimalTransport, Sinkhorn
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
    "BridgeMatching",
    "DenoisingScoreMatching",
    "DiffFlow",
    "Energy",
    "ExplicitScoreMatching",
    "Hybrid",
    "ImplicitScoreMatching",
    "Independent",
    "Interpolant",
    "Levels",
    "Matching",
    "OptimalTransport",
    "ScoreAndFlow",
    "Sinkhorn",
    "SlicedScoreMatching",
    "Terms",
    "TwoSided",
    "VariationalBound",
    "bridges",
    "couplings",
    "dropped",
    "energy",
    "ncsn",
    "schroedinger",
    "times",
]
