"""One line of the doctor's screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        topic: what it is about.
        text: what was found.
        status: `absent`: something is not there that may be missing; `broken`: the installation
            itself does not work.
        fix: the command that helps.
    """

    topic: str
    text: str
    status: Status = "ok"
    fix: str | None = None

    def line(self) -> str:
        """As printed."""
        mark = {"ok": " ", "absent": "-", "broken": "!"}[self.status]
        return f"{mark} {self.topic:<13}{self.text}" + (f"  -> {self.fix}" if self.fix else "")
