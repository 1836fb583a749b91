"""Pages of the documentation site that are generated or stand elsewhere in the repository.

A hook of MkDocs (`mkdocs.yml`), called while it builds:

- reference/configuration: every key and choice, from the schema and `conf/`;
- reference/code: a page for each package, whose docstrings mkdocstrings reads;
- experiments, examples and the changelog, which lie beside `docs/`, with all links to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from reference_pages.configuration import COMMANDS, command_page, group_folders, group_page
from vqr1.config import config_dir

ROOT = Path(__file__).resolve().parents[2]
COPIED = {"experiments": {".md", ".png", ".svg"}, "examples": {".md", ".py", ".ipynb"}}
"""Folders beside `docs/` that are on the site under their names, and which files of them."""

NEIGHBOURS = {"CHANGELOG.md": "changelog.md", "README.md": "repository.md"}
"""Pages of the repository's top folder, and what they are called on the site."""

_LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; MkDocs calls it."""
    for name, content in _pages():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between pages that lie elsewhere on the site; MkDocs calls it for each page."""
    here = PurePosixPath(page.file.src_uri)
    in_repository = source_of(here.as_posix())
    if in_repository is None:
        return markdown

    def moved(found: re.Match[str]) -> str:
        target = found[2]
        if "://" in target:
            return found[0]
        wanted = normpath((PurePosixPath(in_repository).parent / target).as_posix())
        name = place_of(wanted)
        return found[0] if name is None else "](" + relpath(name, here.parent.as_posix())

    return _LINK.sub(moved, markdown)


def source_of(name: str) -> str | None:
    """Where in the repository a page of the site stands; None of one that is generated."""
    for source, called in NEIGHBOURS.items():
        if name == called:
            return source
    if name.partition("/")[0] in COPIED:
        return name
    return f"docs/{name}" if (ROOT / "docs" / name).is_file() else None


def place_of(source: str) -> str | None:
    """Where on the site a file of the repository is; None where it is not."""
    if source in NEIGHBOURS:
        return NEIGHBOURS[source]
    if source.partition("/")[0] in COPIED:
        return source
    return source.removeprefix("docs/") if source.startswith("docs/") else None


def _pages() -> Iterator[tuple[str, str | bytes]]:
    """Names and contents of all pages that are not in `docs/`."""
    for command in COMMANDS:
        yield f"reference/configuration/{command}.md", command_page(command)
    listed = []
    for folder in group_folders():
        name = folder.relative_to(config_dir()).as_posix()
        yield f"reference/configuration/groups/{name}.md", group_page(folder)
        choices = ", ".join(f"`{path.stem}`" for path in sorted(folder.glob("*.yaml")))
        listed.append(f"| [{name}](groups/{name}.md) | {choices} |")
    commands = [f"- [vqr1 {command}]({command}.md)" for command in COMMANDS]
    head = ["# Configuration", "", "Generated from the schema (`vqr1/config`) and `conf/`.", ""]
    table = ["", "| group | choices |", "|---|---|", *listed]
    yield "reference/configuration/index.md", "\n".join([*head, *commands, *table]) + "\n"
    yield from _code()
    for copied, endings in COPIED.items():
        for file in sorted((ROOT / copied).rglob("*")):
            if file.suffix in endings:
                yield file.relative_to(ROOT).as_posix(), file.read_bytes()
    for source, place in NEIGHBOURS.items():
        yield place, (ROOT / source).read_bytes()


def _code() -> Iterator[tuple[str, str]]:
    """A page for each package, with its modules below each other."""
    names = []
    for folder in sorted(path.parent for path in (ROOT / "vqr1").rglob("__init__.py")):
        name = ".".join(folder.relative_to(ROOT).parts)
        modules = sorted(path.stem for path in folder.glob("*.py") if path.stem[:2] != "__")
        shown = [f"::: {name}", *(f"::: {name}.{module}" for module in modules)]
        yield f"reference/code/{name}.md", "\n\n".join([f"# {name}", *shown]) + "\n"
        names.append(name)
    yield (
        "reference/code/index.md",
        "\n".join(["# Code", "", *(f"- [{name}]({name}.md)" for name in names)]) + "\n",
    )
