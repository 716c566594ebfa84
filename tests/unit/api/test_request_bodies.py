"""Request bodies: what is accepted as a command, and how a malformed one is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from masterd.api.request_bodies import actor_of, parse_command, text_field
from masterd.roles.principal import ANYONE, Kind, Principal
from masterd.state_machine.batch import CommandRequest
from nodestore.errors import Invalid
from nodestore.schema.api_types import ID_CHARS_MAX
from nodestore.schema.limits import ACTOR_BYTES_MAX
from nodestore.support.json_rules import finite
from nodestore.support.jsonio import dumps, duplicate_key, loads

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
JO = Principal(Kind.TOKEN, "jo", "operator", address="10.0.0.7")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"name": "a", "id": "x", "after": 3}, CommandRequest("x", "a", {}, "anonymous", 3)),
        (
            {"name": "a", "id": "x", "after": 0, "args": {"k": 1}, "actor": "ann"},
            CommandRequest("x", "a", {"k": 1}, "ann", 0),
        ),
        ({"name": "a", "id": "x", "after": 1, "actor": None}, CommandRequest("x", "a", {}, "anonymous", 1)),
    ],
)
def test_a_command_is_parsed(item: dict[str, Any], expected: CommandRequest) -> None:
    assert parse_command(item, "") == expected


def test_a_command_without_an_id_gets_one() -> None:
    """Each time another one, as it must not be taken for a repeat."""
    first, second = (parse_command({"name": "a"}, "") for _ in range(2))
    assert first.id.startswith("srv-")
    assert first.id != second.id


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "commands[3]: expected an object"),
        ({}, "commands[3].name: expected the command's name"),
        ({"name": ""}, "commands[3].name: expected the command's name"),
        ({"name": "a", "args": []}, "commands[3].args: expected an object"),
        ({"name": "a", "actor": 5}, "commands[3].actor: expected text"),
        ({"name": "a", "id": ""}, f"commands[3].id: expected a text of 1 to {ID_CHARS_MAX} characters"),
        (
            {"name": "a", "id": "x" * (ID_CHARS_MAX + 1), "after": 1},
            f"commands[3].id: expected a text of 1 to {ID_CHARS_MAX} characters",
        ),
        ({"name": "a", "id": "x"}, "commands[3].after: a command with an id needs the index"),
        ({"name": "a", "id": "x", "after": True}, "commands[3].after: a command with an id needs the index"),
        ({"name": "a", "id": "x", "after": -1}, "commands[3].after: a command with an id needs the index"),
    ],
)
def test_a_malformed_command_is_refused(item: Any, message: str) -> None:
    """The message names the command and its field."""
    with pytest.raises(Invalid) as refused:
        parse_command(item, "commands[3].")
    assert str(refused.value).startswith(message)


@given(_JSON | st.fixed_dictionaries({"name": _JSON}, optional={"args": _JSON, "id": _JSON, "after": _JSON}))
def test_any_json_is_parsed_or_refused(item: Any) -> None:
    """Nothing else is raised, and what is accepted has the types that the leader relies on."""
    try:
        request = parse_command(item, "body.")
    except Invalid:
        return
    assert isinstance(request.args, dict)
    assert request.name
    assert 0 < len(request.id) <= ID_CHARS_MAX


@pytest.mark.parametrize(("body", "text", "actor"), [({}, "", "anonymous"), ({"actor": "ann"}, "ann", "ann")])
def test_a_text_field_may_be_absent(body: dict[str, Any], text: str, actor: str) -> None:
    assert (text_field(body, "actor"), actor_of(body)) == (text, actor)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"name": "a", "actor": "ä" * ACTOR_BYTES_MAX}, "actor: 512 bytes of text; the limit is 256"),
        ({"name": "a" * 129}, "name: 129 bytes of text; the limit is 128"),
    ],
)
def test_a_text_that_is_too_long_is_refused_with_its_limit(body: dict[str, Any], where: str) -> None:
    with pytest.raises(Invalid, match=where):
        parse_command(body, "")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"a": [{"b": 1}, {"c": ":", "c": 2}]}', "c"),
        (b'{"a": {"x\\"y": 1}, "b": ":::", "b": 2}', "b"),
        (b'{"a": 1, "a": "\\u003a"}', "a"),
        (b'{"a": "\\ud83d\\ude00", "b": 1e400}', None),
        (b'{"a": "b: c", "d": {"e": ":", "f\\\\": ":"}}', None),
        (b'{"a": 1, "b": {"a": 1}}', None),
    ],
)
def test_a_name_that_occurs_twice_in_one_object_is_found(raw: bytes, name: str | None) -> None:
    assert duplicate_key(raw, loads(raw)) == name


@given(_JSON)
def test_a_body_without_duplicates_is_never_refused(value: Any) -> None:
    assume(finite(value))
    raw = dumps(value)
    assert duplicate_key(raw, loads(raw)) is None


# --- who sent it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principal", "fields", "expected"),
    [
        (ANYONE, {"actor": "anna"}, ("anna", "", "")),
        (ANYONE, {}, ("anonymous", "", "")),
        (ANYONE, {"actor": "script", "on_behalf_of": "anna"}, ("script", "", "anna")),
        (JO, {"actor": "anna"}, ("token:jo", "10.0.0.7", "anna")),
        (JO, {"actor": "x", "on_behalf_of": "anna"}, ("token:jo", "10.0.0.7", "anna")),
        (JO, {}, ("token:jo", "10.0.0.7", "")),
        (JO, {"actor": "token:jo"}, ("token:jo", "10.0.0.7", "")),
    ],
)
def test_the_author_is_the_principal(
    principal: Principal, fields: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    """What a request says of its author counts only without access control. With it, that is kept as what it is."""
    for more in ({}, {"id": "i", "after": 0}):
        made = parse_command({"name": "n", **fields, **more}, "", principal)
        assert (made.actor, made.address, made.on_behalf_of) == expected
