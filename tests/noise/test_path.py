"""Brownian paths: one path whenever, however and in whatever batch it is asked."""

from __future__ import annotations

import itertools

import pytest
import torch

import odesolve as ode
from odesolve import OdesolveError

WIDE = {"dtype": torch.float64}
TIMES = (-1.0, -0.73, -0.7299, 0.1, 0.5, 0.50001, 1.9, 2.0)


def path(shape=(3, 5), t=(-1.0, 2.0), seed=4, **more):
    return ode.BrownianPath(shape, t, seed, **{"dtype": torch.float64, **more})


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_increments_add_up(area, dtype):
    w = path(area=area, dtype=dtype)
    eps = torch.finfo(dtype).eps
    for a, b, c in itertools.combinations(TIMES, 3):
        assert torch.allclose(w(a, b) + w(b, c), w(a, c), rtol=0, atol=(64 if area else 16) * eps)


def test_coarse_increments_are_sums_of_fine_ones():
    w = path(t=(0.0, 1.0))
    fine = torch.stack([w(i / 1000, (i + 1) / 1000) for i in range(1000)])
    for k in range(10):
        assert torch.allclose(
            fine[100 * k : 100 * (k + 1)].sum(0), w(k / 10, (k + 1) / 10), rtol=0, atol=1e-13
        )


def test_direction_and_empty_intervals():
    w, wh = path(), path(area=True)
    assert torch.equal(w(0.7, -0.2), -w(-0.2, 0.7))
    assert torch.equal(w(0.7, 0.7), torch.zeros(3, 5, **WIDE))
    back, forth = wh(0.7, -0.2, area=True), wh(-0.2, 0.7, area=True)
    assert torch.equal(back[0], -forth[0])
    assert torch.equal(back[1], forth[1])
    assert all(bool((x == 0).all()) for x in wh(0.7, 0.7, area=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_do_not_depend_on_what_was_asked_before(dtype):
    """Not on what is kept, nor on what had to make way."""
    busy = path((2, 3), dtype=dtype)
    busy._walk.rooms = [1, 2, 3]
    near = [(i / 50 - 1, i / 50 - 1 + 1e-3 * k) for i in range(60) for k in range(3)]
    far = [(i / 50 - 1, (i + 7) / 50 - 1) for i in range(60)]
    for s, t in [
        *near,
        *far,
        *reversed(near),
        *(pair for both in zip(near, far, strict=False) for pair in both),
    ]:
        assert torch.equal(busy(s, t), path((2, 3), dtype=dtype)(s, t))


def test_times_of_each_sample_meet_the_same_path():
    """To rounding: single times are summed in another order."""
    s, t = column(-0.9, 0.3, 1.2), column(0.4, 0.2, 1.2)
    for area in (False, True):
        w = path(area=area)
        got = w(s, t, area=area)
        for i in range(3):
            want = w(float(s[i]), float(t[i]), area=area)
            for a, b in zip(got if area else (got,), want if area else (want,), strict=True):
                assert torch.allclose(a[i], b[i], rtol=0, atol=1e-14)


def test_one_time_may_be_shared():
    w, t = path(), column(0.4, 0.2, 1.2)
    assert torch.equal(w(0.1, t), w(column(0.1, 0.1, 0.1), t))
    assert torch.equal(w(torch.tensor(0.1, **WIDE), torch.tensor(0.5, **WIDE)), w(0.1, 0.5))


@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize("n", [2, 40, 1301])
def test_a_sample_has_the_same_bits_in_any_batch(area, n):
    def ask(ids):
        w = path((len(ids), n), ids=ids, area=area, dtype=torch.float32)
        each = torch.linspace(-0.5, 1.5, 8, **WIDE)[torch.tensor(ids)]
        return [w(0.1, 0.7), w(-0.9, each), *(w(each, 2.0, area=True) if area else ())]

    whole = ask(list(range(8)))
    for ids in (list(range(4)), list(range(4, 8)), [6]):
        assert all(torch.equal(a, b[ids]) for a, b in zip(ask(ids), whole, strict=True))
    assert not torch.equal(whole[0][0], whole[0][1])


def test_selected_samples_go_on():
    w, index = path((4, 3)), torch.tensor([2, 0])
    assert torch.equal(w.select(index)(0.1, 0.7), w(0.1, 0.7)[index])
    assert w.select(index).shape == (2, 3)


def test_the_path_does_not_depend_on_the_depth():
    """At ticks that both have it is the same; between them the finer one knows more."""
    coarse, fine = path(t=(0.0, 1.0), depth=10), path(t=(0.0, 1.0), depth=20)
    assert torch.allclose(coarse(1 / 4, 5 / 8), fine(1 / 4, 5 / 8), rtol=0, atol=1e-14)
    assert torch.equal(coarse(0.5, 0.50001), torch.zeros(3, 5, **WIDE))
    assert bool((fine(0.5, 0.50001) != 0.0).all())


@pytest.mark.parametrize("depth", [1, 5, 13, 48])
def test_any_depth(depth):
    w = path(t=(0.0, 1.0), depth=depth)
    assert torch.allclose(w(0.0, 0.5) + w(0.5, 1.0), w(0.0, 1.0), rtol=0, atol=1e-14)


def test_seeds():
    """Another seed is another path; without one torch's own generator decides."""
    assert not torch.equal(path(seed=1)(0, 1), path(seed=2)(0, 1))
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(path(seed=None)(0, 1))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], path(seed=None)(0, 1))


def test_times_a_few_roundings_outside_are_moved_in():
    w = path()
    assert torch.equal(w(-1.0000001, 2.0000002), w(-1.0, 2.0))
    assert torch.equal(w(column(-1.0000001, 0, 0), 2.0), w(column(-1.0, 0, 0), 2.0))


@pytest.mark.parametrize("bad", [-1.1, 2.1, float("nan"), float("inf")])
def test_times_outside_are_refused(bad):
    for s in (bad, column(0.0, bad, 1.0)):
        with pytest.raises(OdesolveError, match=r"give a time from -1 to 2"):
            path()(s, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: path()(0.0, 1.0, area=True), "area=True"),
        (lambda: path()(column(0.0, 0.1), 1.0), r"give a number, or one per sample, \(3,\)"),
        (lambda: path(()), "give that of an increment"),
        (lambda: path(t=(1.0, 1.0)), "two different finite ends"),
        (lambda: path(t=(0.0, float("nan"))), "two different finite ends"),
        (lambda: path(t=3.0), "two ends"),
        (lambda: path(dtype=torch.float16), "float32 or torch.float64"),
        (lambda: path(depth=60), "1 to 48"),
        (lambda: path(ids=[1, 2]), "one whole number per sample"),
    ],
)
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises(OdesolveError, match=message):
        make()
