"""The commands, with an example of each, and what was typed as their arguments."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from odesolve.cli import command_arguments as arguments
from odesolve.cli import commands
from odesolve.cli.completion import SHELLS, PrintCompletion
from odesolve.cli.loglik import loglik_command
from odesolve.cli.names import names_command
from odesolve.cli.options import Parser, beside
from odesolve.cli.values import check_device
from odesolve.cli.wiring import check_command
from odesolve.doors.vocabulary import WORDS
from odesolve.errors import OdesolveError, unknown
from odesolve.version import __version__

# Arguments of functions for which a command has another word.
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
    """The error for an option that the command does not have, with the option that stands for this
    word of other programs."""
    what = f"argument of odesolve {command}"
    word = typed.split("=")[0].lstrip("-").replace("-", "_")
    advice = [text for place, text in WORDS.get(word.lower(), ()) if place]
    # the argument that each advice names first
    matches = [re.search(r"(\w+)=", text) for text in advice]
    names = [match[1] for match in matches if match]
    options = [f"--{OPTIONS.get(name, name)}" for name in names]
    option = next((option for option in options if option in known), None)
    if option is None:
        return unknown(what, typed, known)
    return OdesolveError(f"unknown {what} {typed!r}: give {option}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments that were typed; their ``run`` is the command. Raises OdesolveError for
    arguments that cannot be used."""
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
    """Raise OdesolveError for a text that no shell passes on, or that no file can be named by."""
    if not value:
        raise OdesolveError(f"{name} is empty: give a value, or leave it out")
    try:
        if b"\0" not in os.fsencode(value):
            return
    except UnicodeEncodeError:
        pass
    raise OdesolveError(f"{name} is {value!r}, with a letter that cannot be written: give another")


def _of_digits(given: argparse.Namespace) -> bool:
    return given.model is None and not getattr(given, "diffusers", None)


class Command(NamedTuple):
    """A command: what runs it, what its help says, and what adds its arguments to a parser."""

    run: Callable[[argparse.Namespace], int]
    text: str
    add: Callable[[argparse.ArgumentParser], None]


def _commands() -> dict[str, Command]:
    """All commands by name, looked up when they are parsed, so that they can be replaced."""
    return {
        "profile": Command(
            commands.profile_command,
            "measure which sampler is best for a model at each budget",
            arguments.of_profile,
        ),
        "check": Command(
            check_command,
            "say whether a network is read as it was trained",
            arguments.of_check,
        ),
        "sample": Command(
            commands.sample_command,
            "draw samples from a model",
            arguments.of_sample,
        ),
        "loglik": Command(
            loglik_command,
            "log-likelihoods of data under a model",
            arguments.of_loglik,
        ),
        "job": Command(
            commands.job_command,
            "say how far the job in a folder is, and whether its files are whole",
            arguments.of_job,
        ),
        "solvers": Command(
            commands.solvers_command,
            "list the solvers: order, evaluations per step, source",
            lambda p: None,
        ),
        "names": Command(
            names_command,
            "what a sampler is called in diffusers, ComfyUI and the web UI",
            arguments.of_names,
        ),
        "plan": Command(
            commands.plan_command,
            "print the coefficients of a sampler, or compare two samplers",
            arguments.of_plan,
        ),
    }


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
    for name, command in _commands().items():
        _add_command(verbs, name, command)
    return top


def _add_command(verbs: Any, name: str, command: Command) -> None:
    sentence = command.text[0].upper() + command.text[1:] + "."
    examples = "\n".join(["example:", *(f"  {line}" for line in EXAMPLES[name])])
    own = verbs.add_parser(name, help=command.text, description=sentence, epilog=examples)
    own.set_defaults(run=command.run, command=name, parser=own)
    own.add_argument("--json", action="store_true", help="print JSON for machines")
    command.add(own)
