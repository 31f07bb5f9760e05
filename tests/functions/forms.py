"""The same function, dy/dt = -y, in all the ways in which a user's function may use memory
again."""

from __future__ import annotations

import itertools

import numpy as np
import torch


def pure(t, y):
    """The function itself."""
    return -y


def in_place():
    """Works in place on its input, as ReLU(inplace=True) does."""

    def f(t, y):
        y.mul_(0.5)
        return -2 * y

    return f


def in_place_behind():
    """The same through ``data``, which leaves no trace in versions."""

    def f(t, y):
        y.data.mul_(0.5)
        return -2 * y

    return f


def in_place_by_numpy():
    """The same through numpy."""

    def f(t, y):
        with torch.no_grad():
            np.multiply(y.detach().numpy(), 0.5, out=y.detach().numpy())
        return -2 * y

    return f


def on_time():
    """Works in place on its time, and depends on it: y(1) = y(0) exp(-1) as well."""

    def f(t, y):
        t.mul_(2.0)
        return -t * y

    return f


def itself():
    """Returns its input, negated in place."""
    return lambda t, y: y.neg_()


def view_of_itself():
    """Returns a view of its input."""
    return lambda t, y: y.neg_()[...]


def one_buffer():
    """Returns one buffer, as a captured graph does."""
    kept = {}

    def f(t, y):
        out = kept.setdefault((y.shape, y.dtype), torch.empty_like(y.detach()))
        return out.copy_(-y)

    return f


def two_buffers():
    """Returns two buffers in turn."""
    kept, turn = {}, itertools.count()

    def f(t, y):
        out = kept.setdefault((y.shape, y.dtype, next(turn) % 2), torch.empty_like(y.detach()))
        return out.copy_(-y)

    return f


def view_of_a_buffer():
    """Returns a fresh view of a buffer each time."""
    again = one_buffer()
    return lambda t, y: again(t, y)[...]


def numpy_buffer():
    """Returns numpy's memory, used again."""
    kept = {}

    def f(t, y):
        out = kept.setdefault((y.shape, y.dtype), np.empty_like(y.detach().numpy()))
        np.negative(y.detach().numpy(), out=out)
        return torch.from_numpy(out)

    return f


def other_type():
    """Returns one buffer of another type."""
    kept = {}

    def f(t, y):
        out = kept.setdefault(y.shape, torch.empty(y.shape, dtype=torch.float64))
        return out.copy_(-y)

    return f


def expanded():
    """Returns one number for all, expanded, for states whose numbers are all the same."""
    return lambda t, y: (-y.reshape(-1)[:1]).expand(y.shape)


def keeps_its_input():
    """Keeps its last input and looks at it again, as caching networks do; NaN where it has changed
    meanwhile."""
    kept = []

    def f(t, y):
        changed = bool(kept) and not torch.equal(*kept)
        kept[:] = y.detach(), y.detach().clone()
        return y * torch.nan if changed else -y

    return f


def turns_careless():
    """Works in place from its fifth call on."""
    calls = itertools.count()

    def f(t, y):
        return -2 * y.mul_(0.5) if next(calls) >= 4 else -y

    return f


FORMS = {
    make.__name__: make
    for make in (
        in_place,
        in_place_behind,
        in_place_by_numpy,
        on_time,
        itself,
        view_of_itself,
        one_buffer,
        two_buffers,
        view_of_a_buffer,
        numpy_buffer,
        other_type,
        expanded,
        keeps_its_input,
    )
}
# Their graph does not tell what they depend on, or was written over: only values can be asked for.
WITHOUT_GRADIENTS = ("in_place_behind", "in_place_by_numpy", "numpy_buffer")
