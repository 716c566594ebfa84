"""Parsing of request bodies, by hand: a pydantic model per command would slow down the hot route."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from masterd.roles.principal import ANYONE, Principal
from masterd.state_machine.batch import OWN_IDS, CommandRequest, outcome_question
from nodestore.errors import Invalid
from nodestore.schema.limits import ACTOR_BYTES_MAX, COMMAND_NAME_BYTES_MAX, ID_CHARS_MAX, TEXT_BYTES_MAX, check_text


def text_field(body: Mapping[str, Any], name: str, where: str = "", bytes_max: int | None = TEXT_BYTES_MAX) -> str:
    """The text under `name`; empty if it is absent or null. Raises Invalid if it is something else, or longer.

    bytes_max: None for a text that only the limit of the body restricts.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"{where}{name}: expected text")
    text = value or ""
    return text if bytes_max is None else check_text(text, f"{where}{name}", bytes_max)


def actor_of(body: Mapping[str, Any], where: str = "") -> str:
    """The author that the request names, or `anonymous`. Raises Invalid."""
    return text_field(body, "actor", where, ACTOR_BYTES_MAX) or "anonymous"


def parse_command(item: Any, where: str, principal: Principal = ANYONE) -> CommandRequest:
    """Parse one command of a request's body. Raises Invalid. `where` is the prefix of its messages, such as
    `commands[3].`. principal: who sent the request."""
    if not isinstance(item, dict):
        raise Invalid(f"{where[:-1]}: expected an object")
    name, args, command_id, after = item.get("name"), item.get("args", {}), item.get("id"), item.get("after")
    if not isinstance(name, str) or not name:
        raise Invalid(f"{where}name: expected the command's name")
    check_text(name, f"{where}name", COMMAND_NAME_BYTES_MAX)
    if not isinstance(args, dict):
        raise Invalid(f"{where}args: expected an object")
    claimed, stated = actor_of(item, where), text_field(item, "on_behalf_of", where, ACTOR_BYTES_MAX)
    actor, on_behalf_of = principal.author(claimed), stated or principal.replaced(item.get("actor") or "")
    groups, address = principal.groups, principal.address
    if command_id is None:
        return CommandRequest(
            f"srv-{secrets.token_hex(8)}", name, args, actor, groups=groups, address=address, on_behalf_of=on_behalf_of
        )
    return CommandRequest(
        _checked_id(command_id, where), name, args, actor, _checked_after(after, where),
        groups=groups, address=address, on_behalf_of=on_behalf_of,
    )  # fmt: skip


def parse_outcome_question(body: Mapping[str, Any], principal: Principal = ANYONE) -> CommandRequest:
    """Parse the question what became of a command. Raises Invalid."""
    command_id, after = _checked_id(body.get("id"), ""), _checked_after(body.get("after"), "")
    return outcome_question(command_id, after, principal.author(actor_of(body)), principal.address)


def _checked_id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= ID_CHARS_MAX:
        raise Invalid(f"{where}id: expected a text of 1 to {ID_CHARS_MAX} characters")
    own = next((prefix for prefix in OWN_IDS if value.startswith(prefix)), None)
    if own is not None:
        raise Invalid(f"{where}id: ids that begin with {own} are reserved for masterd; choose another one")
    return value


def _checked_after(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"{where}after: a command with an id needs the index that the client knew when it first sent it")
    return value
