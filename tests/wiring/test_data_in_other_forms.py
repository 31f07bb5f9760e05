"""Data that are no tensor say what to type for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import odesolve as ode
from odesolve.errors import OdesolveError
from tests.rows import rows

MODEL = ode.Model(lambda x, t: x, ode.paths.VP(), "noise")
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
STACK = "torch.stack([torch.as_tensor(x) for x in data])"
FORMS = [
    (lambda: list(X), f"data is list: give {STACK}"),
    (lambda: tuple(X), f"data is tuple: give {STACK}"),
    (lambda: (X, torch.zeros(8)), "data is tuple: give the samples in it, such as data[0]"),
    (lambda: {"pixels": X}, "data is dict: give the samples in it, such as data['pixels']"),
    (
        lambda: DataLoader(TensorDataset(X), 4),
        "data is DataLoader: give one batch of it, such as next(iter(data))",
    ),
    (
        lambda: DataLoader(X, 4),
        "data is DataLoader: give one batch of it, such as next(iter(data))",
    ),
    (lambda: TensorDataset(X), "data is TensorDataset: give torch.stack([data[i]"),
    (lambda: iter([X]), "give one batch of it, such as next(iter(data))"),
    (lambda: (x for x in X), "give one batch of it, such as next(iter(data))"),
    (lambda: "digits.npy", "data is str: give what the file holds, np.load('digits.npy')"),
    (lambda: "digits.npz", "data is str: give what the file holds, np.load('digits.npz')['x']"),
    (
        lambda: Path("digits.pt"),
        "give what the file holds, such as np.load('digits.pt') or torch.load('digits.pt')",
    ),
    (lambda: b"digits", "data is bytes: give a tensor or array of samples"),
    (object, "data is object: give a tensor or array of samples"),
]


@rows(("make", "said"), FORMS)
def test_it_says_what_to_type(make, said):
    with pytest.raises(OdesolveError) as told:
        ode.check(MODEL, make())
    assert said in str(told.value)
    assert str(told.value).endswith("(N, ...)")


def test_what_it_says_can_be_typed():
    for data, typed in ((list(X), STACK), (DataLoader(X, 8), "next(iter(data))")):
        assert torch.equal(eval(typed, {"torch": torch, "data": data}), X)


@rows("data", [X, X.numpy(), X.tolist(), np.asarray(X)])
def test_rows_of_numbers_are_data(data):
    assert ode.check(MODEL, data, seconds=0.01).status
