"""Every objective with each prediction and path that it takes, crossed with conditions, couplings,
importance, masks, dropout, half precision and the ends of its path: the loss is that of plain
formulas, or the piece is refused by name."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

import odesolve as ode
from odesolve import objectives as obj
from odesolve.objectives import times
from tests.objectives.pieces import PATHS, PIECES, batch
from tests.products import diagonal
from tests.rows import rows

# What is no loss of data by itself: parts, functions and rooms.
OTHERS = {
    "Consistency", "Energy", "FlowMap", "Independent", "Levels", "OptimalTransport", "Sinkhorn", "Terms", "Uncertainty",
    "balance", "bridges", "consistency", "couplings", "distillation", "dropped", "energy", "flow_maps", "halve", "ncsn",
    "pairs", "rectified", "reflow", "schroedinger", "straightness", "times",
}  # fmt: skip
SETTING = {name: (piece.predicts[0], piece.paths[0]) for name, piece in PIECES.items()}


def made(name, predicts, path, net=None, **options):
    net = PIECES[name].net(0) if net is None else net
    return net, PIECES[name].make(net, predicts, PATHS[path], **options)


def every(name, paths=None):
    """What an objective takes, each prediction and each path at least once; or its first few paths."""
    return diagonal(PIECES[name].predicts, PIECES[name].paths[:paths])


def near(name):
    """Tolerances: of a solve that of its steps."""
    return {"rtol": 1e-6, "atol": 1e-5} if name == "MaximumLikelihood" else {}


def close(found, exact, **tolerance):
    torch.testing.assert_close(found, exact, **({"rtol": 1e-9, "atol": 1e-10} | tolerance))


def test_every_objective_is_in_the_table():
    assert set(PIECES) | OTHERS == set(obj.__all__)
    assert not set(PIECES) & OTHERS


CONDITIONS = {"none": (), "labels": ("y",), "labels and numbers": ("y", "c")}


@rows("name", PIECES)
def test_losses_are_those_written_out(name):
    """Without conditions, with labels, and with real numbers beside them."""
    for predicts, path in every(name):
        piece, b = PIECES[name], batch(PATHS[path])
        net, objective = made(name, predicts, path)
        for kept in CONDITIONS.values():
            own = replace(b, cond={k: b.cond[k] for k in kept})
            if kept and "cond" not in piece.takes:
                with pytest.raises(ode.OdesolveError, match="cond"):
                    piece.call(objective, own)
                continue
            found = piece.call(objective, own)
            exact = piece.plain(objective, net, PATHS[path], predicts, own, None).detach()
            close(found.each, exact, **near(name))
            close(found.loss, found.each.mean())


MASKS = {
    "booleans": torch.tensor([True, False, True]),
    "weights": torch.tensor([[0.5, 0.0, 2.0]], dtype=torch.float64),
    "one a sample": torch.rand(
        6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    ),
}


@rows("name", PIECES)
def test_masks(name):
    for predicts, path in every(name, 3):
        piece, b = PIECES[name], replace(batch(PATHS[path]), cond={})
        net, objective = made(name, predicts, path)
        for mask in MASKS.values():
            if "mask" not in piece.takes:
                with pytest.raises(
                    ode.OdesolveError, match="has no mask=: a bound or density is of all numbers"
                ):
                    piece.call(objective, b, mask=mask)
                continue
            exact = piece.plain(objective, net, PATHS[path], predicts, b, mask.double()).detach()
            close(piece.call(objective, b, mask=mask).each, exact)


def best(x, y, cond, weight):
    """The order of y within labels of the least sum of squares, real conditions beside it: by
    trying all."""
    order = torch.arange(len(x))
    for label in cond["y"].unique():
        rows = (cond["y"] == label).nonzero()[:, 0]
        cost = torch.cdist(x[rows], y[rows]) ** 2
        cost = cost + weight * (cond["c"][rows, None] - cond["c"][rows]) ** 2
        tried = list(itertools.permutations(range(len(rows))))
        least = min(tried, key=lambda p: sum(float(cost[k, p[k]]) for k in range(len(rows))))
        order[rows] = rows[list(least)]
    return order


@rows("weight", [0.0, 2.0])
@rows("name", PIECES)
def test_couplings_with_conditions(name, weight):
    piece = PIECES[name]
    coupling = obj.OptimalTransport(cond_weight=weight)
    for predicts, path in every(name):
        if "coupling" not in piece.takes:
            with pytest.raises(ode.OdesolveError, match="coupling"):
                made(name, predicts, path, coupling=coupling)
            continue
        b = batch(PATHS[path])
        net, objective = made(name, predicts, path, coupling=coupling)
        moved = "z" if name == "Matching" else "source"
        order = best(b.x, getattr(b, moved), b.cond, weight)
        assert not torch.equal(order, torch.arange(6))
        exact = piece.plain(
            objective,
            net,
            PATHS[path],
            predicts,
            replace(b, **{moved: getattr(b, moved)[order]}),
            None,
        )
        close(piece.call(objective, b).each, exact.detach())


@rows("name", PIECES)
def test_importance(name):
    """The loss over the probability of the time, relative to even ones: by differences of the law's
    quantiles; of the bound's terms, by the root mean square of what was seen."""
    piece = PIECES[name]
    for predicts, path in every(name):
        own = PATHS[path]
        if "importance" not in piece.takes or name == "VariationalBound":
            continue
        law = times.LogitNormal(0.3, 0.8)
        b = batch(own)
        net, objective = made(name, predicts, path, times=law, importance=True)
        found = piece.call(objective, b)
        raw = piece.plain(objective, net, own, predicts, b, None).detach()
        close(found.raw, raw)
        share = (b.t - own.t_data) / (own.t_noise - own.t_data)
        z = (torch.logit(share) - 0.3) / 0.8
        chance = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) / 0.8 / (share * (1 - share))
        if own.training_steps:
            below = (torch.logit(share - 1 / own.training_steps) - 0.3) / 0.8
            chance = own.training_steps * (torch.special.ndtr(z) - torch.special.ndtr(below))
        close(
            found.each, raw / chance, rtol=1e-5 if own.training_steps else 1e-9
        )  # a table's times are found to 1e-6 steps
    if "importance" not in piece.takes:
        with pytest.raises(ode.OdesolveError, match="importance"):
            made(name, *SETTING[name], importance=True)


