"""From the journal to the MLflow server, each event once.

How far the server has it is a byte offset beside the journal (`delivered.json`), moved after each
batch, with the store that it is about: a log that shall go to another one is sent there from its
beginning. An offset that was not moved in time only means that some events may be there already:
parameters, tags, files and the status may be sent twice without harm, the run is looked up by its
journal's tag before it is created, and for metrics and images the server is asked which steps it
has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from pydantic import TypeAdapter, ValidationError

from vqr1.durable import sync, write_file
from vqr1.errors import DataError
from vqr1.program import command_line
from vqr1.tracking.events import (
    Event,
    File,
    Image,
    Metrics,
    Params,
    Start,
    Status,
    Tags,
    pieces,
    read_events,
)
from vqr1.tracking.journal import JOURNAL_TAG, journal_file
from vqr1.tracking.outages import outage_errors
from vqr1.tracking.secrets import MASK, masked_uri
from vqr1.tracking.store import (
    database_file,
    one_line,
    prepare_experiment,
    quick_client,
    whole_address,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

BATCH = 200
"""Events sent together."""

PARENT_TAG = "mlflow.parentRunId"

_BY_JOURNAL = "journal:"

_REFUSING = frozenset(
    ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "NOT_FOUND")
)


@dataclass(frozen=True)
class Delivered:
    """How far the server has the journal.

    Attributes:
        offset: bytes of the journal that are done with.
        run_id: MLflow run of the last `start` event before the offset.
        refused: events (single values) that the server will never take, or whose file cannot be
            read or stored.
        store: address of the store, without a password; None in marks of earlier versions.
    """

    offset: int = 0
    run_id: str | None = None
    refused: int = 0
    store: str | None = None


_DELIVERED = TypeAdapter(Delivered)


def delivered_run(run_dir: Path) -> str | None:
    """The MLflow run that a server has of a run directory; None: none, or that is not known."""
    journal = journal_file(run_dir)
    size = journal.stat().st_size if journal.is_file() else 0
    return _read_mark(_mark_of(journal), size).run_id


def store_of(run_dir: Path) -> str | None:
    """Address of the store that a run's log goes to, without a password.

    Args:
        run_dir: the run's folder.

    Returns:
        The store that has received it, else the one that the run began with; None without a log.
    """
    journal = journal_file(run_dir)
    size = journal.stat().st_size if journal.is_file() else 0
    return _read_mark(_mark_of(journal), size).store or _last_store(journal, size)


def _last_store(journal: Path, end: int) -> str | None:
    """Address that the last run of a journal's first so many bytes began with."""
    addresses = [
        event.tracking_uri
        for offset, event in read_events(journal)
        if isinstance(event, Start) and offset <= end
    ]
    return shown_address(addresses[-1]) if addresses else None


def shown_address(tracking_uri: str) -> str:
    """A store's address as marks have it."""
    return masked_uri(whole_address(tracking_uri)).rstrip("/")


def write_mark(journal: Path, delivered: Delivered) -> None:
    """State how far the server has a journal.

    Raises:
        OSError: there is no room for it.
    """
    write_file(_mark_of(journal), json.dumps(asdict(delivered)) + "\n")


def _mark_of(journal: Path) -> Path:
    return journal.with_name("delivered.json")


def _read_mark(file: Path, size: int) -> Delivered:
    """What a mark states of a journal of so many bytes."""
    try:
        mark = _DELIVERED.validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return Delivered()
    # A journal shorter than its mark is another one.
    return mark if 0 <= mark.offset <= size else Delivered()


class ParentMissingError(OSError):
    """The server does not have the run that is named as the parent: it is sent later."""


def journal_reference(journal_id: str) -> str:
    """What a run names as its parent while only the parent's journal is known."""
    return f"{_BY_JOURNAL}{journal_id}"


