"""Training objectives: thin losses on the same paths and models that the library samples, profiles
and scores."""

from odesolve.objectives import (
    bridges,
    consistency,
    couplings,
    distillation,
    flow_maps,
    rectified,
    schroedinger,
    times,
)
from odesolve.objectives.bridges import BridgeMatching, Interpolant, ScoreAndFlow, TwoSided
from odesolve.objectives.consistency import (
    Consistency,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
)
from odesolve.objectives.couplings import Independent, OptimalTransport, Sinkhorn
from odesolve.objectives.ddpm import Hybrid, VariationalBound
from odesolve.objectives.diffflow import DiffFlow
from odesolve.objectives.distillation import GuidedDistillation, ProgressiveDistillation, halve
from odesolve.objectives.flow_maps import FlowMap, MeanFlow, Shortcut
from odesolve.objectives.guidance import dropped
from odesolve.objectives.likelihood import MaximumLikelihood
from odesolve.objectives.matching import Matching, Terms
from odesolve.objectives.rectified import balance, pairs, reflow, straightness
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
from odesolve.objectives.trig import TrigConsistency
from odesolve.objectives.uncertainty import Uncertainty

__all__ = [
    "BridgeMatching",
    "Consistency",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "ContinuousConsistency",
    "DenoisingScoreMatching",
    "DiffFlow",
    "Energy",
    "ExplicitScoreMatching",
    "FlowMap",
    "GuidedDistillation",
    "Hybrid",
    "ImplicitScoreMatching",
    "Independent",
    "Interpolant",
    "Levels",
    "Matching",
    "MaximumLikelihood",
    "MeanFlow",
    "OptimalTransport",
    "ProgressiveDistillation",
    "ScoreAndFlow",
    "Shortcut",
    "Sinkhorn",
    "SlicedScoreMatching",
    "Terms",
    "TrigConsistency",
    "TwoSided",
    "Uncertainty",
    "VariationalBound",
    "balance",
    "bridges",
    "consistency",
    "couplings",
    "distillation",
    "dropped",
    "energy",
    "flow_maps",
    "halve",
    "ncsn",
    "pairs",
    "rectified",
    "reflow",
    "schroedinger",
    "straightness",
    "times",
]
