"""Questions about images, from a file of the user's in a published form, strictly read.

A JSON list, or one object a line (`.jsonl`). Four forms, known by their keys:

| form | keys |
|---|---|
| LLVisionQA (Q-Bench, arXiv 2309.14181) | `img_path`, `question`, `candidates`, `correct_ans`, `type` (0 yes-or-no, 1 what, 2 how), `concern` (0 distortion, 1 other, 2 in-context distortion, 3 in-context other) |
| LLDescribe (Q-Bench) | `img_path`, `description`; `question` where it is not the published one |
| DepictQA, DQ-495K (2405.18842) | `image_A`, `image_B`, `image_ref`, `query`, `answer`, `task_type`; in place of query and answer `conversations` of one turn |
| vqr1's own (written by trainings with `tasks=`) | `img_path`, `question`, `distortion_class`, `severity`; `damage` (`kind`, `level`, `seed` of a distortion that the image is given) |

Type and concern may also be the words. `img_path` may be a list of two to four images. Further keys
are passed over, but for two of our own: `system` (the question's system message; empty: none) and
`options` (the answers of DepictQA's comparison where there are more than two). An answer of DepictQA's that is `Image A` or `Image B` makes a comparison, one that
is a list of its distortions an identification, any other a description.

Not here: how answers are read and compared (`vqr1.iqa.question_answers`).
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vqr1.config.model import IMAGE_PLACEHOLDER, MOST_IMAGES, placeholder_problem
from vqr1.counted import counted_are
from vqr1.data.degraded import KINDS, Damage
from vqr1.data.distortions import LEVELS
from vqr1.data.image_index import ImageIndex
from vqr1.data.labels._reading import text_lines
from vqr1.data.tables import parse_json, read_text
from vqr1.errors import DataError
from vqr1.iqa.question_answers import LETTERS, stated_distortions

Kind = Literal["choice", "comparison", "degradation", "identification", "description"]

TYPES = ("yes-or-no", "what", "how")
"""Of LLVisionQA's questions, by their code."""
CONCERNS = ("distortion", "other", "in-context distortion", "in-context other")
"""What LLVisionQA's questions are about, by their code."""

DESCRIBE = (
    "Describe the quality, aesthetics and other low-level appearance of the image in details."
)
"""LLDescribe's question (published)."""

OPTIONS_FOLLOW = "Choose between one of the options as follows:"
"""Sentence before the options (published)."""

ASK_LETTER = "Answer with the letter of the option alone."
"""Sentence after them, which is ours: answers are read strictly."""

IMAGES_AB = ("Image A", "Image B")

_SHOWN_AS = {"image_ref": "Reference", "image_A": "Image A", "image_B": "Image B"}
"""What DepictQA's images are called in a prompt about several, in their order."""

_SHOWN = 60


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        where: file and item, for messages.
        kind: how its answer is compared.
        images: paths of its images in the prompt's order, below the image folder.
        text: what the model is asked.
        answer: the correct option's text, the distortions as listed, the JSON object with class and
            severity of a distortion, or the reference description.
        options: of a choice or comparison; else empty.
        groups: by name of a grouping (`type`, `concern`, `task`), the group that it belongs to.
        system: system message of its own, empty for none; None: that of the command.
        damage: what is done to its images after they are resized; None leaves them as they are.
    """

    where: str
    kind: Kind
    images: tuple[str, ...]
    text: str
    answer: str
    options: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    damage: Damage | None = None


def read_questions(path: Path, root: Path) -> list[Question]:
    """All questions of a file, their images found.

    Args:
        path: the file.
        root: folder of the images; no image outside of it is ever read.

    Raises:
        DataError: no such file, not JSON, an item of no known form or with a value that is not as
            the form has it, or images that are missing; names file and item.
    """
    found = [_question(item, where) for item, where in _items(path)]
    if not found:
        raise DataError(f"{path}: holds no question")
    return _with_images(found, path, root)


def digest_of(questions: Sequence[Question]) -> str:
    """SHA-256 of what is asked: texts, names of images and their damage, in order."""
    asked = [
        (
            q.text,
            q.images,
            *([] if q.damage is None else [asdict(q.damage)]),
            *([] if q.system is None else [q.system]),
        )
        for q in questions
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def as_item(question: Question) -> dict[str, Any]:
    """A comparison or degradation as an object of a file, of which the same question is read."""
    task = {"task_type": question.groups["task"]}
    if question.kind == "degradation":
        damage = {} if question.damage is None else {"damage": asdict(question.damage)}
        shown = {"img_path": question.images[0], "question": question.text}
        return {**shown, **json.loads(question.answer), **damage, **task}
    names = list(_SHOWN_AS)[-len(question.images) :]
    return {
        **dict(zip(names, question.images, strict=True)),
        "query": question.text,
        "answer": question.answer,
        "options": list(question.options),
        **task,
    }


def image_root(path: Path, root: str | None) -> Path:
    """The folder of a file's images: the one that is named, or the folder of the file."""
    return path.parent if root is None else Path(root).expanduser()


