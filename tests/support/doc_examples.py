"""Reads the examples in the documents, so that the tests run exactly the published text.

An example is a fenced block after a line `<!-- example: NAME -->`; what it prints follows `<!-- prints: NAME -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^<!-- (example|prints): (\S+) -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"^<!-- (?:example|prints): ", re.MULTILINE)


def examples(page: str) -> dict[tuple[str, str], str]:
    """Return the text of each marked block of docs/<page>, by (`example` or `prints`, NAME)."""
    text = (DOCS / page).read_text("utf-8")
    found = {(kind, name): block for kind, name, block in _BLOCK.findall(text)}
    assert len(found) == len(_MARK.findall(text)), f"{page}: a mark without a block after it, or a name used twice"
    return found
