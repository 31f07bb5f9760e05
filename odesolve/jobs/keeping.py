"""How a job is kept and shared: what ``sample`` and ``log_prob`` take alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from odesolve.jobs import checks
from odesolve.jobs.files import check_format
from odesolve.jobs.folder import Job, prepared
from odesolve.jobs.marks import JobMarks
from odesolve.jobs.work import Limits, Parts, work


@dataclass(frozen=True)
class Keeping:
    """The folder of a job, the seed of its noise, the length and the format of its shards, and how
    the processes that share it wait and report."""

    out: str | File
    seed: int | None
    shard: int | None
    format: str
    progress: bool | None
    limits: Limits

    def facts(self, ids: range, batch: int, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """What job.json says of the ids and of the files that hold their results."""
        return {
            "first": ids.start,
            "n": len(ids),
            "shard": checks.shard(self.shard, batch),
            "format": self.format,
            "arrays": dict(arrays),
        }

    def job(self, kind: str, facts: Mapping[str, Any], marks: JobMarks) -> Job:
        """The job of these facts, new or taken up again. Raises OdesolveError where the folder
        holds another one."""
        check_format(self.format)
        root = checks.folder("out", self.out)
        marks.warn_unseen()
        return prepared(root, str(self.out), {"kind": kind, **facts, **marks.notes()})

    def work(self, job: Job, parts: Parts, marks: JobMarks) -> Job:
        """Make the shards of a job that are missing; returns the job."""
        with marks.running():
            return work(job, parts, self.progress, self.limits)


def batches_of(ids: range, batch: int) -> list[range]:
    """Ids in batches of this size; the last may be shorter."""
    return [ids[k : k + batch] for k in range(0, len(ids), batch)]


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of torch as numpy has it."""
    return str(dtype).removeprefix("torch.")
