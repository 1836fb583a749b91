"""Values that belong to a model: learning rate, answer length, precision, image sizes.

Each file of `conf/model` has them under `recommended`, and other keys take them by the
interpolation `${model_default:NAME}` where nothing else sets them: not the command line, an
experiment, nor a file that was chosen (`optimizer=paper`). `model.path` of another size than the
chosen file's takes those of the file of its family whose size is nearest. A composed configuration
that is resolved holds plain numbers, so that a run's record does not change with a later default.

| name | key | depends on |
|---|---|---|
| `lr` | `optimizer.lr` | size; full weights or adapters |
| `rollout_tokens` | `rollout.sampling.max_new_tokens` | size |
| `answer_tokens` | `mode.sampling.max_new_tokens` | size |
| `dtype` | `model.dtype` | size; weights that are trained, or not |
| `min_pixels`, `max_pixels` | `model.min_pixels`, `model.max_pixels` | size |

Not here: which of the values fit a machine (`vqr1.distributed.hardware`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vqr1.config.folder import config_dir
from vqr1.config.plain import flatten
from vqr1.errors import ConfigError

RESOLVER = "model_default"
_MARK = f"${{{RESOLVER}:"
_SIZE_IN_NAME = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where a model's values come from.

    Attributes:
        name: the file of `conf/model`, or `model.name` of the chosen one.
        values: its `recommended`.
        parameters: of the checkpoint's language model; None where the values are those of the
            chosen file (its own checkpoint, or one of a size that is not known).
        unknown: the checkpoint's size could not be found.
    """

    name: str
    values: Mapping[str, Any]
    parameters: float | None = None
    unknown: bool = False


def source_of(model: Mapping[str, Any]) -> Source:
    """The values that belong to a model.

    Args:
        model: plain values of the group `model`: `name`, `path`, and `recommended` where its file
            has it.
    """
    path, own = model.get("path"), model.get("recommended")
    name = str(model.get("name"))
    if own is not None and _is_packaged(name, path):
        return Source(name, own)
    files = _files()
    owners = {file: values for file, values in files.items() if values["path"] == path}
    if own is not None and name in [values["name"] for values in owners.values()]:
        return Source(name, own)
    if owners:
        file, values = next(iter(owners.items()))
        return Source(file, values["recommended"], values["recommended"]["parameters"])
    checkpoint = _read_config(str(path))
    size = _size(str(path), checkpoint)
    if size is None:
        chosen = own or files["qwen2_5_vl_7b"]["recommended"]
        return Source(name, chosen, unknown=True)

    def distance(values: Mapping[str, Any]) -> float:
        return abs(math.log(size / values["parameters"]))

    if "model_type" in checkpoint:
        kinds = {checkpoint["model_type"]}
    else:
        kinds = families_named(str(path)) or set((own or {}).get("model_types") or ())
    recommended = _of_families(files, kinds)
    nearest = min(recommended, key=lambda file: distance(recommended[file]))
    if own is not None and distance(own) <= distance(recommended[nearest]):
        return Source(name, own)
    return Source(nearest, recommended[nearest], size)


def choices_for(model_type: str) -> list[str]:
    """The files of `conf/model` that checkpoints of a family may be loaded under.

    Args:
        model_type: as in their `config.json`.

    Returns:
        Names without fine-tuned checkpoints', which are for these alone.
    """
    return [
        file
        for file, values in _files().items()
        if model_type in (values["recommended"].get("model_types") or ())
        and values["recommended"].get("nearest", True)
    ]


def _of_families(files: Mapping[str, Any], kinds: set[Any]) -> dict[str, Any]:
    """The `recommended` of files for some families, and of those for any; of all where none is.

    Fine-tuned checkpoints' files are for themselves alone (`recommended.nearest`).
    """
    every = {file: values["recommended"] for file, values in files.items()}
    recommended = {file: values for file, values in every.items() if values.get("nearest", True)}
    families = {file: values.get("model_types") for file, values in recommended.items()}
    if not any(kinds & set(types) for types in families.values() if types is not None):
        return recommended
    return {
        file: values
        for file, values in recommended.items()
        if families[file] is None or kinds & set(families[file])
    }


def families_named(path: str) -> set[str]:
    """Families of a hub name: of files whose checkpoint's name, up to its size, occurs in it."""
    found: set[str] = set()
    for values in _files().values():
        name = str(values["path"]).rpartition("/")[2]
        size = _SIZE_IN_NAME.search(name)
        if size is not None and name[: size.start()].lower() in path.lower():
            found |= set(values["recommended"].get("model_types") or ())
    return found


def default_of(name: str, values: Mapping[str, Any], *, adapters: bool, training: bool) -> Any:
    """One of a model's values.

    Args:
        name: as in the table above.
        values: `recommended`.
        adapters: adapters are trained, and the weights stay.
        training: something is trained.

    Raises:
        ConfigError: a model has no value of this name.
    """
    if name == "lr" and adapters:
        name = "lr_adapters"
    if name == "dtype" and (adapters or not training):
        name = "dtype_frozen"
    if name not in values:
        raise ConfigError([f"${{{RESOLVER}:{name}}}: a model has {', '.join(values)}"])
    return values[name]


