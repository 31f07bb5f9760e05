"""What each command takes."""

from __future__ import annotations

import argparse
from typing import Any

from odesolve.cli import commands
from odesolve.cli.given import FACTORY, PATHS
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
    _sample_arguments(_command(verbs, "sample", commands.sample_command, "draw samples from a model"))
    _command(verbs, "solvers", commands.solvers_command, "list the solvers: order, evaluations a step, source")
    _plan_arguments(
        _command(verbs, "plan", commands.plan_command, "print the coefficients of a sampler, or compare two samplers")
    )
    return top


def _command(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    made.set_defaults(run=run)
    made.add_argument("--json", action="store_true", help="print JSON for machines")
    return made


def _model_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", nargs="?", metavar="FACTORY", help=f"{FACTORY}; without it, the handwritten digits")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"path of the digits: {', '.join(PATHS)} (default vp)")
    p.add_argument("--shape", metavar="B,C,H,W", help="shape of the noise, with the batch first; needed with a FACTORY")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default 0)")
    p.add_argument("--device", metavar="NAME", help="device of the state, such as cuda; by default the network's")
    p.add_argument("--double", action="store_true", help="keep the state in float64")


def _profile_arguments(p: argparse.ArgumentParser) -> None:
    _model_arguments(p)
    p.add_argument("--solvers", metavar="A,B", help="solvers, with options in brackets: 'ipndm_3(afs),dpmpp_2m'")
    p.add_argument("--grids", metavar="X,Y", help="grids, with their number in brackets: 'karras,vp_time(3)'")
    p.add_argument(
        "--nfe", default="5,8,10,15,20,50", metavar="N,M", help="budgets of network evaluations (%(default)s)"
    )
    p.add_argument("--metric", default="median", choices=METRICS, help="error to rank by (default median)")
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
    p.add_argument("--out", required=True, metavar="FILE", help="samples.npz, samples.safetensors or grid.png")


def _plan_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("solver", metavar="SOLVER", help="solver, with options in brackets: 'ab3(start=ramp)'")
    p.add_argument("--path", default="vp", metavar="NAME", help=f"{', '.join(PATHS)} (default vp)")
    p.add_argument("--steps", type=int, default=10, metavar="N", help="number of steps (default 10)")
    p.add_argument("--grid", default="uniform", metavar="NAME", help="time grid (default uniform)")
    p.add_argument("--diff", metavar="OTHER", help="compare with this solver; exit code 1 if they differ")
