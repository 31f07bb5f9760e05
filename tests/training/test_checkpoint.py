"""Checkpoints hold what a run goes on from, are whole or not there, and refuse what is not
theirs."""

import copy
import json
import math
import sys

import pytest
import torch

import odesolve as ode
from odesolve.objectives import Matching, times
from odesolve.training import EMA, TorchRandom, checkpoint, describe

pytest.importorskip("safetensors")


def network(width=4):
    return torch.nn.Sequential(
        torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2)
    )


def same(a, b):
    """Equal, bit by bit, with the same kinds of containers and keys."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype and a.shape == b.shape
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_facts_come_back_as_they_were(tmp_path):
    facts = {
        "none": None,
        "word": "tensor",
        "words": ["tensor", "x"],
        "pair": (1, 2.5),
        3: {True: 1e-320, None: math.inf},
        "nan": math.nan,
        "third": 1 / 3,
        "empty": [],
        "no": {},
        "x": torch.arange(6.0).view(2, 3).T,
        "scalar": torch.tensor(7),
        "bytes": torch.arange(4, dtype=torch.uint8),
        "none_of": torch.zeros(0, 3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
    }
    checkpoint.save(tmp_path / "a.safetensors", {}, step=3, facts=facts)
    found = checkpoint.read(tmp_path / "a.safetensors")
    assert same(found.facts, facts)
    assert found.step == 3
    assert found.states == {}
    assert [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "optimiser", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop]
)
def test_every_part_comes_back(tmp_path, optimiser):
    torch.manual_seed(0)
    net = network()
    chosen, ema, generator = (
        optimiser(net.parameters(), 1e-2),
        EMA(net, 0.9),
        torch.Generator().manual_seed(3),
    )
    for _ in range(3):
        chosen.zero_grad()
        net(torch.randn(5, 2, generator=generator)).square().mean().backward()
        chosen.step()
        ema.update()
    parts = {
        "network": net,
        "optimiser": chosen,
        "ema": ema,
        "generator": generator,
        "torch": TorchRandom(),
    }
    checkpoint.save(tmp_path / "a.safetensors", parts, step=3)
    kept = {k: copy.deepcopy(p.state_dict()) for k, p in parts.items() if k != "generator"}
    drawn = torch.randn(4, generator=generator), torch.randn(4)
    other = network()
    new = {
        "network": other,
        "optimiser": optimiser(other.parameters(), 5.0),
        "ema": EMA(other, 0.9),
    }
    new |= {"generator": torch.Generator(), "torch": TorchRandom()}
    assert checkpoint.load(tmp_path / "a.safetensors", new).step == 3
    assert all(
        same(part.state_dict(), kept[k]) for k, part in new.items() if k not in ("generator",)
    )
    assert torch.equal(torch.randn(4, generator=new["generator"]), drawn[0])
    assert torch.equal(torch.randn(4), drawn[1])


def test_restored_states_do_not_share_memory_with_the_file(tmp_path):
    net = network()
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, {"network": net})
    before = file.read_bytes()
    found = checkpoint.read(file)
    found.states["network"]["0.weight"].add_(1.0)
    assert file.read_bytes() == before
    assert torch.equal(checkpoint.read(file).states["network"]["0.weight"], net[0].weight)


def test_a_part_alone(tmp_path):
    """For sampling no more than the average is read."""
    net = network()
    checkpoint.save(tmp_path / "a.safetensors", {"network": net, "ema": EMA(net)})
    other = network()
    checkpoint.load(tmp_path / "a.safetensors", {"ema": (ema := EMA(other))})
    assert torch.equal(ema.module[0].weight, net[0].weight)
    assert not torch.equal(other[0].weight, net[0].weight)
    with pytest.raises(ode.OdesolveError, match="holds no optimiser: it holds network, ema"):
        checkpoint.load(
            tmp_path / "a.safetensors", {"optimiser": torch.optim.SGD(net.parameters())}
        )


def test_tied_weights(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    checkpoint.save(tmp_path / "a.safetensors", {"network": net})
    kept = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.zero_()
    checkpoint.load(tmp_path / "a.safetensors", {"network": net})
    assert torch.equal(net[1].weight, kept)


def test_another_configuration_is_refused_by_name(tmp_path):
    net = network()
    file = tmp_path / "a.safetensors"
    held = {
        "path": {"name": "VP", "beta_max": 20.0},
        "rates": [1, 2],
        "clip": None,
        "old": 1,
        "steps": 3,
        "on": True,
    }
    checkpoint.save(file, {"network": net}, configuration=held)
    assert (
        checkpoint.load(
            file, {}, configuration={**held, "rates": (1, 2), "steps": 3.0}
        ).configuration
        == held
    )
    given = {
        "path": {"name": "VP", "beta_max": 30.0},
        "rates": [1, 3],
        "clip": 1.0,
        "new": "x",
        "steps": 3,
        "on": 1,
    }
    with pytest.raises(ode.OdesolveError) as told:
        checkpoint.load(file, {"network": network()}, configuration=given)
    for line in (
        "path.beta_max is 20.0 in the file, 30.0 here",
        "rates is [1, 2] in the file, [1, 3] here",
        "clip is None in the file, 1.0 here",
        "old is 1 in the file, absent here",
        "new is absent in the file, 'x' here",
        "on is True in the file, 1 here",
    ):
        assert line in str(told.value)
    assert "path.name" not in str(told.value)
    assert "steps" not in str(told.value)


def test_another_make_is_refused_before_anything_changes(tmp_path):
    net, wide = network(), network(5)
    file, generator = tmp_path / "a.safetensors", torch.Generator().manual_seed(1)
    checkpoint.save(file, {"generator": torch.Generator().manual_seed(2), "network": net})
    before = generator.get_state(), copy.deepcopy(wide.state_dict())
    with pytest.raises(
        ode.OdesolveError,
        match=r"another network: 0\.weight is \[4, 2\] in the "
        r"file, \[5, 2\] here",
    ):
        checkpoint.load(file, {"generator": generator, "network": wide})
    assert torch.equal(generator.get_state(), before[0])
    assert same(dict(wide.state_dict()), dict(before[1]))
    with pytest.raises(ode.OdesolveError, match=r"2\.bias is \[2\] in the file, absent here"):
        checkpoint.load(file, {"network": net[:1]})


def test_files_that_cannot_be_read(tmp_path):
    file = tmp_path / "a.safetensors"
    with pytest.raises(ode.OdesolveError, match="no checkpoint that can be read"):
        checkpoint.read(file)
    checkpoint.save(file, {"network": network()})
    whole = file.read_bytes()
    for body in (b"", b"x" * 100, whole[:-1]):
        file.write_bytes(body)
        with pytest.raises(ode.OdesolveError, match="no checkpoint that can be read"):
            checkpoint.read(file)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ode.OdesolveError, match="no checkpoint that can be read"):
        checkpoint.read(file)
    save_file({"x": torch.zeros(1)}, file, {"odesolve": json.dumps({"format": 2})})
    with pytest.raises(ode.OdesolveError, match="has format 2"):
        checkpoint.read(file)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, {}, step=1)
    with pytest.raises(ode.OdesolveError, match=r"facts\.f is function"):
        checkpoint.save(file, {}, step=2, facts={"f": lambda: 1})
    with pytest.raises(ode.OdesolveError, match="the configuration is not plain"):
        checkpoint.save(file, {}, step=2, configuration={"x": torch.zeros(1)})
    monkeypatch.setattr(
        "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ode.OdesolveError, match="no room left"):
        checkpoint.save(file, {}, step=2)
    monkeypatch.undo()
    assert checkpoint.read(file).step == 1
    assert [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (
        lambda: checkpoint.save(tmp_path / "a", {}),
        lambda: checkpoint.read(tmp_path / "a"),
    ):
        with pytest.raises(ImportError, match="pip install safetensors"):
            act()


def test_descriptions_are_plain_and_tell_settings_apart():
    def told(weight=None, path=None, low=0.0):
        model = ode.Model(network(), path or ode.paths.VP(), "noise")
        return describe(Matching(model, weight=weight, times=times.Uniform(low)))

    plain = told()
    assert json.loads(json.dumps(plain)) == plain
    assert plain == told()
    assert plain["kind"] == "Matching"
    assert plain["model"]["path"] == ode.paths.VP().spec()
    found = checkpoint.differences(plain, told("vlb", ode.paths.VP(0.2), 0.1))
    assert [line.split(" is ")[0] for line in found] == [
        "model.path.beta_min",
        "weight",
        "times.low",
    ]
    assert describe({"f": describe, "x": torch.zeros(2, 3), 1: {torch.float32: (1, None)}}) == {
        "f": "describe",
        "x": ["torch.float32", 2, 3],
        "1": {"torch.float32": [1, None]},
    }
    loop = {}
    loop["self"] = loop
    assert json.dumps(describe(loop))
