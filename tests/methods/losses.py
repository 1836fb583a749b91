"""Losses, advantage rules and importance weights as `method_vectors.json` calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vqr1.iqa.uncertainty import group_uncertainty
from vqr1.training.advantages import (
    AdvantageInputs,
    BatchNormalised,
    Gdpo,
    GroupNormalised,
    LeaveOneOut,
    ReinforcePlusPlus,
)
from vqr1.training.advantages.by_component import eligible_advantages
from vqr1.training.advantages.gdpo import WHITENING, normalised_terms
from vqr1.training.losses import (
    CispoLoss,
    ClipCovLoss,
    GrpoLoss,
    KlCovLoss,
    LossInputs,
    PolicyLoss,
    SapoLoss,
    VespoLoss,
)
from vqr1.training.losses.averaging import token_weights
from vqr1.training.losses.masks import high_entropy_tokens, on_policy_responses
from vqr1.training.losses.policy_gradient import sequence_ratio
from vqr1.training.losses.sapo import soft_gate
from vqr1.training.losses.vespo import gamma_weights

Case = Mapping[str, Any]
F64 = torch.float64


def tensor(values: Any, dtype: torch.dtype = F64) -> Tensor:
    """The responses of a case as one image's K: a leading axis more."""
    return torch.tensor(values, dtype=dtype)[None]


def run_loss(loss: PolicyLoss, case: Case, added: float = 0.0) -> dict[str, Any]:
    """Loss and gradient; `added` to the length of each response (verl divides by length + 1e-8)."""
    logprobs = tensor(case["logps"]).requires_grad_()
    mask = tensor(case["mask"], torch.bool)
    limit = case.get("max_len", mask.shape[2])
    every = torch.tensor([True])
    importance = case.get("is_ratio")
    lengths = mask.sum(dim=2, keepdim=True).double()
    weights = token_weights(mask, every, loss.averaging, limit, dtype=F64)
    found = loss(
        LossInputs(
            logprobs=logprobs,
            old=tensor(case["old_logps"]),
            sampler=None,
            reference=None,
            mask=mask,
            advantages=tensor(case["advantages"]),
            weights=weights * lengths / (lengths + added),
            importance=None if importance is None else tensor(importance),
            lengths=mask.sum(dim=2),
        )
    )
    found.loss.backward()
    assert logprobs.grad is not None
    return {"loss": found.loss.item(), "grad": logprobs.grad[0].tolist()}


def clipped(case: Case, **keys: Any) -> dict[str, Any]:
    """A loss of TRL that differs from GRPO's by keys."""
    if "eps_low" in case:
        keys["clip"] = case["eps_low"]
    if "eps_high" in case:
        keys["clip_high"] = case["eps_high"]
    if "delta" in case:
        keys["ratio_cap"] = case["delta"]
    return run_loss(GrpoLoss(ratio=case.get("level", "token"), **keys), case)


def advantages(
    rule: Callable[[AdvantageInputs], Tensor],
    rewards: Any,
    size: int,
    weights: list[float] | None = None,
    lengths: list[int] | None = None,
) -> list[float]:
    """A rule on rewards [responses, terms] of groups of `size`."""
    table = torch.tensor(rewards, dtype=torch.float32)
    table = table[:, None] if table.ndim == 1 else table
    terms = {str(n): column.view(-1, size) for n, column in enumerate(table.T)}
    named = {str(n): w for n, w in enumerate(weights or [1.0] * len(terms))}
    total = sum(named[name] * term for name, term in terms.items())
    assert isinstance(total, Tensor)
    counts = torch.ones_like(total) if lengths is None else torch.tensor(lengths).view(-1, size)
    inputs = AdvantageInputs(total, terms, counts.bool(), counts.long(), None, named)
    return list(rule(inputs).flatten().tolist())


def trl(rule: Callable[[AdvantageInputs], Tensor]) -> Callable[[Case], list[float]]:
    def found(case: Case) -> list[float]:
        return advantages(rule, case["rewards"], case["num_generations"], case.get("weights"))

    return found


