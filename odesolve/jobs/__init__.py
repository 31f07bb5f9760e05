"""Long jobs in a folder: samples or log-densities of many ids, by any number of processes,
interrupted and taken up again."""

from odesolve.jobs.calls import log_prob, sample
from odesolve.jobs.folder import Job

__all__ = ["Job", "log_prob", "sample"]
