"""Edited, filled in and interpolated samples, on Gaussians whose answers are known."""

import math

import pytest
import torch

import odesolve as ode
from tests.rows import rows
from tests.run.rational import model as rational

VP = ode.paths.VP()
GUESS = ode.problems.gaussian(mean=0.5, std=0.3**0.5, shape=(1,))


def normals(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_sdedit_by_the_flow():
    """Guide 2 at lambda = 0 under N(.5, .3): the flow ends in N(1.22058, .23077)."""
    n = 40_000
    x = ode.sdedit(
        GUESS.model(VP, "noise"),
        torch.full((n, 1), 2.0, dtype=torch.float64),
        None,
        "unipc_3",
        60,
        "lambda",
        seed=0,
    )
    assert abs(float(x.mean()) - 1.22058) < 4 * (0.23077 / n) ** 0.5
    assert abs(float(x.var()) - 0.23077) < 4 * 0.23077 * (2 / n) ** 0.5


def test_sdedit_by_the_sde():
    """The reverse SDE ends in N(.84615, .28402)."""
    n = 40_000
    guide = torch.full((n, 1), 2.0, dtype=torch.float64)
    x = ode.sdedit(GUESS.model(VP, "noise"), guide, None, "dpmpp_2m_sde", 100, "lambda", seed=1)
    assert abs(float(x.mean()) - 0.84615) < 4 * (0.28402 / n) ** 0.5 + 1e-3
    assert abs(float(x.var()) - 0.28402) < 4 * 0.28402 * (2 / n) ** 0.5 + 2e-3


def test_sdedit_is_of_its_seed_and_ids():
    model, guide = rational(), normals(4, 2, 3)
    whole = ode.sdedit(model, guide, 0.4, "ddim(eta=1)", 5, seed=3, ids=[5, 6, 7, 8])
    part = ode.sdedit(model, guide[1:3], 0.4, "ddim(eta=1)", 5, seed=3, ids=[6, 7])
    assert torch.equal(whole[1:3], part)
    assert not torch.equal(
        whole, ode.sdedit(model, guide, 0.4, "ddim(eta=1)", 5, seed=4, ids=[5, 6, 7, 8])
    )


@rows("path", [VP, ode.paths.EDM(), ode.paths.Linear(), ode.paths.Linear().flipped()])
def test_sdedit_on_every_path(path):
    model = GUESS.model(path, "velocity")
    near, far = (
        ode.sdedit(
            model,
            torch.full((500, 1), 2.0, dtype=torch.float64),
            float(path.t_of_lam(lam)),
            steps=20,
            seed=0,
        )
        for lam in (2.0, -2.0)
    )
    assert abs(float(near.mean()) - 2.0) < 0.25  # hardly changed
    assert abs(float(far.mean()) - 0.5) < 0.25  # hardly remembered


@rows(
    ("options", "told"),
    [
        ({"t": 0.0}, "not that of the data"),
        ({"t": 1.2}, r"t=1\.2 is not in \[0, 1\]"),
        ({"grid": [0.5, 0.2, 0.0]}, "give a rule's name"),
    ],
)
def test_sdedit_at_the_door(options, told):
    with pytest.raises(ode.OdesolveError, match=told):
        ode.sdedit(rational(), normals(2, 2, 3), **options)


def test_slerp_keeps_norms_and_ends():
    a, b = normals(5, 3, 4), normals(5, 3, 4, seed=1)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]
    shares = torch.linspace(0, 1, 7)
    c = ode.slerp(a, b, shares)
    assert c.shape == (7, 5, 3, 4)
    norms = c.flatten(2).norm(dim=2)
    assert (norms / norms[0] - 1).abs().max() < 1e-14
    torch.testing.assert_close(c[0], a, rtol=0, atol=1e-14)
    torch.testing.assert_close(c[-1], b, rtol=0, atol=1e-14)
    torch.testing.assert_close(ode.slerp(a, b, 0.3), ode.slerp(a, b, [0.3])[0])
    torch.testing.assert_close(ode.slerp(a, 2 * a, 0.25), 1.25 * a)  # one direction
    straight = 0.5 * (normals(400, 1000) + normals(400, 1000, seed=1))
    assert abs(float(straight.norm(dim=1).mean()) / 1000**0.5 - 0.5**0.5) < 1e-3
    assert ode.slerp(a.float(), b.float(), 0.5).dtype == torch.float32
    with pytest.raises(ode.OdesolveError, match="of one shape"):
        ode.slerp(a, b[:2], 0.5)


