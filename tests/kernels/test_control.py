"""The op that controls steps: the fused implementations against the specification, and the
specification's own rules.

The Triton kernel is checked by this same file in a process of its own, which interprets it.
"""

from __future__ import annotations

import os

import pytest
import torch
from odesolve.kernels import control, reference

from tests.products import parametrize

BACKEND = "triton.backend" if os.environ.get("ODESOLVE_BACKEND") == "triton" else "native"
fused = pytest.importorskip(f"odesolve.kernels.{BACKEND}")
INTERPRETED = BACKEND != "native"

PLAIN = (0.2, 0.0, 0.0, 0.2, 0.9, 0.2, 10.0, 0.0, 1e-4)
MEMORY = (0.17, -0.04, 0.01, 0.2, 0.9, 0.2, 10.0, 0.0, 1e-4)
SMOOTH = (0.3, -0.1, 0.05, 0.3, 1.0, 0.2, 10.0, 0.81, 1e-8)
END, SHORTEST, LONGEST, LIMIT, EVALUATIONS = 3.0, 1e-3, 0.5, 40.0, 6.0


def settings(kind=PLAIN):
    return torch.tensor([*kind, LONGEST, LIMIT, EVALUATIONS], dtype=torch.float64)


def states(batch, ends=(END,), seed=0):
    """Samples in every situation: running and ended, after acceptances and rejections, near their
    ends and at the limits."""
    g = torch.Generator().manual_seed(seed)

    def pick(*values):
        return torch.tensor(values, dtype=torch.float64)[
            torch.randint(len(values), (batch,), generator=g)
        ]

    state = torch.zeros(control.ROWS, batch, dtype=torch.float64)
    end = pick(*ends)
    sign = end.sign()
    state[control.END], state[control.SHORTEST] = end, pick(SHORTEST, SHORTEST, 0.0, 0.05)
    state[control.T] = end - sign * pick(3.0, 2.0, 0.4, 0.0001)
    state[control.H] = sign * pick(1e-3, 0.1, 0.4, 0.2)
    landing = state[control.H].abs() > (end - state[control.T]).abs()
    state[control.H] = torch.where(landing, end - state[control.T], state[control.H])
    state[control.ERROR] = pick(0.0, 1e-4, 0.3)
    state[control.OLDER] = pick(0.0, 0.02)
    state[control.STATUS] = pick(0.0, 0.0, 0.0, 1.0, 2.0, 5.0)
    state[control.TOOK] = pick(0.0, 1.0)
    state[control.STEPS], state[control.REJECTED] = pick(3.0, 38.0), pick(0.0, 1.0)
    norm = pick(0.0, 1e-13, 1e-5, 0.5, 1.0, 1.2, 1e9, float("nan"), float("inf"))
    return state, norm


def apply(op, state, norm, given, begin=False, dtype=torch.float64):
    """A copy of the state, the weights and the times after the op."""
    batch = state.shape[1]
    kinds = torch.tensor(
        [[0.5, -0.25, 1.0, 1.0, 0.0, 0.75, 2.0], [1, 5, 2, 4, 0, 3, 0]], dtype=torch.float64
    )
    nodes = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    state, weights = state.clone(), torch.full((batch, 7), float("nan"), dtype=torch.float64)
    times = torch.full((3, batch), float("nan"), dtype=dtype)
    assert op(state, norm, weights, times, kinds, nodes, given, begin) is None
    return state, weights, times


@parametrize(
    kind=[PLAIN, MEMORY, SMOOTH],
    ends=[(END,), (-END,), (END, -END, 0.7, -1e4, 1e-3)],
    begin=[False, True],
    dtype=[torch.float64, torch.float32],
)
def test_equals_the_specification(kind, ends, begin, dtype):
    """Bit for bit, for hundreds of samples: factors are rounded to float32."""
    batch = 40 if INTERPRETED else 700
    state, norm = states(batch, ends)
    given = settings(kind)
    got = apply(fused.control, state, norm, given, begin, dtype)
    want = apply(reference.control, state, norm, given, begin, dtype)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_a_sample_has_the_same_bits_in_any_batch():
    state, norm = states(9, (END, -END, 0.7))
    whole = apply(fused.control, state, norm, settings(MEMORY))
    alone = [
        apply(fused.control, state[:, i : i + 1], norm[i : i + 1], settings(MEMORY))
        for i in range(9)
    ]
    for part, dim in zip(range(3), (1, 0, 1), strict=True):
        together = torch.cat([a[part] for a in alone], dim)
        assert torch.equal(together.nan_to_num(7.0), whole[part].nan_to_num(7.0))


