"""What a training loop needs: averaged weights, checkpoints that resume bitwise, a small loop; each
of these is useful without the others."""

from odesolve.training import checkpoint
from odesolve.training.batches import Batches
from odesolve.training.checkpoint import Checkpoint, TorchRandom, describe
from odesolve.training.ema import EMA, Exponential, Growing, Power
from odesolve.training.loop import History, NotFinite, fit, warm_up
from odesolve.training.norms import recalibrated
from odesolve.training.post_hoc import Reconstructed, Snapshot, reconstructed

__all__ = [
    "EMA",
    "Batches",
    "Checkpoint",
    "Exponential",
    "Growing",
    "History",
    "NotFinite",
    "Power",
    "Reconstructed",
    "Snapshot",
    "TorchRandom",
    "checkpoint",
    "describe",
    "fit",
    "recalibrated",
    "reconstructed",
    "warm_up",
]