def taken_from_model(composed: DictConfig) -> dict[str, str]:
    """The keys of a composed configuration that still take a model's value, and its name."""
    raw = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(raw, dict)
    return {
        key: value.removeprefix(_MARK).rstrip("}")
        for key, value in flatten(raw, keep_empty=False).items()
        if isinstance(value, str) and value.startswith(_MARK) and not key.startswith("hydra.")
    }


def lines_about(composed: DictConfig, *, if_other: bool = False) -> list[str]:
    """What a command prints of the values that it takes from its model.

    Args:
        composed: the configuration.
        if_other: only where they are not simply those of the chosen file: its checkpoint has
            another size, or one that could not be found.
    """
    taken = taken_from_model(composed)
    model = _plain(composed.model)
    found = source_of(model)
    path = "null" if model["path"] is None else model["path"]
    lines = []
    if found.parameters is not None and taken:
        lines.append(
            f"model.path={path}: a model of {_count(found.parameters)} parameters takes the "
            f"values of model={found.name}, the nearest size, not those of {model['name']}"
        )
    if found.unknown and taken:
        lines.append(
            f"model.path={path}: of unknown size, takes the values of {found.name}; choose the "
            "model=... that is nearest in size"
        )
    if taken and (lines or not if_other):
        values = (f"{key}={_shown(OmegaConf.select(composed, key))}" for key in sorted(taken))
        lines.append(f"from the model ({found.name}): {', '.join(values)}")
    return lines


def parameter_count(config: Mapping[str, Any]) -> float | None:
    """Parameters of a checkpoint's language model, embeddings included.

    Args:
        config: its `config.json`; older files have the sizes at the top, newer ones in
            `text_config`.

    Returns:
        The count, None where a size is missing.
    """
    text = config.get("text_config") or config
    try:
        hidden, layers, inner = (
            int(text[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
        )
        heads, groups = int(text["num_attention_heads"]), int(text["num_key_value_heads"])
        head = int(text.get("head_dim") or hidden // heads)
        vocabulary = int(text["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    attention = 2 * hidden * head * (heads + groups)
    return float(
        vocabulary * hidden * (1 if tied else 2) + layers * (attention + 3 * hidden * inner)
    )


def resolve(name: str, factor: float = 1.0, *, _root_: DictConfig) -> Any:
    """The interpolation's value; a number may be multiplied, `${model_default:lr,0.1}`.

    Raises:
        ConfigError: there is no group `model`, or a model has no value of this name.
    """
    node = _root_.get("model")
    if not isinstance(node, DictConfig):
        raise ConfigError([f"model: missing, and ${{{RESOLVER}:{name}}} takes its value from it"])
    adapters = node.get("lora") is not None
    if name == "dtype" and node.get("freeze_vision") == "tower":
        adapters = False  # the projector trains as it is
    value = default_of(
        name,
        source_of(_plain(node)).values,
        adapters=adapters,
        training="optimizer" in _root_,
    )
    return value if factor == 1.0 else float(f"{value * factor:.6g}")


def _plain(model: DictConfig) -> dict[str, Any]:
    """What `source_of` looks at: not the keys that take their value from here."""
    own = model.get("recommended")
    return {
        "name": model.get("name"),
        "path": model.get("path"),
        "recommended": None if own is None else OmegaConf.to_container(own, resolve=True),
    }


def is_own_path(name: str, path: str | None) -> bool:
    """Whether a checkpoint is that of a packaged file of `conf/model`, by `model.name`."""
    return any((file["name"], file["path"]) == (name, path) for file in _files().values())


@lru_cache
def _files() -> dict[str, dict[str, Any]]:
    """`_file` of all packaged files of `conf/model`, by their stems."""
    return {file.stem: _file(file) for file in sorted((config_dir() / "model").glob("*.yaml"))}


@lru_cache
def _file(file: Path) -> dict[str, Any]:
    """`name`, `path` and `recommended` of a file of `conf/model`."""
    values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(values, dict)
    return {key: values[key] for key in ("name", "path", "recommended")}


def _is_packaged(name: str, path: Any) -> bool:
    """Whether the file of a name states this name and checkpoint; the others are not read."""
    file = config_dir() / "model" / f"{name}.yaml"
    if Path(name).name != name or not file.is_file():
        return False
    return (_file(file)["name"], _file(file)["path"]) == (name, path)


def _read_config(path: str) -> dict[str, Any]:
    """The `config.json` of a checkpoint's folder; empty of a hub name, or of a damaged one."""
    try:
        config = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # loading it states what is wrong there
    return config if isinstance(config, dict) else {}


def _size(path: str, config: Mapping[str, Any]) -> float | None:
    """Parameters of a checkpoint: of a folder by its configuration, of a hub name by the name."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return parameter_count(config)
    found = _SIZE_IN_NAME.search(folder.name)
    if found is None:
        return None
    parameters = float(found[1]) * (1e9 if found[2].upper() == "B" else 1e6)
    return parameters if parameters > 0 else None


def _count(parameters: float) -> str:
    return f"{parameters / 1e9:.3g} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
