"""odesolve: solvers for the differential equations behind diffusion, score and flow-matching
models."""

import importlib

from odesolve import aliases, grids, paths, problems, trace
from odesolve.cite import cite
from odesolve.dequantise import bits_per_dim, dequantise
from odesolve.editing import interpolate, sdedit, slerp
from odesolve.errors import Diverged, OdesolveError, PlanError
from odesolve.kernels.dispatch import backend
from odesolve.langevin import Chains, langevin, mala
from odesolve.likelihood.bounds import Bound, elbo
from odesolve.likelihood.result import LogProb
from odesolve.log_prob import log_prob
from odesolve.methods import tableaus
from odesolve.model.model import Model
from odesolve.noise.brownian import BrownianPath
from odesolve.planning.defaults import default_plan
from odesolve.planning.planner import load_plan, plan, solvers
from odesolve.plans.plan import Plan
from odesolve.profile import profile
from odesolve.run import Graph, Window
from odesolve.sample import Sample, invert, iterate, resume, sample
from odesolve.sampling.parareal import Parareal
from odesolve.sampling.sampler import Sampler
from odesolve.sde import solve_sde
from odesolve.solve import Event, Solution, solve
from odesolve.solvers import Writer, solver
from odesolve.stochastic.solution import SDESolution
from odesolve.version import __version__ as __version__
from odesolve.wiring import Check, check

aliases.install()

__all__ = [
    "Bound",
    "BrownianPath",
    "Chains",
    "Check",
    "Diverged",
    "Event",
    "Graph",
    "LogProb",
    "Model",
    "OdesolveError",
    "Parareal",
    "Plan",
    "PlanError",
    "SDESolution",
    "Sample",
    "Sampler",
    "Solution",
    "Window",
    "Writer",
    "backend",
    "bits_per_dim",
    "check",
    "cite",
    "default_plan",
    "dequantise",
    "elbo",
    "grids",
    "interpolate",
    "invert",
    "iterate",
    "langevin",
    "load_plan",
    "log_prob",
    "mala",
    "paths",
    "plan",
    "problems",
    "profile",
    "resume",
    "sample",
    "sdedit",
    "slerp",
    "solve",
    "solve_sde",
    "solver",
    "solvers",
    "tableaus",
    "trace",
]


def __getattr__(name: str) -> object:
    # It needs diffusers, which is optional and slow to import; so `from odesolve import *` leaves
    # it out.
    if name == "from_pipeline":
        from odesolve.integrations.diffusers import from_pipeline

        return from_pipeline
    # torch.distributed takes its time, too
    if name in ("distributed", "jobs", "objectives", "training"):
        return importlib.import_module(f"odesolve.{name}")
    # once reached without an import of its own, as ``ode.keys``
    if (old := f"odesolve.{name}") in aliases.MOVED:
        return importlib.import_module(old)
    raise AttributeError(f"module 'odesolve' has no attribute {name!r}")
