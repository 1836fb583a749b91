"""Stand-ins for packages that a bare GPU machine lacks: passes need torch and transformers only.

The package's configuration classes are checked by pydantic, and images are read with Pillow; a
check of kernels needs neither. Where such a package is missing, importing this module puts one in
its place whose names do nothing, and whose dataclasses are the standard library's. It has to be
imported first.

Not here: what is checked (`gpu_check.py`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from types import ModuleType
from typing import Any

PACKAGES = ("pydantic", "PIL", "qwen_vl_utils", "omegaconf", "hydra")


class _Nothing:
    """A name of a missing package: it may be called, subscripted and derived from."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *args: Any, **_: Any) -> Any:
        # As a decorator it leaves what it decorates.
        return args[0] if len(args) == 1 and callable(args[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __class_getitem__(cls, _: Any) -> type:
        return cls

    def __or__(self, _: Any) -> Any:
        return Any

    def __ror__(self, _: Any) -> Any:
        return Any


class _StandIn(ModuleType):
    """A missing module."""

    __path__: list[str] = []  # noqa: RUF012 (a package has one)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


def _dataclass(cls: Any = None, *, config: Any = None, **options: Any) -> Any:
    """The standard library's, without what pydantic checks."""
    del config
    return dataclasses.dataclass(cls, **options) if cls else lambda c: _dataclass(c, **options)


class _Finder:
    """Finds modules of the missing packages."""

    def __init__(self, missing: set[str]) -> None:
        self._missing = missing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        if name.split(".")[0] not in self._missing:
            return None
        return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        """See `importlib.abc.Loader`."""
        made = _StandIn(spec.name)
        if spec.name == "pydantic.dataclasses":
            made.dataclass = _dataclass  # type: ignore[attr-defined]
        return made

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""


def use_stand_ins() -> list[str]:
    """Put stand-ins where packages are missing; returns their names."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.append(_Finder(set(missing)))
    return missing


MISSING = use_stand_ins()
"""Packages that have stand-ins."""
