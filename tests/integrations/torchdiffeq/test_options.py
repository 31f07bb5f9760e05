"""Options of the adaptive methods, discontinuities, and what is said about options that do not
belong."""

import itertools
import math

import pytest
import torch

from odesolve.errors import OdesolveError

from .problems import ADAPTIVE, Field, exact, gap, ours, theirs

T = torch.tensor([0.0, 1.0], dtype=torch.float64)


class Jump(torch.nn.Module):
    """dy/dt = -y before t = 1/2 (as far as f can tell), +3 y from then on."""

    def __init__(self):
        super().__init__()
        self.calls, self.at = 0, []

    def forward(self, t, y):
        self.calls += 1
        self.at.append(float(t.detach()))
        return -y if t < 0.5 else 3 * y


@pytest.mark.few(8)
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("method", [*ADAPTIVE, "tsit5"])
@pytest.mark.parametrize("t", [T, T.flip(0)])
def test_jump_t(method, t, recorded):
    """No error is left by the jump, whichever way it is passed, and fewer calls are made than
    without."""
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solution = y0 * math.exp(1.0) ** (1.0 if t[0] == 0 else -1.0)
    counts = []
    for options in ({"jump_t": torch.tensor([0.5])}, {}):
        f = Jump()
        with torch.set_grad_enabled(recorded):
            y = ours.odeint(f, y0, t, rtol=1e-5, atol=1e-7, method=method, options=options)[-1]
        counts.append(f.calls)
        if options:
            assert gap(y, solution) < (3e-2 if method == "fehlberg2" else 2e-4)
            assert 0.5 not in f.at or t[0] == 0  # each side is evaluated on its own
            assert max(v for v in f.at if v < 0.5) > 0.5 - 1e-15
    if method != "adaptive_heun":
        assert counts[0] < counts[1]


def test_step_t_is_stepped_on():
    """A kink in f: with the step there, no attempt is rejected."""
    f = lambda t, y: (t - 0.3).abs() * 10 * torch.ones_like(y)
    y0 = torch.zeros(1, dtype=torch.float64)
    solution = 10 * (0.3**2 + 0.7**2) / 2
    rejected, ends = [], []

    class Watched(torch.nn.Module):
        forward = staticmethod(f)

        def callback_reject_step(self, t0, y0, dt):
            rejected.append(float(t0))

        def callback_accept_step(self, t0, y0, dt):
            ends.append(float(t0 + dt))

    for step_t in ([0.3], torch.tensor([0.3, 7.0, -2.0])):
        y = ours.odeint(Watched(), y0, T, rtol=1e-8, atol=1e-10, options={"step_t": step_t})[-1]
        assert float(y.detach()) == pytest.approx(solution, rel=1e-7)
        assert not rejected
        assert any(end == pytest.approx(0.3, abs=1e-7) for end in ends)
    ours.odeint(Watched(), y0, T, rtol=1e-8, atol=1e-10)
    assert rejected


def test_steps_that_were_cut_short_grow_back_at_once():
    """Twenty stops cost little more than the steps that end there."""
    f = Field()
    stops = torch.linspace(0.05, 0.95, 19).double()
    ours.odeint(f, f.start(), T, rtol=1e-4, atol=1e-4, options={"step_t": stops})
    assert f.calls <= 2 + 6 * 22


def test_lengths_of_steps():
    steps = []

    class Watched(Field):
        def callback_step(self, t0, y0, dt):
            steps.append(float(dt))

    f = Watched()
    ours.odeint(f, f.start(), T, options={"first_step": 0.01})
    assert steps[0] == 0.01
    steps.clear()
    ours.odeint(f, f.start(), T, rtol=1e-2, atol=1e-2, options={"max_step": 0.125})
    assert max(steps) == 0.125
    steps.clear()
    ours.odeint(
        f, f.start(), T, rtol=1e-12, atol=1e-12, options={"min_step": 0.25, "first_step": 0.25}
    )
    assert steps == [0.25] * 4  # accepted, as far off as they are
    steps.clear()
    ours.odeint(f, f.start(), T, rtol=1e-6, atol=1e-6, options={"ifactor": 1.5, "first_step": 1e-3})
    assert max(b / a for a, b in itertools.pairwise(steps)) <= 1.5 + 1e-6


def test_safety_and_dfactor_are_heard():
    counts = []
    for options in ({}, {"safety": 0.4}):
        f = Field()
        ours.odeint(f, f.start(), T, rtol=1e-8, atol=1e-8, options=options)
        counts.append(f.calls)
    assert counts[1] > 1.5 * counts[0]
    with pytest.raises(OdesolveError, match="leaves no room"):
        ours.odeint(Field(), Field().start(), T, options={"dfactor": 2.0})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dopri5", {"step_size": 0.1}),
        ("euler", {"first_step": 0.1}),
        ("scipy_solver", {"jump_t": T}),
        ("rk4", {"max_iters": 3}),
    ],
)
def test_options_of_other_methods_are_ignored_with_a_warning(method, options):
    """As torchdiffeq does: code passes one dictionary to several methods."""
    f = Field()
    with pytest.warns(
        UserWarning,
        match=rf"{method} ignores the options "
        rf"\['{next(iter(options))}'\]",
    ):
        y = ours.odeint(f, f.start(), T, method=method, options=options)
    with pytest.warns(UserWarning, match="Unexpected arguments"):
        theirs.odeint(f, f.start(), T, method=method, options=options)
    assert gap(y, ours.odeint(f, f.start(), T, method=method)) == 0.0


def test_options_are_not_changed():
    options = {"norm": lambda y: y.abs().max(), "first_step": 0.1}
    before = dict(options)
    ours.odeint(Field(), Field().start(), T, options=options)
    assert options == before


def test_a_norm_replaces_the_root_mean_square():
    f, y0 = Field(), Field().start()
    strict = ours.odeint(
        f, y0, T, rtol=1e-5, atol=1e-5, options={"norm": lambda e: 1000 * e.abs().max()}
    )
    more = f.calls
    f.calls = 0
    ours.odeint(f, y0, T, rtol=1e-5, atol=1e-5)
    assert more > 2 * f.calls
    assert gap(strict, exact(f, y0, T)) < 1e-7


def test_repeated_times_are_refused():
    with pytest.raises(OdesolveError, match="repeat a time"):
        ours.odeint(Field(), Field().start(), T, options={"step_t": [0.5], "jump_t": [0.5]})
