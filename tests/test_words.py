"""The words of the field: what this project calls things, and which words it does without.

Words that have a standard term are not used in names, messages, docs or configuration. Each entry
of `ALLOWED` says why a place keeps one.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WORDS = {
    "evaluate, prediction": r"\bjudg(e|es|ed|ing|ements?)\b",
    # A figure is a plot: `figure` alone is looked for where no plots are drawn (`PLOTS`).
    "metric, result": r"\bfigures\b(?!\()",
    "metric or result, not figure": r"\bfigure\b(?!\()",
    "sharded, full": r"\b(whole|cut) weights\b|\bdivided (weights|runs?|trainings?|adapters)\b",
    "MOS": r"(?<!mean )\bopinion[ -]scores?\b|\bexpected opinions?\b",
    "standard deviation": r"\bspreads?\b",
    # `Picture 1: ` is what chat templates write, `this picture` the published question.
    "image": r"(?<!quality of this )\bpictures?\b(?! ?(\d|\{\}))",
    "format-compliant": r"\bwell[ _-]formed|\bdemanded form",
    "zero variance": r"\b(carry|carries|carried|no|zero)[ _]signal\b|\bteach(es)? nothing\b",
    "optimizer state": r"\boptimi[sz]er('s)? moments\b|\bwhole moments\b",
    "rendezvous": r"\bmeeting\b",
    "resume, continue": r"\b(go|goes|going|gone|went) on\b",
    "rank 0, this rank": r"\bfirst process\b|\bown rank\b",
    "report, print, state": r"\b(speaks|says|say|said|saying|tells|tell|told|telling)\b(?!\()",
    "after": r"\bbehind\b",
    "skipped, excluded": r"\bleft[ _-]out\b|\bleaves? out\b|\bleaving out\b",
    "alarm": r"\bbarks?\b",
    "reconcile": r"\bsettle[sd]?\b",
    # `whole`, `piece`, `part` and `place` are English words too: these are their private meanings.
    "full": r"\bweights,? (which )?((are|is|stay|lie) )?whole\b|\bwhole in (every|each|this)\b",
    "shard, sharded": r"\bpieces? of (each|the|its|every) (weight|block|tower|parameter)s?\b"
    r"|\b(into|hold) (their )?pieces\b|\b(whole or|weights are|cut (the|full)) (cut|weights)\b",
    "split": r"\bin no part\b|\bpart that the image\b|\bparts? of (a|the|each) data ?sets?\b",
    "rank info": r"(?<!in )\bplaces? of (a|the|this|each|every) (process|rank)\b",
}
"""What to write, and what not to."""

ALLOWED: dict[tuple[str, str], str] = {
    ("tools/tiny_policy/factory.py", "picture"): "a word of the packaged chat template",
    ("tools/tiny_policy/factory.py", "pictures"): "a variable of the packaged chat template",
    ("tests/cli/bad_input_cases.py", "no_signal"): "an earlier key, refused",
    ("tests/cli/bad_input_cases.py", "figures"): "an earlier key, refused",
    ("tests/config/test_renamed.py", "figures"): "an earlier key",
    ("tests/config/test_renamed.py", "no_signal"): "an earlier key",
    ("tests/config/test_renamed.py", "left_out"): "an earlier name in reports",
    ("tests/config/test_renamed.py", "well_formed"): "an earlier name of a column",
    ("tests/report_page/test_pages.py", "well_formed"): "an earlier name of a metric",
    ("CHANGELOG.md", "no_signal"): "an earlier key",
    ("CHANGELOG.md", "figures"): "an earlier key",
    ("CHANGELOG.md", "well_formed"): "an earlier name of a column and a metric",
    ("CHANGELOG.md", "left_out"): "an earlier name in reports",
    ("tools/tiny_policy/synthetic.py", "picture"): "a sentence that the tiny policy was taught",
    ("vqr1/config/renamed.py", "figures"): "an earlier key",
    ("vqr1/config/renamed.py", "no_signal"): "an earlier key",
    ("vqr1/config/renamed.py", "well_formed"): "an earlier name of a column and a metric",
    ("vqr1/config/renamed.py", "left_out"): "an earlier name in reports",
}
"""Reasons by file (a path or its beginning) and word, as found in lower case."""

PLOTS = "matplotlib"
"""Modules that name it draw figures."""

TEXT = {".py", ".yaml", ".md", ".toml", ".html", ".js", ".sh", ".sbatch", ""}


def project_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout: the project's files cannot be listed")
    return [
        ROOT / name
        for name in listed
        if name
        and Path(name).suffix in TEXT
        and not name.startswith(("tests/archive", "vqr1/assets"))
    ]


def test_the_words_are_those_of_the_field() -> None:
    found = []
    for path in project_files():
        name = path.relative_to(ROOT).as_posix()
        if name == "tests/test_words.py" or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            for instead, pattern in WORDS.items():
                for match in re.finditer(pattern, line, re.IGNORECASE):
                    word = match.group(0).lower()
                    if word == "figure" and PLOTS in text:
                        continue
                    if not any(name.startswith(place) and word == kept for place, kept in ALLOWED):
                        found.append(f"{name}:{number}: {match.group(0)!r}, write {instead}")
    assert not found, "\n".join(found)


def test_every_allowance_is_used() -> None:
    used = {
        (place, kept)
        for path in project_files()
        for place, kept in ALLOWED
        if path.relative_to(ROOT).as_posix().startswith(place)
        and kept in path.read_text(encoding="utf-8").lower()
    }
    assert used == set(ALLOWED)


def test_every_module_that_a_module_names_is_there() -> None:
    files = project_files()
    there = {path.name for path in files}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        if path.suffix == ".py" and path.is_relative_to(ROOT / "vqr1")
        for name in re.findall(r"\b\w+\.py\b", path.read_text(encoding="utf-8"))
        if name not in there
    ]
    assert not missing, "\n".join(missing)
