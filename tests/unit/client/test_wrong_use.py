"""A client that is used wrongly says so: before it is opened, and with values that JSON does not have."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import pytest

from nodectl import Client
from nodectl.client.connection.http import encode_body
from nodestore.errors import Invalid
from tests.support.fakes.masterd import fake_cluster, node_view

Use = Callable[[Client], Awaitable[Any]]


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.command("x"), lambda client: client.get("/v1/nodes"), lambda client: client.nodes(),
        lambda client: client.change("POST", "/v1/snapshots", {}), lambda client: client.node_set("n1", {"a": 1}),
        lambda client: client.config(), lambda client: client.config_apply({}), lambda client: client.pause(),
        lambda client: client.paused(), lambda client: client.switchover(), lambda client: anext(client.journal(0)),
        lambda client: anext(client.live()), lambda client: anext(client.watch_nodes()),
    ],
)  # fmt: skip
async def test_before_it_is_opened(use: Use) -> None:
    """With etcd endpoints and with masters' URLs."""
    for client in (Client("http://127.0.0.1:1"), Client("127.0.0.1:1", cluster="c")):
        with pytest.raises(RuntimeError, match="the client is not open: use `async with"):
            await use(client)


class Kind(enum.Enum):
    FIRST = "first"


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": decimal.Decimal("1.5")}, r"a: Decimal\('1.5'\) is of type Decimal, which JSON does not have"),
        ({"a": [0, datetime.date(2026, 11, 30)]}, r"a\[1\]: datetime.date.* is of type date"),
        ({"a": {"b": datetime.datetime(2026, 11, 30)}}, r"a\.b: .* is of type datetime"),
        ({"a": b"x"}, "a: b'x' is of type bytes"),
        ({"a": {1, 2}}, "a: {1, 2} is of type set"),
        ({"a": {(1, 2): 3}}, "a: a key of type tuple is not text"),
        ({"a": float("nan")}, "infinite or NaN"),
        ({"a": "\ud800"}, "half of a surrogate pair"),
        ({"a": uuid.UUID(int=1)}, "a: UUID.* is of type UUID"),
        ({"a": Kind.FIRST}, "a: <Kind.FIRST: 'first'> is of type Kind"),
        ({"a": Point(1)}, "a: .*Point.* is of type Point"),
        ([[(1, Point(1))]], r"\[0\]\[0\]\[1\]: .*Point.* is of type Point"),
    ],
)
def test_values_that_json_does_not_have(value: Any, complaint: str) -> None:
    """They do not become text unseen: the place is named."""
    with pytest.raises(Invalid, match=complaint):
        encode_body(value)


@pytest.mark.parametrize(
    "value",
    [{"a": (1, [2])}, {1: 2, None: {"b": True}}, {"a": 1 << 80, "b": -0.0, "c": 1e16}, "ä\u2028\x00", 5, None],
)
def test_values_that_json_has(value: Any) -> None:
    """They are written as Python's `json` writes them, or as another notation of the same number."""
    assert json.loads(encode_body(value)) == json.loads(json.dumps(value))


def test_values_that_contain_themselves() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(Invalid, match="not representable as JSON"):
        encode_body(endless)


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.node_set("n1", None), lambda client: client.node_set("n1", [("a", 1)]),
        lambda client: client.node_put("n1", "text"), lambda client: client.node_act("x", ["a"], node="n1"),
        lambda client: client.scene_save("s", {"n1": None}), lambda client: client.command("x", [1]),
        lambda client: client.config_apply(None), lambda client: client.node_set("n1", {"at": datetime.date.today()}),
    ],
)  # fmt: skip
async def test_arguments_of_another_type(use: Use) -> None:
    """Nothing is sent."""
    async with fake_cluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Invalid):
            await use(client)
        assert cluster.executed == []


async def test_any_mapping_is_an_object() -> None:
    async with fake_cluster() as cluster, Client(cluster.urls) as client:
        cluster.nodes["n1"] = node_view("n1")
        await client.node_set("n1", MappingProxyType({"a": (1, 2)}))
        assert cluster.nodes["n1"]["document"] == {"a": [1, 2]}
