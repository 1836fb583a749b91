"""`target=self_vote`: the policy votes on random pairs of training images, before it is trained.

EvoQuality (arXiv 2509.25787): the majority of K comparisons of a pair gives its preference, 1, 1/2
or 0, and the training earns by these preferences as by stated ones (`target=pairs`). No MOS takes
part: how often votes agree with the order of the MOS is logged, for evaluation only.

The run's folder keeps what was voted: `votes/SET/N.jsonl` as it comes (a run that is stopped
resumes after the last file), `votes/SET/settings.json` with what decides these votes (a run that is
resumed with others votes again), and `votes/SET.csv`, a file of preferences (`dataset.pairs`) that
training reads. Votes depend on the seed, the weights at the start and the images, not on the number
of processes: each takes every W-th file.

Not here: which pairs (`vqr1.data.pair_training`), what a majority is (`vqr1.iqa.votes`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from vqr1.config import DatasetConfig, TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.images import load_image
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.pair_training import read_votes, voted
from vqr1.device import passes_in
from vqr1.distributed.collectives import (
    broadcast_from_rank0,
    gather_objects_to_rank0,
    get_rank,
    get_world_size,
)
from vqr1.distributed.stop_requests import Looks, StopRequests
from vqr1.durable import make_folder, write_file
from vqr1.errors import DataError
from vqr1.iqa.answers import form_after
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preferences import IntArray, StatedPairs
from vqr1.iqa.votes import majority_preference, order_agreement, stated_index, votes_of_scores
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilder, load_prompts
from vqr1.policy.vision import configuration_text, weights_digest
from vqr1.progress import progress_bar
from vqr1.records import PromptBatch
from vqr1.rollout.engine import SamplingEngine
from vqr1.rollout.local import LocalEngine
from vqr1.tracking import RunLog
from vqr1.training.asked import differing, what_decides
from vqr1.training.build import build_vision_cache
from vqr1.training.step import step_seed

logger = logging.getLogger(__name__)

FOLDER = "votes"
SETTINGS = "settings.json"
_PROMPTS = 64
"""Prompts that are answered together, and written together."""
_ATTEMPT = 1000
"""Apart from the samples of a step, which are drawn at most a hundred times again."""

Record = dict[str, Any]


def cast_votes(
    config: TrainConfig, data: RankingDataModule, policy: Policy, run_log: RunLog,
    stops: StopRequests,
) -> None:  # fmt: skip
    """With `target=self_vote`, let the policy vote, once in a run, for the training data.

    Raises:
        DataError: no vote on a set could be read, all its pairs are ties, or an image does not
            decode.
        Interrupted: a signal came; what was voted is kept.
    """
    if config.target != "self_vote":
        return
    settings = _settings(config, data, policy)
    device = next(policy.model.parameters()).device
    for name, labelled in data.sets.items():
        drawn, file = data.training_pairs[name], run_log.run_dir / FOLDER / f"{name}.csv"
        broadcast_from_rank0(partial(_keep_only, settings, file))
        if not broadcast_from_rank0(file.is_file):
            ballot = _ballot(config, data.prompt_text, labelled, drawn.stated, policy)
            with passes_in(config.hardware.precision, device):
                records = _collect(ballot, file.with_suffix(""), f"votes on {name}", stops)
            broadcast_from_rank0(partial(_write, ballot, records, file, run_log, config))
        stated = broadcast_from_rank0(partial(read_votes, file, labelled))
        data.learn_from(name, voted(drawn, stated, labelled))


def _settings(config: TrainConfig, data: RankingDataModule, policy: Policy) -> dict[str, Any]:
    """What decides the votes, as plain values."""
    return what_decides(
        config,
        data,
        weights=weights_digest(policy.model, configuration_text(policy.model, text_model=True)),
        votes=config.votes,
        sampling=config.rollout.sampling,
        form=config.answer.form,
    )


def _keep_only(settings: Mapping[str, Any], file: Path) -> None:
    """Remove the votes that were cast by other settings, and keep those of the next ones.

    Finished preferences of an earlier version have no settings, and stay.

    Args:
        settings: of the votes that are to be cast.
        file: the preferences; the folder of its name has the votes.
    """
    folder, kept = file.with_suffix(""), _kept_settings(file.with_suffix("") / SETTINGS)
    other = [] if kept is None else differing(kept, settings)
    if other:
        logger.warning("%s: votes of another %s, cast again", folder, ", ".join(other))
        file.unlink(missing_ok=True)
    if kept is None or other:
        for part in folder.glob("*.jsonl"):
            part.unlink()
    make_folder(folder)
    write_file(folder / SETTINGS, json.dumps(settings))


def _kept_settings(file: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


@dataclass(frozen=True)
class Ballot:
    """What the policy is asked about one set.

    Attributes:
        labelled: the set.
        pairs: the pairs to be voted on.
        items: what is asked about, in order: rows of images, or of pairs of images.
        size: items that are asked together.
        ask: records of some items.
        count: votes of each pair, from the records of all items: [m, 4] for the first image, for
            the second, for neither, and not to be read.
    """

    labelled: LabelledSet
    pairs: StatedPairs
    items: Sequence[tuple[int, ...]]
    size: int
    ask: Callable[[Sequence[tuple[int, ...]]], list[Record]]
    count: Callable[[list[Record]], IntArray]

    @property
    def parts(self) -> list[Sequence[tuple[int, ...]]]:
        """The items in the runs that are asked together."""
        starts = range(0, len(self.items), self.size)
        return [self.items[first : first + self.size] for first in starts]


def _ballot(
    config: TrainConfig, prompt_text: str, labelled: LabelledSet, pairs: StatedPairs, policy: Policy
) -> Ballot:
    engine = LocalEngine(
        policy.model,
        policy.processor.tokenizer,
        config.rollout.micro_batch_tokens,
        cuda_graph=config.rollout.cuda_graph,
        vision_cache=build_vision_cache(config.hardware),
    )
    if config.votes.by == "scores":
        scores = _Scores(config, prompt_text, labelled, engine)
        rows = np.union1d(pairs.first, pairs.second).tolist()
        items: list[tuple[int, ...]] = [(row,) for row in rows]
        return Ballot(
            labelled, pairs, items, _PROMPTS, scores.ask, lambda found: scores.count(pairs, found)
        )
    comparisons = _Comparisons(config, labelled, engine)
    items = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    return Ballot(labelled, pairs, items, _PROMPTS // 2, comparisons.ask, comparisons.count)


class _Scores:
    """K sampled scores of each image, by the prompt and the answer form of the training."""

    def __init__(
        self, config: TrainConfig, prompt_text: str, labelled: LabelledSet, engine: SamplingEngine
    ) -> None:
        self.labelled, self.engine, self.k = labelled, engine, config.votes.count
        self.form = form_after(config.answer.form, prompt_text)
        self.sampling = config.rollout.sampling.ending_with(self.form.closing)
        self.seed = step_seed(config.seed, 0, _ATTEMPT)
        self.prompts = load_prompts(config.model, config.prompt)

    def ask(self, items: Sequence[tuple[int, ...]]) -> list[Record]:
        """`{"row", "scores"}` of each image that decodes; a score is null where there is none."""
        paths = {item: self.labelled.image_paths(item[0]) for item in items}
        built, shown = _prompts(self.prompts, self.labelled.config, paths)
        if not shown:
            return []
        rollout = self.engine.sample(
            built, group_size=self.k, sampling=self.sampling, seed=self.seed
        )
        return [
            {"row": row, "scores": [self.form.parse(text).score for text in texts]}
            for (row,), texts in zip(shown, rollout.texts, strict=True)
        ]

    def count(self, pairs: StatedPairs, records: list[Record]) -> IntArray:
        """See `Ballot.count`."""
        scores = {r["row"]: [s for s in r["scores"] if s is not None] for r in records}
        found = []
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            votes = votes_of_scores(scores.get(i, []), scores.get(j, []))
            found.append((*votes, self.k**2 - sum(votes)))
        return np.array(found)


class _Comparisons:
    """K comparisons of each pair, half in each order."""

    def __init__(self, config: TrainConfig, labelled: LabelledSet, engine: SamplingEngine) -> None:
        self.labelled, self.engine, self.k = labelled, engine, config.votes.count
        sampling = config.rollout.sampling
        self.sampling = replace(sampling, stop="eos") if sampling.stop == "answer" else sampling
        self.seed = step_seed(config.seed, 0, _ATTEMPT)
        self.prompts = load_prompts(config.model, config.votes.comparison_prompt(config.prompt))

    def ask(self, items: Sequence[tuple[int, ...]]) -> list[Record]:
        """`{"pair", "votes"}` of each pair: as `Ballot.count` has them."""
        both: list[tuple[int, ...]] = [order for i, j in items for order in ((i, j), (j, i))]
        paths = {order: [self.labelled.image_path(row) for row in order] for order in both}
        built, shown = _prompts(self.prompts, self.labelled.config, paths)
        votes = {item: [0, 0, 0, 0] for item in items}
        if shown:
            rollout = self.engine.sample(
                built, group_size=self.k // 2, sampling=self.sampling, seed=self.seed
            )
            for order, texts in zip(shown, rollout.texts, strict=True):
                turned = order not in votes
                own = votes[order[::-1] if turned else order]
                for text in texts:
                    index = stated_index(text)
                    own[3 if index is None else index ^ int(turned)] += 1
        return [{"pair": list(item), "votes": own} for item, own in votes.items()]

    @staticmethod
    def count(records: list[Record]) -> IntArray:
        """See `Ballot.count`."""
        return np.array([record["votes"] for record in records])


def _prompts(
    builder: PromptBuilder, config: DatasetConfig, paths: Mapping[tuple[int, ...], Sequence[Path]]
) -> tuple[PromptBatch, list[tuple[int, ...]]]:
    """Prompts of the items of which all images decode, and these items.

    Args:
        builder: makes them.
        config: the set's.
        paths: of the images of each item's prompt.

    Raises:
        DataError: an image does not decode, and the set does not skip such images.
    """
    pixels: dict[Path, Tensor] = {}
    for path in {path for shown in paths.values() for path in shown}:
        try:
            pixels[path] = builder.resize(load_image(path, config.short_edge))
        except DataError:
            if config.on_bad_image != "skip":
                raise
    whole = [item for item, shown in paths.items() if all(path in pixels for path in shown)]
    return builder.from_resized([[pixels[path] for path in paths[item]] for item in whole]), whole


def _collect(ballot: Ballot, folder: Path, label: str, stops: StopRequests) -> list[Record]:
    """The records of all items on rank 0; on the others those of this rank."""
    make_folder(folder)
    own = list(enumerate(ballot.parts))[get_rank() :: get_world_size()]
    looks, found = Looks(stops, len(own)), {}
    with progress_bar(label, len(ballot.items), shown=get_rank() == 0) as advance:
        for number, items in own:
            file = folder / f"{number:06d}.jsonl"
            if file.is_file():
                lines = file.read_text(encoding="utf-8").splitlines()
                found[number] = [json.loads(line) for line in lines]
            else:
                found[number] = ballot.ask(items)
                write_file(file, "".join(f"{json.dumps(r)}\n" for r in found[number]))
            advance(len(items) * get_world_size())
            if looks.after_batch():
                stops.check()
    if looks.after_all():
        stops.check()
    everyone = gather_objects_to_rank0(found)
    whole = {n: part for rank in everyone or [found] for n, part in rank.items()}
    return [record for number in sorted(whole) for record in whole[number]]


def _write(
    ballot: Ballot, records: list[Record], file: Path, run_log: RunLog, config: TrainConfig
) -> None:
    """Write the preferences of all pairs with a readable vote, and log what they are.

    Raises:
        DataError: no vote could be read, or all pairs are ties.
    """
    labelled, votes = ballot.labelled, ballot.count(records)
    preference = majority_preference(votes[:, 0].astype(float), votes[:, 1].astype(float))
    _check(votes, preference, labelled.name, config.votes.by)
    read = votes[:, :3].sum(axis=1) > 0
    pairs, preference = ballot.pairs.only(read), preference[read]
    mos = labelled.table["mos"].to_numpy(float)
    metrics = {
        "pairs": float(len(pairs)),
        "tie_rate": float((preference == 0.5).mean()),
        "unread_rate": float(votes[:, 3].sum() / votes.sum()),
        "mos_agreement": order_agreement(preference, mos[pairs.first], mos[pairs.second]),
    }
    logged = {f"votes/{n}/{labelled.name}": v for n, v in metrics.items() if math.isfinite(v)}
    run_log.metrics(logged, 0)
    print(
        f"votes on {labelled.name}: {len(pairs)} pairs, {metrics['tie_rate']:.1%} ties, "
        f"{metrics['unread_rate']:.1%} of the votes unreadable; {metrics['mos_agreement']:.1%} of "
        "the pairs in the order of their MOS (for evaluation only)",
        flush=True,
    )
    names = labelled.table["label_name"].to_numpy()
    table = {"first": names[pairs.first], "second": names[pairs.second], "preference": preference}
    table |= dict(zip(("wins", "losses", "equal", "unread"), votes[read].T, strict=True))
    write_file(file, pd.DataFrame(table).to_csv(index=False))


def _check(votes: IntArray, preference: FloatArray, name: str, by: str) -> None:
    """Check that the votes on a set state something.

    Raises:
        DataError: no vote could be read, or all pairs are ties.
    """
    key = f"target=self_vote, votes.by={by}"
    if not votes[:, :3].any():
        other = "scores" if by == "comparisons" else "comparisons"
        raise DataError(
            f"{key}: none of {votes.sum()} votes on {name} could be read; the policy does not "
            f"answer as asked: use votes.by={other}, raise rollout.sampling.max_new_tokens, or "
            "train it to answer first (stage=sft)"
        )
    if (preference == 0.5).all():
        raise DataError(
            f"{key}: every pair of {name} is a tie, so that nothing can be learnt; raise "
            "votes.count, or rollout.sampling.temperature, or start from a policy whose answers "
            "differ between images"
        )
