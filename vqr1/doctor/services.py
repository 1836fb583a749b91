"""What a run talks to: the MLflow store and the model hub."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import requests
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

from vqr1.doctor.finding import Finding
from vqr1.tracking.secrets import masked_uri
from vqr1.tracking.store import SQLITE, default_tracking_uri

SECONDS = 3.0
"""How long an answer is waited for."""


def store_finding(uri: str | None) -> Finding:
    """Whether the MLflow store can be written to.

    Args:
        uri: its address; None is the default, `mlflow.db` in the working directory.
    """
    address = uri or default_tracking_uri()
    if not address.startswith(SQLITE):
        return _answers("MLflow", f"{address.rstrip('/')}/health", masked_uri(address))
    file = Path(address.removeprefix(SQLITE)).resolve()
    if not file.exists():
        if os.access(file.parent, os.W_OK):
            return Finding("MLflow", f"{address}: made at the first run")
        return Finding("MLflow", f"{address}: its folder is not writable", "absent", "logger=csv")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", timeout=1, uri=True)) as database:
            # Takes the lock that a write needs, and writes nothing.
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.DatabaseError as error:
        return Finding("MLflow", f"{address}: {error}", "absent", "logger.tracking_uri=...")
    return Finding("MLflow", f"{address}: can be written to")


def hub_finding() -> Finding:
    """Whether models can be downloaded."""
    if HF_HUB_OFFLINE:
        return Finding("hub", "HF_HUB_OFFLINE is set: only models on this machine", "absent")
    return _answers("hub", ENDPOINT, ENDPOINT)


def _answers(topic: str, url: str, shown: str) -> Finding:
    try:
        requests.head(url, timeout=SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        text = f"{shown}: does not answer ({type(error).__name__})"
        return Finding(topic, text, "absent")
    return Finding(topic, f"{shown}: answers")
