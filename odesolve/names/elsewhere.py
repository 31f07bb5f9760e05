"""Solvers that belong to another function than the one that was asked for them."""

from __future__ import annotations

from odesolve.errors import OdesolveError, plain

# Solvers of ode.solve whose steps a tolerance chooses, by their names here and elsewhere: the
# nearest that is here.
BY_TOLERANCE = {
    **{
        name: name
        for name in (
            "adaptive_heun",
            "fehlberg2",
            "bosh3",
            "dopri5",
            "tsit5",
            "dopri8",
            "kvaerno3",
            "kvaerno5",
        )
    },
    **{name: name for name in ("dpm_solver_12", "dpm_solver_23")},
    **dict.fromkeys(("rk45", "ode45", "dopri", "dopri54", "dormand_prince"), "dopri5"),
    **dict.fromkeys(("rk23", "ode23", "bogacki_shampine"), "bosh3"),
    **dict.fromkeys(("dop853", "dopri853"), "dopri8"),
    **dict.fromkeys(("radau", "bdf", "lsoda", "implicit_adams"), "kvaerno5"),
    "dpm_adaptive": "dpm_solver_23",
}
# The same method by its name elsewhere.
SAME = {"rk45": "dopri5", "ode45": "dopri5", "rk23": "bosh3", "ode23": "bosh3"}
OF_SDES = ("milstein", "srid2", "euler_heun", "srk", "reversible_heun", "log_ode")

# Words for several solvers, or for one whose name here they do not say.
MEANT = {
    "edm": "'heun_edm', or 'heun_churn' with its noise",
    "edm_sampler": "'heun_edm', or 'heun_churn' with its noise",
    "stochastic_edm": "'heun_churn'",
    "ancestral": "'ddim(eta=1)', which is Euler a, 'dpm2_ancestral' or 'dpmpp_2s_ancestral'",
    "ancestral_sampling": "'ddpm'",
    "ancestral_sampler": "'ddpm'",
    "ddpm_ancestral": "'ddpm'",
    "pc": "'predictor_corrector'",
    "pc_sampler": "'predictor_corrector'",
    "reverse_diffusion": "'euler_maruyama', or 'predictor_corrector' with Langevin's steps between",
    "reverse_sde": "'euler_maruyama', 'stochastic_heun', 'sra1' or 'shark'",
    "langevin": "'annealed_langevin'",
    "ald": "'annealed_langevin'",
    "ode": "'ddim' or 'dpmpp_2m', or ode.solve(model, x, t=...) for steps by a tolerance",
    "probability_flow": "'ddim' or 'dpmpp_2m', or ode.solve(model, x, t=...) for steps by a "
    "tolerance",
    "sde": "'euler_maruyama', 'stochastic_heun' or 'dpmpp_2m_sde'",
}


def refuse_elsewhere(name: str) -> None:
    """Raise OdesolveError, with what to type, for a solver of ``ode.solve`` or ``ode.solve_sde`` in
    the place of a sampler."""
    if plain(name) in MEANT:
        raise OdesolveError(f"unknown solver {name!r}: give {MEANT[plain(name)]}")
    solver = BY_TOLERANCE.get(plain(name))
    if solver is not None:
        raise OdesolveError(
            f"solver {name!r} chooses its steps by a tolerance, and a sampler has a number of "
            "them: give "
            f"ode.solve(model, x, t=(model.path.t_noise, model.path.t_data), solver={solver!r}), "
            "x = path.prior_std * noise"
        )
    if plain(name) in OF_SDES:
        raise OdesolveError(
            f"solver {name!r} solves SDEs dy = f dt + g dW: give ode.solve_sde(f, g, y0, "
            "solver=...); samplers of a model's "
            "reverse SDE are 'euler_maruyama', 'stochastic_heun', 'sra1' and 'shark'"
        )
