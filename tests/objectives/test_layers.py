"""Layers of networks inside of losses: dropout that is the same in both evaluations, and layers
without a forward derivative."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import odesolve as ode
from odesolve.objectives import (
    Consistency,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    FlowMap,
    MeanFlow,
)
from odesolve.objectives.guidance import dropped
from tests.rows import rows

EDM, LINEAR = ode.paths.EDM(), ode.paths.Linear()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 4))

    def forward(self, x, t):
        return self.layers(nn.functional.dropout(x, 0.3, self.training))


def kinds(f, **options):
    teacher = ode.Model(lambda x, t: 0 * x, EDM, "edm", dtype=torch.float32)
    loud = ode.Model(Dropping(), EDM, "edm", dtype=torch.float32)
    return {
        "training": ConsistencyTraining(f, 1000, **options),
        "distillation": ConsistencyDistillation(f, teacher, 1000, **options),
        "of a teacher that drops": ConsistencyDistillation(f, loud, 1000, **options),
    }


@rows("name", ["training", "distillation", "of a teacher that drops"])
def test_student_and_target_drop_the_same(name):
    """Two neighbouring times of a thousand: the same masks leave next to nothing, where others left
    a hundredth."""
    torch.manual_seed(0)
    net = Dropping()
    f = Consistency(ode.Model(net, EDM, "edm", dtype=torch.float32))
    seen = []
    net.layers[1].register_forward_hook(lambda _, given, out: seen.append(out == 0))
    x, index = torch.ones(64, 4), torch.full((64,), 500)
    kinds(f)[name](x, index=index, noise=torch.ones(64, 4))
    student, target = seen[-1], seen[-2]
    assert torch.equal(student, target)
    assert bool(student.any())


def test_the_loss_of_neighbours_is_of_their_distance():
    torch.manual_seed(0)
    f = Consistency(ode.Model(Dropping(), EDM, "edm", dtype=torch.float32))
    x, index = torch.ones(64, 4, dtype=torch.float32), torch.full((64,), 9000)
    loss = ConsistencyTraining(f, 20_000)(x, index=index, noise=torch.ones(64, 4)).loss
    assert float(loss.detach()) < 1e-6


def test_an_average_drops_the_same_as_its_student():
    """A target of other weights in train mode, too."""
    torch.manual_seed(0)
    nets = [Dropping(), Dropping()]
    nets[1].load_state_dict(nets[0].state_dict())
    f, average = (Consistency(ode.Model(net, EDM, "edm", dtype=torch.float32)) for net in nets)
    index = torch.full((64,), 9000)
    loss = ConsistencyTraining(f, 20_000, target=average)(
        torch.ones(64, 4), index=index, noise=torch.ones(64, 4)
    ).loss
    assert float(loss.detach()) < 1e-6


def test_masks_are_new_in_every_batch():
    torch.manual_seed(0)
    f = Consistency(ode.Model(Dropping(), EDM, "edm", dtype=torch.float32))
    objective, x, index = ConsistencyTraining(f, 18), torch.ones(64, 4), torch.full((64,), 8)
    first, second = (objective(x, index=index, noise=x) for _ in range(2))
    assert not torch.equal(first.each, second.each)


def test_networks_that_draw_nothing_leave_torchs_generator_alone():
    f = Consistency(ode.Model(lambda x, t: 0.1 * x, EDM, "edm", dtype=torch.float32))
    torch.manual_seed(3)
    ConsistencyTraining(f)(torch.ones(4, 2), generator=generator())
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))


class Layered(nn.Module):
    """Of two times and of one: a layer in the middle."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(3, 8), nn.Linear(8, 2), middle

    def forward(self, x, *times):
        hidden = self.first(torch.cat([x, times[-1][:, None].to(x)], 1))
        return self.last(self.middle(self.first, x, hidden))


class Norm(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, layer, x, hidden):
        return self.norm(hidden)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def attend(layer, x, hidden):
    heads = hidden.view(-1, 1, 2, 4)
    return nn.functional.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 8)


LAYERS = {
    "attention": (lambda: attend, r"sdpa_kernel\(torch.nn.attention.SDPBackend.MATH\)"),
    "checkpoints": (
        lambda: lambda _, x, h: checkpoint(torch.tanh, h, use_reentrant=False),
        "without torch.utils.check",
    ),
    "reentrant": (
        lambda: lambda _, x, h: checkpoint(torch.tanh, h, use_reentrant=True),
        "without torch.utils.check",
    ),
    "a function": (lambda: lambda _, x, h: Own.apply(h), "give the function setup_context and jvp"),
    "BatchNorm": (
        lambda: Norm(nn.BatchNorm1d(8)),
        "give GroupNorm or LayerNorm, put BatchNorm in eval mode",
    ),
}


def objectives(net):
    flat = ode.Model(net, EDM, "edm", dtype=torch.float32)
    return {
        "MeanFlow": MeanFlow(FlowMap(net, LINEAR, dtype=torch.float32)),
        "ContinuousConsistency": ContinuousConsistency(Consistency(flat)),
    }


