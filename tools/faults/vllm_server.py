"""A process that implements vLLM's HTTP protocol as TRL's client uses it, with a real policy after.

The prompt is rendered and the image prepared by the checkpoint's own processor, not by ours.
Weights come through a store of PyTorch in place of NCCL (`vllm_transport.py` is the other end).
Run it as `python -m tools.faults.vllm_server PORT`.
"""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from peft import PeftModel
from PIL import Image
from torch.distributed import TCPStore
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from vqr1.config import SamplingConfig
from vqr1.policy.families._qwen_images import PATCH
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine

STORE_SECONDS = 30
SERVED = "served-policy"
SIZES = ("min_pixels", "max_pixels")


class Served:
    """The policy of the server and what was asked of it; a method for each route."""

    def __init__(self) -> None:
        folder = str(tiny_policy_folder())
        self.options: dict[str, Any] = {}
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.adapters: dict[str, PeftModel] = {}
        self.store: TCPStore | None = None
        self.handed_over = 0
        self.updating = False
        self.instance = uuid.uuid4().hex[:5]
        self.counts = {
            "chat": 0,
            "sampled": 0,
            "updates": 0,
            "adapters": 0,
            "cache_resets": 0,
            "encoder_resets": 0,
        }
        self.one_at_a_time = threading.Lock()

    def app(self) -> FastAPI:
        app = FastAPI()
        reads: dict[str, Callable[..., Any]] = {
            "/health": lambda: {},
            "/v1/models": self.models,
            "/server_info": self.server_info,
            "/get_world_size": lambda: {"world_size": 1},
            "/counts": lambda: {**self.counts, "pid": os.getpid()},
        }
        for path, answer in reads.items():
            app.add_api_route(path, answer, methods=["GET"], response_model=None)
        writes: dict[str, Callable[..., Any]] = {
            "/options": self.set_options,
            "/init_weight_transfer_engine": self.join,
            "/start_weight_update": self.start_update,
            "/update_weights": self.update,
            "/finish_weight_update": self.finish_update,
            "/reset_prefix_cache": self.reset_cache,
            "/reset_encoder_cache": self.reset_encoder_cache,
            "/v1/load_lora_adapter": self.load_adapter,
            "/v1/unload_lora_adapter": self.unload_adapter,
            "/v1/chat/completions": self.chat,
        }
        for path, answer in writes.items():
            app.add_api_route(path, answer, methods=["POST"], response_model=None)
        return app

    def set_options(self, body: dict[str, Any]) -> dict[str, Any]:
        """Of the tests alone: how this server differs from one that serves well."""
        self.options = body
        for name in list(self.adapters):
            self.unload_adapter({"lora_name": name})
        self.counts = dict.fromkeys(self.counts, 0)
        return body

    def die_at(self, count: str) -> None:
        """End as a kill from outside does, where a test has asked for it at this number."""
        if self.options.get("die_at", {}).get(count) == self.counts[count]:
            os.kill(os.getpid(), signal.SIGKILL)

    def models(self) -> dict[str, Any]:
        return {"data": [{"id": name} for name in (SERVED, *self.adapters)]}

    def server_info(self, config_format: str) -> dict[str, Any]:
        assert config_format == "json"
        options = self.options
        if options.get("no_dev_mode"):
            raise HTTPException(404, "Not Found")
        return {
            "vllm_config": {
                "instance_id": options.get("instance", self.instance),
                "model_config": {
                    "dtype": "torch.float32",
                    "logprobs_mode": options.get("logprobs_mode", "raw_logprobs"),
                },
                "weight_transfer_config": options.get("weight_transfer", {"backend": "nccl"}),
                "lora_config": options.get("lora", {"max_lora_rank": 64}),
            }
        }

    def join(self, body: dict[str, Any]) -> dict[str, str]:
        info = body["init_info"]
        assert info["world_size"] == 2
        self.store = TCPStore(
            info["master_address"], info["master_port"], is_master=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )  # fmt: skip
        self.handed_over = 0
        return {"message": "Weight transfer initialized"}

    def start_update(self) -> dict[str, str]:
        self.updating = True
        return {"message": "Weight update started"}

    def update(self, body: dict[str, Any]) -> dict[str, str]:
        if self.store is None or not self.updating:
            raise HTTPException(500, "no weight transfer engine")
        info = body["update_info"]
        places = dict(self.model.named_parameters())
        described = zip(info["names"], info["dtype_names"], info["shapes"], strict=True)
        with self.one_at_a_time, torch.no_grad():
            for number, (name, dtype, shape) in enumerate(described):
                key = f"{self.handed_over}/{number}"
                raw = np.frombuffer(self.store.get(key), dtype=np.uint8).copy()
                self.store.delete_key(key)
                value = torch.from_numpy(raw).view(getattr(torch, dtype)).view(shape)
                places.pop(name).copy_(value)
        assert not places, f"not sent: {sorted(places)}"
        self.handed_over += 1
        self.counts["updates"] += 1
        return {"message": "Weights updated"}

    def finish_update(self) -> dict[str, str]:
        self.updating = False
        return {"message": "Weight update finished"}

    def reset_cache(self) -> dict[str, bool]:
        self.counts["cache_resets"] += 1
        self.die_at("cache_resets")
        return {"success": True}

    def reset_encoder_cache(self) -> Response:
        self.counts["encoder_resets"] += 1
        return Response()  # with an empty body, as there

    def load_adapter(self, body: dict[str, Any]) -> str:
        name = body["lora_name"]
        if name in self.adapters:
            raise HTTPException(400, f"The lora adapter '{name}' has already been loaded.")
        self.adapters[name] = PeftModel.from_pretrained(self.model, body["lora_path"]).eval()
        self.counts["adapters"] += 1
        return "Success"

    def unload_adapter(self, body: dict[str, Any]) -> str:
        found = self.adapters.pop(body["lora_name"], None)
        if found is None:
            raise HTTPException(404, "no such adapter")
        self.model = found.unload()
        return "Success"

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.one_at_a_time:
            self.counts["chat"] += 1
            number = self.counts["chat"]
            self.die_at("chat")
        time.sleep(self.options.get("chat_seconds", 0.0))
        if number in self.options.get("fail_at", []):
            raise HTTPException(503, "overloaded")
        if self.options.get("garbage") or number in self.options.get("garbage_at", []):
            return {"choices": [{"text": "4"}], "prompt_token_ids": []}
        assert (body["logprobs"], body["return_tokens_as_token_ids"]) == (True, True)
        # What is absent, a server takes from the checkpoint or from its own defaults.
        assert [body[name] for name in ("repetition_penalty", "min_p")] == [1.0, 0.0]
        assert [body[name] for name in ("presence_penalty", "frequency_penalty")] == [0.0, 0.0]
        if body["temperature"] == 0 and body["n"] > 1:
            raise HTTPException(400, f"n must be 1 when using greedy sampling, got {body['n']}.")
        prompts = self.prompts(body)
        at_answer = body.get("stop") == ["</answer>"] and body["include_stop_str_in_output"]
        sampling = SamplingConfig(
            temperature=body["temperature"],
            top_k=body["top_k"],
            top_p=body["top_p"],
            max_new_tokens=body["max_tokens"],
            stop="answer" if at_answer else "eos",
        )
        if body["model"] not in (SERVED, *self.adapters):
            raise HTTPException(404, f"The model `{body['model']}` does not exist.")
        model = self.adapters.get(body["model"], self.model)
        with self.one_at_a_time:
            self.counts["sampled"] += 1
            rollout = LocalEngine(model, self.processor.tokenizer, 10**6).sample(
                prompts, group_size=body["n"], sampling=sampling, seed=body.get("seed", 0)
            )
        assert rollout.logprobs is not None
        choices = []
        for k in range(body["n"]):
            tokens = rollout.tokens[0, k][rollout.mask[0, k]].tolist()
            content = [
                {"token": f"token_id:{token}", "logprob": value, "top_logprobs": []}
                for token, value in zip(tokens, rollout.logprobs[0, k].tolist(), strict=False)
            ]
            choices.append({"index": k, "token_ids": tokens, "logprobs": {"content": content}})
        return {"prompt_token_ids": prompts.input_ids[0].tolist(), "choices": choices}

    def prompts(self, body: dict[str, Any]) -> PromptBatch:
        """One prompt by the processor's own code."""
        messages, images = [], []
        for message in body["messages"]:
            if isinstance(message["content"], str):
                messages.append(message)
                continue
            parts = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    data = part["image_url"]["url"].split(",", 1)[1]
                    images.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            messages.append({"role": message["role"], "content": parts})
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **body["chat_template_kwargs"]
        )
        sizes = {name: self.options[name] for name in SIZES if name in self.options}
        made = self.processor(text=[text], images=images, return_tensors="pt", **sizes)
        resized = []
        for image, (_, rows, columns) in zip(images, made["image_grid_thw"].tolist(), strict=True):
            # The same size where the image comes resized, as it should.
            own = image.resize((columns * PATCH, rows * PATCH), Image.Resampling.BICUBIC)
            resized.append(torch.from_numpy(np.array(own)))
        return PromptBatch((made["input_ids"][0],), (tuple(resized),))


if __name__ == "__main__":
    torch.set_num_threads(1)
    uvicorn.run(Served().app(), host="127.0.0.1", port=int(sys.argv[1]))
