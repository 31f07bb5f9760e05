"""Losses in one graph: torch.compile(fullgraph=True) takes them whole, with the numbers of the loss
as it is."""

import pytest
import torch

import odesolve as ode
from odesolve.objectives import (
    BridgeMatching,
    Consistency,
    ConsistencyTraining,
    ContinuousConsistency,
    DenoisingScoreMatching,
    FlowMap,
    GuidedDistillation,
    Interpolant,
    Matching,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
    TrigConsistency,
    Uncertainty,
    bridges,
    dropped,
)
from tests.products import LONG

LINEAR, VP, EDM, TABLE = (
    ode.paths.Linear(),
    ode.paths.VP(),
    ode.paths.EDM(),
    ode.paths.Discrete.ddpm(),
)
torch.manual_seed(0)
LAYER = torch.nn.Linear(2, 2)
X, Y = torch.randn(16, 2), torch.arange(16) % 3


def model(predicts, path):
    return ode.Model(lambda x, t, **cond: LAYER(x), path, predicts, dtype=torch.float32)


FLOW = model("velocity", LINEAR)
MAP = FlowMap(lambda x, r, t, **cond: LAYER(x), LINEAR, dtype=torch.float32)
CARRIED = Consistency(model("edm", EDM))
LOSSES = {
    "flow": Matching(FLOW),
    "conditions": lambda x: PLAIN(x, cond={"y": Y}),
    "weight": Matching(FLOW, "noise"),
    "importance": Matching(FLOW, times="logit_normal", importance=True),
    "vp": Matching(model("noise", VP)),
    "score": Matching(model("score", VP), "noise"),
    "edm": Matching(model("edm", EDM)),
    "table": Matching(model("noise", TABLE), "min_snr(5)"),
    "continuous law on a table": Matching(model("noise", TABLE), times="logit_normal"),
    "bridge": lambda x: BRIDGE(x, x),
    "interpolant": lambda x: INTERPOLANT(x, x),
    "DenoisingScoreMatching": DenoisingScoreMatching(model("noise", VP)),
    "ConsistencyTraining": ConsistencyTraining(CARRIED),
    "ContinuousConsistency": ContinuousConsistency(CARRIED),
    "MeanFlow": MeanFlow(MAP),
    "Shortcut": Shortcut(MAP, share=0.5),
    "ProgressiveDistillation": ProgressiveDistillation(FLOW, FLOW, "uniform", 4),
    "GuidedDistillation": lambda x: GUIDED(x, cond={"y": Y}),
    "sCM": TrigConsistency(model("v", ode.paths.Trig())),
    "uncertainty": Matching(FLOW, uncertainty=Uncertainty(LINEAR, 4)),
    "mask": lambda x: PLAIN(x, mask=torch.ones(16, 2)),
    "dropped": lambda x: BY_LABEL(x, cond=dropped({"y": Y}, {"y": 3}, {"y": 0.5})),
    "guided MeanFlow": lambda x: GUIDED_MAP(x, cond={"y": Y}),
}
# The others, Matching on other paths or relatives of these, are compiled in the long suite alone.
SHORT = {
    "conditions", "table", "bridge", "ConsistencyTraining", "Shortcut", "ProgressiveDistillation",
    "uncertainty", "mask", "guided MeanFlow",
}  # fmt: skip
PLAIN, BRIDGE, INTERPOLANT = (
    Matching(FLOW),
    BridgeMatching(FLOW, 1.0),
    Interpolant(FLOW, bridges.constant(0.1)),
)
BY_LABEL = Matching(
    ode.Model(lambda x, t, y: LAYER(x) + y[:, None], LINEAR, "velocity", dtype=torch.float32)
)
GUIDED_MAP = MeanFlow(MAP, null={"y": 3}, scale=2.0)
GUIDED = GuidedDistillation(FLOW, FLOW, {"y": 0})


def made(loss):
    torch.manual_seed(1)
    LAYER.zero_grad()
    value = loss(X)
    value.backward()
    return torch.cat([value.detach()[None], LAYER.weight.grad.flatten()])


@pytest.mark.few(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in LOSSES if LONG or n in SHORT])
def test_losses_compile_whole(name):
    torch._dynamo.reset()
    plain = made(lambda x: LOSSES[name](x).loss)
    whole = torch.compile(lambda x: LOSSES[name](x).loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made(whole), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_times_outside_of_the_path_are_seen_in_a_compiled_loss():
    """Where nobody may look, the loss is NaN, not that of other times."""
    torch._dynamo.reset()
    objective = Matching(FLOW)
    whole = torch.compile(lambda x, t: objective(x, t=t).each, fullgraph=True, backend="aot_eager")
    t = torch.full((16,), 0.5)
    assert torch.isfinite(whole(X, t)).all()
    assert torch.isnan(whole(X, t + torch.arange(16)).detach()).tolist() == [False] + [True] * 15


@pytest.mark.filterwarnings("ignore")
def test_dropout_that_could_not_be_the_same_is_refused():
    torch._dynamo.reset()
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    net.forward = lambda x, t: LAYER(x)
    objective = ConsistencyTraining(Consistency(ode.Model(net, EDM, "edm", dtype=torch.float32)))
    with pytest.raises(Exception, match=r"torch.compile draws it anew"):
        torch.compile(lambda x: objective(x).loss, fullgraph=True, backend="aot_eager")(X)
