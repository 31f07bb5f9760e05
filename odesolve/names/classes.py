"""What a scheduler class of diffusers with its config is: a solver and its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from odesolve.errors import OdesolveError, unknown
from odesolve.names.betas import alphas_cumprod
from odesolve.names.table import LACKING_CLASSES

Found = tuple[str, dict[str, Any]]
SPACING = (
    "timestep_spacing",
    "sigma_schedule",
    "steps_offset",
    *(
        f"use_{kind}"
        for kind in (
            "karras_sigmas",
            "exponential_sigmas",
            "beta_sigmas",
            "flow_sigmas",
            "lu_lambdas",
        )
    ),
)
ENDS = ("final_sigmas_type", "lower_order_final", "euler_at_final")  # of use to some orders alone
# All that decides a sampler in any class.
CONFIG = frozenset(
    (
        *(
            "solver_order",
            "solver_type",
            "algorithm_type",
            "predict_x0",
            "disable_corrector",
            "solver_p",
            "variance_type",
        ),
        *(
            "tau_func",
            "predictor_order",
            "corrector_order",
            "skip_prk_steps",
            "stochastic_sampling",
            "correct_steps",
        ),
        *("clip_sample", *SPACING, *ENDS),
    )
)
SHORT = 15  # below this many steps some classes lower the order at the end


class ConfigValues:
    """A config with a class's defaults, and what is said when it has no equal."""

    def __init__(self, name: str, config: Mapping[str, Any], steps: int | None):
        self.name = name
        self.config = config
        self.steps = steps
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The entry, or the class's default."""
        self.read.add(key)
        return self.config.get(key, default)

    def order(self, key: str = "solver_order", most: int = 3) -> int:
        """A whole number from 1 to ``most``."""
        value = self.get(key, 2)
        if value not in range(1, most + 1):
            raise self.differs(f"{key}={value!r}", f"give a whole number from 1 to {most}")
        return value

    def one_of(self, key: str, *known: str) -> str:
        """A word that the class knows; the first is its default."""
        value = self.get(key, known[0])
        if value not in known:
            raise unknown(f"{key} of {self.name}", value, known)
        return value

    def differs(self, what: str, so: str) -> OdesolveError:
        """The error for a configuration without an equal."""
        return OdesolveError(f"{self.name} with {what} has no equal here: {so}")

    @property
    def short(self) -> bool:
        """Whether ``lower_order_final`` lowers the order of a solve of this many steps."""
        return (
            bool(self.get("lower_order_final", True))
            and self.steps is not None
            and self.steps < SHORT
        )

    @property
    def to_zero(self) -> bool:
        """Whether the last step goes to sigma = 0, where every method is of first order."""
        return "Inverse" not in self.name and self.get("final_sigmas_type", "zero") == "zero"


def identified(
    name: str, config: Mapping[str, Any], steps: int | None
) -> tuple[str, dict[str, Any], bool]:
    """Solver, options and direction. Raises OdesolveError where there is no equal."""
    return _identified(ConfigValues(name, config, steps))


def checked(
    name: str, config: Mapping[str, Any], steps: int | None
) -> tuple[str, dict[str, Any], bool]:
    """``identified``, of a config that was typed: keys that decide nothing of the sampler are
    refused."""
    given = ConfigValues(name, config, steps)
    row = _identified(given)
    known = {*given.read, *SPACING, *ENDS}
    for key, value in config.items():
        if key not in known and (key, value) != ("clip_sample", False):
            raise OdesolveError(
                f"{name} got {key}={value!r}, which is not its sampler's: here it takes "
                f"{', '.join(sorted(known))}"
            )
    return row


def spaced(config: Mapping[str, Any]) -> bool:
    """Whether a config says itself how noise levels are spaced."""
    return any(config.get(key) for key in SPACING)


def _identified(given: ConfigValues) -> tuple[str, dict[str, Any], bool]:
    name = given.name
    if name in LACKING_CLASSES:
        raise OdesolveError(f"{name} has no equal here: {LACKING_CLASSES[name]}")
    if name not in CLASSES:
        raise unknown("scheduler class", name, [*CLASSES, *LACKING_CLASSES])
    solver, options = CLASSES[name](given)
    return solver, options, "Inverse" in name


def schedule_of(name: str, config: Mapping[str, Any]) -> str:
    """How a config spaces noise levels. Raises OdesolveError where it asks for two ways at once."""
    flags = {
        "karras": "karras_sigmas",
        "exponential": "exponential_sigmas",
        "beta": "beta_sigmas",
        "lu": "lu_lambdas",
    }
    chosen = [kind for kind, flag in flags.items() if config.get(f"use_{flag}")]
    if len(chosen) > 1:
        raise OdesolveError(
            f"the config asks for {' and '.join(chosen)} noise levels at once: keep one"
        )
    if chosen:
        return chosen[0]
    if name.startswith(("EDM", "Cosine")):
        return config.get("sigma_schedule", "karras" if name.startswith("EDM") else "exponential")
    if name.startswith(("FlowMatch", "LTX")) or config.get("use_flow_sigmas"):
        return "flow"
    spacings = {"linspace": "normal", "trailing": "simple", "leading": "ddim_uniform"}
    spacing = config.get("timestep_spacing", "leading" if name.startswith(LEADING) else "linspace")
    if spacing not in spacings:
        raise unknown("timestep_spacing", spacing, spacings)
    return spacings[spacing]


