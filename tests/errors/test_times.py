"""Times that users give: every entry point reads them as they are, or refuses them; none flattens
them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.integrations import torchdiffeq, torchsde
from odesolve.integrations.imported.function import imported_function
from odesolve.paths import Discrete
from tests.products import diagonal, grouped
from tests.rows import rows

PATH = ode.paths.VP()
MODEL = ode.Model(lambda x, t: 0.1 * x, PATH, "noise")
X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


class Decay:
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t, y):
        return -y

    def g(self, t, y):
        return 0.1 * y


def fall(t, y):
    return -y


def odeint(method, **options):
    return lambda t: torchdiffeq.odeint(fall, X, t, method=method, options=options)


def marked(name):
    return lambda t: torchdiffeq.odeint(fall, X, ENDS, method="dopri5", options={name: t})


def brownian(t):
    return ode.BrownianPath((2, 3), t, 0)(0.3, 0.4)


# Everything that takes a list of times; (0.1, 0.5) rises where it must, SINKING falls.
TIMED = {
    "solve": lambda t: ode.solve(fall, X[:1], t).y,
    "solve by steps": lambda t: ode.solve(fall, X[:1], t, steps=3).y,
    "solve backprop": lambda t: ode.solve(fall, X[:1], t, adjoint="backprop").y,
    "solve one system": lambda t: ode.solve(fall, X, t, control="batch").y,
    "solve a model": lambda t: ode.solve(MODEL, X[:1], t).y,
    "solve in log-SNR": lambda t: ode.solve(MODEL, X[:1], t, "dpm_solver_12").y,
    "solve_sde": lambda t: ode.solve_sde(fall, lambda t, y: 0.1 * y, X, t, steps=3, seed=0).y,
    "solve_sde on a tree": lambda t: (
        ode.solve_sde(fall, lambda t, y: 0.1 * y, X, t, steps=3, seed=0, tree=True).y
    ),
    "solve_sde by tolerance": lambda t: (
        ode.solve_sde(fall, 0.1, X, t, "sra1", noise="additive", seed=0, rtol=1e-2).y
    ),
    "brownian path": brownian,
    "log_prob of a velocity": lambda t: ode.log_prob(fall, X, t=t).value,
    "log_prob": lambda t: ode.log_prob(MODEL, X, t=t).value,
    "log_prob along": lambda t: ode.log_prob(MODEL, X, t=t, divergence="along").value,
    "log_prob by picard": lambda t: ode.log_prob(MODEL, X, t=t, solver="picard").value,
    "log_prob by steps": lambda t: ode.log_prob(MODEL, X, t=t, steps=4).value,
    "odeint_adjoint": lambda t: torchdiffeq.odeint_adjoint(fall, X, t, adjoint_params=()),
    **{
        f"odeint {m}": odeint(m)
        for m in ("dopri5", "rk4", "euler", "implicit_adams", "scipy_solver")
    },
    "sdeint": lambda t: torchsde.sdeint(Decay(), X, t, method="euler", dt=0.1),
    "sdeint_adjoint": lambda t: torchsde.sdeint_adjoint(
        Decay(), X, t, method="euler", dt=0.1, adjoint_params=()
    ),
}
LISTED = {
    "sample": lambda t: ode.sample(MODEL, X, grid=t, seed=0),
    "invert": lambda t: ode.invert(MODEL, X, grid=t),
    "plan": lambda t: torch.tensor(ode.plan("ddim", PATH, grid=t).grid),
    "sigmas": lambda t: torch.tensor(ode.grids.sigmas(PATH, t).values),
    "points": lambda t: torch.tensor(PATH.points(t)),
    "discrete path": lambda t: Discrete(t).alphas_cumprod,
    "interpolate": lambda t: ode.interpolate(MODEL, X, X, t, steps=2),
    "slerp": lambda t: ode.slerp(X, X.flip(0), t),
    "odeint_dense": lambda t: torchdiffeq.odeint_dense(fall, X, 0.0, 1.0)(t),
    "dense output": lambda t: ode.solve(fall, X, dense=True).at(t),
    "step_t": marked("step_t"),
    "jump_t": marked("jump_t"),
    "levels of a function": lambda t: imported_function(euler, t),
}
SINKING = torch.tensor([0.5, 0.1], dtype=torch.float64)
RISING = SINKING.flip(0)
TENSORS_ONLY = {k for k in TIMED if "odeint" in k}


def euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler's method as k-diffusion writes it."""
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i] * x.new_ones([x.shape[0]]))) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def repeated(t):
    return t.repeat(3, 1)


WRONG = {
    "rows": repeated,
    "a row": lambda t: t[None],
    "a column": lambda t: t[:, None],
    "lists of lists": lambda t: repeated(t).tolist(),
    "array of rows": lambda t: repeated(t).numpy(),
    "rows of tensors": lambda t: list(repeated(t)),
    "three dimensions": lambda t: t[None, None],
    "nan": lambda t: torch.tensor([float(t[0]), float("nan")]),
    "complex": lambda t: t + 1j * t,
    "words": lambda t: [str(float(v)) for v in t],
    "ragged": lambda t: [t.tolist(), t[:1].tolist()],
    "nothing at all": lambda t: [None, float(t[1])],
}
RIGHT_AS_OWN = ("solve", "solve by steps", "solve backprop", "solve a model", "solve in log-SNR")
MEANT = {(name, "a row") for name in RIGHT_AS_OWN}  # one sample, and its times
# (n, 2), times of each sample
MEANT |= {("dense output", form) for form in WRONG if "row" in form or "lists" in form}
MEANT.add(("points", "nan"))


