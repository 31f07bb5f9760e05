"""The reference: two solves that agree, and a certificate that does not promise too much."""

import math

import pytest
import torch

import odesolve as ode
from odesolve.profile import Reference, certified
from tests.products import LONG
from tests.rows import rows

PATHS = [
    ode.paths.VP(),
    ode.paths.EDM(),
    ode.paths.Linear().flipped(),
    ode.paths.Discrete.ddpm(),
]
if LONG:
    PATHS += [
        ode.paths.Cosine(),
        ode.paths.VE(),
        ode.paths.SubVP(),
        ode.paths.Linear(),
        ode.paths.Trig(),
    ]


@rows("path", PATHS, ids=lambda p: type(p).__name__)
def test_the_certificate_bounds_the_true_error(gaussian, noise, exact, path):
    found = certified(gaussian.model(path), noise)
    error = (found.x - exact(path)).square().mean().sqrt()
    assert found.certificate.agreed
    assert error <= max(2 * found.certificate.rms, 1e-12)
    assert "float64" in str(found.certificate)


def test_a_network_in_float32_gets_a_float64_state(noise):
    net = torch.nn.Linear(2, 2)
    model = ode.Model(lambda x, t: net(x.float()).to(x.dtype), ode.paths.EDM(), "data")
    assert certified(model, noise, limit=600).x.dtype == torch.float64


def test_a_network_that_refuses_float64_gets_float32(noise):
    net = torch.nn.Linear(2, 2)
    model = ode.Model(lambda x, t: net(x), ode.paths.EDM(), "data")
    found = certified(model, noise.float(), limit=600)
    assert found.x.dtype == torch.float32
    assert "float32" in found.certificate.how


def test_solves_that_do_not_agree_say_so(noise):
    rough = ode.Model(lambda x, t: torch.sign(torch.sin(40 * x)), ode.paths.EDM(), "data")
    found = certified(rough, noise, tolerance=1e-12, limit=1100)
    assert not found.certificate.agreed
    assert found.certificate.calls > 1000  # it refined before it gave up
    assert "do NOT agree" in str(found.certificate)


def test_a_model_without_a_finite_solution_is_an_error(noise):
    broken = ode.Model(lambda x, t: x * math.nan, ode.paths.EDM(), "data")
    with pytest.raises(ode.Diverged, match="reference="):
        certified(broken, noise, limit=600)


def test_a_reference_can_be_given(gaussian, noise, exact):
    path = ode.paths.VP()
    model = gaussian.model(path)
    given = ode.profile(model, ["ddim"], 9, ["karras"], noise=noise, reference=exact(path))
    again = ode.profile(
        model,
        ["ddim"],
        9,
        ["karras"],
        noise=noise,
        reference=Reference(exact(path), given.certificate),
    )
    solved = ode.profile(model, ["ddim"], 9, ["karras"], noise=noise)
    assert given.rows[0].rmse == again.rows[0].rmse == pytest.approx(solved.rows[0].rmse, rel=1e-4)
    assert given.certificate.how.startswith("given")


def test_a_reference_of_another_shape_is_refused(gaussian, noise):
    with pytest.raises(ode.OdesolveError, match="shape"):
        ode.profile(gaussian.model(ode.paths.VP()), ["ddim"], 9, noise=noise, reference=noise[:3])
