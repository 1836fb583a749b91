"""Rewards, level labels and importance weights as `method_vectors.json` calls them.

Where a vector starts from text, the number is read as its method reads it
(`vqr1.iqa.answers.published_rules`), or, where that has no rule, in the plainest way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.methods.parsers import stated
from vqr1.iqa import closeness, levels, text_rules
from vqr1.iqa.answers import TaggedAnswer
from vqr1.iqa.correlation import srcc
from vqr1.iqa.logistic import fit_logistic
from vqr1.iqa.margin import margin_reward
from vqr1.iqa.preference_response import preference_response_reward
from vqr1.iqa.soft_preference import soft_preference_reward
from vqr1.iqa.thurstone import fidelity_reward
from vqr1.rewards.text import answer_of

Case = Mapping[str, Any]
F64 = torch.float64


NUMBER = re.compile(r"[-+]?\d*\.\d+|\d+")


def one(score: float, mos: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = torch.tensor([[score]], dtype=F64)
    return scores, torch.tensor([mos], dtype=F64), torch.isfinite(scores)


def bare(text: str) -> float:
    """The number that an answer is, whatever its prompt's scale; NaN without one."""
    found = TaggedAnswer(score_range=(0, 100)).parse(text).score
    return math.nan if found is None else found


def within(score: float, mos: float, **keys: Any) -> float:
    """The threshold reward in float64, checked to be that in float32, in which a step computes."""
    scores, target, valid = one(score, mos)
    found = closeness.threshold_reward(scores, target, valid, **keys)
    assert closeness.threshold_reward(scores.float(), target.float(), valid, **keys).equal(
        found.float()
    )
    return found.item()


def q_insight_score(case: Case) -> float:
    return within(stated("q_insight", case["completion"]), case["solution"])


def q_insight_degradation(case: Case) -> float:
    true = case["solution"]
    return text_rules.degradation_reward(
        text_rules.stated_degradation(case["completion"]),
        (true["distortion_class"], true["severity"]),
    )


def refine(case: Case) -> float:
    score = stated("refine_iqa", case["completion"])
    return within(score, case["answer"], width=0.5, inclusive=True)


def grouped(
    names: list[str], *columns: list[Any]
) -> tuple[torch.Tensor, list[torch.Tensor], list[list[int]]]:
    """Rows of consecutive equal names as one image each, padded with invalid answers."""
    rows: list[list[int]] = []
    for n, name in enumerate(names):
        if n and names[n - 1] == name:
            rows[-1].append(n)
        else:
            rows.append([n])
    width = max(len(row) for row in rows)
    scores = torch.full((len(rows), width), math.nan, dtype=F64)
    for b, row in enumerate(rows):
        scores[b, : len(row)] = torch.tensor([columns[0][n] for n in row], dtype=F64)
    firsts = [torch.tensor([column[row[0]] for row in rows], dtype=F64) for column in columns[1:]]
    return scores, firsts, rows


def margin(case: Case, names: str, sigma: bool, read: Callable[[str], float]) -> list[float]:
    given = [read(text) for text in case["completions"]]
    given = [x if 1 <= x <= 5 else math.nan for x in given]
    columns = [case["target_mean"]] + ([case["target_std"]] if sigma else [])
    scores, (mos, *std), rows = grouped(case[names], given, *columns)
    found = margin_reward(scores, mos, mos_std=std[0] if sigma else None)
    return [found[b, k].item() for b, row in enumerate(rows) for k in range(len(row))]


def mr_iqa(text: str) -> float:
    return stated("mr_iqa", text)


def json_rating(text: str) -> float:
    try:
        value = json.loads(text)["rating"]
    except (ValueError, TypeError, KeyError):
        return math.nan
    return math.nan if isinstance(value, bool) else float(value)


def fidelity(case: Case) -> list[float]:
    size = case.get("num_generations")
    mos = [bare(text) for text in case["solution"]]
    size = size or next(n for n in range(1, len(mos) + 1) if n == len(mos) or mos[n] != mos[0])
    scores = torch.tensor([bare(text) for text in case["completions"]]).view(-1, size)
    return list(fidelity_reward(scores, torch.tensor(mos)[::size]).flatten().tolist())


def q_hawkeye_score(case: Case) -> float:
    score, mos = (stated("q_hawkeye", case[key]) for key in ("completion", "solution"))
    return closeness.exponential_reward(*one(score, mos), decay=0.3, clamp=True).item()


def relative(case: Case) -> float:
    return closeness.relative_reward(*one(bare(case["completion"]), bare(case["solution"]))).item()


