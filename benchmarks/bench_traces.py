"""One evaluation of a network with the products of a trace estimator, beside the evaluation alone.

What the estimators find, and how well, is measured by ``traces.py``.
"""

from __future__ import annotations

import pytest
import torch
from timing import OURS, Case
from torch import nn
from traces import NAMES

from odesolve import trace
from odesolve.noise.keys import keys_of

TESTS = ("tests/trace",)
PRODUCTS = 24
NETWORKS = {"mlp": (64, 64), "convolutions": (4, 3, 16, 16)}


@pytest.mark.parametrize("contender", [OURS, "forward alone"])
@pytest.mark.parametrize("estimator", ["exact", "exact, forward mode", *NAMES])
@pytest.mark.parametrize("network", NETWORKS)
def bench_products(in_turn, estimator, network):
    """Every estimator on two small networks."""
    in_turn(_evaluations, estimator, network)


def _network(name: str) -> nn.Module:
    if name == "mlp":
        layers = [nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64)]
        return nn.Sequential(*layers)
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))


def _estimator(name: str) -> trace.Estimator:
    if name.startswith("exact"):
        return trace.Exact("forward") if "forward" in name else trace.Exact()
    return trace.named(name, 10**9, PRODUCTS)


def _evaluations(estimator: str, network: str) -> Case:
    net, x = _network(network), torch.randn(NETWORKS[network])
    probes = _estimator(estimator).begin(x, keys_of(len(x), 0, None, x.device))
    return Case(contenders={OURS: lambda: probes(net, x), "forward alone": lambda: net(x)})
