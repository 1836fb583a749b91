"""Keys of the machine that runs and of where its metrics go."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.types import (
    STRICT_KEYS,
    ExpandedPath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

LOGGERS = ("mlflow", "csv", "tensorboard", "wandb", "none")

ReferencePlace = Literal["device", "host", "sharded"]


@dataclass(config=STRICT_KEYS, kw_only=True)
class HardwareConfig:
    """Machine profile."""

    accelerator: Literal["cpu", "gpu"]
    """Device type."""
    devices: PositiveInt = 1
    """Processes (devices) on each node."""
    nodes: PositiveInt = 1
    """Number of nodes."""
    strategy: Literal["auto", "fsdp2", "zero2", "zero3"] = "auto"
    """What several processes divide. `auto`: nothing, each holds all weights; `fsdp2`: weights,
    gradients and optimiser (PyTorch); `zero2`: gradients and optimiser, `zero3`: weights too
    (DeepSpeed)."""
    offload: bool = False
    """zero3 only: keep the optimizer state and master weights in host memory."""
    rendezvous_seconds: Annotated[PositiveFloat, Affects.NOTHING] = 300.0
    """Longest wait of a process for all others at the start. Nodes of a cluster may begin minutes
    apart, and read the program from a shared disk at the same time; what has not come by then will
    not: a wrong address, another number of processes, a node that failed."""
    process_group_timeout_minutes: Annotated[PositiveFloat, Affects.NOTHING] = 60.0
    """Longest wait of a process in one exchange with the others. It covers the slowest rollout and
    what rank 0 does alone while the others wait: writing a checkpoint, or test tables.
    PyTorch's own 10 minutes (NCCL) end runs whose checkpoints go to a slow disk. A process that
    dies is noticed at once by its launcher; this limit is for those that hang."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the passes; the type of the weights themselves is `model.dtype`."""
    threads: Annotated[PositiveInt | None, Affects.ROUNDING] = None
    """CPU threads of one process; null leaves PyTorch's choice."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Attention implementation of the model outside the shared-prompt passes. `auto`: flash-attn 3
    or 2 where it is installed, else sdpa."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    micro_batch_tokens: PositiveInt = 16384
    """Most tokens (prompts once, responses K times) in one forward and backward pass of the
    update; larger batches accumulate gradients."""
    reference: Annotated[ReferencePlace, Affects.NOTHING] = "device"
    """Where the frozen reference's weights lie between its passes. `host`: in pinned host memory,
    one copy for each process; `sharded`: a shard of each weight on each process's device. They come
    to the device, or together, for the reference pass. Adapters and
    `loss.kl_weight=0` need no second set of weights."""
    memory_check: Annotated[Literal["refuse", "warn", "skip"], Affects.NOTHING] = "refuse"
    """On a GPU, what to do before a model loads where the plan of a step (`vqr1 plan`) does not fit
    the device's free memory: `refuse` stops where it is more than 1.15 times as much and prints a
    line where it is less; `warn` prints the line only; `skip` plans nothing."""
    vision_cache_mib: Annotated[NonNegativeInt, Affects.NOTHING] = 2048
    """Host memory, in MiB, for the image features of a vision tower that does not change (the
    policy's, where `model.freeze_vision` is set; else the reference's), so that an image goes
    through that tower once and not once an epoch; 0 keeps none."""
    vision_cache_dir: Annotated[ExpandedPath | None, Affects.NOTHING] = None
    """Folder that keeps the same features on disk, for later runs too; null: memory only."""


def _known_loggers(name: str) -> str:
    kinds = name.split("+")
    if not set(kinds) <= set(LOGGERS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"must be of {', '.join(LOGGERS)}, or several, each once, joined by +")
    if "none" in kinds and len(kinds) > 1:
        raise ValueError("none is no logger beside others; leave it out")
    return name


@dataclass(config=STRICT_KEYS, kw_only=True)
class LoggerConfig:
    """Where metrics go."""

    name: Annotated[str, AfterValidator(_known_loggers)]
    """`mlflow`, `csv` (a `metrics.csv` in the run directory), `tensorboard`, `wandb`, several of
    them joined by `+`, or `none`. Sweeps, comparison and exact resume rely on `mlflow` alone."""
    tracking_uri: str | None = None
    """mlflow only: database or server address; null is `sqlite:///mlflow.db` in the working
    directory."""
    experiment: str = "vqr1"
    """mlflow and wandb: experiment, or project, that the run belongs to."""
    run_name: str | None = None
    """mlflow and wandb: name of the run; null builds one from data set, reward and seed."""
    tags: dict[str, str] = field(default_factory=dict)
    """mlflow and wandb: further tags of the run."""
    require: bool = False
    """mlflow only: refuse to start without an answer from the store. Else the run continues, and
    `vqr1 sync` sends its log later."""
    wait_seconds: PositiveFloat = 30.0
    """mlflow only: longest wait for the store, at the start and at the end of a run."""
    sample_answers: NonNegativeInt = 8
    """Responses kept in the table of sample answers at each validation."""
    offline: bool = False
    """wandb only: keep the run in the run directory; `wandb sync` sends it later."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The loggers by themselves."""
        return tuple(self.name.split("+"))