def bonuses(case: Case) -> list[float]:
    accuracy = torch.tensor(case["accuracy"], dtype=F64)
    total = accuracy + torch.tensor(case["fmt"], dtype=F64)
    shuffled = torch.tensor(case["shuffled_accuracy"], dtype=F64)
    ordered_wins = case["temporal"] and accuracy.mean() >= 0.8 * shuffled.mean()
    if ordered_wins:
        total = total + 0.3 * (accuracy > 0.1)
    if case["len_control"]:
        lengths = torch.tensor(case["lengths"])
        total = total + 0.2 * text_rules.length_bonus(lengths, accuracy, 320, 512)
    return list(total.tolist())


def five_ratings(text: str) -> list[float]:
    """The public code takes any five numbers: the last ones, else the first one several times."""
    found = [float(number) for number in NUMBER.findall(text)]
    return found[-5:] if len(found) >= 5 else found + (found or [3.0])[:1] * (5 - len(found))


def preference_response(case: Case) -> list[float]:
    size = case["num_generations"]
    ratings = torch.tensor([five_ratings(text) for text in case["completions"]], dtype=F64)
    ratings = ratings.view(-1, size, 5)
    mos = torch.tensor([float(text) for text in case["solution"][::size]], dtype=F64)
    valid = torch.ones(ratings.shape[:2], dtype=torch.bool)
    return list(preference_response_reward(ratings, mos, valid).flatten().tolist())


def soft_preferences(case: Case, names: list[str], own_variance: bool) -> list[float]:
    """Aesthetic answers alone are compared; the others earn 0."""
    chosen = [n for n, task in enumerate(case["tasks"]) if task == "iaa_score"]
    found = [0.0] * len(case["tasks"])
    if not chosen:
        return found
    scores, (mos,), rows = grouped(
        [names[n] for n in chosen],
        [stated("tatar", case["answers"][n]) / 100 for n in chosen],
        [case["solution"][n] / 100 for n in chosen],
    )
    rewards = soft_preference_reward(scores, mos, scores.isfinite(), own_variance=own_variance)
    for b, row in enumerate(rows):
        for k, n in enumerate(row):
            found[chosen[n]] = rewards[b, k].item()
    return found


def tatar_to_100(case: Case) -> float:
    """The public code guesses the scale of each number; ours is given it."""
    top = {"iaa_score": 10.0 if case["gt"] <= 10 else 100.0, "x": 100.0}.get(case["task"])
    if top is None:
        top = 1.0 if case["gt"] <= 1 else 5.0 if case["gt"] <= 5 else 100.0
    return text_rules.scaled_to_100(case["gt"], 0.0, top)


def tatar_score(case: Case) -> float:
    quality = case["task"] == "iqa_score"
    words = " ".join(["word"] * (case["words"] - 1) + ["answer"])
    fits = text_rules.within_words(words, *((0, 65) if quality else (125, None)))
    scores, _, valid = one(stated("tatar", case["answer"]), 0.0)
    mos = torch.tensor([tatar_to_100({"task": case["task"], "gt": case["solution"]})], dtype=F64)
    sigma = 8.75 / math.sqrt(2 * math.log(2))
    found = closeness.gaussian_reward(
        scores, mos, valid, sigma=sigma, growth=0.8 if quality else 2.0, span=100.0
    )
    return min(found.item() * (1.0 if quality else 1.5), 1.0) * fits


def iqa_t1(case: Case) -> dict[str, float]:
    text = case["response"]
    found = re.search(r"<answer_start>\{['\"]score['\"]: ([\d.]+)\}<answer_end>", text)
    score = float(found[1]) if found and 1 <= float(found[1]) <= 5 else math.nan
    accuracy = closeness.exponential_reward(*one(score, float(case["ground_truth"])), decay=0.2)
    whole = r'<think>.*</think>\s*<answer_start>\{"score": [\d.]+\}<answer_end>'
    compliant = float(re.fullmatch(whole, text, re.DOTALL) is not None)
    usage, repetition = text_rules.tool_use(re.findall(r"look <(\w+)>", text))
    return {
        "overall": 0.2 * compliant + 0.65 * accuracy.item() + 0.1 * usage + 0.05 * repetition,
        "format": compliant,
        "accuracy": accuracy.item(),
        "tool_usage": usage,
        "repetition_penalty": repetition,
    }


def soft_labels(case: Case) -> dict[str, Any]:
    width = case["max_mos"] - case["min_mos"]
    mean, std = 4 * (case["mos"] - case["min_mos"]) / width + 1, 4 * case["std"] / width
    level = levels.level_of(case["mos"], case["min_mos"], case["max_mos"])
    return {
        "level_probs": levels.soft_labels(
            mean, std, kind=case["density_type"], least_std=case["thre_std"],
            tolerance=case["thre_diff"],
        ).tolist(),
        "level_probs_org": levels.level_density(mean, std, case["density_type"]).tolist(),
        "mos_norm": mean,
        "std_norm": std,
        "answer": f"The quality of the image is {level}.",
    }  # fmt: skip


