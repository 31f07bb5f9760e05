"""The arguments of each command, with the help that is printed for them."""

from __future__ import annotations

import argparse

from odesolve.cli.options import (
    COUNT,
    ID,
    LEVELS,
    NUMBER,
    POSITIVE,
    SECONDS,
    SEED,
    counts,
    labels,
)
from odesolve.cli.values import FACTORY, PATHS
from odesolve.jobs.lookout import PATIENCE
from odesolve.jobs.signals import GRACE
from odesolve.profile.report import LIMIT
from odesolve.profile.result import METRICS


def _condition_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="NAME=VALUE|FILE",
        help="what the network is called with beside x and t, such as y=3 for all samples or "
        "y=labels.npy with one row per sample (of a job: per id); may be repeated",
    )


def _guidance_arguments(p: argparse.ArgumentParser) -> None:
    _condition_arguments(p)
    p.add_argument(
        "--guidance",
        type=NUMBER,
        metavar="SCALE",
        help="classifier-free guidance, uncond + SCALE (cond - uncond); needs --uncond",
    )
    p.add_argument(
        "--uncond",
        action="append",
        default=[],
        metavar="NAME=VALUE|FILE",
        help="of guidance: what takes the place of a condition where nothing is asked for, such "
        "as y=10 for the label of no class; other conditions stay; may be repeated",
    )


def _network_arguments(p: argparse.ArgumentParser, seed: str) -> None:
    p.add_argument(
        "model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits"
    )
    p.add_argument(
        "--path", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)"
    )
    p.add_argument("--seed", type=SEED, default=0, metavar="N", help=f"seed of {seed} (default 0)")
    p.add_argument(
        "--device",
        metavar="NAME",
        help="device of the state, such as cuda; by default the network's",
    )
    p.add_argument("--double", action="store_true", help="keep the state in float64")


def _model_arguments(p: argparse.ArgumentParser) -> None:
    _network_arguments(p, "the noise")
    p.add_argument(
        "--shape",
        type=counts,
        metavar="B,C,H,W",
        help="shape of the noise, with the batch first; needed with a FACTORY",
    )
    p.add_argument(
        "--diffusers",
        metavar="FOLDER",
        help="a pipeline saved by diffusers, in the place of a FACTORY",
    )
    p.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the pipeline is called with, such as prompt='a fox' or guidance_scale=5; may "
        "be repeated",
    )


def of_loglik(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve loglik``."""
    _network_arguments(p, "the probes and of the dequantisation")
    _condition_arguments(p)
    _data_arguments(p)
    _divergence_arguments(p)
    _quantisation_arguments(p)
    p.add_argument(
        "--batch", type=COUNT, default=64, metavar="N", help="samples in one solve (default 64)"
    )
    p.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="values.npz or values.csv: what every sample has, kept batch by batch; or a folder: "
        "a job that any number of "
        "processes share and that is taken up again by the same command",
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run in --out values.npz"
    )
    _job_arguments(p)


def _data_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--data",
        metavar="FILE",
        help="x.npz, .npy or .pt with one array (B, ...); needed with a FACTORY",
    )
    p.add_argument("--limit", type=COUNT, metavar="N", help="take only the first N samples")


def _divergence_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--trace",
        default="auto",
        metavar="NAME",
        help="auto, exact, xtrace, hutchinson, ... (default auto)",
    )
    p.add_argument(
        "--products",
        type=COUNT,
        default=16,
        metavar="N",
        help="Jacobian products per evaluation (default 16)",
    )
    p.add_argument(
        "--tol",
        type=POSITIVE,
        metavar="NATS",
        help="error that the solver may make; by default 1e-3 or 1e-2",
    )
    p.add_argument(
        "--max-calls",
        type=COUNT,
        metavar="N",
        help="evaluations that a sample's solve may take (default 10000)",
    )
    p.add_argument(
        "--control",
        help="sample (its own steps, default), or batch: one time for all, for "
        "networks that need it",
    )


def _quantisation_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--levels",
        type=LEVELS,
        metavar="N",
        help="the data take N values: dequantise them, report bits",
    )
    p.add_argument("--low", type=NUMBER, metavar="X", help="lowest of the values (default -1)")
    p.add_argument("--high", type=NUMBER, metavar="X", help="highest of the values (default 1)")
    p.add_argument(
        "--draws", type=COUNT, metavar="N", help="draws of the dequantisation (default 1)"
    )


def of_check(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve check``."""
    p.add_argument(
        "model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits"
    )
    p.add_argument(
        "--path", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)"
    )
    p.add_argument(
        "--data",
        metavar="FILE",
        help="x.npz, .npy or .pt with one array (B, ...) of the network's data",
    )
    _condition_arguments(p)
    p.add_argument(
        "--shape",
        type=counts,
        metavar="B,C,H,W",
        help="without --data: shape of the samples that are drawn instead",
    )
    p.add_argument(
        "--seed", type=SEED, default=0, metavar="N", help="seed of the noise (default 0)"
    )
    p.add_argument(
        "--seconds",
        type=POSITIVE,
        default=60.0,
        metavar="S",
        help="about how long it may take (default 60)",
    )
    p.add_argument(
        "--plot", metavar="FILE", help="draw the errors over the noise into a .png, .svg or .pdf"
    )


