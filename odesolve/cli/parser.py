"""What each command takes, with an example of each."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any

from odesolve.cli import commands
from odesolve.cli.completion import SHELLS, PrintCompletion
from odesolve.cli.loglik import loglik_command
from odesolve.cli.names import names_command
from odesolve.cli.options import (
    COUNT,
    ID,
    LEVELS,
    NUMBER,
    POSITIVE,
    SECONDS,
    SEED,
    Parser,
    beside,
    counts,
    labels,
)
from odesolve.cli.values import FACTORY, PATHS, check_device
from odesolve.cli.wiring import check_command
from odesolve.doors.words import WORDS
from odesolve.errors import OdesolveError, unknown
from odesolve.jobs.signals import GRACE
from odesolve.jobs.watch import PATIENCE
from odesolve.profile.result import METRICS
from odesolve.version import __version__

# What functions take, where a command has another word for it.
OPTIONS = {"noise": "shape", "scale": "guidance"}
EXAMPLES = {
    "profile": [
        "odesolve profile --path linear --shape 16,1,8,8 --solvers euler,dpmpp_2m --nfe 5,10"
    ],
    "check": ["odesolve check --path vp --shape 64,1,8,8 --seconds 5"],
    "sample": [
        "odesolve sample --path vp --shape 16,1,8,8 --solver dpmpp_2m --steps 8 --out digits.png"
    ],
    "loglik": ["odesolve loglik --path linear --limit 4 --trace hutchinson --out values.csv"],
    "job": [
        "odesolve sample --shape 32,1,8,8 --steps 5 -n 64 --out digits",
        "odesolve job digits --verify",
    ],
    "solvers": ["odesolve solvers --json"],
    "names": ['odesolve names "DPM++ 2M SDE Karras"'],
    "plan": ["odesolve plan dpmpp_2m --path edm --steps 8 --grid karras"],
}


def _unknown_option(command: str, typed: str, known: Sequence[str]) -> OdesolveError:
    """The error for an option that no command has, with the one that other programs' word for it
    stands for."""
    what = f"argument of odesolve {command}"
    word = typed.split("=")[0].lstrip("-").replace("-", "_")
    advice = [text for place, text in WORDS.get(word.lower(), ()) if place]
    names = [
        found[1] for text in advice if (found := re.search(r"(\w+)=", text))
    ]  # the argument that it speaks of first
    meant = [f"--{OPTIONS.get(name, name)}" for name in names]
    option = next((option for option in meant if option in known), None)
    if option is None:
        return unknown(what, typed, known)
    return OdesolveError(f"unknown {what} {typed!r}: give {option}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed; ``run`` of it is the command. Raises OdesolveError for what cannot be
    meant."""
    given, others = parser().parse_known_args(argv)
    if others:
        known = [name for action in given.parser._actions for name in action.option_strings]
        raise _unknown_option(given.command, others[0], known)
    for name, value in vars(given).items():
        if isinstance(value, str):
            _check_text(name, value)
    if getattr(given, "device", None) is not None:
        check_device(given.device)
    if given.command != "plan" and "path" in given:
        beside(
            given,
            "the digits, FACTORY and pipelines have a path of their own",
            _of_digits(given),
            {"path": "vp"},
        )
    return given


def _check_text(name: str, value: str) -> None:
    """Raise OdesolveError for what no shell hands over, and no file can be called."""
    if not value:
        raise OdesolveError(f"{name} is empty: give a value, or leave it out")
    try:
        if b"\0" not in os.fsencode(value):
            return
    except UnicodeEncodeError:
        pass
    raise OdesolveError(f"{name} is {value!r}, with a letter that stands for none: give another")


