"""Log-densities along the probability flow against the exact ones of Gaussians and mixtures."""

from __future__ import annotations

import math

import pytest
import torch

import odesolve as ode
from odesolve import paths, problems
from odesolve.likelihood.clock import CALLS
from tests.products import LONG

TWO = problems.mixture([0.3, 0.3, 0.4], [[-1.2, 0.5], [1.0, 1.0], [0.3, -1.0]], std=[0.4, 0.5, 0.6])
DIGITS = problems.digits(0.15)
IMAGES = problems.mixture(
    [0.6, 0.4],
    torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    * 0.5,
    std=[0.3, 0.4],
)
CASES = {"2-d": (TWO, 16), "digits": (DIGITS, 4), "images": (IMAGES, 1)}
PATHS = {
    "VP": (paths.VP(), "noise"),
    "VE": (paths.VE(), "score"),
    "EDM": (paths.EDM(), "edm"),
    "Linear": (paths.Linear(), "velocity"),
}


def truth(problem, path, x, t=None):
    """Log-density of x0 + rho eps, with the noise of the path's first time."""
    if t is None:
        t = (
            path.t_data
            if path.family == "flow" or float(path.sigma(path.t_data)) > 0
            else path.t_min
        )
    alpha = float(path.alpha(t))
    return problem.log_prob(alpha * x, path, t) + problem.dim * math.log(alpha)


def mismatch(problem, path, latent, t=None):
    """log p_T - log prior at the latent."""
    t = path.t_noise if t is None else t
    std = path.start_std(t)
    prior = -0.5 * (latent / std).flatten(1).square().sum(1) - problem.dim * math.log(
        std * math.sqrt(2 * math.pi)
    )
    return problem.log_prob(latent, path, t) - prior


if LONG:
    EXACT = [
        *((case, path, "nodes") for case in CASES for path in PATHS),
        *((case, path, "along") for case in ("2-d", "digits") for path in PATHS),
        ("images", "EDM", "along"),  # 768 products at each of 250 evaluations: once
    ]
else:
    EXACT = [
        *(("2-d", path, divergence) for path in PATHS for divergence in ("nodes", "along")),
        ("digits", "EDM", "along"),
    ]


@pytest.mark.few(2)
@pytest.mark.parametrize(("case", "path", "divergence"), EXACT)
def test_exact_trace_within_a_thousandth_of_a_nat(case, path, divergence):
    (problem, batch), (path, predicts) = CASES[case], PATHS[path]
    x = problem.sample(batch, seed=1)
    lp = ode.log_prob(problem.model(path, predicts), x, trace="exact", divergence=divergence)
    exact = mismatch(problem, path, lp.latent)
    want = truth(problem, path, x)
    error = lp.value + exact - want
    assert float(error.abs().max()) < 1e-3
    assert lp.ok
    assert lp.trace == "exact"
    assert lp.value.dtype == torch.float64
    assert float(lp.stderr.max()) == 0.0
    # An estimate of every part, each far better than the part itself.
    assert float((lp.prior_mismatch - exact).abs().max()) <= 0.02 * float(exact.abs().max()) + 1e-9
    clean = problem.log_prob(x) - want
    assert float((lp.truncation - clean).abs().max()) <= 0.05 * float(clean.abs().max()) + 1e-9
    assert float(lp.solver_error.max()) < 0.02
    assert float(error.abs().max()) < 3 * float(lp.solver_error.max()) + 1e-5


def test_any_prediction_gives_the_same():
    x, values = TWO.sample(5, seed=2), []
    for predicts in ("data", "noise", "v", "velocity", "score", "edm"):
        values.append(
            ode.log_prob(TWO.model(paths.VP(), predicts), x, tol=1e-6, t=(0.01, 0.99)).value
        )
    assert float((torch.stack(values) - values[0]).abs().max()) < 1e-5


def test_a_flipped_path_gives_the_same():
    x, path = TWO.sample(5, seed=2), paths.Linear()
    a, b = (ode.log_prob(TWO.model(p, "velocity"), x).value for p in (path, path.flipped()))
    assert torch.allclose(a, b, atol=1e-9)


def test_a_table_of_a_discrete_model():
    path, x = paths.Discrete.ddpm(), TWO.sample(6, seed=2)
    lp = ode.log_prob(TWO.model(path, "noise"), x)
    assert float((lp.value + lp.prior_mismatch - truth(TWO, path, x)).abs().max()) < 1e-3


