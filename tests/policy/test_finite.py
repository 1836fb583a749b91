"""NaN and infinity in weights and logits are named, and never become a text or a score."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.tiny_models import IMAGE_TOKEN, tiny_model, tiny_prompts
from tests.support.tiny_tokenizer import tiny_tokenizer
from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ModelConfig, SamplingConfig, ScoreConfig, validate
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import ModelError, NonFiniteError, RunFaultError
from vqr1.policy.export import export_checkpoint
from vqr1.policy.finite import check_answer_logprobs, check_logprobs, non_finite_weights
from vqr1.policy.loading import load_policy
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_requests import VllmRequests
from vqr1.training.faults import machine_faults

PROMPTS = tiny_prompts([(2, 2), (2, 4)], [3, 5])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_named(value: float, dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    assert non_finite_weights(model) == []
    with torch.no_grad():
        model.lm_head.weight[7, 3] = value
    assert non_finite_weights(model) == ["lm_head.weight"]


def test_statistics_of_batch_norms_are_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    assert non_finite_weights(model) == []
    assert model[1].running_var is not None
    model[1].running_var[1] = math.nan
    assert non_finite_weights(model) == ["1.running_var"]
    # A count and an empty buffer are no numbers to look at.
    model.register_buffer("count", torch.tensor(3))
    model.register_buffer("empty", torch.empty(0))
    assert non_finite_weights(model) == ["1.running_var"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_model_gives_no_rollout(value: float, temperature: float) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[7, 3] = value
    engine = LocalEngine(model, tiny_tokenizer(), 10**6)
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=5, stop="eos")
    # An infinite weight makes a logit infinite, upwards for some states and downwards for others.
    found = "6 of 6 responses, first at token 1; use" if math.isnan(value) else "responses, first"
    with pytest.raises(
        NonFiniteError, match=f"the model's logits are NaN or infinite in .*{found}"
    ):
        engine.sample(PROMPTS, group_size=3, sampling=sampling, seed=0)


def test_where_it_arises() -> None:
    logprobs = torch.full((2, 3, 4), -1.0)
    check_logprobs(logprobs)
    logprobs[1, 2, 3] = math.nan
    logprobs[0, 0, 2] = -math.inf
    with pytest.raises(NonFiniteError, match="in 2 of 6 responses, first at token 3"):
        check_logprobs(logprobs)
    answers = torch.full((2, 5, 4), -1.0)
    check_answer_logprobs(answers)
    answers[1, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="at the answers of 1 of 2 images"):
        check_answer_logprobs(answers)


def model_config(*overrides: str) -> ModelConfig:
    return validate(ScoreConfig, plain_values(compose_config("score", overrides))).model


def test_a_checkpoint_of_nan_does_not_load(tmp_path: Path) -> None:
    policy = load_policy(model_config())
    with torch.no_grad():
        policy.model.model.language_model.norm.weight[0] = math.nan
    folder = export_checkpoint(policy, tmp_path / "broken")
    with pytest.raises(
        ModelError,
        match=r"broken: 1 weights hold NaN or infinity as float32, .*norm.weight first; take",
    ):
        load_policy(model_config(f"model.path={folder}"))


def test_weights_that_float16_cannot_hold_do_not_load_as_it(tmp_path: Path) -> None:
    policy = load_policy(model_config())
    with torch.no_grad():
        # The largest float16 is 65504.
        policy.model.model.language_model.norm.weight[0] = 70000.0
    folder = export_checkpoint(policy, tmp_path / "large")
    load_policy(model_config(f"model.path={folder}"))
    with pytest.raises(ModelError, match="1 weights hold NaN or infinity as float16"):
        load_policy(model_config(f"model.path={folder}", "model.dtype=float16"))


def test_a_servers_logprobs_are_checked_too() -> None:
    processor = SimpleNamespace(tokenizer=tiny_tokenizer(), image_token_id=IMAGE_TOKEN)
    requests = VllmRequests.of(tiny_model(), processor, "rollout.engine=vllm_server: the server")
    sampling = SamplingConfig(max_new_tokens=4, stop="eos")

    def rollout(logprob: float) -> object:
        answers = [([[5, 6], [7]], [[-1.0, -2.0], [logprob]])]
        return requests.rollout(answers, sampling, 2, torch.device("cpu"))

    rollout(-3.0)
    with pytest.raises(NonFiniteError, match="in 1 of 2 responses, first at token 1"):
        rollout(math.nan)


def test_an_error_goes_from_one_process_to_the_others() -> None:
    error = NonFiniteError("the model's logits are NaN")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.found) == (NonFiniteError, str(error), error.found)
    assert (error.exit_code, RunFaultError.exit_code) == (2, 74)


def test_a_training_turns_it_into_a_fault(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFaultError, match=r"^the model.s logits are NaN; lower optimizer.lr"),
        StopRequests() as stops,
        machine_faults(stops, tmp_path),
    ):
        raise NonFiniteError("the model's logits are NaN")
