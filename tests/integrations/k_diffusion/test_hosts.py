"""Our solvers in a host's sampler module: k-diffusion's own, and one that looks samplers up as
ComfyUI does."""

from __future__ import annotations

import math
import types
from itertools import pairwise

import pytest
import torch

import odesolve as ode
from odesolve import grids, paths
from tests.products import LONG, diagonal

from . import comfy
from .common import DENOISER, LEVELS, K, float64, gap, peer, start

SIGMAS = LEVELS.float()
FLOW = torch.linspace(1.0, 0.0, 9)
AT = torch.tensor([[0.3, -0.7], [0.1, 0.2]])
PROBLEM = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.5], [0.8, -0.3]], std=0.3)


def noise(n=4, dtype=torch.float32):
    return torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))


def guider(path, **options):
    sampling = comfy.Sampling() if isinstance(path, paths.Linear) else comfy.EPS()
    return comfy.Guider(PROBLEM.model(path, "data").net, sampling, **options)


@pytest.fixture
def program():
    made = comfy.host(
        sample_euler=peer.sample_euler,
        sample_dpmpp_2m=peer.sample_dpmpp_2m,
        sample_heunpp2=lambda: None,
    )
    yield made
    K.unregister(made.sampling)


def test_by_name_through_the_host(program):
    names = K.register(program.sampling, listed=program.samplers)
    assert names == [f"ode_{n}" for n in ode.solvers()]
    heard = []
    model = guider(paths.EDM())
    out = comfy.sample(
        program, "ode_dpmpp_3m", model, noise(), SIGMAS, 3, lambda *a: heard.append(a)
    )
    want = ode.sample(
        ode.Model(model.denoiser, paths.EDM(), "data"),
        state=noise() * SIGMAS[0],
        solver="dpmpp_3m",
        grid=grids.sigmas(paths.EDM(), SIGMAS),
    )
    assert gap(out, want) < 1e-5
    assert [h[0] for h in heard] == list(range(8))
    assert all(h[1].shape == h[2].shape == out.shape and h[3] == 8 for h in heard)


@pytest.mark.few(22)
@pytest.mark.parametrize(
    ("name", "path"),
    diagonal(list(ode.solvers()), [paths.EDM(), paths.Linear()]),
)
def test_every_solver_runs_in_the_host(program, name, path):
    K.register(program.sampling, names=[name], listed=program.samplers)
    sigmas = FLOW if isinstance(path, paths.Linear) else SIGMAS
    out = comfy.sample(program, f"ode_{name}", guider(path), noise(), sigmas, 3)
    assert bool(torch.isfinite(out).all())


def test_lists_grow_once_and_shrink_back(program):
    before = {k: list(v) for k, v in vars(program.samplers).items() if isinstance(v, list)}
    for _ in range(3):
        names = K.register(
            program.sampling,
            names=["ddim", "res_2m"],
            listed=[program.samplers, program.samplers.KSampler],
        )
    assert names == ["ode_ddim", "ode_res_2m"]
    for key, kept in before.items():
        assert getattr(program.samplers, key) == [*kept, *names]
    K.unregister(program.sampling)
    assert {k: v for k, v in vars(program.samplers).items() if isinstance(v, list)} == before
    assert not [n for n in vars(program.sampling) if "ode_" in n]
    K.unregister(program.sampling)


def test_replacing_the_hosts_own(program):
    names = K.register(program.sampling, names=(), replace=True)
    assert sorted(names) == ["dpmpp_2m", "euler"]
    assert program.sampling.sample_euler is K.sampling.sample_euler
    with float64():
        x = start() * LEVELS[0]
        ours = program.sampling.sample_dpmpp_2m(DENOISER, x, LEVELS, disable=True)
        K.unregister(program.sampling)
        assert program.sampling.sample_dpmpp_2m is peer.sample_dpmpp_2m
        assert (
            gap(ours, program.sampling.sample_dpmpp_2m(DENOISER, x, LEVELS, disable=True)) < 1e-10
        )


def test_registered_twice_the_hosts_own_comes_back(program):
    for _ in range(2):
        K.register(program.sampling, names=(), replace=True)
    K.unregister(program.sampling)
    assert program.sampling.sample_euler is peer.sample_euler


