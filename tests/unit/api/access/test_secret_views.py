"""What answers show of secrets: every read of the API is covered, and each kind of answer is masked."""

# ruff: noqa: E501 -- tables of fields

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from masterd.api import reads, routes
from masterd.api.secret_views.hiding import (
    NodeSecrets,
    SecretMarks,
    check_no_mask,
    each_shown,
    hide_config,
    hide_document,
    hide_documents,
    hide_history,
    hide_snapshot,
)
from masterd.application.secret_fields import marked_arguments, marked_fields
from masterd.roles.principal import ANYONE, Kind, Principal
from nodesdk import App, DefinitionError, Secret, Transaction
from nodestore.errors import Invalid
from nodestore.schema.models import Desired, Inventory, Spec
from nodestore.support.secrets import MASK, SecretFields
from nodestore.support.time_slices import SLICE_S

CANARY = "canary-4711"


class Door(BaseModel):
    code: SecretStr | None = None
    colour: str = ""


class Doors(BaseModel):
    doors: list[Door] = []
    by_name: dict[str, Secret] = {}
    last: Annotated[str, Field(json_schema_extra={"format": "password"})] = ""
    plain: str = ""


def _app() -> App:
    app = App("doors", secret_fields=("player.stream",))

    @app.command
    def unlock(tx: Transaction, pin: Secret, name: str = "") -> None: ...

    return app


def test_every_read_is_covered() -> None:
    """A new read must say whether its answer may hold secrets."""
    assert not routes.HIDING.keys() & routes.WITHOUT_SECRETS
    served = {read for read in vars(reads).values() if asyncio.iscoroutinefunction(read) and _is_read(read)}
    assert served - routes.HIDING.keys() == routes.WITHOUT_SECRETS


def _is_read(function: Any) -> bool:
    parameters = [str(item) for item in getattr(function, "__annotations__", {}).values()]
    public = not function.__name__.startswith("_") and function.__module__ == reads.__name__
    return public and parameters[:2] == ["ReadSources", "web.Request"]


def test_marks_of_an_application() -> None:
    """By the schema of its commands, at any depth, and by name."""
    assert marked_arguments(Doors) == ("by_name", "last", "code")
    assert marked_fields(_app()) == ("player.stream", "pin")
    assert marked_fields(App("more", extends=_app(), secret_fields=("more",))) == ("player.stream", "more", "pin")
    for wrong in ("pin", ("a..b",), ("",), (" pin",), (5,)):
        with pytest.raises(DefinitionError, match="secret"):
            App("x", secret_fields=wrong)  # type: ignore[arg-type]


def test_a_model_without_a_schema_is_secret() -> None:
    class Odd(BaseModel):
        thing: Any = Field(json_schema_extra=lambda schema: 1 / 0)  # type: ignore[arg-type]
        other: int = 0

    assert marked_arguments(Odd) == ("thing", "other")


class Broken:
    """An application whose `commands()` raises until `works`."""

    name, secret_fields = "broken", ("own",)

    def __init__(self) -> None:
        self.asked, self.works = 0, False

    def commands(self) -> Any:
        self.asked += 1
        if not self.works:
            raise OSError("no commands")
        return _app().commands()


