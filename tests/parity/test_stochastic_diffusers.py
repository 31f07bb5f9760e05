"""diffusers' stochastic schedulers, fed the noise of our streams, are our plans."""

from __future__ import annotations

import math

import pytest
import torch

from odesolve import grids, paths
from odesolve.noise import stream_numbers
from odesolve.paths import Discrete
from tests.products import product

from .fed import OnePath, dpm_solver_sde, handed, kdpm2_ancestral, patched, seeded, streams
from .peers import PREDICTS, PROBLEM, TOLERANCE, Scheduler, Wide, gap, scheduler, start

KARRAS, TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}
VP = ("epsilon", "sample", "v_prediction")
DEPRECATED = "ignore:.*algorithm_type.*dpmsolver.* is deprecated:FutureWarning"


def compare(peer: Scheduler, prediction: str, solver: str, options: dict, **arguments) -> float:
    model = PROBLEM.model(peer.path, PREDICTS[prediction])
    x = start() * peer.path.start_std(peer.grid.values[0])
    return gap(seeded(model, x, solver, peer.grid, **options), peer.run(model.net, x, **arguments))


@pytest.mark.few(8)
@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize("grid", [KARRAS, TRAILING], ids=["karras", "trailing"])
@pytest.mark.parametrize(
    ("config", "solver", "options"),
    [
        ({"solver_order": 1}, "ddim", {"eta": 1.0}),
        ({"solver_order": 1}, "sde_dpmpp_1", {}),
        ({"solver_order": 2}, "dpmpp_2m_sde", {}),
        ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m_sde", {"second": "heun"}),
    ],
)
def test_sde_dpm_solver(config, solver, options, grid, prediction):
    given = {"algorithm_type": "sde-dpmsolver++", "prediction_type": prediction, **config, **grid}
    peer = handed(scheduler("DPMSolverMultistepScheduler", 8, **given))
    assert compare(peer, prediction, solver, options) < TOLERANCE


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize(
    ("config", "solver", "options"),
    [
        ({"solver_order": 1}, "sde_dpm_solver_1", {}),
        ({"solver_order": 2}, "sde_dpm_solver_2m", {}),
        ({"solver_order": 2, "solver_type": "heun"}, "sde_dpm_solver_2m", {"second": "heun"}),
    ],
)
def test_sde_dpm_solver_in_noise_form(config, solver, options, prediction):
    form = {
        "algorithm_type": "sde-dpmsolver",
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    given = {"prediction_type": prediction, "timestep_spacing": "linspace", **form, **config}
    peer = handed(scheduler("DPMSolverMultistepScheduler", 8, **given))
    assert compare(peer, prediction, solver, options) < TOLERANCE


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim(eta, prediction):
    peer = handed(
        scheduler("DDIMScheduler", 10, prediction_type=prediction, clip_sample=False, **TRAILING)
    )
    assert compare(peer, prediction, "ddim", {"eta": eta}, eta=eta) < TOLERANCE


@pytest.mark.parametrize(
    ("prediction", "spacing", "variance"),
    product(list(VP), ["leading", "linspace"], ["small", "large"]),
)
def test_ddpm(variance, spacing, prediction, monkeypatch):
    given = {"prediction_type": prediction, "clip_sample": False, "timestep_spacing": spacing}
    peer = scheduler("DDPMScheduler", 10, variance_type=f"fixed_{variance}", **given)
    patched(monkeypatch, "scheduling_ddpm", streams())
    assert compare(peer, prediction, "ddpm", {"variance": variance}) < TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "grid", [TRAILING, {"timestep_spacing": "linspace"}], ids=["trailing", "linspace"]
)
def test_euler_ancestral(grid, prediction, monkeypatch):
    peer = scheduler("EulerAncestralDiscreteScheduler", 8, prediction_type=prediction, **grid)
    patched(monkeypatch, "scheduling_euler_ancestral_discrete", streams())
    assert compare(peer, prediction, "ddim", {"eta": 1.0}) < TOLERANCE


@pytest.mark.few(2)
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning:numpy")
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "grid", [TRAILING, {"timestep_spacing": "linspace"}], ids=["trailing", "linspace"]
)
def test_kdpm2_ancestral(grid, prediction, monkeypatch):
    peer = kdpm2_ancestral(
        scheduler("KDPM2AncestralDiscreteScheduler", 8, prediction_type=prediction, **grid)
    )
    patched(monkeypatch, "scheduling_k_dpm_2_ancestral_discrete", streams())
    assert compare(peer, prediction, "dpm2_ancestral", {}) < TOLERANCE


