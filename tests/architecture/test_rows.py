"""A row that fails fails its test, which says how it is called."""

from __future__ import annotations

import pytest
import torch

from tests.products import LONG
from tests.rows import rows

pytestmark = pytest.mark.skipif(LONG, reason="rows are cases in the long suite")


def test_all_rows_run_and_those_that_fail_are_named():
    seen = []

    @rows("n", [1, 2, 3, 4], ids=["one", "two", "three", "four"])
    def over(n):
        seen.append(n)
        assert n % 2

    with pytest.raises(AssertionError, match=r"(?s)2 of 4 rows fail.*two.*four") as told:
        over()
    assert seen == [1, 2, 3, 4]
    assert "three" not in str(told.value)


def test_what_did_not_raise_fails_too():
    @rows(("base", "n"), [(1, 2), (3, 0)])
    def over(base, n):
        with pytest.raises(ZeroDivisionError):
            base // n

    with pytest.raises(AssertionError, match=r"(?s)1 of 2 rows fail.*DID NOT RAISE"):
        over()


@rows("n", [pytest.param(1, id="one"), 2])
@rows("word", {"a": None, "b": None})
def test_each_row_finds_fixtures_as_they_were(tmp_path, monkeypatch, capsys, n, word):
    assert not list(tmp_path.iterdir())
    (tmp_path / word).mkdir()
    assert not hasattr(torch, "seen")
    monkeypatch.setattr(torch, "seen", n, raising=False)
    assert capsys.readouterr().out == ""
    print(n)
    assert torch.initial_seed() == 0
    torch.manual_seed(n)


def test_skipped_rows_count_for_nothing():
    @rows("n", [1, 2])
    def some(n):
        if n == 1:
            pytest.skip("not here")

    @rows("n", [1, 2])
    def none(n):
        pytest.skip("nowhere")

    some()
    with pytest.raises(pytest.skip.Exception, match="nowhere"):
        none()
