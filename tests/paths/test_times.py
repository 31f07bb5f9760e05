"""Every function of time takes numbers and tensors of any shape, keeps dtype and device, and lets
gradients through."""

from __future__ import annotations

import pytest
import torch

from tests.rows import rows

FUNCTIONS = ["alpha", "sigma", "dalpha", "dsigma", "lam", "rho", "f", "g2", "g"]


@pytest.mark.few(7)
@rows("name", FUNCTIONS)
def test_dtype_and_shape_follow_the_time(path, name):
    function = getattr(path, name)
    for t in (0.5, 1, torch.tensor(0.5, dtype=torch.float64)):
        assert (function(t).shape, function(t).dtype) == ((), torch.float64)
    both = function(torch.full((2, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(function(0.5).expand(2, 1), both, rtol=2e-16, atol=0)
    for shape in ((0,), (1,), (2, 3), (1, 0, 2)):  # any shape, even empty
        assert function(torch.full(shape, 0.5)).shape == shape
    elsewhere = function(torch.empty(3, device="meta"))
    assert (elsewhere.device.type, elsewhere.shape) == ("meta", (3,))


@rows("name", FUNCTIONS)
def test_float32_stays_float32_and_half_types_are_widened(path, name):
    function = getattr(path, name)
    exact = function(torch.tensor([0.25, 0.5], dtype=torch.float64))
    single = function(torch.tensor([0.25, 0.5], dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=5e-6, atol=1e-6)
    for half in (torch.bfloat16, torch.float16):
        assert torch.equal(function(torch.tensor([0.25, 0.5], dtype=half)), single)


@rows("name", ["alpha", "sigma", "lam", "t_of_lam"])
def test_gradients_with_respect_to_time_are_finite_inside(path, name):
    t = (torch.tensor([0.1234, 0.5678], dtype=torch.float64) * path.t_max).requires_grad_()
    argument = path.lam(t).detach().requires_grad_() if name == "t_of_lam" else t
    out = getattr(path, name)(argument)
    if out.requires_grad:  # alpha = 1 does not depend on the time
        (gradient,) = torch.autograd.grad(out.sum(), argument)
        assert bool(torch.isfinite(gradient).all())
        if name == "t_of_lam":
            slope = (path.f(t) - path.dsigma(t) / path.sigma(t)).detach()
            torch.testing.assert_close(gradient, 1 / slope, rtol=1e-11, atol=0)


def test_conversion_takes_a_time_for_each_sample(path):
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64) * path.t_max
    together = torch.stack(path.convert(t, "v", "noise"))
    apart = torch.stack([torch.stack(path.convert(float(v), "v", "noise")) for v in t], dim=1)
    torch.testing.assert_close(together, apart, rtol=1e-15, atol=1e-15)


def test_points_are_plain_floats(path):
    times = [0.25 * path.t_max, 0.5 * path.t_max]
    for p, t in zip(path.points(times), times, strict=True):
        assert all(type(v) is float for v in p)
        assert p == path.point(t)
        assert (p.t, p.alpha, p.sigma) == (t, float(path.alpha(t)), float(path.sigma(t)))
        assert p.rho == pytest.approx(float(path.rho(t)), rel=1e-13)
    assert path.points([path.t_noise])[0].rho > 1


def test_ends_of_time(path):
    flipped = path.t_noise < path.t_data
    assert (path.t_noise, path.t_data) == ((0.0, path.t_max) if flipped else (path.t_max, 0.0))
    inside = (path.t_min, *([] if path.t_clip is None else [path.t_clip]))
    assert all(0 <= t <= path.t_max for t in inside)
    assert float(path.lam(path.t_min)) > float(
        path.lam(path.t_noise if path.t_clip is None else path.t_clip)
    )
