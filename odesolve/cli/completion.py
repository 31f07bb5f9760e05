"""``odesolve --print-completion bash``: the script with which a shell completes commands, options
and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("FILE", "FILE|DIR", "FACTORY", "NAME=VALUE|FILE")
FOLDERS = ("DIR", "FOLDER")


class PrintCompletion(argparse.Action):
    """Print the script for a shell, and end the program."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence | None,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse where the option was given."""
        import shtab  # only here: every other command starts without it

        for action in _actions(parser):
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, str(values)))
        parser.exit(0)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of the parsers of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
