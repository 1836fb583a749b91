"""vLLM itself on a CPU with every family that it has: tiny checkpoints (`make test-vllm`)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policy.families.cases import CASES, FamilyCase
from tests.policy.families.library import images_of
from tests.support.images import SENTENCE
from tests.support.real_vllm import needs_vllm
from tools.tiny_checkpoints import build
from vqr1.cli.plan import load_train_config
from vqr1.config import (
    ColocatedConfig,
    ModelConfig,
    PromptConfig,
    SamplingConfig,
    VllmBackendConfig,
)
from vqr1.errors import ModelError
from vqr1.inference.backends import vllm as vllm_backend
from vqr1.inference.backends.local import LocalBackend
from vqr1.inference.backends.vllm import VllmBackend
from vqr1.inference.request import Request
from vqr1.iqa.answers import PUBLISHED
from vqr1.policy.loading import load_policy
from vqr1.policy.prompts import prompt_builder
from vqr1.policy.shared_prompt import response_logprobs
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_colocated import VllmColocatedEngine
from vqr1.training.build import check_engine

ONE = PromptConfig(name="one", text=SENTENCE)
TWO = PromptConfig(
    name="two", text="Left <image>, right <image>: which?", images=2, system="You compare images."
)
GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=24)
ELSEWHERE = ("fast_vlm", "internvl", "qwen2_5_vl", "qwen3_5")
IN_VLLM = [case for case in CASES if case.model_type not in ELSEWHERE]
"""All that vLLM has, but the one that other tests run with, and Qwen3.5, with which vLLM 0.31 does
not start on a CPU (chunked prefill is off there, and its state cache asks for it)."""


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets this process have an engine again and again."""
    monkeypatch.setattr(VllmColocatedEngine, "_started", False)
    yield
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def moved(model: Any) -> Any:
    """Something like an update of all weights, in place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(0.05 * weight.std() * noise)
    return model


@needs_vllm
@pytest.mark.parametrize("case", IN_VLLM, ids=lambda case: case.model_type)
def test_greedy_answers_are_the_local_engines(
    case: FamilyCase, one_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, after an update, and in scoring; about one image and about two."""
    folder = build(case.model_type, tmp_path, seed=1, for_vllm=True)
    low, high = case.area
    config = ModelConfig(name="m", path=str(folder), min_pixels=low, max_pixels=high)
    policy, images = load_policy(config), images_of(case.sizes)
    # Started for temperature 1: log-probabilities are those of the whole vocabulary then.
    sampling = SamplingConfig(max_new_tokens=GREEDY.max_new_tokens, top_k=50)
    engine = VllmColocatedEngine(
        policy, TWO, ColocatedConfig(kv_cache_gib=0.0625, enforce_eager=True), config, sampling,
        dtype="float32", seed=0, alone=True,
    )  # fmt: skip
    pairs = [(images[0], images[1]), (images[1], images[0]), (images[2], images[2])]
    prompts = prompt_builder(policy.family, policy.processor, config, TWO)(pairs)
    changed = moved(load_policy(config).model)
    served = engine.with_model(changed).sample(prompts, group_size=1, sampling=GREEDY, seed=0)
    own = LocalEngine(changed, policy.processor.tokenizer, 10**6).sample(
        prompts, group_size=1, sampling=GREEDY, seed=0
    )
    assert torch.equal(served.tokens, own.tokens)
    with torch.no_grad():
        passed = response_logprobs(changed, prompts, served.tokens, served.mask).logprobs
    assert served.logprobs is not None
    assert float((passed - served.logprobs)[served.mask].abs().max()) < 1e-4

    # The engine of a backend is the same one, with the checkpoint's own weights.
    engine.with_model(policy.model).sample(prompts, group_size=1, sampling=GREEDY, seed=0)
    monkeypatch.setattr(vllm_backend, "start_vllm", lambda *_, **__: engine._llm)
    backends = (
        VllmBackend(VllmBackendConfig(name="vllm"), config, images=2),
        LocalBackend(policy, config),
    )
    for prompt, shown in ((ONE, images), (TWO, pairs)):
        request = Request(prompt=prompt, answer=PUBLISHED, sampling=GREEDY)
        resized = [
            backends[0].resize(one) if prompt is ONE else [backends[0].resize(i) for i in one]
            for one in shown
        ]
        theirs, ours = (backend.reply(resized, request) for backend in backends)
        assert theirs == ours
        assert len({reply.texts for reply in ours}) > 1


@pytest.mark.medium
@pytest.mark.parametrize(
    ("model_type", "problem"),
    [
        ("fast_vlm", "no FastVLM models"),
        ("internvl", "no InternVL models that take tiles which are cut already"),
        ("llava", "no LLaVA with several layers of the tower (vision_feature_layer=[-3, -2])"),
    ],
)
def test_what_vllm_lacks_is_refused_before_it_is_loaded(
    model_type: str, problem: str, tmp_path: Path
) -> None:
    folder = build(model_type, tmp_path, seed=1)
    (folder / "model.safetensors").unlink()
    config = ModelConfig(name="m", path=str(folder), min_pixels=1, max_pixels=4096)
    with pytest.raises(ModelError) as scored:
        VllmBackend(VllmBackendConfig(name="vllm"), config)
    assert str(scored.value) == f"backend=vllm: vLLM has {problem}; use backend=local"
    model = f"model.path={folder} model.min_pixels=1 model.max_pixels=4096"
    for engine in ("vllm_colocated", "vllm_server"):
        with pytest.raises(ModelError) as trained:
            check_engine(load_train_config([*model.split(), f"rollout={engine}"]))
        assert str(trained.value) == (
            f"rollout.engine={engine}: vLLM has {problem}; use rollout=local"
        )
