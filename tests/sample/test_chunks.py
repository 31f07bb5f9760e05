"""``batch=``: chunks for memory, bitwise what one batch gives, at every door that takes it; or
refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import odesolve as ode
from odesolve.errors import Diverged, OdesolveError
from tests.rows import rows

B, D = 10, 6
DRAWN = torch.Generator().manual_seed(0)
W = torch.randn(D, D, generator=DRAWN) / D**0.5
X = torch.randn(B, D, generator=DRAWN)
Y, NONE = torch.linspace(0.3, 2.0, B), torch.zeros(B)
EACH = torch.linspace(-1.0, 4.0, B)
KNOWN, MASK = torch.randn(B, D, generator=DRAWN), (torch.rand(B, D, generator=DRAWN) > 0.5).float()
VP = ode.paths.VP()
SIZES = (1, 3, 4, 10, 64)


def net(x, t, y, **more):
    return 0.5 * (x[:, :, None] * W).sum(1) + torch.sin(t[:, None] + y[:, None]) * (1 + 0.1 * x)


def judge(x, t, y):
    return -0.1 * ((x - y[:, None]) ** 2).sum(1)


PLAIN = ode.Model(net, VP, "noise", cond={"y": Y}, time="t")
MODELS = {
    "conditions": PLAIN,
    "guided": PLAIN.guided(3.0, uncond={"y": NONE}),
    "scale of each": PLAIN.guided(EACH, uncond={"y": NONE}),
    "scale of time": PLAIN.guided(lambda t: 1 + t, uncond={"y": NONE}),
    "rescaled": PLAIN.guided(EACH, uncond={"y": NONE}, rescale=0.7),
    "interval": PLAIN.guided(EACH, uncond={"y": NONE}, interval=(0.2, 0.6)),
    "labels": PLAIN.classifier_guided(judge, EACH, {"y": Y}),
    "known": PLAIN.inpainted(KNOWN, MASK),
    "known of all": PLAIN.inpainted(KNOWN[:1], MASK[:1]),
    "threshold": ode.Model(net, VP, "noise", cond={"y": Y}, threshold=0.9),
}
SOLVERS = [None, "ddim", "dpmpp_2m_sde", "heun", "unipc_2", "restart", "ddpm", "dpmpp_2m_sde(tree)"]


@rows("solver", SOLVERS)
@rows("model", MODELS)
def test_bitwise_one_batch(model, solver):
    model = MODELS[model]
    starts = [{"noise": (B, D), "ids": torch.arange(B) * 7 + 3}, {"noise": X}, {"state": X}]
    for start, sizes in zip(starts, (SIZES, SIZES[2:3], SIZES[1:2]), strict=True):
        expected = ode.sample(model, solver=solver, steps=5, seed=3, **start)
        for batch in sizes:
            assert torch.equal(
                ode.sample(model, solver=solver, steps=5, seed=3, batch=batch, **start), expected
            )


EXECUTORS = {
    "window": ode.Window(),
    "exact window": ode.Window(exact=True),
    "parareal": ode.Parareal(),
    "exact parareal": ode.Parareal(exact=True),
}


@rows("executor", EXECUTORS)
@rows("model", ["guided", "scale of each", "rescaled", "known"])
def test_executors(model, executor):
    how = {"solver": "dpmpp_2m", "steps": 12, "executor": EXECUTORS[executor]}
    expected = ode.sample(MODELS[model], X, **how)
    assert torch.equal(ode.sample(MODELS[model], X, batch=4, **how), expected)


@rows("kind", ["flow", "plan", "ito"])
@rows("model", ["guided", "scale of each"])
def test_densities_while_sampling(model, kind):
    how = {
        "solver": "sde_dpmpp_1" if kind == "ito" else "dpmpp_2m",
        "steps": 4,
        "log_prob": kind,
        "seed": 5,
    }
    whole, parts = (ode.sample(MODELS[model], X, batch=batch, **how) for batch in (None, 3))
    assert torch.equal(whole.x, parts.x)
    for name in ("latent", "nfe", "products"):
        assert torch.equal(getattr(whole.log_prob, name), getattr(parts.log_prob, name))
    for name in ("value", "stderr"):  # to the rounding of the network's derivative
        torch.testing.assert_close(
            getattr(parts.log_prob, name), getattr(whole.log_prob, name), rtol=1e-6, atol=0
        )
    assert (parts.nfe, parts.status, parts.log_prob.status) == (whole.nfe, "ok", ["ok"] * B)


@rows(
    "options",
    [{}, {"steps": 5}, {"trace": "hutchinson"}, {"base": lambda z: -z.abs().sum(1)}],
    ids=["tolerance", "steps", "trace", "base"],
)
@pytest.mark.filterwarnings("ignore:the latents are")
def test_log_prob(options):
    some = torch.arange(3)
    model = MODELS["scale of each"].rows(some, B)
    whole, parts = (
        ode.log_prob(model, 0.1 * X[some], seed=1, batch=batch, **options) for batch in (None, 2)
    )
    for name in ("value", "stderr", "latent"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert parts.status == whole.status
    assert type(parts) is type(whole)


@pytest.mark.filterwarnings("ignore:the latents are")
def test_log_prob_of_functions_with_arguments_of_each_sample():
    def f(t, x, a, b):
        return a[:, None] * x * b

    whole, parts = (
        ode.log_prob(f, X, args=(Y, 0.1), base="normal", steps=6, solver="rk4", batch=b)
        for b in (None, 3)
    )
    assert torch.equal(whole.value, parts.value)
    within = ode.log_prob(f, X, args=(Y, 0.1), base="normal", batch=3)
    torch.testing.assert_close(
        within.value, ode.log_prob(f, X, args=(Y, 0.1), base="normal").value, rtol=0, atol=0.02
    )


@pytest.mark.filterwarnings("ignore:the latents are")
def test_other_doors():
    guided = MODELS["scale of each"]
    for call in (
        lambda **b: ode.invert(guided, X, "ddim", 5, **b),
        lambda **b: ode.sdedit(guided, X, 0.5, "dpmpp_2m_sde", 5, seed=0, **b),
        lambda **b: ode.interpolate(guided, X, X.flip(0), [0.0, 0.3, 1.0], "ddim", 5, **b),
        lambda **b: ode.Sampler(guided, "dpmpp_2m_sde", 5, **b)((B, D), seed=2),
        lambda **b: ode.Sampler(guided, "ddim", 5, **b)(X),
        lambda **b: ode.Sampler(guided, "ddim", 5, **b)(state=X),
        lambda **b: (
            ode.bits_per_dim(
                guided,
                ((X.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1,
                levels=256,
                steps=4,
                seed=0,
                **b,
            ).value
        ),
    ):
        assert torch.equal(call(), call(batch=4))
    with pytest.raises(OdesolveError, match="has 10 numbers for a batch of 9"):
        ode.Sampler(guided, "ddim", 5, batch=4)(X[:9])


def test_seeds_and_torchs_generator_are_used_alike():
    for start in ({"noise": (B, D)}, {"noise": X}):
        found = []
        for batch in (None, 3):
            torch.manual_seed(4)
            found.append(
                ode.sample(PLAIN, solver="dpmpp_2m_sde", steps=4, full=True, batch=batch, **start)
            )
            found.append(float(torch.rand(())))  # what is drawn afterwards
        whole, after, parts, then = found
        assert torch.equal(whole.x, parts.x)
        assert (whole.seed, whole.nfe, after) == (parts.seed, parts.nfe, then)
        assert bool(parts.arrived.all())
        assert whole.arrived is None


@rows("module", [True, False])
def test_gradients_flow_through_chunks(module):
    torch.manual_seed(0)
    layer = nn.Linear(D, D).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, t, y):
            return torch.tanh(self.layer(x)) + y[:, None]

    net_ = Net() if module else lambda x, t, y: torch.tanh(layer(x)) + y[:, None]
    found = []
    for batch in (None, 3):
        x, y, each = (v.double().requires_grad_() for v in (X, Y, EACH))
        model = ode.Model(net_, VP, "noise", cond={"y": y}).guided(
            each, uncond={"y": NONE.double()}
        )
        out = ode.sample(model, x, "ddim", 4, adjoint="backprop", batch=batch)
        leaves = [x, y, each, *layer.parameters()]
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)
    assert all(bool(g.abs().max() > 0) for g in found[1])


def explodes(x, t, y, **more):
    """NaN for the samples whose y is 7."""
    return torch.where((y == 7.0)[:, None] & (t < 0.5)[:, None], torch.nan, net(x, t, y))


def test_a_chunk_that_diverges_leaves_the_others():
    y = Y.clone()
    y[5] = 7.0
    model = ode.Model(explodes, VP, "noise", cond={"y": y}, time="t")
    whole = ode.sample(PLAIN, X, "ddim", 6)
    found = ode.sample(model, X, "ddim", 6, full=True, batch=2)
    assert found.status == "diverged"
    assert found.arrived.tolist() == [k not in (4, 5) for k in range(B)]
    assert torch.equal(found.x[found.arrived], whole[found.arrived])
    assert bool(found.x.isfinite().all())
    alone = ode.sample(model.rows(torch.tensor([4, 5]), B), X[4:6], "ddim", 6, full=True)
    assert (found.t, found.steps) == (alone.t, alone.steps)
    assert torch.equal(found.x[4:6], alone.x)
    with pytest.raises(Diverged, match="2 of 10 samples") as caught:
        ode.sample(model, X, "ddim", 6, batch=2)
    assert torch.equal(caught.value.state, found.x)
    dense = ode.sample(model, X, "ddim", 6, batch=2, log_prob="flow", seed=0)
    assert dense.log_prob.value.isnan().tolist() == (~found.arrived).tolist()
    assert [word != "ok" for word in dense.log_prob.status] == (~found.arrived).tolist()
    none = ode.sample(
        model.given(y=torch.full((B,), 7.0)), X, "ddim", 6, batch=2, log_prob="flow", seed=0
    )
    assert none.log_prob is None


BAD = [0, -1, 2.0, 1.5, True, "4", [4], float("nan"), float("inf")]


@rows("batch", BAD, ids=repr)
def test_batches_that_are_none_are_refused(batch):
    for call in (
        lambda: ode.sample(PLAIN, X, "ddim", 3, batch=batch),
        lambda: ode.invert(PLAIN, X, "ddim", 3, batch=batch),
        lambda: ode.log_prob(PLAIN, X, steps=3, batch=batch),
        lambda: ode.Sampler(PLAIN, "ddim", 3, batch=batch),
    ):
        with pytest.raises(OdesolveError, match=r"batch=.*give a whole number of at least 1"):
            call()


def test_batches_of_other_types_of_whole_numbers():
    expected = ode.sample(PLAIN, X, "ddim", 3)
    for batch in (np.int64(4), torch.tensor(4), 2**63 - 1):
        assert torch.equal(ode.sample(PLAIN, X, "ddim", 3, batch=batch), expected)
    assert ode.sample(ode.Model(lambda x, t: x, VP, "noise"), (0, 3), "ddim", 2, batch=4).shape == (
        0,
        3,
    )


def test_bad_starts_are_refused_before_any_work():
    calls = []

    def counted(x, t, y):
        calls.append(len(x))
        return net(x, t, y)

    model = ode.Model(counted, VP, "noise", cond={"y": Y})
    bad = X.clone()
    bad[-1, 0] = torch.nan
    for start, told in (
        ({"noise": bad}, "NaN or infinity"),
        ({"state": bad}, "NaN or infinity"),
        ({"noise": X, "state": X}, "either noise="),
        ({}, "either noise="),
        ({"noise": torch.tensor(1.0)}, r"give floats of shape \(B"),
        ({"noise": (2.5, 3)}, "noise is"),
        ({"noise": X, "ids": [0, 1]}, "one whole number per sample"),
        ({"noise": X, "ids": [*range(9), -1]}, "ids lie outside"),
    ):
        with pytest.raises(OdesolveError, match=told):
            ode.sample(model, solver="ddim", steps=3, batch=4, **start)
    assert calls == []


def test_conditions_that_are_not_of_each_sample_are_shared():
    """Whatever the batch becomes: their size may be that of a chunk of a chunk, as an executor
    makes them."""
    shared = torch.linspace(0.5, 1.5, 3)

    def f(x, t, y, table, size, names):
        assert table.shape == (3,)
        assert size == (64, 64)
        assert len(names) == len(x) or len(names) == len(x) // 2
        return net(x, t, y) * table.mean()

    cond = {"y": Y, "table": shared, "size": (64, 64), "names": [str(k) for k in range(B)]}
    model = ode.Model(f, VP, "noise", cond=cond, time="t")
    guided = model.guided(2.0, uncond={"y": NONE})
    for m in (model, guided):
        for executor in (None, ode.Window(exact=True)):
            expected = ode.sample(m, X, "ddim", 6, executor=executor)
            for batch in (4, 5, 10):
                assert torch.equal(
                    ode.sample(m, X, "ddim", 6, executor=executor, batch=batch), expected
                )


def test_conditions_within_others_are_cut():
    def f(x, t, more, arrays, parts):
        return net(x, t, more["y"]) + torch.from_numpy(arrays)[:, None] + parts[0][:, None]

    cond = {"more": {"y": Y, "n": 3}, "arrays": Y.numpy(), "parts": [Y, Y]}
    model = ode.Model(f, VP, "noise", cond=cond, time="t")
    expected = ode.sample(model, X, "ddim", 4)
    assert torch.equal(ode.sample(model, X, "ddim", 4, batch=3), expected)


def test_conditions_that_would_pass_for_one_each_in_a_chunk_are_refused():
    """Four labels for ten samples: refused by the network for one batch, and silently right in
    shape for chunks of four."""
    for model in (PLAIN.given(y=Y[:4]), PLAIN.guided(2.0, uncond={"y": NONE[:4]})):
        with pytest.raises(OdesolveError, match=r"'y' holds 4 for 10 samples.*batch= other than 4"):
            ode.sample(model, X, "ddim", 3, batch=4)
    with pytest.raises(OdesolveError, match="what is known has 4 samples for a batch of 10"):
        ode.sample(PLAIN.inpainted(KNOWN[:4], MASK), X, "ddim", 3, batch=4)
    with pytest.raises(OdesolveError, match="the mask has 4 samples for a batch of 10"):
        ode.sample(PLAIN.inpainted(KNOWN, MASK[:4]), X, "ddim", 3, batch=4)
    with pytest.raises(OdesolveError, match="has 4 numbers for a batch of 10"):
        ode.sample(PLAIN.guided(EACH[:4], uncond={"y": NONE}), X, "ddim", 3, batch=4)


def test_at_most_so_many_rows_reach_the_network():
    sizes = []

    def f(x, t, y):
        sizes.append(len(x))
        return net(x, t, y)

    ode.sample(ode.Model(f, VP, "noise", cond={"y": Y}), X, "ddim", 2, batch=4)
    assert sizes == [4, 4, 4, 4, 2, 2]


def test_the_bar_counts_the_calls_of_all_chunks(monkeypatch):
    import tqdm.auto

    seen = []

    class Bar:
        n = 0

        def __init__(self, total, **options):
            seen.append(total)

        def update(self, by):
            self.n += by
            seen.append(self.n)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    # where a log is written instead
    monkeypatch.setattr("odesolve.process.progress._is_log", lambda stream: False)
    for options in (
        {},
        {"callback": lambda step: None},
        {"executor": ode.Parareal()},
        {"adjoint": "backprop"},
        {"log_prob": "flow"},
    ):
        seen.clear()
        ode.sample(PLAIN, X, "ddim", 5, batch=4, progress=True, **options)
        assert seen[0] == 15
        assert seen[-2:] == [15, "closed"]
        assert seen[1:-1] == sorted(seen[1:-1])
        assert seen.count("closed") == 1
