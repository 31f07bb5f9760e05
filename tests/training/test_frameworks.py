"""Inside Lightning and accelerate: each precision, an average, and runs that go on as if they had
never stopped."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import odesolve as ode
from odesolve.objectives import Matching
from odesolve.training import EMA, Exponential

POINTS = torch.randn(48, 2, generator=torch.Generator().manual_seed(5))
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
EVERYTHING = pytest.mark.filterwarnings("ignore")  # theirs, of one another and of torch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t.to(x.dtype)[:, None]], 1))


def loader():
    return DataLoader(TensorDataset(POINTS), 16)


def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "lightning", reason="Lightning is not installed: pip install lightning"
        )


def module_of(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = Net()
            self.ema = EMA(self.net, Exponential(0.8), dtype=torch.float32)
            self.seen = []

        def on_fit_start(self):  # where weights have the precision and the device of the trainer
            self.ema.module.to(self.device)
            self.objective = Matching(ode.Model(self.net, ode.paths.Linear(), "velocity"))

        def training_step(self, batch, index):
            torch.manual_seed(self.global_step)
            loss = self.objective(batch[0].float()).loss
            self.seen.append(float(loss.detach()))
            return loss

        def on_train_batch_end(self, *given):
            self.ema.update()

        def configure_optimizers(self):
            adam = torch.optim.Adam(self.net.parameters(), 1e-2)
            return [adam], [torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)]

        def on_save_checkpoint(self, checkpoint):
            checkpoint["ema"] = self.ema.state_dict()

        def on_load_checkpoint(self, checkpoint):
            self.ema.load_state_dict(checkpoint["ema"])

    return Module()


def fitted(lightning, precision, epochs, file=None, keep=None):
    module = module_of(lightning)
    trainer = lightning.Trainer(
        max_epochs=epochs, precision=precision, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(), ckpt_path=file)
    if keep is not None:
        trainer.save_checkpoint(keep)
    return module


@EVERYTHING
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lightning_goes_on_bitwise(tmp_path, precision):
    lightning_ = lightning()
    whole = fitted(lightning_, precision, 4)
    file = tmp_path / "a.ckpt"
    first = fitted(lightning_, precision, 2, keep=file)
    resumed = fitted(lightning_, precision, 4, file)
    kind = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in resumed.net.parameters()} == {kind}
    assert {p.dtype for p in resumed.ema.module.parameters()} == {torch.float32}
    assert first.seen + resumed.seen == whole.seen
    assert len(whole.seen) == whole.ema.updates == resumed.ema.updates == 12
    for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.ema.module.parameters(), resumed.ema.module.parameters(), strict=True):
        assert torch.equal(a, b)
    with resumed.ema.applied():
        x = ode.sample(
            ode.Model(resumed.net, ode.paths.Linear(), "velocity"), (4, 2), "heun", 4, seed=0
        )
    assert torch.isfinite(x).all()


@EVERYTHING
def test_lightning_in_float32_is_the_loop_by_hand():
    module = fitted(lightning(), "32-true", 2)
    torch.manual_seed(0)
    net = Net()
    ema, objective = EMA(net, 0.8), Matching(ode.Model(net, ode.paths.Linear(), "velocity"))
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    rates, step = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9), 0
    for _ in range(2):
        for (x,) in loader():
            torch.manual_seed(step)
            adam.zero_grad()
            objective(x).loss.backward()
            adam.step()
            ema.update()
            step += 1
        rates.step()
    for a, b in zip(net.parameters(), module.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for a, b in zip(ema.module.parameters(), module.ema.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@EVERYTHING
def test_a_model_alone_holds_no_weights_for_lightning():
    """What the page says: the network is an attribute of the module, as the ode.Model has no
    parameters of its own."""
    lightning_ = lightning()

    class Module(lightning_.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = ode.Model(Net(), ode.paths.Linear(), "velocity")

    assert not list(Module().parameters())
    assert not Module().state_dict()
    assert list(module_of(lightning_).parameters())


def accelerated(precision, epochs, folder=None, keep=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerate = pytest.importorskip(
            "accelerate", reason="accelerate is not installed: pip install accelerate"
        )
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if precision == "bf16-mixed" else "no", cpu=True
    )
    torch.manual_seed(0)
    net = Net().to(torch.bfloat16 if precision == "bf16-true" else torch.float32)
    ema = EMA(net, Exponential(0.8), dtype=torch.float32)
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    rates = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)
    prepared, adam, rates, data = accelerator.prepare(net, adam, rates, loader())
    ema.module.to(accelerator.device)
    objective = Matching(ode.Model(prepared, ode.paths.Linear(), "velocity"))
    accelerator.register_for_checkpointing(ema)
    if folder is not None:
        accelerator.load_state(str(folder))
    seen = []
    for _ in range(ema.updates // 3, epochs):
        for (x,) in data:
            loss = objective(x).loss
            adam.zero_grad()
            accelerator.backward(loss)
            adam.step()
            ema.update()
            seen.append(float(loss.detach()))
        rates.step()
    if keep is not None:
        accelerator.save_state(str(keep))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    return net, ema, seen


@EVERYTHING
@pytest.mark.parametrize("precision", PRECISIONS)
def test_accelerate_goes_on_bitwise(tmp_path, precision):
    """States of torch's generators are in accelerate's folder, so nothing is seeded by step."""
    whole = accelerated(precision, 4)
    first = accelerated(precision, 2, keep=tmp_path / "a")
    torch.randn(7)
    resumed = accelerated(precision, 4, tmp_path / "a")
    assert first[2] + resumed[2] == whole[2]
    assert whole[1].updates == resumed[1].updates == 12
    assert {p.dtype for p in whole[1].module.parameters()} == {torch.float32}
    for mine, theirs in ((whole[0], resumed[0]), (whole[1].module, resumed[1].module)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    x = ode.sample(
        ode.Model(resumed[1].module, ode.paths.Linear(), "velocity"), (4, 2), "heun", 4, seed=0
    )
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("when", ["before", "after"])
def test_averages_of_half_precision_are_kept_in_float32(kind, when):
    """Also where the weights become so after the average was made, as Lightning does with them."""
    torch.manual_seed(0)
    net = Net().to(kind) if when == "before" else Net()
    ema = EMA(net, 0.9, dtype=torch.float32)
    average = [p.detach().float().clone() for p in net.parameters()]
    net.to(kind)
    for _ in range(50):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(1e-2)
        ema.update()
        average = [
            torch.lerp(a, p.detach().float(), 1 - 0.9)
            for a, p in zip(average, net.parameters(), strict=True)
        ]
    for a, p in zip(average, ema.module.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), a, rtol=1e-6, atol=1e-7)
    own = [p.detach().clone() for p in net.parameters()]
    with ema.applied():
        for a, p in zip(average, net.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), a.to(kind))
    assert all(torch.equal(a, b) for a, b in zip(own, net.parameters(), strict=True))
    again = EMA(Net().to(kind), 0.9, dtype=torch.float32)
    again.load_state_dict(ema.state_dict())
    assert torch.equal(again.module.layers[0].weight, ema.module.layers[0].weight)


def test_averages_of_half_precision_at_the_door():
    for make, told in (
        (lambda: EMA(Net().bfloat16()), "is of half precision: give dtype=torch.float32"),
        (lambda: EMA(Net(), dtype=torch.bfloat16), "dtype=torch.bfloat16: give torch.float32"),
    ):
        with pytest.raises(ode.OdesolveError, match=told):
            make()
