"""The end that others set: SIGTERM and SIGUSR1 let the batch that runs be finished and kept."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
GRACE = 25.0  # seconds: schedulers kill 30 s after they have asked
CODE = 128  # and the number of the signal: what a shell says of a program that it ended
_ASKED: list[int] = []  # the signal that has asked this process to end


class Stopped(SystemExit):
    """A signal ended the job, whose finished batches are kept; ``code`` is 128 and the number of
    the signal."""


class Signalled(KeyboardInterrupt):
    """A signal ended a command in which there is nothing to finish."""

    def __init__(self, number: int, text: str = ""):
        super().__init__(text)
        self.number = number


def at_once(number: int, frame: Any) -> None:
    """The handler of a command in which nothing is to be finished."""
    raise Signalled(number)


@contextmanager
def graceful(seconds: float) -> Iterator[None]:
    """Within, a signal is asked for by ``check``; a second one ends at once, and so does the first
    after so many seconds.

    Only in the main thread, and where nobody else has handlers of these signals. The handlers
    before are there again afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, at_once)]
    timers: list[threading.Timer] = []

    def asked(number: int, frame: Any) -> None:
        again = bool(_ASKED)
        _ASKED.append(number)
        if again or not seconds:
            raise Stopped(CODE + _ASKED[0])
        timers.append(threading.Timer(min(seconds, threading.TIMEOUT_MAX), _again, (number,)))
        timers[0].daemon = True
        timers[0].start()

    before = {number: signal.signal(number, asked) for number in ours}
    try:
        yield
        check()  # one that came at the very end asks whatever comes next to end as well
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        _ASKED.clear()


def _again(number: int) -> None:
    """Ask a second time, in the midst of whatever the main thread waits for."""
    if os.name == "posix":
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def check() -> None:
    """Raise Stopped where a signal has asked for the end."""
    if _ASKED:
        raise Stopped(CODE + _ASKED[0])


def name_of(end: Stopped) -> str:
    """The name of the signal that ended a job."""
    return signal.Signals(int(str(end.code)) - CODE).name
