"""What ``ode.check`` sees of networks themselves: modes, layouts, rows, training."""

import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.process.progress import Bar
from odesolve.wiring import look
from tests.products import LONG
from tests.rows import rows

PATH = ode.paths.Linear()
# Behaviour is looked at first: what is asked of it alone needs no readings.
AT_ONCE = {"seconds": 0.01}


class Small(nn.Module):
    """Two layers of 64 and whatever is put between them."""

    def __init__(self, *between, dim=2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, 64),
            nn.SiLU(),
            *between,
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, dim),
        )

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None].to(x.dtype)], 1))


def halves(n, seed=0):
    """Two tight clusters."""
    return ode.problems.mixture([0.5, 0.5], [[-1.0, 0.5], [1.0, -0.5]], std=0.1).sample(n, seed)


@pytest.fixture(scope="module")
def learned():
    """A flow that was trained for some seconds."""
    torch.manual_seed(0)
    net, data = Small(), halves(4096, 1).float()
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    for _ in range(700):
        x = data[torch.randint(len(data), (256,))]
        e, t = torch.randn_like(x), torch.rand(len(x))
        loss = (net((1 - t[:, None]) * x + t[:, None] * e, t) - (e - x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.requires_grad_(False)


@rows(
    ("path", "predicts", "wrong"),
    [
        (PATH, "velocity", set()),
        (PATH.flipped(), "data", {"direction", "prediction"}),
        *[(PATH, "noise", {"prediction"}), (PATH.flipped(), "velocity", {"direction"})] * LONG,
    ],
)
def test_a_trained_network(learned, path, predicts, wrong):
    found = ode.check(ode.Model(learned, path, predicts), halves(800, 2))
    assert {f.about for f in found.findings if f.verdict == "wrong"} == (
        wrong | {"model"} if wrong else set()
    ), found
    assert found["training"].verdict == "right"


@pytest.mark.long
@rows("predicts", ["velocity"] + ["noise", "data", "v"] * LONG)
def test_an_untrained_network_is_said_to_be_one(predicts):
    torch.manual_seed(3)
    found = ode.check(ode.Model(Small(), PATH, predicts), halves(800, 2))
    assert found["training"].verdict == "wrong", found
    assert "untrained" in found["training"].says
    assert {found[a].verdict for a in ("prediction", "path", "direction", "time")} == {"unknown"}


def filtering(x, t):
    """The noise that a linear filter sees in data of deviation 0.7 on VP, as a network says that
    has learned little."""
    path = ode.paths.VP()
    alpha, sigma = path.alpha(t.double()), path.sigma(t.double())
    return (sigma / (0.49 * alpha**2 + sigma**2)).to(x.dtype)[:, None] * x


def squares(n, seed=0):
    """Of two numbers each, in eight of sixteen squares, which a linear filter does not see."""
    draw = torch.Generator().manual_seed(seed)
    row, column = torch.randint(4, (n,), generator=draw), torch.randint(2, (n,), generator=draw)
    return 0.6 * (
        torch.stack([2 * column + row % 2, row], 1) + torch.rand(n, 2, generator=draw) - 2
    )


@pytest.mark.long
def test_a_network_that_has_learned_little_is_not_read_wrong():
    found = ode.check(ode.Model(filtering, ode.paths.VP(), "noise"), squares(800))
    assert found.ok, found
    assert found["training"].verdict == "doubt"
    assert "linear filter" in found["training"].says


@pytest.mark.long
@pytest.mark.parametrize("predicts", ["data", "score"])
def test_a_network_that_has_learned_little_is_seen_to_be_read_wrong(predicts):
    found = ode.check(ode.Model(filtering, ode.paths.VP(), predicts), squares(800))
    assert found["prediction"].typed == 'predicts="noise"', found


@pytest.mark.long
@pytest.mark.parametrize("share", [1.0, -1.0, 0.5])
def test_an_untrained_network_that_passes_its_input_on_is_said_to_be_one(share):
    torch.manual_seed(3)
    small = Small()
    found = ode.check(
        ode.Model(lambda x, t: share * x + small(x, t), ode.paths.VP(), "noise"), halves(800, 2)
    )
    assert found["training"].verdict == "wrong", found
    assert "untrained" in found["training"].says


@rows(("layer", "named"), [(nn.Dropout(0.2), "dropout"), (nn.BatchNorm1d(64), "BatchNorm1d")])
def test_train_mode(layer, named):
    net = Small(layer).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = ode.check(ode.Model(net, PATH, "velocity"), halves(100), **AT_ONCE)
    assert found["mode"].verdict == "wrong"
    assert named in found["mode"].says
    assert found["mode"].typed == "net.eval()"
    assert all(m.training for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    found = ode.check(ode.Model(net.eval(), PATH, "velocity"), halves(100), **AT_ONCE)
    assert found["mode"].verdict == "right"


def test_rows_that_see_each_other(learned):
    model = ode.Model(lambda x, t: learned(x - x.mean(0), t), PATH, "velocity")
    assert ode.check(model, halves(400), **AT_ONCE)["rows"].verdict == "doubt"
    right = ode.Model(learned, PATH, "velocity")
    assert ode.check(right, halves(400), **AT_ONCE)["rows"].verdict == "right"


def test_random_answers(learned):
    model = ode.Model(lambda x, t: learned(x, t) + 0.1 * torch.randn_like(x), PATH, "velocity")
    found = ode.check(model, halves(400), **AT_ONCE)
    assert found["repeated"].verdict == "wrong"


def test_answers_that_are_not_finite():
    found = ode.check(ode.Model(lambda x, t: x / 0.0, PATH, "velocity"), halves(100))
    assert found["answers"].verdict == "wrong"
    assert not found.ok


def test_channels_last_and_bytes():
    problem = ode.problems.digits()
    net = problem.model(ode.paths.VP(), "noise").net
    pictures = problem.sample(100 if LONG else 40, seed=2)

    def strict(x, t):
        if x.shape[1] != 1:
            raise RuntimeError("expected 1 channel")
        return net(x, t)

    model = ode.Model(strict, ode.paths.VP(), "noise")
    found = ode.check(model, pictures.permute(0, 2, 3, 1))
    assert found["layout"].verdict == "wrong"
    assert found["layout"].typed == "x.permute(0, 3, 1, 2)"
    assert found["prediction"].verdict == "right"
    as_bytes = ((pictures + 1) * 127.5).round().clamp(0, 255)
    found = ode.check(model, as_bytes)
    assert found["data"].verdict == "wrong"
    assert found["data"].typed == "x / 127.5 - 1"


SCALED = [
    (lambda x: (x + 1) / 2, "2 * x - 1"),
    (lambda x: (x + 1) * 127.5, "x / 127.5 - 1"),
]


@pytest.mark.long  # the short suite asks about bytes above
@pytest.mark.parametrize(("given", "typed"), SCALED)
def test_data_of_another_scale(given, typed):
    problem = ode.problems.digits()
    pictures = problem.sample(100, seed=2)
    found = ode.check(problem.model(ode.paths.VP(), "noise"), given(pictures))
    assert found["data"].verdict == "wrong"
    assert found["prediction"].verdict == "right"
    assert typed in found["data"].typed or found["data"].typed == "(x - x.mean()) / x.std()"


def test_a_profile_warns_of_a_wrong_reading(learned):
    with pytest.warns(
        UserWarning,
        match=r"another prediction: ode.Model\(net, ode.paths.Linear\(\), "
        r"predicts=\"velocity\"\)",
    ):
        ode.profile(ode.Model(learned, PATH, "v"), ["ddim"], 4, noise=(64, 2), timing=0)


def test_a_profile_says_nothing_of_a_right_one(learned):
    ode.profile(ode.Model(learned, PATH, "velocity"), ["ddim"], 4, noise=(64, 2), timing=0)


def labelled(x, t, y=None):
    return torch.nn.functional.embedding(y, torch.zeros(3, x[0].numel())) + x


def test_conditions_that_are_missing_or_too_few():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    model = ode.Model(labelled, ode.paths.VP(), "noise")
    with pytest.raises(
        OdesolveError,
        match=r"it takes y too: give "
        r"ode\.check\(model\.given\(y=\.\.\.\), data\)",
    ):
        ode.check(model, x)
    with pytest.raises(
        OdesolveError, match="the condition 'y' holds 7 for 40 samples of data: give one per sample"
    ):
        ode.check(model.given(y=torch.zeros(7, dtype=torch.long)), x)


@rows("scale", [100.0] + [1.0] * LONG)
def test_no_more_readings_are_counted_than_were_announced(scale, monkeypatch):
    told = []

    class Counted(Bar):
        def __enter__(self):
            told.append(self.total)
            return told.append

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(look, "Bar", Counted)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    ode.check(ode.Model(lambda x, t: torch.tanh(x), ode.paths.VP(), "noise"), scale * x)
    total, *counts = told
    assert len(counts) > 100
    assert counts == sorted(counts)
    assert counts[-1] <= total