def verl(rule: Callable[[AdvantageInputs], Tensor]) -> Callable[[Case], list[list[float]]]:
    """Advantages of tokens, of one or several groups of equal size."""

    def found(case: Case) -> list[list[float]]:
        mask = torch.tensor(case["mask"])
        if "rewards" in case:
            rewards = list(zip(*case["rewards"].values(), strict=True))
        else:
            rewards = case["scores"]
        size = case["index"].count(case["index"][0])
        assert case["index"] == sorted(case["index"])
        per_response = advantages(
            rule, rewards, size, case.get("weights"), mask.sum(dim=1).tolist()
        )
        return list((torch.tensor(per_response)[:, None] * mask).tolist())

    return found


def gdpo_over_tokens(inputs: AdvantageInputs) -> Tensor:
    """verl's, which gives advantages to groups without any difference too."""
    summed = normalised_terms(inputs.terms, inputs.weights, 1e-6)
    return WHITENING["tokens"](summed, inputs.lengths, 1e-6)


def uncertainty_scale(case: Case) -> list[float]:
    size = case["num_generations"]
    scores = [float("nan") if s is None else s for s in case["scores"]]
    factors = torch.exp(-0.2 * group_uncertainty(torch.tensor(scores).view(-1, size)))
    return list(factors.repeat_interleave(size).tolist())


def by_group(rows: list[Any], key: str) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row[key], []).append(number)
    return groups


def dapo_groups(case: Case) -> list[dict[str, Any]]:
    rows = case["rows"]
    found: list[dict[str, Any]] = [{} for _ in rows]
    for members in by_group(rows, "dapo_group_key").values():
        rewards = torch.tensor([[rows[m]["dapo_total_reward"] for m in members]], dtype=F64)
        values = eligible_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool))
        std = rewards.std().item() if len(members) > 1 else 0.0
        for member, value in zip(members, values[0].tolist(), strict=True):
            found[member] = {
                "advantage": value,
                "effective_group": bool((values != 0).any()),
                "group_std": std,
                "group_size": len(members),
            }
    return found


def components(case: Case) -> list[dict[str, float]]:
    rows = case["rows"]
    found: list[dict[str, float]] = [{} for _ in rows]
    for members in by_group(rows, "group_id").values():
        for name in rows[0]["rewards"]:
            rewards = torch.tensor([[rows[m]["rewards"][name] for m in members]], dtype=F64)
            eligible = torch.tensor([[rows[m]["eligibility"][name] for m in members]])
            values = eligible_advantages(rewards, eligible)[0].tolist()
            for member, value in zip(members, values, strict=True):
                found[member][name] = value
    return found


def gspo_ratio(case: Case) -> list[list[float]]:
    mask = tensor(case["mask"], torch.bool)
    gap = torch.where(mask, tensor(case["logps"]) - tensor(case["old_logps"]), 0.0)
    return [[ratio] for ratio in sequence_ratio(gap, mask).exp()[0, :, 0].tolist()]


def cispo_weights(case: Case) -> list[list[float]]:
    """The factors of A log p: gradients of the summed objective at A = 1."""
    mask = torch.ones_like(tensor(case["mask"], torch.bool))
    found = run_loss(
        CispoLoss(cap=case["epsilon_high"], averaging="response_sum"),
        {**case, "mask": mask[0].int().tolist(), "advantages": [1.0] * mask.shape[1]},
    )
    return [[-value * mask.shape[1] for value in row] for row in found["grad"]]


def sapo_gate(case: Case) -> list[list[float]]:
    ratio = torch.tensor([case["ratio"]], dtype=F64)
    temperature = case["pos"] if case["advantage"] > 0 else case["neg"]
    return list(soft_gate(ratio, torch.full_like(ratio, temperature)).tolist())


