"""Warm start of the tiny policy: supervised fine-tuning on synthetic pairs.

What it does: makes a policy that stands where a pretrained vision-language model stands before
reinforcement learning: it sees damage and names it, mostly keeps the asked form, and gives scores
that follow quality only faintly (`tools.tiny_policy.synthetic`).

The patch embedding starts as a cosine basis instead of noise: blur, noise, blocks and contrast are
statements about spatial frequencies. Then two stages. First the vision tower alone learns to report
type and MOS through two linear heads that are thrown away at the end. Then the whole model
learns the answers, several to each image with image and prompt computed once; the heads stay as a
second loss so that the tower does not forget. Matrices are updated by Muon (orthogonalised
momentum), which at this size gets further in the same number of steps than AdamW; everything else
by AdamW.

Not here: reinforcement learning, and any predictions of the result
(`tools/build_tiny_policy.py` measures it).

Shape legend: n images of a batch; K answers to each; D width of the text model; 64 patches and 16
image tokens of each 112 x 112 image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from tools.tiny_policy.factory import VISION_ID
from tools.tiny_policy.synthetic import CLEAN, AnswerStyle, Pool, response
from vqr1.data.demo import CROP, stream
from vqr1.policy.families._qwen_images import PATCH, TEMPORAL
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch

PROMPT_SHARES = {"thinking": 0.7, "non_thinking": 0.2, "describe": 0.1}
"""How often each prompt is practised."""

WARM_UP = 50
"""Most steps over which the learning rate rises."""

PATCH_SCALE = 4.0
"""Factor on the unit-norm cosine filters; brings features to about the size of random filters'."""


@dataclass(frozen=True)
class WarmStartSettings:
    """Numbers of the recipe.

    Attributes:
        pool: synthetic images, made once.
        vision_steps: optimiser steps of the first stage.
        vision_batch: images in each.
        answer_steps: optimiser steps of the second stage.
        answer_batch: images in each.
        answers: K, answers to each image.
        vision_matrix_lr: Muon's peak learning rate in the first stage.
        matrix_lr: Muon's peak learning rate in the second stage.
        lr: AdamW's peak learning rate.
        weight_decay: decoupled weight decay.
        head_weight: weight of the throw-away heads' loss in the second stage.
        style: how answers err.
        seed: names every random stream.
    """

    pool: int = 12000
    vision_steps: int = 900
    vision_batch: int = 48
    answer_steps: int = 500
    answer_batch: int = 24
    answers: int = 3
    vision_matrix_lr: float = 0.02
    matrix_lr: float = 0.01
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    head_weight: float = 0.5
    style: AnswerStyle = field(default_factory=AnswerStyle)
    seed: int = 1


