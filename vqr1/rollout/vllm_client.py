"""The connection to a vLLM server: TRL's client, made patient and precise.

TRL's `VLLMClient` knows the server's protocol: requests, and the hand-over of weights from GPU to
GPU. Added here: a limit on every wait, refusals distinguished from faults, the check that the
server reports log-probabilities of the distribution that the training differentiates, and noticing
that another server process answers than the one that was given the weights.

Not here: prompts and responses (`vllm_server.py`).
"""

from __future__ import annotations

import atexit
import errno
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import torch
from requests.adapters import HTTPAdapter
from torch import nn
from urllib3.util.retry import Retry

from vqr1.config import RolloutServerConfig, SamplingConfig
from vqr1.errors import ModelError
from vqr1.policy.served_weights import served_weights
from vqr1.program import installing
from vqr1.rollout.messages import shortened
from vqr1.rollout.vllm_requests import fitting_logprobs

logger = logging.getLogger(__name__)

ADAPTER = "vqr1-policy"
"""Name under which the server knows the adapters."""

RECONNECTIONS = 3
"""Times that a lost server may come back within one request for a batch's responses."""

LONGEST_PAUSE_S = 10.0

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve CHECKPOINT --logprobs-mode raw_logprobs "
    '--weight-transfer-config \'{"backend": "nccl"}\''
)
"""How a server is started; the whole of it is in docs/rollout_engines.md."""


class VllmLink:
    """One connection; open it before use, and again after the server was lost.

    Args:
        config: address and limits.
        sampling: how the training draws responses.
        device: where the weights are that will be sent.
        sends: this process sends the weights.
        adapter_dir: folder for the adapters that the server reads.

    Attributes:
        current: the server was given weights since the connection was opened.
        instance: names the server process that has the weights, which another one would not.
    """

    def __init__(
        self,
        config: RolloutServerConfig,
        sampling: SamplingConfig,
        device: torch.device,
        sends: bool,
        adapter_dir: Path,
    ) -> None:
        self._config = config
        self._url = config.url.rstrip("/")
        self._group_port = config.group_port
        self._sampling = sampling
        self._device = device
        self._sends = sends
        self._adapter_dir = adapter_dir
        self._client: Any = None
        self._dtype = torch.float32
        self._shapes: list[tuple[str, list[int]]] | None = None
        self.current = False
        self.instance: str | None = None

    @property
    def client(self) -> Any:
        """TRL's client of the open connection."""
        assert self._client is not None
        return self._client

    def open(self) -> None:
        """Look, and join the group that hands weights over; see `look`."""
        if self._client is not None:
            self._client.close_communicator()
            atexit.unregister(self._client.close_communicator)
            # Loader workers that were forked meanwhile continue holding the old port.
            self._group_port += 1
        self._group_port = _free_port_from(self._group_port)
        client, served = self.look()
        if self._config.weights == "adapter":
            client.model = ADAPTER
        elif self._sends:
            try:
                client.init_communicator(device=self._device)
            except NotImplementedError as error:
                raise ModelError(
                    "hardware.accelerator=cpu, rollout.server.weights=merged: full weights go "
                    "from GPU to GPU; use a GPU, rollout.server.weights=adapter, or rollout=local"
                ) from error
        self.current = False
        dtype = str(served["model_config"].get("dtype")).removeprefix("torch.")
        self._dtype = getattr(torch, dtype, torch.float32)
        self.instance = served.get("instance_id")
        self._client = client

    def look(self) -> tuple[Any, dict[str, Any]]:
        """Wait for the server and see whether it fits.

        Returns:
            TRL's client, and the server's configuration.

        Raises:
            ServerAwayError: it does not answer within the time allowed.
            ModelError: vLLM is not installed here, or the server was started in a way that cannot
                serve a training.
        """
        self._await_answer()
        served = self._served()
        client = self._new_client()
        self._check_logprobs(str(served["model_config"].get("logprobs_mode")))
        merged = self._config.weights == "merged"
        if merged and served.get("weight_transfer_config") is None:
            raise self._refused(f"it takes no weights; start it with: {START}")
        if not merged and served.get("lora_config") is None:
            raise self._refused(
                "it takes no adapters; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and "
                "--enable-lora --max-lora-rank, at least model.lora.rank"
            )
        return client, served

    def _await_answer(self) -> None:
        """Ask for the server's health until it answers or the patience is over."""
        config, pause = self._config, 0.5
        end = time.monotonic() + config.patience_s
        while True:
            try:
                reply = requests.get(f"{self._url}/health", timeout=5)
                if reply.ok:
                    return
                if reply.status_code < 500:
                    raise self._refused(f"/health answers HTTP {reply.status_code}")
                reason = f"/health answers HTTP {reply.status_code}"
            except requests.RequestException as error:
                reason = reason_of(error)
            left = end - time.monotonic()
            if left <= 0:
                raise ServerAwayError(
                    f"no answer within rollout.server.patience_s={config.patience_s:g}: {reason}"
                )
            logger.info("waiting for %s, up to %.0f s (%s)", config.url, left, reason)
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _new_client(self) -> Any:
        config = self._config
        try:
            from trl.generation.vllm_client import VLLMClient

            class Client(VLLMClient):
                def check_server(self, *unused: Any, **also: Any) -> None:
                    """Nothing: the server was asked already, and within a limit."""

            client = Client(base_url=self._url, group_port=self._group_port)
        except ImportError as error:
            raise ModelError(
                f"rollout.engine=vllm_server: {error} It hands the weights over; install it with "
                f"`{installing('vllm')}`, or use rollout=local"
            ) from error
        # Responses may be asked for twice. Weights may not: a server that is asked to receive them
        # again waits for what is not sent again.
        once = _Limited(config.timeout_s, 0, 1)
        for scheme in ("http://", "https://"):
            client.session.mount(scheme, once)
        again = _Limited(config.timeout_s, config.retries, config.concurrency)
        client.session.mount(f"{self._url}/v1/chat/", again)
        client.session.hooks["response"].append(self._check_status)
        return client

    def _check_status(self, reply: requests.Response, *unused: Any, **also: Any) -> None:
        """Report refusals, which no second try changes, apart from faults."""
        if reply.ok:
            return
        if reply.status_code < 500:
            raise self._refused(f"HTTP {reply.status_code}: {shortened(reply.text)}")
        raise requests.HTTPError(
            f"HTTP {reply.status_code}: {shortened(reply.text)}", response=reply
        )

    def _served(self) -> dict[str, Any]:
        """The server's own configuration."""
        try:
            reply = requests.get(
                f"{self._url}/server_info", params={"config_format": "json"}, timeout=60
            )
            self._check_status(reply)
            served = dict(reply.json()["vllm_config"])
            return {**served, "model_config": dict(served["model_config"])}
        except (ModelError, ValueError, KeyError, TypeError) as error:
            raise self._refused(
                f"it does not report its configuration; start it with: {START}"
            ) from error

    def _check_logprobs(self, mode: str) -> None:
        """Check that the server reports what `Rollout.logprobs` means."""
        sampling = self._sampling
        fitting = fitting_logprobs(sampling)
        if mode in fitting:
            return
        how = (
            f"`--logprobs-mode {fitting[0]}`"
            if fitting
            else "`--logprobs-mode processed_logprobs`, with rollout.sampling.top_k=0 and "
            "rollout.sampling.top_p=1"
        )
        raise self._refused(
            f"its log-probabilities ({mode}) are not those of the whole distribution at "
            f"rollout.sampling.temperature={sampling.temperature:g}; start it with {how}"
        )

    def replaced(self) -> bool:
        """Whether another server process answers than `instance`."""
        return self._served().get("instance_id") != self.instance

    def send_weights(self, model: nn.Module) -> None:
        """Give the server the policy's weights, and let it forget what it computed with others.

        Args:
            model: the policy, bare or with adapters; its weights in full in this process.
        """
        if self._config.weights == "adapter":
            self._send_adapter(model)
        else:
            if self._shapes is None:
                self._shapes = [
                    (name, list(weight.shape)) for name, weight in served_weights(model)
                ]
            dtype = str(self._dtype).removeprefix("torch.")
            sent = (
                (name, weight.to(self._dtype).contiguous())
                for name, weight in served_weights(model)
            )
            self.client.update_named_params(
                [(name, dtype, shape) for name, shape in self._shapes], sent
            )
        self.client.reset_prefix_cache()
        # Image features are kept by image alone, whatever tower computed them.
        self.client.session.post(f"{self._url}/reset_encoder_cache")
        self.current = True

    def _send_adapter(self, model: Any) -> None:
        # Not its state dict: asking for that would shard the weights again.
        whole = {name: weight.detach() for name, weight in model.named_parameters()}
        model.save_pretrained(self._adapter_dir, state_dict=whole)
        session, url = self.client.session, f"{self._url}/v1"
        # A name that is taken is refused, and a server that was away has forgotten it.
        known = session.get(f"{url}/models").json()["data"]
        if any(entry["id"] == ADAPTER for entry in known):
            session.post(f"{url}/unload_lora_adapter", json={"lora_name": ADAPTER})
        folder = str(self._adapter_dir.resolve())
        session.post(f"{url}/load_lora_adapter", json={"lora_name": ADAPTER, "lora_path": folder})

    def _refused(self, why: str) -> ModelError:
        return ModelError(f"rollout.server.url={self._config.url}: the server refuses: {why}")