def pair_loss(case: Case) -> dict[str, Any]:
    first = torch.tensor(case["pred_A"], dtype=F64, requires_grad=True)
    second, *labels = (
        torch.tensor(case[key], dtype=F64) for key in ("pred_B", "mos_A", "mos_B", "std_A", "std_B")
    )
    loss = levels.level_fidelity_loss(first, second, (labels[0], labels[1]), (labels[2], labels[3]))
    loss.backward()
    assert first.grad is not None
    return {"loss": loss.item(), "grad_pred_A": first.grad.tolist()}


def binary_losses(case: Case) -> tuple[float, float]:
    first, second, *mos = (
        torch.tensor(case[key], dtype=F64) for key in ("pred_A", "pred_B", "mos_A", "mos_B")
    )
    fidelity_, entropy = levels.binary_level_losses(first, second, (mos[0], mos[1]))
    return fidelity_.item(), entropy.item()


def level_logits(case: Case, low: float, high: float) -> float:
    logits = torch.tensor([case["logits"][name] for name in levels.LEVELS], dtype=F64)
    return levels.level_score(logits, low, high).item()


def soft_kl(case: Case) -> float:
    logits = torch.tensor(
        [a + b for a, b in zip(case["level_logits"], case["other_logits"], strict=True)]
    )
    labels = torch.tensor(case["level_probs"])
    return levels.level_kl_loss(logits, torch.arange(5), labels).item()


def fitted(case: Case) -> dict[str, float]:
    pred, mos = (torch.tensor(case[key], dtype=F64).numpy() for key in ("pred", "gt"))
    fit = fit_logistic(pred, mos, "logistic4")
    return {"plcc": fit.plcc.value, "srcc": srcc(pred, mos)}


FUNCTIONS: dict[str, Callable[[Case], Any]] = {
    "q_insight_score_reward": q_insight_score,
    "q_insight_dist_reward": q_insight_degradation,
    "refine_iqa_answer_reward": refine,
    "mr_iqa_margin_reward_unit": lambda case: margin(case, "sample_id", False, mr_iqa),
    "mr_iqa_margin_reward_sigma": lambda case: margin(case, "sample_id", True, mr_iqa),
    "mr_iqa2_margin_reward": lambda case: margin(case, "sample_ids", False, json_rating),
    "mr_iqa2_signed_improvement_reward": lambda case: text_rules.signed_improvement(
        torch.tensor(float(case["delta"]), dtype=F64), case["tau_s"]
    ).item(),
    "mr_iqa2_soft_overlong_reward": lambda case: text_rules.overlong_penalty(
        torch.tensor(case["token_length"]),
        case["max_length"],
        case["cache_length"],
        case["max_penalty"],
    ).item(),
    "dapo_overlong": lambda case: text_rules.overlong_penalty(
        torch.tensor(case["length"]), case["max_completion_len"], case["soft_punish_cache"]
    ).item(),
    "visualquality_r1_fidelity_reward": fidelity,
    "q_hawkeye_score_reward": q_hawkeye_score,
    "q_hawkeye_repetition_reward": lambda case: text_rules.repetition_penalty(
        answer_of(case["completion"])
    ),
    "vq_insight_regression_reward": relative,
    "vq_insight_bonus_rewards": bonuses,
    "preresq_r1_reward": preference_response,
    "tatar_rank_reward": lambda case: soft_preferences(
        case, [str(n) for n in range(len(case["tasks"]))], False
    ),
    "tatar_rank_reward_thurstone": lambda case: soft_preferences(
        case,
        [f"{path} {mos}" for path, mos in zip(case["paths"], case["solution"], strict=True)],
        True,
    ),
    "tatar_gt_to_100": tatar_to_100,
    "tatar_score_reward": tatar_score,
    "zoom_iqa_rating_to_score": lambda case: text_rules.scaled_to_100(case["rating"], 1.0, 5.0),
    "iqa_t1_compute_score": iqa_t1,
    "deqa_soft_labels": soft_labels,
    "deqa_get_level": lambda case: levels.level_of(case["mos"], case["min_mos"], case["max_mos"]),
    "deqa_two_level_labels": lambda case: levels.two_level_labels(case["mos"]).tolist(),
    "deqa_score_from_logits": lambda case: level_logits(case, 1.0, 5.0),
    "deqa_fitted_correlations": fitted,
    "deqa_fidelity_loss": pair_loss,
    "deqa_binary_rating_loss_fidelity": lambda case: binary_losses(case)[0],
    "deqa_binary_rating_loss_bce": lambda case: binary_losses(case)[1],
    "deqa_softkl_loss": soft_kl,
    "q_align_score_from_logits": lambda case: level_logits(case, 0.0, 1.0),
    "qrealign_map_score": lambda case: levels.level_of_upper(case["score"], case["lo"], case["hi"]),
}
"""Our function by the key of the vectors."""