@pytest.mark.few(1)
@pytest.mark.parametrize("divergence", ["nodes", "along"])
def test_a_sample_is_the_same_in_any_batch(divergence):
    """Its own steps, nodes and probes: value, evaluations and products are its own."""
    model, x = DIGITS.model(paths.EDM(), "edm"), DIGITS.sample(5, seed=3)
    options = {"trace": "xtrace", "products": 12, "divergence": divergence, "seed": 5, "tol": 0.1}
    whole = ode.log_prob(model, x, **options)
    for i in (0, 3):
        one = ode.log_prob(model, x[i : i + 1], ids=[i], **options)
        assert torch.allclose(one.value, whole.value[i], rtol=1e-9)
        assert torch.allclose(one.stderr, whole.stderr[i], rtol=1e-6)
        # one sample meets no other times along its way
        look = CALLS if divergence == "along" else 0
        assert one.nfe == whole.nfe[i] - look
        assert one.products == whole.products[i]


def test_tighter_tolerances_give_smaller_errors():
    """Down to 1e-7 nats, the counted evaluations rising."""
    path = paths.EDM()
    model, x = TWO.model(path, "edm"), TWO.sample(16, seed=1)
    errors, nfe = [], []
    for tol in (1e-1, 1e-3, 1e-5, 1e-7):
        lp = ode.log_prob(model, x, tol=tol, trace="exact")
        errors.append(
            float((lp.value + mismatch(TWO, path, lp.latent) - truth(TWO, path, x)).abs().max())
        )
        nfe.append(float(lp.nfe.double().mean()))
        assert errors[-1] < tol
    assert nfe == sorted(nfe)


def test_evaluations_and_products_are_counted():
    class Counting:
        def __init__(self):
            self.calls, self.problem = 0, TWO

        def __call__(self, x, t):
            self.calls += len(x)
            return TWO.noise(x, paths.VP(), t)

    x = TWO.sample(3, seed=1)
    for options in (
        {},
        {"divergence": "along"},
        {"divergence": "along", "check": False},
        {"steps": 12},
    ):
        net = Counting()
        lp = ode.log_prob(ode.Model(net, paths.VP(), "noise"), x, trace="exact", **options)
        assert int(lp.nfe.sum()) == net.calls
        assert bool((lp.products >= 2 * 10).all())
        assert bool((lp.products % 2 == 0).all())


def test_conditions_go_with_their_samples():
    """Every sample under its own shift; the batch shrinks as samples end."""
    path, shift = (
        paths.EDM(sigma_max=800.0),
        torch.tensor([0.0, 3.0, -1.0, 7.0], dtype=torch.float64),
    )

    def net(x, t, by):
        return TWO.data(x - by[:, None], path, t) + by[:, None]

    x = TWO.sample(4, seed=1)
    for divergence in ("nodes", "along"):
        model = ode.Model(net, path, "data", time="sigma", cond={"by": shift})
        moved = ode.log_prob(model, x + shift[:, None], divergence=divergence, t=(0.002, 800.0))
        still = ode.log_prob(TWO.model(path, "data"), x, divergence=divergence, t=(0.002, 800.0))
        both = [lp.value + lp.prior_mismatch for lp in (moved, still)]
        assert float((both[0] - both[1]).abs().max()) < 1e-3


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"] + ["unipc_2", "rk4"] * LONG)
def test_a_fixed_grid_converges_to_the_same(solver):
    path = paths.VP()
    model, x = TWO.model(path, "noise"), TWO.sample(8, seed=1)
    want = truth(TWO, path, x, 0.01)
    errors = []
    for steps in (20, 80):
        lp = ode.log_prob(model, x, solver=solver, steps=steps, grid="lambda", t=(0.01, 1.0))
        errors.append(
            float((lp.value + mismatch(TWO, path, lp.latent) - want).square().mean().sqrt())
        )
        assert float(lp.solver_error.min()) > 0.0
        assert lp.ok
    assert errors[1] < 0.45 * errors[0]


def test_a_prior_of_ones_own():
    path = paths.EDM()
    model, x = TWO.model(path, "edm"), TWO.sample(6, seed=1)
    lp = ode.log_prob(model, x, base=lambda z: TWO.log_prob(z, path, 80.0))
    assert float((lp.value - truth(TWO, path, x)).abs().max()) < 1e-3
    assert float(lp.prior_mismatch.abs().max()) < 1e-4


