"""Losses and gradients that are not finite stop a training in every precision, and never pass for
steps."""

import copy
import math

import pytest
import torch

from odesolve.objectives import Terms
from odesolve.training import EMA, NotFinite, checkpoint, fit
from tests.rows import rows

POINTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(5))
HALVES = (torch.float16, torch.bfloat16)


class Gradient(torch.autograd.Function):
    """A finite number whose gradient is what one says."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, given):
        return torch.full_like(given, ctx.value), None


class Spoilt:
    """Squares of a layer, whose gradient is not finite from one step on, up to another."""

    def __init__(self, first, last=math.inf, value=math.nan):
        self.layer, self._first, self._last, self._value, self._done = (
            torch.nn.Linear(2, 2),
            first,
            last,
            value,
            0,
        )

    def __call__(self, x, *, generator):
        out = self.layer(x).float()
        if self._first <= self._done < self._last:
            out = Gradient.apply(out, self._value)
        self._done += 1
        each = 1e-3 * out.square().mean(1)  # no overflow of its own
        return Terms(each.mean(), each, torch.zeros(len(x)))


def trained(objective, steps, **options):
    optimiser = torch.optim.SGD(objective.layer.parameters(), 1e-2)
    return fit(
        objective, POINTS, steps, optimiser=optimiser, batch=4, network=objective.layer, **options
    )


@rows("value", [math.nan, math.inf, -math.inf])
@rows("first", [0, 5])
def test_float16_stops_after_so_many_steps_left_out(tmp_path, value, first):
    objective = Spoilt(first, value=value)
    ema = EMA(objective.layer)
    weights = []
    after = lambda done, _: weights.append(objective.layer.weight.detach().clone())
    with pytest.raises(NotFinite, match="32 steps in a row, which float16 leaves out") as error:
        trained(objective, 300, dtype=torch.float16, ema=ema, after=after, folder=tmp_path)
    assert error.value.step == first + 31
    assert ema.updates == first
    assert torch.equal(objective.layer.weight, weights[first - 1] if first else weights[0])
    held = checkpoint.read(error.value.file).facts["batch"][0]
    assert torch.equal(held, error.value.batch[0])
    assert held.shape == (4, 2)


def test_float16_goes_on_after_fewer(tmp_path):
    objective = Spoilt(3, 3 + 31)
    history = trained(objective, 40, dtype=torch.float16)
    assert int((~torch.isfinite(history.norms)).sum()) == 31
    assert torch.isfinite(history.norms[-6:]).all()


def test_steps_left_out_are_counted_through_a_stop(tmp_path):
    """20 before the run was stopped and 12 after it are 32 in a row."""
    torch.manual_seed(0)
    first = Spoilt(2)
    trained(first, 22, dtype=torch.float16, folder=tmp_path)
    with pytest.raises(NotFinite, match="of 32 steps in a row") as error:
        trained(Spoilt(0), 300, dtype=torch.float16, folder=tmp_path)
    assert error.value.step == 33


def test_a_run_of_which_nothing_is_left_says_so():
    with pytest.warns(UserWarning, match="all 3 steps overflowed float16"):
        trained(Spoilt(0), 3, dtype=torch.float16)


@rows("value", [math.nan, math.inf, -math.inf])
@rows("dtype", [None, torch.bfloat16])
def test_bfloat16_and_plain_stop_at_once(tmp_path, dtype, value):
    objective = Spoilt(4, value=value)
    with pytest.raises(NotFinite, match="after 4 steps") as error:
        trained(objective, 9, dtype=dtype, folder=tmp_path)
    before = copy.deepcopy(objective.layer.weight.detach())
    assert torch.isfinite(before).all()
    assert torch.equal(checkpoint.read(error.value.file).facts["batch"][0], error.value.batch[0])


@rows("dtype", [None, *HALVES])
@rows("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_stop_in_every_precision(tmp_path, dtype, value):
    layer = torch.nn.Linear(2, 2)

    def objective(x, *, generator):
        each = layer(x).float().square().mean(1)
        return Terms(each.mean() * value, each, each)

    optimiser = torch.optim.SGD(layer.parameters(), 1e-2)
    with pytest.raises(NotFinite, match="after 0 steps") as error:
        fit(
            objective,
            POINTS,
            9,
            optimiser=optimiser,
            batch=4,
            network=layer,
            dtype=dtype,
            folder=tmp_path,
        )
    assert checkpoint.read(error.value.file).step == 0


@rows("how", ["loss", "gradient"])
def test_of_several_batches_the_spoilt_one_is_saved(tmp_path, how):
    """Of three batches of a step the second is the one; after it all gradients are NaN."""
    layer, calls = torch.nn.Linear(2, 2), []

    def objective(x, *, generator):
        calls.append(x)
        out = layer(x)
        if len(calls) == 5:
            out = out * math.nan if how == "loss" else Gradient.apply(out, math.nan)
        each = 1e-3 * out.square().mean(1)  # no overflow of its own
        return Terms(each.mean(), each, each)

    optimiser = torch.optim.SGD(layer.parameters(), 1e-2)
    with pytest.raises(NotFinite, match="after 1 steps") as error:
        fit(
            objective,
            POINTS,
            9,
            optimiser=optimiser,
            batch=4,
            accumulate=3,
            network=layer,
            folder=tmp_path,
        )
    assert torch.equal(checkpoint.read(error.value.file).facts["batch"][0], calls[4])
