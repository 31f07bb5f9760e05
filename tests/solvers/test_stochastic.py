"""The stochastic samplers as plans: which of them are the same, what their options do, and what
they refuse."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from odesolve.kernels.philox import keys, normals
from scipy.integrate import quad

import odesolve as ode
from odesolve import grids, paths
from odesolve.noise import stream_numbers
from odesolve.solvers.er_sde import RATIOS, _moments
from tests.rows import rows

from .cases import PATHS, window

STOCHASTIC = [n for n, s in ode.solvers().items() if s.stochastic]
HALF = repr(math.sqrt(0.5))
SAME = [
    ("ddpm", "ddim(eta=1)"),
    ("sde_dpmpp_1", "ddim(eta=1)"),
    ("sde_dpmpp_1(tau=0)", "ddim"),
    (f"sde_dpmpp_1(tau={HALF})", "sa_solver(predictor=1,corrector=0,tau=" + HALF + ")"),
    ("dpmpp_2m_sde(eta=0.5,second=heun)", f"sa_solver(predictor=2,corrector=0,tau={HALF})"),
    ("dpmpp_2m_sde(eta=0)", "dpmpp_2m"),
    ("dpmpp_3m_sde(eta=0)", "dpmpp_3m(start=ramp)"),
    ("dpmpp_3m_sde(eta=0,published=True)", "dpmpp_3m_published(second=heun)"),
    ("dpmpp_3m_sde(eta=0.5)", f"sa_solver(predictor=3,corrector=0,tau={HALF})"),
    ("dpmpp_sde(eta=0)", "dpmpp_2s"),
    ("dpmpp_sde", "seeds_2"),
    ("dpmpp_2s_ancestral(eta=0)", "dpmpp_2s"),
    ("dpm2_ancestral(eta=0)", "dpm_solver_2"),
    ("seeds_2(eta=0,r=0.4)", "dpmpp_2s(r=0.4)"),
    ("seeds_3(eta=0)", "dpmpp_3s"),
    ("er_sde_1(scaling=ode)", "ddim"),
    ("er_sde_1(scaling=sde)", "ddim(eta=1)"),
    ("sa_solver(predictor=2,corrector=3,tau=0,published=True)", "unipc_2(variant=bh1)"),
    (
        "sa_solver(predictor=2,corrector=3,tau=0,published=True,taper=True)",
        "unipc_2(variant=bh1,taper=True)",
    ),
    ("heun_churn(s_churn=0)", "heun_edm"),
    ("euler_churn(s_churn=0)", "ddim"),
    ("dpm2_churn(s_churn=0)", "dpm_solver_2"),
    ("euler_ancestral_rf(eta=0)", "ddim"),
    ("euler_maruyama(tau=0)", "euler"),
    ("euler_maruyama(diffusion=sbdm,tau=0.6)", "euler_maruyama(tau=0.6)"),
]


@rows(("one", "other"), SAME)
def test_members_that_are_the_same_sampler(one, other):
    for name in ("vp", "edm", "linear"):
        path = PATHS[name]
        # first order at the ends is not the same order there
        grid = window(path) if "(tau=0)" in one else "karras"
        a, b = (ode.plan(s, path, 7, grid) for s in (one, other))
        assert a.diff(b).same(1e-11), (name, str(a.diff(b)))


def test_ancestral_sampling_of_flow_models_is_ddim_where_alpha_is_one():
    edm, flow = (
        ode.plan("euler_ancestral_rf", p, 7, "karras").diff(ode.plan("ddim(eta=1)", p, 7, "karras"))
        for p in (PATHS["edm"], PATHS["linear"])
    )
    assert edm.same(1e-11)
    assert flow.largest > 1e-2


SLOPES = {  # phi' of the named noise scaling functions
    "er": lambda rho: math.exp(rho**0.3) * (1 + 0.3 * rho**0.3) + 10,
    "ode": lambda rho: 1.0,
    "sde": lambda rho: 2 * rho,
}


@rows("scaling", RATIOS)
@rows(("high", "low"), [(1.3, 1.2), (80.0, 0.002), (0.1, 0.099999)])
def test_integrals_of_er_sde(scaling, high, low):
    """phi(rho_t) int_t^s (rho - rho_s)^k phi'/phi^2 drho, here as it stands and by an adaptive
    rule."""
    ratio = RATIOS[scaling]
    s, t = paths.EDM().points([high, low])
    top, bottom = s.rho, t.rho
    span = math.log(top / bottom)

    def integrand(u, k):
        rho = bottom * math.exp(u * span)
        slope = bottom * ratio(bottom) * SLOPES[scaling](rho) / (rho * ratio(rho)) ** 2
        return (top * math.expm1((u - 1) * span)) ** k * slope * rho * span

    for k, got in enumerate(_moments(s, t, ratio, 3)):
        wanted, _ = quad(integrand, 0.0, 1.0, args=(k,), epsabs=0, epsrel=1e-13, limit=200)
        assert abs(got / wanted - 1) < (1e-12 if high > 1 else 1e-10)


def test_published_er_sde_is_the_papers_recursion():
    """Differences of differences, the integrals by an adaptive rule."""
    path, ratio = paths.EDM(), RATIOS["er"]
    problem = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=(0.3, 0.5))
    model, phi = problem.model(path, "data"), lambda rho: rho * ratio(rho)
    levels = [20.0, 9.0, 4.0, 2.0, 0.7, 0.2]
    start = 20.0 * torch.randn(
        4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    plan = ode.plan("er_sde_3", path, grid=grids.sigmas(path, levels), published=True)
    x, data, slopes = start, [], []
    for i, (s, t) in enumerate(itertools.pairwise(levels)):
        data.append(model.data(x, s))
        r, dt = phi(t) / phi(s), t - s
        new = r * x + (1 - r) * data[-1]
        if i >= 1:
            slopes.append((data[-1] - data[-2]) / (s - levels[i - 1]))
            area = quad(lambda v: 1 / phi(v), t, s, epsrel=1e-13)[0]
            new = new + (dt + area * phi(t)) * slopes[-1]
        if i >= 2:
            bend = (slopes[-1] - slopes[-2]) / ((s - levels[i - 2]) / 2)
            area = quad(lambda v, s=s: (v - s) / phi(v), t, s, epsrel=1e-13)[0]
            new = new + (dt**2 / 2 + area * phi(t)) * bend
        z = normals(keys(3, torch.arange(4)), stream_numbers.STEPS + i, 2).double()
        x = new + math.sqrt(t**2 - (s * r) ** 2) * z
    torch.testing.assert_close(
        ode.sample(model, state=start, plan=plan, seed=3), x, rtol=1e-11, atol=1e-11
    )


def test_restart_is_its_algorithm():
    """Xu et al. 2023, Algorithm 1: up by one draw, down by Heun on Karras' grid, and so K times."""
    path = paths.EDM()
    problem = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5], [1.0, -0.2]], std=(0.3, 0.5))
    model = problem.model(path, "data")
    levels, low, high, steps, times = [20.0, 5.0, 1.0, 0.3, 0.1], 0.3, 2.0, 3, 2
    x = start = 20.0 * torch.randn(
        4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    slope = lambda x, s: (x - model.data(x, s)) / s

    def heun(x, s, t):
        d = slope(x, s)
        return x + (t - s) / 2 * (d + slope(x + (t - s) * d, t))

    inner = [
        (high ** (1 / 7) + k / steps * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        for k in range(steps + 1)
    ]
    draws = (
        normals(keys(3, torch.arange(4)), stream_numbers.CORRECTIONS + k, 2).double()
        for k in range(times)
    )
    for s, t in itertools.pairwise(levels):
        x = heun(x, s, t)
        for _ in range(times if t == low else 0):
            x = x + math.sqrt(high**2 - low**2) * next(draws)
            for a, b in itertools.pairwise(inner):
                x = heun(x, a, b)
    plan = ode.plan(
        "restart", path, grid=grids.sigmas(path, levels), segments={0.31: [steps, times, high]}
    )
    torch.testing.assert_close(
        ode.sample(model, state=start, plan=plan, seed=3), x, rtol=1e-11, atol=1e-11
    )


def test_any_diffusion_coefficient():
    """A function of t gives w itself; the forms of SiT are w^2 / 2 = form."""
    path = paths.Linear()
    plans = [
        ode.plan("euler_maruyama", path, 9, diffusion=d, tau=0.7)
        for d in ("sigma", lambda t: math.sqrt(2 * t))
    ]
    assert plans[0].diff(plans[1]).same(1e-12)
    at_one = ode.plan("euler_maruyama", path, 4, diffusion="sigma").instructions[1]
    # the noise end is an ordinary point where w is finite
    assert at_one.inputs == ("x0", "D1", "~0")
    assert at_one.weights[0][2] == pytest.approx(math.sqrt(2 * 1.0 * 0.25), rel=1e-14)


def test_a_function_as_an_option_is_named():
    """By its own name: the name of a plan is part of what it hashes to, and must not hold an
    address."""

    def rising(t):
        return 1.0 + t

    plan = ode.plan("euler_maruyama", paths.VP(), 3, diffusion=rising)
    assert plan.solver == "euler_maruyama(diffusion=rising)"


REVERSED = [n for n in STOCHASTIC if n not in ("predictor_corrector", "annealed_langevin")]


@pytest.mark.parametrize("solver", REVERSED)
def test_no_noise_is_replaced_on_the_way_to_noise(solver):
    with pytest.raises(
        ode.PlanError,
        match=r"would replace|goes from noise to data|must be "
        r"positive and grow",
    ):
        ode.plan(solver, paths.VP(), 8, "vp_time", reverse=True)


@pytest.mark.parametrize(
    ("solver", "wanted"),
    [
        ("sde_dpmpp_1(tau=-1)", "tau=-1.0 is no noise level"),
        ("dpmpp_sde(r=1.5)", "r=1.5: give the stage's fraction"),
        ("seeds_2(r=0.0)", "r=0.0: give the stage's fraction"),
        ("seeds_2(second=euler)", "give second='midpoint' or 'heun'"),
        ("seeds_3(eta=-0.1)", "eta=-0.1 is no noise level"),
        ("ddpm(variance=none)", "variance='none': give 'small', 'large' or"),
        ("euler_ancestral_rf(eta=1.5)", "eta=1.5: give a number from 0"),
        ("ddim(eta=1.5)", "would replace"),
        ("heun_churn(s_churn=-1)", "s_churn=-1: give a number of at least 0"),
        ("euler_churn(s_tmin=2,s_tmax=1)", "give s_churn >= 0 and s_tmin <= s_tmax"),
        ("sa_solver(predictor=5)", "give predictor from 1 to 4"),
        ("sa_solver(corrector=-1)", "corrector=-1: give a whole number of at least 0"),
        ("er_sde_2(scaling=rho)", "scaling='rho': give 'er', 'ode', 'sde' or a function"),
        ("euler_maruyama(diffusion=beta)", "diffusion='beta': give 'reverse'"),
        ("euler_maruyama(clock=rho)", "clock='rho': give 't', or 'lambda'"),
        ("euler_maruyama(clock=lambda,diffusion=sigma)", "or 'lambda' with diffusion='reverse'"),
        ("sde_dpm_solver_2m(second=euler)", "give second='midpoint' or 'heun'"),
    ],
)
def test_what_options_cannot_be(solver, wanted):
    with pytest.raises(ode.OdesolveError, match=wanted):
        ode.plan(solver, paths.VP(), 5, "karras")


def test_restart_segments_on_a_coarse_grid():
    """Two that fall on one step are both done there; one that the grid has no place for is left
    out."""
    path = PATHS["edm"]
    both = ode.plan("restart", path, 3, "karras", segments={0.2: (2, 1, 3.0), 0.1: (2, 3, 3.0)})
    assert both.nfe == 5 + 2 * 2 * (1 + 3)
    none = ode.plan("restart", path, 3, "karras", segments={1e-3: (2, 1, 1.5e-3)})
    assert none.diff(ode.plan("heun_edm", path, 3, "karras")).same(1e-11)


@pytest.mark.parametrize(
    "segment",
    [
        (2.0, (3, 1, 1.0)),
        (0.1, (0, 1, 1.0)),
        (0.1, (3, 0, 1.0)),
        (0.1, (3, 1, 1e4)),
        (0.1, 3),
        (0.1, (2.5, 1, 1.0)),
    ],
)
def test_restart_segments_that_cannot_be(segment):
    with pytest.raises(ode.PlanError, match=r"give {t_min: \(steps, times, t_max\)}"):
        ode.plan("restart", paths.EDM(), 5, "karras", segments=dict([segment]))


def test_functions_that_cannot_be_noise():
    with pytest.raises(ode.PlanError, match=r"phi\(rho\)/rho must be positive and grow with rho"):
        ode.plan("er_sde_1", paths.EDM(), 5, "karras", scaling=lambda rho: 1.0)
    with pytest.raises(ode.PlanError, match=r"diffusion\(1\) is -1.0: give a finite number"):
        ode.plan("euler_maruyama", paths.VP(), 5, diffusion=lambda t: -1.0)
