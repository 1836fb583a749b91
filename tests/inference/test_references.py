"""Full-reference scoring: from Python, and what lists and folders name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

import vqr1
from tests.support.images import noise_image
from vqr1.errors import DataError
from vqr1.inference import reading
from vqr1.inference.files import find_images
from vqr1.inference.image_lists import check_counts, named_in_list, with_references
from vqr1.inference.metric import QualityMetric


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("sharp/a.png", "sharp/sub/b.jpg", "coded/a.png",
                                   "coded/sub/b.png")):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(number, 64, 48).save(tmp_path / name)
    return tmp_path


def test_a_folder_of_references_has_the_same_names(folder: Path) -> None:
    sharp, coded = folder / "sharp", folder / "coded"
    found = find_images([str(coded)])
    assert with_references(found, str(sharp)) == [
        (sharp / "a.png", coded / "a.png"),
        (sharp / "sub" / "b.jpg", coded / "sub" / "b.png"),
    ]
    assert with_references(found, str(sharp / "a.png")) == [
        (sharp / "a.png", image) for image in found
    ]
    (sharp / "sub" / "b.jpg").unlink()
    with pytest.raises(
        DataError, match=r"no file of the same name for 1 of 2 images: .*sub/b\.png"
    ):
        with_references(found, str(sharp))
    with pytest.raises(DataError, match="references=gone: no such file or folder"):
        with_references(found, "gone")
    with pytest.raises(DataError, match="the list names the images of each prompt itself"):
        with_references([(coded / "a.png", coded / "a.png")], str(sharp))


def test_references_of_another_ending_are_listed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharp = folder / "sharp"
    for number in range(20):
        (sharp / f"{number}.jpg").touch()
    listdir = Mock(side_effect=os.listdir)
    monkeypatch.setattr(os, "listdir", listdir)
    found = with_references([Path("coded", f"{number}.png") for number in range(20)], str(sharp))
    assert found == [(sharp / f"{n}.jpg", Path("coded", f"{n}.png")) for n in range(20)]
    assert listdir.call_count == 1


def test_a_folder_of_references_that_cannot_be_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"sharp: the folder cannot be listed \(Permission denied"):
        with_references([Path("c.png")], str(folder / "sharp"))


def test_lists_name_the_images_of_each_prompt(folder: Path) -> None:
    pairs = [(folder / "sharp/a.png", folder / "coded/a.png"),
             (folder / "sharp/sub/b.jpg", folder / "coded/sub/b.png")]  # fmt: skip
    names = [[str(path.relative_to(folder)) for path in pair] for pair in pairs]
    table, lines = folder / "pairs.csv", folder / "pairs.jsonl"
    table.write_text("ref,dist\n" + "".join(f"{a},{b}\n" for a, b in names) + ",\n")
    lines.write_text("".join(json.dumps({"image": pair, "id": 1}) + "\n" for pair in names))
    assert find_images([str(table)], column=["ref", "dist"]) == pairs
    # A pair that is named twice is scored once.
    assert find_images([str(lines), str(lines)]) == pairs
    keyed = folder / "keyed.jsonl"
    keyed.write_text(json.dumps({"ref": names[0][0], "dist": names[0][1]}) + "\n\n")
    assert named_in_list(keyed, ["ref", "dist"]) == pairs[:1]
    check_counts(pairs, 2, "full_reference")
    with pytest.raises(
        DataError, match=r"prompt\.images=1: .*a\.png \+ .*: 2 images for prompt=x;"
    ):
        check_counts(pairs, 1, "x")
    with pytest.raises(DataError, match=r"1 image for prompt=x; give references=FILE"):
        check_counts([folder / "coded/a.png"], 2, "x")


@pytest.mark.parametrize(
    ("name", "text", "column", "message"),
    [
        ("a.csv", "ref,dist\nx.png,\n", ["ref", "dist"], r"a\.csv:2: the row names only some of"),
        (
            "a.csv",
            "ref,dist\nx.png,y.png\n",
            ["ref", "no"],
            r"a\.csv:1: no column 'no'; it has ref",
        ),
        ("a.jsonl", '{"image": "x.png"}\n{"image": []}\n', None, r"a\.jsonl:2: image=\[\] must be"),
        ("a.jsonl", '{"images": "x.png"}\n', None, r"a\.jsonl:1: no key 'image'; it has images"),
        ("a.jsonl", '{"image": 3}\n', None, r"a\.jsonl:1: image=3 must be a file name or a list"),
        ("a.jsonl", "[1]\n", None, r"a\.jsonl:1: expected an object, found list"),
        ("a.jsonl", "{\n", None, r"a\.jsonl:1: not JSON"),
    ],
)
def test_bad_lists(
    name: str, text: str, column: list[str] | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        named_in_list(tmp_path / name, column)


@pytest.fixture(scope="module")
def metric() -> QualityMetric:
    return vqr1.create_metric("tiny", mode="greedy", prompt="full_reference")


@pytest.mark.medium
def test_references_from_python(
    metric: QualityMetric, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    open_image = reading.open_image

    def counted(image: object) -> Image.Image:
        opened.append(image)
        return open_image(image)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "open_image", counted)
    sharp = folder / "sharp" / "a.png"
    images = [folder / "coded" / "a.png", folder / "coded" / "sub" / "b.png", sharp]
    results = metric.scorer.score(images, sharp)
    assert opened.count(sharp) == 1
    assert [result.path for result in results] == [f"{sharp} + {image}" for image in images]
    assert results == metric.scorer.score([(sharp, image) for image in images])
    # Every way to give references means the same.
    pixels = torch.stack([_tensor(path) for path in images])
    expected = [result.text for result in results]
    for given, references in (
        (images, [sharp] * 3),
        (images, Image.open(sharp)),
        (pixels, _tensor(sharp)),
        (pixels, _tensor(sharp).expand(3, -1, -1, -1)),
    ):
        assert [one.text for one in metric.scorer.score(given, references)] == expected
    scores = metric(pixels, _tensor(sharp))
    assert scores.tolist() == pytest.approx(
        [float("nan") if r.score is None else r.score for r in results], nan_ok=True
    )


def _tensor(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        flat = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        return flat.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


@pytest.mark.medium
def test_numbers_of_images_that_do_not_fit(metric: QualityMetric, folder: Path) -> None:
    image = folder / "coded" / "a.png"
    with pytest.raises(DataError, match=r"1 image for one prompt: prompt\.images=2 .* references"):
        metric(image)
    with pytest.raises(DataError, match="1 references, and more images: give one reference for"):
        metric([image, image], [image])
    with pytest.raises(DataError, match="1 images, and more references"):
        metric([image], [image, image])
    with pytest.raises(DataError, match="an image with a reference is 2 images already"):
        metric([(image, image)], image)
    (folder / "coded" / "bad.png").write_text("text")
    with pytest.raises(DataError, match=r"image 0: .*bad\.png"):
        metric(image, folder / "coded" / "bad.png")
    plain = vqr1.create_metric("tiny", mode="greedy")
    with pytest.raises(
        DataError, match=r"the prompt 'thinking' is about 1 image; use a prompt for"
    ):
        plain(image, image)
