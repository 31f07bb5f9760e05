"""The states that torchdiffeq takes: any shape, tuples, complex numbers, mixed types; and what is
refused."""

import pytest
import torch

from odesolve.errors import OdesolveError

from .problems import Field, gap, ours, theirs

T = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


@pytest.mark.few(7)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 4, 3)])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams", "gl4"])
def test_any_shape(shape, method):
    f = lambda t, y: torch.cos(t) * y
    y0 = torch.arange(1.0, 1.0 + torch.Size(shape).numel(), dtype=torch.float64).view(shape)
    options = None if method == "dopri5" else {"step_size": 0.02}
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            y = ours.odeint(f, y0, T, method=method, options=options)
        assert y.shape == (3, *shape)
        assert gap(y, torch.exp(torch.sin(T)).view(-1, *[1] * len(shape)) * y0) < 1e-5 * float(
            y0.max()
        )


def test_a_tuple_of_different_shapes_and_its_form():
    seen = []

    def f(t, y):
        seen.append(tuple(tuple(x.shape) for x in y))
        # a list, and a shape that only fits when flattened
        return [-y[0], y[1] * 0 + y[0].sum(), torch.zeros(1)]

    y0 = (torch.ones(2, 2), torch.zeros(()), torch.zeros(1, 1))
    for method in ("dopri5", "euler", "scipy_solver", "trapezoid"):
        y = ours.odeint(f, y0, T, method=method)
        peer = theirs.odeint(f, y0, T, method="dopri5")
        assert isinstance(y, tuple)
        assert [x.shape for x in y] == [x.shape for x in peer]
    assert set(seen) == {((2, 2), (), (1, 1))}


def test_types_of_a_tuple_are_joined():
    y0 = (torch.ones(2), torch.ones(2, dtype=torch.float64))
    y = ours.odeint(lambda t, y: (-y[0], y[1]), y0, T)
    peer = theirs.odeint(lambda t, y: (-y[0], y[1]), y0, T)
    assert [x.dtype for x in y] == [x.dtype for x in peer]
    assert gap(y, peer) < 1e-6


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_midpoint"])
def test_complex_states(dtype, method):
    """dz/dt = i z turns by t."""
    y0 = torch.tensor([1.0 + 0.5j, 2.0], dtype=dtype)
    f = lambda t, z: 1j * z
    options = None if method == "dopri5" else {"step_size": 0.01}
    y = ours.odeint(f, y0, T, method=method, options=options)
    assert y.dtype == dtype
    assert float((y[-1] - torch.exp(1j * T[-1]) * y0).abs().max()) < 5e-5
    pair = ours.odeint(lambda t, z: (1j * z[0], z[1]), (y0, y0), T, method=method, options=options)
    assert float((pair[0] - y).abs().max()) < 1e-5
    assert float((pair[1][-1] / y0 - torch.exp(T[-1])).abs().max()) < 1e-4


def test_complex_gradients():
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    grads = []
    for lib in (ours, theirs):
        y = lib.odeint(lambda t, z: 1j * w * z + z.conj() * 0.1, y0, T, rtol=1e-10, atol=1e-12)
        grads.append(torch.autograd.grad((y[-1].real * 2 + y[-1].imag).sum(), (y0, w)))
    assert float((grads[0][0] - grads[1][0]).abs()) < 1e-8
    assert float(grads[0][1] - grads[1][1]) == pytest.approx(0.0, abs=1e-8)


def test_rows_that_see_each_other_are_one_system():
    """A batch with shared statistics, as graphs have: steps are those of the whole, and of no
    row."""
    f = lambda t, y: y - y.mean(0, keepdim=True) ** 2
    y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            assert gap(ours.odeint(f, y0, T), theirs.odeint(f, y0, T)) < 1e-6


@pytest.mark.parametrize(
    ("y0", "message"),
    [
        ([torch.ones(2)], "y0 is a list"),
        (1.0, "y0 is a float"),
        ((), "y0 is a tuple"),
        (torch.ones(2, dtype=torch.int64), "torch.int64"),
        (torch.ones(0), r"shapes \[\(0,\)\]"),
    ],
)
def test_refused_states(y0, message):
    with pytest.raises(OdesolveError, match=message):
        ours.odeint(lambda t, y: y, y0, T)


def test_refused_results_and_tolerances():
    with pytest.raises(OdesolveError, match=r"f returned \(3,\) for a state \(2,\)"):
        ours.odeint(lambda t, y: torch.ones(3), torch.ones(2), T)
    with pytest.raises(OdesolveError, match="func returned 1 tensors for a state of 2"):
        ours.odeint(lambda t, y: (y[0],), (torch.ones(2), torch.ones(2)), T)
    with pytest.raises(OdesolveError, match="rtol requires gradients"):
        ours.odeint(lambda t, y: y, torch.ones(2), T, rtol=torch.ones((), requires_grad=True))
    with pytest.raises(OdesolveError, match="atol has 1 entries for a state of 2"):
        ours.odeint(lambda t, y: y, (torch.ones(2), torch.ones(2)), T, atol=(1e-3,))
    with pytest.raises(OdesolveError, match=r"rtol=-1.0: give a positive number"):
        ours.odeint(lambda t, y: y, torch.ones(2), T, rtol=-1.0)


def test_unknown_methods_are_value_errors():
    with pytest.raises(ValueError, match="unknown method 'dopri_5': did you mean 'dopri5'"):
        ours.odeint(Field(), Field().start(), T, method="dopri_5")
