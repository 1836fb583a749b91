"""What a run reports to the tracking server, one JSON object a line.

The journal of a run is a sequence of these events in the order in which they happened. A `start`
event begins an MLflow run; all that follow, up to the next one, belong to it. Times are
milliseconds since 1970: MLflow takes a metric with the same key, step, time and value only once,
which is why an event keeps its time instead of taking one when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")

Milliseconds = Annotated[int, Field(ge=0)]


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Start:
    """An MLflow run begins.

    Attributes:
        journal_id: tag by which the run is found again when the answer to its creation was lost.
        experiment: experiment that it belongs to.
        tags: tags that it has from its creation on.
        tracking_uri: address of the store, without a password.
    """

    kind: Literal["start"] = "start"
    journal_id: str
    experiment: str
    tags: dict[str, str]
    tracking_uri: str
    time: Milliseconds


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Metrics:
    """Metrics at one step."""

    kind: Literal["metrics"] = "metrics"
    step: int
    time: Milliseconds
    values: dict[str, float]


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Params:
    """Parameters; MLflow never changes one."""

    kind: Literal["params"] = "params"
    values: dict[str, str]


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Tags:
    """Tags; a later value replaces an earlier one."""

    kind: Literal["tags"] = "tags"
    values: dict[str, str]


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class File:
    """A file of the run directory becomes an artifact.

    Attributes:
        path: where it lies, relative to the run directory.
        folder: folder of the run's artifacts that it goes to; None is the top.
    """

    kind: Literal["file"] = "file"
    path: str
    folder: str | None = None


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Image:
    """An image of the run directory becomes one step of a series, which MLflow draws as a grid.

    Attributes:
        path: where it lies, relative to the run directory.
        key: name of the series.
        step: optimiser step that it shows.
        time: when it was made.
    """

    kind: Literal["image"] = "image"
    path: str
    key: str
    step: int
    time: Milliseconds


@dataclass(config=_STRICT, frozen=True, kw_only=True)
class Status:
    """The run's status from here on."""

    kind: Literal["status"] = "status"
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    time: Milliseconds


Event = Start | Metrics | Params | Tags | File | Image | Status

_ADAPTER: TypeAdapter[Event] = TypeAdapter(
    Annotated[Event, Field(discriminator="kind")],
    # JSON has no NaN; the text "NaN" is read as the number again.
    config=ConfigDict(ser_json_inf_nan="strings"),
)


def encode(event: Event) -> bytes:
    """One line, with its line end."""
    return _ADAPTER.dump_json(event) + b"\n"


def decode(line: bytes) -> Event | None:
    """The event in a line, or None for a damaged line."""
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError:
        return None


def pieces(event: Event) -> list[Event]:
    """The same event as several with one value each, so that each can be refused by itself."""
    if isinstance(event, Metrics):
        return [replace(event, values={key: value}) for key, value in event.values.items()]
    if isinstance(event, Params | Tags):
        return [type(event)(values={key: value}) for key, value in event.values.items()]
    return [event]


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[int, Event | None]]:
    """Complete lines of a journal from a byte offset on.

    A last line without an end is still being written, or was cut off: it is left for later.

    Yields:
        Byte offset after the line, and its event (None for a damaged line).
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, decode(line)
