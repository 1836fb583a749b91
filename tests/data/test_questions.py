"""Files of questions in their published forms, and what is refused of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vqr1.data.questions import ASK_LETTER, DESCRIBE, OPTIONS_FOLLOW, read_questions
from vqr1.errors import DataError

CHOICE: dict[str, Any] = {
    "img_path": "a.png",
    "question": "How sharp is this image?",
    "candidates": ["Blurry", "Sharp"],
    "correct_ans": "Sharp",
    "type": 2,
    "concern": 0,
}
COMPARE: dict[str, Any] = {
    "id": "1",
    "image_ref": None,
    "image_A": "a.png",
    "image_B": "sub/b.png",
    "task_type": "quality_compare_noref",
    "query": "Which image has better quality?",
    "answer": "Image B",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "empty.png").touch()
    return tmp_path


def write(root: Path, *items: Any, name: str = "q.json") -> Path:
    path = root / name
    lines = "\n\n".join(json.dumps(item) for item in items)
    path.write_text(lines if name.endswith("l") else json.dumps(list(items)))
    return path


def test_each_form(root: Path) -> None:
    training = {k: v for k, v in COMPARE.items() if k not in ("query", "answer")} | {
        "image_B": None,
        "conversations": [
            {"from": "human", "value": "What is wrong?"},
            {"from": "gpt", "value": "Noise and blur"},
        ],
    }
    named = {**CHOICE, "type": "yes-or-no", "concern": "in-context other", "img_path": ["A.png"]}
    description = {"img_path": "a.png", "description": "A dark photo."}
    referenced = {**COMPARE, "image_ref": "a.png", "answer": "Image A shows less noise than B."}
    items = (CHOICE, named, description, COMPARE, training, referenced)
    found = read_questions(write(root, *items), root)
    assert [q.kind for q in found] == [
        "choice", "choice", "description", "comparison", "identification", "description",
    ]  # fmt: skip
    assert found[0].text == (
        f"How sharp is this image?\n{OPTIONS_FOLLOW}\nA. Blurry\nB. Sharp\n{ASK_LETTER}"
    )
    assert found[0].groups == {"type": "how", "concern": "distortion"}
    assert found[1].groups == {"type": "yes-or-no", "concern": "in-context other"}
    assert found[1].images == ("a.png",)
    assert (found[2].text, found[2].answer) == (DESCRIBE, "A dark photo.")
    assert found[3].options == ("Image A", "Image B")
    assert found[3].text == "Image A: <image>\nImage B: <image>\nWhich image has better quality?"
    assert found[3].images == ("a.png", "sub/b.png")
    assert (found[4].text, found[4].answer) == ("What is wrong?", "Noise and blur")
    assert found[5].text.startswith("Reference: <image>\nImage A: <image>\nImage B: <image>\n")
    # One object a line is the same.
    assert [q.text for q in read_questions(write(root, *items, name="q.jsonl"), root)] == [
        q.text for q in found
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ["Sharp"]}, "item 2: candidates must be a list of 2 to 26 texts"),
        ({"candidates": ["Sharp", "sharp"]}, "item 2: two candidates are alike"),
        ({"correct_ans": "Soft"}, "item 2: correct_ans='Soft' is none of the candidates"),
        ({"correct_ans": None}, "item 2: correct_ans must be a text that is not empty; it is None"),
        ({"type": 3}, "item 2: type must be one of 0 (yes-or-no), 1 (what), 2 (how); it is 3"),
        ({"type": True}, "item 2: type must be one of"),
        ({"concern": "blur"}, "item 2: concern must be one of 0 (distortion), 1 (other), 2"),
        ({"question": " "}, "item 2: question must be a text that is not empty"),
        ({"question": "Is <image> sharp?"}, "item 2: question must not hold <image>"),
        ({"img_path": "../a.png"}, "item 2: image '../a.png' must be a path below"),
        ({"img_path": "/a.png"}, "item 2: image '/a.png' must be a path below"),
        ({"img_path": 5}, "item 2: an image must be a path, not 5"),
        ({"img_path": []}, "item 2: img_path must be 1 to 4 images, not 0"),
        (
            {"img_path": "c.png"},
            "1 image is not in .*, the first is .*item 2: c.png no such file",
        ),
        ({"img_path": "empty.png"}, "item 2: empty.png is empty"),
    ],
)
def test_what_is_refused(root: Path, change: dict[str, Any], message: str) -> None:
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(DataError, match=pattern) as refused:
        read_questions(write(root, CHOICE, {**CHOICE, **change}), root)
    assert "\n" not in str(refused.value)


def test_other_mistakes(root: Path) -> None:
    def message(*items: Any, name: str = "q.json") -> str:
        with pytest.raises(DataError) as refused:
            read_questions(write(root, *items, name=name), root)
        return str(refused.value)

    unanswered = {key: value for key, value in CHOICE.items() if key != "correct_ans"}
    assert "no correct_ans, so that no answer can be right" in message(unanswered)
    assert "item 1: must be a JSON object, not 5" in message(5)
    assert "holds no question" in message()
    assert "item 1: has neither candidates (LLVisionQA)" in message({"question": "?"})
    assert "q.jsonl:3: query must be a text" in message(
        COMPARE, {**COMPARE, "query": 5}, name="q.jsonl"
    )
    assert "image_ref, image_A and image_B are all null" in message(
        {**COMPARE, "image_A": None, "image_B": None}
    )
    one = {**COMPARE, "conversations": [{"from": "human", "value": "?"}]}
    assert "conversations must be a list of two objects" in message(one)
    (root / "o.json").write_text("{}")
    with pytest.raises(DataError, match="must be a JSON list"):
        read_questions(root / "o.json", root)
    with pytest.raises(DataError, match=r"the folder of its images, .*none, does not exist"):
        read_questions(write(root, CHOICE), root / "none")
    outside = root.parent / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    (root / "link.png").symlink_to(outside)
    assert "a link that leaves the image folder" in message({**CHOICE, "img_path": "link.png"})