def test_importance_of_the_terms_of_a_bound():
    b = replace(batch(PATHS["vp"]), cond={})
    net, objective = made("VariationalBound", "noise", "vp", importance=True)
    for index in range(objective.count):
        for _ in range(10):  # as many as are remembered
            last = objective(b.x, noise=b.z, index=torch.full((6,), index))
    chances = objective.importance.probabilities
    assert float((chances - 1 / objective.count).abs().max()) > 0.01
    even = made("VariationalBound", "noise", "vp", net)[1]
    term = even(b.x, noise=b.z, index=torch.full((6,), objective.count - 1)).term
    close(last.each, last.prior + term / chances[-1], rtol=1e-6)


@rows("name", PIECES)
def test_dropout(name):
    """One evaluation draws it, or all share it; solves that ask a network again are told that it
    draws."""
    piece, (predicts, path) = PIECES[name], SETTING[name]
    b = replace(batch(PATHS[path]), cond={})
    net = piece.net(0, drop=0.4)
    _, objective = made(name, predicts, path, net)
    if not piece.draws_once and name != "Shortcut":
        with pytest.raises(ode.OdesolveError, match="dropout"):
            piece.call(objective, b)
        return
    found = piece.call(objective, b)
    if piece.draws_once:
        first, *others = net.drop.drawn
        assert all(torch.equal(first, other) for other in others)
        net.drop.fixed = first
        close(found.each, piece.plain(objective, net, PATHS[path], predicts, b, None).detach())
        net.drop.fixed = None
    net.eval()
    close(
        piece.call(objective, b).each,
        piece.plain(objective, net, PATHS[path], predicts, b, None).detach(),
    )


@rows("dtype", [torch.float16, torch.bfloat16])
@rows("name", PIECES)
def test_data_of_half_precision_are_refused(name, dtype):
    predicts, path = SETTING[name]
    b = replace(batch(PATHS[path]), cond={})
    with pytest.raises(ode.OdesolveError, match=rf"the data are {dtype}: give x.float\(\)"):
        PIECES[name].call(made(name, predicts, path)[1], replace(b, x=b.x.to(dtype)))


@rows("name", PIECES)
def test_networks_within_autocast(name):
    """In bfloat16 the network is rounded, and nothing else: the loss is that of a float64 network
    to its rounding."""
    for predicts, path in every(name, 3):
        piece, b = PIECES[name], replace(batch(PATHS[path], torch.float32), cond={})
        net, objective = made(name, predicts, path)
        exact = piece.plain(
            objective, net, PATHS[path], predicts, replace(batch(PATHS[path]), cond={}), None
        ).detach()
        single, objective = made(name, predicts, path, piece.net(0).float())
        try:
            with torch.autocast("cpu", torch.bfloat16):
                found = piece.call(objective, b)
                found.loss.backward()
        except ode.OdesolveError as error:
            assert name == "MaximumLikelihood"
            assert "autograd does not see" in str(error)  # noqa: PT017
            continue
        assert found.each.dtype in (torch.float32, torch.float64)
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in single.parameters())
        close(found.each.double(), exact, rtol=0.05, atol=0.05 * float(exact.abs().mean()))


def ends(path):
    return {"data": path.t_data, "noise": path.t_noise}


@rows("dtype", [torch.float64, torch.float32])
@rows("end", ["data", "noise"])
@rows("name", [name for name in PIECES if name not in ("MaximumLikelihood", "DiffFlow")])
def test_the_ends_of_paths(name, end, dtype):
    """A finite loss with finite gradients, or a time that is refused; the same in float32."""
    for predicts, path in every(name):
        piece, own = PIECES[name], PATHS[path]
        t = torch.full((6,), ends(own)[end], dtype=dtype)
        r = torch.full((6,), own.t_data, dtype=dtype)
        index = torch.zeros(6, dtype=torch.int64) if end == "data" else torch.full((6,), 99)
        b = replace(batch(own, dtype), cond={}, t=t, r=r, index=index)
        net, objective = made(name, predicts, path, piece.net(0).to(dtype))
        try:
            found = piece.call(objective, b)
        except ode.OdesolveError as error:
            told = ("is infinite: give times away", "give times between them", "give times from")
            assert any(part in str(error) for part in told)  # noqa: PT017
            continue
        assert math.isfinite(found.loss.detach())
        assert found.each.isfinite().all()
        found.loss.backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


@rows("word", ["foo", "y", "mask_", "timesteps"])
@rows("name", PIECES)
def test_calls_with_other_words(name, word):
    """Python's own error is not what a user gets; what is wrong within a network is left as it
    is."""
    predicts, path = SETTING[name]
    b = replace(batch(PATHS[path]), cond={})
    with pytest.raises(ode.OdesolveError, match=rf"^{name}\(\.\.\.\) has no {word}=: "):
        PIECES[name].call(made(name, predicts, path)[1], b, **{word: 3})
    with pytest.raises(
        ode.OdesolveError,
        match=rf"^{name}\(\.\.\.\) does not fit what was given "
        rf".*'x'",
    ):
        made(name, predicts, path)[1]()
