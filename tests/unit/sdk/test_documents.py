"""What docs/applications.md shows works as it stands there."""

from __future__ import annotations

from typing import Any

from nodesdk.testing import AppHarness
from tests.support.doc_examples import examples


def _run(*names: str) -> dict[str, Any]:
    """The names that these examples define, one after another, as in one module."""
    shown, module = examples("applications.md"), dict[str, Any]()
    for name in names:
        exec(shown["example", name], module)  # noqa: S102 - runs what the documents show
    return module


def test_the_first_lines_are_an_application() -> None:
    """The first example, ten lines, is a complete application."""
    assert len(examples("applications.md")["example", "counter"].strip().splitlines()) == 10
    harness = AppHarness(_run("counter")["app"])
    assert [harness.run("counter.add", name="visitors", by=by) for by in (1, 5)] == [1, 6]


def test_its_tests_pass() -> None:
    """Those that the document shows for it."""
    module = _run("counter", "test")
    module["test_counter"]()
    module["test_contract"]()
