"""Around a training loop: averaged weights, checkpoints that resume bitwise, a small loop; each of use without the rest."""

from odesolve.training import checkpoint
from odesolve.training.batches import Batches
from odesolve.training.checkpoint import Checkpoint, TorchRandom, describe
from odesolve.training.ema import EMA, Exponential, Power
from odesolve.training.loop import History, NotFinite, fit, warm_up

__all__ = [
    "EMA",
    "Batches",
    "Checkpoint",
    "Exponential",
    "History",
    "NotFinite",
    "Power",
    "TorchRandom",
    "checkpoint",
    "describe",
    "fit",
    "warm_up",
]