async def test_marks_that_could_not_be_read_are_asked_for_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is not kept. Requests in the meantime do not make masterd ask, or log, each time."""
    application = Broken()
    marks, inventory = SecretMarks(application), Inventory(secret_fields=("code",))  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        found = await asyncio.gather(*(marks.fields(inventory) for _ in range(5)))
    assert {fields.marks for fields in found} == {("own", "code")}
    assert (marks.are_known, application.asked, len(caplog.records)) == (False, 1, 1)
    assert "their secret arguments are not known" in caplog.text
    application.works = True
    assert (await marks.fields(inventory)).masked({"pin": CANARY}) != {"pin": MASK}
    later = time.monotonic() + 6.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert (await marks.fields(inventory)).masked({"pin": CANARY}) == {"pin": MASK}
    assert (await marks.fields(inventory)).marks == ("own", "pin", "code")
    assert (marks.are_known, application.asked) == (True, 2)


async def test_all_content_is_hidden_while_the_marks_are_not_known() -> None:
    """Arguments, results and documents, wherever an answer shows them. Texts about a node need no more than before."""
    secrets = NodeSecrets(SecretFields(), {}, marks_known=False)
    command: Any = {
        "index": 1, "name": "unlock", "args": {"pin": CANARY, "n": 1}, "result": {"pin": CANARY},
        "writes": {"doors/n1": {"pin": CANARY}, "gone": None},
        "actions": {"n1": {"name": "open", "args": {"pin": CANARY}, "timeout_s": 5.0}},
    }  # fmt: skip
    assert secrets.command(command) == {
        "index": 1, "name": "unlock", "args": {"pin": MASK, "n": MASK}, "result": {"pin": MASK},
        "writes": {"doors/n1": {"pin": MASK}, "gone": None},
        "actions": {"n1": {"name": "open", "args": {"pin": MASK}, "timeout_s": 5.0}},
    }  # fmt: skip
    command["result"] = [CANARY]
    assert secrets.command(command)["result"] == MASK
    node: Any = {"name": "n1", "document": {"pin": CANARY}, "spec": None, "status": None, "problem": None}
    assert secrets.node(node)["document"] == {"pin": MASK}
    document: Any = {"path": "x", "document": {"pin": CANARY}}
    assert (await hide_document(secrets, document))["document"] == {"pin": MASK}
    for answer in (
        await hide_documents(secrets, {"documents": {"x": document}}),  # type: ignore[typeddict-item]
        await hide_snapshot(secrets, {"documents": {"x": {"pin": CANARY}}}),  # type: ignore[typeddict-item]
    ):
        assert CANARY not in str(answer)


@pytest.mark.parametrize("marks", ["pin", ["a..b"], [""], [5], ["x"] * 201])
def test_marks_of_a_configuration_are_checked(marks: Any) -> None:
    """But one that an older master adopted stays readable."""
    with pytest.raises(ValueError, match=r"secret_fields|secret field"):
        Inventory.model_validate({"secret_fields": marks})
    assert set(Inventory.without_name_check({"secret_fields": marks}).secret_fields) <= {"x"}


ORDER = Desired(
    epoch=1, term=1, generation=1, spec=Spec(driver="x", settings={"pin": CANARY}, document={"token": "other-secret"})
)  # fmt: skip
SECRETS = NodeSecrets(SecretFields(("pin",)), {"n1": ORDER})


def test_a_node_whose_spec_is_not_known_at_present() -> None:
    """The texts about it may hold a secret that is in its new spec alone. That spec cannot be read without etcd."""
    secrets = NodeSecrets(SECRETS.fields, {"n1": ORDER}, are_orders_current=False)

    def shown(generation: int) -> Any:
        view: Any = {
            "name": "n1", "document": None, "spec": None, "desired": {"generation": generation, "hash": "h"},
            "problem": f"failed: {CANARY} new-secret", "status": {"error": None, "reason": "new-secret", "phase": "failed"},
        }  # fmt: skip
        return secrets.node(view)

    assert shown(2)["problem"] == MASK
    assert shown(2)["status"] == {"error": None, "reason": MASK, "phase": "failed"}
    assert shown(1)["problem"] == f"failed: {MASK} new-secret"


def test_a_node() -> None:
    """Also in the texts that a driver or the leader wrote about it."""
    view: Any = {
        "name": "n1", "document": {"pin": "p", "a": 1}, "spec": {"driver": "x", "settings": {"pin": CANARY}, "document": {}},
        "problem": f"failed: cannot start show --pin={CANARY}",
        "status": {"error": f"{CANARY} other-secret", "warning": None, "reason": CANARY, "phase": "failed",
                   "actual": {"line": f"x{CANARY}y", "password": "q"}},
    }  # fmt: skip
    shown = SECRETS.node(view)
    assert CANARY not in str(shown)
    assert "other-secret" not in str(shown)
    assert shown["document"] == {"pin": MASK, "a": 1}
    assert shown["problem"] == "failed: cannot start show --pin=***"
    assert (view["problem"] or "").endswith(CANARY)


async def test_many_items_are_shown_in_time_slices() -> None:
    """So that a long answer or event does not delay heartbeats."""
    turns: list[int] = []

    def show(item: int) -> int:
        time.sleep(2 * SLICE_S)
        asyncio.get_running_loop().call_soon(turns.append, item)
        return item * 10

    assert await each_shown(range(3), show) == [0, 10, 20]
    assert turns == [0, 1, 2]


async def test_history_and_configuration() -> None:
    """A node or document that is named like a secret is not one."""
    config = {
        "version": 1, "source": f"pin: {CANARY}",
        "inventory": {"nodes": {"token": {"document": {"pin": CANARY, "k": 1}}}, "settings": {"own": CANARY},
                      "secret_fields": ["own"], "masters": {"secret": {}}},
    }  # fmt: skip
    command = {
        "index": 1, "args": {"pin": CANARY, "x": 1}, "result": {"pin": CANARY}, "writes": {"token": {"pin": CANARY}, "b": None},
        "actions": {"token": {"name": "a", "args": {"pin": CANARY}}}, "config": config,
    }  # fmt: skip
    answer: Any = {"entries": [command, {"index": None, "problem": "unreadable"}], "index": 1}
    shown = await hide_history(SECRETS, answer)
    assert CANARY not in str(shown)
    assert shown["entries"][0]["writes"] == {"token": {"pin": MASK}, "b": None}
    assert shown["entries"][0]["config"]["inventory"]["nodes"] == {"token": {"document": {"pin": MASK, "k": 1}}}
    assert shown["entries"][0]["config"]["source"] == ""
    plain = {"version": 2, "source": "# kept", "inventory": {"nodes": {"n1": {}}, "secret_fields": ["own"]}}
    both: Any = {"current": plain, "in_force": None, "problem": None}
    assert await hide_config(SECRETS, both) == both


def test_who_sees_secrets() -> None:
    """Those who may change the configuration, the daemons, and everybody while access control is off."""
    kinds = {kind: Principal(kind).sees_secrets for kind in Kind}
    assert kinds == {kind: kind in (Kind.ANYONE, Kind.MASTER, Kind.NODED) for kind in Kind}
    assert ANYONE.sees_secrets
    roles = {
        role: Principal(Kind.TOKEN, "x", role).sees_secrets for role in ("viewer", "operator", "maintainer", "admin")
    }
    assert roles == {"viewer": False, "operator": False, "maintainer": True, "admin": True}
    assert not Principal(Kind.TOKEN, "x", "admin", groups=("left",)).sees_secrets


def test_a_mask_is_not_written_back() -> None:
    """An operator who has read `***` must not store that in place of the secret."""
    for args in ({"pin": MASK}, {"values": {"pin": MASK}}, {"doors": [{"pin": MASK}]}, {"password": MASK}):
        with pytest.raises(Invalid, match=r"command door\.set: \*\*\* stands for a secret"):
            check_no_mask("door.set", args, SECRETS.fields)
    check_no_mask("door.set", {"pin": "x", "text": MASK}, SECRETS.fields)
