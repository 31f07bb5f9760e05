"""Planned evaluations are those that the network sees; guidance counts twice."""

import pytest
import torch

import odesolve as ode
from odesolve.profile.counting import Counter
from tests.rows import rows

SOLVERS = [
    "ddim",
    "dpmpp_2m(afs)",
    "unipc_2",
    "heun_edm",
    "dpm_solver_3",
    "ab3",
    "ab3(start=ramp)",
    "ipndm_4",
    "rk4",
]


def test_every_row_counts_what_its_plan_asks_for(gaussian, noise, exact):
    path = ode.paths.VP()
    found = ode.profile(
        gaussian.model(path),
        SOLVERS,
        (7, 12),
        ["karras"],
        noise=noise,
        reference=exact(path),
        timing=0,
    )
    assert [r.status for r in found.rows] == ["ok"] * len(found.rows)
    for row in found.rows:
        assert row.counted == row.calls <= row.nfe, row.label


@rows("unconditional", [{"shift": 0.0}, {}], ids=["two calls", "another signature"])
def test_guidance_counts_twice(noise, unconditional):
    path = ode.paths.Linear()

    def net(x, t, shift=0.0):
        return x * 0.1 + shift

    model = ode.Model(net, path, "data").guided(3.0, cond={"shift": 0.5}, uncond=unconditional)
    found = ode.profile(model, ["ddim"], 10, ["uniform"], noise=noise, reference=noise, timing=0)
    (row,) = found.rows
    assert (row.steps, row.calls, row.counted) == (5, 10, 10)


def test_a_stacked_guided_call_counts_twice(noise):
    path = ode.paths.Linear()
    labels = torch.ones(len(noise), dtype=torch.float64)
    seen = []

    def net(x, t, label):
        seen.append(len(x))
        return x * 0.1 * label[:, None]

    model = ode.Model(net, path, "data").guided(
        2.0, cond={"label": labels}, uncond={"label": 0 * labels}
    )
    (row,) = ode.profile(
        model, ["dpmpp_2m"], 8, ["uniform"], noise=noise, reference=noise, timing=0
    ).rows
    assert seen == [2 * len(noise)] * 4
    assert row.counted == row.calls == 8


def test_guidance_in_an_interval_buys_more_steps(noise):
    model = ode.Model(lambda x, t, k: 0.1 * k * x, ode.paths.Linear(), "data")
    guided = model.guided(2.0, cond={"k": 1.0}, uncond={"k": 0.0}, interval=(0.3, 0.6))
    (row,) = ode.profile(
        guided, ["euler"], 12, ["uniform"], noise=noise, reference=noise, timing=0
    ).rows
    assert row.steps > 6
    assert row.counted == row.calls <= 12


def test_a_classifier_counts_as_a_branch(noise):
    model = ode.Model(lambda x, t: 0.1 * x, ode.paths.VP(), "noise").classifier_guided(
        lambda x, t: -(x**2).sum(1), 0.1
    )
    (row,) = ode.profile(
        model, ["ddim"], 8, ["karras"], noise=noise, reference=noise, timing=0
    ).rows
    assert row.counted == row.calls == 8


def test_times_are_split_between_network_and_the_rest(gaussian, noise, exact):
    path = ode.paths.EDM()
    (row,) = ode.profile(
        gaussian.model(path), ["ddim"], 5, ["karras"], noise=noise, reference=exact(path)
    ).rows
    assert row.network_seconds > 0
    assert row.rest_seconds > 0


def test_the_watched_model_is_a_copy(gaussian):
    model = gaussian.model(ode.paths.VP())
    net, counter = model.net, Counter(4)
    watched = counter.watch(model)
    watched.data(torch.zeros(4, 2), 0.5)
    watched.data(torch.zeros(2, 2), 0.5)
    assert model.net is net
    assert counter.calls == 1.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_waited_for_around_the_network(gaussian, exact, noise):
    path = ode.paths.EDM()
    model = gaussian.model(path)
    (row,) = ode.profile(
        model, ["dpmpp_2m"], 10, ["karras"], noise=noise.cuda(), reference=exact(path).cuda()
    ).rows
    assert row.counted == 10
    assert row.network_seconds > row.rest_seconds
