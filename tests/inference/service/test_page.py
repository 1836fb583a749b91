"""The page in a real Chromium, against the real service."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from scipy import stats

from tests.inference.service.conftest import Server, photo
from tests.support.browser import CHROMIUM, chromium, serious_findings
from vqr1.data.demo import CROP, PHOTOGRAPHS, load_photograph
from vqr1.data.distortions import DISTORTIONS, to_bytes
from vqr1.inference import tested_scores as tested

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(CHROMIUM is None, reason="no system Chromium on this machine"),
]

SLOW_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "console",
        lambda printed: problems.append(printed.text) if "Content Sec" in printed.text else None,
    )
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith((server.url, "blob:")) else
        problems.append(f"asks for {asked.url}"),
    )  # fmt: skip
    opened.goto(server.url, timeout=SLOW_MS)
    yield opened
    assert problems == []
    opened.close()


def photographs(folder: Path) -> list[Path]:
    """A piece of one photograph as it is, blurred, and with noise, of the demo set's size."""
    coffee = load_photograph(next(p for p in PHOTOGRAPHS if p.name == "coffee"))
    coffee = coffee[90 : 90 + CROP, 150 : 150 + CROP]
    named = {distortion.name: distortion for distortion in DISTORTIONS}
    damages = {"clean": None, "blurred": "gaussian_blur", "noisy": "white_noise"}
    files = []
    for title, damage in damages.items():
        rng = np.random.default_rng(0)
        damaged = coffee if damage is None else named[damage].apply(coffee, 4, rng)
        files.append(folder / f"{title} photo.png")
        Image.fromarray(to_bytes(damaged)).save(files[-1])
    return files


