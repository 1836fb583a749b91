"""Rules of a training by sampled responses (`stage=grpo`) that a configuration can break.

Not here: those of every stage (`checks.py`), of engines (`engine_checks.py`), and of labels
(`label_checks.py`).
"""

from __future__ import annotations

from vqr1.config import TrainConfig, VotesConfig, placeholder_problem
from vqr1.errors import ConfigError
from vqr1.rewards import WeightedRewards
from vqr1.rollout.vllm_requests import fitting_logprobs
from vqr1.training.advantages import AdvantageRule, build_advantage
from vqr1.training.advantages.base import fields_of, terms_of
from vqr1.training.losses import build_loss
from vqr1.training.losses.perception import perception_problems
from vqr1.training.token_fields import RESPONSE


def ranking_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Rules of a training by sampled responses (`stage=grpo`), one line each."""
    processes = config.hardware.devices * config.hardware.nodes
    pool = config.loader.global_batch_size or config.loader.batch_size * processes
    problems = _pool_problems(config, rewards, pool, processes)
    problems += _reference_problems(config)
    problems += _part_problems(config, rewards)
    problems += perception_problems(config.loss.perception)
    problems += _attribute_problems(config, rewards)
    problems += _logprob_problems(config, rewards) + _overlap_problems(config)
    if config.rollout.sampling.temperature == 0:
        problems.append(
            "rollout.sampling.temperature=0.0: greedy responses are all alike, so that every "
            "group has zero variance; use a temperature above 0"
        )
    penalty = config.rollout.sampling.repetition_penalty
    if penalty != 1:
        problems.append(
            f"rollout.sampling.repetition_penalty={penalty:g}: responses would be drawn from "
            "another distribution than the policy whose gradient is taken; set it to 1 (an "
            "evaluation has mode.sampling.repetition_penalty)"
        )
    if config.target != "mos":
        problems += [
            f"target={config.target}, reward.terms.{name}: it needs standard deviations of the "
            "MOS, and pairs have none; choose another reward, or target=mos"
            for name in rewards.needing("mos_std")
        ]
    if config.target == "self_vote":
        problems += _vote_problems(config.votes)
    elif config.votes.rounds > 1:
        problems.append(
            f"votes.rounds={config.votes.rounds}, target={config.target}: nothing is voted on; "
            "use target=self_vote, or votes.rounds=1"
        )
    return problems


def _attribute_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Rewards of several numbers, with an answer that states fewer, or others."""
    stated = config.answer.form.ratings
    return [
        f"reward.terms.{name}: it needs {least} or more numbers beside the score, and the answer "
        f"form has {', '.join(stated) or 'none'}; use a form with ratings, such as prompt=preresq "
        "(answer=five_ratings)"
        for name, least in rewards.least_attributes().items()
        if len(stated) < least
    ] + [
        f"reward.terms.{name}: it needs the score {attribute!r}, and the further scores of the "
        f"answer form are {', '.join(stated) or 'none'}; name one of them"
        for name, (_, reward) in rewards.terms.items()
        for attribute in getattr(reward, "attribute_names", ())
        if attribute not in stated
    ]


def _pool_problems(
    config: TrainConfig, rewards: WeightedRewards, images: int, processes: int
) -> list[str]:
    """Why a step of so many images has no pools that a reward can compare."""
    pool = config.grpo.pool
    if isinstance(pool, int):
        if images % pool == 0:
            return []
        fitting = ", ".join(str(n) for n in range(2, images + 1) if images % n == 0)
        return [
            f"grpo.pool={pool}: the {images} images of a step (of all processes) cannot be shared "
            f"out {pool} by {pool}; use one of {fitting or 'global, rank'}, or another "
            "loader.global_batch_size"
        ]
    share = images // processes if pool == "rank" else images
    if not rewards.ranks or share >= 2:
        return []
    where = f"grpo.pool=rank, {processes} processes, " if pool == "rank" and processes > 1 else ""
    return [
        f"{where}loader.batch_size={share}: a ranking reward compares images with each other "
        "and needs at least 2; raise it"
    ]


