"""The fingerprints of a job: of its model, of other arguments that are functions or objects, and of
each batch's conditions."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from odesolve.errors import warn
from odesolve.fingerprints.fingerprint import DIGITS, KIND, ValueWalk
from odesolve.fingerprints.parts import Parts, parts_of
from odesolve.model.model import Model

# Fingerprints of values that our calls have used -> the ones before these calls: what a call
# changes (a cache, a counter) makes no other model.
_USED: dict[str, str] = {}
MOST = 1000  # of these
# The same while jobs run in this process: by the object of a value, and for a model by its network
# and a digest of the rest.
_RUNNING: dict[tuple[int, bytes], tuple[str, int]] = {}
_GUARD = threading.Lock()


class JobMarks:
    """Fingerprints of the values that decide a job's results, by name; ``settings`` and ``notes``
    are what job.json keeps."""

    def __init__(self, **values: Any):
        self.values = values
        self.walk = ValueWalk()
        self.raw = {
            name: self.walk.digest(value, name).hex()[:DIGITS] for name, value in values.items()
        }
        self.keys = {name: _key(value, self.walk.tensors) for name, value in values.items()}
        self.settings = {name: self._before(name, digest) for name, digest in self.raw.items()}

    def _before(self, name: str, digest: str) -> str:
        """The fingerprint that a value had before jobs of this process used it."""
        known = _USED.get(digest, digest)
        return _RUNNING.get(self.keys[name], (known, 0))[0]

    @contextmanager
    def running(self) -> Iterator[None]:
        """While a job of these values runs: whatever its calls change, they stay the same values to
        threads that join, and afterwards."""
        self._count(1)
        try:
            yield
        finally:
            self.used()
            self._count(-1)

    def _count(self, by: int) -> None:
        with _GUARD:
            for name, key in self.keys.items():
                digest, count = _RUNNING.pop(key, (self.settings[name], 0))
                if count + by > 0:
                    _RUNNING[key] = digest, count + by

    def notes(self) -> dict[str, Any]:
        """What job.json keeps beside the fingerprints: their kind, digests of parts, and digests
        that do not depend on the version of Python."""
        walk = ValueWalk(code=False, tensors=self.walk.tensors)
        portable = {
            name: walk.digest(value, name).hex()[:DIGITS] for name, value in self.values.items()
        }
        return {
            "fingerprint": KIND,
            "portable": portable,
            "parts": self.walk.parts(),
            "made_with": self.made_with(),
        }

    def made_with(self) -> dict[str, Any]:
        """The versions of the libraries, which fingerprints take by their names alone."""
        from odesolve.version import __version__

        versions = {
            "odesolve": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        return {**versions, **self.walk.versions()}

    def warn_unseen(self) -> None:
        """Warn of objects that no fingerprint can look into."""
        if self.walk.unseen:
            unseen = list(self.walk.unseen.items())[:3]
            names = ", ".join(f"{name} ({kind})" for name, kind in unseen)
            warn(
                f"what {names} holds cannot be seen, so that a job would go on with another: give "
                "its class a method __fingerprint__ that returns what decides its answers"
            )

    def used(self) -> None:
        """Look again after calls: what they changed is no reason to refuse the same model later in
        this process."""
        after = ValueWalk(tensors=self.walk.tensors)
        if len(_USED) > MOST:
            _USED.clear()
        for name, value in self.values.items():
            digest = after.digest(value, name).hex()[:DIGITS]
            if digest != self.raw[name]:
                _USED[digest] = self.settings[name]


class MarkedBatches:
    """The fingerprints of models that a function of ids returns, batch by batch: 64 bits each."""

    def __init__(self, marks: JobMarks, like: Model):
        self.tensors = marks.walk.tensors
        self.net = like.net

    def of(self, model: Model) -> int:
        """The fingerprint of a model; the network counts where it is not the first batch's."""
        return int.from_bytes(_beside(model, self.net, dict(self.tensors))[:8], "little")


def _key(value: Any, tensors: dict) -> tuple[int, bytes]:
    """What identifies a value in this process: its object, or for a model that of its network and a
    digest of the rest."""
    if isinstance(value, Model):
        return id(value.net), _beside(value, value.net, tensors)
    return id(value), b""


def _beside(model: Model, net: Any, tensors: dict) -> bytes:
    """The digest of a model, without its network where that is ``net``."""
    parts = [(name, v) for name, v in parts_of(model).parts if name != "net" or v is not net]
    return ValueWalk(tensors=tensors).digest(Parts("beside", parts, ordered=False), "model")
