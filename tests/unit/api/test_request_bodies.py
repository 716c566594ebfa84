"""Request bodies: what is accepted as a command, and how a malformed one is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from masterd.api.request_bodies import actor_of, parse_command, parse_outcome_question, text_field
from masterd.roles.principal import ANYONE, Kind, Principal
from masterd.state_machine.actions import ActionClosure
from masterd.state_machine.batch import CommandRequest
from nodestore.errors import Invalid
from nodestore.schema.limits import ACTOR_BYTES_MAX, ID_CHARS_MAX
from nodestore.schema.models import Action, ConfigRecord
from nodestore.support.json_rules import finite
from nodestore.support.jsonio import dumps, duplicate_key, loads
from tests.support.toy_app import Line, inventory

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


def _ids_of_the_leader() -> list[str]:
    """The ids of the records that a leader writes by itself, which do not look at earlier uses of the id."""
    line = Line("n1")
    line.one("put", path="nodes/n1", document={"x": 1})
    line.state.specs.clear()  # so that the specs differ from the recorded ones
    batch, config = line.batch(), inventory("n1").model_dump(mode="json")
    batch.adopt(ConfigRecord(version=2, actor="admin", time=0.0, inventory=config), 107)
    batch.respec("m1", "abc")
    batch.forget("m1", "abc")
    batch.record_application("toy", "m1", "abc")
    closing = ActionClosure("n1", Action(name="restart", index=3, epoch=1, expires=0.0, actor="ann", time=0.0), "done")
    return [*(record.id for record in batch.records), closing.id]


def test_no_client_uses_or_closes_an_id_of_the_leader_itself() -> None:
    """Many can be guessed: the revision of the configuration, the nonce of a candidate. The leader's record would
    replace what is remembered of the client's command: a repeat of it would be refused as one that was not run, and the
    answer that it never takes effect would change."""
    ids = _ids_of_the_leader()
    assert len({command_id.partition("-")[0] for command_id in ids}) == 5
    for command_id in ids:
        body = {"name": "a", "id": command_id, "after": 0}
        for parse in (lambda body: parse_command(body, ""), parse_outcome_question):
            with pytest.raises(Invalid, match=r"id: ids that begin with [a-z.]+- are reserved for masterd"):
                parse(body)


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
