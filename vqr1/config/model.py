"""Keys of the model, of what it is asked, and of how its answers are drawn."""

from __future__ import annotations

import logging
from dataclasses import field, replace
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from vqr1.config.affects import Affects
from vqr1.config.types import (
    STRICT_KEYS,
    ExpandedPath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

_log = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]

IMAGE_PLACEHOLDER = "<image>"
"""In a prompt's text: an image stands here."""

MOST_IMAGES = 4
"""Images of one prompt."""


def placeholder_problem(text: str, images: int) -> str | None:
    """What is wrong with the placeholders of a prompt's text; None where nothing is.

    Args:
        text: `prompt.text`.
        images: `prompt.images`.
    """
    found = text.count(IMAGE_PLACEHOLDER)
    if found in (0, images):
        return None
    return (
        f"it holds {IMAGE_PLACEHOLDER} {found} times, and prompt.images={images}; write it once "
        "for each image, or not at all (all images then come first)"
    )


@dataclass(config=STRICT_KEYS, kw_only=True)
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


@dataclass(config=STRICT_KEYS, kw_only=True)
class RecommendedConfig:
    """Values that other keys take where nothing else sets them (`vqr1.config.model_defaults`)."""

    parameters: PositiveFloat
    """Of the language model. `model.path` of another size takes the values of the file of
    `conf/model` whose size is nearest."""
    lr: PositiveFloat
    """`optimizer.lr` of all weights."""
    lr_adapters: PositiveFloat
    """`optimizer.lr` of adapters (`model.lora`)."""
    rollout_tokens: PositiveInt
    """`rollout.sampling.max_new_tokens`."""
    answer_tokens: PositiveInt
    """`mode.sampling.max_new_tokens`."""
    dtype: Dtype
    """`model.dtype` where all weights are trained."""
    dtype_frozen: Dtype
    """`model.dtype` where they are not: with adapters, in evaluation and in scoring."""
    min_pixels: PositiveInt
    """`model.min_pixels`."""
    max_pixels: PositiveInt
    """`model.max_pixels`."""
    nearest: bool = True
    """Checkpoints of about this size without a file of their own take these values. false for what
    was fine-tuned from a model that has a file: its values are its authors'."""
    model_types: list[str] | None = None
    """Families that these values are for, by `model_type` of a checkpoint's `config.json`:
    `model.path` of another is refused. null: any."""


def _freezing(value: Any) -> Any:
    if isinstance(value, bool) or value == "tower":
        return value
    raise ValueError("must be true, false or tower")


@dataclass(config=STRICT_KEYS, kw_only=True)
class ModelConfig:
    """The vision-language model."""

    name: Annotated[str, Affects.RESULTS]
    """Short name for logs and file names."""
    path: ExpandedPath | None
    """Checkpoint folder or hub name; null is the tiny policy that ships with the package."""
    revision: str | None = None
    """Hub revision to pin."""
    dtype: Dtype = "float32"
    """Type of the weights in memory."""
    freeze_vision: Annotated[
        Literal["tower"] | bool, BeforeValidator(_freezing), Affects.RESULTS
    ] = False
    """Keep as loaded: the vision tower with the merger or projector after it (`true`), or the tower
    alone (`tower`): image features then change with the projector; kept are at most the tower's
    rows (FastVLM). With adapters (`lora`), `false` freezes both too, and `tower` trains the
    projector beside them."""
    lora: Annotated[LoraConfig | None, Affects.RESULTS] = None
    """Train adapters instead of the weights; null trains all weights that are not frozen."""
    quantization: Annotated[Literal["nf4"] | None, Affects.RESULTS] = None
    """Weights of the text model's linear layers in memory: `nf4`, 4 bits (bitsandbytes, on a GPU),
    under adapters, in evaluation or in scoring; not in vLLM, which is sent adapters at most; an
    export has the checkpoint's own weights with the adapters merged. null: `dtype`."""
    min_pixels: PositiveInt
    """Smallest image area, in pixels, that the processor resizes to."""
    max_pixels: PositiveInt
    """Largest image area, in pixels, that the processor resizes to."""
    recommended: Annotated[RecommendedConfig | None, Affects.DEFAULTS] = None
    """What other keys take where nothing else sets them; null: the values of the packaged file
    whose size is nearest."""


def _placeholders_match(text: str, info: ValidationInfo) -> str:
    problem = placeholder_problem(text, info.data.get("images", 1))
    if problem is not None:
        raise PydanticCustomError("placeholders", "{problem}", {"problem": problem})
    return text


@dataclass(config=STRICT_KEYS, kw_only=True)
class PromptConfig:
    """What the model is asked; how it has to answer is the group `answer`."""

    name: Annotated[str, Affects.RESULTS]
    """Short name for logs and table captions."""
    images: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    """Images that one prompt takes, such as 2 to compare, or a reference beside the image."""
    text: Annotated[str, AfterValidator(_placeholders_match)]
    """The user's message. `<image>`, once for each image, marks where images stand in it; without
    any they all come first."""
    system: str | None = None
    """System message; null: what the checkpoint's chat template writes without one (published)."""
    vision_id: bool | None = None
    """Put "Picture 1: " before the first image, and so on, as chat templates that number images do.
    null: as the checkpoint was trained, where its folder records it, and without otherwise
    (published)."""
    enable_thinking: bool | None = None
    """Let the chat template open a block of reasoning (true) or close it at once (false), of
    families whose templates know both (docs/families.md); others refuse either. null: what the
    template does of its own accord."""


ANSWER_END = "</answer>"
"""What ends the published answer."""

STOP_TEXT = "text:"
"""How `stop` names a text."""


