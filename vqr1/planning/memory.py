"""Bytes that one process holds in each phase of a step, counted from shapes.

What lies in memory all the time (weights, reference, optimizer state) is the same in every phase;
the peak is the phase with the most on top of it:

    rollout     image features with history, keys and values (which stay where sampling reads the
                policy's own weights: recorded steps do), weights as sampling reads them
    reference   features, one layer's rows
    copies      the same of the degraded copies, whose tower keeps nothing (`loss.perception`)
    update      features with history, what the text model's layers keep for the backward pass,
                logits; with several micro-batches their gradients too
    optimiser   gradients

Counted are the tensors that the code keeps (`vqr1/policy/fast_layers.py`, `tree_attention.py`,
`output_head.py`); on a CPU the counts of one step's saved tensors were compared with PyTorch's own
(`tests/planning/test_planning.py`). On top of them a CPU process has its libraries and the holes of
the C library's heap, a GPU the context of its driver.

Shape legend: H hidden size, I feed-forward width, D head size, V vocabulary; v marks the tower's.

Not here: sizes of models and steps (`shape.py`), time (`speed.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vqr1.config import TrainConfig
from vqr1.device import HALF
from vqr1.planning.flops import attention_widths
from vqr1.planning.shape import ModelShape, Work
from vqr1.policy.cpu_linear import fast_linears_help
from vqr1.policy.families import Family
from vqr1.policy.output_head import MAX_LOGITS, MAX_LOGITS_GPU
from vqr1.policy.quantization import BYTES
from vqr1.policy.tower_cost import TowerCost
from vqr1.rollout.turns import turn_tokens

HEAP_HOLES = 0.4
"""Holes that glibc's heap has after the first steps, relative to what comes and goes in a step:
measured (docs/scale.md)."""

GPU_CONTEXT = 2**30
"""CUDA's context and its libraries; assumed."""