def _logprob_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Rewards of log-probabilities that the server does not report."""
    sampling = config.rollout.sampling
    if config.rollout.engine != "vllm_server" or fitting_logprobs(sampling):
        return []
    return [
        f"rollout.engine=vllm_server, reward.terms.{name}: needs sampler log-probabilities, and at "
        f"rollout.sampling.temperature={sampling.temperature} vLLM reports none of the whole "
        "distribution; use temperature 1, or rollout=local"
        for name in rewards.needing("logprobs")
    ]


def _overlap_problems(config: TrainConfig) -> list[str]:
    """Why responses cannot be sampled ahead of the update."""
    rollout = config.rollout
    if not rollout.ahead:
        return []
    if rollout.engine != "vllm_server":
        return [
            f"rollout.ahead={rollout.ahead}, rollout.engine={rollout.engine}: it samples in the "
            "process that updates, which does one after the other; use rollout=vllm_server, or "
            "rollout.ahead=0"
        ]
    if rollout.importance_cap is None:
        return [
            f"rollout.ahead={rollout.ahead}, rollout.importance_cap=null: responses of an earlier "
            "policy are corrected by importance weights; give their cap, such as "
            "rollout.importance_cap=2, or use rollout.ahead=0"
        ]
    return []


def _part_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Why the loss or the advantage rule cannot be built, or has nothing to credit."""
    problems: list[str] = []
    try:
        build_loss(config.loss)
    except ConfigError as error:
        problems += error.problems
    try:
        problems += _credit_problems(config, build_advantage(config.advantage), rewards)
    except ConfigError as error:
        problems += error.problems
    return problems


def _credit_problems(
    config: TrainConfig, rule: AdvantageRule, rewards: WeightedRewards
) -> list[str]:
    """Terms and fields of the advantage rule that the reward or the answer does not have."""
    problems = []
    terms, known = terms_of(rule), list(rewards.terms)
    missing = [term for term in terms or () if term not in known]
    if missing:
        problems.append(
            f"advantage: {', '.join(missing)}: no term of the reward, which has "
            f"{', '.join(known)}; name these (advantage.components)"
        )
    left = [term for term in known if terms is not None and term not in terms]
    if left:
        problems.append(
            f"advantage: no field is credited with {', '.join(f'reward.terms.{t}' for t in left)}, "
            "which would train nothing; add it to a field of advantage.components, or leave it out "
            "of the reward"
        )
    if getattr(rule, "order_only", False) and rewards.absolute:
        problems.append(
            "advantage: takes away what moves all scores alike, which "
            f"{', '.join(f'reward.terms.{name}' for name in rewards.absolute)} asks for; use "
            "advantage=centred"
        )
    fields = (RESPONSE, *config.answer.form.fields)
    strange = [field for field in fields_of(rule) if field not in fields]
    if strange:
        problems.append(
            f"advantage: {', '.join(strange)}: no field of the answer, which has "
            f"{', '.join(fields)}; credit one of these (advantage.components), or ask for an "
            "answer with that field (answer)"
        )
    return problems


def _reference_problems(config: TrainConfig) -> list[str]:
    """Why a reference that shall follow the policy cannot."""
    every = config.grpo.reference_sync_every
    if every is None:
        return []
    weight = config.loss.kl_weight
    if not config.loss.has_reference:
        return [
            f"grpo.reference_sync_every={every}, loss.kl_weight={weight}: there is no reference; "
            "raise the weight, or leave grpo.reference_sync_every=null"
        ]
    if config.model.lora is not None:
        return [
            f"grpo.reference_sync_every={every}, model.lora: the reference is the policy without "
            "its adapters and cannot move; use model.lora=null, or grpo.reference_sync_every=null"
        ]
    return []


def _vote_problems(votes: VotesConfig) -> list[str]:
    """Why the policy cannot vote as asked."""
    problems = []
    if votes.rounds > 1:
        problems.append(
            f"votes.rounds={votes.rounds}: rounds are trainings one after the other, which start "
            "processes of their own: run them without a launcher and without -m, or one by one "
            "with votes.rounds=1 and init_from"
        )
    if votes.by == "scores":
        return problems
    if votes.count % 2:
        problems.append(
            f"votes.count={votes.count}: half of the comparisons show the images in each order; "
            "use an even number"
        )
    if not votes.text.strip():
        problems.append("votes.text: it is empty; write the question of a comparison")
    problem = placeholder_problem(votes.text, 2)
    if problem is not None:
        problems.append(
            f"votes.text: {problem.replace('prompt.images=2', 'a comparison has 2 images')}"
        )
    return problems
