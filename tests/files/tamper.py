"""Good files made bad: by field, by text, by byte and by what lies at their name."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket

import odesolve as ode

HUGE = 10**400
NAN, INF = float("nan"), float("inf")
PATIENCE = 10.0  # seconds for one reading, far more than any needs

WRONG = {
    "whole": [None, "7", [1], {}, True, 1.5, -5, HUGE, NAN, INF],
    "number": ["7", [1], {}, True, HUGE, -HUGE, NAN, -INF],
    "text": [None, 7, 1.5, ["x"], {}, True, NAN],
    "flag": [None, 1, "true", [], {}, NAN],
    "list": [None, "x", 3, {}, True, NAN],
    "object": [None, "x", 3, [], True, NAN],
}


class TookTooLong(Exception):
    """A reading that waits for somebody."""


@contextlib.contextmanager
def patience(seconds=PATIENCE):
    """Stop what hangs."""

    def stop(*_):
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(read, *args):
    """What a reading says: an OdesolveError's text, None where it was read; anything else fails
    with its name."""
    with patience():
        try:
            read(*args)
        except ode.OdesolveError as e:
            return str(e)
    return None


def all_refused(read, cases, least=40):
    """Every case, (name, what to read, a word that the error has to hold or None), is refused with
    an OdesolveError."""
    cases, wrong = list(cases), []
    for name, given, word in cases:
        try:
            told = outcome(read, given)
        except Exception as e:
            wrong.append(f"{name}: raw {type(e).__name__}: {str(e)[:100]}")
            continue
        if told is None:
            wrong.append(f"{name}: read")
        elif word is not None and word not in told:
            wrong.append(f"{name}: {word!r} is not in {told[:200]!r}")
        elif len(told) > 1000 or "\n" in told:
            wrong.append(f"{name}: a long message, {told[:100]!r}")
    assert not wrong, "\n".join(wrong)
    assert len(cases) >= least, f"{len(cases)} cases"


def none_raw(read, cases, least=40):
    """Every case is read, or refused with an OdesolveError. Returns how many were refused."""
    cases, refused = list(cases), 0
    for name, given in cases:
        try:
            refused += outcome(read, given) is not None
        except Exception as e:
            raise AssertionError(f"{name}: raw {type(e).__name__}: {e}") from e
    assert len(cases) >= least, f"{len(cases)} cases"
    return refused


def at(body, place, value=None, delete=False):
    """A copy of plain values with another value at a place such as ("rows", 0, 3), or without
    it."""
    out = copy.deepcopy(body)
    inside = out
    for step in place[:-1]:
        inside = inside[step]
    if delete:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return out


def swaps(body, fields):
    """(name, body, field) for every field, place -> kind, and every value that is not of its
    kind."""
    for place, kind in fields.items():
        for value in WRONG[kind.rstrip("?")]:
            if not (kind.endswith("?") and value is None):
                named = next((s for s in reversed(place) if isinstance(s, str)), None)
                yield f"{place} = {str(value)[:20]}", at(body, place, value), named


def deletions(body, places):
    """(name, body, field) without each of these."""
    for place in places:
        yield f"without {place}", at(body, place, delete=True), None


def texts(text):
    """(name, text, None) of JSON that is none, or nobody's."""
    for share in range(1, 12):
        yield f"cut at {share}/12", text[: len(text) * share // 12], None
    nested = 200_000
    for name, bad in {
        "empty": "",
        "spaces": " \n ",
        "null": "null",
        "a list": "[]",
        "a list of it": f"[{text}]",
        "a number": "3",
        "a text": '"x"',
        "no braces": text.strip()[1:-1],
        "an empty object": "{}",
        "byte order mark": "\ufeff" + text,
        "something after it": text + "x",
        "twice": text + text,
        "a comma too many": text.rstrip()[:-1] + ",}",
        "single quotes": text.replace('"', "'"),
        "deep lists": "[" * nested,
        "deep objects": '{"a":' * nested,
        "deep and closed": "[" * nested + "]" * nested,
        "a key twice": text.replace("{", '{"twice": 1, "twice": 2, ', 1),
        "a key twice, with spaces": text.replace("{", '{"twice" : 1, "twice" : 2, ', 1),
        "a number of 5000 digits": text.replace("{", '{"more": ' + "9" * 5000 + ", ", 1),
        "half a character": text.replace('"', '"\\ud800', 1),
        "a raw control character": text.replace('"', '"\x00', 1),
        "pickle": "\x80\x04K\x01.",
    }.items():
        yield name, bad, None


def other_bytes(body):
    """(name, bytes, None) that are no UTF-8."""
    yield "no UTF-8", b"\xff\xfe" + body, None
    yield "UTF-16", body.decode().encode("utf-16"), None
    yield "UTF-32", body.decode().encode("utf-32"), None
    yield "half a character", body[:-1] + b"\xc3", None
    yield "zeros", bytes(len(body)), None


def cuts(body, n=16):
    """(name, bytes, None) of a file that ends early."""
    for k in range(n):
        yield f"cut at {k}/{n}", body[: len(body) * k // n], None
    yield "one byte less", body[:-1], None


def flips(body, n=60):
    """(name, bytes) with one bit of one byte turned."""
    for k in range(n):
        place = (len(body) - 1) * k // (n - 1)
        changed = bytearray(body)
        changed[place] ^= 1 << (k % 8)
        yield f"bit {k % 8} of byte {place}", bytes(changed)


def things(folder, name):
    """(what, a function that lays it at folder/name) of what is no file that can be read."""

    def dangling(path):
        path.symlink_to(folder / "nowhere")

    def circle(path):
        path.symlink_to(path)

    def sock(path):
        here = os.getcwd()
        os.chdir(folder)  # names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
        finally:
            os.chdir(here)

    def locked(path):
        path.write_bytes(b"{}")
        path.chmod(0)

    made = {
        "nothing": lambda path: None,
        "a dangling link": dangling,
        "a link to itself": circle,
        "a pipe": os.mkfifo,
        "a link to a pipe": lambda path: (
            os.mkfifo(folder / "pipe"),
            path.symlink_to(folder / "pipe"),
        ),
        "a folder": lambda path: path.mkdir(),
        "a link to a folder": lambda path: path.symlink_to(folder),
        "a socket": sock,
        "an endless device": lambda path: path.symlink_to("/dev/zero"),
        "an empty device": lambda path: path.symlink_to("/dev/null"),
        "a file of the system": lambda path: path.symlink_to("/proc/self/mem"),
        "an empty file": lambda path: path.write_bytes(b""),
    }
    return {**made, **({"a file of others": locked} if os.geteuid() else {})}


def looked_at(folder):
    """All that a folder holds, as it lies there: to see that nothing was moved or written."""
    held = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        plain = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        held[str(path.relative_to(folder))] = (mode, path.read_bytes() if plain else None)
    return held


def dumped(cases):
    """The bodies of cases as JSON."""
    return [(name, json.dumps(body), word) for name, body, word in cases]
