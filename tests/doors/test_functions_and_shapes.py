"""What is called, and what says a shape: refused at the door, in the same words whenever it
fails."""

import pytest
import torch

import odesolve as ode
from tests.rows import rows

VP = ode.paths.VP()
Z = torch.linspace(-1.0, 1.0, 8).reshape(4, 2)


def net(x, t):
    return 0.3 * x


def labelled(x, t, y):
    return 0.3 * x + 0.1 * y.reshape(-1, 1)


MODEL = ode.Model(net, VP, "noise")


def sample(model=MODEL, start=Z, **given):
    return ode.sample(model, start, **{"solver": "ddim", "steps": 3, **given})


WRONG = [{}, {"q": torch.zeros(4)}, {"y": torch.zeros(4), "x": 1}, {"y": torch.zeros(7)}]


@rows("cond", WRONG, ids=lambda cond: ",".join(cond) or "none")
@rows("known", [False, True], ids=["at first", "once it has worked"])
def test_a_network_called_wrongly_says_how_it_is_called(known, cond):
    model = ode.Model(labelled, VP, "noise")
    if known:
        for _ in range(2):
            sample(model.given(y=torch.zeros(4)))
    with pytest.raises(
        ode.OdesolveError,
        match=r"net\(x, t.*\), with x of shape \(4, 2\) and t "
        r"of shape \(4,\)",
    ):
        sample(model.given(**cond))


NONE, TWO = (lambda: 1.0), (lambda a, b, c: 1.0)
CALLED = {
    "solver": lambda fn: sample(solver=fn),
    "callback": lambda fn: sample(callback=fn),
    "time": lambda fn: ode.Model(net, VP, "noise", time=fn),
    "scale": lambda fn: MODEL.guided(fn, {}, {}),
}


@rows("fn", [NONE, TWO, int], ids=["none", "too many", "a class"])
@rows("name", CALLED)
def test_functions_that_cannot_be_called_as_they_will_be(name, fn):
    with pytest.raises(ode.OdesolveError, match=rf"^{name} is .*called as {name}\("):
        CALLED[name](fn)


TIMES = {
    "text": lambda path, t: "1",
    "a number": lambda path, t: 0.5,
    "nothing": lambda path, t: None,
    "complex": lambda path, t: t + 0j,
    "one": lambda path, t: t[:1],
    "a mean": lambda path, t: t.mean(),
    "a row": lambda path, t: t[None],
    "a column": lambda path, t: t[:, None],
    "twice": lambda path, t: torch.cat([t, t]),
    "pairs": lambda path, t: torch.stack([t, t], 1),
}


@rows("name", TIMES)
def test_functions_of_time_return_one_real_number_for_each(name):
    model = ode.Model(net, VP, "noise", time=TIMES[name])
    with pytest.raises(ode.OdesolveError, match=r"^time\(path, t\) returned"):
        sample(model)


def test_a_function_of_time_that_does_is_taken():
    assert torch.equal(sample(ode.Model(net, VP, "noise", time=lambda path, t: 1000 * t)), sample())


@rows("start", [{4, 2}, {4: 1, 2: 1}, frozenset({4})], ids=repr)
@rows("draws", [sample, lambda start: ode.profile(MODEL, ["ddim"], 5, noise=start)])
def test_a_shape_has_an_order(draws, start):
    with pytest.raises(ode.OdesolveError, match=r"^noise is .*such as"):
        draws(start=start)


@rows("state", [(4, 2), [4, 2], Z.numpy(), 3], ids=["tuple", "list", "array", "number"])
def test_a_state_is_no_shape(state):
    with pytest.raises(ode.OdesolveError, match=r"^state is .*give a tensor"):
        ode.sample(MODEL, None, "ddim", 3, state=state)


def test_a_solver_that_writes_no_step():
    def idle(w):
        pass

    with pytest.raises(ode.OdesolveError, match=r"^solver idle wrote no step"):
        sample(solver=idle)


ONES, HALVES = torch.ones(4, 2), torch.full((4, 2), 0.5)
KNOWN = {
    "nan in the mask": (ONES, torch.full((4, 2), torch.nan)),
    "other sizes": (torch.ones(4, 3), torch.ones(4, 3)),
    "one number": (torch.ones(4, 1), torch.ones(4, 1)),
    "a mask of another size": (ONES, torch.ones(4, 3)),
}


@rows("name", KNOWN)
def test_what_is_known_is_of_the_states_shape(name):
    with pytest.raises(ode.OdesolveError, match=r"known|mask"):
        sample(MODEL.inpainted(*KNOWN[name]))


@rows(
    "mask", [HALVES, HALVES[:1], HALVES[:, :1], ONES.bool()], ids=["all", "row", "column", "bool"]
)
def test_masks_that_cover_the_state(mask):
    assert sample(MODEL.inpainted(ONES, mask)).shape == Z.shape


def test_an_interval_in_noise_levels_lies_outside():
    with pytest.raises(ode.OdesolveError, match=r"interval=.*outside"):
        MODEL.guided(2.0, {}, {}, interval=(0.28, 5.42))


@rows("first_step", [0.1, torch.nan, "x", object()], ids=["number", "nan", "text", "object"])
def test_steps_of_one_size_have_no_first_one(first_step):
    with pytest.raises(ode.OdesolveError, match=r"^first_step="):
        ode.solve_sde(
            lambda t, y: -y, lambda t, y: 0 * y, Z, steps=3, seed=0, first_step=first_step
        )
