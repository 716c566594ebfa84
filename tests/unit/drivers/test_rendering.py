"""Documents as the content of files."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from noded.drivers.support.rendering import CannotRender, fill_template, render
from nodestore.support.jsonio import Document

DOCUMENT: Document = {
    "scene": "Küche",
    "level": 3,
    "on": True,
    "none": None,
    "screen": {"width": 1920, "names": ["a", "b"]},
    "odd key": "x",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("scene=${scene}\n", "scene=Küche\n"),
        ("${level}${level}", "33"),
        ("${on} ${none}", "true null"),
        ("${screen.width} ${screen.names}", '1920 ["a","b"]'),
        ("${screen}", '{"width":1920,"names":["a","b"]}'),
        ("${odd key}", "x"),
        ("$$ $${scene} $scene $HOME $(id) $", "$ ${scene} $scene $HOME $(id) $"),
        ("$$${scene}", "$Küche"),
    ],
)
def test_templates(template: str, text: str) -> None:
    """Each placeholder is that value; what is not a placeholder stays."""
    assert fill_template(template, DOCUMENT, 1_000) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("${scenes}", "needs the key 'scenes'"),
        ("${screen.height}", "needs the key 'screen.height'"),
        ("${scene.name}", "needs the key 'scene.name'"),
        ("${}", "needs the key ''"),
        ("a ${scene", r"has a \$\{ without \}: '\$\{scene'"),
        ("${" + "x" * 500 + "}", r"x\.\.\.'"),
    ],
)
def test_templates_that_do_not_fit(template: str, says: str) -> None:
    """The error names the place in the template."""
    with pytest.raises(CannotRender, match=says):
        fill_template(template, DOCUMENT, 1_000)


def test_a_small_template_cannot_make_a_large_file() -> None:
    """It stops at the limit, not when the memory is full."""
    with pytest.raises(CannotRender, match="longer than 5000 bytes"):
        render({"a": "x" * 1_000}, "text", "${a}" * 100_000, 5_000)


def test_yaml_is_plain_and_not_mistaken() -> None:
    """Words stay bare; what a reader of YAML 1.2 would take for a number is quoted."""
    document = {"scene": "one two", "serial": "1e5", "address": "10.0.0.1", "on": "no", "none": "", "list": [1, 2.5]}
    assert render(document, "yaml", "", 1_000).decode().splitlines() == [
        "scene: one two",
        'serial: "1e5"',
        'address: "10.0.0.1"',
        "'on': 'no'",
        "none: ''",
        "list:",
        "- 1",
        "- 2.5",
    ]


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_json_and_yaml_read_back(document: Document) -> None:
    """Whatever the document, a reader finds it again."""
    assert json.loads(render(document, "json", "", 1 << 20)) == document
    assert yaml.safe_load(render(document, "yaml", "", 1 << 20)) == document
