"""Backends that cannot do what the mode or the model asks for, in one line each."""

from __future__ import annotations

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ScoreConfig, validate
from vqr1.inference.mode_checks import backend_problems


def problems_of(*overrides: str) -> list[str]:
    config = validate(ScoreConfig, plain_values(compose_config("score", overrides)))
    return backend_problems(config.backend, config.mode, config.model)


def test_vllm_loads_no_weights_of_four_bits() -> None:
    assert problems_of("backend=vllm", "model.quantization=nf4") == [
        "model.quantization=nf4, backend=vllm: vLLM loads the checkpoint's own weights; use "
        "backend=local, or model.quantization=null"
    ]
    assert problems_of("model.quantization=nf4") == problems_of("backend=vllm") == []
