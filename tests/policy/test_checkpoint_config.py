"""What is refused by `config.json` alone, and what a hub's answers mean: one line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT_TO_TEXT,
)

from vqr1.config import ModelConfig
from vqr1.errors import ModelError
from vqr1.policy.checkpoint_config import hub_is_away, load_family
from vqr1.policy.families import FAMILIES
from vqr1.policy.loading import load_policy, load_processor
from vqr1.policy.packaged import tiny_policy_folder


def model(path: Path | str, revision: str | None = None) -> ModelConfig:
    return ModelConfig(
        name="m", path=str(path), revision=revision, min_pixels=12544, max_pixels=12544
    )


def refusal(config: ModelConfig, load: Any = load_family) -> str:
    """The one line after `model.path=...: `."""
    with pytest.raises(ModelError) as caught:
        load(config)
    text, head = str(caught.value), f"model.path={config.path}: "
    assert "\n" not in text
    assert text.startswith(head)
    return text.removeprefix(head)


def written(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return folder


def test_every_other_model_of_images_and_text_is_refused_by_name(tmp_path: Path) -> None:
    others = sorted(IMAGE_TEXT_TO_TEXT.keys() - set(FAMILIES))
    assert len(others) > 40
    for name in others:
        found = refusal(model(written(tmp_path, {"model_type": name})))
        assert found == (
            f"the checkpoint is a {name}, the policy must be one of: {', '.join(FAMILIES)}; "
            "missing: a family of its own"
        )


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        (
            {"model_type": "gemma3", "text_config": {"layer_types": ["sliding_attention"]}},
            "is a gemma3, the policy must be one of",
        ),
        (
            {"model_type": "gemma3", "text_config": {"layer_types": ["sliding_attention"]}},
            "missing: a family of its own and sliding windows",
        ),
        (
            {"model_type": "qwen3_next", "text_config": {"layer_types": ["linear_attention"]}},
            "missing: a family of its own and layers without keys and values",
        ),
        (
            {"model_type": "llava_qwen2", "auto_map": {"AutoConfig": "llava_qwen.LlavaConfig"}},
            "a llava_qwen2 that brings code of its own (llava_qwen.py), which is never executed",
        ),
        (
            {"model_type": "moondream1", "auto_map": {"AutoConfig": "a/b--moondream.Config"}},
            "brings code of its own (moondream.py)",
        ),
        ({"architectures": ["Some"]}, "config.json is not the configuration of a model"),
        ([1], "config.json is not the configuration of a model"),
        ("{", "config.json cannot be read (Expecting property name"),
    ],
)
def test_what_config_json_alone_refuses(tmp_path: Path, values: Any, printed: str) -> None:
    assert printed in refusal(model(written(tmp_path, values)))


def test_no_config_json_at_all(tmp_path: Path) -> None:
    assert refusal(model(tmp_path)).startswith("no config.json in this folder")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tiny policy in a folder of its own."""
    return Path(shutil.copytree(tiny_policy_folder(), tmp_path / "copy"))


def changed(folder: Path, name: str = "config.json", **values: Any) -> Path:
    file = folder / name
    old = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(old | values), encoding="utf-8")
    return folder


def test_code_beside_a_known_model_is_not_needed_and_not_run(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('executed')\n")
    changed(copy, auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    assert load_family(model(copy)) is load_family(model(tiny_policy_folder()))


def test_sliding_windows_are_refused_before_the_weights_load(copy: Path) -> None:
    changed(copy, use_sliding_window=True, max_window_layers=1)
    found = refusal(model(copy))
    assert found.startswith("config.json sets use_sliding_window: true; ")
    assert refusal(model(copy), load_policy) == found


def test_a_processor_of_another_model(copy: Path) -> None:
    changed(copy, image_token_id=5)
    assert "the model's 5: the processor of another model" in refusal(model(copy), load_processor)


def test_a_tokenizer_of_another_model(copy: Path) -> None:
    changed(copy, vocab_size=500)
    found = refusal(model(copy), load_processor)
    assert found.startswith("its tokenizer has ")
    assert "the model 500: the tokenizer of another model" in found


def test_weights_of_another_model(copy: Path) -> None:
    changed(copy, intermediate_size=64)
    found = refusal(model(copy), load_policy)
    # gate, up and down of each of the four layers.
    assert found.startswith("12 weights have other sizes than config.json states, model.")


ANSWERS = {
    "gated/model": (401, "GatedRepo"),
    "refused/model": (403, "GatedRepo"),
    "gone/model": (401, "RepoNotFound"),
    "none/model": (404, "RepoNotFound"),
    "good/model": (404, "RevisionNotFound"),
    "data/model": (404, "EntryNotFound"),
    "token/model": (403, None),
}
"""Status and `X-Error-Code` with which the hub refuses a file of these repositories."""


class Hub(BaseHTTPRequestHandler):
    """Refuses every file as the hub does."""

    def do_HEAD(self) -> None:
        status, code = ANSWERS.get("/".join(self.path.split("/")[1:3]), (404, None))
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def hub_at(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changes:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_TOKEN"):
            changes.delenv(name, raising=False)
            changes.delenv(name.upper(), raising=False)
        changes.setattr(huggingface_hub.constants, "ENDPOINT", address)
        changes.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        changes.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        hub_is_away.cache_clear()
        yield
    hub_is_away.cache_clear()


def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with hub_at(address, monkeypatch):
            for name in ("gated/model", "refused/model"):
                assert refusal(model(name)) == (
                    f"this repository is gated; accept its terms at {address}/{name} and {log_in}"
                )
                assert refusal(model(name), load_processor) == refusal(model(name))
            for name in ("gone/model", "none/model"):
                assert refusal(model(name)) == (
                    f"the hub shows no model of this name; correct it, or {log_in} if it is private"
                )
            found = refusal(model("good/model", "v9"))
            assert found == "the hub has no revision v9 of it; set model.revision"
            assert refusal(model("data/model")).startswith("the hub has no config.json of it; ")
            assert refusal(model("token/model")).startswith("the hub refuses it (HTTP 403); log")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_at("http://127.0.0.1:1", monkeypatch):
        for name in ("some/model", "a/b/c", "no such name"):
            assert refusal(model(name)).startswith(
                "no checkpoint folder and no model that the hub knows or this machine can reach"
            )
