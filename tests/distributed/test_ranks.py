"""2 and 3 ranks give bitwise what one gives: samples, windows and log-densities."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

import odesolve as ode
from odesolve.distributed.ranks import cut, together
from tests.distributed.ranks import on_ranks
from tests.run.rational import PATH, model, noise

WORLDS = (2, 3)
UNEVEN = (pytest.param(2, marks=pytest.mark.long), 3)  # five rows do not divide by three
IDS = [7, 2, 40, 5, 11]
EXECUTORS = [lambda: ode.Window(exact=True), ode.Window, ode.Parareal]
SHIFT = torch.linspace(-0.3, 0.3, 5, dtype=torch.float64)


def conditioned():
    return model(cond={"shift": SHIFT})


def guided():
    return model().guided(
        2.0, {"shift": SHIFT}, {"shift": torch.zeros(5, dtype=torch.float64)}, interval=(0.1, 0.7)
    )


def as_lists(x):
    """Tensors come back through a pipe as plain numbers."""
    return x.tolist()


@pytest.mark.parametrize("world", WORLDS)
def test_samples_do_not_depend_on_the_ranks(world, tmp_path):
    cases = [
        ("ddim", conditioned()),
        ("dpmpp_2m_sde", guided()),
        ("predictor_corrector(norms=sample)", model(clip=1.5)),
    ]

    def check():
        mesh, out = ode.distributed.mesh(), []
        for solver, whose in cases:
            x = ode.distributed.sample(
                whose, (5, 2, 3), solver, 8, mesh=mesh, seed=3, ids=IDS, gather=True
            )
            given = ode.distributed.sample(whose, noise(), solver, 8, mesh=mesh, seed=3, ids=IDS)
            out.append((as_lists(x), as_lists(given)))
        return out

    found = on_ranks(check, world, tmp_path)
    for k, (solver, whose) in enumerate(cases):
        whole = ode.sample(whose, (5, 2, 3), solver, 8, seed=3, ids=IDS)
        given = ode.sample(whose, noise(), solver, 8, seed=3, ids=IDS)
        for ranks in found:
            assert torch.equal(torch.tensor(ranks[k][0]), whole)
        parts = [row for ranks in found for row in ranks[k][1]]
        assert torch.equal(torch.tensor(parts, dtype=given.dtype), given)


@pytest.mark.few(1)
@pytest.mark.parametrize("world", UNEVEN)
@pytest.mark.parametrize("made", EXECUTORS, ids=["window, exact", "window", "parareal"])
def test_windows_spread_over_ranks(world, made, tmp_path):
    """All along "time": every rank has the whole batch and evaluates its share of every round, with
    one all-gather."""
    cases = [
        ("ddim", conditioned()),
        ("dpmpp_2m", guided()),
        ("dpmpp_2m_sde", guided()),
        ("heun", model()),
    ]

    def check():
        mesh, out, gathers = ode.distributed.mesh(time=world), [], []
        gather = dist.all_gather
        dist.all_gather = lambda *a, **k: (gathers.append(1), gather(*a, **k))[1]
        for solver, whose in cases:
            window = made()
            gathers.clear()
            x = ode.distributed.sample(
                whose, noise(), solver, 12, mesh=mesh, seed=3, executor=window
            )
            out.append((as_lists(x), len(gathers), window.report.rounds))
        return out

    found = on_ranks(check, world, tmp_path)
    for k, (solver, whose) in enumerate(cases):
        window = made()
        alone = ode.sample(whose, noise(), solver, 12, seed=3, executor=window)
        for ranks in found:
            x, gathers, rounds = ranks[k]
            assert torch.equal(torch.tensor(x, dtype=torch.float64), alone)
            assert rounds == window.report.rounds
            if whose.branches == ("cond",):
                # before, of what all were given, and after, of who failed
                assert gathers == rounds + 2


def test_data_and_time(tmp_path):
    def check():
        mesh = ode.distributed.mesh(data=2, time=2)
        x = ode.distributed.sample(
            conditioned(), noise(), "ddim", 12, mesh=mesh, gather=True, executor=ode.Window()
        )
        return as_lists(x)

    alone = ode.sample(conditioned(), noise(), "ddim", 12, executor=ode.Window())
    for x in on_ranks(check, 4, tmp_path):
        assert torch.equal(torch.tensor(x, dtype=torch.float64), alone)


@pytest.mark.parametrize("world", UNEVEN)
def test_log_densities(world, tmp_path):
    x, narrow = noise(), conditioned()

    def check():
        mesh = ode.distributed.mesh()
        found = ode.distributed.log_prob(
            narrow, x, mesh=mesh, seed=1, ids=IDS, gather=True, trace="hutchinson", tol=0.1
        )
        return as_lists(found.value), as_lists(found.nfe), found.status, tuple(found.latent.shape)

    alone = ode.log_prob(narrow, x, seed=1, ids=IDS, trace="hutchinson", tol=0.1)
    for value, nfe, status, shape in on_ranks(check, world, tmp_path):
        torch.testing.assert_close(
            torch.tensor(value, dtype=torch.float64), alone.value, rtol=1e-12, atol=1e-12
        )
        assert (nfe, status, shape) == (alone.nfe.tolist(), alone.status, tuple(alone.latent.shape))


def stiff(t, x, rate):
    return -rate.view(-1, 1) * (x - torch.sin(10.0 * t))


@pytest.mark.few(1)
@pytest.mark.parametrize("wrapped", [False, True])
def test_ranks_with_other_numbers_of_calls_do_not_wait(wrapped, tmp_path):
    """Adaptive solves take more calls where samples are harder; DistributedDataParallel's forward
    waits for the other ranks."""

    def check():
        mesh = ode.distributed.mesh()
        if not wrapped:
            rate = torch.tensor([0.1, 0.1, 0.1, 50.0, 50.0])
            return ode.distributed.log_prob(
                stiff, torch.zeros(5, 2), args=(rate,), mesh=mesh, trace="exact"
            ).nfe.tolist()
        torch.manual_seed(0)
        inner = Buffered()
        whole = ode.Model(DistributedDataParallel(inner), PATH, "data")
        x = torch.cat([0.01 * torch.ones(1, 2), 3.0 * torch.ones(1, 2)])
        base = lambda z: -z.square().sum(1)  # of which nothing is known
        found = ode.distributed.log_prob(
            whole, x, mesh=mesh, trace="exact", divergence="along", base=base
        )
        return found.nfe.tolist()

    found = on_ranks(check, 2, tmp_path)
    assert max(found[0]) != max(found[1])


class Buffered(torch.nn.Module):
    """With a buffer, which DistributedDataParallel would broadcast at every forward."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, t):
        return self.weight * torch.tanh(3.0 * x) * (1.0 - 0.5 * t[:, None])


