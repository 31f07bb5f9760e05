"""What a training cannot use is told before it has cost a day: optimisers, schedules, averages,
data, parts."""

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

import odesolve as ode
from odesolve import objectives as obj
from odesolve.errors import OdesolveError
from odesolve.training import EMA, Batches, Growing, fit, recalibrated
from tests.rows import rows

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
LINEAR = ode.paths.Linear()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, x, t, **cond):
        return self.layer(x)


def trained(net, data=X, steps=3, objective=None, optimiser="sgd(lr=0.1)", **options):
    loss = objective or obj.Matching(ode.Model(net, LINEAR, "velocity"))
    return fit(
        loss, data, steps, optimiser=optimiser, batch=4, network=net, progress=False, **options
    )


def frozen():
    return Net().requires_grad_(False)


def scalar(value):
    return lambda x, generator=None: value


@rows(
    ("optimiser", "told"),
    [
        (lambda net: optim.LBFGS(net.parameters()), "LBFGS"),
        (lambda net: "muon", "not for these weights"),
        (
            lambda net: optim.SGD(Net().parameters(), lr=0.1),
            "no weight of the optimiser has a gradient",
        ),
    ],
)
@rows("dtype", [None, torch.float16])
def test_optimisers_that_move_nothing(optimiser, told, dtype):
    net = Net()
    with pytest.raises(OdesolveError, match=told):
        trained(net, optimiser=optimiser(net), dtype=dtype)


@rows(
    ("net", "options", "told"),
    [
        (frozen, {}, "has no gradient"),
        (lambda: Net().to("meta"), {}, "to_empty"),
        (lambda: Net().half(), {"dtype": torch.float16}, "keep them in float32"),
        (Net, {"objective": scalar(torch.tensor(1.0))}, "has no gradient"),
        (
            Net,
            {"objective": scalar(torch.ones((), requires_grad=True) * 1j)},
            "the loss is complex",
        ),
        (Net, {"objective": lambda x: x.mean()}, r"\(x, generator=\)"),
        (
            Net,
            {"objective": lambda x, generator: x.mean(), "cond": {"y": X}},
            r"\(x, generator=, cond=\)",
        ),
        (Net, {"ema": EMA(Net())}, "trains nothing"),
        (Net, {"schedule": lambda k: float("nan")}, "factor of step 0"),
        (Net, {"schedule": lambda k: None}, "factor of step 0"),
        (Net, {"schedule": lambda k: -1.0 if k else 1.0}, "factor of step 1"),
    ],
)
def test_trainings_that_could_not_be_right(net, options, told):
    net = net()
    with pytest.raises(OdesolveError, match=told):
        trained(net, optimiser=optim.SGD(net.parameters(), lr=0.1), **options)


def test_gradients_that_are_off():
    with torch.no_grad(), pytest.raises(OdesolveError, match="where gradients are on"):
        trained(Net())


def test_errors_within_an_objective_are_its_own():
    def objective(x, generator=None):
        raise TypeError("of mine")

    with pytest.raises(TypeError, match=r"^of mine$"):
        trained(Net(), objective=objective)


def test_schedules_that_end_before_the_training():
    net = Net()
    sgd = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(OdesolveError, match="total_steps=3"):
        trained(net, optimiser=sgd, schedule=lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=2))
    sgd = optim.SGD(net.parameters(), lr=0.1)
    assert (
        len(trained(net, optimiser=sgd, schedule=lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=3)))
        == 3
    )


@rows(
    ("data", "cond", "told"),
    [
        (TensorDataset(X), None, "DataLoader"),
        (lambda: X, None, r"data\(generator\)"),
        ([None], None, "a batch is NoneType"),
        (X.to_sparse(), None, "to_dense"),
        (X.to("meta"), None, "meta device"),
        (X, {"y": torch.eye(20).to_sparse()}, "to_dense"),
        (X, {"y": torch.arange(20, device="meta")}, "meta device"),
        (np.ma.masked_array(X.numpy(), X.numpy() > 0), None, "masked array"),
        (X, {"y": np.ma.masked_array(np.arange(20), np.arange(20) > 3)}, "masked array"),
    ],
)
def test_data_without_rows_of_numbers(data, cond, told):
    with pytest.raises(OdesolveError, match=told):
        trained(Net(), data, cond=cond)


@rows("kind", [">f4", ">f8", np.longdouble])
def test_arrays_of_other_byte_orders_and_widths(kind):
    given, plain = (Batches(X.numpy().astype(k), batch=4)(0)[0][0] for k in (kind, np.float64))
    assert torch.equal(given.double(), plain)
    labels = Batches(X, {"y": np.arange(20, dtype=">i4")}, 4)(0)
    assert torch.equal(X[labels[1]["y"].long()], labels[0][0])


@rows("parts", [{"network": Net()}, {"ema": Net()}, {"torch": Net()}, {"mine": 3}])
def test_parts_that_hide_others_or_have_no_state(parts, tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(OdesolveError, match="parts"):
        trained(Net(), folder=tmp_path, parts=parts)


def sequence(gamma, milestone, chained=False):
    def of(sgd):
        parts = [lr_scheduler.ConstantLR(sgd), lr_scheduler.ExponentialLR(sgd, gamma)]
        return (
            lr_scheduler.ChainedScheduler(parts)
            if chained
            else lr_scheduler.SequentialLR(sgd, parts, [milestone])
        )

    return of


@rows(("gamma", "milestone", "chained"), [(0.5, 2, False), (0.9, 1, False), (0.5, 2, True)])
def test_schedules_within_schedules_are_compared(gamma, milestone, chained, tmp_path):
    pytest.importorskip("safetensors")

    def run(steps, schedule, folder=tmp_path):
        net, g = Net(), torch.Generator().manual_seed(0)
        sgd = optim.SGD(net.parameters(), lr=0.1)
        trained(net, steps=steps, optimiser=sgd, schedule=schedule(sgd), folder=folder, generator=g)
        return net.layer.weight

    run(1, sequence(0.9, 2, chained))
    resumed = run(3, sequence(0.9, 2, chained))
    assert torch.equal(resumed, run(3, sequence(0.9, 2, chained), None))
    with pytest.raises(OdesolveError, match=r"training\.schedule"):
        run(4, sequence(gamma, milestone, chained))


def test_conditions_that_come_with_a_resume_are_told(tmp_path):
    pytest.importorskip("safetensors")
    trained(Net(), folder=tmp_path)
    with pytest.raises(OdesolveError, match=r"training\.cond"):
        trained(Net(), steps=4, folder=tmp_path, cond={"y": X})


def test_averages_of_what_is_not_known():
    with pytest.raises(OdesolveError, match="call it once"):
        EMA(nn.LazyLinear(3))
    with pytest.raises(OdesolveError, match=r"profile\(k\)"):
        EMA(Net(), lambda: 0.5)
    for answer in ("a", None):
        with pytest.raises(OdesolveError, match="return a share"):
            EMA(Net(), lambda k, answer=answer: answer).update()
    for points in (0, None, -1):
        with pytest.raises(OdesolveError, match="points of step 0"):
            Growing(lambda k, points=points: points)(1)


@rows("bad", [float("nan"), float("inf")])
def test_statistics_of_broken_data_are_refused_and_undone(bad):
    net = nn.BatchNorm1d(3)
    with pytest.raises(OdesolveError, match="finite data"), recalibrated(net):
        net(X * bad)
    assert torch.equal(net.running_mean, torch.zeros(3))
    assert int(net.num_batches_tracked) == 0
