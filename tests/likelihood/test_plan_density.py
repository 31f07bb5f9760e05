"""The exact density of the map that a plan is, against closed forms, autograd, finite differences
and its own integral."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import paths, trace
from odesolve.errors import OdesolveError
from odesolve.likelihood.carried import carry
from odesolve.likelihood.flow import normal_log_density
from odesolve.likelihood.plan_density import plan_log_prob, push
from tests.products import diagonal, product

from ..plan.literal import states

MIXTURE = ode.problems.mixture(
    [0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6]
)
GAUSSIAN = ode.problems.gaussian(mean=[0.5, -0.3], cov=[[0.5, 0.2], [0.2, 0.3]])
PATHS = {"vp": paths.VP(), "edm": paths.EDM(), "linear": paths.Linear().flipped()}


def normal(n, dim, seed=0):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def start(path, plan, n=6, dim=2):
    return path.start_std(plan.grid[0]) * normal(n, dim)


def smooth(x, t):
    return torch.tanh(1.3 * x + 0.4 * x.roll(1, 1) + t[:, None]) * 0.8


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("solver", "name"),
    diagonal(
        ["ddim", "dpmpp_2m", "unipc_3", "heun_edm", "ab3", "rk4", "deis_tab3"], list(PATHS), times=2
    ),
)
def test_jacobian_is_that_of_the_plan_read_word_by_word(name, solver):
    """Histories and stages included: autograd through a literal run, in the plan's own basis."""
    path = PATHS[name]
    plan = ode.plan(solver, path, 6, "karras" if name != "linear" else "uniform")
    ask = lambda quantity, x, t: getattr(MIXTURE, quantity)(x, path, t)
    z = start(path, plan)
    literal = lambda x: states(plan, None, x[None], ask)[plan.result][0]
    want = torch.stack([torch.autograd.functional.jacobian(literal, one) for one in z])
    with torch.no_grad():
        found = push(plan, MIXTURE.model(path), z)
    scale = float(want.abs().max())
    torch.testing.assert_close(found.jacobian, want, rtol=0, atol=1e-8 * scale)
    assert (found.nfe, found.products) == (plan.nfe, 2 * plan.nfe)


@pytest.mark.parametrize("options", [{"clip": 0.6}, {"threshold": 0.7, "clip": 0.3}, {}], ids=str)
def test_jacobian_is_the_samplers_slope(options):
    """Central differences of ode.sample, with clipping and dynamic thresholds as part of the
    map."""
    model = ode.Model(smooth, paths.VP(), "noise", **options)
    plan = ode.plan("dpmpp_2m", model.path, 5)
    z = normal(3, 5, seed=2)
    with torch.no_grad():
        found = push(plan, model, z)
    assert torch.equal(found.x, ode.sample(model, state=z, plan=plan))
    h = 1e-6
    moved = [
        ode.sample(model, state=z + s * h * e, plan=plan)
        for e in torch.eye(5, dtype=z.dtype)
        for s in (1, -1)
    ]
    want = torch.stack(
        [(up - down) / (2 * h) for up, down in zip(moved[::2], moved[1::2], strict=True)], 2
    )
    torch.testing.assert_close(found.jacobian, want, rtol=0, atol=1e-6 * float(want.abs().max()))


def test_guidance_with_rescaling_is_part_of_the_map():
    def net(x, t, shift):
        return smooth(x + shift, t)

    model = ode.Model(net, paths.VP(), "data").guided(
        2.0, {"shift": 0.4}, {"shift": 0.0}, rescale=0.7
    )
    plan, z, h = ode.plan("ddim", model.path, 4), normal(2, 4), 1e-6
    with torch.no_grad():
        found = push(plan, model, z)
    moved = [
        ode.sample(model, state=z + s * h * e, plan=plan)
        for e in torch.eye(4, dtype=z.dtype)
        for s in (1, -1)
    ]
    want = torch.stack(
        [(up - down) / (2 * h) for up, down in zip(moved[::2], moved[1::2], strict=True)], 2
    )
    torch.testing.assert_close(found.jacobian, want, rtol=0, atol=1e-6 * float(want.abs().max()))
    assert found.nfe == 8


