"""The server engine through TRL's own client, against a process that serves a real policy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.support.images import SENTENCE, noise_image
from tools.faults import vllm_transport
from tools.faults.vllm_transport import RunningServer, vllm_server
from vqr1.config import ModelConfig, PromptConfig, RolloutServerConfig, SamplingConfig
from vqr1.errors import ModelError, RolloutLostError
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.loading import load_policy
from vqr1.policy.prompts import PromptBuilder, prompt_builder
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.local import LocalEngine
from vqr1.rollout.vllm_client import ServerAwayError, VllmLink, _free_port_from
from vqr1.rollout.vllm_requests import seeds_of
from vqr1.rollout.vllm_server import Agree, VllmServerEngine

pytestmark = pytest.mark.medium

MODEL = ModelConfig(name="tiny", path=None, min_pixels=28 * 28, max_pixels=112 * 112)
POLICY = load_policy(MODEL)
TOKENIZER = POLICY.processor.tokenizer
BUILDER = PromptBuilder(
    FAMILY, POLICY.processor, SENTENCE, MODEL.min_pixels, MODEL.max_pixels, vision_id=True
)
# The third is the first once more; sizes differ.
IMAGES = [noise_image(0, 56, 56), noise_image(1, 84, 56), noise_image(0, 56, 56)]
PROMPTS = BUILDER(IMAGES)
SAMPLING = SamplingConfig(top_k=50, max_new_tokens=24, stop="answer")


@pytest.fixture(scope="module", autouse=True)
def _stand_ins() -> None:
    vllm_transport.install()


@pytest.fixture(scope="module")
def process() -> Iterator[RunningServer]:
    with vllm_server() as running:
        yield running


@pytest.fixture
def server(process: RunningServer) -> RunningServer:
    process.set()
    return process


def fresh_model(seed: int = 0) -> Any:
    """The tiny policy with its weights moved a little."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(POLICY.source, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * weight.std() * torch.randn(weight.shape, generator=generator))
    return model.eval()


def engine_of(
    server: RunningServer,
    model: Any,
    *,
    sampling: SamplingConfig = SAMPLING,
    alone: bool = True,
    agree: Agree = lambda call: call(),
    folder: Path = Path(),
    **keys: Any,
) -> VllmServerEngine:
    asked = PromptConfig(
        name="sentence", text=SENTENCE, vision_id=bool(keys.pop("vision_id", True))
    )
    prompt = keys.pop("prompt", asked)
    limits: dict[str, Any] = {"patience_s": 0.3, "retries": 1}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        limits["group_port"] = found.getsockname()[1]
    config = RolloutServerConfig(**({"url": server.url} | limits | keys))
    link = VllmLink(config, sampling, torch.device("cpu"), True, folder)
    processing = {"do_resize": False}
    return VllmServerEngine(model, POLICY.processor, prompt, config, link, agree, alone, processing)


def asked(engine: Any, sampling: SamplingConfig = SAMPLING, seed: int = 7) -> Rollout:
    return engine.sample(PROMPTS, group_size=3, sampling=sampling, seed=seed)


def one_by_one(
    model: Any,
    sampling: SamplingConfig = SAMPLING,
    seed: int = 7,
    prompts: PromptBatch = PROMPTS,
) -> list[Rollout]:
    """What the policy itself samples for each prompt from the seed that goes to the server."""
    seeds = seeds_of(prompts.images, seed)
    local = LocalEngine(model, TOKENIZER, 10**6)

    def only(b: int) -> PromptBatch:
        return prompts.select(b, b + 1)

    return [
        local.sample(only(b), group_size=3, sampling=sampling, seed=seeds[b])
        for b in range(len(prompts))
    ]


def check_same(rollout: Rollout, expected: list[Rollout]) -> None:
    assert rollout.logprobs is not None
    for b, single in enumerate(expected):
        width = single.tokens.shape[2]
        assert rollout.texts[b] == single.texts[0]
        assert torch.equal(rollout.mask[b, :, :width], single.mask[0])
        assert not rollout.mask[b, :, width:].any()
        mask = single.mask[0]
        assert torch.equal(rollout.tokens[b, :, :width][mask], single.tokens[0][mask])
        assert torch.equal(rollout.finished[b], single.finished[0])
        assert single.logprobs is not None
        torch.testing.assert_close(
            rollout.logprobs[b, :, :width][mask], single.logprobs[0][mask], rtol=0, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["answer", "eos"])
