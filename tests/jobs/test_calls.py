"""What jobs compute: conditions by id, solves that fail, log-densities."""

import numpy as np
import pytest
import torch

import odesolve as ode
from tests.run.rational import PATH, model


def test_conditions_by_id(tmp_path):
    shifts = lambda ids: {"shift": 0.1 * ids.double()}
    job = ode.jobs.sample(
        lambda ids: model(cond=shifts(ids)),
        (4, 2, 3),
        "ddim",
        4,
        n=11,
        out=tmp_path,
        seed=1,
        dtype=torch.float64,
    )
    whole = ode.sample(
        model(cond=shifts(torch.arange(11))), (11, 2, 3), "ddim", 4, seed=1, dtype=torch.float64
    )
    np.testing.assert_array_equal(job.load()["samples"], whole.numpy())


def test_conditions_of_a_batch(tmp_path):
    shift = torch.linspace(-0.3, 0.3, 4, dtype=torch.float64)
    job = ode.jobs.sample(
        model(cond={"shift": shift}),
        (4, 2, 3),
        "ddim",
        4,
        n=6,
        out=tmp_path,
        seed=1,
        dtype=torch.float64,
    )
    for first, rows in ((0, 4), (4, 2)):
        cut = model(cond={"shift": shift[:rows]})
        ids = range(first, first + rows)
        part = ode.sample(cut, (rows, 2, 3), "ddim", 4, seed=1, ids=ids, dtype=torch.float64)
        np.testing.assert_array_equal(job.load(first, first + rows)["samples"], part.numpy())


def test_conditions_of_all_samples_are_given_by_id(tmp_path):
    shift = torch.linspace(-0.3, 0.3, 11, dtype=torch.float64)
    with pytest.raises(
        ode.OdesolveError,
        match=r"shift has 11 rows.*lambda ids: "
        r"model.given\(shift=shift\[ids\]\)",
    ):
        ode.jobs.sample(
            model(cond={"shift": shift}), (4, 2, 3), "ddim", 4, n=11, out=tmp_path / "job", seed=1
        )
    assert not (tmp_path / "job").exists()


def test_a_solve_that_fails_leaves_the_others_alone(tmp_path):
    def net(x, t):
        bad = (x.flatten(1)[:, 0] > 1.0) & (t < 0.6)
        return torch.where(bad[:, None, None], torch.nan, 0.5 * x)

    given = ode.Model(net, PATH, "noise")
    job = ode.jobs.sample(given, (8, 2, 3), "ddim", 6, n=16, out=tmp_path, seed=2)
    found = job.load()
    assert 0 < found["status"].sum() < 16
    assert np.isfinite(found["samples"]).all()
    good = found["status"] == 0
    for k in np.flatnonzero(good):
        own = ode.sample(given, (1, 2, 3), "ddim", 6, seed=2, ids=[k])
        np.testing.assert_allclose(found["samples"][k], own.numpy()[0], rtol=1e-6)


def test_stochastic_windows(tmp_path):
    window = ode.Window(exact=True)
    job = ode.jobs.sample(
        model(),
        (4, 2, 3),
        "dpmpp_2m_sde",
        6,
        n=10,
        out=tmp_path,
        seed=5,
        dtype=torch.float64,
        executor=window,
    )
    whole = ode.sample(model(), (10, 2, 3), "dpmpp_2m_sde", 6, seed=5, dtype=torch.float64)
    np.testing.assert_array_equal(job.load()["samples"], whole.numpy())


@pytest.fixture
def gaussian():
    return ode.problems.gaussian(mean=0.3, std=0.5, shape=(1, 4, 4))


def test_log_densities(tmp_path, gaussian):
    x, given = gaussian.sample(11).double(), gaussian.model(ode.paths.EDM())
    options = {"trace": "hutchinson", "products": 4, "seed": 7}
    job = ode.jobs.log_prob(given, x, out=tmp_path / "job", batch=4, **options)
    found = job.load()
    for first in (0, 4, 8):
        rows = slice(first, min(first + 4, 11))
        one = ode.log_prob(given, x[rows], ids=range(11)[rows], **options)
        np.testing.assert_array_equal(found["nats"][rows], one.value.numpy())
        np.testing.assert_array_equal(found["stderr"][rows], one.stderr.numpy())
        np.testing.assert_array_equal(found["nfe"][rows], one.nfe.numpy())
    with pytest.raises(ode.OdesolveError, match="x holds other data"):
        ode.jobs.log_prob(given, x + 1e-9, out=tmp_path / "job", batch=4, **options)
    with pytest.raises(ode.OdesolveError, match="tol is None there"):
        ode.jobs.log_prob(given, x, out=tmp_path / "job", batch=4, tol=0.1, **options)


def test_discrete_data(tmp_path, gaussian):
    k = torch.randint(3, 6, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    given, width = (
        gaussian.model(ode.paths.EDM()),
        {"levels": 8, "low": -2.0, "high": 2.0, "draws": 2},
    )
    job = ode.jobs.log_prob(given, k, out=tmp_path, batch=6, **width)
    bits = ode.bits_per_dim(given, k, seed=0, **width)
    nats = (np.log2(8 / 4.0) - bits.value.numpy()) * 16 * np.log(2)
    np.testing.assert_allclose(job.load()["nats"], nats, rtol=1e-12)


def test_nothing_to_do_is_refused(tmp_path, gaussian):
    with pytest.raises(ode.OdesolveError, match="at least one"):
        ode.jobs.log_prob(gaussian.model(ode.paths.EDM()), torch.zeros(0, 1, 4, 4), out=tmp_path)
    with pytest.raises(ode.OdesolveError, match="give the shape of a batch"):
        ode.jobs.sample(model(), (4,), n=2, out=tmp_path)
