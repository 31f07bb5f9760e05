"""Ends from outside: after SIGTERM or SIGUSR1 the batch that runs is finished and kept."""

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
CODE = 128  # plus the number of the signal: the exit code that shells report
_RECEIVED: list[int] = []  # signals that have told this process to end


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
    """Within, a signal takes effect at the next ``check``; a second one ends the process at once,
    as does the first after this many ``seconds``.

    This holds in the main thread, for signals that have no handler of the user's. Afterwards the
    handlers are those of before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, at_once)]
    timers: list[threading.Timer] = []

    def receive(number: int, frame: Any) -> None:
        again = bool(_RECEIVED)
        _RECEIVED.append(number)
        if again or not seconds:
            raise Stopped(CODE + _RECEIVED[0])
        timers.append(threading.Timer(min(seconds, threading.TIMEOUT_MAX), _again, (number,)))
        timers[0].daemon = True
        timers[0].start()

    before = {number: signal.signal(number, receive) for number in ours}
    try:
        yield
        check()  # a signal that came at the very end also ends what comes next
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        _RECEIVED.clear()


def _again(number: int) -> None:
    """Send the signal once more, to interrupt whatever the main thread waits for."""
    if os.name == "posix":
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def check() -> None:
    """Raise Stopped where a signal has told this process to end."""
    if _RECEIVED:
        raise Stopped(CODE + _RECEIVED[0])


def name_of(end: Stopped) -> str:
    """The name of the signal that ended a job."""
    return signal.Signals(int(str(end.code)) - CODE).name
