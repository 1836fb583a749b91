"""Schema of the composed configuration: every key, its type and its range, in one place.

Hydra composes YAML files and `instantiate` builds objects, but neither checks types or ranges.
`validate` does so once, after composition and before anything is loaded, and reports all problems
together. The YAML files under `conf/` hold the values; the docstring under each field here says
what the value means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vqr1.errors import ConfigError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

_STRICT_KEYS = ConfigDict(extra="forbid")

T = TypeVar("T")


@dataclass(config=_STRICT_KEYS, kw_only=True)
class SplitConfig:
    """How a data set is divided into training, validation and test images."""

    by: Literal["reference", "image", "official", "files", "none"]
    """`reference` keeps all images of one reference (content) together; `image` draws single
    images; `official` uses the set's own split column; `files` reads lists; `none` puts the whole
    set into the test part (evaluation only)."""
    fractions: tuple[Fraction, Fraction, Fraction] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test; used by `reference` and `image`. By `official`,
    the validation share that is carved out of training where the set ships no validation part."""
    seed: NonNegativeInt = 0
    """Seed of the draw; the same seed gives the same split on every machine."""
    files: dict[Literal["train", "val", "test"], str] | None = None
    """Text files for `files`, relative to the data set's root: one image name, or one reference
    name, a line (further blank-separated columns are ignored)."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class CsvColumns:
    """Column names of a user's own CSV file."""

    image: str = "image"
    """Image path relative to the image folder."""
    mos: str = "mos"
    """Opinion score."""
    std: str | None = None
    """Standard deviation of the opinion score, on the scale of `mos`."""
    reference: str | None = None
    """Reference or content that the image derives from."""
    split: str | None = None
    """Part that the image belongs to: train, val or test."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class DatasetConfig:
    """One labelled set of images."""

    name: str
    """Format of the labels and name in logs: one of `vqr1.data.labels.FORMATS`."""
    root: str | None
    """Folder that holds the labels and images as downloaded. null builds the demo set in the cache
    folder; every other set needs it."""
    split: SplitConfig
    label_file: str | None = None
    """Label file relative to `root`, where the format does not fix its name (csv, jsonl) or the
    file was renamed."""
    image_folder: str | None = None
    """Image folder relative to `root`, where the images are not in the format's own folder."""
    lower_is_better: bool = False
    """csv and jsonl only: the published score falls with quality. Official formats know this."""
    columns: CsvColumns | None = None
    """csv only: the names of the columns."""
    select: str | None = None
    """jsonl only: take the lines with this `dataset_name` from a file that holds several sets."""
    short_edge: PositiveInt | None = None
    """Resize so that the short edge has this many pixels before the model's own resizing
    (SPAQ: 768)."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Whether an image that is missing or does not decode stops the run or is left out and
    counted."""
    max_bad_share: Fraction = 0.01
    """With `skip`: the share of bad images above which the run refuses to start."""
    max_images: PositiveInt | None = None
    """Use at most this many images of each part (evenly spaced rows of the table); null uses
    all."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class MixtureConfig:
    """Several sets that take turns, batch by batch: composed from `dataset=a+b+c`."""

    parts: dict[str, DatasetConfig]
    """The sets by the name of their configuration file."""
    weights: dict[str, PositiveFloat] | None = None
    """How often each set supplies a batch, relative to the others; null: in proportion to its
    size, so that one epoch visits every image once."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class LoaderConfig:
    """How ranking batches are made."""

    images_per_batch: Annotated[int, Field(ge=1)]
    """B: images that one process ranks against each other in one step."""
    last_batch: Literal["drop", "fill"] = "drop"
    """What happens to a set's last, smaller batch of an epoch: left out, or filled up with the
    epoch's first images of the same set. A set smaller than one batch is always filled."""
    workers: NonNegativeInt = 0
    """Processes that decode and preprocess images; 0 does it in the training process."""
    cache_dir: str | None = None
    """Folder for preprocessed image tensors, reused across epochs and runs; null: no cache."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of full weights."""

    rank: PositiveInt = 64
    """Rank of the update matrices."""
    alpha: PositiveFloat = 128.0
    """Scale of the update; the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout inside the adapters."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
    )
    """Names of the text model's linear layers that receive an adapter."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class ModelConfig:
    """The vision-language model."""

    name: str
    """Short name for logs and file names."""
    path: str | None
    """Checkpoint folder or hub name; null is the tiny policy that ships with the package."""
    revision: str | None = None
    """Hub revision to pin."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    freeze_vision: bool = False
    """Keep the vision tower (and its merger) as loaded."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights; null trains all weights that are not frozen."""
    min_pixels: PositiveInt
    """Smallest image area, in pixels, that the processor resizes to."""
    max_pixels: PositiveInt
    """Largest image area, in pixels, that the processor resizes to."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class PromptConfig:
    """What the model is asked."""

    name: str
    """Short name for logs and table captions."""
    text: str
    """The user's message that follows the image."""
    answer_format: Literal["think_answer", "answer", "free"]
    """Form that a response must have to be well formed: reasoning and answer, answer alone, or any
    text (descriptions)."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class RewardConfig:
    """Weighted sum of reward terms."""

    terms: dict[str, dict[str, Any]]
    """Terms by name: each has `_target_` (a class of `vqr1.rewards` or your own), `weight`, and the
    class's own arguments."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class SamplingConfig:
    """How one response is drawn. Nothing is inherited from the model's generation config."""

    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_k: NonNegativeInt = 0
    """Draw among the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that together have this probability; 1 keeps all."""
    max_new_tokens: PositiveInt = 256
    """Length limit of one response."""
    stop: Literal["answer", "eos"] = "eos"
    """End a response at `</answer>` or the end of the turn, or at the end of the turn only."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class RolloutConfig:
    """Where and how the K responses are sampled."""

    engine: Literal["local"]
    """`local`: this process, prompt and image shared among the K responses (the only engine)."""
    sampling: SamplingConfig
    micro_batch_tokens: PositiveInt = 16384
    """Most key-value entries (prompt and response tokens, all sequences) decoded together; larger
    batches are sampled in turns."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation."""

    group_size: Annotated[int, Field(ge=2)]
    """K: responses sampled for each image."""
    kl_weight: NonNegativeFloat
    """beta: weight of the k3 estimate of KL(policy || reference); 0 needs no reference."""
    clip: PositiveFloat = 0.2
    """Probability ratios are clipped to [1 - clip, 1 + clip]."""
    loss: Literal["response_mean", "token_mean", "dr_grpo"] = "response_mean"
    """How token losses are averaged: mean in each response then over responses (published),
    over all tokens, or the sum over tokens divided by the length limit (Dr.GRPO)."""
    advantage_std: bool = True
    """Divide the centred rewards by the group's standard deviation (published); false centres
    only."""
    inner_iterations: PositiveInt = 1
    """mu: optimiser steps on each rollout."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    lr: PositiveFloat
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes from its peak to `final_fraction` of it."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps over which the learning rate rises linearly to its peak."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end, relative to the peak (linear and cosine)."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the global gradient norm to this; null never clips."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class HardwareConfig:
    """Machine profile."""

    accelerator: Literal["cpu", "gpu"]
    """Device type."""
    devices: PositiveInt = 1
    """Processes (devices) on each node."""
    nodes: PositiveInt = 1
    """Number of nodes."""
    strategy: Literal["auto"] = "auto"
    """Lightning strategy; one process needs no other."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the passes; the type of the weights themselves is `model.dtype`."""
    threads: PositiveInt | None = None
    """CPU threads of one process; null leaves PyTorch's choice."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Attention implementation of the model outside the shared-prompt passes."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    micro_batch_tokens: PositiveInt = 16384
    """Most tokens (prompts once, responses K times) in one forward and backward pass of the
    update; larger batches accumulate gradients."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class LoggerConfig:
    """Where metrics go."""

    name: Literal["mlflow", "csv", "none"]
    """`mlflow`, a `metrics.csv` in the run directory, or nothing."""
    tracking_uri: str | None = None
    """mlflow only: database or server address; null is `sqlite:///mlflow.db` in the working
    directory."""
    experiment: str = "vqr1"
    """mlflow only: experiment that the run belongs to."""
    run_name: str | None = None
    """mlflow only: name of the run; null builds one from data set, reward and seed."""
    tags: dict[str, str] = field(default_factory=dict)
    """mlflow only: further tags of the run."""
    sample_answers: NonNegativeInt = 8
    """Responses kept in the table of sample answers at each validation."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class CheckpointConfig:
    """Which checkpoints are kept."""

    monitor: Literal["val/srcc", "val/plcc", "val/srcc_greedy", "val/plcc_greedy"] = "val/srcc"
    """Metric of the best checkpoint, higher is better."""
    every_steps: PositiveInt | None = None
    """Steps between saves of the last checkpoint; null saves at every validation."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class CallbacksConfig:
    """What happens around the steps."""

    progress: bool = True
    """Show the progress bar."""
    checkpoint: CheckpointConfig | None = field(default_factory=CheckpointConfig)
    """null keeps no checkpoints during training (the last policy is still exported)."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class ValidationConfig:
    """Evaluation during and around training."""

    every_steps: PositiveInt
    """Optimiser steps between validations."""
    samples: NonNegativeInt = 6
    """Responses sampled for each image, their mean score is judged; 0 judges greedy answers
    only."""
    max_images: PositiveInt | None = None
    """Most validation images at each validation; null uses all."""
    images_per_batch: PositiveInt = 64
    """Images judged together; does not change what is computed, only how fast."""
    test: bool = True
    """Evaluate the test part before and after training."""
    bootstrap_draws: PositiveInt = 1000
    """Draws of the 95 % bootstrap intervals."""


def _dataset_kind(value: Any) -> str:
    parts = value.get("parts") if isinstance(value, Mapping) else getattr(value, "parts", None)
    return "single" if parts is None else "mixture"


AnyDataset = Annotated[
    Annotated[DatasetConfig, Tag("single")] | Annotated[MixtureConfig, Tag("mixture")],
    Discriminator(_dataset_kind),
]
"""One set, or a mixture: told apart by the key `parts`, so that errors speak of one of them."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class TrainConfig:
    """`python train.py`."""

    dataset: AnyDataset
    model: ModelConfig
    prompt: PromptConfig
    reward: RewardConfig
    rollout: RolloutConfig
    optimizer: OptimizerConfig
    hardware: HardwareConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
    loader: LoaderConfig
    grpo: GrpoConfig
    validation: ValidationConfig
    max_steps: PositiveInt | None
    """Optimiser steps in all; null: `max_epochs` decides."""
    max_epochs: PositiveInt | None
    """Passes over the training images; null: `max_steps` decides."""
    seed: NonNegativeInt
    """Seed of batches, samples and initial adapters."""
    run_dir: str
    """Folder that receives checkpoints, tables and `summary.json`."""


@dataclass(config=_STRICT_KEYS, kw_only=True)
class DataConfig:
    """The scripts that look at data without training (`conf/data.yaml`)."""

    dataset: AnyDataset
    model: ModelConfig
    prompt: PromptConfig
    loader: LoaderConfig
    seed: NonNegativeInt
    """Seed of the order of batches."""


def validate(schema: type[T], values: Mapping[str, Any]) -> T:
    """Check composed values against a schema and build the typed configuration.

    Args:
        schema: one of the dataclasses of this module, or a user's own in the same manner.
        values: plain containers (interpolations resolved), as
            `OmegaConf.to_container(config, resolve=True)` gives them.

    Raises:
        ConfigError: every unknown key, wrong type and value out of range, one line each: dotted
            key, value found, rule.
    """
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
    raise ConfigError(list(dict.fromkeys(problems)))


def _problem(detail: Mapping[str, Any]) -> str:
    """One line for one validation error; the union's branch names are no part of the key."""
    branches = {"single", "mixture"}
    key = ".".join(str(part) for part in detail["loc"] if part not in branches)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: unknown key; remove it or correct its spelling"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: missing; give it a value, for example on the command line: {key}=..."
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{key}={detail['input']!r}: {message}"
