"""Modules that moved are found by the names that they had."""

from __future__ import annotations

import importlib
import pickle

import pytest

from odesolve.aliases import MOVED
from tests.rows import rows


@rows("old", sorted(MOVED))
def test_an_old_name_is_the_module_itself(old):
    module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_what_pages_told_users_to_import():
    from odesolve.adaptive import Controller
    from odesolve.keys import keys_of
    from odesolve.tableaus import RK4

    assert pickle.loads(pickle.dumps(Controller)) is Controller
    assert keys_of.__module__ == "odesolve.noise.keys"
    assert RK4.order == 4


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"odesolve\.nowhere"):
        importlib.import_module("odesolve.nowhere")
