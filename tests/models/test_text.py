"""A model says how it reads its network, as one types it."""

from __future__ import annotations

import torch

import odesolve as ode
from odesolve.wiring.readings import Wiring
from tests.rows import rows

P = ode.paths


def net(x, t, y=None):
    return 0.5 * x


def mine(path, t):
    return 3.0 * t


MADE = [
    'ode.Model(net, ode.paths.VP(), predicts="noise")',
    'ode.Model(net, ode.paths.VP(beta_max=10), predicts="v")',
    'ode.Model(net, ode.paths.Linear().flipped(), predicts="velocity", time_scale=1000)',
    'ode.Model(net, ode.paths.Discrete.ddpm(), predicts="noise")',
    'ode.Model(net, ode.paths.Discrete.ddpm(), predicts="noise", time="t", time_scale=999, '
    "snap=False)",
    'ode.Model(net, ode.paths.EDM(), predicts="edm")',
    'ode.Model(net, ode.paths.EDM(), predicts="edm", sigma_data=0.25)',
    'ode.Model(net, ode.paths.EDM(), predicts="data", time="sigma", input_scale="edm", '
    "sigma_data=1)",
    'ode.Model(net, ode.paths.VE(), predicts="score", time=mine)',
    'ode.Model(net, ode.paths.VP(), predicts="noise", dtype=torch.float16, clip=1)',
    'ode.Model(net, ode.paths.VP(), predicts="noise", threshold=0.995)',
    'ode.Model(net, ode.paths.VP(), predicts="noise", clip=2, threshold=0.995)',
    'ode.Model(net, ode.paths.VP(), predicts="noise", learned_variance=True)',
    'ode.Model(net, ode.paths.VP(), predicts="noise").given(y=...)',
    'ode.Model(net, ode.paths.VP(), predicts="noise").given(y=...).guided(3, uncond=dict(y=...))',
    'ode.Model(net, ode.paths.VP(), predicts="v").given(y=...).guided(3.5, uncond=dict(y=...), '
    "rescale=0.7, interval=(0, 0.9))",
    'ode.Model(net, ode.paths.VP(), predicts="noise").guided(scales, uncond=dict(y=...))',
    'ode.Model(net, ode.paths.VP(), predicts="noise").guided(scale_of_t, uncond=dict(y=...))',
    'ode.Model(net, ode.paths.VP(), predicts="noise").classifier_guided(log_prob, 2)',
    'ode.Model(net, ode.paths.VP(), predicts="noise").classifier_guided(log_prob, scales)',
    'ode.Model(net, ode.paths.VP(), predicts="noise").inpainted(known, mask)',
]
NAMES = {
    "ode": ode,
    "torch": torch,
    "net": net,
    "mine": mine,
    "scales": torch.tensor([1.0, 2.0]),
    "scale_of_t": lambda t: 1.0 + t,
    "log_prob": lambda x, t: x.sum(1),
    "known": torch.zeros(2, 3),
    "mask": torch.ones(2, 3),
}


@rows("typed", MADE)
def test_what_is_told_makes_the_same_text(typed):
    assert repr(eval(typed, NAMES)) == typed


def test_dtype_is_told_where_it_is_not_the_networks():
    network = torch.nn.Linear(2, 2).double()
    assert "dtype" not in repr(ode.Model(lambda x, t: network(x), P.VP(), "noise"))
    assert "dtype" not in repr(ode.Model(network, P.VP(), "noise"))
    assert "dtype=torch.float32" in repr(ode.Model(network, P.VP(), "noise", dtype=torch.float32))


def test_a_check_tells_a_wiring_in_the_same_words():
    for typed in MADE[:9]:
        model = eval(typed, NAMES)
        assert str(Wiring.of(model)) == typed.replace(", snap=False", "")
