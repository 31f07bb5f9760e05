"""What hosts rely on besides numbers: signatures, dtypes, errors, progress, and that k-diffusion is
not needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

import odesolve as ode
from odesolve.integrations.k_diffusion import driver
from tests.rows import rows

from .common import DENOISER, LEVELS, K, float64, gap, peer, start

OWN = [n for n in vars(peer) if n.startswith("sample_")]
SIGMAS = LEVELS.float()


@rows("name", [*OWN, "log_likelihood"])
def test_signatures_are_the_peers(name):
    """The same parameters in the same order with the same values; what is ours alone comes after
    them."""
    theirs, ours = (
        list(inspect.signature(getattr(m, name)).parameters.values()) for m in (peer, K.sampling)
    )
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    assert [p.default for p in ours[: len(theirs)]] == [p.default for p in theirs]
    assert all(p.default is not inspect.Parameter.empty for p in ours[len(theirs) :])


def test_every_solver_there_is_has_a_function():
    for name, entry in ode.solvers().items():
        f = getattr(K.sampling, f"sample_ode_{name}")
        parameters = inspect.signature(f).parameters
        assert list(parameters)[:6] == ["model", "x", "sigmas", "extra_args", "callback", "disable"]
        assert {k: parameters[k].default for k in entry.options} == entry.options
        assert ("noise_sampler" in parameters) == entry.stochastic
        assert inspect.getfullargspec(f).kwonlyargs == list(parameters)[6:]
        assert f.__doc__
        assert getattr(K.sampling, f"sample_ode_{name}") is f
    assert "sample_ode_dpmpp_3m" in dir(K.sampling)
    with pytest.raises(AttributeError, match="sample_ode_nothing"):
        _ = K.sampling.sample_ode_nothing


@rows("name", list(ode.solvers()))
def test_every_solver_denoises(name):
    """Data at one point: the denoiser knows it, and every solver arrives."""
    at = torch.tensor([[0.3, -0.7]])
    model = lambda x, sigma: at.expand_as(x)
    f = getattr(K.sampling, f"sample_ode_{name}")
    x = at + SIGMAS[0] * torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    out = f(model, x, SIGMAS, {}, disable=True)
    assert gap(out, at.expand_as(out)) < (
        0.2 if name in ("annealed_langevin", "predictor_corrector") else 2e-3
    )


def test_options_of_a_solver():
    x = start() * LEVELS[0]
    with float64():
        two, three = (
            K.sampling.sample_ode_ipndm_v4(DENOISER, x, LEVELS, start=s) for s in ("ramp", "single")
        )
        assert gap(two, K.sampling.sample_lms(DENOISER, x, LEVELS)) < 1e-12
    assert gap(three, two) > 1e-4
    with pytest.raises(ode.OdesolveError, match="got an option 'order'"):
        K.sampling.sample_ode_ipndm_v4(DENOISER, x, LEVELS, order=2)


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"])
def test_half_precision(name, dtype):
    """The model gets x and sigma in the dtype of x, as callbacks do; between the calls the state is
    kept in float32."""
    kinds, told, x = set(), [], start().float() * SIGMAS[0]

    def model(x, sigma):
        kinds.add((x.dtype, sigma.dtype))
        return DENOISER(x.double(), sigma.double()).to(x.dtype)

    options = {"eta": 0.0, "noise_sampler": lambda *_: 0.0} if "sde" in name else {}
    out = getattr(K.sampling, f"sample_{name}")(
        model, x.to(dtype), SIGMAS, None, told.append, True, **options
    )
    assert out.dtype == dtype
    assert kinds == {(dtype, dtype)}
    assert {(i["x"].dtype, i["denoised"].dtype) for i in told} == {(dtype, dtype)}
    at_the_door = lambda x, sigma: model(x.to(dtype), sigma.to(dtype)).float()
    theirs = getattr(peer, f"sample_{name}")(
        at_the_door, x.to(dtype).float(), SIGMAS, disable=True, **options
    )
    assert gap(out.float(), theirs) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
def test_more_steps_do_no_harm_in_half_precision(dtype):
    """k-diffusion's DPM-Solver++(2M) rounds its state at every step."""
    sigmas, x = K.sampling.get_sigmas_karras(300, 0.03, 14.6), start() * 14.6
    model = lambda x, sigma: DENOISER(x.double(), sigma.double()).to(x.dtype)
    exact = K.sampling.sample_dpmpp_2m(DENOISER, x, sigmas.double(), disable=True)
    errors = [
        float(
            (m.sample_dpmpp_2m(model, x.to(dtype), sigmas, disable=True).double() - exact)
            .square()
            .mean()
            .sqrt()
        )
        for m in (K.sampling, peer)
    ]
    assert errors[0] < 4 * torch.finfo(dtype).eps
    assert errors[0] < 0.5 * errors[1]


