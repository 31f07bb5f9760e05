"""The progress bar: on request, or by itself on a terminal when a solve takes longer than a
second."""

from __future__ import annotations

import torch

import odesolve as ode
from odesolve import paths

MODEL = ode.Model(lambda x, t: 0.3 * x, paths.VP(), "v")


def solve(**options):
    return ode.sample(MODEL, torch.ones(2, 3), "dpmpp_2s", 5, "lambda", **options)


def test_bar_counts_network_calls(capsys):
    shown = solve(progress=True)
    assert "/9 " in capsys.readouterr().err
    assert torch.equal(shown, solve(progress=False))


def test_no_bar_without_a_terminal(capsys):
    solve()
    solve(progress=False)
    assert capsys.readouterr().err == ""
