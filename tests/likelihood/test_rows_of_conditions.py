"""Samples with conditions of their own, in calls that hold as many rows as there are samples, but
other ones."""

import pytest
import torch

import odesolve as ode
from odesolve.likelihood import nodes

TWO = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)


@pytest.mark.parametrize("path", [ode.paths.EDM(), ode.paths.VP()], ids=["EDM", "VP"])
def test_one_sample_at_as_many_nodes_as_there_are_samples(path, monkeypatch):
    """Sixteen samples, of which one gets sixteen more nodes: under its own condition, as among
    nineteen."""
    unresolved, seen = nodes.unresolved, []

    def sample_five_is_off(values):
        seen.append(values.shape[1])
        error = torch.zeros_like(unresolved(values))
        return error.index_fill(0, torch.tensor([5]), 1.0) if len(error) > 1 else error

    def net(x, t, by):
        return TWO.data(x - path.alpha(t)[:, None] * by[:, None], path, t) + by[:, None]

    def value(n):
        shift = torch.linspace(0, 3, 19, dtype=torch.float64)[:n]
        model = ode.Model(net, path, "data", time="t", cond={"by": shift})
        return ode.log_prob(
            model, TWO.sample(19, seed=1)[:n] + shift[:, None], trace="exact"
        ).value[:16]

    monkeypatch.setattr(nodes, "unresolved", sample_five_is_off)
    torch.testing.assert_close(value(16), value(19), atol=1e-9, rtol=0)
    assert seen == [16, 1, 19, 1]
