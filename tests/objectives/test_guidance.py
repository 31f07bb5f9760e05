"""Conditions that are left out, and the guided model that follows."""

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.objectives.guidance import dropped
from tests.rows import rows


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_share_of_the_samples_loses_all_its_conditions():
    label, text = torch.arange(10_000) % 9 + 1, torch.ones(10_000, 2, 3)
    out = dropped(
        {"label": label, "text": text}, {"label": 0, "text": torch.zeros(1, 2, 3)}, 0.2, generator()
    )
    gone = out["label"] == 0
    assert abs(float(gone.double().mean()) - 0.2) < 4 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(out["text"][:, 0, 0] == 0, gone)
    assert torch.equal(out["label"][~gone], label[~gone])
    assert out["label"].dtype == label.dtype
    again = dropped({"label": label}, {"label": 0}, 0.2, generator())
    assert torch.equal(again["label"], out["label"])
    assert torch.equal(dropped({"label": label}, {"label": 0}, 0.0, generator())["label"], label)
    assert not dropped({"label": label}, {"label": 0}, 1.0, generator())["label"].any()


@rows(
    ("cond", "null", "share", "told"),
    [
        ({"a": torch.ones(3)}, {"b": 0}, 0.1, "the same names"),
        ({}, {}, 0.1, "at least one"),
        ({"a": torch.ones(3)}, {"a": 0}, 1.1, "at least 0 and at most 1"),
        ({"a": torch.ones(3), "b": torch.ones(2)}, {"a": 0, "b": 0}, 0.1, r"have \[3, 2\] rows"),
        ({"a": torch.ones(2), "b": ["x"]}, {"a": 0, "b": ""}, 0.1, r"have \[2, 1\] rows"),
        ({"a": 3}, {"a": 0}, 0.1, "give"),
        ({"a": torch.ones(3, 2)}, {"a": torch.ones(1, 5)}, 0.1, "give one kind"),
    ],
)
def test_at_the_door(cond, null, share, told):
    with pytest.raises(ode.OdesolveError, match=told):
        dropped(cond, null, share)


@rows("kind", [list, tuple])
def test_captions_go_with_the_rest_of_their_samples(kind):
    label, words = torch.arange(1000) + 1, kind(f"row {k}" for k in range(1000))
    out = dropped(
        {"label": label, "text": {"words": words}},
        {"label": 0, "text": {"words": ""}},
        0.2,
        generator(),
    )
    assert type(out["text"]["words"]) is kind
    assert list(out["text"]["words"]) == [
        f"row {v - 1}" if v else "" for v in out["label"].tolist()
    ]
    assert 150 < int((out["label"] == 0).sum()) < 250
    alone = dropped(
        {"label": label, "words": words}, {"label": 0, "words": None}, {"words": 0.5}, generator()
    )
    assert torch.equal(alone["label"], label)
    assert 400 < sum(v is None for v in alone["words"]) < 600


def test_one_network_learns_both():
    """Two Gaussians N(+-1, s^2): with a table of one line per label the minimiser is each one's
    exact noise prediction, and without a label that of their mixture's best line."""
    path, t, s = ode.paths.VP(), 0.5, 0.4
    p = path.point(t)

    class Lines(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ab = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))

        def forward(self, x, t, label):
            a, b = self.ab[label].unbind(1)
            return a[:, None] * x + b[:, None]

    net = Lines()
    objective = Matching(ode.Model(net, path, "noise"))
    n = 100_000
    label = torch.arange(n) % 2 + 1
    x = (2.0 * label - 3.0)[:, None] + s * torch.randn(
        n, 1, dtype=torch.float64, generator=generator(1)
    )
    cond = dropped({"label": label}, {"label": 0}, 0.3, generator(2))
    optimiser = torch.optim.LBFGS(
        net.parameters(), lr=1.0, max_iter=50, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = objective(
            x, t=torch.full((n,), t, dtype=torch.float64), cond=cond, generator=generator(3)
        ).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    for k, mean, var in ((1, -1.0, s**2), (2, 1.0, s**2), (0, 0.0, s**2 + 1.0)):
        slope = p.sigma / (p.alpha**2 * var + p.sigma**2)
        found = net.ab[k].detach()
        assert abs(float(found[0]) - slope) < 2e-2
        assert abs(float(found[1]) + slope * p.alpha * mean) < 2e-2
