"""Machine profiles: each fits some machine, and states in one line where it does not."""

from __future__ import annotations

import pytest

from tests.cli.test_configs import choices, train_config
from vqr1.distributed.hardware import Machine, fitting_profile, hardware_problems
from vqr1.errors import ConfigError
from vqr1.policy.quantization import rollout_problems
from vqr1.rewards.build import build_rewards
from vqr1.training.checks import check_training

CPU = Machine()
HALF = Machine(cpu_bfloat16=True)
ONE = Machine(gpus=1, bfloat16=True)
EIGHT = Machine(
    gpus=8, bfloat16=True, deepspeed=True, flash_attention_2=True, flash_attention_3=True
)


@pytest.mark.parametrize("name", choices("hardware"))
def test_every_profile_fits_a_machine_or_states_in_one_line_why_not(name: str) -> None:
    hardware = train_config(f"hardware={name}").hardware
    fitting = HALF if name.startswith(("auto", "cpu")) else EIGHT
    assert hardware_problems(hardware, fitting) == []
    for machine in (CPU, ONE, EIGHT):
        problems = hardware_problems(hardware, machine)
        assert len(problems) <= 2
        assert all("\n" not in line and "hardware" in line for line in problems)
    if not name.startswith(("auto", "cpu")):
        assert hardware_problems(hardware, CPU) == [
            "hardware.accelerator=gpu: PyTorch finds no CUDA device on this machine; choose "
            "hardware=cpu"
        ]
    if hardware.devices == 8:
        assert hardware_problems(hardware, ONE)[0] == (
            "hardware.devices=8: PyTorch finds 1 CUDA device on this machine; choose hardware=1gpu"
        )


def test_what_is_missing_is_named_with_what_to_use_instead() -> None:
    assert fitting_profile(CPU) == "cpu"
    assert fitting_profile(EIGHT) == "8gpu_zero3"
    assert fitting_profile(Machine(gpus=4)) == "8gpu_fsdp2 hardware.devices=4"
    old = Machine(gpus=8)
    zero = train_config("hardware=8gpu_zero2", "hardware.attention=flash_attention_2").hardware
    assert [line.partition(":")[0] for line in hardware_problems(zero, old)] == [
        "hardware.precision=bf16-mixed", "hardware.attention=flash_attention_2",
        "hardware.strategy=zero2",
    ]  # fmt: skip
    assert hardware_problems(zero, old)[2].endswith("strategy=fsdp2 (hardware=8gpu_fsdp2)")
    # Without instructions for bfloat16 it would take longer than float32.
    in_half = train_config("hardware=cpu_bf16").hardware
    assert "no instructions for bfloat16" in hardware_problems(in_half, CPU)[0]
    assert "no instructions for bfloat16" in hardware_problems(in_half, EIGHT)[0]
    assert hardware_problems(in_half, HALF) == []
    # A CPU refuses the profiles of GPUs.
    divided = train_config("hardware=cpu_2procs", "hardware.strategy=zero3").hardware
    assert hardware_problems(divided, CPU)[0].endswith("or use hardware.strategy=fsdp2")
    whole = train_config("hardware=1gpu", "hardware.offload=true").hardware
    (line,) = hardware_problems(whole, ONE)
    assert line.startswith("hardware.offload=true, hardware.strategy=auto: only zero3")


def test_adapters_come_with_their_profile() -> None:
    config = train_config("hardware=1gpu_lora", "model=qwen2_5_vl_7b")
    assert config.model.lora is not None
    assert config.model.dtype == "bfloat16"
    assert train_config("hardware=1gpu").model.lora is None


def test_a_step_that_the_processes_cannot_share() -> None:
    config = train_config("hardware=cpu_2procs", "loader.global_batch_size=9")
    with pytest.raises(ConfigError) as caught:
        check_training(config, build_rewards(config.reward))
    assert caught.value.problems == [
        "loader.global_batch_size=9: 2 processes (hardware.devices x hardware.nodes) cannot share "
        "it equally; use 8 or 10, or another number of processes"
    ]


def problems_of(*overrides: str) -> list[str]:
    config = train_config(*overrides)
    try:
        check_training(config, build_rewards(config.reward))
    except ConfigError as error:
        return error.problems
    return []


BY_COMPONENT = ("reward=margin", "advantage=by_component", "loader.batch_size=6")


