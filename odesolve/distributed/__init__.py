"""The same calls on many ranks of ``torch.distributed``: samples spread over "data", the network's
rows over "time"."""

from odesolve.distributed.calls import log_prob, sample
from odesolve.distributed.ranks import mesh
from odesolve.distributed.spread import spread

__all__ = ["log_prob", "mesh", "sample", "spread"]
