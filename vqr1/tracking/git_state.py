"""The state of the checkout that a run came from, as MLflow tags."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_tags(folder: Path | None = None) -> dict[str, str]:
    """Commit, branch and whether files differ from it; empty outside a checkout or without git.

    Args:
        folder: somewhere in the checkout; None takes the package's own.
    """
    place = Path(__file__).resolve().parents[2] if folder is None else folder
    commit = _git(place, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(place, "status", "--porcelain", "--untracked-files=no")
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git(place, "rev-parse", "--abbrev-ref", "HEAD") or "",
        "vqr1.git.dirty": str(bool(changed)).lower(),
    }


def _git(place: Path, *arguments: str) -> str | None:
    try:
        # Whichever git the user's own PATH names is the one that made this checkout.
        done = subprocess.run(  # nosec B607
            ["git", "-C", str(place), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