@pytest.mark.medium
def test_fields_and_terms_that_nothing_has_are_named_at_the_start() -> None:
    assert problems_of(*BY_COMPONENT) == []
    assert problems_of(*BY_COMPONENT, "advantage.components.score=[margin,style]") == [
        "advantage: style: no term of the reward, which has margin, format; name these "
        "(advantage.components)"
    ]
    assert problems_of(*BY_COMPONENT, "~advantage.components.response") == [
        "advantage: no field is credited with reward.terms.format, which would train nothing; add "
        "it to a field of advantage.components, or leave it out of the reward"
    ]
    assert problems_of(*BY_COMPONENT, "+advantage.components.evidence=[margin]") == [
        "advantage: evidence: no field of the answer, which has response, score, reasoning; "
        "credit one of these (advantage.components), or ask for an answer with that field (answer)"
    ]
    nested = ("answer=json", "answer.words=[a.b]", "+advantage.components={a.b:[margin]}")
    assert problems_of(*BY_COMPONENT, *nested) == []


def test_advantages_of_the_order_alone_take_no_reward_that_names_a_score() -> None:
    assert problems_of("advantage=shift_free") == []
    assert problems_of("advantage=shift_free", "reward=mse") == [
        "advantage: takes away what moves all scores alike, which reward.terms.mse asks for; use "
        "advantage=centred"
    ]


def test_words_are_no_ratings() -> None:
    words = ("reward=preresq", "answer=json", "answer.words=[noise,blur]", "loader.batch_size=6")
    line = (
        "reward.terms.ratings: it needs 2 or more numbers beside the score, and the answer form "
        "has {}; use a form with ratings, such as prompt=preresq (answer=five_ratings)"
    )
    assert problems_of(*words) == [line.format("none")]
    assert problems_of(*words, "answer.scores=[sharpness]") == [line.format("sharpness")]
    assert problems_of(*words, "answer.scores=[sharpness,colour]") == []


def test_questions_need_an_engine_that_takes_their_prompts() -> None:
    (line,) = problems_of("validation.questions=q.json", "rollout=vllm_server")
    assert line.startswith("validation.questions=q.json, rollout.engine=vllm_server: this engine")


def test_weights_of_four_bits_are_handed_to_no_engine() -> None:
    keys = ("hardware=1gpu_lora", "model.quantization=nf4")
    given = "vLLM is given all weights, and adapters cannot be added to codes of 4 bits; use"
    problems = problems_of(*keys, "rollout=vllm_colocated")
    start = "model.quantization=nf4, rollout.engine=vllm_colocated: "
    assert [line for line in problems if given in line and line.startswith(start)]
    config = train_config(*keys, "rollout=vllm_server")
    (line,) = rollout_problems(config.model, config.rollout)
    assert "rollout.engine=vllm_server, rollout.server.weights=merged: vLLM is given" in line
    # Adapters are sent alone, and responses are sampled in this process.
    for further in (("rollout=vllm_server", "rollout.server.weights=adapter"), ()):
        config = train_config(*keys, *further)
        assert rollout_problems(config.model, config.rollout) == []


@pytest.mark.parametrize("stage", ["grpo", "sft prompt=non_thinking"])
def test_an_engine_has_to_serve_every_stage(stage: str) -> None:
    overrides = (*f"stage={stage}".split(), "rollout.sampling.temperature=0.7")
    (line,) = problems_of(*overrides, "rollout=vllm_colocated", "rollout.sampling.top_k=20")
    assert line.startswith("rollout.engine=vllm_colocated, rollout.sampling.temperature=0.7: vLLM")
    (line,) = problems_of(*overrides, "rollout=vllm_server", "rollout.server.weights=adapter")
    assert line.startswith("rollout.server.weights=adapter, model.lora=null: there are no")


def test_a_decay_rate_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.betas.*less than 1"):
        train_config("optimizer.betas=[0.9,1.0]")


def test_a_cpu_is_not_shared_by_any_number_of_processes() -> None:
    hardware = train_config("hardware=cpu_2procs", "hardware.devices=9").hardware
    assert hardware_problems(hardware, Machine(cores=3)) == []
    (line,) = hardware_problems(hardware, Machine(cores=2))
    assert line.startswith("hardware.devices=9: on the CPU each is a process")
    assert line.endswith("this machine has 2 cores; use at most 8")
    assert "has 1 core; use at most 4" in hardware_problems(hardware, Machine())[0]