class Swirl(torch.nn.Module):
    """dx/dt = A x, whose flow and density are known."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([[0.3, -1.0], [1.0, -0.5]], dtype=torch.float64))

    def forward(self, t, x):
        return x @ self.a.T


def test_a_continuous_normalising_flow():
    f, x = (
        Swirl(),
        torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    flow = torch.matrix_exp(1.5 * f.a.detach())
    base = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 2.0)
    want = base.log_prob(x @ flow.T).sum(1) + 1.5 * torch.trace(f.a.detach())
    for given in (base, lambda z: base.log_prob(z).sum(1)):
        lp = ode.log_prob(f, x, t=(0.0, 1.5), base=given, tol=1e-7)
        assert torch.allclose(lp.value, want, atol=1e-7)
        assert torch.allclose(lp.latent, x @ flow.T, atol=1e-6)
        assert lp.prior_mismatch is None
    back = ode.log_prob(f, x @ flow.T, t=(1.5, 0.0), tol=1e-7)
    assert torch.allclose(back.latent, x, atol=1e-6)


def test_a_float32_state_and_network():
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    model = ode.Model(lambda x, t: net(x), paths.Linear(), "velocity", dtype=torch.float32)
    x = TWO.sample(4, seed=1)
    a = ode.log_prob(model, x.float()).value
    b = ode.log_prob(
        ode.Model(lambda x, t: net.double()(x), paths.Linear(), "velocity"), x.float().double()
    ).value
    assert torch.allclose(a, b, atol=1e-3)
    plain = ode.log_prob(TWO.model(paths.Linear(), "velocity"), x.float())
    assert plain.latent.dtype == torch.float32
    assert float((plain.value - truth(TWO, paths.Linear(), x.float().double())).abs().max()) < 1e-2


def test_a_sample_that_diverges_stops_alone():
    def net(x, t):
        out = TWO.noise(x, paths.VP(), t)
        return torch.where((x[:, :1].abs() > 8.0) & (t[:, None] > 0.3), torch.nan, out)

    x = TWO.sample(4, seed=1)
    x[2] = 50.0
    clean = ode.log_prob(TWO.model(paths.VP(), "noise"), x[[0, 1, 3]])
    for options in ({}, {"divergence": "along"}):
        lp = ode.log_prob(ode.Model(net, paths.VP(), "noise"), x, **options)
        assert [s == "ok" for s in lp.status] == [True, True, False, True]
        assert not lp.ok
        assert bool(torch.isnan(lp.value[2]))
        assert torch.allclose(lp.value[[0, 1, 3]], clean.value, atol=1e-3)


def dense_problem(dim=24):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(dim, dim, dtype=torch.float64, generator=g)
    return problems.gaussian(
        torch.zeros(dim, dtype=torch.float64), cov=a @ a.T / dim + 0.05 * torch.eye(dim)
    )


ESTIMATORS = [
    ("hutchinson", 8),
    # those of the others are in test_reach.py, on 300 samples
    *(
        [
            ("hutchpp", 12),
            ("auto", 4),
            ("gaussian", 8),
            ("orthogonal", 8),
            ("fourier", 8),
            ("xtrace", 16),
        ]
        if LONG
        else []
    ),
]


@pytest.mark.parametrize(("trace", "products"), ESTIMATORS)
def test_intervals_cover_the_truth_at_their_rate(trace, products):
    """1000 independent sets of probes for one sample, all in one batch: as many intervals hold the
    truth as they promise, or more, and they are no more than a quarter wider than they would have
    to be."""
    from scipy.stats import binomtest

    problem, path, trials = dense_problem(), paths.EDM(), 1000
    x = problem.sample(1, seed=4)
    model = problem.model(path, "edm")
    exact = ode.log_prob(model, x, trace="exact", tol=1e-6).value
    lp = ode.log_prob(
        model,
        x.expand(trials, -1),
        trace=trace,
        products=products,
        seed=7,
        tol=1e-3,
        divergence="along",
        check=False,
    )
    assert float(lp.value.std()) > 0.02
    for level in (0.8, 0.95):
        low, high = lp.interval(level)
        covered = int(((low <= exact) & (exact <= high)).sum())
        assert binomtest(covered, trials, level, "less").pvalue > 1e-3, (
            f"{covered} of {trials} at {level}"
        )
        needed = torch.quantile((lp.value - exact).abs(), level)
        assert float((high - low).mean() / 2) < 1.25 * float(needed)
    assert abs(float(lp.value.mean() - exact)) < 4 * float(lp.value.std()) / trials**0.5


def test_bits_per_dim_of_real_digits_is_the_closed_form():
    """Scikit-learn's digits take 17 values: as pixels (k + u) / 17 in [0, 1], u uniform, the width
    of a value is 1/17."""
    from sklearn.datasets import load_digits

    k = torch.from_numpy(load_digits().images[:6])[:, None]
    u = torch.rand(k.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (k + u) / 17
    problem = problems.mixture(
        torch.ones(40), (torch.from_numpy(load_digits().images[:40, None]) + 0.5) / 17, std=0.1
    )
    path = paths.EDM()
    model = problem.model(path, "edm")
    lp = ode.log_prob(model, x, trace="exact", base=lambda z: problem.log_prob(z, path, 80.0))
    closed = -truth(problem, path, x) / (64 * math.log(2)) + math.log2(17)
    assert float((lp.bits_per_dim(levels=17, low=0.0, high=1.0) - closed).abs().max()) < 1e-4
    # The same pixels in [-1, 1] have other densities and the same bits.
    wide = problems.mixture(torch.ones(40), 2 * problem.means.reshape(-1, 1, 8, 8) - 1, std=0.2)
    far = ode.log_prob(
        wide.model(path, "edm"),
        2 * x - 1,
        t=(0.004, 80.0),
        base=lambda z: wide.log_prob(z, path, 80.0),
    )
    assert float((far.bits_per_dim(levels=17) - closed).abs().max()) < 1e-4


def test_one_probe_promises_no_interval():
    model, x = DIGITS.model(paths.EDM(), "edm"), DIGITS.sample(2, seed=3)
    lp = ode.log_prob(model, x, trace="hutchinson", products=1, tol=1.0)
    assert bool(torch.isnan(lp.stderr).all())
    assert bool(torch.isnan(lp.interval()[0]).all())
    assert lp.trace == "hutchinson(1)"
    assert int(lp.products[0]) <= int(lp.nfe[0])


MODEL = TWO.model(paths.VP(), "noise")
X = TWO.sample(2, seed=0)
WRONG = {
    "give an ode.Model": lambda: ode.log_prob(3, X),
    "floats of shape": lambda: ode.log_prob(MODEL, X.int()),
    "finite data": lambda: ode.log_prob(MODEL, X * torch.nan),
    "two times": lambda: ode.log_prob(MODEL, X, t=(0.1, 0.2, 0.3)),
    "unknown of": lambda: ode.log_prob(MODEL, X, of="map"),
    "unknown divergence": lambda: ode.log_prob(MODEL, X, divergence="later"),
    "unknown trace": lambda: ode.log_prob(MODEL, X, trace="exactly"),
    "near the data first": lambda: ode.log_prob(MODEL, X, t=(1.0, 0.01)),
    "does not determine the drift": lambda: ode.log_prob(
        TWO.model(paths.VP(), "data"), X, t=(0.0, 1.0)
    ),
    "needs a path": lambda: ode.log_prob(lambda t, x: x, X, divergence="nodes"),
    "give its conditions as": lambda: ode.log_prob(MODEL, X, args=(1,)),
    "give a density of the latents": lambda: ode.log_prob(MODEL, X, base=3.0),
    "return one real number per sample": lambda: ode.log_prob(
        MODEL, X, base=lambda z: z.sum()[None]
    ),
    "in the form of x": lambda: ode.log_prob(lambda t, x: x[:, :1], X),
    "time of the data and that of the base": lambda: ode.log_prob(lambda t, x: x, X, t=(1.0, 1.0)),
    "level=2": lambda: ode.log_prob(MODEL, X).interval(2.0),
    "without it": lambda: ode.log_prob(MODEL.classifier_guided(lambda x, t: x.sum(1)), X),
    "a model that a sampler runs": lambda: ode.log_prob(lambda t, x: x, X, of="plan"),
    "unknown adjoint": lambda: ode.log_prob(MODEL, X, adjoint="nonsense"),
    "differentiated by autograd": lambda: ode.log_prob(MODEL, X, steps=5, adjoint="continuous"),
    "bends the flow": lambda: ode.log_prob(TWO.model(paths.VP(), "noise", clip=1.0), X),
    "reverse=True": lambda: ode.log_prob(MODEL, X, plan=ode.plan("ddim", paths.VP(), 5)),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_at_the_door(message):
    with pytest.raises(ode.OdesolveError, match=message):
        WRONG[message]()


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "how",
    [
        {"adjoint": "backprop", "steps": 24, "solver": "rk4"},
        {"adjoint": "reversible", "steps": 200 if LONG else 100, "solver": "rk4"},
        {"adjoint": "backprop"},
        {"adjoint": "continuous"},
    ],
    ids=lambda how: how["adjoint"] + "-steps" * ("steps" in how),
)
def test_gradients_of_a_flow(how):
    """With respect to the data and the parameters: those of the closed form."""
    f, x = (
        Swirl(),
        torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    found, exact = x.clone().requires_grad_(), x.clone().requires_grad_()
    lp = ode.log_prob(f, found, tol=1e-7, **how)
    got = torch.autograd.grad(lp.value.sum(), [found, f.a])
    density = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    value = density.log_prob(exact @ torch.matrix_exp(f.a).T).sum(1) + torch.trace(f.a)
    want = torch.autograd.grad(value.sum(), [exact, f.a])
    assert torch.allclose(lp.value, value, atol=1e-6)
    assert all(torch.allclose(a, b, atol=2e-6) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("adjoint", ["continuous"] + ["backprop"] * LONG)
def test_gradients_of_a_model(adjoint):
    """The gradient in the data is the score; that of a parameter by central differences."""

    class Net(torch.nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

        def forward(self, x, t):
            return TWO.data(x - self.shift, paths.EDM(), t) + self.shift

    def value(shift, x, **how):
        model = ode.Model(Net(shift), paths.EDM(), "data", time="sigma")
        prior = lambda z: TWO.log_prob(z - 0.3, paths.EDM(), 80.0)
        return model.net, ode.log_prob(model, x, tol=1e-6, t=(0.05, 80.0), base=prior, **how).value

    x = TWO.sample(4, seed=1).requires_grad_()
    net, lp = value(0.3, x, adjoint=adjoint)
    dx, dshift = torch.autograd.grad(lp.sum(), [x, net.shift])
    score = TWO.score(x.detach() - 0.3, paths.EDM(), 0.05)
    assert torch.allclose(dx, score, atol=1e-4)
    ends = [value(0.3 + e, x.detach())[1].sum() for e in (1e-3, -1e-3)]
    assert float((dshift - (ends[0] - ends[1]) / 2e-3).abs()) < 1e-3


def test_the_density_of_the_sampler_that_runs():
    """On one Gaussian few-step DDIM is linear, so its density is another Gaussian's, in closed
    form."""
    path, problem = paths.VP(), problems.gaussian([0.5, -0.2], std=0.3)
    model, x = problem.model(path, "noise"), problem.sample(5, seed=0)
    lp = ode.log_prob(model, x, of="plan", solver="ddim", steps=4)
    z = torch.zeros(3, 2, dtype=torch.float64)
    z[1, 0], z[2, 1] = 1.0, 1.0
    origin, *columns = ode.sample(model, z, solver="ddim", steps=4)
    matrix = torch.stack([c - origin for c in columns], 1)
    want = torch.distributions.MultivariateNormal(origin, matrix @ matrix.T).log_prob(x)
    assert torch.allclose(lp.value, want, atol=1e-8)
    assert torch.allclose(lp.smallest, torch.linalg.svdvals(matrix)[-1].expand(5), atol=1e-8)


def test_inside_inference_mode():
    x = TWO.sample(3, seed=1)
    want = ode.log_prob(MODEL, x).value
    with torch.inference_mode():
        got = ode.log_prob(MODEL, x * 1.0).value
    assert torch.equal(got, want)
    assert not got.is_inference()


STEPS = 40 if LONG else 10


def test_gradients_only_where_they_are_asked_for():
    x = X.clone().requires_grad_()
    for options in (
        {},
        {"divergence": "along"},
        {"steps": 6, "t": (0.01, 1.0)},
        {"of": "plan", "steps": 4},
    ):
        with pytest.warns(UserWarning, match="x asks for gradients"):
            assert not ode.log_prob(MODEL, x, **options).value.requires_grad
    for options in (
        {"steps": STEPS, "t": (0.05, 1.0), "grid": "lambda"},
        {"of": "plan", "solver": "ddim", "steps": STEPS},
    ):
        (dx,) = torch.autograd.grad(
            ode.log_prob(MODEL, x, adjoint="backprop", **options).value.sum(), x
        )
        steps = [torch.zeros_like(X).index_fill_(1, torch.tensor([k]), 1e-4) for k in range(2)]
        ends = [[ode.log_prob(MODEL, X + s * e, **options).value for s in (1, -1)] for e in steps]
        want = torch.stack([(above - below) / 2e-4 for above, below in ends], 1)
        assert torch.allclose(dx, want, atol=1e-5)


def test_a_plan_that_has_no_inverse_says_so():
    """Points beyond the clip are images of nothing; the search for them ends without an
    exception."""
    model = TWO.model(paths.VP(), "noise", clip=0.5)
    lp = ode.log_prob(
        model,
        torch.tensor([[0.1, -0.2], [3.0, 3.0]], dtype=torch.float64),
        of="plan",
        solver="ddim",
        steps=8,
    )
    assert lp.status[1] != "ok"
    assert not bool(torch.isfinite(lp.value[1]))