def test_fewer_samples_than_ranks(tmp_path):
    def check():
        mesh = ode.distributed.mesh()
        x = ode.distributed.sample(model(), noise(1), "ddim", 5, mesh=mesh, gather=True)
        found = ode.distributed.log_prob(model(), noise(1), mesh=mesh, trace="exact", gather=True)
        return as_lists(x), as_lists(found.value)

    one, lp = (
        ode.sample(model(), noise(1), "ddim", 5),
        ode.log_prob(model(), noise(1), trace="exact"),
    )
    for x, value in on_ranks(check, 3, tmp_path):
        assert torch.equal(torch.tensor(x, dtype=torch.float64), one)
        torch.testing.assert_close(torch.tensor(value, dtype=torch.float64), lp.value)


def test_a_solve_that_diverges_is_told_to_all(tmp_path):
    shift = torch.tensor([0.0, 0.0, 0.0, 0.0, torch.nan])

    def check():
        mesh = ode.distributed.mesh()
        broken = model(cond={"shift": shift})
        found = ode.distributed.sample(
            broken, noise(), "ddim", 5, mesh=mesh, gather=True, full=True
        )
        try:
            ode.distributed.sample(broken, noise(), "ddim", 5, mesh=mesh, gather=True)
        except ode.Diverged:
            return found.status, "raised"
        return found.status, "nothing"

    assert on_ranks(check, 2, tmp_path) == [("diverged", "raised")] * 2


def test_the_first_ranks_seed_is_everyones(tmp_path):
    def check():
        torch.manual_seed(dist.get_rank())
        return as_lists(ode.distributed.sample(model(), (4, 2, 3), "ddpm", 5, gather=True))

    first, second = on_ranks(check, 2, tmp_path)
    assert first == second
    assert len({str(row) for row in first}) == 4


def test_bytes_of_every_dtype_come_together(tmp_path):
    def check():
        rank, sizes = dist.get_rank(), cut(5, 3)
        first = sum(sizes[:rank])
        rows = torch.arange(first, first + sizes[rank])
        parts = [
            rows.to(torch.bfloat16)[:, None] / 4,
            rows.double(),
            rows[:, None].repeat(1, 3),
            rows.bool(),
        ]
        return [as_lists(p.float()) for p in together(parts, sizes, None)]

    rows = torch.arange(5)
    expected = [
        (rows / 4)[:, None].tolist(),
        rows.tolist(),
        rows[:, None].repeat(1, 3).tolist(),
        rows.bool().float().tolist(),
    ]
    assert on_ranks(check, 3, tmp_path) == [expected] * 3


