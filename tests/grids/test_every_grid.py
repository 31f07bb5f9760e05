"""Every named grid on every path: n + 1 times from noise to data, strictly monotone, for any n up
to 1000."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odesolve import grids, paths
from odesolve.errors import OdesolveError
from tests.rows import rows

STEPS = [1, 2, 3, 5, 10, 50, 51, 333, 999, 1000]
TABLE_ONLY = [name for name, rule in grids.NAMED.items() if isinstance(rule, grids.Spaced)]


def check(times, path, n):
    """n + 1 times in the direction of sampling that end at the data and never leave the path."""
    assert len(times) == n + 1
    assert all(type(t) is float for t in times)
    direction = 1 if path.t_data > path.t_noise else -1
    assert bool((direction * torch.tensor(times, dtype=torch.float64).diff() > 0).all())
    assert times[-1] == path.t_data
    assert all(0.0 <= t <= path.t_max for t in times)


@pytest.mark.few(7)
@rows("name", grids.NAMED)
def test_named_grid(path, name):
    if name in TABLE_ONLY and path.training_steps is None:
        with pytest.raises(
            OdesolveError,
            match=r"needs a path with training times: use "
            r"paths\.Discrete",
        ):
            grids.make(grids.named(name), path, 10)
        return
    for n in STEPS:
        times = grids.make(grids.named(name), path, n)
        check(times, path, n)
        if name != "leading":  # which starts a stride below the noise end
            assert times[0] == path.t_noise


@rows("name", grids.NAMED)
def test_flipped_path_gets_the_mirrored_grid(base_path, name):
    if name in TABLE_ONLY and base_path.training_steps is None:
        return
    for n in (1, 2, 7, 100):
        forward = torch.tensor(grids.make(grids.named(name), base_path, n), dtype=torch.float64)
        mirrored = torch.tensor(
            grids.make(grids.named(name), base_path.flipped(), n), dtype=torch.float64
        )
        torch.testing.assert_close(
            mirrored, base_path.t_max - forward, rtol=0, atol=1e-13 * base_path.t_max
        )


RULES = st.one_of(
    st.builds(grids.Polynomial, exponent=st.floats(0.3, 4.0)),
    st.builds(grids.Karras, rho=st.floats(1.0, 30.0)),
    st.builds(grids.VPTime, exponent=st.floats(1.0, 4.0)),
    st.builds(grids.Shifted, shift=st.floats(0.05, 20.0)),
    st.builds(grids.Shifted, mu=st.floats(-3.0, 3.0)),
    st.builds(grids.Asinh, scale=st.floats(0.01, 10.0)),
    st.just(grids.Lambda()),
    st.just(grids.Karras(merged=True)),
)


@pytest.mark.few(4)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rule=RULES, n=st.integers(1, 200))
def test_any_parameters(base_path, rule, n):
    times = grids.make(rule, base_path, n)
    check(times, base_path, n)
    assert times[0] == base_path.t_noise


ENDS = {"stop": st.floats(0.002, 0.4), "start": st.floats(0.5, 0.99), "n": st.integers(1, 50)}


@settings(max_examples=50, deadline=None)
@given(**ENDS)
def test_rules_in_time_keep_the_given_ends(stop, start, n):
    for path in (paths.VP(), paths.Linear()):
        for kind in (grids.Uniform, grids.Polynomial, grids.Shifted):
            times = grids.make(kind(start=start, stop=stop), path, n)
            assert (len(times), times[0], times[-1]) == (n + 1, start, stop)


@settings(max_examples=50, deadline=None)
@given(**ENDS)
def test_rules_in_log_snr_keep_the_given_ends_and_go_on_to_the_data(stop, start, n):
    for path in (paths.VP(), paths.Linear(), paths.Cosine()):
        for kind in (grids.Lambda, grids.Karras):
            times = grids.make(kind(start=start, stop=stop), path, n)
            assert (len(times), times[0], times[-1]) == (n + 1, start, 0.0)
            if n > 1:
                assert times[-2] == pytest.approx(stop, rel=1e-12)
            times = grids.make(kind(start=start, stop=stop, final=False), path, n)
            assert (len(times), times[0], times[-1]) == (n + 1, start, stop)
