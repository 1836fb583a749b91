"""Model families, by `model_type` of a checkpoint's `config.json`.

Each family is one module of this package, named as its `model_type`, that defines `FAMILY`; a new
file here is a new family (`base.py` states what it declares). Modules that begin with an underscore
are shared by families. A family's module is imported when a checkpoint asks for it.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from vqr1.config.model_defaults import families_named
from vqr1.errors import ModelError
from vqr1.policy.families.base import Family

__all__ = [
    "FAMILIES",
    "SERVED",
    "Family",
    "check_served",
    "family",
    "folder_family",
    "served_family",
]

FAMILIES: tuple[str, ...] = tuple(
    sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_") and module.name != "base"
    )
)
"""Every family's `model_type`."""


def family(model_type: str, who: str, lacks: Sequence[str] = ()) -> Family:
    """The family of a model.

    Args:
        model_type: as in `config.json`.
        who: begins the message of a refusal, such as `model.path=folder: the checkpoint`.
        lacks: what a family of such models would need that no pass here computes.

    Raises:
        ModelError: no module here knows it.
    """
    if model_type not in FAMILIES:
        more = f" and {', '.join(lacks)}" if lacks else ""
        raise ModelError(
            f"{who} is a {model_type}, the policy must be one of: {', '.join(FAMILIES)}; missing: "
            f"a family of its own{more}"
        )
    declared: Family = importlib.import_module(f"{__name__}.{model_type}").FAMILY
    return declared


def folder_family(folder: Path) -> Family:
    """The family of the checkpoint in a folder.

    Raises:
        ModelError: there is no `config.json` of a known family.
    """
    file = folder / "config.json"
    try:
        model_type = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not the configuration of a model ({error})") from error
    return family(str(model_type), f"{folder}: the checkpoint")


SERVED = "qwen2_5_vl"
"""The one family of models that only a server has: their files state nothing here."""

_SERVED_ALIKE = frozenset({SERVED, "qwen2_vl"})
"""Families whose images are prepared alike."""


def served_family() -> Family:
    """The family of a model that only a server has."""
    return family(SERVED, "the served model")


def check_served(name: str, who: str) -> None:
    """Whether images are prepared as a server's model takes them, as far as its name states it.

    Args:
        name: a hub name, or a folder that may lie on this machine.
        who: begins the message of a refusal.

    Raises:
        ModelError: it is known to be of another family.
    """
    kinds = _named_families(name)
    if kinds and not kinds & _SERVED_ALIKE:
        raise ModelError(
            f"{who}: a {' or '.join(sorted(kinds))} on a server is not supported: images are "
            f"prepared for a {SERVED} there; use backend=local"
        )


def _named_families(name: str) -> set[str]:
    """Families of a hub name, or of a folder that lies on this machine; empty: not known."""
    try:
        values = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        return {str(values["model_type"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not a folder here
    known = {kind for kind in FAMILIES if name in family(kind, "a known model").released}
    return known or families_named(name)
