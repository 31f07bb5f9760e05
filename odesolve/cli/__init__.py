"""The command line:
``odesolve profile | check | sample | loglik | job | solvers | names | plan``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

import torch

from odesolve.cli.parser import parse
from odesolve.errors import Diverged, OdesolveError
from odesolve.jobs.signals import CODE, SIGNALS, Signalled, Stopped, at_once

__all__ = ["main"]

OURS = (OdesolveError, Diverged, ImportError)
LONGEST = 1000  # characters of an error of others
TRACEBACK = "ODESOLVE_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0; 1 where the command found a difference or a fault;
    2 after an error, which is one line.

    The code is 130 after Ctrl-C, 143 after SIGTERM, 138 after SIGUSR1, and 141 where the reader of
    the output left: what shells report of programs that these signals ended. With
    ODESOLVE_TRACEBACK=1 in the environment errors come with their traceback."""
    if argv is None:
        _as_program()
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a reader that left is noticed here, not while Python ends
    except Stopped as e:  # the job has said what it keeps
        return _ended(None, int(str(e.code)))
    except Signalled as e:
        return _ended(f"ended by {signal.Signals(e.number).name}{e}", CODE + e.number)
    except KeyboardInterrupt as e:
        return _ended(f"interrupted{e}", 130)
    except BrokenPipeError:
        return _ended(None, 141)
    except Exception as e:
        if os.environ.get(TRACEBACK):
            traceback.print_exception(e)
        return _ended(f"error: {_in_a_line(e)}", 2)


def _as_program() -> None:
    """Settings of a process that is ours alone: warnings are one line, and streams print any
    letter."""
    plain = warnings.formatwarning

    def one_line(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        note = f"odesolve: note: {' '.join(str(message).split())}\n"
        if category is UserWarning:
            return note
        return plain(message, category, *where, **line)

    warnings.formatwarning = one_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, at_once)


def _run(argv: Sequence[str] | None) -> int:
    given = parse(argv)
    try:
        return given.run(given) or 0
    except Stopped:
        raise
    except Signalled as e:
        raise Signalled(e.number, _going_on(given)) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_going_on(given)) from None
    except SystemExit as e:
        raise OdesolveError(
            f"the network ended the program, exit code {e.code}: let it return a tensor"
        ) from e


def _going_on(given: argparse.Namespace) -> str:
    """How to go on with an interrupted command; "" where nothing of it is kept."""
    out: str = getattr(given, "out", None) or ""
    loglik = given.command == "loglik" and bool(out)
    job = loglik and not File(out).suffix
    if job or getattr(given, "n", None) is not None:
        return f": the same command goes on with the job in {out} where it stopped"
    if (given.command == "profile" and out) or (loglik and out.endswith(".npz")):
        return f": the same command with --resume goes on from {out}"
    return ""


def _in_a_line(e: Exception) -> str:
    """An error in one line; one that is not ours comes with its class, and with the way to see
    where it was raised."""
    text = " ".join(str(e).split())
    if isinstance(e, OURS):
        return text
    if isinstance(e, OSError) and e.strerror is not None:
        return e.strerror if e.filename is None else f"{e.filename}: {e.strerror}"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if isinstance(e, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"there is not enough memory: give a smaller batch ({text or type(e).__name__})"
    return f"{type(e).__name__}: {text} ({TRACEBACK}=1 in the environment shows where)"


def _ended(text: str | None, code: int) -> int:
    """Say why a command ended, and drop what stdout cannot take, so that Python does not complain
    about it when it ends."""
    with contextlib.suppress(OSError):
        if text is not None and sys.stderr is not None:
            print(f"odesolve: {text}", file=sys.stderr)
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
