r"""DeQA-Score's loss: soft labels over level words, and fidelity between pairs of one set.

For pairs A, B of a batch (arXiv 2501.11561, public code `rating_loss` and `softkl_loss`):

    loss = fidelity + 0.05 sum over A, B of [cross-entropy on the other tokens + KL]

- KL(q || softmax of the whole vocabulary) at the place of the word, q the soft label
  (`vqr1.iqa.levels.soft_labels`), mean over the images of a side;
- the other tokens of the response are those of the word of the label's level: mean over the tokens
  of a side;
- fidelity of p = Phi((s_A - s_B) / sqrt 2), s the expectation over the five words' softmax, and
  g = Phi((MOS_A - MOS_B) / sqrt(var_A + var_B)); mean over the pairs.

Images 0 and 1, 2 and 3, ... of a batch are pairs; batches hold images of one set in drawn order. An
image without a partner adds to the other terms. All means are over the step of all ranks.

The words' log-probabilities come from N responses to each image, which share its prompt: the stem
and each word's first token; that of the label's level is continued to its end.

Not here: cross-entropy alone (`response_targets.py`), scoring (`vqr1.policy.level_score`).

Shape legend: B images, N = 5 words from the highest level to the lowest, C response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vqr1.data.labelled_set import LabelledSet
from vqr1.distributed.collectives import all_reduce_sum
from vqr1.errors import ModelError
from vqr1.iqa.answers import AnswerForm
from vqr1.iqa.levels import level_fidelity_losses, level_kl, level_score, soft_labels
from vqr1.policy.level_score import LevelTokens
from vqr1.records import RankingBatch
from vqr1.training.stages.response_targets import CROSS_ENTROPY, ResponseTokens
from vqr1.training.stages.responses import Edge, label_level, level_words

FIDELITY, LEVEL_KL = "fidelity_loss", "level_kl"


@dataclass(frozen=True)
class SoftLevelTargets:
    """Targets of one step; see `vqr1.training.stages.sft.StepTargets`.

    Attributes:
        tokens: [B, N, C].
        mask: [B, N, C].
        place: token of each response that is the word.
        others: [B, N, C] bool, the tokens with cross-entropy.
        labels: [B, N] float64 soft labels.
        mos: [B] float64.
        std: [B] float64 on the same scale.
        images: [B] images of each image's side (A or B), of all ranks.
        counts: [B] other tokens of its side, likewise.
        pairs: of all ranks.
        weights: by name, factors of the terms.
    """

    tokens: Tensor
    mask: Tensor
    place: int
    others: Tensor
    labels: Tensor
    mos: Tensor
    std: Tensor
    images: Tensor
    counts: Tensor
    pairs: float
    weights: Mapping[str, float]
    together: int = 2

    def terms(self, part: slice, logprobs: Tensor) -> dict[str, Tensor]:
        """See `StepTargets.terms`."""

        def own(values: Tensor) -> Tensor:
            return values[part].to(logprobs)

        levels = logprobs[:, :, self.place]
        spoken = (own(self.others) * logprobs).sum(dim=(1, 2))
        found = {
            CROSS_ENTROPY: -(spoken / own(self.counts)).sum(),
            LEVEL_KL: (level_kl(levels, own(self.labels)) / own(self.images)).sum(),
            FIDELITY: logprobs.new_zeros(()),
        }
        count = len(levels) // 2 * 2
        if count:
            score, mos, std = level_score(levels[:count]), own(self.mos), own(self.std)
            found[FIDELITY] = (
                level_fidelity_losses(
                    score[0::2],
                    score[1::2],
                    (mos[0:count:2], mos[1:count:2]),
                    (std[0:count:2], std[1:count:2]),
                ).sum()
                / self.pairs
            )
        return found


@dataclass(frozen=True)
class SoftLevels:
    """Objective of soft labels.

    Attributes:
        sets: the data sets by name; all training images have a MOS and a standard deviation.
        form: five words of levels, without reasoning.
        words: where the tokenizer has them.
        encode: tokens of responses.
        edge: level of a MOS between two bins.
        density: how levels get their share of the label (`vqr1.iqa.levels.level_density`).
        label_weight: factor of cross-entropy and KL.
        fidelity_weight: factor of the fidelity.

    Raises:
        ModelError: the tokenizer joins a word with what follows it.
    """

    sets: Mapping[str, LabelledSet]
    form: AnswerForm
    words: LevelTokens
    encode: ResponseTokens
    edge: Edge
    density: str
    label_weight: float
    fidelity_weight: float

    def __post_init__(self) -> None:
        # Found out now, and by all ranks.
        for level in range(5):
            self._responses(level)

    def targets(self, batch: RankingBatch) -> SoftLevelTargets:
        """See `vqr1.training.stages.sft.Objective`."""
        labelled, rows = self.sets[batch.dataset], batch.index.tolist()
        table, place = labelled.table, len(self.words.stem)
        levels = [label_level(labelled, row, 5, self.edge) for row in rows]
        tokens, mask = self.encode.padded([self._responses(level) for level in levels])
        # The level's own response alone has more than stem and word.
        own = torch.zeros(mask.shape, dtype=torch.bool)
        for b, level in enumerate(levels):
            own[b, 4 - level] = True
        others = own & mask
        others[:, :, place] = False
        mos = torch.tensor(table["mos"].to_numpy(float)[rows], dtype=torch.float64)
        std = torch.tensor(table["std_mos"].to_numpy(float)[rows], dtype=torch.float64)
        first = torch.arange(len(rows)) % 2 == 0
        images, counts, pairs = self._step_counts(first, others, batch.mos.device)
        return SoftLevelTargets(
            tokens,
            mask,
            place,
            others,
            torch.stack([self._label(labelled, row) for row in rows]),
            mos,
            std,
            images,
            counts,
            pairs,
            {
                CROSS_ENTROPY: self.label_weight,
                LEVEL_KL: self.label_weight,
                FIDELITY: self.fidelity_weight,
            },
        )

    def _label(self, labelled: LabelledSet, row: int) -> Tensor:
        """[5] the soft label of an image, highest level first; scaled by the whole set's range."""
        mos, std = (labelled.table[name].to_numpy(float) for name in ("mos", "std_mos"))
        low, width = float(mos.min()), float(mos.max() - mos.min())
        mean = 4 * (float(mos[row]) - low) / width + 1
        return torch.from_numpy(soft_labels(mean, 4 * float(std[row]) / width, kind=self.density))

    def _responses(self, level: int) -> list[list[int]]:
        """Tokens of stem and each word, highest first; those of the level up to the turn's end."""
        stem = list(self.words.stem)
        order = sorted(range(5), key=lambda n: -self.words.values[n])
        responses = [[*stem, self.words.words[n]] for n in order]
        text = self.form.response_of(level_words(self.form)[level])
        whole = self.encode(text or "")
        if whole[: len(stem) + 1] != responses[4 - level]:
            raise ModelError(
                f"stage.target=soft_levels: this model's tokenizer joins the word of {text!r} with "
                "what follows it; choose another answer.stem, or other words"
            )
        responses[4 - level] = whole
        return responses

    @staticmethod
    def _step_counts(
        first: Tensor, others: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, float]:
        """[B] images and other tokens of each image's side, and pairs, of all ranks."""
        tokens = others.sum(dim=(1, 2)).double()
        own = torch.stack([first.sum(), (~first).sum(), tokens[first].sum(), tokens[~first].sum()])
        images, partners, spoken, answered = all_reduce_sum(own.double().to(device)).tolist()
        return (
            torch.where(first, images, partners).double(),
            torch.where(first, spoken, answered).double(),
            partners,
        )