@rows("layer", LAYERS)
@rows("name", ["MeanFlow", "ContinuousConsistency"])
def test_layers_without_a_forward_derivative_are_named(name, layer):
    make, told = LAYERS[layer]
    with pytest.raises(ode.OdesolveError, match=f"the network has no forward derivative: .*{told}"):
        objectives(Layered(make()))[name](torch.ones(8, 2))


def math_attention(objective, x):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return objective(x).loss


@rows("name", ["MeanFlow", "ContinuousConsistency"])
@rows(
    ("layer", "call"),
    [
        (lambda: attend, math_attention),
        (lambda: Norm(nn.BatchNorm1d(8).eval()), lambda objective, x: objective(x).loss),
        (lambda: Norm(nn.GroupNorm(2, 8)), lambda objective, x: objective(x).loss),
        (
            lambda: Norm(torch.func.replace_all_batch_norm_modules_(nn.BatchNorm1d(8))),
            lambda o, x: o(x).loss,
        ),
    ],
    ids=["attention", "eval", "groups", "replaced"],
)
def test_what_is_named_works(name, layer, call):
    net = Layered(layer())
    call(objectives(net)[name], torch.randn(8, 2, generator=generator())).backward()
    assert torch.isfinite(net.first.weight.grad).all()


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@rows("name", ["MeanFlow", "ContinuousConsistency"])
@rows("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_normed_weights_work(name, norm):
    net = Layered(lambda _, x, h: h)
    norm(net.last)
    objectives(net)[name](torch.randn(8, 2, generator=generator())).loss.backward()
    assert torch.isfinite(net.first.weight.grad).all()


def test_errors_of_the_networks_own_stay():
    def fails(x, r, t):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        MeanFlow(FlowMap(fails, LINEAR))(torch.ones(3, 2))


@rows(
    ("numbers", "of", "expected"),
    [(3072, "sum", 0.99675), (3072, "mean", 0.0909), (1, "sum", 0.0909)],
)
def test_the_offset_is_of_the_sum(numbers, of, expected):
    """An error of 1e-4 in each of 3072 numbers: .3072 / (.3072 + .001), the paper's; of the mean
    1e-4 / (1e-4 + 1e-3)."""
    f = FlowMap(lambda x, r, t: 0.01 + 0 * x, LINEAR)
    x = torch.zeros(4, numbers, dtype=torch.float64)
    t = torch.full((4,), 0.5)
    found = MeanFlow(f, of=of)(x, noise=x, r=t, t=t)
    torch.testing.assert_close(found.error, torch.full((4,), 1e-4, dtype=torch.float64))
    assert float(found.loss) == pytest.approx(expected, rel=1e-3)
    half = MeanFlow(f, of=of, power=0.5)(x, noise=x, r=t, t=t)
    size = 1e-4 * (numbers if of == "sum" else 1)
    assert float(half.loss) == pytest.approx(size / (size + 1e-3) ** 0.5, rel=1e-9)


def test_unknown_sizes():
    with pytest.raises(ode.OdesolveError, match="unknown of 'summ': did you mean 'sum'"):
        MeanFlow(FlowMap(lambda x, r, t: x, LINEAR), of="summ")


def test_conditions_are_dropped_each_by_itself():
    label, text = torch.arange(20_000) % 9 + 1, torch.ones(20_000, 2)
    cond, null = {"label": label, "text": text, "size": label}, {"label": 0, "text": 0.0, "size": 0}
    out = dropped(cond, null, {"label": 0.2, "text": 0.5}, generator())
    gone, silent = out["label"] == 0, out["text"][:, 0] == 0
    assert out["size"] is label
    for found, share in ((gone, 0.2), (silent, 0.5), (gone & silent, 0.1)):
        assert abs(float(found.double().mean()) - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    for share, told in (({"labl": 0.1}, "did you mean 'label'"), ({"label": 1.5}, "at most 1")):
        with pytest.raises(ode.OdesolveError, match=told):
            dropped(cond, null, share)


def test_nested_conditions_are_dropped():
    cond = {
        "text": {"tokens": torch.ones(6, 2), "mask": torch.ones(6, dtype=torch.bool)},
        "y": torch.ones(6),
    }
    null = {"text": {"tokens": torch.zeros(1, 2), "mask": False}, "y": 0}
    out = dropped(cond, null, 0.5, generator())
    gone = out["y"] == 0
    assert 0 < int(gone.sum()) < 6
    assert torch.equal(out["text"]["tokens"][:, 0] == 0, gone)
    assert torch.equal(~out["text"]["mask"], gone)
    with pytest.raises(
        ode.OdesolveError,
        match=r"text holds .* and its null is 0: give the same "
        r"names",
    ):
        dropped(cond, {"text": 0, "y": 0})


@rows(
    "null",
    [
        0.5,
        torch.tensor(0.5),
        float("nan"),
        float("inf"),
        -0.25,
        torch.tensor([0.5]),
        None,
        "a",
        [0, 1],
    ],
)
def test_labels_with_a_null_of_another_kind(null):
    """A half was cut to label 0 without a word."""
    with pytest.raises(ode.OdesolveError, match=r"y is .* null"):
        dropped({"y": torch.arange(4)}, {"y": null}, 1.0)
    assert dropped({"y": torch.arange(4)}, {"y": 7.0}, 1.0)["y"].tolist() == [7] * 4