def test_responses_are_those_of_the_policy_whose_weights_were_sent(
    server: RunningServer, stop: Any
) -> None:
    model = fresh_model()
    sampling = SamplingConfig(top_k=50, max_new_tokens=24, stop=stop)
    engine = engine_of(server, model)
    resets = server.counts()["cache_resets"]
    engine.synchronise()
    assert server.counts()["cache_resets"] == resets + 1
    assert server.counts()["encoder_resets"] == resets + 1
    first = asked(engine, sampling)
    check_same(first, one_by_one(model, sampling))
    # The same image twice in a batch: two samples, not one.
    assert first.texts[0] != first.texts[2]
    # An update that was not sent changes nothing there; sent, it does.
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    assert asked(engine, sampling).texts == first.texts
    engine.synchronise()
    check_same(asked(engine, sampling), one_by_one(model, sampling))


def test_greedy_responses(server: RunningServer) -> None:
    model = fresh_model()
    engine = engine_of(server, model)
    engine.synchronise()
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=24, stop="answer")
    check_same(asked(engine, greedy), one_by_one(model, greedy))


def test_adapters_alone_are_sent_through_a_folder(server: RunningServer, tmp_path: Path) -> None:
    config = PeftConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(POLICY.source, dtype=torch.float32)
    # The server has the base policy's weights, as one has that was started with it.
    engine_of(server, base).synchronise()
    server.set(weight_transfer=None)
    model = get_peft_model(base, config).eval()
    engine = engine_of(
        server, model, url=f"{server.url}/", weights="adapter", folder=tmp_path / "adapter"
    )
    engine.synchronise()
    check_same(asked(engine), one_by_one(model))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(2.0)
    engine.synchronise()
    check_same(asked(engine), one_by_one(model))
    counts = server.counts()
    assert (counts["adapters"], counts["updates"]) == (2, 0)
    # A new process within a step knows no adapters, and refuses to answer by them.
    server.set(instance="other")
    check_same(asked(engine), one_by_one(model))
    assert server.counts()["adapters"] == 1


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        (
            {"no_dev_mode": True},
            {},
            "it does not report its configuration; start it with: VLLM_SER",
        ),
        ({"weight_transfer": None}, {}, "it takes no weights; start it with: VLLM_SERVER_DEV_MODE"),
        ({"lora": None}, {"weights": "adapter"}, "it takes no adapters; start it with VLLM_ALLOW"),
        (
            {"logprobs_mode": "processed_logprobs"},
            {},
            "(processed_logprobs) are not those of the whole distribution at "
            "rollout.sampling.temperature=1; start it with `--logprobs-mode raw_logprobs`",
        ),
    ],
)
def test_servers_that_cannot_serve_a_training(
    server: RunningServer, options: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    server.set(**options)
    with pytest.raises(ModelError) as error:
        engine_of(server, POLICY.model, **keys)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"rollout.server.url={server.url}: the server refuses: ")


def test_logprobs_at_another_temperature_need_another_mode(server: RunningServer) -> None:
    warm = SamplingConfig(temperature=0.7, max_new_tokens=8)
    with pytest.raises(ModelError, match=r"start it with `--logprobs-mode processed_logprobs`$"):
        engine_of(server, POLICY.model, sampling=warm)
    cut = SamplingConfig(temperature=0.7, top_k=50, max_new_tokens=8)
    with pytest.raises(ModelError, match=r"processed_logprobs`, with rollout\.sampling\.top_k=0"):
        engine_of(server, POLICY.model, sampling=cut)


def test_another_checkpoint_or_other_image_sizes_are_noticed(server: RunningServer) -> None:
    server.set(min_pixels=112 * 112, max_pixels=112 * 112)
    engine = engine_of(server, POLICY.model)
    with pytest.raises(ModelError, match="the server builds another prompt") as error:
        asked(engine)
    assert "16 of the image" in str(error.value)
    assert "--mm-processor-kwargs" in str(error.value)


def test_an_answer_that_is_none(server: RunningServer) -> None:
    server.set(garbage=True)
    engine = engine_of(server, POLICY.model)
    with pytest.raises(ModelError, match="the server's answer is not that of vLLM"):
        asked(engine)


def test_one_malformed_reply_is_asked_for_again(server: RunningServer) -> None:
    engine = engine_of(server, POLICY.model)
    # The first of the three images' requests, and its second try.
    number = server.counts()["chat"] + 1
    server.set(garbage_at=[number, number + 3])
    check_same(asked(engine), one_by_one(POLICY.model))
    assert server.counts()["chat"] == number - 1 + len(PROMPTS) + 2


def test_the_prompt_of_the_training_is_asked_for(server: RunningServer) -> None:
    """Each way round the other prompt is noticed, token by token."""
    plain = PromptBuilder(
        FAMILY, POLICY.processor, SENTENCE, MODEL.min_pixels, MODEL.max_pixels, vision_id=False
    )  # fmt: skip
    engine = engine_of(server, POLICY.model, vision_id=False)
    rollout = engine.sample(plain(IMAGES), group_size=1, sampling=SAMPLING, seed=0)
    assert len(rollout.texts) == len(IMAGES)
    with pytest.raises(ModelError, match="builds another prompt"):
        asked(engine)
    with pytest.raises(ModelError, match="builds another prompt"):
        engine_of(server, POLICY.model).sample(
            plain(IMAGES), group_size=1, sampling=SAMPLING, seed=0
        )