def _items(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    if path.suffix.lower() == ".jsonl":
        values = [(parse_json(line, where), where) for where, line in text_lines(path)]
    else:
        whole = parse_json(read_text(path), str(path))
        if not isinstance(whole, list):
            raise DataError(f"{path}: must be a JSON list of questions")
        values = [(item, f"{path}: item {n}") for n, item in enumerate(whole, 1)]
    for item, where in values:
        if not isinstance(item, dict):
            raise DataError(f"{where}: must be a JSON object, not {_shown(item)}")
        yield item, where


def _question(item: Mapping[str, Any], where: str) -> Question:
    for key, read in _FORMS.items():
        if key in item:
            system = item.get("system")
            if system is not None and not isinstance(system, str):
                raise DataError(f"{where}: system must be a text; it is {_shown(system)}")
            return replace(read(item, where), system=system)
    raise DataError(
        f"{where}: has neither candidates (LLVisionQA), description (LLDescribe), image_A "
        f"(DepictQA) nor distortion_class, but {', '.join(item) or 'no key'}; bring it into one of "
        "these forms"
    )


def _choice(item: Mapping[str, Any], where: str) -> Question:
    candidates = item["candidates"]
    if not isinstance(candidates, list) or not 2 <= len(candidates) <= len(LETTERS):
        raise DataError(f"{where}: candidates must be a list of 2 to {len(LETTERS)} texts")
    options = tuple(_text({"candidates": one}, "candidates", where) for one in candidates)
    if len({option.casefold() for option in options}) < len(options):
        raise DataError(f"{where}: two candidates are alike: {_shown(candidates)}")
    if "correct_ans" not in item:
        raise DataError(
            f"{where}: has no correct_ans, so that no answer can be right (the test split of "
            "LLVisionQA is released without); use the dev split"
        )
    correct = _text(item, "correct_ans", where)
    if correct not in options:
        raise DataError(f"{where}: correct_ans={correct!r} is none of the candidates")
    listed = "\n".join(f"{letter}. {one}" for letter, one in zip(LETTERS, options, strict=False))
    return Question(
        where,
        "choice",
        _img_path(item, where),
        f"{_text(item, 'question', where)}\n{OPTIONS_FOLLOW}\n{listed}\n{ASK_LETTER}",
        correct,
        options,
        {
            "type": _code(item, "type", TYPES, where),
            "concern": _code(item, "concern", CONCERNS, where),
        },
    )


def _description(item: Mapping[str, Any], where: str) -> Question:
    text = _text(item, "question", where) if "question" in item else DESCRIBE
    reference = _text(item, "description", where)
    return Question(where, "description", _img_path(item, where), text, reference)


def _depictqa(item: Mapping[str, Any], where: str) -> Question:
    shown = {label: item.get(key) for key, label in _SHOWN_AS.items() if item.get(key) is not None}
    images = tuple(_path(name, where) for name in shown.values())
    if not images:
        raise DataError(f"{where}: image_ref, image_A and image_B are all null")
    query, answer = _turn(item, where)
    problem = placeholder_problem(query, len(images))
    if problem is not None:
        raise DataError(f"{where}: query: {problem.replace('prompt.images=', 'images: ')}")
    if len(images) > 1 and IMAGE_PLACEHOLDER not in query:
        query = "".join(f"{label}: {IMAGE_PLACEHOLDER}\n" for label in shown) + query
    task = _text(item, "task_type", where) if "task_type" in item else "not stated"
    kind: Kind = "description"
    options = _options(item, where)
    if answer.strip(" .") in options:
        kind, answer = "comparison", answer.strip(" .")
    elif stated_distortions(answer) is not None:
        kind = "identification"
    options = options if kind == "comparison" else ()
    return Question(where, kind, images, query, answer, options, {"task": task})


def _options(item: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers of a comparison."""
    given = item.get("options", list(IMAGES_AB))
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        raise DataError(f"{where}: options must be a list of 2 to {len(LETTERS)} texts")
    return tuple(_text({"options": one}, "options", where) for one in given)


def _degradation(item: Mapping[str, Any], where: str) -> Question:
    keys = ("distortion_class", "severity")
    stated = {key: _text(item, key, where) for key in keys}
    task = _text(item, "task_type", where) if "task_type" in item else "not stated"
    return Question(
        where,
        "degradation",
        _img_path(item, where),
        _text(item, "question", where),
        json.dumps(stated),
        groups={"task": task, "class": stated["distortion_class"], "severity": stated["severity"]},
        damage=_damage(item, where),
    )


def _damage(item: Mapping[str, Any], where: str) -> Damage | None:
    value = item.get("damage")
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or value.get("kind") not in KINDS
        or type(value.get("seed")) is not int
        or type(value.get("level")) not in (int, float)
        or not LEVELS[0] <= value["level"] <= LEVELS[-1]
        or value["seed"] < 0
    ):
        raise DataError(
            f"{where}: damage must be an object with kind (of {', '.join(KINDS)}), level "
            f"({LEVELS[0]} to {LEVELS[-1]}) and seed (a whole number); it is {_shown(value)}"
        )
    return Damage(value["kind"], float(value["level"]), value["seed"])


def _turn(item: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Query and answer, of files for inference or for training."""
    turns = item.get("conversations")
    if turns is None:
        return _text(item, "query", where, placed=True), _text(item, "answer", where)
    if not isinstance(turns, list) or [isinstance(t, dict) for t in turns] != [True, True]:
        raise DataError(f"{where}: conversations must be a list of two objects: human, gpt")
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise DataError(f"{where}: conversations must be from human, then from gpt")
    query, answer = (_text(turn, "value", where) for turn in turns)
    return query, answer


_FORMS: Mapping[str, Callable[[Mapping[str, Any], str], Question]] = {
    "candidates": _choice,
    "description": _description,
    "image_A": _depictqa,
    "distortion_class": _degradation,
}
"""By the key that each form alone has, its reader."""


def _img_path(item: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = item.get("img_path")
    listed = value if isinstance(value, list) else [value]
    if not 1 <= len(listed) <= MOST_IMAGES:
        raise DataError(f"{where}: img_path must be 1 to {MOST_IMAGES} images, not {len(listed)}")
    return tuple(_path(one, where) for one in listed)


def _path(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: an image must be a path, not {_shown(value)}")
    parts = PurePosixPath(value)
    if parts.is_absolute() or ".." in parts.parts or "\\" in value or "\0" in value:
        raise DataError(
            f"{where}: image {_shown(value)} must be a path below the image folder, with / between "
            "its parts and without .."
        )
    return value


def _text(item: Mapping[str, Any], key: str, where: str, *, placed: bool = False) -> str:
    """A text; `placed`: it may mark where its images stand."""
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        found = _shown(value) if key in item else "missing"
        raise DataError(f"{where}: {key} must be a text that is not empty; it is {found}")
    if IMAGE_PLACEHOLDER in value and not placed:
        raise DataError(f"{where}: {key} must not hold {IMAGE_PLACEHOLDER}: images come first")
    return value.strip()


def _code(item: Mapping[str, Any], key: str, names: Sequence[str], where: str) -> str:
    value = item.get(key)
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    codes = ", ".join(f"{code} ({name})" for code, name in enumerate(names))
    raise DataError(f"{where}: {key} must be one of {codes}; it is {_shown(value)}")


def _with_images(questions: Sequence[Question], path: Path, root: Path) -> list[Question]:
    """The questions with their images' paths as the disk has them."""
    if not root.is_dir():
        raise DataError(f"{path}: the folder of its images, {root}, does not exist")
    index = ImageIndex(root)
    found, missing = [], []
    for question in questions:
        images = [index.find(image) for image in question.images]
        for image, name in zip(images, question.images, strict=True):
            if image.path is None:
                missing.append(f"{question.where}: {name} {image.problem}")
        paths = tuple(image.path or "" for image in images)
        found.append(replace(question, images=paths))
    if missing:
        raise DataError(
            f"{counted_are(len(missing), 'image')} not in {root}, the first is "
            f"{missing[0]}; put them there, or name their folder"
        )
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