class QualityHeads(nn.Module):
    """Type and MOS from image tokens, by one linear layer; thrown away after the warm start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, CLEAN + 2)

    def forward(self, features: VisionFeatures) -> tuple[Tensor, Tensor]:
        """Type logits [n, CLEAN + 1] and MOS [n] of images of equal size."""
        tokens = torch.stack(features.flat)  # [n, 16, D]
        output = self.linear(torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=-1))
        return output[:, :-1], output[:, -1] + 3.0

    def loss(self, features: VisionFeatures, types: Tensor, mos: Tensor) -> Tensor:
        """Cross entropy of the type plus twice the smooth L1 distance of the MOS."""
        logits, guess = self(features)
        return F.cross_entropy(logits, types) + 2.0 * F.smooth_l1_loss(guess, mos)


class Schedule:
    """Muon for hidden matrices, AdamW for the rest, one warm-up and cosine for both."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        steps: int,
        matrix_lr: float,
        lr: float,
        weight_decay: float,
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            hidden = parameter.ndim == 2 and "embed" not in name and "head" not in name
            (matrices if hidden else others).append(parameter)
        self._parameters = matrices + others
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98)),
        ]

        def factor(step: int) -> float:
            cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
            return min((step + 1) / min(WARM_UP, 1 + steps // 4), 0.05 + 0.95 * cosine)

        self._schedulers = [LambdaLR(optimizer, factor) for optimizer in self._optimizers]

    def step(self) -> None:
        """Applies and clears the gradients."""
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)


class Batches:
    """Random images of the pool, mirrored and turned; none of that changes the damage."""

    def __init__(self, pool: Pool, seed: int, stage: str) -> None:
        self._pixels = torch.from_numpy(pool.pixels)
        self._types = torch.from_numpy(pool.types)
        self._levels = torch.from_numpy(pool.levels)
        self._mos = torch.from_numpy(pool.mos())
        self.rng = stream("warm start", seed, stage)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels [n, 112, 112, 3] uint8, types [n], levels [n], MOS [n]."""
        rows = torch.from_numpy(self.rng.integers(len(self._pixels), size=count))
        pixels = self._pixels[rows]
        across, down, turn = self.rng.random(3) < 0.5
        if across:
            pixels = pixels.flip(2)
        if down:
            pixels = pixels.flip(1)
        if turn:
            pixels = pixels.transpose(1, 2)
        return pixels, self._types[rows], self._levels[rows], self._mos[rows]


def cosine_patches(width: int) -> Tensor:
    """Patch filters [width, 3, 2, 14, 14]: three quarters brightness, one quarter colour.

    Filter (u, v) is the outer product of the unit-norm cosines cos(pi (x + 1/2) u / 14), split
    evenly between the patch's two equal frames. Brightness takes the lowest frequencies and an
    even choice of the higher ones; the two colour axes (red - green, yellow - blue) take the
    lowest.
    """
    grid = torch.arange(PATCH, dtype=torch.float32)
    waves = torch.cos(torch.pi * (grid + 0.5) * grid[:, None] / PATCH)
    waves = F.normalize(waves, dim=1)
    order = sorted(((u, v) for u in range(PATCH) for v in range(PATCH)), key=lambda f: (sum(f), f))
    colours = width // 8
    brightness = width - 2 * colours
    low = brightness * 3 // 8
    rest = np.linspace(low, len(order) - 1, brightness - low).round().astype(int)
    axes = F.normalize(torch.tensor([[0.299, 0.587, 0.114], [1, -1, 0], [1, 1, -2]]), dim=1)
    chosen = [(0, order[i]) for i in (*range(low), *rest)]
    chosen += [(axis, order[i]) for i in range(colours) for axis in (1, 2)]
    filters = [
        axes[axis, :, None, None] * torch.outer(waves[u], waves[v]) for axis, (u, v) in chosen
    ]
    return torch.stack(filters)[:, :, None].expand(-1, -1, TEMPORAL, -1, -1) / TEMPORAL


def train_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: QualityHeads,
    pool: Pool,
    settings: WarmStartSettings,
    progress: Progress,
) -> None:
    """First stage: vision tower and heads learn type and MOS."""
    named = [*model.model.visual.named_parameters(), *heads.named_parameters("head")]
    schedule = Schedule(
        named,
        settings.vision_steps,
        settings.vision_matrix_lr,
        settings.lr,
        settings.weight_decay,
    )
    batches = Batches(pool, settings.seed, "vision")
    none = tuple(torch.empty(0, dtype=torch.int64) for _ in range(settings.vision_batch))
    task = progress.add_task("vision tower", total=settings.vision_steps)
    for _ in range(settings.vision_steps):
        pixels, types, _, mos = batches.draw(settings.vision_batch)
        batch = PromptBatch(none, tuple((image,) for image in pixels))
        loss = heads.loss(encode_images(model, batch), types, mos)
        loss.backward()
        schedule.step()
        progress.update(task, advance=1, description=f"vision tower, loss {loss.item():.2f}")


class AnswerWriter:
    """Tokenised prompts and synthetic answers."""

    def __init__(
        self,
        processor: Qwen2_5_VLProcessor,
        prompts: Mapping[str, str],
        style: AnswerStyle,
        rng: np.random.Generator,
    ) -> None:
        image = torch.zeros(CROP, CROP, 3, dtype=torch.uint8)
        self._prompt_ids = {}
        for name, text in prompts.items():
            builder = PromptBuilder(FAMILY, processor, text, CROP**2, CROP**2, vision_id=VISION_ID)
            self._prompt_ids[name] = builder.token_ids(image)
        self._tokenizer = processor.tokenizer
        self._style = style
        self._rng = rng

    def write(
        self, types: Tensor, levels: Tensor, answers: int
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Prompts of n images; tokens and mask [n, K, C] of their answers, end of turn included."""
        names = list(PROMPT_SHARES)
        chosen = self._rng.choice(names, size=len(types), p=list(PROMPT_SHARES.values()))
        texts = [
            response(str(name), kind, level, self._style, self._rng) + "<|im_end|>"
            for name, kind, level in zip(chosen, types.tolist(), levels.tolist(), strict=True)
            for _ in range(answers)
        ]
        encoded = self._tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        shape = (len(types), answers, -1)
        ids = tuple(self._prompt_ids[str(name)] for name in chosen)
        mask = encoded["attention_mask"].reshape(shape).bool()
        return ids, encoded["input_ids"].reshape(shape), mask


def train_answers(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: QualityHeads,
    processor: Qwen2_5_VLProcessor,
    prompts: Mapping[str, str],
    pool: Pool,
    settings: WarmStartSettings,
    progress: Progress,
) -> None:
    """Second stage: the whole model learns the answers, the heads continue."""
    schedule = Schedule(
        [*model.named_parameters(), *heads.named_parameters("head")],
        settings.answer_steps,
        settings.matrix_lr,
        settings.lr,
        settings.weight_decay,
    )
    batches = Batches(pool, settings.seed, "answers")
    writer = AnswerWriter(processor, prompts, settings.style, batches.rng)
    task = progress.add_task("answers", total=settings.answer_steps)
    for _ in range(settings.answer_steps):
        pixels, types, levels, mos = batches.draw(settings.answer_batch)
        ids, tokens, mask = writer.write(types, levels, settings.answers)
        batch = PromptBatch(ids, tuple((image,) for image in pixels))
        features = encode_images(model, batch)
        logprobs = response_logprobs(model, batch, tokens, mask, vision=features).logprobs
        loss = -logprobs.sum() / mask.sum()
        (loss + settings.head_weight * heads.loss(features, types, mos)).backward()
        schedule.step()
        progress.update(task, advance=1, description=f"answers, loss {loss.item():.2f}")


def warm_start(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    prompts: Mapping[str, str],
    pool: Pool,
    settings: WarmStartSettings,
    progress: Progress,
) -> None:
    """Trains a fresh tiny policy in place.

    Args:
        model: random weights (`tools.tiny_policy.factory.random_tiny_model`).
        processor: its processor.
        prompts: the published texts by name: thinking, non_thinking, describe.
        pool: synthetic images (`tools.tiny_policy.synthetic.make_pool`).
        settings: the recipe.
        progress: receives one bar a stage.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        heads = QualityHeads(model.config.text_config.hidden_size)
    with torch.no_grad():
        patches = model.model.visual.patch_embed.proj.weight
        patches.copy_(PATCH_SCALE * cosine_patches(len(patches)))
    model.train()
    train_vision(model, heads, pool, settings, progress)
    train_answers(model, heads, processor, prompts, pool, settings, progress)
    model.eval()