def test_in_k_diffusions_module():
    module = types.ModuleType("copy")
    vars(module).update(vars(peer))
    names = K.register(module, "our_", ["dpmpp_3m"], replace=True)
    assert {"our_dpmpp_3m", "dpm_adaptive", "dpm_fast", "dpmpp_2m_sde", "lms"} <= set(names)
    assert module.sample_our_dpmpp_3m is K.sampling.sample_ode_dpmpp_3m
    assert module.sample_dpm_fast is K.sampling.sample_dpm_fast
    K.unregister(module)
    assert all(
        getattr(module, n) is getattr(peer, n) for n in vars(peer) if n.startswith("sample_")
    )


def test_what_cannot_be_registered(program):
    with pytest.raises(ode.OdesolveError, match="unknown solver 'dpmpp_4m': did you mean"):
        K.register(program.sampling, names=["dpmpp_4m"])
    with pytest.raises(ode.OdesolveError, match="names is empty"):
        K.register(program.sampling, names=[])
    with pytest.raises(
        ode.OdesolveError, match="give a list of names, or what has one of KSAMPLER_NAMES"
    ):
        K.register(program.sampling, names=["ddim"], listed=program)


def test_options_of_a_node_are_those_that_the_function_takes(program):
    K.register(program.sampling, names=["dpmpp_2m_sde"], listed=program.samplers)
    call = (program, "ode_dpmpp_2m_sde", guider(paths.EDM()), noise(), SIGMAS, 3)
    plain, quiet = comfy.sample(*call), comfy.sample(*call, options={"eta": 0.0, "nothing": 1})
    assert gap(plain, quiet) > 1e-2
    assert (
        gap(quiet, K.sampling.sample_dpmpp_2m(call[2].denoiser, noise() * SIGMAS[0], SIGMAS)) < 1e-5
    )


def test_the_seed_decides(program):
    K.register(program.sampling, names=["dpmpp_2m_sde"], listed=program.samplers)
    call = (program, "ode_dpmpp_2m_sde", guider(paths.EDM()))
    one, same = (comfy.sample(*call, noise(), SIGMAS, 2**64 - 5) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, comfy.sample(*call, noise(), SIGMAS, 7))
    assert torch.equal(comfy.sample(*call, noise()[:1], SIGMAS, 2**64 - 5), one[:1])


STOCHASTIC = [
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
]
MORE = [
    "er_sde",
    "seeds_2",
    "seeds_3",
    "exp_heun_2_x0_sde",
    "sa_solver",
    "ddpm",
    "dpmpp_2m_sde_heun",
    "lcm",
]


@pytest.mark.parametrize("patched", [True, False])
@pytest.mark.parametrize("name", [*STOCHASTIC, *MORE])
def test_noise_of_flows_keeps_to_their_path(name, patched):
    """A denoiser that does not look at x: with any noise levels and any start, what remains is (1 -
    t) D + t z."""
    sampler = getattr(K.sampling, f"sample_{name}")
    model = comfy.Guider(lambda x, sigma: torch.full_like(x, 2.0), comfy.CONST(), patched)
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(1))
    out = sampler(
        comfy.Inpaint(model), x, FLOW[:5], {"denoise_mask": None, "seed": 1}, disable=True
    )
    t = float(FLOW[4])
    assert float(out.mean()) == pytest.approx((1 - t) * 2.0, abs=5 * t / 16000**0.5)
    assert float(out.std()) == pytest.approx(t, rel=0.03)


@pytest.mark.parametrize("flow", [True, False])
def test_lcm_renoises_the_prediction(flow):
    """ComfyUI's rule, by hand with the noise that was asked for; of a flow the prediction is scaled
    to what its level leaves."""
    sigmas = FLOW if flow else SIGMAS
    model, x, drawn = (
        guider(paths.Linear() if flow else paths.EDM()),
        noise() * float(sigmas[0]),
        [],
    )

    def noise_sampler(sigma, sigma_next):
        drawn.append(
            torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(len(drawn)))
        )
        return drawn[-1]

    out = K.sampling.sample_lcm(comfy.Inpaint(model), x, sigmas, {"denoise_mask": None}, disable=True,
                                noise_sampler=noise_sampler)  # fmt: skip
    want = x
    for k, (s, t) in enumerate(pairwise(sigmas.tolist())):
        want = comfy.Inpaint(model)(want, want.new_full((len(x),), s), denoise_mask=None)
        want = ((1 - t) * want if flow else want) + t * drawn[k] if t > 0 else want
    assert gap(out, want) < 1e-5
    assert len(drawn) == len(sigmas) - 2