def _of_digits(given: argparse.Namespace) -> bool:
    return given.model is None and not getattr(given, "diffusers", None)


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(
        prog="odesolve", description="Samplers for diffusion, score and flow-matching models."
    )
    top.add_argument("--version", action="version", version=f"odesolve {__version__}")
    top.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print what completes commands in {', '.join(SHELLS)}",
    )
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    _profile_arguments(
        _command(
            verbs,
            "profile",
            commands.profile_command,
            "measure which sampler is best for a model at each budget",
        )
    )
    _check_arguments(
        _command(verbs, "check", check_command, "say whether a network is read as it was trained")
    )
    _sample_arguments(
        _command(verbs, "sample", commands.sample_command, "draw samples from a model")
    )
    _loglik_arguments(
        _command(verbs, "loglik", loglik_command, "log-likelihoods of data under a model")
    )
    job = _command(
        verbs,
        "job",
        commands.job_command,
        "say how far the job in a folder is, and whether its files are whole",
    )
    job.add_argument("folder", metavar="DIR", help="what --out named")
    job.add_argument(
        "--verify",
        action="store_true",
        help="hash every file; corrupt ones are moved aside, exit code 1",
    )
    _command(
        verbs,
        "solvers",
        commands.solvers_command,
        "list the solvers: order, evaluations a step, source",
    )
    listed = _command(
        verbs,
        "names",
        names_command,
        "what a sampler is called in diffusers, ComfyUI and the web UI",
    )
    listed.add_argument(
        "label",
        nargs="?",
        metavar="NAME",
        help="such as 'DPM++ 2M SDE Karras'; without it, the table",
    )
    _plan_arguments(
        _command(
            verbs,
            "plan",
            commands.plan_command,
            "print the coefficients of a sampler, or compare two samplers",
        )
    )
    return top


def _command(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    example = "\n".join(["example:", *(f"  {line}" for line in EXAMPLES[name])])
    made = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=example
    )
    made.set_defaults(run=run, command=name, parser=made)
    made.add_argument("--json", action="store_true", help="print JSON for machines")
    return made


def _condition_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="NAME=VALUE|FILE",
        help="what the network is called with beside x and t, such as y=3 for all samples or "
        "y=labels.npy with a row for each "
        "(of a job: for each id); may be repeated",
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
        help="of guidance: what stands in the place of a condition where nothing is asked for, "
        "such as y=10 for the label of no "
        "class; other conditions stay; may be repeated",
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


def _loglik_arguments(p: argparse.ArgumentParser) -> None:
    _network_arguments(p, "the probes and of the dequantisation")
    _condition_arguments(p)
    p.add_argument(
        "--data",
        metavar="FILE",
        help="x.npz, .npy or .pt with one array (B, ...); needed with a FACTORY",
    )
    p.add_argument("--limit", type=COUNT, metavar="N", help="take only the first N samples")
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
        help="Jacobian products an evaluation (default 16)",
    )
    p.add_argument(
        "--tol",
        type=POSITIVE,
        metavar="NATS",
        help="what the solver may err by; by default 1e-3 or 1e-2",
    )
    p.add_argument(
        "--max-calls",
        type=COUNT,
        metavar="N",
        help="evaluations a sample's solve may take (default 10000)",
    )
    p.add_argument(
        "--control",
        help="sample (its own steps, default), or batch: one time for all, for "
        "networks that need it",
    )
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


def _check_arguments(p: argparse.ArgumentParser) -> None:
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
        "--shard", type=COUNT, metavar="N", help="of a job: results in a file (default about 1024)"
    )
    p.add_argument("--format", metavar="KIND", help="of a job: npz or safetensors (default npz)")
    p.add_argument(
        "--patience",
        type=POSITIVE,
        metavar="S",
        help="of a job: seconds after which a shard is made here, too, whose holder does not "
        f"move (default {PATIENCE:g})",
    )
    p.add_argument(
        "--grace",
        type=SECONDS,
        metavar="S",
        help="of a job: seconds to finish the batch that runs after SIGTERM or SIGUSR1 (default "
        f"{GRACE:g})",
    )


def _profile_arguments(p: argparse.ArgumentParser) -> None:
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
        "--top", type=COUNT, metavar="K", help="show only the best K solvers at each budget"
    )
    p.add_argument(
        "--out", metavar="DIR", help="write table.csv, profile.json and plot.png into this folder"
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with an interrupted profile in --out"
    )


def _sample_arguments(p: argparse.ArgumentParser) -> None:
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


def _plan_arguments(p: argparse.ArgumentParser) -> None:
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