def _known_stop(value: str) -> str:
    if value in ("answer", "eos"):
        return value
    if not value.startswith(STOP_TEXT) or value == STOP_TEXT:
        raise ValueError("must be answer, eos, or text: and the text that ends a response")
    if not _spelled_alike(value):
        raise ValueError(
            "the text that ends a response must be of printable ASCII, blanks and line ends, which "
            "all tokenizers spell alike; take a part of it that is, or stop=eos"
        )
    return value


def _spelled_alike(text: str) -> bool:
    """Whether a text can be found in tokens without decoding them (`vqr1.policy.token_text`)."""
    printable = text.replace("\n", "")
    return printable.isascii() and printable.isprintable()


@dataclass(config=STRICT_KEYS, kw_only=True)
class SamplingConfig:
    """How one response is drawn. Nothing is inherited from the model's generation config."""

    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_k: NonNegativeInt = 0
    """Draw among the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that together have this probability; 1 keeps all."""
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Divides the positive logits of tokens that the prompt or the response holds already, and
    multiplies their negative ones (greedy decoding too); 1 changes nothing. Evaluation and scoring
    only: a training refuses it."""
    max_new_tokens: PositiveInt = 256
    """Length limit of one response."""
    stop: Annotated[str, AfterValidator(_known_stop)] = "eos"
    """Where a response ends beside the end of the turn: nowhere (`eos`), where the answer form ends
    (`answer`: `</answer>`, as published, or the form's closing text, where it has one), or at a
    text of your own (`text:`, and the text, of printable ASCII, blanks and line ends)."""

    @property
    def end_text(self) -> str | None:
        """The text that ends a response; None: only the end of the turn does."""
        if self.stop == "answer":
            return ANSWER_END
        return self.stop.removeprefix(STOP_TEXT) if self.stop.startswith(STOP_TEXT) else None

    def ending_with(self, closing: str | None) -> SamplingConfig:
        """The same with `stop=answer` at the closing text of an answer form.

        Args:
            closing: that text; None where the form has none. With none, or one that `stop` does
                not take, the end of the turn alone ends a response, which a process logs once.
        """
        if self.stop != "answer" or closing == ANSWER_END:
            return self
        if closing is None or not _spelled_alike(closing):
            _warn_of_no_end_text()
            return replace(self, stop="eos")
        return replace(self, stop=f"{STOP_TEXT}{closing}")


@cache
def _warn_of_no_end_text() -> None:
    """Logged once in a process, which builds several samplers."""
    _log.warning(
        "stop=answer: no fixed text of printable ASCII ends an answer of this form (answer), so "
        "that the end of the turn alone does; stop=eos does the same"
    )


@dataclass(config=STRICT_KEYS, kw_only=True)
class RolloutServerConfig:
    """A vLLM server that samples with the training's weights."""

    url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:8000"
    """Address of the server, without `/v1`."""
    weights: Annotated[Literal["merged", "adapter"], Affects.RESULTS] = "merged"
    """What is sent after each update. `merged`: all weights, adapters added to them, from GPU to
    GPU; `adapter`: the adapters alone (`model.lora`), through a folder that both machines see."""
    group_port: PositiveInt = 51216
    """`merged` only: port of the training's machine where the weights are handed over, or the first
    above it that nobody uses; each time that a lost server comes back the next one is taken."""
    adapter_dir: ExpandedPath | None = None
    """`adapter` only: that folder; null: `adapter` in `run_dir`."""
    concurrency: PositiveInt = 64
    """Images under way at the same time, of each process."""
    timeout_s: PositiveFloat = 600.0
    """Seconds that the server may take for the K responses of one image."""
    retries: NonNegativeInt = 3
    """Further tries of a request after 5xx and lost connections, with growing pauses."""
    patience_s: PositiveFloat = 120.0
    """Seconds to wait for a server that does not answer, at the start and when it is lost."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ColocatedConfig:
    """A vLLM engine inside each training process."""

    kv_cache_gib: PositiveFloat = 8.0
    """Size of its cache of keys and values, in GiB; beside it lies a copy of the weights."""
    sleep: Annotated[bool, Affects.NOTHING] = True
    """On a GPU, give up that cache and copy between two rollouts, so that the update has the
    memory; waking copies the weights once more."""
    enforce_eager: bool = False
    """Neither compile nor record the decoding: starts in seconds, samples more slowly."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class RolloutConfig:
    """Where and how the K responses are sampled."""

    engine: Literal["local", "vllm_server", "vllm_colocated"]
    """`local`: this process, prompt and image shared among the K responses; `vllm_server`: a vLLM
    server, whose weights follow the policy's; `vllm_colocated`: vLLM in this process."""
    sampling: SamplingConfig
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Largest importance weight of a token, against an engine that computes other probabilities
    than the training (`vqr1.training.importance_sampling`); null corrects nothing."""
    ahead: Annotated[int, Field(ge=0, le=1)] = 0
    """`vllm_server` only: steps ahead of the update that responses are sampled. 0: each step waits
    for its own, of the policy that it updates; 1: the server samples the next step's while this one
    is updated, by the policy before that update (`importance_cap` corrects it), and a checkpoint
    holds them."""
    server: Annotated[RolloutServerConfig, Affects.NOTHING] = field(
        default_factory=RolloutServerConfig
    )
    """`vllm_server` only."""
    colocated: ColocatedConfig = field(default_factory=ColocatedConfig)
    """`vllm_colocated` only."""
    micro_batch_tokens: PositiveInt | None = None
    """`local` only: most key-value entries (prompt and response tokens, all sequences) decoded
    together; larger batches are sampled in turns. null: 16384 on a CPU, half of the free memory on
    a GPU."""
    cuda_graph: bool = True
    """`local` only: on a GPU, record a decoding step as a CUDA graph and replay it."""