Terms = dict[str, float]
"""Bytes by name."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a number, by what it is.

    Attributes:
        weight: of a weight; the residual stream has the same type.
        trained: of a weight that trains, its gradient and each of its two optimizer states.
        inner: of what the linear layers read and write.
    """

    weight: int
    trained: int
    inner: int

    @staticmethod
    def of(config: TrainConfig) -> Sizes:
        """The sizes of a training."""
        weight = 4 if config.model.dtype == "float32" else 2
        half = config.hardware.precision == "bf16-mixed"
        return Sizes(
            weight,
            # peft keeps adapters in float32.
            weight if config.model.lora is None else 4,
            2 if half else weight,
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Planned bytes of one process.

    Attributes:
        phases: by phase, its terms; what is always there is in every phase.
        host: bytes in host memory besides, where something is offloaded.
    """

    phases: dict[str, Terms]
    host: float

    @property
    def worst(self) -> str:
        """The phase with the most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> float:
        """Bytes of the worst phase."""
        return sum(self.phases[self.worst].values())


def vision_trains(config: TrainConfig) -> bool:
    """Whether the vision tower or what comes after it trains."""
    freeze = config.model.freeze_vision
    return freeze == "tower" or (not freeze and config.model.lora is None)


def trained_vision(config: TrainConfig, shape: ModelShape) -> int:
    """Weights that train of the vision tower and what comes after it."""
    if not vision_trains(config):
        return 0
    return shape.connector if config.model.freeze_vision == "tower" else shape.vision


def has_copy(config: TrainConfig, shape: ModelShape) -> bool:
    """Whether the reference is a second set of weights."""
    return config.loss.has_reference and not (shape.adapters and not vision_trains(config))


@dataclass(frozen=True)
class Held:
    """Bytes of weights and what belongs to them, in one process.

    Attributes:
        always: terms that are there all the time.
        gradients: of all weights that train.
        text_gradients: without those of the vision tower.
        gathered: full weights while responses are sampled, where they are divided.
        sampled: bfloat16 copies of the text model's weights, which sampling reads.
        visiting: the whole reference, where it is on the device for its pass only.
        host: in host memory.
    """

    always: Terms
    gradients: float
    text_gradients: float
    gathered: float
    sampled: float
    visiting: float
    host: float


def held(config: TrainConfig, shape: ModelShape) -> Held:
    """What a process holds of the weights, by strategy."""
    hardware, size = config.hardware, Sizes.of(config)
    strategy, processes = hardware.strategy, hardware.devices * hardware.nodes
    tower = trained_vision(config, shape)
    frozen = 0 if vision_trains(config) else shape.vision
    ends = shape.embedding + shape.head
    # FSDP2 leaves embedding, head and a frozen tower whole; ZeRO divides everything.
    whole = {"fsdp2": ends + frozen, "zero3": 0}.get(strategy, shape.total)
    weights = whole + (shape.total - whole) / processes
    trained = (shape.adapters or shape.text + ends) + tower
    parts = 1 if strategy == "auto" else processes
    left = ends if strategy == "fsdp2" and not shape.adapters else 0
    own = left + (trained - left) / parts
    own_text = own - tower / parts
    moments = 2 * own * size.trained
    # DeepSpeed updates a float32 copy of its share.
    master = own * 4 if strategy in ("zero2", "zero3") else 0
    reference = reference_bytes(config, shape)
    on_host = hardware.reference == "host" and hardware.accelerator == "gpu"
    sharded = hardware.reference == "sharded" and processes > 1
    always = {
        "weights": weights * size.weight + shape.adapters * 4 - saved_bits(config, shape),
        "reference": 0 if on_host else reference / processes if sharded else reference,
        "moments": 0 if hardware.offload else moments,
        "master weights": 0 if hardware.offload else master,
        "average": 0 if config.optimizer.ema_decay is None else own * 4,
    }
    gathered = {"fsdp2": (shape.total - whole) * size.inner, "zero3": shape.total * size.weight}
    return Held(
        always,
        own * size.trained,
        own_text * size.trained,
        gathered.get(strategy, 0.0) if processes > 1 else 0.0,
        sampled_bytes(config, shape),
        reference if on_host or sharded else 0.0,
        (moments + master if hardware.offload else 0.0) + (reference if on_host else 0.0),
    )


def saved_bits(config: TrainConfig, shape: ModelShape) -> float:
    """Bytes that weights of 4 bits save of the text model's, norms included."""
    if config.model.quantization is None:
        return 0.0
    # A layer is cast for the length of its products.
    layer = shape.text / shape.config.text_config.num_hidden_layers
    return shape.text * (Sizes.of(config).weight - BYTES) - 2 * layer


def reference_bytes(config: TrainConfig, shape: ModelShape) -> float:
    """Bytes of a second set of weights: linear layers' in bfloat16 where its passes compute so."""
    if not has_copy(config, shape):
        return 0.0
    size = Sizes.of(config)
    exact = shape.embedding if size.inner < size.weight else 0
    moving = config.grpo.reference_sync_every is not None
    inner = size.weight if moving else size.inner
    return (shape.total - exact) * inner + exact * size.weight


def sampled_bytes(config: TrainConfig, shape: ModelShape) -> float:
    """Bytes of weights that sampling has beside the policy's (`sampling_weights.py`)."""
    hardware, size = config.hardware, Sizes.of(config)
    if config.rollout.engine != "local" or hardware.precision != HALF:
        return 0.0
    if config.model.quantization is not None:
        return 0.0
    if shape.adapters:
        return shape.text * 2.0
    # FSDP2 unshards in bfloat16; the head stays as it is.
    casts = size.weight > 2
    text = 0 if hardware.strategy == "fsdp2" else shape.text
    return 2.0 * (text + (shape.head or shape.embedding)) if casts else 0.0


def text_row(config: Any, size: Sizes, *, head_norms: bool = False, gate: int = 0) -> float:
    """Bytes that a layer of attention of the text model keeps of one token for the backward pass.

    Args:
        config: the model's.
        size: bytes of a number.
        head_norms: see `Family`.
        gate: see `TextExtra`.
    """
    text = config.text_config
    width, heads = text.hidden_size, text.num_attention_heads
    queries, keys = attention_widths(text)
    head = queries // heads
    # Residual stream before attention and before the feed-forward layer, and the inverse norms.
    stream = 2 * width + 2
    # Both norms' results, q and the attention's result, k and v, gate, up and their product.
    inner = 2 * (width + queries + keys) + 3 * text.intermediate_size
    if head_norms:
        # What the norms of queries and keys take, and the inverse norm of each head.
        inner += queries + keys + heads + text.num_key_value_heads
    # The gate beside the queries, its factors, and the result times them.
    inner += 3 * gate
    # The attention's log-sum-exps and the rotary table are float32.
    rotary = (getattr(text, "rope_parameters", None) or {}).get("partial_rotary_factor") or 1.0
    table = 2 * head * rotary / text.num_hidden_layers
    return stream * size.weight + inner * size.inner + (heads + table) * 4


def text_rows(family: Family, config: Any, size: Sizes) -> tuple[float, float]:
    """Bytes that all layers of the text model keep of one token, and those of the layer with most.

    Args:
        family: the model's.
        config: the model's.
        size: bytes of a number.
    """
    text, extra = config.text_config, family.text_extra(config.text_config)
    row = text_row(config, size, head_norms=family.head_norms, gate=extra.gate)
    if not extra.linear:
        return text.num_hidden_layers * row, row
    width = text.hidden_size
    inner = 2 * width + 3 * text.intermediate_size + extra.kept
    linear = (2 * width + 2) * size.weight + inner * size.inner + extra.exact * 4
    attention = text.num_hidden_layers - extra.linear
    return attention * row + extra.linear * linear, max(row, linear)


def states(family: Family, config: Any, size: Sizes) -> float:
    """Bytes that one sequence carries in all layers of linear attention of the text model."""
    extra = family.text_extra(config.text_config)
    return extra.linear * (extra.state * 4.0 + extra.inputs * size.inner)


def tower_row(tower: TowerCost, size: Sizes) -> float:
    """Bytes that one block of the vision tower keeps of one row for the backward pass."""
    return tower.residual * size.weight + tower.inner * size.inner + tower.exact * 4


def kept_rows(row: float, layers: int, stream: float, checkpointing: bool) -> float:
    """Bytes of one row that all layers keep.

    With checkpointing that is each layer's input, and one layer that runs again.
    """
    return layers * stream + row if checkpointing else layers * row


def rollout_budget(config: TrainConfig) -> int:
    """Tokens that the local engine decodes together; of a GPU's memory, what it takes at least."""
    return turn_tokens(config.rollout.micro_batch_tokens, config.hardware.accelerator == "gpu")


def images_at_once(limit: int, images: int, entries: int) -> int:
    """Images of one pass under a budget of tokens; at least one."""
    return max(1, min(images, limit // entries))


def colocated(config: TrainConfig, shape: ModelShape) -> Terms:
    """What a vLLM engine in the training process has; its work space is not counted."""
    if config.rollout.engine != "vllm_colocated":
        return {}
    return {
        "vLLM's weights": float(shape.total * Sizes.of(config).inner),
        "vLLM's cache": config.rollout.colocated.kv_cache_gib * 2**30,
    }


def sampling(config: TrainConfig, shape: ModelShape, work: Work) -> Terms:
    """Keys, values, states, logits and repacked weights while the local engine samples."""
    if config.rollout.engine != "local":
        return {}
    text, size = shape.config.text_config, Sizes.of(config)
    budget = rollout_budget(config)
    images = images_at_once(budget, work.images, work.entries)
    slots = max(1, min(work.group, budget // (work.response * images)))
    entries = images * (work.prompt + slots * work.response)
    _, width = attention_widths(text)
    layers = text.num_hidden_layers - shape.family.text_extra(text).linear
    packs = config.hardware.accelerator == "cpu" and fast_linears_help()
    return {
        "keys and values": 2.0 * layers * width * entries * size.inner,
        # Each prompt's, and each response's own.
        "states": images * (1 + slots) * states(shape.family, shape.config, size),
        # Logits, what is left of them after top-k, their sort, and probabilities.
        "logits": 4.0 * images * slots * text.vocab_size * 4,
        # oneDNN's order of the weights (`packed_weights`).
        "repacked weights": shape.text * 4.0 if packs else 0.0,
    }


def response_pass(config: TrainConfig, shape: ModelShape, work: Work) -> tuple[Terms, Terms, bool]:
    """Terms of a micro-batch: with gradients, without, and whether there are several."""
    text, size = shape.config.text_config, Sizes.of(config)
    images = images_at_once(config.hardware.micro_batch_tokens, work.images, work.entries)
    fed = work.group * (work.response - 1)
    rows = images * (work.prompt + fed)
    whole, row = text_rows(shape.family, shape.config, size)
    layers, stream = text.num_hidden_layers, text.hidden_size * size.weight
    again = config.hardware.gradient_checkpointing
    kept = layers * stream + row if again else whole
    carried = images * (1 + work.group) * states(shape.family, shape.config, size)
    if again:
        carried /= max(1, shape.family.text_extra(text).linear)
    gpu = config.hardware.accelerator == "gpu"
    limit = MAX_LOGITS_GPU if gpu else MAX_LOGITS
    positions = min(images * (1 + fed), limit // text.vocab_size)
    logits = 4.0 * positions * text.vocab_size
    adapter = 0.0
    if shape.adapters and config.model.lora is not None:
        modules = len(config.model.lora.target_modules) * layers
        adapter = 4.0 * config.model.lora.rank * modules * rows
    # The last norm's input, and the head's.
    ends = 2 * text.hidden_size * size.weight
    # Rows that hold more than the first layer's input last as long as the pass.
    wide = work.tower.features if work.tower.features > text.hidden_size else 0
    embeds = rows * wide * size.weight
    with_gradients = {
        "text activations": rows * (kept + ends) + embeds + adapter,
        "continued states": carried,
        # Logits, their exponentials and their gradient.
        "logits": 3 * logits,
    }
    return (
        with_gradients,
        {"one layer's rows": rows * row + embeds, "logits": 2 * logits},
        (images < work.images),
    )


def history(config: TrainConfig, work: Work) -> Terms:
    """What the vision tower keeps from the beginning of a step to its end."""
    tower, size = work.tower, Sizes.of(config)
    # The batch carries bytes; what the tower takes are numbers, which last as long as their pass.
    terms = {"images": float(work.images * tower.pixels)}
    if vision_trains(config):
        stream = tower.width * size.weight
        checkpointing = config.hardware.gradient_checkpointing
        row = kept_rows(tower_row(tower, size), tower.depth, stream, checkpointing)
        if config.model.freeze_vision == "tower":
            row = 0.0  # its blocks keep nothing
        kept = row + tower.ends * size.inner
        terms["tower activations"] = work.images * tower.rows * kept
    return terms


def plan_memory(
    config: TrainConfig, shape: ModelShape, work: Work, *, process: float
) -> MemoryPlan:
    """The bytes of every phase.

    Args:
        config: the training's configuration.
        shape: its model.
        work: a process's share of a step.
        process: bytes of a CPU process before it loads a model.
    """
    gpu = config.hardware.accelerator == "gpu"
    own = held(config, shape)
    vision = history(config, work)
    training, forward, several = response_pass(config, shape, work)
    whole = {"gathered weights": own.gathered}
    # Only a reference that is the policy without its adapters needs the policy's full weights.
    referred = whole if not has_copy(config, shape) else {"reference on a visit": own.visiting}
    row = tower_row(work.tower, Sizes.of(config)) * work.images * work.tower.rows
    update_gradients = {"gradients": own.text_gradients if several else 0.0}
    vllm = colocated(config, shape)
    sleeps = gpu and config.rollout.colocated.sleep
    sampled = {**sampling(config, shape, work), **(vllm if sleeps else {})}
    phases: dict[str, Terms] = {
        "rollout": {**vision, **whole, **sampled, "sampled weights": own.sampled},
        "reference": {**vision, **referred, **forward},
        "update": {**vision, **update_gradients, **training},
        "optimiser": {"gradients": own.gradients},
    }
    if vision_trains(config):
        phases["tower's update"] = {
            **vision,
            "gradients": own.text_gradients,
            "one layer's rows": 0.0 if config.model.freeze_vision == "tower" else row,
        }
    if not config.loss.has_reference:
        del phases["reference"]
    if config.loss.perception.weight:
        copies = {"copies": float(work.images * work.tower.pixels), "tower's rows": row}
        phases["copies"] = {**vision, **whole, **forward, **copies}
    passing = max(sum(terms.values()) for terms in phases.values())
    always = {"process": float(GPU_CONTEXT) if gpu else process, **own.always}
    if not sleeps:
        always |= vllm
    if gpu and config.rollout.cuda_graph and not own.sampled and "keys and values" in sampled:
        # Recorded steps are kept for the next rollout, with the memory that they read.
        always["keys and values"] = sampled["keys and values"]
    if not gpu:
        always["holes in the heap"] = HEAP_HOLES * passing
    return MemoryPlan(
        {name: {**always, **terms} for name, terms in phases.items()},
        own.host,
    )
