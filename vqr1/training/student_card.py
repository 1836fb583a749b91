"""The card of a student: what it is, how to use it, what was measured.

Not here: cards of policies (`model_card.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vqr1.durable import write_file
from vqr1.evaluation.metrics import labels
from vqr1.policy.model_card import CARD_FILE


def write_student_card(
    folder: Path, run_dir: Path, *, title: str | None = None, license: str | None = None
) -> None:
    """Write the card of the student in `folder`, from the files of its run.

    Args:
        folder: the student.
        run_dir: the run's folder, with its `summary.json` where it has one.
        title: on the card; None: the name of the run's folder.
        license: of the weights; None: that of the teacher's base model.
    """
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    summary_file = run_dir / "summary.json"
    summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
    low, high = record["score_range"]
    encoder = record["encoder"]
    kind = "its teacher's vision tower" if encoder["kind"] == "tower" else encoder["architecture"]
    text = f"""---
library_name: vqr1
tags:
- image-quality-assessment
- vqr1
---

# {title or run_dir.name}

Scores the quality of an image from {low:g} (worst) to {high:g} (best) without a language model.
Distilled by vqr1 (`stage=distill`) from the scores{_texts(run_dir)} of a reasoning model; no MOS
was used. Encoder: {kind}; head: {record["sizes"]["head"]}.

## Use

```python
import vqr1

metric = vqr1.create_metric("tiny", model="FOLDER")
scores = metric(["photo.jpg"])
```

It gives scores only (`mode=expected`), no text.

## Metrics

{_metrics(summary)}

## Licence

{license or "That of the teacher's base model; see its page."}
"""
    write_file(folder / CARD_FILE, text)


def _texts(run_dir: Path) -> str:
    file = run_dir / "config.yaml"
    run: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    stage = run.get("stage", {})
    return " and texts" if stage.get("align", True) and stage.get("align_weight", 1) else ""


def _metrics(summary: dict[str, Any]) -> str:
    rows = [
        f"| {label} | {summary[f'test_{name}_before']:.3f} | {summary[f'test_{name}_after']:.3f} |"
        for name, label in labels().items()
        if summary.get(f"test_{name}_after") is not None
        and summary.get(f"test_{name}_before") is not None
    ]
    if not rows:
        return "The run took none on test images."
    head = "| test images | teacher | student |\n|---|---|---|\n"
    return head + "\n".join(rows)
