"""The documents name files, folders and make targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("etcd/*.md")])
_PATH = re.compile(
    r"`((?:src|tests|bench|docs|examples|etcd|etc)/[\w./-]+|(?:masterd|noded|nodectl|nodestore)/[\w/]+\.py)`"
)
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#([^)\s]+))?\)")
_MAKE = re.compile(r"`(?:[A-Z_]+=\w+ )*make ([a-z-]+)")


def _named(document: Path) -> set[str]:
    return {path for path in _PATH.findall(document.read_text("utf-8")) if "*" not in path and "<" not in path}


def _anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as they are made by the usual renderers."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    """A path is written from the root of the project or of `src`."""
    missing = [path for path in _named(document) if not (ROOT / path).exists() and not (ROOT / "src" / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: Path) -> None:
    """Links are relative to the document."""
    broken = []
    for path, anchor in _LINK.findall(document.read_text("utf-8")):
        target = document.parent / path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(_MAKE.findall(document.read_text("utf-8"))) <= targets


def test_every_test_that_guards_an_invariant_is_named() -> None:
    """Each row of the table of invariants names at least one test."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = text[text.index("## Invariants") :]
    rows = [line for line in table.splitlines() if line.startswith("| **")]
    assert len(rows) >= 15
    assert [row for row in rows if "`tests/" not in row] == []
