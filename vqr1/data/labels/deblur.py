"""Liu13 (deblurred images): `Deblur_test_all.txt` of the VisualQuality-R1 release, 1 to 5."""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat
from vqr1.data.labels._release_text import parser

FORMAT = LabelFormat(
    name="deblur",
    title="Deblur",
    published_direction="higher",
    published_range=(1.0, 5.0),
    image_folders=("images", "."),
    parse=parser("Deblur_test_all.txt"),
    images=1199,
)
