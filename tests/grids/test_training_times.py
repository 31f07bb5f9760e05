"""Grids moved onto a table's training times: distinct integers for every number of steps that
fits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from odesolve import grids, paths
from odesolve.errors import OdesolveError

DDPM = paths.Discrete.ddpm()


def indices(times, path):
    total = path.training_steps
    if path.t_noise < path.t_data:
        times = [path.t_max - t for t in times]
    index = [t * total for t in times]
    assert index == pytest.approx([round(i) for i in index], abs=1e-10)
    return [round(i) for i in index]


@pytest.mark.few(4)
@pytest.mark.parametrize("name", grids.NAMED)
def test_every_number_of_steps_gives_distinct_training_times(name):
    for n in [*range(1, 60), *range(60, 1000, 47), 997, 998, 999, 1000]:
        *steps, end = indices(grids.make(grids.named(name), DDPM, n, snap=True), DDPM)
        assert end == 0
        assert len(steps) == n
        assert all(a > b for a, b in pairwise(steps))
        assert 1 <= steps[-1] <= steps[0] <= 1000


@pytest.mark.parametrize("name", grids.NAMED)
def test_flipped_table_gets_the_same_levels(name):
    for n in (1, 2, 10, 333, 1000):
        want = indices(grids.make(grids.named(name), DDPM, n, snap=True), DDPM)
        assert (
            indices(grids.make(grids.named(name), DDPM.flipped(), n, snap=True), DDPM.flipped())
            == want
        )


@pytest.mark.parametrize("name", grids.NAMED)
def test_more_steps_than_training_times_are_refused(name):
    with pytest.raises(OdesolveError, match="1001 steps on a table of 1000 training times: give"):
        grids.make(grids.named(name), DDPM, 1001, snap=True)


def test_all_training_times_are_used_when_there_are_as_many_steps():
    for name in grids.NAMED:
        assert indices(grids.make(grids.named(name), DDPM, 1000, snap=True), DDPM) == list(
            range(1000, -1, -1)
        )


def test_a_list_of_the_users_is_snapped_in_both_directions():
    down = grids.make(grids.named([0.9004, 0.5, 0.4996, 0.0]), DDPM, None, snap=True)
    assert indices(down, DDPM) == [900, 500, 499, 0]
    up = grids.make(grids.named([0.0, 0.4996, 0.5, 0.9004]), DDPM, None, snap=True)
    assert up == down[::-1]


def test_a_list_without_the_data_end_stays_on_training_times():
    assert indices(
        grids.make(grids.named([0.01, 0.0021, 0.0019, 0.0001]), DDPM, None, snap=True), DDPM
    ) == [
        10,
        3,
        2,
        1,
    ]


def test_no_snapping_on_a_continuous_path():
    assert grids.make(grids.named([0.9004, 0.5]), paths.VP(), None, snap=True) == (0.9004, 0.5)


@pytest.mark.parametrize("total", [1, 2, 10, 100, 999])
def test_short_tables(total):
    path = paths.Discrete([1 - (i + 1) / (total + 1) for i in range(total)])
    # whose default epsilon asks for a wider range of noise
    for name in grids.NAMED.keys() - {"vp_time"}:
        for n in {1, (total + 1) // 2, total}:
            index = indices(grids.make(grids.named(name), path, n, snap=True), path)
            assert len(set(index)) == n + 1
            assert index[-1] == 0
