"""The pages in a real Chromium: charts are drawn, nothing is loaded, axe finds nothing serious."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.report_page import folders
from tests.support.browser import CHROMIUM, chromium, serious_findings
from vqr1.report_page.write import write_report_page

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(CHROMIUM is None, reason="no system Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_every_page(browser: Browser, tmp_path: Path) -> None:
    makers = (folders.training, folders.evaluation, folders.sweep)
    pages = {
        maker.__name__: write_report_page(maker(tmp_path / maker.__name__)) for maker in makers
    }
    for (name, file), (width, scheme) in zip(
        pages.items(), ((1280, "dark"), (390, "light"), (390, "dark")), strict=True
    ):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))  # noqa: B023
        page.on("console", lambda line: problems.append(line.text))  # noqa: B023
        page.on("request", lambda asked: problems.append(asked.url))  # noqa: B023
        # Alone, in a folder of its own.
        alone = tmp_path / f"alone_{name}" / "copy.html"
        alone.parent.mkdir()
        alone.write_bytes(file.read_bytes())
        page.goto(f"file://{alone}")
        plots = page.locator(".plot")
        expect(page.locator(".plot[data-drawn] svg")).to_have_count(plots.count(), timeout=60_000)
        assert problems == [f"file://{alone}"], name
        assert page.title() != "owned"
        assert serious_findings(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        if name == "training":
            page.mouse.move(0, 0)
            point = page.locator(".plot .mark-symbol.role-mark path").last
            point.hover(force=True)
            shown = page.locator("#vg-tooltip-element")
            expect(shown).to_contain_text("MOS")
            keys = shown.locator("td.key").all_inner_texts()
            assert keys == ["file", "MOS", "score", "answer"]
            # The hostile name and answer too are shown as text.
            page.locator(".plot").last.locator(".mark-symbol path").first.hover(force=True)
            expect(shown).to_contain_text("<img src=x onerror")
            assert problems == [f"file://{alone}"]
            assert page.title() != "owned"
        page.close()
