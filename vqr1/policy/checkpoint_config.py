"""What a checkpoint's `config.json` states, read from a folder or the hub before anything else.

From it follow the family and most refusals, each one line: a name that the hub does not have or
does not show, a model of no known family, one that needs code of its own, sliding windows. Code
that a checkpoint carries is never executed.

Not here: weights and processors (`loading.py`).
"""

from __future__ import annotations

import functools
import json
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig

from vqr1.config import ModelConfig
from vqr1.config.model_defaults import choices_for
from vqr1.errors import ModelError, first_line
from vqr1.policy.families import FAMILIES, Family, family
from vqr1.policy.packaged import tiny_policy_folder

CONFIG_FILE = "config.json"
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def source_of(config: ModelConfig) -> str:
    """Folder or hub name of a checkpoint."""
    return str(tiny_policy_folder()) if config.path is None else config.path


def origin_of(config: ModelConfig) -> dict[str, Any]:
    """Which revision, and whether the hub is asked for it: arguments of `from_pretrained`.

    Without a hub the libraries ask again for every file, for minutes; the local cache is looked at
    at once.
    """
    away = not Path(source_of(config)).is_dir() and hub_is_away()
    return {"revision": config.revision, "local_files_only": away}


@functools.cache
def hub_is_away() -> bool:
    """Whether no connection to the hub can be made; asked once in a process."""
    if urllib.request.getproxies():
        return False  # a proxy knows names and ways that this machine does not
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    port = hub.port or (443 if hub.scheme == "https" else 80)
    try:
        socket.create_connection((hub.hostname, port), timeout=10).close()
    except OSError:
        return True
    return False


def load_family(config: ModelConfig) -> Family:
    """The family of a checkpoint, by its `config.json`.

    Raises:
        ModelError: no such checkpoint, one of no known family, or one that asks for what no pass
            here computes.
    """
    return load_config(config)[0]


def load_config(config: ModelConfig) -> tuple[Family, Any]:
    """The family and the configuration (of transformers) of a checkpoint.

    Raises:
        ModelError: see `load_family`.
    """
    source = source_of(config)
    who = f"model.path={source}"
    own = _family(config, _read(config))
    try:
        found = AutoConfig.from_pretrained(source, **origin_of(config), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{who}: {first_line(error)}") from error
    window = _sliding_window(found.get_text_config())
    if window is not None:
        raise ModelError(
            f"{who}: {CONFIG_FILE} sets {window}; the shared-prompt passes attend to the whole "
            "prompt; take a checkpoint without sliding windows"
        )
    return own, found


def _family(config: ModelConfig, values: dict[str, Any]) -> Family:
    """The family that `config.json` names.

    Raises:
        ModelError: it names none that is known, or another than the configuration is for.
    """
    who, kind = f"model.path={source_of(config)}", str(values.get("model_type"))
    code = values.get("auto_map")
    if kind not in FAMILIES and isinstance(code, dict) and code:
        # A class is written as "file.Class" or "repository--file.Class".
        file = str(next(iter(code.values()))).rpartition("--")[2].partition(".")[0]
        raise ModelError(
            f"{who}: the checkpoint is a {kind} that brings code of its own ({file}.py), which is "
            "never executed; take one that transformers loads by its own classes, of one of: "
            f"{', '.join(FAMILIES)}"
        )
    own = family(kind, f"{who}: the checkpoint", lacks=_lacks(values))
    check_chosen(config, kind)
    missing = own.missing_library()
    if missing is not None:
        raise ModelError(f"{who}: {missing}")
    return own


def check_chosen(config: ModelConfig, model_type: str) -> None:
    """Whether a checkpoint is of a family that the chosen file of `conf/model` is for.

    Args:
        config: with `recommended` of that file, which may be for any family.
        model_type: of the checkpoint.

    Raises:
        ModelError: it is of another: learning rate and image sizes would be those of that one.
    """
    wanted = None if config.recommended is None else config.recommended.model_types
    if wanted is None or model_type in wanted:
        return
    choices = " or ".join(f"model={name}" for name in choices_for(model_type))
    raise ModelError(
        f"model.path={source_of(config)}: the checkpoint is a {model_type}, and the values of "
        f"{config.name} are for {' or '.join(wanted)}; choose {choices} and keep model.path"
    )


def _lacks(values: dict[str, Any]) -> tuple[str, ...]:
    """What a model of no known family asks for that no pass here computes."""
    text = values.get("text_config")
    text = text if isinstance(text, dict) else values
    kinds = text.get("layer_types") or ()
    windows = "sliding_attention" in kinds or text.get("sliding_window") is not None
    return (
        *(["sliding windows"] if windows and text.get("use_sliding_window", True) else []),
        *(["layers without keys and values"] if "linear_attention" in kinds else []),
    )


def _sliding_window(text: Any) -> str | None:
    """The line of a text model's configuration that asks for sliding windows."""
    if getattr(text, "use_sliding_window", False):
        return "use_sliding_window: true"
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        return "layer_types: sliding_attention"
    size = getattr(text, "sliding_window", None)
    return None if size is None else f"sliding_window: {size}"


def _read(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        ModelError: there is none that can be read.
    """
    source = source_of(config)
    who = f"model.path={source}"
    file = Path(source) / CONFIG_FILE if Path(source).is_dir() else _download(config)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{who}: no {CONFIG_FILE} in this folder; give the folder of a checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{who}: {CONFIG_FILE} cannot be read ({first_line(error)}); copy it again"
        ) from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ModelError(
            f"{who}: {CONFIG_FILE} is not the configuration of a model: it names no model_type"
        )
    return values


def _download(config: ModelConfig) -> Path:
    """`config.json` of a hub name, from the local cache where it is up to date.

    Raises:
        ModelError: the hub does not give it.
    """
    name = source_of(config)
    try:
        return Path(huggingface_hub.hf_hub_download(name, CONFIG_FILE, **origin_of(config)))
    except (EntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelError(f"model.path={name}: {_hub_problem(error, config)}") from error


def _hub_problem(error: Exception, config: ModelConfig) -> str:
    """What the hub's answer means, and what to do."""
    if isinstance(error, GatedRepoError):
        place = f"{huggingface_hub.constants.ENDPOINT}/{config.path}"
        return f"this repository is gated; accept its terms at {place} and {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub shows no model of this name; correct it, or {LOG_IN} if it is private"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {config.revision} of it; set model.revision"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the hub has no {CONFIG_FILE} of it; give the name of a checkpoint"
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(answer, HfHubHTTPError):
        return f"the hub refuses it (HTTP {answer.response.status_code}); {LOG_IN}, or try again"
    return (
        "no checkpoint folder and no model that the hub knows or this machine can reach; give a "
        f"folder or a hub name ({first_line(error)})"
    )
