"""What a page is put together from: sections of charts, tables, images, answers and facts.

Each block names by `kind` the macro of `template.html` that shows it. All texts are plain; the
template escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vqr1.report_page.charts import Spec


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: above it.
        spec: Vega-Lite.
        note: under it.
        wide: takes the whole width of the page.
    """

    kind: ClassVar[str] = "chart"
    title: str
    spec: Spec
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table; numbers after the first column stand flush right.

    Attributes:
        title: its caption.
        columns: heads.
        rows: cells, as many as there are columns.
        notes: sentences under it.
        folded: shown when it is opened.
        text: columns that hold running text.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    folded: bool = False
    text: Sequence[int] = ()


@dataclass(frozen=True)
class ImageCard:
    """One image with what was answered about it.

    Attributes:
        image: its name.
        thumbnail: data URI; None where it could not be read.
        lines: numbers, in words.
        text: the model's reasoning.
    """

    image: str
    thumbnail: str | None
    lines: Sequence[str]
    text: str


@dataclass(frozen=True)
class ImageCards:
    """Images beside each other."""

    kind: ClassVar[str] = "images"
    title: str
    images: Sequence[ImageCard]


@dataclass(frozen=True)
class Answer:
    """What a model answered about one image before and after training.

    Attributes:
        image: its name.
        mos: MOS.
        before, after: score, and the whole answer.
    """

    image: str
    mos: str
    before: tuple[str, str]
    after: tuple[str, str]


@dataclass(frozen=True)
class Answers:
    """Answers before and after."""

    kind: ClassVar[str] = "answers"
    title: str
    heads: tuple[str, str]
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    values: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A file's text, shown when it is opened."""

    kind: ClassVar[str] = "source"
    title: str
    text: str


@dataclass(frozen=True)
class Note:
    """A sentence."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Links:
    """Links to pages beside this one: name, relative path."""

    kind: ClassVar[str] = "links"
    title: str
    links: Sequence[tuple[str, str]]


Block = Chart | TableBlock | ImageCards | Answers | Facts | Source | Note | Links


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; one without blocks is not shown."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Card:
    """A number that stands at the top.

    Attributes:
        label: what it is.
        value: as text.
        note: interval, count or comparison; empty for none.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        kind: what it reports: training, evaluation, comparison, sweep.
        title: heading.
        lead: one or two sentences under it.
        cards: headline numbers.
        sections: in order; empty ones are not shown.
    """

    kind: str
    title: str
    lead: str
    cards: Sequence[Card]
    sections: Sequence[Section]

    def shown(self) -> list[Section]:
        """The sections that have something."""
        return [section for section in self.sections if section.blocks]


def charts_of(page: Page) -> dict[str, Any]:
    """The specifications of a page's charts by the id of their place, in order."""
    found = [
        block for section in page.shown() for block in section.blocks if isinstance(block, Chart)
    ]
    return {f"chart-{number}": chart.spec for number, chart in enumerate(found)}
