"""Whether the hub is asked at all."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import LoraConfig, ModelConfig, validate
from vqr1.errors import ConfigError, ModelError
from vqr1.policy.checkpoint_config import hub_is_away
from vqr1.policy.families import family
from vqr1.policy.loading import _check_processor, load_policy


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
        hub_is_away.cache_clear()
        assert not hub_is_away()
    hub_is_away.cache_clear()
    assert hub_is_away()
    # A proxy may reach what this machine does not.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    hub_is_away.cache_clear()
    assert not hub_is_away()
    hub_is_away.cache_clear()


def test_a_processor_without_image_tokens_is_refused_in_one_line() -> None:
    clip = SimpleNamespace(image_processor=object())
    with pytest.raises(ModelError, match=r"^here: a SimpleNamespace makes no prompts [^\n]*$"):
        _check_processor(clip, family("qwen2_5_vl", "the model"), None, "here")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["nosuch", "q_proj"], "['nosuch', 'q_proj']: the text model has no linear layers called "
         "nosuch; name some of "),
        (["input_layernorm"], "['input_layernorm']: the text model has no linear layers called "),
        (["q_proj|("], "no linear layers called q_proj|(; name some of "),
        ([], "model.lora.target_modules=[]: empty; name some of down_proj, "),
    ],
)  # fmt: skip
def test_adapters_of_layers_that_there_are_not(names: list[str], words: str) -> None:
    lora = LoraConfig(rank=2, alpha=4.0, target_modules=names)
    chosen = validate(ModelConfig, plain_values(compose_config("train", ["run_dir=run"]))["model"])
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_policy(replace(chosen, lora=lora))