@pytest.mark.few(2)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("s_noise", [1.0, 1.05])
def test_dpm_solver_sde(s_noise, prediction):
    peer = dpm_solver_sde(
        scheduler("DPMSolverSDEScheduler", 8, prediction_type=prediction, **KARRAS)
    )
    assert compare(peer, prediction, "dpmpp_sde", {"s_noise": s_noise}, s_noise=s_noise) < TOLERANCE


@pytest.mark.parametrize("prediction", VP)
@pytest.mark.parametrize("ends", [(40.0, 0.02), (5.0, 0.5)])
def test_singlestep_sde_on_a_grid_uniform_in_log_snr(ends, prediction, monkeypatch):
    """Two of its steps are one of ours; it draws twice for one path, and is given the parts of
    ours."""
    levels = torch.logspace(*(math.log10(s) for s in ends), 9, dtype=torch.float64)
    given = {
        "algorithm_type": "sde-dpmsolver++",
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    peer = scheduler(
        "DPMSolverSinglestepScheduler", 8, prediction_type=prediction, solver_order=2, **given
    )
    peer.peer.sigmas, peer.calls = levels, peer.path.t_of_rho(levels[:-1])
    peer.grid = grids.sigmas(peer.path, levels[::2])
    path, blocks = OnePath(), levels.unfold(0, 3, 2)
    draws = iter([path(b[0], b[k]) for b in blocks for k in (1, 2)])
    patched(monkeypatch, "scheduling_dpmsolver_singlestep", draws)
    assert compare(peer, prediction, "dpmpp_sde", {}) < TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("second", ["midpoint", "heun"])
def test_edm_sde(second, prediction, monkeypatch):
    """Its "epsilon" is EDM's network F, "v_prediction" its negative."""
    given = {
        "algorithm_type": "sde-dpmsolver++",
        "solver_type": second,
        "prediction_type": prediction,
    }
    peer = scheduler("EDMDPMSolverMultistepScheduler", 9, **given)
    patched(monkeypatch, "scheduling_edm_dpmsolver_multistep", streams())
    model, x = PROBLEM.model(peer.path, "edm"), start() * peer.grid.values[0]
    sign = 1.0 if prediction == "epsilon" else -1.0
    theirs = peer.run(lambda x, t: sign * model.net(x, 0.25 * torch.log(t)), x)
    assert gap(seeded(model, x, "dpmpp_2m_sde", peer.grid, second=second), theirs) < TOLERANCE


@pytest.mark.parametrize("second", ["midpoint", "heun"])
def test_cosine_dpm_solver(second):
    """Stable Audio's: SDE-DPM++ 2M on an exponential grid, whose network sees an angle."""
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.CosineDPMSolverMultistepScheduler(solver_type=second)
    peer.set_timesteps(8)
    peer.sigmas, given = peer.sigmas.double(), streams()
    peer.noise_sampler = lambda *_: next(given)
    path = paths.EDM(sigma_max=600.0)
    model, x = PROBLEM.model(path, "data"), start() * 500.0
    y = x
    for sigma, t in zip(peer.sigmas, peer.timesteps, strict=False):
        skip, out = 1 / (sigma**2 + 1), -sigma / (sigma**2 + 1).sqrt()
        predicted = (model.data(y, float(sigma)) - skip * y) / out
        y = peer.step(predicted, t, y.as_subclass(Wide), return_dict=False)[0].as_subclass(
            torch.Tensor
        )
    grid = grids.sigmas(path, peer.sigmas)
    assert gap(seeded(model, x, "dpmpp_2m_sde", grid, second=second), y) < TOLERANCE


def test_variance_exploding_predictor(monkeypatch):
    """Song's reverse diffusion on the VE path is DDPM's step with the forward variance."""
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.ScoreSdeVeScheduler(num_train_timesteps=10, sigma_min=0.01, sigma_max=50.0)
    peer.set_timesteps(10)
    peer.set_sigmas(10)
    sigmas = peer.discrete_sigmas = peer.discrete_sigmas.double()
    path = paths.VE(0.009, 60.0)
    model, x = PROBLEM.model(path, "score"), start() * 50.0
    patched(monkeypatch, "scheduling_sde_ve", streams())
    y = x
    for t, sigma in zip(peer.timesteps[:-1], sigmas.flip(0), strict=False):
        y = peer.step_pred(model.score(y, float(path.t_of_rho(sigma))), t, y, return_dict=False)[0]
        y = y.as_subclass(torch.Tensor)
    grid = grids.sigmas(path, sigmas.flip(0))
    assert gap(seeded(model, x, "ddpm", grid, variance="large"), y) < TOLERANCE


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("s_noise", [1.0, 0.9])
def test_ancestral_for_rectified_flow(eta, s_noise, monkeypatch):
    """LTX's scheduler keeps its state in float32 and adds 1e-12 to alpha: equal as far as that
    goes."""
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.LTXEulerAncestralRFScheduler(eta=eta, s_noise=s_noise)
    times = torch.linspace(0.95, 0.0, 9)
    peer.set_timesteps(sigmas=times)
    path = paths.Linear()
    model, x = PROBLEM.model(path, "velocity"), start()
    patched(monkeypatch, "scheduling_ltx_euler_ancestral_rf", streams())
    y = x
    for s, t in zip(times.double(), peer.timesteps, strict=False):
        y = peer.step(model.velocity(y, float(s)), t, y, return_dict=False)[0].as_subclass(
            torch.Tensor
        )
    options = {"eta": eta, "s_noise": s_noise}
    assert (
        gap(
            seeded(
                model,
                x,
                "euler_ancestral_rf",
                grids.Listed(values=tuple(times.tolist())),
                **options,
            ),
            y,
        )
        < 1e-6
    )


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("prediction", "spacing", "predictor", "corrector", "tau"),
    [
        (a, b, *c, d)
        for a, b, c, d in product(
            list(VP),
            ["linspace", "leading"],
            [(1, 1), (2, 2), (3, 3), (3, 4), (4, 2)],
            [0.0, 0.6, 1.0],
        )
    ],
)
def test_sa_solver(tau, predictor, corrector, spacing, prediction, monkeypatch):
    given = {
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "steps_offset": int(spacing == "leading"),
    }
    orders = {"predictor_order": predictor, "corrector_order": corrector}
    peer = scheduler(
        "SASolverScheduler",
        8,
        **orders,
        **given,
        tau_func=lambda t: torch.tensor(tau, dtype=torch.float64),
    )
    patched(monkeypatch, "scheduling_sasolver", streams())
    options = {
        "predictor": predictor,
        "corrector": corrector,
        "tau": tau,
        "published": True,
        "taper": True,
    }
    assert compare(peer, prediction, "sa_solver", options) < TOLERANCE