@rows("wrong", WRONG)
@rows("entry", [*TIMED, *LISTED])
def test_what_is_no_list_of_times_is_refused(entry, wrong):
    call, like = (TIMED[entry], RISING) if entry in TIMED else (LISTED[entry], SINKING)
    if (entry, wrong) in MEANT:
        assert call(WRONG[wrong](like)) is not None
        return
    with pytest.raises(OdesolveError, match="give"):
        call(WRONG[wrong](like))


FORMS = {
    "list": lambda t: t.tolist(),
    "tuple": lambda t: tuple(t.tolist()),
    "array": lambda t: t.numpy(),
    "list of tensors": lambda t: list(t),
    "numbers and tensors": lambda t: [float(t[0]), t[1]],
    "numpy numbers": lambda t: [np.float64(v) for v in t.tolist()],
    "float32": lambda t: t.float(),
    "strided": lambda t: torch.stack([t, t], 1)[:, 0],
}


ANY = [k for k in (*TIMED, *LISTED) if k not in TENSORS_ONLY and "sdeint" not in k]


@rows(("entry", "forms"), grouped(diagonal(ANY, list(FORMS), times=3)).items())
def test_every_form_of_the_same_times(entry, forms):
    values = [0.25, 0.5] if entry in TIMED else [0.5, 0.25]  # the same in every type
    call, t = (TIMED | LISTED)[entry], torch.tensor(values, dtype=torch.float64)
    want = call(t)
    for (name,) in forms:
        found = call(FORMS[name](t))
        assert type(found) is type(want), name
        if isinstance(want, torch.Tensor):
            assert torch.equal(found, want), name
        else:
            assert found == want, name


@rows("entry", ["sample", "invert", "plan", "solve_sde"])
def test_gradients_of_times_that_nobody_makes(entry):
    t = SINKING.clone().requires_grad_()
    calls = LISTED | {
        "solve_sde": lambda t: ode.solve_sde(
            fall, lambda t, y: 0.1 * y, X, t, steps=3, seed=0, adjoint="backprop"
        )
    }
    with pytest.raises(OdesolveError, match=r"requires gradients.*\.detach\(\)"):
        calls[entry](t)
    with pytest.raises(OdesolveError, match=r"requires gradients.*\.detach\(\)"):
        ode.log_prob(fall, X, t=RISING.clone().requires_grad_(), adjoint="continuous")


def test_the_second_time_of_a_density_by_steps():
    """It ends there, as it does by tolerance, and not at the noise end."""
    mixture = ode.problems.Mixture([1.0], torch.zeros(1, 3), std=0.7)
    model, t = mixture.model(PATH, "noise"), (1e-3, 0.5)
    given = {"t": t, "base": lambda y: mixture.log_prob(y, PATH, 0.5)}
    want = mixture.log_prob(X, PATH, 1e-3)
    torch.testing.assert_close(ode.log_prob(model, X, **given).value, want, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        ode.log_prob(model, X, steps=100, **given).value, want, rtol=0, atol=1e-3
    )


@rows(
    "options",
    [
        {"grid": (0.1, 0.5, 0.9)},
        {"of": "plan", "steps": 4},
        {"plan": ode.plan("ddim", PATH, 4, reverse=True)},
    ],
    ids=["grid", "map", "plan"],
)
def test_times_beside_a_plan_of_its_own(options):
    options = {"steps": 3, **options} if "plan" not in options else options
    with pytest.raises(OdesolveError, match="give one or the other"):
        ode.log_prob(MODEL, X, t=(0.1, 0.5), **options)


@rows("t", [(-0.1, 0.5), (0.1, float("inf")), (0.3, 0.3)])
@rows("options", [{}, {"steps": 4}, {"solver": "picard"}, {"divergence": "along"}])
def test_densities_stay_on_the_path(t, options):
    with pytest.raises(OdesolveError, match="give"):
        ode.log_prob(MODEL, X, t=t, **options)


@rows("t", [torch.tensor([0.5, 0.6]), [[0.5]] * 2, "now", None, 0.5j, float("nan")])
def test_one_time_of_an_edit(t):
    if t is None:
        assert ode.sdedit(MODEL, X, None, steps=2, seed=0).shape == X.shape
        return
    with pytest.raises(OdesolveError, match="give"):
        ode.sdedit(MODEL, X, t, steps=2, seed=0)


def test_times_of_a_scheduler():
    diffusers = pytest.importorskip("odesolve.integrations.diffusers")
    scheduler = diffusers.OdesolveScheduler(solver="ddim")
    x = torch.zeros(4, 3)
    with pytest.raises(
        OdesolveError,
        match=r"timesteps have shape \(2, 2\): give a number, or "
        r"one per sample",
    ):
        scheduler.add_noise(x, x, torch.tensor([[10, 20], [30, 40]]))
    for name in ("timesteps", "sigmas"):
        with pytest.raises(OdesolveError, match="give"):
            scheduler.set_timesteps(**{name: torch.tensor([[900, 500], [300, 100]])})
