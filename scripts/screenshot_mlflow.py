"""Images of a sweep on the MLflow page: the list of runs, charts, the compare page, artifacts.

    python scripts/screenshot_mlflow.py docs/images --uri sqlite:///mlflow.db     # the newest sweep
    python scripts/screenshot_mlflow.py docs/images --parent 0a1b2c...            # that one

Starts an MLflow server on the loopback address, walks through it in a headless Chromium as a user
would, and takes an image of a page once it shows what it should: parent and children, the swept
parameters, curves, tables of answers, scatter plots, the sweep's summary. A page that does not ends
the command with an error, so that `tests/sweeps/test_mlflow_page.py` runs just this.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx2
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

SIZE = ViewportSize(width=1180, height=640)
PATIENCE_MS = 180_000
START_SECONDS = 180


@dataclass(frozen=True)
class Sweep:
    """A sweep as MLflow has it.

    Attributes:
        parent: its parent run.
        children: its jobs that finished.
    """

    parent: Run
    children: list[Run]

    @property
    def experiment(self) -> str:
        """Id of the experiment."""
        return str(self.parent.info.experiment_id)


def find_sweep(uri: str, parent: str | None) -> Sweep:
    """A sweep of a store: the given one, or the newest with two finished jobs or more."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    jobs: dict[str, list[Run]] = {}
    for run in client.search_runs(experiments, "attributes.status = 'FINISHED'"):
        if above := run.data.tags.get("mlflow.parentRunId"):
            jobs.setdefault(above, []).append(run)
    found = next((p for p, runs in jobs.items() if len(runs) > 1 and parent in (None, p)), None)
    if found is None:
        sys.exit(f"error: {uri}: no sweep with two finished jobs{f' {parent}' if parent else ''}")
    children = sorted(jobs[found], key=lambda run: str(run.info.run_name))
    return Sweep(client.get_run(found), children)


@contextmanager
def served(uri: str) -> Iterator[str]:
    """Address of a server over a store, on the loopback address of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [*command, "--workers", "1", "--backend-store-uri", uri],
            stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > end:
                    printed.seek(0)
                    sys.exit(f"error: the MLflow server does not start\n{printed.read().decode()}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/#"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx2.get(address, timeout=5).is_success
    except httpx2.TransportError:
        return False


class Tour:
    """Goes from page to page and takes images.

    Args:
        page: the browser's page.
        base: the server's address.
        sweep: what is looked at.
        folder: where the images go.
    """

    def __init__(self, page: Page, base: str, sweep: Sweep, folder: Path) -> None:
        self.page = page
        self.base = base
        self.sweep = sweep
        self.folder = folder

    def all_pages(self) -> None:
        """Every page, each checked before its image is taken."""
        self.runs()
        self.charts()
        self.compare()
        child = self.sweep.children[0]
        self.metrics(child)
        self.table(child)
        self.artifact(child, "scatter", r"^val_step_\d+\.png$", "mlflow_scatter")
        self.artifact(self.sweep.parent, "summary", r"^sweep_.*\.png$", "mlflow_summary")

    def runs(self) -> None:
        """The list: the parent, and its children below it."""
        self._open(f"/experiments/{self.sweep.experiment}/runs?workflowType=machine_learning")
        # MLflow opens a panel of its own at the first visit.
        self.page.get_by_role("button", name="Close", exact=True).click()
        row = self.page.get_by_role("row").filter(has_text=str(self.sweep.parent.info.run_name))
        expect(row).to_have_count(1)
        row.get_by_role("button").first.click()
        for child in self.sweep.children:
            expect(self._named(child)).to_be_visible()
        self._shot("mlflow_runs")

    def charts(self) -> None:
        """Curves of all jobs one over the other, and their scatter plots side by side."""
        self.page.locator("label:has([value=CHART])").click()
        self.page.get_by_placeholder("Search metric charts").fill("^val/srcc")
        images = self.page.locator("img[src*='scatter']")
        expect(images).to_have_count(len(self.sweep.children))
        for image in images.all():
            expect(image).to_have_js_property("complete", True)
            assert image.evaluate("image => image.naturalWidth") > 100
        # The search leaves images; what is below the visible part is not drawn.
        sections = self.page.get_by_test_id("experiment-view-compare-runs-section-header")
        sections.filter(has_text="scatter").get_by_text("scatter").first.click()
        expect(self.page.locator(".js-plotly-plot").first).to_be_visible()
        self._shot("mlflow_charts")

    def compare(self) -> None:
        """The compare page: parallel coordinates of the swept keys and a metric."""
        runs = quote(json.dumps([child.info.run_id for child in self.sweep.children]))
        experiments = quote(json.dumps([self.sweep.experiment]))
        self._open(f"/compare-runs?runs={runs}&experiments={experiments}")
        expect(self.page.get_by_text(f"Comparing {len(self.sweep.children)} Runs")).to_be_visible()
        axes = self.page.locator(".js-plotly-plot .axis-title")
        for axis in (*self.swept_keys(), "val/srcc"):
            expect(axes.filter(has_text=re.compile(f"^{re.escape(axis)}$"))).to_be_visible()
        self._shot("mlflow_compare")

    def swept_keys(self) -> list[str]:
        """Parameters of plain names that differ among the jobs."""
        params = [child.data.params for child in self.sweep.children]
        return [key for key in ("reward", "seed") if len({p[key] for p in params}) > 1]

    def metrics(self, run: Run) -> None:
        """A run's own page has its curves and its scatter plots."""
        self._open_run(run, "model-metrics")
        sections = self.page.get_by_test_id("experiment-view-compare-runs-section-header")
        for name in ("scatter", "train", "val"):
            expect(sections.filter(has_text=re.compile(rf"^{name}\s*\(\d+\)"))).to_be_visible()
        expect(self.page.locator("img[src*='scatter']").first).to_be_visible()

    def table(self, run: Run) -> None:
        """The answers of the last validation, as a table."""
        self._open_run(run, "artifacts/answers")
        self.page.get_by_text(re.compile(r"^step_\d+\.json$")).last.click()
        expect(self.page.get_by_text("<answer>").first).to_be_visible()
        self._shot("mlflow_answers")

    def artifact(self, run: Run, folder: str, name: str, image: str) -> None:
        """The last image of a folder of artifacts whose name fits."""
        self._open_run(run, f"artifacts/{folder}")
        self.page.get_by_text(re.compile(name)).last.click()
        expect(self.page.locator("img[src^='blob:']").first).to_be_visible()
        self._shot(image)

    def _named(self, run: Run) -> Locator:
        return self.page.get_by_role("link", name=str(run.info.run_name), exact=True)

    def _open_run(self, run: Run, tab: str) -> None:
        self._open(f"/experiments/{self.sweep.experiment}/runs/{run.info.run_id}/{tab}")

    def _open(self, place: str) -> None:
        # From one run's tab to another the page would stay as it is.
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}{place}")

    def _shot(self, name: str) -> None:
        self.page.wait_for_timeout(1500)  # plots are drawn with a transition
        self.page.screenshot(path=self.folder / f"{name}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the images")
    parser.add_argument("--uri", default="sqlite:///mlflow.db", help="the MLflow store")
    parser.add_argument("--parent", help="run id of a sweep; by default the newest one")
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: no chromium on this machine; install the system's package of that name")
    options.folder.mkdir(parents=True, exist_ok=True)
    sweep = find_sweep(options.uri, options.parent)
    expect.set_options(timeout=PATIENCE_MS)
    with served(options.uri) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_MS)
        Tour(page, base, sweep, options.folder).all_pages()
        browser.close()


if __name__ == "__main__":
    main()