ALIKE = ["heun", "lms", "ipndm", "ipndm_v"]  # other one-step and multistep solvers


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", ["euler", "dpm_2", "dpmpp_2m", "res_multistep", *(ALIKE if LONG else [])]
)
def test_without_noise_a_flow_is_the_same_equation(name):
    """dx/dt = (x - denoised) / t of a flow is what k-diffusion's solvers integrate: they converge
    to the flow's solution."""
    model = guider(paths.Linear())
    x = noise(8, torch.float64)
    exact = ode.solve(
        PROBLEM.model(paths.Linear(), "data"), x, (1.0, 1e-3), rtol=1e-10, atol=1e-10
    ).last
    sampler = getattr(K.sampling, f"sample_{name}")
    errors = []
    for n in (40, 80):
        sigmas = torch.linspace(1.0, 1e-3, n + 1, dtype=torch.float64)
        out = sampler(comfy.Inpaint(model), x, sigmas, {"denoise_mask": None}, disable=True)
        errors.append(float((out - exact).abs().max()))
    assert errors[1] < 0.62 * errors[0]
    assert errors[1] < 0.05


def ancestral_of_flows(name, model, x, sigmas, eta, s_noise, z):
    """Lightricks' rule: down to t' (1 + eta (t'/t - 1)), then noise up to t'; ComfyUI's stages on
    the way down."""
    lam = lambda t: float(-torch.logit(torch.tensor(t, dtype=torch.float64)))
    for k, (s, t) in enumerate(pairwise(sigmas)):
        down = t * (1 + eta * (t / s - 1))
        data = model(x, x.new_full((len(x),), s))
        slope = (x - data) / s
        if t > 0 and name == "dpm_2_ancestral":
            m = (s * down) ** 0.5
            y = x + (m - s) * slope
            slope = (y - model(y, x.new_full((len(x),), m))) / m
        elif t > 0 and name == "dpmpp_2s_ancestral":
            m = 0.9999 if s == 1.0 else 1 / (1 + math.exp((lam(s) + lam(down)) / 2))
            y = m / s * x + (1 - m / s) * data
            slope = (x - model(y, x.new_full((len(x),), m))) / s
        x = x + (down - s) * slope
        if t > 0:
            up = (t**2 - down**2 * (1 - t) ** 2 / (1 - down) ** 2) ** 0.5
            x = (1 - t) / (1 - down) * x + s_noise * up * z[k]
    return x


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ancestral_solvers_of_flows(name, eta):
    model, x = guider(paths.Linear()), noise(4, torch.float64)
    z = torch.randn(6, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sigmas, given = [1.0, 0.8, 0.5, 0.2, 0.0], iter(z)
    out = getattr(K.sampling, f"sample_{name}")(
        comfy.Inpaint(model),
        x,
        sigmas,
        {"denoise_mask": None},
        None,
        True,
        eta,
        1.1,
        lambda a, b: next(given),
    )
    assert gap(out, ancestral_of_flows(name, model, x, sigmas, eta, 1.1, z)) < 1e-10


def half_log_snr(t, flow):
    return -torch.logit(t) if flow else -t.log()


@pytest.mark.parametrize("flow", [False, True])
def test_reverse_sde_of_flows(flow):
    """DPM-Solver++(2M) SDE in the log-SNR of a flow, and of levels."""
    model = guider(paths.Linear() if flow else paths.EDM())
    sigmas = torch.tensor([0.95, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    z = torch.randn(6, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given, eta = iter(z), 0.6
    x = y = noise(4, torch.float64)
    out = K.sampling.sample_dpmpp_2m_sde(
        comfy.Inpaint(model),
        x,
        sigmas,
        {"denoise_mask": None},
        eta=eta,
        noise_sampler=lambda a, b: next(given),
    )
    before = None
    for k, (s, t) in enumerate(pairwise(sigmas)):
        data = model(y, s.expand(4))
        if t == 0:
            y = data
            break
        lam, alpha = half_log_snr(torch.stack([s, t]), flow), 1 - t if flow else 1.0
        h = lam[1] - lam[0]
        ahead = data if before is None else data + 0.5 * h / before[1] * (data - before[0])
        y = t / s * torch.exp(-eta * h) * y - alpha * torch.expm1(-(1 + eta) * h) * ahead
        y = y + t * torch.sqrt(-torch.expm1(-2 * eta * h)) * z[k]
        before = data, h
    assert gap(out, y) < 1e-10


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(("solver_type", "r"), [("phi_1", 0.5), ("phi_2", 0.3), ("phi_2", 1.0)])
def test_seeds_2_in_comfyuis_terms(flow, solver_type, r):
    """The noise of the stage, carried on, and that of the rest of the step."""
    model = guider(paths.Linear() if flow else paths.EDM())
    sigmas = torch.tensor([0.95, 0.5, 0.2], dtype=torch.float64)
    z = torch.randn(9, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given, mine = iter(z), iter(z)
    x = y = noise(4, torch.float64)
    out = K.sampling.sample_seeds_2(
        comfy.Inpaint(model),
        x,
        sigmas,
        {"denoise_mask": None},
        None,
        True,
        1.0,
        1.1,
        lambda a, b: next(given),
        r,
        solver_type,
    )
    for s, t in pairwise(sigmas):
        lam_s, lam_t = half_log_snr(s, flow), half_log_snr(t, flow)
        h, lam_m = lam_t - lam_s, lam_s + r * (lam_t - lam_s)
        m = torch.sigmoid(-lam_m) if flow else torch.exp(-lam_m)
        alpha_m, alpha_t = m * lam_m.exp(), t * lam_t.exp()
        drawn = torch.sqrt(-torch.expm1(-2 * r * h)) * next(mine)
        data = model(y, s.expand(4))
        stage = (
            m / s * torch.exp(-r * h) * y
            - alpha_m * torch.expm1(-2 * r * h) * data
            + 1.1 * m * drawn
        )
        other = model(stage, m.expand(4))
        if solver_type == "phi_1":
            mean = -torch.expm1(-2 * h) * (data + (other - data) / (2 * r))
        else:
            bent = (torch.expm1(-2 * h) + 2 * h) / (-2 * h) / r
            mean = -(torch.expm1(-2 * h) - bent) * data - bent * other
        drawn = torch.exp((r - 1) * h) * drawn
        if r < 1:
            drawn = drawn + torch.sqrt(-torch.expm1(2 * (r - 1) * h)) * next(mine)
        y = t / s * torch.exp(-h) * y + alpha_t * mean + 1.1 * t * drawn
    assert gap(out, y) < 1e-10


def test_noise_of_a_scale():
    """A flow trained with noise of deviation 0.5."""
    sampling = comfy.Sampling()
    sampling.noise_scale = 0.5
    model = comfy.Inpaint(comfy.Guider(lambda x, sigma: torch.full_like(x, 2.0), sampling))
    x = 0.5 * torch.randn(2000, 8, generator=torch.Generator().manual_seed(1))
    out = K.sampling.sample_dpmpp_2m_sde(
        model, x, FLOW[:5], {"denoise_mask": None, "seed": 1}, disable=True
    )
    assert float(out.std()) == pytest.approx(0.5 * float(FLOW[4]), rel=0.03)


def test_flows_outside_of_comfyui():
    sigmas = torch.linspace(1.0, 0.0, 21, dtype=torch.float64)
    model = PROBLEM.model(paths.Linear(), "data")
    x = noise(8, torch.float64)
    ours = K.sampling.sample_ode_dpmpp_3m(model.net, x, sigmas, flow=True)
    assert gap(ours, ode.sample(model, state=x, solver="dpmpp_3m", grid=sigmas)) < 1e-12
    assert gap(ours, K.sampling.sample_ode_dpmpp_3m(model.net, x, sigmas)) > 1e-3
