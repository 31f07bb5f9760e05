"""What each command takes."""

from __future__ import annotations

import argparse
from typing import Any

from odesolve.cli import commands
from odesolve.cli.given import FACTORY, PATHS
from odesolve.cli.loglik import loglik_command
from odesolve.cli.names import names_command
from odesolve.cli.wiring import check_command
from odesolve.profile.result import METRICS


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``run`` of what it returns is the command."""
    top = argparse.ArgumentParser(
        prog="odesolve", description="Samplers for diffusion, score and flow-matching models."
    )
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    _profile_arguments(
        _command(verbs, "profile", commands.profile_command, "measure which sampler is best for a model at each budget")
    )
    _check_arguments(_command(verbs, "check", check_command, "say whether a network is read as it was trained"))
    _sample_arguments(_command(verbs, "sample", commands.sample_command, "draw samples from a model"))
    _loglik_arguments(_command(verbs, "loglik", loglik_command, "log-likelihoods of data under a model"))
    job = _command(
        verbs, "job", commands.job_command, "say how far the job in a folder is, and whether its files are whole"
    )
    job.add_argument("folder", metavar="DIR", help="what --out named")
    job.add_argument("--verify", action="store_true", help="hash every file; corrupt ones are moved aside, exit code 1")
    _command(verbs, "solvers", commands.solvers_command, "list the solvers: order, evaluations a step, source")
    listed = _command(verbs, "names", names_command, "what a sampler is called in diffusers, ComfyUI and the web UI")
    listed.add_argument("label", nargs="?", metavar="NAME", help="such as 'DPM++ 2M SDE Karras'; without it, the table")
    _plan_arguments(
        _command(verbs, "plan", commands.plan_command, "print the coefficients of a sampler, or compare two samplers")
    )
    return top


def _command(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.set_defaults(run=run)
    made.add_argument("--json", action="store_true", help="print JSON for machines")
    return made


def _network_arguments(p: argparse.ArgumentParser, seed: str) -> None:
    p.add_argument("model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help=f"seed of {seed} (default 0)")
    p.add_argument("--device", metavar="NAME", help="device of the state, such as cuda; by default the network's")
    p.add_argument("--double", action="store_true", help="keep the state in float64")


def _model_arguments(p: argparse.ArgumentParser) -> None:
    _network_arguments(p, "the noise")
    p.add_argument("--shape", metavar="B,C,H,W", help="shape of the noise, with the batch first; needed with a FACTORY")
    p.add_argument("--diffusers", metavar="FOLDER", help="a pipeline saved by diffusers, in the place of a FACTORY")
    p.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the pipeline is called with, such as prompt='a fox' or guidance_scale=5; may be repeated",
    )


def _loglik_arguments(p: argparse.ArgumentParser) -> None:
    _network_arguments(p, "the probes and of the dequantisation")
    p.add_argument("--data", metavar="FILE", help="x.npz, .npy or .pt with one array (B, ...); needed with a FACTORY")
    p.add_argument("--limit", type=int, metavar="N", help="take only the first N samples")
    p.add_argument(
        "--trace", default="auto", metavar="NAME", help="auto, exact, xtrace, hutchinson, ... (default auto)"
    )
    p.add_argument("--products", type=int, default=16, metavar="N", help="Jacobian products an evaluation (default 16)")
    p.add_argument("--tol", type=float, metavar="NATS", help="what the solver may err by; by default 1e-3 or 1e-2")
    p.add_argument("--max-calls", type=int, metavar="N", help="evaluations a sample's solve may take (default 10000)")
    p.add_argument(
        "--control", help="sample (its own steps, default), or batch: one time for all, for networks that need it"
    )
    p.add_argument("--levels", type=int, metavar="N", help="the data take N values: dequantise them, report bits")
    p.add_argument("--low", type=float, default=-1.0, metavar="X", help="lowest of the values (default -1)")
    p.add_argument("--high", type=float, default=1.0, metavar="X", help="highest of the values (default 1)")
    p.add_argument("--draws", type=int, default=1, metavar="N", help="draws of the dequantisation (default 1)")
    p.add_argument("--batch", type=int, default=64, metavar="N", help="samples in one solve (default 64)")
    p.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="values.npz or values.csv: what every sample has, kept batch by batch; or a folder: a job that any number of "
        "processes share and that is taken up again by the same command",
    )
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run in --out values.npz")
    _job_arguments(p)


def _check_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)")
    p.add_argument("--data", metavar="FILE", help="x.npz, .npy or .pt with one array (B, ...) of the network's data")
    p.add_argument("--shape", metavar="B,C,H,W", help="without --data: shape of the samples that are drawn instead")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default 0)")
    p.add_argument("--seconds", type=float, default=60.0, metavar="S", help="about how long it may take (default 60)")
    p.add_argument("--plot", metavar="FILE", help="draw the errors over the noise into a .png, .svg or .pdf")


def _job_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--shard", type=int, metavar="N", help="of a job: results in a file (default about 1024)")
    p.add_argument("--format", default="npz", metavar="KIND", help="of a job: npz or safetensors (default npz)")


def _profile_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p)
    p.add_argument("--solvers", metavar="A,B", help="solvers, with options in brackets: 'ipndm_3(afs),dpmpp_2m'")
    p.add_argument("--grids", metavar="X,Y", help="grids, with their number in brackets: 'karras,vp_time(3)'")
    p.add_argument(
        "--nfe", default="5,8,10,15,20,50", metavar="N,M", help="budgets of network evaluations (%(default)s)"
    )
    p.add_argument("--metric", default="median", choices=METRICS, help="error to rank by (default median)")
    p.add_argument(
        "--parallel",
        action="store_true",
        help="also solve the best plans many steps at once (ode.Window): does that pay?",
    )
    p.add_argument("--top", type=int, metavar="K", help="show only the best K solvers at each budget")
    p.add_argument("--out", metavar="DIR", help="write table.csv, profile.json and plot.png into this folder")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted profile in --out")


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p)
    p.add_argument(
        "--solver", metavar="NAME", help="solver, with options in brackets; by default the one for this path"
    )
    p.add_argument("--steps", type=int, default=10, metavar="N", help="number of steps (default 10)")
    p.add_argument("--grid", metavar="NAME", help="time grid, such as karras, uniform, 'shift(3)'")
    p.add_argument(
        "-n",
        "--n",
        type=int,
        metavar="N",
        help="a job: N samples into the folder --out, in batches of --shape's, by as many processes as run this command; run "
        "it again to go on (under torchrun write -n: it takes --n for one of its own)",
    )
    p.add_argument("--first", type=int, default=0, metavar="ID", help="of a job: the first sample's id (default 0)")
    _job_arguments(p)
    p.add_argument(
        "--out", required=True, metavar="FILE|DIR", help="samples.npz, samples.safetensors or grid.png; a job's folder"
    )


def _plan_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("solver", metavar="SOLVER", help="solver, with options in brackets: 'ab3(start=ramp)'")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"{', '.join(PATHS)} (default vp)")
    p.add_argument("--steps", type=int, default=10, metavar="N", help="number of steps (default 10)")
    p.add_argument("--grid", metavar="NAME", help="time grid (default uniform)")
    p.add_argument("--diff", metavar="OTHER", help="compare with this solver; exit code 1 if they differ")