def vespo_weights(case: Case) -> list[list[float]]:
    advantage = tensor(case["advantages"])[:, :, None]
    positive = advantage >= 0
    shape = torch.where(positive, torch.tensor(2.0, dtype=F64), torch.tensor(3.0, dtype=F64))
    rate = torch.where(positive, torch.tensor(3.0, dtype=F64), torch.tensor(2.0, dtype=F64))
    ratio = case["is_ratio"]
    weights = gamma_weights(
        advantage, tensor(case["log_ratio"]), tensor(case["mask"], torch.bool),
        None if ratio is None else tensor(ratio), shape, rate,
    )  # fmt: skip
    return list(weights[0].tolist())


def off_policy(case: Case) -> list[list[float]]:
    kept = on_policy_responses(
        tensor(case["advantages"])[:, :, None], tensor(case["logps"]),
        tensor(case["sampling_logps"]), tensor(case["mask"], torch.bool), case["threshold"],
    )  # fmt: skip
    return list(kept[0].double().tolist())


def entropy_mask(case: Case) -> list[list[bool]]:
    entropies = tensor(case["entropies"], torch.float32)
    return list(
        high_entropy_tokens(entropies, tensor(case["mask"], torch.bool), case["threshold"])[
            0
        ].tolist()
    )


FUNCTIONS: dict[str, Callable[[Case], Any]] = {
    "q_insight_group_advantages": trl(GroupNormalised()),
    "grpo_group_advantages": trl(GroupNormalised()),
    "grpo_batch_scaled_advantages": trl(BatchNormalised()),
    "dr_grpo_advantages": trl(GroupNormalised(std=False)),
    "gdpo_advantages": trl(Gdpo()),
    "rloo_advantages": lambda case: trl(LeaveOneOut(normalise=case["normalize"]))(case),
    "reinforce_pp_advantages": verl(ReinforcePlusPlus(baseline=False)),
    "reinforce_pp_baseline_advantages": verl(ReinforcePlusPlus()),
    "verl_rloo_advantages": verl(LeaveOneOut()),
    "verl_gdpo_advantages": verl(gdpo_over_tokens),
    "q_hawkeye_ua_scale": uncertainty_scale,
    "mr_iqa2_dapo_group_advantages": dapo_groups,
    "mr_iqa2_component_advantages": components,
    "grpo_loss": lambda case: clipped(case),
    "bnpo_loss": lambda case: clipped(case, averaging="token_mean"),
    "dr_grpo_loss": lambda case: clipped(case, averaging="dr_grpo"),
    "dapo_loss": lambda case: clipped(case, averaging="token_mean"),
    "grpo_two_sided_loss": lambda case: clipped(case),
    "gspo_loss": lambda case: clipped(case),
    "luspo_loss": lambda case: clipped(case, averaging="response_sum"),
    "truncated_is_loss": lambda case: clipped(case, averaging="token_mean"),
    "verl_gspo_loss": lambda case: run_loss(
        GrpoLoss(ratio="sequence", clip_high=case.get("high")), case, 1e-8
    ),
    "cispo_loss": lambda case: run_loss(CispoLoss(cap=case["eps_high"]), case),
    "verl_cispo_loss": lambda case: run_loss(CispoLoss(floor=0.8, cap=1 + case["high"]), case),
    # TRL holds the temperatures in float32.
    "sapo_loss": lambda case: run_loss(
        SapoLoss(negative_temperature=torch.tensor(1.05).item()), case
    ),
    "verl_sapo_loss": lambda case: run_loss(SapoLoss(), case, 1e-8),
    "vespo_loss": lambda case: run_loss(VespoLoss(), case),
    "kl_cov_loss": lambda case: run_loss(
        KlCovLoss(share=case["kl_cov_ratio"], penalty=case["ppo_kl_coef"]), case
    ),
    "clip_cov_loss": lambda case: run_loss(
        ClipCovLoss(
            share=case["clip_cov_ratio"],
            lowest=case["clip_cov_lb"],
            highest=case["clip_cov_ub"],
        ),
        case,
    ),
    "gspo_ratio": gspo_ratio,
    "cispo_weights": cispo_weights,
    "sapo_gate": sapo_gate,
    "vespo_gamma_weights": vespo_weights,
    "off_policy_sequence_mask": off_policy,
    "high_entropy_token_mask": entropy_mask,
}
"""Our function by the key of the vectors."""
