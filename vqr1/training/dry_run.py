"""A training step on a device that is not there: counts of the project's own code at any size.

The policy has its real shapes (`read_shape`) and no numbers; rollout, reference, update and
optimiser are those of `GrpoModule`, under the autocast that a training has. The step is one of the
first epoch after its first: optimizer state exists, and no feature of its images is kept. Which
tokens are drawn does not depend on logits: every response gets a length of its own. Of several
processes one is run, and the others send what it sends.

Not here: the device (`vqr1.planning.fake_device`), DeepSpeed and engines of others, what the counts
are compared with (`vqr1.planning.memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.config import PromptConfig, TrainConfig
from vqr1.data.prompts import ResizeRule
from vqr1.device import HALF, passes_in
from vqr1.distributed.sharding import FullySharded
from vqr1.errors import ConfigError
from vqr1.iqa.answers import FreeText
from vqr1.planning.device_counts import DeviceCounts
from vqr1.planning.fake_device import FakeDevice, fake_device, on_device
from vqr1.planning.fake_ranks import fake_ranks
from vqr1.planning.fake_tensor import NAME, DeviceTensor
from vqr1.planning.shape import ModelShape, Work
from vqr1.policy import vision
from vqr1.policy.loading import Policy, prepared, trainable_parameters
from vqr1.policy.sharded_modules import sharded_modules
from vqr1.policy.unwrap import family_of, unwrap
from vqr1.records import PromptBatch, RankingBatch
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.rollout import local
from vqr1.rollout.cuda_graph_decode import WARM_UPS, StaticDecoder
from vqr1.training.build import build_vision_cache
from vqr1.training.dry_run_report import STEP, DryRun
from vqr1.training.stages import grpo, module
from vqr1.training.stages.grpo import GrpoModule
from vqr1.training.stages.grpo_settings import configured
from vqr1.training.task import RANKING, Task
from vqr1.training.validation import Validator, validation_modes


class _Tokenizer:
    """A vocabulary without texts: 1 ends a turn, everything else may be drawn."""

    pad_token_id, eos_token_id = 0, 1
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    all_special_ids: ClassVar[list[int]] = []

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> dict[str, int]:
        return {f"t{number}": number for number in range(self._size)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"t{token}"

    def batch_decode(self, rows: Sequence[Any], **_: Any) -> list[str]:
        return ["" for _ in rows]


class _Varied:
    """Rewards that differ within each group, so that every group is learned from."""

    ranks = False

    def __call__(self, inputs: RewardInputs) -> Tensor:
        device = inputs.scores.device
        numbers = torch.arange(inputs.scores.shape[1], dtype=torch.float32, device=device)
        return numbers.expand_as(inputs.scores)


class _Script:
    """Which tokens are drawn: response k of an image ends after its share of the limit."""

    def __init__(self, limit: int, group: int) -> None:
        shares = [1.0, 0.5, 0.75, 0.25, 0.9, 0.6]
        self._ends = [max(1, int(limit * shares[k % 6])) for k in range(group)]
        self.taken = 0

    def begin(self) -> None:
        """A rollout begins."""
        self.taken = 0

    def tokens(self, rows: Tensor) -> Tensor:
        """Of the live rows [n], whose numbers are known."""
        self.taken += 1
        ends = torch.tensor(self._ends)[rows % len(self._ends)]
        return torch.where(ends <= self.taken, 1, 2)


class _Module(GrpoModule):
    """The step without a trainer around it, phase by phase."""

    counts: DeviceCounts

    def prepare(self) -> None:
        """Make the optimiser and its state."""
        made = self.configure_optimizers()
        self._made, self._plan = made["optimizer"], made["lr_scheduler"]["scheduler"]
        for weight in trainable_parameters(self.model):
            weight.grad = torch.empty_like(weight)
        self._made.step()
        self._made.zero_grad()
        step = self._made.step

        def counted(*args: Any, **options: Any) -> Any:
            with self.counts.during("optimiser"):
                return step(*args, **options)

        self._made.step = counted

    trainer = property(lambda self: SimpleNamespace(optimizers=[self._made]))
    device = property(lambda self: torch.device(NAME))
    loggers = property(lambda self: [])
    global_step = property(lambda self: 0)

    def optimizers(self, *_: Any, **__: Any) -> Any:
        """See Lightning."""
        return self._made

    def lr_schedulers(self) -> Any:
        """See Lightning."""
        return SimpleNamespace(step=lambda: None)

    def manual_backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """See Lightning."""
        loss.backward()

    def log_dict(self, *_: Any, **__: Any) -> None:
        """See Lightning."""

    def _encode_frozen(self, model: Any, prompts: PromptBatch) -> Any:
        with self.counts.during("vision" if model is self.model else "reference"):
            return super()._encode_frozen(model, prompts)

    def _reference_logprobs(self, *args: Any) -> Any:
        with self.counts.during("reference"):
            return super()._reference_logprobs(*args)

    def _update(self, *args: Any) -> Any:
        with self.counts.during("update"):
            return super()._update(*args)

    def _score(self, *args: Any) -> Any:
        with self.counts.during("scoring"):
            return super()._score(*args)


def fake_policy(config: TrainConfig, shape: ModelShape) -> Policy:
    """A policy of a shape on the device, as `load_policy` prepares it."""
    with torch.device("meta"):
        model = shape.family.model_class()._from_config(
            shape.config,
            dtype=getattr(torch, config.model.dtype),
            attn_implementation="sdpa",
        )
    model.image_encoding = shape.family.released_encoding(shape.config)
    checkpointing = config.hardware.gradient_checkpointing
    model = prepared(on_device(model), config.model, gradient_checkpointing=checkpointing)
    processor = SimpleNamespace(tokenizer=_Tokenizer(shape.config.text_config.vocab_size))
    return Policy(on_device(model).eval(), processor, "fake")


def fake_batch(
    policy: Policy, work: Work, rule: ResizeRule, size: tuple[int, int], per_prompt: int
) -> RankingBatch:
    """B prompts with images of a size, as a loader hands them over."""
    core, family = unwrap(policy.model), family_of(policy.model)
    pixels = rule.pixels(Image.new("RGB", size))
    with torch.no_grad():
        shown = pixels.to(NAME)
        (feature,) = family.image_features(core, core.image_encoding, [shown])
    token, count = family.image_token(core.config), feature.shape[0] * per_prompt
    text = max(work.text_tokens, 24)
    ids = torch.tensor([2] * 20 + [token] * count + [2] * (text - 20))
    numbers = range(work.images)
    # Images differ, or they would be one.
    images = tuple(tuple(pixels.clone() for _ in range(per_prompt)) for _ in numbers)
    keys = tuple(tuple(bytes([b, i] * 8) for i in range(per_prompt)) for b in numbers)
    prompts = PromptBatch(tuple(ids.clone() for _ in numbers), images, keys)
    mos = torch.from_numpy(np.linspace(1, 5, work.images, dtype=np.float32))
    names = tuple((f"{b}.png",) for b in numbers)
    return RankingBatch("fake", names, prompts, mos, torch.arange(work.images))


def _counted(counts: DeviceCounts, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        with counts.during(phase):
            return function(*args, **options)

    return run


@contextmanager
def _watched(device: FakeDevice, script: _Script, found: dict[str, int]) -> Iterator[None]:
    """The step's functions count by phase, tokens are the script's, graphs are recorded."""
    counts, draw, decode = device.counts, local.draw, local.LocalEngine._decode

    def drawn(logits: Tensor, noise: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        with counts.during("drawing"):
            tokens, logprobs = draw(logits, noise, *args)
        assert isinstance(tokens, DeviceTensor)
        rows = found_rows(len(tokens))
        tokens.value = script.tokens(rows)
        return tokens, logprobs

    live: dict[str, Tensor] = {}

    def found_rows(count: int) -> Tensor:
        return live["rows"][:count]

    def begun(self: Any, state: Any, run: Any, *args: Any) -> None:
        script.begin()
        live["rows"] = torch.arange(run.tokens.shape[0] * run.tokens.shape[1])
        with counts.during("decoding"):
            decode(self, state, run, *args)

    keep = StaticDecoder.keep

    def kept(self: StaticDecoder, rows: Sequence[int]) -> None:
        live["rows"] = live["rows"][torch.tensor(rows)]
        keep(self, rows)

    def replayed(self: StaticDecoder) -> Tensor:
        found["tokens"] += 1
        if self._shape not in self._graphs:
            found["captures"] += 1
            counts.phases.pop(STEP, None)
            with counts.during("capture"):
                for _ in range(WARM_UPS):
                    self._run_layers(self._fed_tokens)
            with counts.during(STEP):
                self._graphs[self._shape] = (None, self._run_layers(self._fed_tokens))  # type: ignore[assignment]
        counts.phase.launches["replay"] += 1
        return self._graphs[self._shape][1]

    with ExitStack() as stack:
        for owner, name, phase in (
            (vision, "encode_images", "vision"), (grpo, "encode_images", "vision"),
            (module, "encode_images", "vision"), (local, "encode_images", "vision"),
            (local, "read_prompts", "prefill"), (local, "pack_prompts", "prefill"),
        ):  # fmt: skip
            function = _counted(counts, getattr(owner, name), phase)
            stack.enter_context(patch.object(owner, name, function))
        stack.enter_context(patch.object(local, "draw", drawn))
        stack.enter_context(patch.object(local.LocalEngine, "_decode", begun))
        stack.enter_context(patch.object(StaticDecoder, "keep", kept))
        stack.enter_context(patch.object(StaticDecoder, "_replay", replayed))
        yield


def dry_run(
    config: TrainConfig,
    shape: ModelShape,
    work: Work,
    rule: ResizeRule,
    size: tuple[int, int],
) -> DryRun:
    """Take a step on a device that is not there.

    Args:
        config: the training's configuration, of a GPU profile without DeepSpeed.
        shape: its model.
        work: a process's share of a step.
        rule: how images are resized.
        size: width and height of the images.

    Raises:
        ConfigError: a profile or an engine that is not run here.
    """
    if config.hardware.strategy not in ("auto", "fsdp2") or config.rollout.engine != "local":
        raise ConfigError(
            [
                f"hardware.strategy={config.hardware.strategy}, rollout.engine="
                f"{config.rollout.engine}: a dry run is of PyTorch's own strategies and "
                "rollout=local; choose hardware=1gpu, 1gpu_lora or 8gpu_fsdp2"
            ]
        )
    found = {"tokens": 0, "captures": 0}
    script = _Script(work.response, work.group)
    ranks = config.hardware.devices * config.hardware.nodes
    with fake_device() as device, fake_ranks(ranks), _watched(device, script, found):
        policy = fake_policy(config, shape)
        cache = build_vision_cache(config.hardware)
        engine = local.LocalEngine(
            policy.model,
            policy.processor.tokenizer,
            config.rollout.micro_batch_tokens,
            cuda_graph=config.rollout.cuda_graph,
            vision_cache=cache,
        )
        modes = validation_modes(
            config.rollout.sampling, 0, 0, PromptConfig(name="any", text=""), FreeText()
        )
        _Module.counts = device.counts
        step = _Module(
            policy, engine, {RANKING: Task(WeightedRewards({"any": (1.0, _Varied())}), FreeText())},
            Validator(engine, modes), configured(config, total_steps=100), cache,
        )  # fmt: skip
        if config.hardware.strategy == "fsdp2":
            half = config.hardware.precision == HALF
            step.shard(FullySharded(sharded_modules(policy.model), half))
        step.prepare()
        batch = fake_batch(policy, work, rule, size, config.prompt.images)
        device.counts.fresh()
        with device.counts.during("batch"):
            sent = batch.to(NAME)
        passes = passes_in(config.hardware.precision, torch.device(NAME))
        with passes, device.counts.during("step"):
            step.training_step(sent, 0)
        layers = shape.config.text_config.num_hidden_layers
        return DryRun(
            dict(device.counts.phases), found["tokens"], found["captures"], layers, work.images
        )
