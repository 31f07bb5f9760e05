"""Callbacks are methods of func, called as torchdiffeq calls them."""

import pytest
import torch

from .problems import ADAMS, EXPLICIT, Field, ours, theirs

T = torch.tensor([0.0, 0.7, 1.5], dtype=torch.float64)


class Stepped(Field):
    """Notes the steps that it is told of."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = []

    def callback_step(self, t0, y0, dt):
        self.notes.append(("step", t0, y0, dt))

    def count(self, what):
        return sum(note[0] == what for note in self.notes)


class Told(Stepped):
    """Notes how they ended as well."""

    def callback_accept_step(self, t0, y0, dt):
        self.notes.append(("accept", t0, y0, dt))

    def callback_reject_step(self, t0, y0, dt):
        self.notes.append(("reject", t0, y0, dt))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("t", [T, -T])
def test_every_attempt_is_told(t, recorded):
    f = Told()
    with torch.set_grad_enabled(recorded):
        ours.odeint(f, f.start(), t, rtol=1e-7, atol=1e-7, options={"first_step": 1.0})
    assert f.count("step") == f.count("accept") + f.count("reject")
    assert f.count("reject") > 0
    accepted = [note for note in f.notes if note[0] == "accept"]
    ends = [float(t0 + dt) for _, t0, _, dt in accepted]
    assert [float(t0) for _, t0, _, _ in accepted[1:]] == pytest.approx(ends[:-1], abs=1e-12)
    assert ends[-1] == pytest.approx(float(t[-1]))
    assert all(
        y0.shape == (2, 3) and t0.dtype == dt.dtype == torch.float64 for _, t0, y0, dt in f.notes
    )


@pytest.mark.parametrize("method", [*EXPLICIT, *ADAMS])
def test_steps_of_a_grid(method):
    found, more = [], {"max_order": 5} if method in ADAMS else {}
    for lib in (ours, theirs):
        f = Stepped(pairs=True)
        lib.odeint(f, f.start(), T, method=method, options={"step_size": 0.05, **more})
        found.append([(float(t0), float(y0[0].detach().sum())) for _, t0, y0, _ in f.notes])
    for ours_, theirs_ in zip(*found, strict=True):
        assert ours_ == pytest.approx(theirs_, abs=1e-12)


@pytest.mark.parametrize("method", ["rk4", "scipy_solver"])
def test_a_warning_of_what_is_not_called(method):
    with pytest.warns(UserWarning, match="does not call .*callback_accept_step"):
        ours.odeint(Told(), Told().start(), T, method=method)


def test_callbacks_of_the_way_back():
    class Back(Field):
        def __init__(self):
            super().__init__()
            self.notes = []

        def callback_step_adjoint(self, t0, y0, dt):
            self.notes.append((float(t0), float(dt), len(y0)))

    f = Back()
    y = ours.odeint_adjoint(f, f.start(), T, rtol=1e-5, atol=1e-5)
    assert not f.notes
    y[-1].sum().backward()
    assert f.notes[0][0] == 1.5
    # time, y, its adjoint, two parameters'
    assert all(dt < 0 and parts == 5 for _, dt, parts in f.notes)