LEADING = ("DDIM", "DDPM", "PNDM", "CogVideoX")


def _multistep(c: ConfigValues) -> Found:
    order = c.order()
    rule = c.get("solver_type", "midpoint")
    rule = {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}.get(rule, rule)
    kind = c.one_of(
        "algorithm_type", "dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"
    )
    if rule not in ("midpoint", "heun"):
        raise unknown(f"solver_type of {c.name}", rule, ("midpoint", "heun"))
    if kind in ("dpmsolver", "sde-dpmsolver") and c.to_zero:
        raise c.differs(
            "final_sigmas_type='zero'",
            f"{kind} cannot end at sigma = 0: give final_sigmas_type='sigma_min'",
        )
    end = _end(c, order)
    if kind == "sde-dpmsolver++":
        return _sde(c, order, rule, end)
    if kind in ("dpmsolver", "sde-dpmsolver"):
        return _noise_form(c, order, rule, end, kind.startswith("sde"))
    if order == 3:
        return "dpmpp_3m_published", end
    if order == 1:
        return ("ddim", {})
    return ("res_2m" if rule == "heun" else "dpmpp_2m", end)


def _end(c: ConfigValues, order: int) -> dict[str, Any]:
    """How the order falls at the end: {"taper": True}, or nothing where it does not or the end
    makes it do so anyway."""
    last = c.short or bool(c.get("euler_at_final"))
    if order == 1 or (order == 2 and (c.to_zero or not last)):
        return {}
    if order == 3 and c.get("euler_at_final") and not c.short and not c.to_zero:
        raise c.differs(
            "euler_at_final=True",
            "it drops from order 3 to 1 in one step: give lower_order_final=True",
        )
    if last if order == 2 else c.short:
        return {"taper": True}
    return {}


def _sde(c: ConfigValues, order: int, rule: str, end: Mapping[str, Any]) -> Found:
    if order == 1:
        return "sde_dpmpp_1", {}
    if order == 3:
        raise c.differs(
            "solver_order=3", "its third-order weight has a wrong sign; give solver='dpmpp_3m_sde'"
        )
    if end:
        raise c.differs(
            "a first-order last step to sigma_min",
            "give lower_order_final=False, or solver='dpmpp_2m_sde'",
        )
    return "dpmpp_2m_sde", {"second": rule}


def _noise_form(
    c: ConfigValues,
    order: int,
    rule: str,
    end: dict[str, Any],
    noisy: bool,
) -> Found:
    if order == 1:
        return ("sde_dpm_solver_1" if noisy else "dpm_solver_1"), {}
    if order == 3:
        raise c.differs(
            "solver_order=3 in noise form",
            "give algorithm_type='dpmsolver++', or solver='deis_lamab2'",
        )
    if not noisy and rule == "heun":
        return "deis_lamab1", end
    if end:
        raise c.differs("a first-order last step", "give lower_order_final=False")
    if noisy:
        return ("sde_dpm_solver_2m", {"second": rule})
    return ("dpm_solver_2m", {})


def _singlestep(c: ConfigValues) -> Found:
    if c.order() == 1:
        return ("sde_dpmpp_1" if "sde" in c.get("algorithm_type", "dpmsolver++") else "ddim"), {}
    other = (
        "dpmpp_sde" if "sde" in c.get("algorithm_type", "dpmsolver++") else f"dpmpp_{c.order()}s"
    )
    raise c.differs(
        f"solver_order={c.order()}", f"its stages are points of its grid; nearest: solver={other!r}"
    )


def _unipc(c: ConfigValues) -> Found:
    order = c.order()
    variant = c.get("solver_type", "bh2")
    variant = {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}.get(variant, variant)
    if variant not in ("bh1", "bh2"):
        raise unknown(f"solver_type of {c.name}", variant, ("bh1", "bh2"))
    if not c.get("predict_x0", True):
        raise c.differs(
            "predict_x0=False", "ours extrapolates the data prediction: give predict_x0=True"
        )
    if c.get("disable_corrector") or c.get("solver_p") is not None:
        raise c.differs(
            "disable_corrector or solver_p", "ours corrects every step but the last: leave them out"
        )
    start = {"start": "ramp"} if order == 3 else {}
    return f"unipc_{order}", {
        "variant": variant,
        "taper": bool(c.get("lower_order_final", True)),
        **start,
    }


def _deis(c: ConfigValues) -> Found:
    order = c.order()
    if order == 1:
        return "ddim", {}
    return f"deis_lamab{order - 1}", {"taper": c.short, **({"start": "ramp"} if order == 3 else {})}


