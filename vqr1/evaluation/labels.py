"""Opinion scores on their published scale, references and distortions, put to predictions.

What it does: ranking batches carry opinion scores scaled to [1, 5]; reports are in each set's own
units. The row number of every image finds its label.

What it leaves out: reading labels (`vqr1.data.labels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from vqr1.evaluation.predictions import Predictions


def with_labels(predictions: Predictions, tables: Mapping[str, pd.DataFrame]) -> Predictions:
    """Predictions with mos, reference and distortion of their sets' label tables.

    Args:
        predictions: rows of any sets; `index` is the row in the set's table.
        tables: by set, one row an image: mos (higher is better), reference, distortion.
    """
    columns = {
        name: {key: table[key].tolist() for key in ("mos", "reference", "distortion")}
        for name, table in tables.items()
    }
    rows = list(zip(predictions.datasets, predictions.index.tolist(), strict=True))
    return replace(
        predictions,
        mos=np.array([columns[name]["mos"][row] for name, row in rows], dtype=np.float64),
        references=tuple(label_name(columns[name]["reference"][row]) for name, row in rows),
        distortions=tuple(label_name(columns[name]["distortion"][row]) for name, row in rows),
    )


def label_name(value: object) -> str | None:
    """A name from a table; None for a missing one, in whatever form the table has it."""
    return None if value is None or value != value or value == "" else str(value)
