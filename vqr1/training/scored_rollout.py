"""From sampled texts to rewards and advantages: the middle of the ranking step.

Each process computes the rewards that compare nothing, from texts and log-probabilities where they
ask for them. It sends them, and what its answers state, as a small table of numbers, and ranks the
images of all processes (`pool=global`), of its own (`pool=rank`), or the step's images N by N in
the order of the sampler (`pool=N`), which deals them to the processes in turn: the pools are the
same for any number of processes. The published training compares the 8 images of one GPU.

Not here: the table (`group_answers.py`), the rewards (`vqr1.rewards`), advantages.

Shape legend, beside that of `vqr1.records`: G images of all processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vqr1.distributed.collectives import (
    all_gather_rows,
    all_reduce_sum,
    get_rank,
    raise_on_all_ranks,
)
from vqr1.errors import ConfigError, DataError
from vqr1.iqa.answers import ASKED_RANGE, AnswerForm, ScoreRange
from vqr1.iqa.preferences import StatedPairs
from vqr1.records import BatchLabels, Rollout, ScoredRollout
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.rewards.scale import to_reward_scale
from vqr1.training.advantages.base import (
    AdvantageInputs,
    AdvantageRule,
    checked_advantages,
    fields_of,
    trained_groups,
)
from vqr1.training.advantages.group_normalised import GroupNormalised
from vqr1.training.group_answers import (
    GroupAnswers,
    label_number,
    own_details,
    read_answers,
    reward_inputs,
    stated_preferences,
)

Pool = Literal["global", "rank"] | int

_PUBLISHED = GroupNormalised()


def own_rewards(rewards: WeightedRewards, inputs: RewardInputs) -> dict[str, Tensor]:
    """[B, K] of each term that compares nothing, by name.

    Raises:
        ConfigError: a term that needs texts or log-probabilities, from an engine without them, or
            as `checked_reward`.
        RunFaultError: a reward is not finite.
    """
    if inputs.details.logprobs is None and rewards.needing("logprobs"):
        raise ConfigError(
            [
                f"reward.terms.{name}: needs sampler log-probabilities, and this engine "
                "(rollout.engine) reports none; choose rollout=local, or another reward"
                for name in rewards.needing("logprobs")
            ]
        )
    return rewards.of_kind(inputs, ranks=False)


def pools_of(ranks: Sequence[Tensor], pool: Pool) -> list[Tensor]:
    """The images that are compared with each other, in the order of all processes' images.

    Args:
        ranks: `GroupAnswers.table` of every process, by rank.
        pool: all, those of each process, or N at a time. N divides the images of a step; a set
            with fewer images gives a last pool of what is left over, and a single image joins the
            pool before it, since alone it could be compared with none.
    """
    if pool == "rank":
        return list(ranks)
    whole = torch.cat(list(ranks))
    size = len(whole) if pool == "global" else int(pool)
    tables = list(whole.split(size))
    if len(tables) > 1 and len(tables[-1]) == 1:
        tables[-2:] = [torch.cat(tables[-2:])]
    return tables


def score_rollout(
    rollout: Rollout,
    mos: Tensor,
    rewards: WeightedRewards,
    *,
    answer: AnswerForm,
    advantage: AdvantageRule = _PUBLISHED,
    dataset: str = "",
    pool: Pool = "global",
    mos_range: ScoreRange = ASKED_RANGE,
    images: Tensor | None = None,
    labels: BatchLabels | None = None,
    pairs: StatedPairs | None = None,
) -> tuple[ScoredRollout, dict[str, float]]:
    """Parse the answers, compare them in their pool, and reward them.

    Args:
        rollout: K responses to each of this process's B images of one data set.
        mos: [B] MOS on `mos_range`.
        rewards: the reward terms.
        answer: how a response has to be written, and how it is read.
        advantage: the rule from the rewards of all ranks to advantages.
        dataset: name of the one set, the same in every process.
        pool: the images that are compared: of all processes, of each process on its own, or so
            many of all processes' at a time (see `pools_of`).
        mos_range: scale of the MOS: [1, 5], or the asked scale where MOS are as published.
        images: [B] row of each image in its set's label table, by which copies of an image are
            known in all processes; None: all images differ.
        labels: what else the labels state of the images.
        pairs: stated preferences between images of the set, by row, where they are learnt from.

    Returns:
        This process's B groups, and the metrics (`rollout_metrics`) of the groups of all processes.

    Raises:
        ConfigError: a reward term or the advantage rule gave no such floating-point tensor.
        RunFaultError: a reward or an advantage is not finite.
        DataError: another process ranks another data set.
    """
    check_texts(rollout)
    parsed = [[answer.parse(text) for text in texts] for texts in rollout.texts]
    mine = read_answers(parsed, rollout, mos, dataset, images, labels, answer.ratings)
    details = own_details(parsed, rollout, labels)
    inputs = reward_inputs(mine, answer.score_range, mos_range, details)
    own_terms = raise_on_all_ranks(lambda: own_rewards(rewards, inputs))
    numbers = mine.table()
    gathered = all_gather_rows(torch.cat([numbers, *own_terms.values()], dim=1))
    ranks = [table[:, : numbers.shape[1]] for table in gathered]
    whole = mine.from_table(torch.cat(ranks))
    check_one_dataset(whole.dataset, dataset)
    columns = torch.cat(gathered)[:, numbers.shape[1] :].chunk(max(len(own_terms), 1), dim=1)
    pools = [mine.from_table(table) for table in pools_of(ranks, pool)]
    stated = None if pairs is None else [stated_preferences(p, pairs) for p in pools]
    found = dict(zip(own_terms, columns, strict=False)) | _ranked(
        pools, rewards, answer.score_range, mos_range, stated
    )
    terms = {name: found[name] for name in rewards.terms}
    total = rewards.total(terms)
    scores = to_reward_scale(whole.scores, answer.score_range)
    given = AdvantageInputs(total, terms, whole.valid, whole.lengths, scores, rewards.weights)
    advantages = checked_advantages(advantage(given), total, fields_of(advantage))
    has_variance = trained_groups(advantage, total, advantages)
    own = _own_rows(ranks)
    scored = ScoredRollout(
        rollout=rollout,
        scores=mine.scores,
        valid=mine.valid,
        format_compliant=mine.format_compliant,
        rewards=total[own],
        terms={name: term[own] for name, term in terms.items()},
        advantages=advantages[own],
        has_variance=has_variance[own],
    )
    metrics = rollout_metrics(whole, total, terms, has_variance, scored=answer.scored)
    return scored, metrics if stated is None else metrics | pair_metrics(stated)


def check_texts(rollout: Rollout) -> None:
    """Check that every response has a text, which scores and rewards are read from.

    Raises:
        ConfigError: the engine gives none.
    """
    if any(len(texts) != rollout.mask.shape[1] for texts in rollout.texts) or not rollout.texts:
        raise ConfigError(
            ["rollout.engine: this engine gives no texts of its responses, and scores and rewards "
             "are read from them; choose rollout=local"]
        )  # fmt: skip


def _ranked(
    pools: Sequence[GroupAnswers],
    rewards: WeightedRewards,
    score_range: ScoreRange,
    mos_range: ScoreRange,
    stated: Sequence[Tensor] | None,
) -> dict[str, Tensor]:
    """[G, K] of each term that compares images, by name."""
    if not rewards.ranks:
        return {}
    known: Sequence[Tensor | None] = [None] * len(pools) if stated is None else stated
    parts = [
        rewards.of_kind(
            reward_inputs(answers, score_range, mos_range, preferences=preferences), ranks=True
        )
        for answers, preferences in zip(pools, known, strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _own_rows(ranks: Sequence[Tensor]) -> slice:
    start = sum(len(table) for table in ranks[: get_rank()])
    return slice(start, start + len(ranks[get_rank()]))


def rollout_metrics(
    answers: GroupAnswers,
    total: Tensor,
    terms: dict[str, Tensor],
    has_variance: Tensor,
    *,
    scored: bool = True,
) -> dict[str, float]:
    """Metrics of one step; each with its denominator.

    Args:
        answers: G groups of K answers.
        total: [G, K] rewards.
        terms: each term's [G, K] reward by name.
        has_variance: [G] bool, the group's rewards differ.
        scored: answers state scores; False excludes the metrics of these.

    Returns:
        `reward/total` and `reward/<term>`: mean over all G x K responses;
        `invalid_rate`: answers without a score / responses;
        `format_compliance_rate`: format-compliant responses / responses;
        `truncated_rate`: responses cut by the length limit / responses;
        `zero_variance_rate`: groups whose rewards do not differ / groups; of these, so that the
        three add up to it, `zero_variance/no_score`: groups without a single score / groups,
        `zero_variance/equal_scores`: groups whose valid scores are all equal / groups,
        `zero_variance/equal_rewards`: groups whose scores differ, but not their rewards / groups;
        `response_length`: mean tokens of a response;
        `score_mean`: mean of all valid scores; `score_std`: mean over groups with two or more
        valid scores of their unbiased standard deviation. Either is absent where it is undefined.
    """
    metrics = {f"reward/{name}": term.mean() for name, term in terms.items()}
    metrics |= {
        "reward/total": total.mean(),
        "format_compliance_rate": answers.format_compliant.float().mean(),
        "truncated_rate": 1.0 - answers.finished.float().mean(),
        "zero_variance_rate": 1.0 - has_variance.float().mean(),
        "response_length": answers.lengths.float().mean(),
    }
    if scored:
        metrics |= _score_metrics(answers) | _zero_variance_causes(answers, has_variance)
    # Asked for together: each question waits for the device.
    values = torch.stack([value.double() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))


def _score_metrics(answers: GroupAnswers) -> dict[str, Tensor]:
    """Those of `rollout_metrics` that are about scores."""
    valid = answers.valid
    valid_count = valid.sum(dim=1)
    filled = torch.where(valid, answers.scores, torch.zeros_like(answers.scores))
    mean = filled.sum(dim=1, keepdim=True) / valid_count.clamp_min(1)[:, None]
    squares = torch.where(valid, (filled - mean) ** 2, torch.zeros_like(filled)).sum(dim=1)
    std = (squares / (valid_count - 1).clamp_min(1)).sqrt()[valid_count >= 2]
    metrics = {"invalid_rate": 1.0 - valid.float().mean()}
    if valid_count.sum() > 0:
        metrics["score_mean"] = filled.sum() / valid_count.sum()
    if len(std):
        metrics["score_std"] = std.mean()
    return metrics


def pair_metrics(stated: Sequence[Tensor]) -> dict[str, float]:
    """Metrics of a step that learns from pairs, of its pools' [B, B] stated preferences.

    Returns:
        `unpaired_rate`: images without a stated pair in their pool, which earn nothing by
        comparison / images; `pairs_per_image`: mean stated pairs of an image in its pool.
    """
    partners = torch.cat([torch.isfinite(block).sum(dim=1) for block in stated]).float()
    return {
        "unpaired_rate": float((partners == 0).float().mean()),
        "pairs_per_image": float(partners.mean()),
    }


def _zero_variance_causes(answers: GroupAnswers, has_variance: Tensor) -> dict[str, Tensor]:
    """Shares of groups whose rewards do not differ, by what their scores are like."""
    valid = answers.valid
    highest = answers.scores.masked_fill(~valid, -math.inf).amax(dim=1)
    lowest = answers.scores.masked_fill(~valid, math.inf).amin(dim=1)
    kinds = {
        "no_score": ~valid.any(dim=1),
        "equal_scores": highest == lowest,
        "equal_rewards": highest > lowest,
    }
    return {
        f"zero_variance/{name}": (kind & ~has_variance).float().mean()
        for name, kind in kinds.items()
    }


def sampled_entropy(rollout: Rollout) -> dict[str, float]:
    """`entropy`: mean negative log-probability of all processes' sampled tokens, in nats.

    Its expectation is the entropy of the distribution that a token is drawn from (where top-k and
    top-p cut nothing off). Empty where the engine reports no log-probabilities.
    """
    if rollout.logprobs is None:
        return {}
    surprise = -(rollout.logprobs * rollout.mask).sum()
    total, tokens = all_reduce_sum(torch.stack([surprise, rollout.mask.sum().float()])).unbind()
    return {"entropy": float(total / tokens.clamp_min(1))}


def check_one_dataset(numbers: Tensor, name: str) -> None:
    """Check that all rows of a pool are of one data set.

    Args:
        numbers: [G] `label_number` of each row's data set.
        name: the data set of the rows of this rank.

    Raises:
        DataError: another rank has images of another set.
    """
    others = int((numbers != label_number(name)).sum())
    if others:
        raise DataError(
            f"dataset: {others} of the {len(numbers)} images of this step are not of {name} but "
            "of another set; every process must read the same sets with the same seed"
        )