def _ddpm(c: ConfigValues) -> Found:
    sizes = {
        "fixed_small": "small",
        "fixed_small_log": "small",
        "fixed_large": "large",
        "learned_range": "learned",
    }
    kind = c.get("variance_type", "fixed_small")
    if kind in ("fixed_large_log", "learned"):
        raise c.differs(
            f"variance_type={kind!r}",
            "it takes a logarithm for a variance; give fixed_large or learned_range",
        )
    if kind not in sizes:
        raise unknown("variance_type", kind, sizes)
    return "ddpm", {"variance": sizes[kind]}


def _sa_solver(c: ConfigValues) -> Found:
    if c.get("algorithm_type", "data_prediction") != "data_prediction":
        raise c.differs(
            "algorithm_type='noise_prediction'", "ours extrapolates the data prediction"
        )
    orders = {
        "predictor": c.order("predictor_order", 4),
        "corrector": c.order("corrector_order", 4),
    }
    end = {"published": True, "taper": bool(c.get("lower_order_final", True))}
    tau = c.get("tau_func")
    if tau is None:
        low, high = _levels_around(c, 200, 800)
        return "sa_solver", {**orders, **end, "s_tmin": low, "s_tmax": high}
    values = {float(tau(t)) for t in range(int(c.get("num_train_timesteps", 1000)))}
    if len(values) != 1:
        raise c.differs(
            "a tau_func that varies",
            "ours takes one tau and an interval: solver='sa_solver(tau=...,s_tmin=...)'",
        )
    return "sa_solver", {**orders, **end, "tau": values.pop()}


def _levels_around(c: ConfigValues, first: int, last: int) -> tuple[float, float]:
    """Noise levels just outside the training times from ``first`` to ``last``."""
    table = alphas_cumprod(c.config).double()
    rho = ((1 - table) / table).sqrt().tolist()
    low, high = (
        math.sqrt(rho[i - 1] * rho[i]) if i < len(rho) else math.inf for i in (first, last + 1)
    )
    return low, high


def _flow_match(c: ConfigValues) -> Found:
    if c.get("stochastic_sampling"):
        raise c.differs(
            "stochastic_sampling=True",
            "it draws its noise anew at every step, as consistency models do",
        )
    return "euler", {}


def _variance_exploding(c: ConfigValues) -> Found:
    if c.get("correct_steps", 1):
        raise c.differs(
            "correct_steps",
            "its corrector's size is of batch means; nearest: solver='predictor_corrector'",
        )
    return "ddpm", {"variance": "large"}


def _rectified(c: ConfigValues) -> Found:
    return "euler_ancestral_rf", {"eta": c.get("eta", 1.0), "s_noise": c.get("s_noise", 1.0)}


def _cosine(c: ConfigValues) -> Found:
    if c.order(most=2) == 1:
        return "sde_dpmpp_1", {}
    if end := _end(c, 2):
        return _sde(c, 2, c.one_of("solver_type", "midpoint", "heun"), end)
    return "dpmpp_2m_sde", {"second": c.one_of("solver_type", "midpoint", "heun")}


def _pndm(c: ConfigValues) -> Found:
    if not c.get("skip_prk_steps"):
        raise c.differs(
            "skip_prk_steps=False",
            "it starts with pseudo Runge-Kutta steps; nearest: solver='ipndm_4(start=heun)'",
        )
    if c.get("prediction_type", "epsilon") != "epsilon":
        raise c.differs(
            "prediction_type='v_prediction'",
            "it extrapolates v and not the noise; give solver='ipndm_4(start=heun)'",
        )
    return "ipndm_4", {"start": "heun"}


def _always(solver: str, **options: Any) -> Callable[[ConfigValues], Found]:
    return lambda c: (solver, options)


CLASSES: dict[str, Callable[[ConfigValues], Found]] = {
    "DPMSolverMultistepScheduler": _multistep,
    "DPMSolverMultistepInverseScheduler": _multistep,
    "EDMDPMSolverMultistepScheduler": _multistep,
    "CosineDPMSolverMultistepScheduler": _cosine,
    "DPMSolverSinglestepScheduler": _singlestep,
    "DPMSolverSDEScheduler": _always("dpmpp_sde"),
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "SASolverScheduler": _sa_solver,
    "DDIMScheduler": _always("ddim"),
    "DDIMParallelScheduler": _always("ddim"),
    "DDIMInverseScheduler": _always("ddim"),
    "CogVideoXDDIMScheduler": _always("ddim"),
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _always("ddim"),
    "EulerAncestralDiscreteScheduler": _always("ddim", eta=1.0),
    "HeunDiscreteScheduler": _always("heun_edm"),
    "KDPM2DiscreteScheduler": _always("dpm_solver_2"),
    "KDPM2AncestralDiscreteScheduler": _always("dpm2_ancestral"),
    "LMSDiscreteScheduler": _always("ipndm_v4", start="ramp"),
    "IPNDMScheduler": _always("ipndm_4"),
    "EDMEulerScheduler": _always("ddim"),
    "FlowMatchEulerDiscreteScheduler": _flow_match,
    "FlowMatchHeunDiscreteScheduler": _always("heun"),
    "LTXEulerAncestralRFScheduler": _rectified,
    "ScoreSdeVeScheduler": _variance_exploding,
}  # fmt: skip
