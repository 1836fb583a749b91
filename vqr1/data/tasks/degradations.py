"""Which distortion, and how severe: Q-Insight's degradation task (arXiv 2503.22679).

Items come from a set's own labels (`distortion`, and a further column with the level), or are
photographs damaged by our own distortions (`vqr1.data.distortions`) in the size that the model
takes. Then classes and levels come equally often, undamaged images as often as one class; the
draw depends on the seed and the images' names.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.types import STRICT_KEYS
from vqr1.data.degraded import KINDS, Damage
from vqr1.data.distortions import LEVELS
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.questions import Question
from vqr1.data.tasks.base import Item, TaskData, drawn_number
from vqr1.errors import ConfigError, DataError

DISTORTION, SEVERITY = "distortion", "severity"


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class Degradations(TaskData):
    """Images with the class and the severity of their one distortion."""

    labels: Literal["auto", "columns", "applied"] = "auto"
    """`columns`: the set's own labels; `applied`: our own damage. `auto`: the set's where it has a
    training image with a class and a level, else our own damage."""
    classes: dict[str, tuple[str, ...]]
    """By the word that an answer has to state, kinds of distortion: names in the set's labels, and
    of ours; a class without any is none. Images with another distortion are not asked about."""
    levels: Annotated[tuple[str, ...], Field(min_length=1)]
    """Words of severity, mildest first."""
    column: str = "level"
    """Label column with the level, 1 being the mildest."""
    undamaged: str | None = "null"
    """Word for both class and severity of an image without damage; null asks about none such."""

    columns = frozenset((DISTORTION, SEVERITY))

    @property
    def images(self) -> int:
        """One."""
        return 1

    def problems(self, key: str) -> list[str]:
        """See `TaskData.problems`."""
        found = []
        if not self._named:
            found.append(f"{key}.classes={self.classes}: name at least one class with its kinds")
        words = [*self._named, *([] if self.undamaged is None else [self.undamaged])]
        if len(set(words)) < len(words) or len(set(self.levels)) < len(self.levels):
            found.append(f"{key}: classes, undamaged and levels must be words that differ")
        kinds = [kind for named in self.classes.values() for kind in named]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            found.append(f"{key}.classes: {', '.join(twice)} stands in two classes; keep one")
        if self.labels == "applied":
            found += self._unknown(key)
        return found

    def items(self, labelled: LabelledSet, split: Split, seed: int, key: str) -> list[Item]:
        """See `TaskData.items`."""
        if self.labels == "applied" or (self.labels == "auto" and not self._is_labelled(labelled)):
            return self._applied(labelled, split, seed, key)
        return self._labelled(labelled, split, key)

    def question(self, item: Item, text: str, where: str) -> Question:
        """See `TaskData.question`."""
        stated = {"distortion_class": item.distortion, "severity": item.words[SEVERITY]}
        return Question(
            where,
            "degradation",
            item.images,
            text,
            json.dumps(stated),
            groups={"class": str(item.distortion), "severity": item.words[SEVERITY]},
            damage=item.damage,
        )

    @property
    def _named(self) -> dict[str, tuple[str, ...]]:
        return {word: kinds for word, kinds in self.classes.items() if kinds}

    def _classes(self) -> dict[str, str]:
        return {kind: word for word, kinds in self._named.items() for kind in kinds}

    def _unknown(self, key: str) -> list[str]:
        return [
            f"{key}.classes.{word}={list(kinds)}: none of these is a distortion that can be "
            f"applied ({', '.join(KINDS)}); name one, or take the labels of a set "
            f"({key}.labels=columns)"
            for word, kinds in self._named.items()
            if not KINDS.keys() & set(kinds)
        ]

    def _is_labelled(self, labelled: LabelledSet) -> bool:
        rows, known = labelled.rows("train"), self._classes()
        return any(
            kind in known and self.column in (further or {})
            for kind, further in zip(rows["distortion"], rows["further"], strict=True)
        )

    def _labelled(self, labelled: LabelledSet, split: Split, key: str) -> list[Item]:
        rows, known = labelled.rows(split), self._classes()
        found = []
        for name, images, kind, further in zip(
            rows["image"], rows["images"], rows["distortion"], rows["further"], strict=True
        ):
            if kind in known:
                level = self._level((further or {}).get(self.column), labelled, name, key)
                found.append(Item(images, {SEVERITY: level}, known[kind], name=name))
        if not found and split == "train":
            kinds = ", ".join(sorted({str(kind) for kind in rows["distortion"].dropna()}))
            raise ConfigError(
                [
                    f"{key}.classes: no training image of {labelled.name} has one of the "
                    f"distortions {', '.join(known)} (its labels have {kinds or 'none'}); name "
                    f"these, or damage its images ({key}.labels=applied)"
                ]
            )
        return found

    def _level(self, value: object, labelled: LabelledSet, name: str, key: str) -> str:
        try:
            level = float(str(value))
        except ValueError:
            level = 0.0
        if level not in range(1, len(self.levels) + 1):
            raise DataError(
                f"{labelled.key}: column {self.column!r} of {labelled.name} holds {value!r} for "
                f"{name}, and {key} needs a level of 1 to {len(self.levels)} ({key}.levels); "
                f"correct the label, name another column ({key}.column), or damage images "
                f"({key}.labels=applied)"
            )
        return self.levels[int(level) - 1]

    def _applied(self, labelled: LabelledSet, split: Split, seed: int, key: str) -> list[Item]:
        if problems := self._unknown(key):
            raise ConfigError(problems)
        rows = labelled.rows(split)
        names = rows["image"].tolist()
        cases = self._cases()
        order = sorted(range(len(names)), key=lambda n: drawn_number(seed, "damage", names[n]))
        case_of = {n: cases[place % len(cases)] for place, n in enumerate(order)}
        return [
            self._damaged(name, images, *case_of[n], seed)
            for n, (name, images) in enumerate(zip(names, rows["images"], strict=True))
        ]

    def _cases(self) -> list[tuple[str | None, int]]:
        """Class (None: undamaged) and number of the level of what comes equally often."""
        words = [*self._named, *([] if self.undamaged is None else [None])]
        return [(word, level) for level in range(len(self.levels)) for word in words]

    def _damaged(
        self, name: str, images: tuple[str, ...], word: str | None, number: int, seed: int
    ) -> Item:
        if word is None:
            assert self.undamaged is not None, "such cases are made where there is a word"
            return Item(images, {SEVERITY: self.undamaged}, self.undamaged, name=name)
        own = drawn_number(seed, "kind", name)
        kinds = [kind for kind in self.classes[word] if kind in KINDS]
        steps = max(len(self.levels) - 1, 1)
        level = LEVELS[0] + number / steps * (LEVELS[-1] - LEVELS[0])
        damage = Damage(kinds[own % len(kinds)], level, own)
        return Item(images, {SEVERITY: self.levels[number]}, word, damage, name)