def test_several_images_and_a_system_message_are_asked_for(server: RunningServer) -> None:
    prompt = PromptConfig(
        name="two", text="Left <image>, right <image>: which?", images=2, system="You compare.",
        vision_id=True,
    )  # fmt: skip
    prompts = prompt_builder(FAMILY, POLICY.processor, MODEL, prompt)(
        [[IMAGES[0], IMAGES[1]], [IMAGES[1], IMAGES[0]], [IMAGES[2], IMAGES[2]]]
    )
    engine = engine_of(server, POLICY.model, prompt=prompt)
    rollout = engine.sample(prompts, group_size=3, sampling=SAMPLING, seed=7)
    check_same(rollout, one_by_one(POLICY.model, prompts=prompts))


def test_nothing_at_the_address() -> None:
    with pytest.raises(ModelError) as error:
        engine_of(RunningServer(9), POLICY.model)
    assert str(error.value).startswith(
        "rollout.server.url=http://127.0.0.1:9: no vLLM server (no answer within "
        "rollout.server.patience_s=0.3: "
    )
    assert str(error.value).endswith("); start it, or correct the address")


def test_without_vllm_here(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.generation.vllm_client.is_vllm_available", lambda: False)
    with pytest.raises(ModelError, match=r"pip install 'vqr1\[vllm\]'`, or use rollout=local"):
        engine_of(server, POLICY.model)


def test_an_overloaded_server_is_asked_again(server: RunningServer) -> None:
    server.set(fail_at=[1, 3])
    engine = engine_of(server, POLICY.model, retries=3)
    engine.synchronise()
    check_same(asked(engine), one_by_one(POLICY.model))
    assert server.counts()["chat"] == 5


def test_a_server_that_hangs_is_given_up(server: RunningServer) -> None:
    server.set(chat_seconds=20.0)
    engine = engine_of(server, POLICY.model, alone=False, timeout_s=3.0, retries=0)
    with pytest.raises(RolloutLostError, match="timed out"):
        asked(engine)


def test_a_new_process_at_the_address_gets_the_weights(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    model = fresh_model(seed=5)
    engine = engine_of(server, model)
    engine.synchronise()
    assert "started anew" not in caplog.text
    server.set(instance="other")
    engine.synchronise()
    assert f"{server.url}: the server has been started anew" in caplog.text
    assert server.counts()["updates"] == 1
    check_same(asked(engine), one_by_one(model))


def test_a_process_that_sends_nothing_is_given_of_the_new_one(server: RunningServer) -> None:
    engine = engine_of(server, POLICY.model, alone=False, agree=lambda call: "other")
    server.set(instance="other")
    with pytest.raises(RolloutLostError, match="it has been started anew"):
        asked(engine)
    engine.synchronise()
    assert server.counts()["updates"] == 0
    asked(engine)


def test_responses_under_way_are_those_of_the_weights_that_were_sent(
    server: RunningServer,
) -> None:
    model = fresh_model(seed=6)
    expected = one_by_one(model)
    engine = engine_of(server, model)
    engine.synchronise()
    server.set(chat_seconds=2.0)
    keys: Any = {"group_size": 3, "sampling": SAMPLING, "seed": 7}
    responses = engine.begin(PROMPTS, **keys).wait
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    assert server.counts()["sampled"] == 0
    check_same(responses(), expected)
    # Whatever answers at the address later has not those weights, and cannot be given them again.
    responses = engine.begin(PROMPTS, **keys).wait
    server.set(instance="other")
    with pytest.raises(RolloutLostError, match="it has been started anew"):
        responses()


def test_cancelled_requests_that_were_queued_are_not_sent(server: RunningServer) -> None:
    engine = engine_of(server, POLICY.model, concurrency=1)
    server.set(chat_seconds=0.5)
    before = set(threading.enumerate())
    asked_before = server.counts()["chat"]
    engine.begin(PROMPTS, group_size=3, sampling=SAMPLING, seed=7).cancel()
    # As the process's end would.
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert server.counts()["chat"] - asked_before <= 1


def test_a_new_process_that_is_gone_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(server, POLICY.model)

    def gone(link: VllmLink) -> None:
        raise ServerAwayError("no answer")

    monkeypatch.setattr(VllmLink, "open", gone)
    server.set(instance="other")
    with pytest.raises(RolloutLostError, match=r"lost the rollout server \(no answer\)"):
        engine.synchronise()


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as used:
        used.bind(("", 0))
        used.listen()
        taken = used.getsockname()[1]
        assert _free_port_from(taken) > taken