def test_errors_at_the_door(tmp_path):
    def check():
        said = []
        for call in (
            lambda: ode.distributed.mesh(data=3),
            lambda: ode.distributed.mesh(time=0),
            lambda: ode.distributed.mesh(device="tpu"),
            lambda: ode.distributed.sample(model(), (4, 2, 3), "ddim", ids=[1, 2]),
            lambda: ode.distributed.sample(model(), (4, 2, 3), "ddim", log_prob=True),
            lambda: ode.distributed.log_prob(model(), noise(), of="plan"),
        ):
            try:
                call()
            except ode.OdesolveError as e:
                said.append(str(e))
        return said

    for said in on_ranks(check, 2, tmp_path):
        assert len(said) == 6
        assert "number of ranks, 2" in said[0]


def drawn(folder):
    x = ode.distributed.sample(model(), (5, 4), "ddpm", 6, seed=1, gather=True)
    if dist.get_rank() == 0:
        torch.save(x, folder / "x.pt")
    dist.destroy_process_group()


def test_launched_as_torchrun_does(tmp_path):
    """By its agent, from here: what it sets is all that ranks are told."""
    config = LaunchConfig(
        1,
        1,
        2,
        run_id="here",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        elastic_launch(config, drawn)(tmp_path)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    alone = ode.sample(model(), (5, 4), "ddpm", 6, seed=1)
    assert torch.equal(torch.load(tmp_path / "x.pt"), alone)


@pytest.mark.long
def test_torchrun(tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "import torch, odesolve as ode\n"
        "net = lambda x, t: x * (0.3 + x * x) / (0.5 + x * x)\n"
        "model = ode.Model(net, ode.paths.VP(), 'data')\n"
        "x = ode.distributed.sample(model, (5, 4), 'ddpm', 6, seed=1, gather=True)\n"
        "if torch.distributed.get_rank() == 0:\n"
        "    torch.save(x, 'x.pt')\n"
        "torch.distributed.destroy_process_group()\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True
    )
    alone = ode.Model(lambda x, t: x * (0.3 + x * x) / (0.5 + x * x), PATH, "data")
    assert torch.equal(torch.load(tmp_path / "x.pt"), ode.sample(alone, (5, 4), "ddpm", 6, seed=1))


@pytest.mark.parametrize("world", UNEVEN)
def test_log_densities_over_time(world, tmp_path):
    """Every rank evaluates its share of the rows, of states and of divergences alike, with one
    all-gather a round."""
    x, whose = noise(), guided()
    kinds = [("picard", "exact"), ("picard", "hutchinson"), ("dopri5", "xtrace")]
    common = {"seed": 1, "products": 6, "tol": 0.1}

    def check():
        mesh, out, gathers = ode.distributed.mesh(time=world), [], []
        gather = dist.all_gather
        dist.all_gather = lambda *a, **k: (gathers.append(1), gather(*a, **k))[1]
        for solver, trace in kinds:
            gathers.clear()
            found = ode.distributed.log_prob(
                whose, x, mesh=mesh, trace=trace, solver=solver, **common
            )
            out.append((as_lists(found.value), as_lists(found.nfe), found.rounds, len(gathers)))
        return out

    found = on_ranks(check, world, tmp_path)
    for k, (solver, trace) in enumerate(kinds):
        alone = ode.log_prob(whose, x, trace=trace, solver=solver, **common)
        for ranks in found:
            value, nfe, rounds, gathers = ranks[k]
            torch.testing.assert_close(
                torch.tensor(value, dtype=torch.float64), alone.value, atol=1e-12, rtol=0
            )
            assert nfe == alone.nfe.tolist()
            assert rounds == alone.rounds
            # One more is the look at whether autograd sees all, one less the first question, asked
            # twice in a call.
            # two at the data's end wait for none, two are before and after the solve
            assert gathers == rounds + 4


def test_what_ranks_along_time_cannot_share(tmp_path):
    x, whose = noise(), model()

    def check():
        mesh, told = ode.distributed.mesh(time=2), []
        for options in ({"steps": 4}, {"divergence": "along"}):
            try:
                ode.distributed.log_prob(whose, x, mesh=mesh, seed=1, **options)
            except ode.OdesolveError as e:
                told.append(str(e))
        spread = ode.distributed.spread(whose)
        try:
            spread.data(x.clone().requires_grad_(), 0.5)
        except ode.OdesolveError as e:
            told.append(str(e))
        return told

    for told in on_ranks(check, 2, tmp_path):
        assert len(told) == 3
        assert all("give mesh(time=1)" in t for t in told[:2])
        assert "has no gradients" in told[2]
