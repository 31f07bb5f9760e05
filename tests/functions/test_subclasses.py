"""Tensors of a subclass without a dispatch of its own, as images that know their kind are, are
solved as plain ones."""

import torch

import odesolve as ode
from tests.rows import rows

VP = ode.paths.VP()
Z = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)
MODEL = ode.Model(lambda x, t: 0.3 * x, VP, "noise")


class Image(torch.Tensor):
    """One that adds nothing."""


CALLS = {
    "sample": lambda x: ode.sample(MODEL, x, "dpmpp_2m", 3),
    "stochastic": lambda x: ode.sample(MODEL, x, "ddim(eta=1.0)", 3, seed=0),
    "state": lambda x: ode.sample(MODEL, None, "ddim", 3, state=x),
    "invert": lambda x: ode.invert(MODEL, x, "ddim", 3),
    "sdedit": lambda x: ode.sdedit(MODEL, x, 0.5, steps=3, seed=0),
    "solve": lambda x: ode.solve(lambda t, y: -y, x).y,
    "solve_sde": lambda x: (
        ode.solve_sde(lambda t, y: -y, lambda t, y: 0.1 * y, x, steps=3, seed=0).y
    ),
    "langevin": lambda x: ode.langevin(lambda x: -x, x, 0.1, 3, seed=0),
}


@rows("name", CALLS)
def test_the_same_as_of_a_plain_tensor(name):
    found = CALLS[name](Z.clone().as_subclass(Image))
    torch.testing.assert_close(
        found.as_subclass(torch.Tensor), CALLS[name](Z.clone()), rtol=1e-6, atol=5e-7
    )  # rounding