class Delivery:
    """Sends a journal's events in order.

    Args:
        run_dir: the run's folder.
        tracking_uri: the store; None takes the one that the log went to before, else the address
            that the journal names.
    """

    def __init__(self, run_dir: Path, tracking_uri: str | None = None) -> None:
        self.run_dir = run_dir.resolve()
        self.path = journal_file(self.run_dir)
        self.tracking_uri = tracking_uri
        self._mark = _mark_of(self.path)
        self._client: MlflowClient | None = None
        size = self.path.stat().st_size if self.path.is_file() else 0
        mark = _read_mark(self._mark, size)
        self.delivered = Delivered() if self._is_elsewhere(mark) else mark
        # A process that was killed between sending and moving the offset has given nobody.
        self._uncertain_until = size
        self._steps: dict[str, set[int]] = {}

    def _is_elsewhere(self, mark: Delivered) -> bool:
        """Whether the events that a mark counts are not in the store that they shall go to."""
        if mark.run_id is None:
            return False
        store = mark.store or _last_store(self.path, mark.offset)
        if store is None:
            return False
        wanted = store if self.tracking_uri is None else shown_address(self.tracking_uri)
        database = database_file(wanted)
        return wanted != store or (database is not None and not database.exists())

    def left(self) -> int:
        """Events that the server does not have; damaged lines are none."""
        events = read_events(self.path, self.delivered.offset)
        return sum(event is not None for _, event in events)

    def restart(self) -> None:
        """Send everything again from the beginning; what the server has stays single."""
        self._move(Delivered(store=self.delivered.store))
        self._uncertain_until = self.path.stat().st_size

    def send_batch(self) -> bool:
        """Send the next events.

        Returns:
            Whether there were any.

        Raises:
            ConfigError: MLflow cannot use the address.
            Exception: one of `outage_errors()`; the same events are sent the next time.
        """
        batch, end = self._next_batch()
        if end == self.delivered.offset:
            return False
        if batch:
            # The server must never know what the journal could still lose.
            sync(self.path)
            try:
                self._send(batch)
            except outage_errors():
                self._uncertain_until = max(self._uncertain_until, end)
                self._steps = {}
                self._client = None
                raise
        self._move(replace(self.delivered, offset=end))
        return True

    def _next_batch(self) -> tuple[list[Event], int]:
        """A run of metrics, parameters and tags, or one event of another kind."""
        batch: list[Event] = []
        end = self.delivered.offset
        for offset, event in read_events(self.path, end):
            joins = isinstance(event, Metrics | Params | Tags)
            if event is not None and batch and not joins:
                break
            end = offset
            if event is not None:
                batch.append(event)
                if not joins or len(batch) == BATCH:
                    break
        return batch, end

    def _send(self, batch: Sequence[Event]) -> None:
        first = batch[0]
        if isinstance(first, Start):
            run_id = self._run_of(first)
            self._steps = {}
            store = shown_address(self._address())
            self.delivered = replace(self.delivered, run_id=run_id, store=store)
        elif self.delivered.run_id is None:
            self._refuse(batch, "no run was started before it")
        else:
            self._send_to(self.delivered.run_id, batch)

    def _send_to(self, run_id: str, batch: Sequence[Event]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._call(run_id, batch)
        except MlflowException as error:
            if error.error_code not in _REFUSING:
                raise
            single = [piece for event in batch for piece in pieces(event)]
            if len(single) == 1:
                self._refuse(single, one_line(error))
                return
            for piece in single:
                self._send_to(run_id, [piece])

    def _call(self, run_id: str, batch: Sequence[Event]) -> None:
        first = batch[0]
        client = self._connected()
        if isinstance(first, File | Image):
            self._send_file(client, run_id, first)
        elif isinstance(first, Status):
            if first.status == "RUNNING":
                client.update_run(run_id, status=first.status)
            else:
                client.set_terminated(run_id, first.status, first.time)
        else:
            self._send_values(client, run_id, batch)

    def _send_values(self, client: MlflowClient, run_id: str, batch: Sequence[Event]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        uncertain = self.delivered.offset < self._uncertain_until
        metrics = [
            Metric(key, value, event.time, event.step)
            for event in batch
            if isinstance(event, Metrics)
            for key, value in event.values.items()
            if not (uncertain and event.step in self._steps_of(client, run_id, key))
        ]
        params = {k: v for e in batch if isinstance(e, Params) for k, v in e.values.items()}
        tags = {k: v for e in batch if isinstance(e, Tags) for k, v in e.values.items()}
        client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _steps_of(self, client: MlflowClient, run_id: str, key: str) -> set[int]:
        """Steps of a metric that the server has, asked once for each connection."""
        if key not in self._steps:
            history = client.get_metric_history(run_id, key)
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def _send_file(self, client: MlflowClient, run_id: str, event: File | Image) -> None:
        """Send a file, or refuse it alone: what follows does not wait for it."""
        try:
            self._upload(client, run_id, event)
        except outage_errors():
            raise
        except Exception as error:  # noqa: BLE001 each artifact store's client has its own errors
            again = command_line("sync", "--restart", str(self.run_dir))
            self._refuse(
                [event], f"{one_line(error)}; once that is put right, send it with: {again}"
            )

    def _upload(self, client: MlflowClient, run_id: str, event: File | Image) -> None:
        path = (self.run_dir / event.path).resolve()
        if not path.is_relative_to(self.run_dir):
            self._refuse([event], "it lies outside of the run directory")
        elif (why := _unreadable(path)) is not None:
            self._refuse([event], why)
        elif isinstance(event, File):
            client.log_artifact(run_id, str(path), event.folder)
        elif not _has_image(client, run_id, event):
            self._send_image(client, run_id, event, path)

    def _send_image(self, client: MlflowClient, run_id: str, event: Image, path: Path) -> None:
        try:
            image = PIL.Image.open(path)
            image.load()
        except OSError as error:
            self._refuse([event], f"it cannot be read ({error})")
            return
        client.log_image(
            run_id,
            image,
            key=event.key,
            step=event.step,
            timestamp=event.time,
            synchronous=True,
        )

    def _run_of(self, event: Start) -> str:
        """The run that the event's journal began: found, or created now."""
        experiment = prepare_experiment(self._address(), event.experiment)
        client = self._connected()
        found = _found(client, experiment, event.journal_id)
        if found is not None:
            return found
        tags = dict(event.tags)
        above = tags.get(PARENT_TAG, "")
        if above.startswith(_BY_JOURNAL):
            parent = _found(client, experiment, above.removeprefix(_BY_JOURNAL))
            if parent is None:
                raise ParentMissingError("the sweep's own run is not delivered yet")
            tags[PARENT_TAG] = parent
        return str(client.create_run(experiment, event.time, tags).info.run_id)

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._client = quick_client(self._address())
        return self._client

    def _address(self) -> str:
        if self.tracking_uri is None:
            address = self.delivered.store or _last_store(self.path, self.path.stat().st_size) or ""
            if MASK in address:
                raise DataError(
                    f"{self.path}: its tracking address {address} holds a password that is not "
                    "kept; give the address with --tracking-uri"
                )
            self.tracking_uri = address
        return self.tracking_uri

    def _refuse(self, events: Sequence[Event], why: str) -> None:
        count = sum(len(pieces(event)) for event in events)
        self.delivered = replace(self.delivered, refused=self.delivered.refused + count)
        what = events[0].path if isinstance(events[0], File | Image) else events[0].kind
        logger.warning("MLflow does not take %s: %s", what, why)

    def _move(self, delivered: Delivered) -> None:
        self.delivered = delivered
        try:
            write_mark(self.path, delivered)
        except OSError as error:
            # Without room for the mark, a later process asks the server what it has.
            logger.debug("%s: not written (%s)", self._mark, error)


def _unreadable(path: Path) -> str | None:
    """Why a file cannot be sent; None where it can."""
    try:
        if not path.is_file():
            return "it is gone"
        path.open("rb").close()
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return None


def _found(client: MlflowClient, experiment: str, journal_id: str) -> str | None:
    """The run that a journal began; None where the server does not have it."""
    tagged = f"tags.`{JOURNAL_TAG}` = '{journal_id}'"
    runs = client.search_runs([experiment], tagged, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _has_image(client: MlflowClient, run_id: str, event: Image) -> bool:
    """Whether a step of a series is there: MLflow gives each copy a name of its own.

    A step that a resumed run does again is not the same event, so that the server is always asked.
    """
    begins = f"images/{event.key.replace('/', '~')}+step+{event.step}+"
    return any(
        file.path.startswith(begins) and file.path.endswith("+compressed.webp")
        for file in client.list_artifacts(run_id, "images")
    )
