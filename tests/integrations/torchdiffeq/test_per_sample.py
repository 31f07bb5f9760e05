"""options=dict(per_sample=True): every sample has steps of its own, and does not see the others."""

import pytest
import torch

from odesolve.errors import OdesolveError

from .problems import Field, gap, ours, theirs

T = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
OWN = {"per_sample": True}
RATES = torch.tensor([[1.0], [80.0]], dtype=torch.float64)


class Relax(torch.nn.Module):
    """y' = -rate (y - cos t), rate in the state; counts the rows it is called on."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, t, y):
        self.rows += y.shape[0] if y.dim() > 1 else 1
        rate, x = y[..., :1], y[..., 1:]
        return torch.cat([torch.zeros_like(rate), -rate * (x - torch.cos(t))], -1)


def rows(lib, y0, **options):
    f = Relax()
    with torch.no_grad():
        y = lib.odeint(f, y0, T, rtol=1e-6, atol=1e-8, options=options)
    return f.rows, y


def test_an_easy_sample_costs_what_it_costs_alone():
    y0 = torch.cat([RATES, torch.zeros_like(RATES)], 1)
    alone, value = rows(ours, y0[:1], **OWN)
    stiff, _ = rows(ours, y0[1:], **OWN)
    both, values = rows(ours, y0, **OWN)
    assert both <= alone + stiff + 12
    assert torch.equal(values[:, 0], value[:, 0])  # to the bit, whatever is solved beside it
    peer_alone, peer_value = rows(theirs, y0[:1])
    peer, peer_values = rows(theirs, y0)
    assert peer > 2 * peer_alone + 2 * stiff * 0.8
    assert not torch.equal(peer_values[:, 0], peer_value[:, 0])


def test_func_gets_a_time_for_each():
    seen = set()
    f = lambda t, y: seen.add(tuple(t.shape)) or -y
    ours.odeint(f, torch.ones(4, 3, 2).double(), T, options=OWN)
    assert seen == {(4, 1, 1)}


@pytest.mark.few(2)
@pytest.mark.parametrize("odeint", [ours.odeint, ours.odeint_adjoint])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_gradients(odeint, direction):
    found = []
    for options in (OWN, {}):
        f = Field()
        y0 = f.start(3).requires_grad_()
        y = odeint(f, y0, direction * T, rtol=1e-10, atol=1e-11, options=options, **back(odeint))
        found.append((y, *torch.autograd.grad(y[-1].square().sum(), (y0, *f.parameters()))))
    assert gap(*(x[0] for x in found)) < 1e-8
    assert gap(*(x[1:] for x in found)) < 1e-6


def back(odeint):
    return {"adjoint_options": {}} if odeint is ours.odeint_adjoint else {}


def test_failures_name_the_sample():
    f = lambda t, y: y * y
    with torch.no_grad(), pytest.raises(ours.Failed, match="Sample 1") as caught:
        ours.odeint(f, torch.tensor([[0.1], [2.0]]).double(), T, options=OWN)
    assert caught.value.t == pytest.approx(0.5, abs=1e-5)


def test_refused():
    f, y0 = Field(), Field().start()
    with pytest.raises(OdesolveError, match="takes no min_step"):
        ours.odeint(f, y0, T, options={**OWN, "min_step": 0.1})
    with pytest.raises(OdesolveError, match="no event_fn and no norm"):
        ours.odeint(f, y0, T, options={**OWN, "norm": lambda y: y.abs().max()})
    with pytest.raises(OdesolveError, match="no event_fn and no norm"):
        ours.odeint(f, y0, T[:2], options=OWN, event_fn=lambda t, y: y.sum())
    with pytest.warns(UserWarning, match="rk4 ignores the options"):
        ours.odeint(f, y0, T, method="rk4", options=OWN)