def affine(plan, path):
    """(A, b) with F(z) = A z + b for Gaussian data: a literal run of the columns."""
    ask = lambda quantity, x, t: getattr(GAUSSIAN, quantity)(x, path, t)
    columns = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)])
    out = states(plan, None, columns, ask)[plan.result]
    return (out[1:] - out[0]).T, out[0]


@pytest.mark.parametrize(
    ("reverse", "solver", "name"),
    product([False, True], ["ddim", "dpmpp_2m", "unipc_2", "heun"], ["vp", "edm"]),
)
def test_gaussian_data_in_closed_form(name, solver, reverse):
    """The map is affine, so what it makes of normal noise is a Gaussian of known mean and
    covariance."""
    path = PATHS[name]
    plan = ode.plan(solver, path, 5, "karras", reverse=reverse)
    a, b = affine(plan, path)
    x = GAUSSIAN.sample(6)
    found = plan_log_prob(GAUSSIAN.model(path), x, plan)
    std = path.start_std(plan.grid[-1 if reverse else 0])
    if reverse:  # z = a x + b
        a, b = torch.linalg.inv(a), -torch.linalg.solve(a, b)
    law = torch.distributions.MultivariateNormal(b, std**2 * a @ a.T)
    torch.testing.assert_close(found.value, law.log_prob(x), rtol=0, atol=1e-10)
    smallest = float(torch.linalg.svdvals(std * a)[-1])
    torch.testing.assert_close(
        found.smallest, torch.full((6,), smallest, dtype=torch.float64), rtol=1e-9, atol=0
    )
    assert found.ok
    assert float(found.residual.max()) < 1e-11


def proposal(plan, model, width=0.7, count=300):
    """What the map makes of normal noise, blurred: its linear image of a wide Gaussian around each
    of many latents."""
    std = model.path.start_std(plan.grid[0])
    with torch.no_grad():
        at = push(plan, model, std * math.sqrt(1 - width**2) * normal(count, 8, seed=5))
    spread = std * width * at.jacobian
    return ode.problems.Mixture([1.0] * count, at.x, cov=spread @ spread.mT)


def test_density_of_eight_steps_integrates_to_one():
    """By importance sampling, where the flow's formula along the same steps has a seventh of it.
    2e5 samples: see benchmarks."""
    means = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem, path, n = ode.problems.mixture([1.0] * 4, means, std=0.5), paths.VP(), 4000
    model, plan = problem.model(path), ode.plan("ddim", path, 8, "lambda")
    law = proposal(plan, model)
    x = law.sample(n, seed=3)
    with torch.no_grad():
        found = plan_log_prob(model, x, plan)
        along = carry(plan, model, found.latent, trace.Exact().begin(x, torch.empty(0)))
    assert found.ok
    ratio = (found.value - law.log_prob(x)).exp()
    stderr = float(ratio.std()) / n**0.5
    assert stderr < 0.025
    assert abs(float(ratio.mean()) - 1.0) < 4 * stderr
    usual = normal_log_density(found.latent, path.start_std(plan.grid[0])) + along.change[:, 0]
    assert float((usual - law.log_prob(x)).exp().mean()) < 0.2


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun_edm"])
def test_latents_are_found_again(solver):
    """Density of drawn samples: the same from the latent that is known and from the one that is
    searched."""
    model = MIXTURE.model(PATHS["vp"])
    drawn = ode.sample(model, normal(64, 2), solver, 8, "karras", log_prob="plan")
    with torch.no_grad():
        found = plan_log_prob(model, drawn.x, drawn.plan)
    same = (found.latent - drawn.log_prob.latent).norm(dim=1) < 1e-6
    torch.testing.assert_close(found.value[same], drawn.log_prob.value[same], rtol=0, atol=1e-7)
    torch.testing.assert_close(
        found.smallest[same], drawn.log_prob.smallest[same], rtol=1e-6, atol=0
    )
    assert found.ok
    # Steps of the second order may fold; those of DDIM with the exact network are gradients of
    # convex functions.
    assert float(same.double().mean()) > (0.9 if solver != "ddim" else 0.999)


