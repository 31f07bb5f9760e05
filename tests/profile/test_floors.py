"""Errors that say nothing about the solver are flagged."""

import torch

import odesolve as ode
from odesolve.profile import Certificate, Profile, Reference, Row
from odesolve.profile.flags import flagged


def test_float32_rounding_is_flagged(gaussian, noise, exact):
    path = ode.paths.Linear()
    model = gaussian.model(path, "velocity")
    args = {"nfe": (4, 64, 128), "grids": ["uniform"], "timing": 0}
    single = ode.profile(model, ["rk4"], noise=noise.float(), reference=exact(path), **args)
    double = ode.profile(model, ["rk4"], noise=noise, reference=exact(path), **args)
    assert [r.flags for r in single.rows] == [(), ("dtype",), ("dtype",)]
    assert [r.flags for r in double.rows] == [(), (), ()]
    assert 1e-9 < single.rounding < 1e-6
    assert double.rounding is None


def test_errors_below_three_certificates_are_flagged(gaussian, noise, exact):
    path = ode.paths.VP()
    rough = Reference(exact(path), Certificate(1e-3, 1e-3, 1e-3, 0, True, "by hand"))
    found = ode.profile(
        gaussian.model(path),
        ["dpmpp_2m"],
        (5, 80),
        ["karras"],
        noise=noise,
        reference=rough,
        timing=0,
    )
    assert [r.flags for r in found.rows] == [(), ("reference",)]


def test_the_rounding_is_unknown_where_float64_cannot_run(noise):
    def single(x, t):
        assert x.dtype == torch.float32
        return 0.2 * x

    model = ode.Model(single, ode.paths.Linear(), "data")
    found = ode.profile(model, ["ddim"], 8, ["uniform"], noise=noise.float(), timing=0)
    assert found.rows[0].ok
    assert found.rounding is None


def test_an_error_that_stops_falling_is_a_plateau():
    errors = {10: 1e-4, 20: 1e-6, 40: 9e-7, 80: 9.5e-7}
    rows = [Row("rk4", "uniform", n, steps=n, calls=n, median=e, rmse=e) for n, e in errors.items()]
    assert [r.flags for r in flagged(Profile(rows))] == [(), (), ("plateau",), ("plateau",)]


def test_large_errors_that_stand_still_are_no_plateau():
    rows = [Row("rk4", "uniform", n, steps=n, calls=n, median=0.2, rmse=0.2) for n in (5, 10)]
    assert [r.flags for r in flagged(Profile(rows))] == [(), ()]