def _job_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--shard", type=COUNT, metavar="N", help="of a job: results per file (default about 1024)"
    )
    p.add_argument("--format", metavar="KIND", help="of a job: npz or safetensors (default npz)")
    p.add_argument(
        "--patience",
        type=POSITIVE,
        metavar="S",
        help="of a job: seconds without progress after which another process's shard is made here, "
        f"too (default {PATIENCE:g})",
    )
    p.add_argument(
        "--grace",
        type=SECONDS,
        metavar="S",
        help="of a job: seconds to finish the batch that runs after SIGTERM or SIGUSR1 (default "
        f"{GRACE:g})",
    )


def of_profile(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve profile``."""
    _model_arguments(p)
    _guidance_arguments(p)
    p.add_argument(
        "--solvers",
        type=labels,
        metavar="A,B",
        help="solvers, with options in brackets: 'ipndm_3(afs),dpmpp_2m'",
    )
    p.add_argument(
        "--grids",
        type=labels,
        metavar="X,Y",
        help="grids, with their number in brackets: 'karras,vp_time(3)'",
    )
    p.add_argument(
        "--nfe",
        type=counts,
        default="5,8,10,15,20,50",
        metavar="N,M",
        help="budgets of network evaluations (%(default)s)",
    )
    p.add_argument(
        "--metric", default="median", choices=METRICS, help="error to rank by (default median)"
    )
    p.add_argument(
        "--parallel",
        action="store_true",
        help="also solve the best plans many steps at once (ode.Window): does that pay?",
    )
    p.add_argument(
        "--data",
        metavar="FILE",
        help="x.npz, .npy or .pt with one array (N, ...) of the network's data: beyond how many "
        "evaluations does the model's own distance from them dominate?",
    )
    p.add_argument(
        "--top",
        type=COUNT,
        metavar="K",
        help=f"show the best K solvers at each budget (default {LIMIT})",
    )
    p.add_argument("--all", action="store_true", help="show every row, also those that failed")
    p.add_argument(
        "--out", metavar="DIR", help="write table.csv, profile.json and plot.png into this folder"
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with an interrupted profile in --out"
    )


def of_sample(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve sample``."""
    _model_arguments(p)
    _guidance_arguments(p)
    p.add_argument(
        "--solver",
        metavar="NAME",
        help="solver, with options in brackets; by default the one for this path",
    )
    p.add_argument(
        "--steps", type=COUNT, default=10, metavar="N", help="number of steps (default 10)"
    )
    p.add_argument("--grid", metavar="NAME", help="time grid, such as karras, uniform, 'shift(3)'")
    p.add_argument(
        "-n",
        "--n",
        type=COUNT,
        metavar="N",
        help="a job: N samples into the folder --out, in batches of --shape's, by as many "
        "processes as run this command; run "
        "it again to go on (under torchrun write -n: it takes --n for one of its own)",
    )
    p.add_argument(
        "--first", type=ID, metavar="ID", help="of a job: the first sample's id (default 0)"
    )
    _job_arguments(p)
    p.add_argument(
        "--out",
        required=True,
        metavar="FILE|DIR",
        help="samples.npz, samples.safetensors or grid.png; a job's folder",
    )


def of_plan(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve plan``."""
    p.add_argument(
        "solver", metavar="SOLVER", help="solver, with options in brackets: 'ab3(start=ramp)'"
    )
    p.add_argument("--path", default="vp", metavar="NAME", help=f"{', '.join(PATHS)} (default vp)")
    p.add_argument(
        "--steps", type=COUNT, default=10, metavar="N", help="number of steps (default 10)"
    )
    p.add_argument("--grid", metavar="NAME", help="time grid (default uniform)")
    p.add_argument(
        "--diff", metavar="OTHER", help="compare with this solver; exit code 1 if they differ"
    )


def of_job(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve job``."""
    p.add_argument("folder", metavar="DIR", help="what --out named")
    p.add_argument(
        "--verify",
        action="store_true",
        help="hash every file; corrupt ones are moved aside, exit code 1",
    )


def of_names(p: argparse.ArgumentParser) -> None:
    """The arguments of ``odesolve names``."""
    p.add_argument(
        "label",
        nargs="?",
        metavar="NAME",
        help="such as 'DPM++ 2M SDE Karras'; without it, the table",
    )