def test_a_point_that_the_map_does_not_reach():
    """Clipped data end within the clip: outside there is no latent, and the rest of the batch does
    not mind."""
    path = PATHS["vp"]
    model = MIXTURE.model(path, clip=2.0)
    plan = ode.plan("ddim", path, 6, "karras")
    x = torch.tensor([[0.5, 0.4], [3.0, 3.0]], dtype=torch.float64)
    with torch.no_grad():
        found = plan_log_prob(model, x, plan)
    assert found.status == ["ok", "not_inverted"]
    assert bool(found.value[1].isnan())
    assert float(found.residual[1]) >= 1.0 - 1e-9
    alone = plan_log_prob(model, x[:1], plan)
    torch.testing.assert_close(found.value[:1], alone.value.detach(), rtol=0, atol=1e-10)


def test_where_data_are_clipped_there_is_no_density():
    model = MIXTURE.model(PATHS["vp"], clip=0.5)
    drawn = ode.sample(model, normal(200, 2), "ddim", 5, log_prob="plan")
    cut = (drawn.x.abs() == 0.5).any(1)
    assert 0 < int(cut.sum()) < 200
    assert drawn.log_prob.status == ["singular" if c else "ok" for c in cut.tolist()]
    assert float(drawn.log_prob.smallest[cut].max()) < 1e-15


def test_what_a_sample_took_is_its_own():
    """Batches do not matter: neither to the latent that is found nor to what it is said to cost."""
    model, x = MIXTURE.model(PATHS["vp"]), MIXTURE.sample(8)
    plan = ode.plan("ddim", PATHS["vp"], 5, "karras")
    with torch.no_grad():
        whole, alone = plan_log_prob(model, x, plan), plan_log_prob(model, x[5:6], plan)
    torch.testing.assert_close(whole.value[5:6], alone.value, rtol=0, atol=1e-10)
    assert (whole.nfe[5], whole.products[5]) == (alone.nfe[0], alone.products[0])
    assert len(set(whole.nfe.tolist())) > 1


@pytest.mark.parametrize("reverse", [False, True], ids=["decoding", "encoding"])
def test_gradients_in_the_data_and_the_parameters(reverse):
    path = PATHS["vp"]
    plan = ode.plan("dpmpp_2m", path, 4, "karras", reverse=reverse)
    a = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    x = (0.3 * normal(2, 2)).requires_grad_()

    def value(x, a):
        model = ode.Model(lambda y, t: a * MIXTURE.data(y, path, t), path, "data")
        return plan_log_prob(model, x, plan).value

    assert torch.autograd.gradcheck(value, (x, a), atol=1e-5)


def test_single_precision():
    """Found to what float32 resolves; the value as near as the map's condition lets it."""
    model = MIXTURE.model(PATHS["edm"])
    plan, x = ode.plan("ddim", PATHS["edm"], 6, "karras"), MIXTURE.sample(16)
    with torch.no_grad():
        narrow, wide = plan_log_prob(model, x.float(), plan), plan_log_prob(model, x, plan)
    assert narrow.ok
    torch.testing.assert_close(narrow.value, wide.value, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: (ode.plan("ddpm", m.path, 3), m), "it is no map"),
        (
            lambda m: (
                ode.plan("ddim", m.path, 3),
                m.classifier_guided(lambda x, t: -x.square().sum(1)),
            ),
            "classifier",
        ),
    ],
)
def test_what_is_no_map_is_refused(change, message):
    plan, model = change(ode.Model(smooth, paths.VP(), "noise"))
    with pytest.raises(OdesolveError, match=message):
        plan_log_prob(model, torch.zeros(2, 3), plan)
