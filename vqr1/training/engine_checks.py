"""Rules of the engine that samples, whatever the stage: every stage's validations sample too.

Not here: what a stage asks of it besides (`ranking_checks.py`).
"""

from __future__ import annotations

from vqr1.config import TrainConfig
from vqr1.rollout.vllm_client import RECONNECTIONS
from vqr1.rollout.vllm_requests import fitting_logprobs


def engine_problems(config: TrainConfig) -> list[str]:
    """Why an engine cannot serve this training: its steps, validations or a teacher's answers."""
    rollout, sampling, hardware = config.rollout, config.rollout.sampling, config.hardware
    problems = []
    served = rollout.engine == "vllm_server"
    if served and rollout.server.weights == "adapter" and config.model.lora is None:
        problems.append(
            "rollout.server.weights=adapter, model.lora=null: there are no adapters to send; "
            "use rollout.server.weights=merged, or set model.lora"
        )
    elif served and rollout.server.weights == "adapter" and config.model.freeze_vision == "tower":
        problems.append(
            "rollout.server.weights=adapter, model.freeze_vision=tower: the projector trains too "
            "and would not be sent; use rollout.server.weights=merged"
        )
    together = hardware.devices * hardware.nodes > 1
    server, minutes = rollout.server, hardware.process_group_timeout_minutes
    longest = (RECONNECTIONS + 1) * (server.patience_s + server.timeout_s)
    if served and together and longest >= 60 * minutes:
        problems.append(
            f"rollout.server.patience_s={server.patience_s:g}, "
            f"rollout.server.timeout_s={server.timeout_s:g}, "
            f"hardware.process_group_timeout_minutes={minutes:g}: a process may wait for a lost "
            f"server {RECONNECTIONS + 1} times as long as the first two, {longest:g} s in all, and "
            "the others stop waiting for it before; lower them, or raise the last"
        )
    if rollout.engine == "vllm_colocated" and not fitting_logprobs(sampling):
        problems.append(
            f"rollout.engine=vllm_colocated, rollout.sampling.temperature={sampling.temperature}: "
            "vLLM reports no log-probabilities of the whole distribution there; use temperature 1, "
            "or rollout.sampling.top_k=0 and rollout.sampling.top_p=1"
        )
    return problems