def test_scores_and_ranks_what_is_chosen(page: Page, tmp_path: Path) -> None:
    files = photographs(tmp_path)
    broken = tmp_path / "notes.png"
    broken.write_text("no image")
    expect(page.locator("#model")).to_contain_text("model tiny")
    page.set_input_files("#files", [*files, broken])
    expect(page.locator("#status")).to_have_text("4 of 4 done", timeout=SLOW_MS)
    scores = page.locator("#cards .score").all_inner_texts()
    assert sum(bool(re.fullmatch(r"[1-5]\.\d\d ± \d\.\d\d", score)) for score in scores) == 3
    assert page.locator("#cards .problem").all_inner_texts() == [
        "notes.png: the image does not decode (cannot identify its format)"
    ]
    # The reasoning apart from the answer, which is folded away.
    assert "<" not in page.locator("#cards .text").first.inner_text()
    assert "<think>" in (page.locator("#cards .answer pre").first.text_content() or "")
    assert page.locator("#cards svg.density .curve").count() == 3
    label = page.locator("#cards svg.density").first.get_attribute("aria-label")
    assert re.fullmatch(
        r"Score \d\.\d\d on a scale of 1 to 5, standard deviation \d\.\d\d", label or ""
    )
    expect(page.locator("#meaning")).to_contain_text("is unknown")

    # By keyboard: focus and Enter.
    page.locator("#rank").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("ranked, best first", timeout=SLOW_MS)
    places = page.locator("#cards .place").all_inner_texts()
    ranks = sorted(re.match(r"Rank (\d) of 3", place).group(1) for place in places if place)  # type: ignore[union-attr]
    assert ranks == ["1", "2", "3"]
    shown = [
        float(score.split()[0])
        for score, place in zip(
            page.locator("#cards .score").all_inner_texts(), places, strict=True
        )
        if place
    ]
    assert shown == sorted(shown, reverse=True)
    first, second = page.locator("#cards .choose input:enabled").all()[:2]
    for box in (first, second):
        box.focus()
        page.keyboard.press("Space")
    expect(page.locator("#verdict")).to_contain_text("better than", timeout=SLOW_MS)
    probability = float(page.locator("#verdict").inner_text().split()[-1])
    assert 0.5 <= probability <= 1
    # That of the whole ranking, up to the rounding of a batch.
    ranked = page.locator("#cards .place").first.inner_text().split()
    assert float(ranked[-1]) == pytest.approx(probability, abs=0.011)
    assert page.locator("#pair").evaluate("pair => pair === document.activeElement")
    # No scrolling sideways on a phone.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert serious_findings(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#pair")).to_be_hidden()
    page.select_option("#order", "worst")
    shown = [float(text.split()[0]) for text in page.locator("#cards .score").all_inner_texts()
             if text]  # fmt: skip
    assert shown == sorted(shown)
    page.click("#view")
    expect(page.locator("#view")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#cards .answer").first).to_be_hidden()
    page.click("#clear")
    expect(page.locator("#cards li")).to_have_count(0)


def test_text_of_the_model_is_never_markup(page: Page, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    name = "=<b>name.png"

    def answer(route: Route) -> None:
        result = {"name": "a", "score": 3.0, "std": None, "valid": True, "text": hostile,
                  "reasoning": hostile}  # fmt: skip
        route.fulfill(json={"model": hostile, "prompt": "thinking", "mode": "expected",
                            "results": [result]})  # fmt: skip

    page.route("**/score", answer)
    photo(1).save(tmp_path / name)
    page.set_input_files("#files", tmp_path / name)
    expect(page.locator("#status")).to_have_text("1 of 1 done", timeout=SLOW_MS)
    assert page.locator("#cards .text").inner_text() == hostile
    assert page.locator("#cards .name").inner_text() == name
    assert page.locator("#cards b").count() == 0
    assert page.title() == "vqr1: image quality"
    # Nor a formula of the file that a spreadsheet opens.
    with page.expect_download() as download:
        page.click("#download")
    with download.value.path().open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["score"], row["text"]) == (f"'{name}", "3", hostile)


def test_where_a_score_lies_among_the_test_images(page: Page, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(3, 0.7, 400)
    found = tested.tested_scores(np.append(scores, np.nan), ["demo"], "p", 1, 0.9)
    assert found is not None
    tested.write_tested_scores(found, tmp_path)
    assert tested.read_tested_scores(str(tmp_path), "p") == found
    # Scores of another prompt are not comparable.
    assert tested.read_tested_scores(str(tmp_path), "other") is None
    assert tested.tested_scores(scores[:4], ["demo"], "p", 1, 0.9) is None
    health = {"model": "m", "prompt": "p", "mode": "expected", "images": 1, "needs_key": False,
              "scale": [1, 5], "tested": found.model_dump()}  # fmt: skip
    page.route("**/health", lambda route: route.fulfill(json=health))
    page.route("**/score", lambda route: answered(route, 3.5))
    page.reload()
    expect(page.locator("#meaning")).to_contain_text("tested on 400 images (demo)")
    for score in (0.0, 1.7, 2.5, 3.01, 3.5, 4.2, 9.0):
        share = page.evaluate(f"shareBelow(tested.quantiles, {score})")
        assert share == pytest.approx(stats.percentileofscore(scores, score) / 100, abs=0.006)
    photo(1).save(tmp_path / "a.png")
    page.locator("#files").set_input_files(tmp_path / "a.png")
    percent = round(stats.percentileofscore(scores, 3.5))
    shown = page.locator("#cards .among")
    expect(shown).to_contain_text("of the 400 test images (demo)")
    assert abs(int(shown.inner_text().split()[2]) - percent) <= 1


def test_endpoints_are_listed(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    for heading in ("POST /score", "POST /compare", "POST /describe", "GET /health"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible(timeout=SLOW_MS)
    score = page.locator("section").filter(has_text="POST /score")
    cells = score.locator("td").all_inner_texts()
    assert "list of binary (1 to 32)" in cells
    for field in ("images", "images[].data", "images[].name"):
        assert field in cells
    assert "image-base64" in cells
    assert serious_findings(page) == []


def answered(route: Route, score: float) -> None:
    """Answer a request for a score in the service's place."""
    result = {"name": "a", "score": score, "std": 0.1, "valid": True, "text": "clear"}
    route.fulfill(json={"model": "m", "prompt": "p", "mode": "expected", "results": [result]})


def test_more_images_than_a_request_takes_are_sorted(page: Page, tmp_path: Path) -> None:
    health = {"model": "m", "prompt": "p", "mode": "expected", "images": 1, "needs_key": False}
    page.route("**/health", lambda route: route.fulfill(json={**health, "max_images": 2}))

    def answer(route: Route) -> None:
        body = route.request.post_data_buffer or b""
        answered(route, {b"0.png": 2.5, b"1.png": 4.5, b"2.png": 3.5}[body.split(b'"')[3]])

    page.route("**/score", answer)
    page.route("**/compare", lambda route: route.abort())
    page.reload()
    expect(page.locator("#model")).to_contain_text("model m")
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
    page.locator("#files").set_input_files([tmp_path / f"{number}.png" for number in range(3)])
    expect(page.locator("#status")).to_have_text("3 of 3 done")
    page.locator("#rank").click()
    expect(page.locator("#status")).to_contain_text("sorted by score, best first; ranks and ")
    expect(page.locator("#status")).to_contain_text("are of at most 2 images")
    assert page.locator("#cards .name").all_inner_texts() == ["1.png", "2.png", "0.png"]


def test_a_key_that_is_typed_later_asks_again(page: Page, tmp_path: Path) -> None:
    health = {"model": "m", "prompt": "p", "mode": "expected", "images": 1, "max_images": 32}
    page.route("**/health", lambda route: route.fulfill(json={**health, "needs_key": True}))

    def answer(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            answered(route, 3.2)
        else:
            route.fulfill(status=401, json={"detail": "wrong or missing API key"})

    page.route("**/score", answer)
    page.reload()
    expect(page.locator("#key")).to_be_visible()
    photo(1).save(tmp_path / "a.png")
    page.locator("#files").set_input_files(tmp_path / "a.png")
    expect(page.locator(".problem")).to_have_text("wrong or missing API key")
    for key, shown in (("wrong", "wrong or missing API key"), ("right", "clear")):
        page.locator("#key").fill(key)
        page.locator("#key").press("Enter")
        expect(page.locator("#cards .text")).to_have_text(shown)
    expect(page.locator(".score")).to_contain_text("3.20")
    assert page.locator(".problem").count() == 0


def test_a_reference_goes_with_every_image(page: Page, tmp_path: Path) -> None:
    """Of a service whose prompt compares, here of an answer in its place."""
    asked: list[bytes] = []
    health = {"model": "m", "prompt": "p", "mode": "expected", "images": 2, "needs_key": False}
    result = {"name": "r + a", "score": 3.2, "std": 0.1, "valid": True, "text": "clear"}

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_buffer or b"")
        route.fulfill(json={"model": "m", "prompt": "p", "mode": "expected", "results": [result]})

    page.route("**/health", lambda route: route.fulfill(json=health))
    page.route("**/score", answer)
    page.reload()
    for name in ("coded.png", "sharp.png"):
        photo(1).save(tmp_path / name)
    expect(page.locator("#reference-row")).to_be_visible()
    page.locator("#files").set_input_files(tmp_path / "coded.png")
    expect(page.locator("#status")).to_have_text("choose the reference")
    assert asked == []
    page.locator("#reference").set_input_files(tmp_path / "sharp.png")
    expect(page.locator(".score")).to_contain_text("3.20")
    (body,) = asked
    assert b'name="images"; filename="coded.png"' in body
    assert b'name="references"; filename="sharp.png"' in body
    # Another reference: nothing stays of the answers beside the first.
    page.evaluate("items[0].rank = 1; items[0].place.textContent = 'Rank 1 of 2'")
    page.unroute("**/score")
    page.route("**/score", lambda route: None)  # no answer yet
    photo(2).save(tmp_path / "other.png")
    page.locator("#reference").set_input_files(tmp_path / "other.png")
    expect(page.locator(".score")).to_have_text("…")
    expect(page.locator(".place")).to_have_text("")
    assert page.evaluate("[items[0].value, items[0].std, items[0].rank]") == [None, None, None]
