"""SRIQA-Bench (super-resolution): `SRIQA-Bench_test_all.txt` of the VisualQuality-R1 release.

Trap: scores are scaled to 0-100 inside each of the 100 reference groups of 11 images, so only
correlations within a group mean something. One of each group is the original itself.
"""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat
from vqr1.data.labels._release_text import parser

FORMAT = LabelFormat(
    name="sriqa",
    title="SRIQA-Bench",
    published_direction="higher",
    published_range=(0.0, 100.0),
    image_folders=("images", "."),
    parse=parser("SRIQA-Bench_test_all.txt", method_in_name=True),
    images=1100,
    compare_within="reference",
)