def test_sa_solver_where_noise_has_an_interval(monkeypatch):
    """Its default draws between the timesteps 200 and 800; ours between their noise levels."""
    peer = scheduler("SASolverScheduler", 12, prediction_type="sample", timestep_spacing="linspace")
    given = streams()
    inside = iter([200 <= t <= 800 for t in peer.peer.timesteps])
    patched(
        monkeypatch,
        "scheduling_sasolver",
        (next(given) if keep else torch.zeros_like(start()) for keep in inside),
    )
    assert isinstance(peer.path, Discrete)
    levels = peer.path.rho(torch.tensor([199.5, 800.5]).double() / 1000 + 1e-3).tolist()
    options = {"s_tmin": min(levels), "s_tmax": max(levels), "published": True, "taper": True}
    assert compare(peer, "sample", "sa_solver", options) < TOLERANCE


@pytest.mark.parametrize("s_churn", [2.0, 20.0])
def test_edm_euler_with_churn(s_churn, monkeypatch):
    """Given the data prediction at the raised state, for which it has an argument (see the
    documented differences)."""
    peer = scheduler("EDMEulerScheduler", 9)
    model, x = PROBLEM.model(peer.path, "data"), start() * peer.grid.values[0]
    options = {"s_churn": s_churn, "s_tmin": 0.1, "s_tmax": 20.0, "s_noise": 1.01}
    given, y, at = streams(stream_numbers.CORRECTIONS), x, None
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_edm_euler.randn_tensor",
        lambda *_, **__: at.as_subclass(Wide),
    )
    gamma = min(s_churn / 9, math.sqrt(2.0) - 1)
    for sigma, t in zip(peer.peer.sigmas[:-1], peer.peer.timesteps, strict=True):
        peer.peer.scale_model_input(y, t)
        raised = bool(0.1 <= sigma <= 20.0)
        at = next(given) if raised else None
        hat = sigma * (1 + gamma * raised)
        lifted = y + (0.0 if at is None else 1.01 * (hat**2 - sigma**2).sqrt() * at)
        data = model.data(lifted, float(hat))
        y = peer.peer.step(
            y, t, y.as_subclass(Wide), return_dict=False, pred_original_sample=data, **options
        )[0]
        y = y.as_subclass(torch.Tensor)
    assert gap(seeded(model, x, "euler_churn", peer.grid, **options), y) < TOLERANCE
