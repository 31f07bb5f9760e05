"""Intervals of Student's t with K - 1 degrees hold the truth as often as they say: 1000 trials,
binomial tests."""

import torch
from scipy import stats

from odesolve import trace
from tests.rows import rows

from .fields import estimates, linear, matrix, on_digits

TRIALS = 1000
DIM = 48
ESTIMATORS = [
    trace.Hutchinson(12),
    trace.Hutchinson(12, "gaussian"),
    trace.Hutchinson(12, "orthogonal"),
    trace.HutchPP(24),
    trace.XTrace(24),
]


def covered(values, exact, level):
    """How many of the intervals hold the trace."""
    k = values.shape[1]
    reach = stats.t.ppf(0.5 + 0.5 * level, k - 1) * values.std(1) / k**0.5
    return int(((values.mean(1) - exact).abs() <= reach).sum())


@rows("level", [0.9, 0.95])
@rows("estimator", ESTIMATORS, ids=str)
def test_score_of_a_gaussian(estimator, level):
    """The Jacobian of the score is -C^-1, C dense."""
    precision = matrix(torch.linspace(0.5, 2.0, DIM, dtype=torch.float64), seed=5)
    x = torch.zeros(1, DIM, dtype=torch.float64)
    values = estimates(estimator, linear(-precision), x, TRIALS)
    hits = covered(values, -precision.trace(), level)
    assert stats.binomtest(hits, TRIALS, level).pvalue > 1e-3


@rows("estimator", ESTIMATORS, ids=str)
def test_digits_at_high_noise(estimator):
    """At noise 3 many directions share the trace."""
    hits = covered(*on_digits(estimator, 3.0, TRIALS // 250, 250), 0.9)
    assert stats.binomtest(hits, TRIALS, 0.9).pvalue > 1e-3


@rows("estimator", ESTIMATORS, ids=str)
def test_digits_where_few_directions_decide(estimator):
    """At noise 1 the estimates are skewed, as squares of few normals are: t's intervals of 0.9 hold
    0.86 to 0.89."""
    hits = covered(*on_digits(estimator, 1.0, TRIALS // 250, 250), 0.9)
    assert stats.binomtest(hits, TRIALS, 0.86, "less").pvalue > 1e-3