def test_interpolation_ends_in_its_ends():
    """On a Gaussian DDIM's map is linear, and its round trip closes with the steps."""
    model = ode.problems.gaussian(mean=0.2, std=0.5, shape=(8,)).model(VP, "noise")
    a, b = 0.2 + 0.5 * normals(3, 8), 0.2 + 0.5 * normals(3, 8, seed=1)
    grid = ode.grids.Lambda(final=False)
    c = ode.interpolate(model, a, b, [0.0, 0.5, 1.0], "unipc_3", 120, grid)
    assert c.shape == (3, 3, 8)
    torch.testing.assert_close(c[0], a, atol=2e-6, rtol=0)
    torch.testing.assert_close(c[2], b, atol=2e-6, rtol=0)
    middle = ode.slerp(*(ode.invert(model, x, "unipc_3", 120, grid) for x in (a, b)), 0.5)
    torch.testing.assert_close(
        c[1], ode.sample(model, state=middle, solver="unipc_3", steps=120, grid=grid)
    )


SOLVERS = ["ddim", "heun_edm", "dpmpp_2m", "dpmpp_2m_sde", "unipc_2", "ddpm"]


@rows("solver", SOLVERS)
def test_what_is_known_is_kept(solver):
    known, mask = normals(4, 2, 3), torch.tensor([[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]).double()
    x = ode.sample(rational().inpainted(known, mask), normals(4, 2, 3, seed=2), solver, 8, seed=0)
    torch.testing.assert_close(x * mask, known * mask, atol=1e-9, rtol=0)
    free = ode.sample(rational(), normals(4, 2, 3, seed=2), solver, 8, seed=0)
    assert ((x - free) * mask).abs().max() > 0.1
    # Nothing ties the elements of this network to one another: those that are free are as ever.
    torch.testing.assert_close(x * (1 - mask), free * (1 - mask), atol=1e-9, rtol=0)


@rows("executor", [None, ode.Window(exact=True), ode.Parareal(exact=True)])
def test_every_sample_has_its_own_known_part(executor):
    known, mask, noise = (
        normals(4, 2, 3),
        (normals(4, 2, 3, seed=5) > 0).double(),
        normals(4, 2, 3, seed=2),
    )
    whole = ode.sample(rational().inpainted(known, mask), noise, "dpmpp_2m", 12, executor=executor)
    for k in range(4):
        model = rational().inpainted(known[k : k + 1], mask[k : k + 1])
        assert torch.equal(whole[k : k + 1], ode.sample(model, noise[k : k + 1], "dpmpp_2m", 12))


def test_a_correlated_gaussian_fills_in_towards_the_conditional_mean():
    """Projection of x0 leans to what is known, as correlated data do."""
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    model = ode.problems.gaussian(mean=[0.0, 0.0], cov=cov, shape=(2,)).model(VP, "noise")
    known, mask = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    x = ode.sample(model.inpainted(known, mask), normals(2000, 2), "dpmpp_2m", 60)
    torch.testing.assert_close(
        x[:, 0], torch.full((2000,), 2.0, dtype=torch.float64), atol=1e-9, rtol=0
    )
    assert 0.4 < float(x[:, 1].mean()) <= 1.6 + 0.1


@rows(
    ("known", "mask", "told"),
    [
        (normals(4, 2, 3), normals(2, 3).abs().clamp(0, 1), "give both as"),
        (normals(4, 2, 3), torch.full((1, 2, 3), 2.0), r"leaves \[0, 1\]"),
    ],
)
def test_inpainting_at_the_door(known, mask, told):
    with pytest.raises(ode.OdesolveError, match=told):
        rational().inpainted(known, mask)
    with pytest.raises(ode.OdesolveError, match="give one each, or 1"):
        ode.sample(
            rational().inpainted(normals(3, 2, 3), torch.ones(1, 2, 3)), normals(4, 2, 3), "ddim", 4
        )


def test_graphs_and_jobs_know_another_mask(tmp_path):
    one, two = (rational().inpainted(normals(1, 2, 3, seed=s), torch.ones(1, 2, 3)) for s in (0, 1))
    assert "done to x0" in str(one.settle(two))
    ode.jobs.sample(one, (4, 2, 3), "ddim", 2, n=4, out=tmp_path)
    with pytest.raises(ode.OdesolveError, match="the model differs in"):
        ode.jobs.sample(two, (4, 2, 3), "ddim", 2, n=4, out=tmp_path)
    assert math.isfinite(float(ode.jobs.Job(tmp_path).load()["samples"].sum()))