class ServerAwayError(Exception):
    """The server does not answer."""


@contextmanager
def at_start(url: str) -> Iterator[None]:
    """Turn an absent server into the user's mistake that it is before a training.

    Raises:
        ModelError: the server does not answer.
    """
    try:
        yield
    except (ServerAwayError, requests.RequestException) as error:
        raise ModelError(
            f"rollout.server.url={url}: no vLLM server ({reason_of(error)}); start it, or correct "
            "the address"
        ) from error


class _Limited(HTTPAdapter):
    """Requests that end after a time, and are tried again where the server is at fault."""

    def __init__(self, seconds: float, retries: int, connections: int) -> None:
        self._seconds = seconds
        again = Retry(
            total=retries,
            # A connection that breaks, or a time that is over, is the caller's to handle.
            read=False,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,
            backoff_factor=0.5,
            raise_on_status=False,
        )
        super().__init__(max_retries=again, pool_maxsize=connections)

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send with the limit where the caller has none."""
        if options.get("timeout") is None:
            options["timeout"] = self._seconds
        return super().send(request, **options)


def reason_of(error: BaseException) -> str:
    """Why the server is away, without the libraries' nesting."""
    plain = (requests.HTTPError, ServerAwayError)
    while error.__context__ is not None and not isinstance(error, plain):
        error = error.__context__
    return shortened(str(error) or type(error).__name__)


def _free_port_from(port: int) -> int:
    """The first port from this one on that nobody uses: others' connections lie in the range."""
    for candidate in range(port, port + 100):
        with socket.socket() as trial:
            try:
                trial.bind(("", candidate))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        return candidate
    return port
