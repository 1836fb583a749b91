"""What happens around the steps: one small file each."""

from vqr1.training.callbacks.answers import SampleAnswers
from vqr1.training.callbacks.checkpoints import RunCheckpoints
from vqr1.training.callbacks.ema import EmaWeights
from vqr1.training.callbacks.hung_step import HungStep
from vqr1.training.callbacks.progress import progress_callback
from vqr1.training.callbacks.reference_sync import ReferenceSync
from vqr1.training.callbacks.scatter import ScatterPlot
from vqr1.training.callbacks.watchdogs import Watchdogs

__all__ = [
    "EmaWeights",
    "HungStep",
    "ReferenceSync",
    "RunCheckpoints",
    "SampleAnswers",
    "ScatterPlot",
    "Watchdogs",
    "progress_callback",
]
