"""The installation: versions beside their supported ranges, imports, and the packaged files.

Ranges are those of the package's own metadata. Importing every dependency takes longer than anyone
waits, so a process beside this one imports those whose parts fit together badly most often (builds
of PyTorch, versions of what stands on it); of the others only the version is looked at.

Not here: what the machine has (`machine.py`).
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from vqr1 import __version__
from vqr1.config import config_dir
from vqr1.data.demo import FOLDER, default_cache_dir
from vqr1.doctor.finding import Finding
from vqr1.policy.packaged import tiny_policy_folder
from vqr1.program import PROGRAM, in_shell, installing

SHOWN = ("torch", "torchvision", "transformers", "lightning", "hydra-core", "trl", "peft", "mlflow")
"""Required packages whose versions are printed."""

IMPORTED = ("torch", "torchvision", "transformers", "hydra", "lightning", "mlflow", "peft")
"""Modules that are imported."""

EXTRAS = (
    ("deepspeed", "ZeRO (hardware=8gpu_zero2, 8gpu_zero3)", "deepspeed"),
    ("flash-attn", "flash attention on a GPU", "flash-attn"),
    ("vllm", "rollout=vllm_colocated, backend=vllm", "vllm"),
    ("liger-kernel", "fused layers on a GPU", "liger"),
    ("tensorboard", "TensorBoard", None),
    ("wandb", "Weights & Biases", None),
)
"""Optional packages: distribution, what they are for, and the extra that holds them."""

ASSETS = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json")
"""Files of the packaged policy without which nothing starts."""

_PROBE = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(name, type(error).__name__, *str(error).split()[:20], flush=True)
"""


class Imports:
    """Imports modules in a process of its own, beside whatever else is looked at.

    Args:
        modules: to import.
    """

    def __init__(self, modules: Sequence[str] = IMPORTED) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROBE, *modules],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def findings(self, until: float) -> Iterator[Finding]:
        """What does not import.

        Args:
            until: by `time.monotonic`; what is not imported by then is not known.
        """
        try:
            out, _ = self._process.communicate(timeout=max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            yield Finding("imports", "not tried to the end: this machine is busy")
            return
        for line in out.splitlines():
            name, _, printed = line.partition(" ")
            yield Finding("imports", f"{name}: {printed}", "broken", "install vqr1 anew")
        if self._process.returncode:
            text = f"a library ended the process (code {self._process.returncode})"
            yield Finding("imports", text, "broken", "install vqr1 anew")


def requirements() -> list[Requirement]:
    """What the package requires on this machine, without extras; empty where it is not installed.

    Raises:
        packaging.requirements.InvalidRequirement: the package's metadata is damaged.
    """
    try:
        texts = metadata.requires(PROGRAM) or []
    except metadata.PackageNotFoundError:
        return []
    found = [Requirement(text) for text in texts]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def version_of(distribution: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def package_findings(required: Sequence[Requirement]) -> Iterator[Finding]:
    """Versions, and every required package that is missing or outside of its range."""
    python = f"Python {platform.python_version()} at {sys.executable}"
    yield Finding(PROGRAM, f"{__version__}, {python}, {platform.system()} {platform.machine()}")
    yield Finding("packages", ", ".join(f"{name} {version_of(name) or '-'}" for name in SHOWN))
    if not required:
        text = "vqr1 itself is not installed, so that ranges of versions are not known"
        yield Finding("packages", text, "absent", "pip install .")
    for one in required:
        version = version_of(one.name)
        if version is None:
            text = f"{one.name}: required and not installed"
        elif not one.specifier.contains(version, prereleases=True):
            text = f"{one.name} {version}: vqr1 {__version__} needs {one.specifier}"
        else:
            continue
        yield Finding("packages", text, "broken", f"pip install {in_shell(str(one))}")


def extra_findings() -> Iterator[Finding]:
    """Optional packages, those that are missing with the command that installs them."""
    there = [f"{name} {version_of(name)}" for name, _, _ in EXTRAS if version_of(name)]
    yield Finding("optional", ", ".join(there) or "none of the optional packages is installed")
    for name, use, extra in EXTRAS:
        if version_of(name) is None:
            how = installing(extra) if extra else f"pip install {name}"
            yield Finding("", f"{name}: {use}", "absent", how)


def packaged_findings() -> Iterator[Finding]:
    """The policy, the configuration and the demo set that come with the package."""
    folder = tiny_policy_folder()
    lost = [name for name in ASSETS if not (folder / name).is_file()]
    if not (config_dir() / "train.yaml").is_file():
        lost.append("conf/train.yaml")
    if lost:
        text = f"{', '.join(lost)}: missing in {folder.parents[1]}"
        yield Finding("packaged", text, "broken", "install vqr1 anew")
    else:
        yield Finding("packaged", f"the tiny policy and the configuration ({folder.parents[1]})")
    made: Path = default_cache_dir() / FOLDER
    state = f"in {made}" if made.is_dir() else "made at its first use (about a minute)"
    yield Finding("demo set", state)