@rows("count", [0, 1])
@rows("name", [n for n in OWN if n not in ("sample_dpm_fast", "sample_dpm_adaptive")])
def test_no_step_no_change(name, count):
    x = start()
    assert getattr(K.sampling, name)(lambda x, sigma: x, x, LEVELS[:count]) is x


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([10.0, 5.0, 5.0, 1.0], r"not strictly monotone at t=5, 5: give increasing or decreasing"),
        ([10.0, 5.0, 7.0, 1.0], r"not strictly monotone at t=5, 7"),
        ([float("inf"), 1.0], r"give finite noise levels with a positive one"),
        ([10.0, float("nan")], r"sigmas|range"),
        ([0.0, -1.0], r"give finite noise levels with a positive one"),
        (
            [[1.0, 0.0]],
            r"sigmas are torch.float32 of shape \(1, 2\): give floats \(B, ...\) and noise levels "
            r"\(n \+ 1,\)",
        ),
    ],
)
def test_levels_that_are_no_levels(sigmas, message):
    with pytest.raises(ode.OdesolveError, match=message):
        K.sampling.sample_euler(DENOISER, start(), torch.tensor(sigmas), disable=True)


def test_errors_of_the_other_arguments():
    x = start() * LEVELS[0]
    with pytest.raises(ode.OdesolveError, match="solver_type='mid': give 'heun' or 'midpoint'"):
        K.sampling.sample_dpmpp_2m_sde(DENOISER, x, LEVELS, solver_type="mid")
    with pytest.raises(ode.OdesolveError, match="order=0: give a whole number"):
        K.sampling.sample_lms(DENOISER, x, LEVELS, order=0)
    with pytest.raises(
        ode.OdesolveError,
        match=r"the network returned shape \(6, 2\) for a state of shape \(6, "
        r"2, 2\)",
    ):
        K.sampling.sample_euler(lambda x, sigma: x[:, 0], x, LEVELS)
    with pytest.raises(ode.OdesolveError, match=r"x is torch\.int64"):
        K.sampling.sample_euler(DENOISER, torch.ones(2, 3, dtype=torch.int64), LEVELS)
    with pytest.raises(ode.OdesolveError, match="the noise has shape"):
        K.sampling.sample_euler_ancestral(
            DENOISER, x, LEVELS, noise_sampler=lambda a, b: torch.zeros(5)
        )
    with pytest.raises(ode.OdesolveError, match="goes from noise to data"):
        K.sampling.sample_euler_ancestral(DENOISER, x, LEVELS[:-1].flip(0))
    with pytest.raises(ode.OdesolveError, match="goes from noise to data"):
        K.sampling.sample_euler(DENOISER, x, LEVELS[:-1].flip(0), s_churn=1.0)


def test_levels_as_numbers_and_wider_than_the_default():
    x = start().float() * 200.0
    levels = [200.0, 30.0, 4.0, 0.5, 0.0]
    model = lambda x, sigma: DENOISER(x.double(), sigma.double()).to(x.dtype)
    one = K.sampling.sample_dpmpp_2m(model, x, levels, disable=True)
    assert torch.equal(
        one, K.sampling.sample_dpmpp_2m(model, x, torch.tensor(levels), disable=True)
    )


def test_the_start_is_left_as_it_is():
    x = start() * LEVELS[0]
    kept = x.clone()
    for name in ("euler", "dpmpp_2m", "dpmpp_sde"):
        getattr(K.sampling, f"sample_{name}")(DENOISER, x, LEVELS, disable=True)
    assert torch.equal(x, kept)


def test_no_gradients_are_recorded():
    x = (start() * LEVELS[0]).requires_grad_()
    assert not K.sampling.sample_euler(DENOISER, x, LEVELS, disable=True).requires_grad
    assert torch.is_grad_enabled()


def test_plans_are_made_once():
    x = start() * LEVELS[0]
    K.sampling.sample_dpmpp_2m(DENOISER, x, LEVELS, disable=True)
    before = driver.prepare.cache_info().misses
    for _ in range(3):
        K.sampling.sample_dpmpp_2m(DENOISER, x, LEVELS.clone(), disable=True)
    assert driver.prepare.cache_info().misses == before


@pytest.mark.parametrize(("disable", "bar"), [(True, False), (False, True), (None, False)])
def test_progress(disable, bar, capsys):
    K.sampling.sample_euler(DENOISER, start() * LEVELS[0], LEVELS, disable=disable)
    assert ("/8 " in capsys.readouterr().err) == bar


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"k_diffusion", "torchsde", "torchdiffeq", "scipy", "comfy"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch, odesolve.integrations.k_diffusion as K
model = lambda x, sigma: x / (1 + sigma[:, None] ** 2)
sigmas = K.sampling.get_sigmas_karras(5, 0.03, 14.6)
x = torch.ones(2, 3) * sigmas[0]
for name in ("euler", "lms", "dpmpp_2m_sde", "dpmpp_sde"):
    assert getattr(K.sampling, "sample_" + name)(model, x, sigmas).isfinite().all()
K.sampling.BrownianTreeNoiseSampler(x, sigmas[-2], sigmas[0])(sigmas[0], sigmas[1])
K.sampling.log_likelihood(model, x, 0.03, 14.6)
K.sampling.sample_dpm_adaptive(model, x, 0.03, 14.6)
print("done")
"""


@pytest.mark.long
def test_neither_k_diffusion_nor_what_it_needs_is_needed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["done"], done.stderr