def one(norm, given=None, **rows):
    """One running sample at t = 1 with a step of 0.1, after an attempt with this norm."""
    state = torch.zeros(control.ROWS, 1, dtype=torch.float64)
    values = {"T": 1.0, "H": 0.1, "TOOK": 1.0, "END": END, "SHORTEST": SHORTEST, **rows}
    for name, value in values.items():
        state[getattr(control, name)] = value
    norm = torch.tensor([norm], dtype=torch.float64)
    state, weights, times = apply(
        fused.control, state, norm, settings() if given is None else given
    )
    return {
        name: float(state[getattr(control, name)])
        for name in ("T", "H", "STATUS", "TOOK", "NFE", "STEPS", "REJECTED", "T0", "H0", "NORM")
    } | {
        "weights": weights[0].tolist(),
        "times": times[:, 0].tolist(),
    }


def test_an_accepted_step():
    after = one(0.5)
    assert (after["T"], after["T0"], after["H0"]) == (1.1, 1.0, 0.1)
    assert (after["TOOK"], after["STEPS"], after["REJECTED"], after["NFE"], after["NORM"]) == (
        1.0,
        1.0,
        0.0,
        6.0,
        0.5,
    )
    assert after["H"] == pytest.approx(0.1 * 0.9 * 0.5**-0.2, rel=1e-6)
    h = after["H"]
    assert after["weights"] == pytest.approx([0.5 * h, 0.0, 1.0, 0.0, 0.0, 0.75 * h, 2.0])
    assert after["times"] == pytest.approx([1.1 + 0.2 * h, 1.1 + 0.5 * h, 1.1 + h])


def test_a_rejected_step():
    after = one(2.0)
    assert (after["T"], after["TOOK"], after["STEPS"], after["REJECTED"], after["NFE"]) == (
        1.0,
        0.0,
        0.0,
        1.0,
        6.0,
    )
    h = after["H"]
    assert h == pytest.approx(0.1 * 0.9 * 2.0**-0.2, rel=1e-6)
    assert after["weights"] == pytest.approx([0.5 * h, -0.25 * h, 0.0, 1.0, 0.0, 0.0, 2.0])


def test_no_growth_right_after_a_rejection():
    assert one(1e-6, TOOK=1.0)["H"] == 0.5  # at its longest
    assert one(1e-6, TOOK=0.0)["H"] == 0.1


def test_the_last_errors_count():
    factor = one(0.5, settings(MEMORY), ERROR=0.3, OLDER=0.02)["H"] / 0.1
    assert factor == pytest.approx(0.9 * 0.5**-0.17 * 0.3**0.04 * 0.02**-0.01, rel=1e-6)


@pytest.mark.parametrize("norm", [0.5, 0.0])
def test_lands_on_the_end(norm):
    """A step to just before the end is stretched to it, and t is exactly the end."""
    assert one(norm, T=2.95, H=0.02458)["H"] == END - (2.95 + 0.02458)
    ended = one(norm, T=2.9, H=3.0 - 2.9)
    assert (ended["T"], ended["STATUS"], ended["H"]) == (3.0, control.OK, 0.0)
    assert ended["times"] == [3.0] * 3
    assert ended["weights"][:3] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "norm", "status"),
    [
        ({"STEPS": 39.0}, 0.5, control.MAX_STEPS),
        ({"REJECTED": 39.0}, 2.0, control.MAX_STEPS),
        ({"H": 1e-3}, 2.0, control.MIN_STEP),
        ({"H": 1e-3}, float("nan"), control.DIVERGED),
        ({"H": 1e-3}, 0.5, control.RUNNING),
        ({"H": 2e-3}, float("inf"), control.RUNNING),
        ({"T": 2.9, "H": 3.0 - 2.9, "STEPS": 39.0}, 0.5, control.OK),
    ],
)
def test_ends(rows, norm, status):
    assert one(norm, **rows)["STATUS"] == status


def test_the_resolution_of_time_ends_a_sample():
    h = control.RESOLUTION * 2.0
    assert one(2.0, SHORTEST=0.0, T=2.0, H=h)["STATUS"] == control.MIN_STEP
    assert one(2.0, SHORTEST=0.0, T=2.0, H=2 * h)["H"] >= h


def test_a_sample_that_ended_stays():
    after = one(0.5, STATUS=float(control.EVENT), NFE=7.0)
    assert (after["T"], after["H"], after["TOOK"], after["NFE"], after["STEPS"]) == (
        1.0,
        0.0,
        0.0,
        7.0,
        0.0,
    )
    assert after["weights"] == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0]


def test_what_does_not_fit_is_left_to_the_reference():
    state, norm = states(4)
    args = [
        torch.zeros(4, 7, dtype=torch.float64),
        torch.zeros(3, 4),
        torch.zeros(2, 7, dtype=torch.float64),
    ]
    nodes = torch.zeros(3, dtype=torch.float64)
    before = state.clone()
    for changed in (
        (state, norm.float(), *args, nodes, settings()),
        (state, norm[:3], *args, nodes, settings()),
        (state, norm, *args, nodes, settings()[:-1]),
        (state, norm, args[0].t().contiguous().t(), *args[1:], nodes, settings()),
        (state, norm, *args, nodes[:2], settings()),
    ):
        assert fused.control(*changed) is False
    assert torch.equal(state, before)
