"""``sample`` and ``log_prob`` on many ranks of ``torch.distributed``: samples are spread along
"data", the network's rows along "time"."""

from odesolve.distributed.calls import log_prob, sample
from odesolve.distributed.ranks import mesh
from odesolve.distributed.spread import spread

__all__ = ["log_prob", "mesh", "sample", "spread"]
